"""Configuration documents: strict YAML with bounds, and variables from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any  # documents hold any JSON value

from diana.exceptions import ConfigError

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 50_000

_VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}|(\{))")

Place = tuple[str, ...]


class Document(dict[str, Any]):
    """A checked YAML mapping that remembers where it came from and the line of each key, by the path of keys to it."""

    origin: str = ""
    lines: Mapping[Place, int]

    def __init__(self, values: Mapping[str, Any] | None = None, origin: str = "") -> None:
        super().__init__(values or {})
        self.origin = origin
        self.lines = {}


def load_document(path: str | os.PathLike[str]) -> Document:
    """
    Return the mapping in a YAML file, checked, with variables not yet substituted.

    Only plain values are read: YAML 1.2 booleans, decimal numbers, null; everything else is text ("yes", "0123" and
    dates too). Tags, aliases, merge keys, keys given twice, several documents and files over 1 MiB or 32 levels are
    refused. Raises ConfigError naming file and line.
    """
    return parse_document(read_text(path), str(path))


def read_text(path: str | os.PathLike[str]) -> str:
    """Return a configuration file as text, at most 1 MiB. Raises ConfigError."""
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None


def parse_document(text: str, origin: str = "text") -> Document:
    """Return the mapping in a YAML text; see ``load_document``."""
    import yaml

    if len(text) > MAX_BYTES:
        raise ConfigError(f"{origin}: larger than {MAX_BYTES} characters")
    loader = _loader()
    try:
        problems = _events_problems(yaml.parse(text, Loader=loader))
        if problems:
            raise ConfigError([f"{origin}: {one}" for one in problems])
        node = yaml.compose(text, Loader=loader)
        document = Document(origin=origin)
        if node is None:
            return document
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{origin}: the document is not a mapping")
        document.lines = _lines(node, origin)
        document.update(yaml.load(text, Loader=loader) or {})  # noqa: S506  # a SafeLoader with fewer types
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise ConfigError(f"{origin}: {line}not valid YAML: {_told(error.problem)}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{origin}: not valid YAML ({type(error).__name__})") from None
    return document


def substitute(value: Any, environ: Mapping[str, str] | None = None) -> Any:
    """
    Return a value with ``${VAR}`` and ``${VAR:-default}`` filled in inside all its texts; ``$$`` is a dollar sign.

    A default counts when the variable is not set or empty. What is filled in stays text. Raises ConfigError naming all
    variables that are not set.
    """
    problems: list[str] = []
    found = substituted(value, environ, "", problems)
    if problems:
        raise ConfigError(problems)
    return found


def substituted(value: Any, environ: Mapping[str, str] | None, where: str, problems: list[str]) -> Any:
    """Return what ``substitute`` returns, and add its problems, each after ``where``, to a list."""
    environ = os.environ if environ is None else environ
    if isinstance(value, str):
        return _filled(value, environ, where, problems)
    if isinstance(value, Mapping):
        return {key: substituted(one, environ, where, problems) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [substituted(one, environ, where, problems) for one in value]
    return value


def _filled(text: str, environ: Mapping[str, str], where: str, problems: list[str]) -> str:
    def fill(match: re.Match[str]) -> str:
        dollar, name, default, stray = match.groups()
        if dollar:
            return "$"
        if stray:
            problems.append(f"{where}a variable is written ${{NAME}} or ${{NAME:-default}}, a dollar sign $$")
            return ""
        found = environ.get(name, "") or default
        if found is None:
            found = environ.get(name)
        if found is None:
            problems.append(f"{where}the variable {name} is not set and has no default")
            return ""
        return str(found)

    return _VARIABLE.sub(fill, text)


@lru_cache(maxsize=1)
def _loader() -> type[yaml.SafeLoader]:
    """Return a SafeLoader that knows null, true, false, decimal integers and floats, and texts."""
    import yaml

    class PlainLoader(yaml.SafeLoader):
        """Read what YAML 1.2 calls the core schema, less its octal and hexadecimal numbers."""

        yaml_implicit_resolvers: dict[str, list[Any]] = {}

    plain = {
        "null": (r"(?:~|null|)\Z", ["~", "n", ""]),
        "bool": (r"(?:true|false|True|False|TRUE|FALSE)\Z", list("tfTF")),
        "int": (r"[-+]?(?:0|[1-9][0-9]{0,17})\Z", list("-+0123456789")),
        "float": (r"[-+]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?\Z", list("-+0123456789")),
    }
    for name, (pattern, first) in plain.items():
        PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(pattern), first)
    return PlainLoader


def _events_problems(events: Iterator[yaml.Event]) -> list[str]:
    """Return what is not allowed, each with its line; looks at most at MAX_NODES nodes."""
    import yaml

    problems: list[str] = []
    depth = nodes = documents = 0
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark is not None else 0
        if isinstance(event, yaml.AliasEvent):
            problems.append(f"line {line}: aliases are not allowed, write the value out")
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            if getattr(event, "tag", None) not in (None, "!"):
                problems.append(f"line {line}: tags are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or nodes > MAX_NODES or documents > 1 or len(problems) > 20:
            limit = "several documents" if documents > 1 else "nested too deeply" if depth > MAX_DEPTH else "too long"
            return [*problems, f"line {line}: {limit}"]
    return problems


def _lines(node: yaml.MappingNode, origin: str) -> dict[Place, int]:
    """Return the line of each key. Raises ConfigError for keys that are given twice or are no texts."""
    import yaml

    lines: dict[Place, int] = {}
    problems = []
    waiting: list[tuple[Place, yaml.Node]] = [((), node)]
    while waiting:
        place, found = waiting.pop()
        if isinstance(found, yaml.SequenceNode):
            waiting += [((*place, str(at)), one) for at, one in enumerate(found.value)]
        if not isinstance(found, yaml.MappingNode):
            continue
        for key, value in found.value:
            line = key.start_mark.line + 1
            below = (*place, str(key.value))
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                problems.append(f"{origin}: line {line}: a key is a text")
            elif below in lines:
                problems.append(f"{origin}: line {line}: the key {key.value!r} is there twice")
            else:
                lines[below] = line
                waiting.append((below, value))
    if problems:
        raise ConfigError(problems)
    return lines


def _told(problem: str | None) -> str:
    """Return what the parser says, cut: it may quote what it met."""
    return (problem or "").split(", but found", 1)[0][:80]


def unknown_keys(mapping: Mapping[Any, Any], known: Iterable[str]) -> list[str]:
    """Return a problem for each key that is not known, with the nearest one that is."""
    words = tuple(known)
    return [f"unknown key {str(key)[:40]!r}{near(key, words)}" for key in mapping if key not in words]


def near(word: object, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown word: the one that was meant, or those there are."""
    found = get_close_matches(str(word).lower(), list(known), 1, 0.6)
    return f", did you mean {found[0]!r}?" if found else f"; known are {', '.join(known)}"
