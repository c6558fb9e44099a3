"""Check and convert values from files against the arguments of an attrs class."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any  # values of files and arguments may be of any type

import attrs

from diana.exceptions import DianaError

WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text, in quotes"}


class _Unfit(Exception):
    """Say that a value is not of the type that is wanted."""


def field_problems(cls: type[Any], given: Mapping[str, Any], also: Iterable[str] = ()) -> list[tuple[str, str]]:
    """
    Return (key, problem) for each unknown key, unfit value and missing argument; values are never told.

    ``also`` are keys that are there, with problems of their own.
    """
    known = _arguments(cls)
    problems = []
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, 1)
            problems.append((key, f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")))
            continue
        try:
            value = _fit(known[key], given[key])
            problem = _converter_problem(known[key], value)
        except _Unfit:
            problem = f"needs {WANTED[_kind(known[key])]}"
        if problem:
            problems.append((key, f"key {key!r}: {problem}"))
    for key, one in known.items():
        if one.default is attrs.NOTHING and key not in given and key not in also:
            problems.append(("", f"needs the key {key!r}"))
    return problems


def fitted(cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with texts converted to the types of the arguments; what does not fit stays as it is."""
    known = _arguments(cls)
    found = {}
    for key, value in given.items():
        try:
            found[key] = _fit(known[key], value) if key in known else value
        except _Unfit:
            found[key] = value
    return found


def _arguments(cls: type[Any]) -> dict[str, attrs.Attribute[Any]]:
    return {one.alias or one.name: one for one in attrs.fields(cls) if one.init}


def _kind(one: attrs.Attribute[Any]) -> str:
    """Return the name of an argument's type without ``None``."""
    text = one.type if isinstance(one.type, str) else getattr(one.type, "__name__", str(one.type))
    return re.sub(r"\s*\|\s*None$|^None\s*\|\s*|^Optional\[(.*)\]$", r"\1", text or "")


def _fit(one: attrs.Attribute[Any], value: Any) -> Any:
    """Return a value in the type of an argument: int, float, bool and str; other types take it as it is."""
    kind = _kind(one)
    convert = CONVERTERS.get(kind)
    if convert is None:
        return value
    if value is None:
        if "None" in str(one.type) or one.default is None:
            return None
        raise _Unfit
    return convert(value)


def _converter_problem(one: attrs.Attribute[Any], value: Any) -> str:
    """Return why the class's own converter refuses a value, empty when it takes it."""
    convert = one.converter
    if convert is None or isinstance(convert, attrs.Converter):
        return ""
    try:
        convert(value)
    except DianaError as error:
        return "is not valid" if one.metadata.get("secret") else str(error)
    except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError):
        return "is not valid"
    return ""


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.match(r"\s*[-+]?[0-9]{1,18}\s*\Z", value):
        return int(value)
    raise _Unfit


def _real(value: Any) -> float:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            found = float(value)
            if math.isfinite(found):
                return found
    except (ValueError, OverflowError):
        pass
    raise _Unfit


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return WORDS[value.strip().lower()]
    raise _Unfit


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _Unfit


CONVERTERS: Mapping[str, Callable[[Any], Any]] = {"int": _whole, "float": _real, "bool": _truth, "str": _text}
