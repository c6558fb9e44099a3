#!/usr/bin/env python3
"""
Write docs/reference.md from the docstrings: commands, endpoints, steps, handlers, errors.

With ``--check`` nothing is written, and the exit code is 1 when the file is not in step.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "reference.md"
HEAD = """\
# Reference

Written by `python tools/reference.py` from the docstrings; do not edit. `help()` in Python tells more.
"""


def text() -> str:
    """Return the page."""
    parts = (commands(), endpoints(), words(), errors())
    return HEAD + "".join("\n" + line for part in parts for line in part)


def commands() -> Iterator[str]:
    """Yield a section on the program."""
    from importlib import import_module

    import click

    from diana_cli.cli import COMMANDS, cli

    yield "## Commands\n\n`diana-cli [GLOBAL OPTIONS] COMMAND [OPTIONS] ...`\n"
    yield f"Global: {_options(cli)}.\n"
    for name in sorted(COMMANDS):
        command: click.Command = import_module(f"diana_cli.commands.{name}").command
        yield f"### {name}\n"
        if isinstance(command, click.Group):
            for below, inner in sorted(command.commands.items()):
                yield f"`{name} {below} {_arguments(inner)}`: {_first(inner.help)}\n"
            continue
        yield f"`{' '.join([name, _arguments(command)]).strip()}`: {_paragraphs(command.help)}\n"
        if options := _options(command):
            yield f"Options: {options}.\n"


def _arguments(command: Any) -> str:
    shown = (one.metavar or str(one.name).upper() for one in command.params if one.param_type_name == "argument")
    return " ".join(shown)


def _options(command: Any) -> str:
    found = []
    for one in command.params:
        if one.param_type_name == "option" and one.name != "help":
            what = (one.help or "").split(". ")[0].rstrip(".")
            found.append(f"`{', '.join(one.opts)}`" + (f" ({what})" if what else ""))
    return "; ".join(found)


def endpoints() -> Iterator[str]:
    """Yield a section on the classes that ``ctype`` may name."""
    import diana.apis

    yield "## Endpoints\n\nThe `ctype` of a service, with the keys it takes.\n"
    for name in diana.apis.CTYPES:
        cls = getattr(diana.apis, name)
        yield f"### {name}\n"
        yield f"{_plain(cls.__doc__)}\n"
        yield f"Keys: {', '.join(_keys(cls))}.\n"


def _keys(cls: Any) -> Iterator[str]:
    import attrs

    for one in attrs.fields(cls):
        if not one.init or one.name in ("name", "ctype"):
            continue
        default = one.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            yield f"`{one.alias}`"
        elif default is attrs.NOTHING:
            yield f"`{one.alias}` (needed)"
        else:
            shown = "..." if one.metadata.get("secret") else f"{default}"
            yield f"`{one.alias}` = `{shown}`" if shown else f"`{one.alias}`"


def words() -> Iterator[str]:
    """Yield sections on the words of a watch file."""
    from diana.daemons import steps, watch
    from diana.daemons.routes import HANDLERS

    yield "## Watch files\n"
    yield f"{_plain(watch.load_config.__doc__)}\n"
    yield "Events: `file`, `instance`, `series`, `study`.\n"
    yield f"Steps: {_listed(steps.STEPS)}.\n"
    yield f"Handlers: {_listed(HANDLERS)}.\n"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{one}`" for one in sorted(names))


def errors() -> Iterator[str]:
    """Yield a section on the error tree."""
    from diana import exceptions

    yield "## Errors\n\nAll in `diana.exceptions`; `.temporary` tells whether the same call may succeed later.\n"
    for name, cls in vars(exceptions).items():
        if inspect.isclass(cls) and issubclass(cls, exceptions.DianaError):
            above = cls.__bases__[0].__name__
            yield f"- `{name}` ({above}{', temporary' if cls.temporary else ''}): {_first(cls.__doc__)}"


def _plain(doc: str | None) -> str:
    """Return a docstring as Markdown."""
    return re.sub(r"``([^`]+)``", r"`\1`", inspect.cleandoc(doc or ""))


def _paragraphs(doc: str | None) -> str:
    return " ".join(_plain((doc or "").replace("\b", "")).split())


def _first(doc: str | None) -> str:
    return " ".join(_plain(doc).split("\n\n")[0].split())


def main(arguments: list[str]) -> int:
    """Run the script."""
    wanted = text()
    if arguments == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != wanted:
            print("docs/reference.md is not in step; run: python tools/reference.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(REPO))
    sys.exit(main(sys.argv[1:]))
