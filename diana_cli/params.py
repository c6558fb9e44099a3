"""The kinds of values that options take."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any  # YAML holds anything

import click

from diana.exceptions import ConfigError, InvalidItem
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.views import DixelView

MAX_TEXT = 16 << 20


class Whole(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """Take a text as it is; an environment variable holds one, spaces and all."""

    name = "text"

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Return the variable's value as the only one."""
        return [rv] if rv else []


class _Twice(Exception):
    """Say which key of a JSON object is given twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(repr(next(key for key in keys if keys.count(key) > 1)))
    return found


class Data(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """Take JSON, YAML, or ``@file`` with one of them; ``kind`` is the type that must come out."""

    name = "json|yaml|@file"

    def __init__(self, kind: type[Any] | tuple[type[Any], ...], label: str) -> None:
        self.kind = kind
        self.label = label

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the data."""
        if not isinstance(value, str):
            return value
        text = self._read(value[1:], param, ctx) if value.startswith("@") else value
        found = self._parse(text, param, ctx)
        if not isinstance(found, self.kind):
            self.fail(f"takes {self.label}, as JSON or YAML", param, ctx)
        return found

    def _read(self, name: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return read_text(name, lambda why: self.fail(why, param, ctx))

    def _parse(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return json.loads(text, object_pairs_hook=_once)
        except _Twice as error:
            self.fail(f"the key {error} is given twice", param, ctx)
        except (ValueError, RecursionError):
            pass
        from diana.utils.endpoint.documents import parse_document

        try:
            # below a key, so that lists and single words are read by the same strict reader as files
            return parse_document("value:\n" + indent(text, "  "))["value"]
        except (ConfigError, KeyError):
            self.fail("is neither JSON nor YAML", param, ctx)


def read_text(name: str, fail: Any) -> str:
    """Return the text of a file of reasonable size, or call ``fail`` with the reason."""
    try:
        with Path(name).open("rb") as stream:
            data = stream.read(MAX_TEXT + 1)
        if len(data) > MAX_TEXT:
            fail("the file is too large")
        return data.decode("utf-8")
    except OSError as error:
        fail(f"the file cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        fail("the file is not UTF-8 text")
    return ""


class Lines(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """Take one value, or ``@file`` with one value per line; gives a list."""

    name = "value|@file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the values, without blank lines and line ends."""
        if isinstance(value, list):
            return value
        if not str(value).startswith("@"):
            return [str(value).strip()]
        text = read_text(str(value)[1:], lambda why: self.fail(why, param, ctx))
        return [line.strip() for line in text.lstrip("\ufeff").splitlines() if line.strip()]

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Return the variable's value as the only one."""
        return [rv] if rv else []


class Level(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """Take a DICOM level in any common spelling."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> DicomLevel:
        """Return the level."""
        try:
            return DicomLevel.from_label(value)
        except InvalidItem as error:
            self.fail(str(error), param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return what the help shows."""
        return "[patients|studies|series|instances]"


class View(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """Take the parts of a dixel, joined by ``|`` or a comma."""

    name = "view"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> DixelView:
        """Return the view."""
        try:
            return DixelView.from_label(value)
        except InvalidItem as error:
            self.fail(str(error), param, ctx)


WHOLE = Whole()
MAPPING = Data(Mapping, "a mapping")
LIST = Data(list, "a list")
ANY_DATA = Data(object, "a value")
LINES = Lines()
LEVEL = Level()
VIEW = View()


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def level_option(default: DicomLevel | None = DicomLevel.STUDIES) -> Decorator:
    """Return the option ``--level``."""
    text = "How deep." if default is not None else "Level of plain ids; lines of `find` say their own."
    return click.option("-l", "--level", type=LEVEL, default=default and str(default), show_default=True, help=text)


items_argument: Decorator = click.argument("items", nargs=-1, metavar="[ITEMS...|-]")
