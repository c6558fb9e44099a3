"""Attribute matching of PS3.4 C.2.2.2 on values in memory."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any  # tag values may be of any type

from diana.utils.dicom.dictionary import vr_of

OFFSET = re.compile(r"\d{9,}(\.\d+)?-(0\d|1[0-4])[0-5]\d\Z")
COMPARISON = re.compile(r"(<=|>=|<|>)\s*(-?[0-9.]+(?:[eE][+-]?[0-9]+)?)\Z")


def is_blank(value: Any) -> bool:
    """Tell whether a value is absent or empty; zero is a value."""
    return value is None or value == "" or (isinstance(value, list | tuple | set) and not value)


def is_comparison(wanted: Any) -> bool:
    """Tell whether a wanted text is a numeric comparison such as ``>=2.5``."""
    return isinstance(wanted, str) and COMPARISON.match(wanted) is not None


def wire_text(wanted: Any) -> str:
    """Return a wanted value as DICOM text: dates as YYYYMMDD, several values joined by a backslash."""
    if wanted is None:
        return ""
    if isinstance(wanted, list | tuple | set | frozenset):
        return "\\".join(wire_text(one) for one in wanted)
    if isinstance(wanted, dt.datetime):
        return wanted.strftime("%Y%m%d%H%M%S")
    if isinstance(wanted, dt.date):
        return wanted.strftime("%Y%m%d")
    if isinstance(wanted, dt.time):
        return wanted.strftime("%H%M%S")
    return str(wanted)


def met(key: str, wanted: Any, value: Any) -> bool:
    """Tell whether a value meets what is wanted of the key; an empty want is met by anything."""
    if is_blank(wanted) or wanted == "*":
        return True
    if isinstance(wanted, str) and "\\" in wanted:
        wanted = wanted.split("\\")
    if isinstance(wanted, list | tuple | set | frozenset):
        return any(met(key, one, value) for one in wanted)
    return any(_one_met(key, wanted, one) for one in _values(value))


def _values(value: Any) -> Iterable[Any]:
    if is_blank(value):
        return ()
    if isinstance(value, list | tuple | set):
        return value
    if isinstance(value, str) and "\\" in value:
        return value.split("\\")
    return (value,)


def _one_met(key: str, wanted: Any, value: Any) -> bool:
    if is_comparison(wanted):
        return _compared(wanted, value)
    text, wish = wire_text(value).strip(" \0"), wire_text(wanted).strip(" ")
    kind = _kind(key)
    if kind in ("DA", "DT", "TM"):
        return _moment_met(kind, wish, text)
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        number = _number(value)
        return number is not None and number == wanted
    if kind == "PN":
        text, wish = text.casefold().rstrip("^"), wish.casefold().rstrip("^")
    if "*" in wish or "?" in wish:
        return _wild(wish, text)
    return text == wish


@lru_cache(maxsize=512)
def _kind(key: str) -> str:
    """Return the value representation of a keyword where matching depends on it, else an empty text."""
    if not key.endswith(("Date", "Time", "Name")):
        return ""
    return vr_of(key) or ("DA" if key.endswith("Date") else "")  # or an endpoint's own word


def _wild(wish: str, text: str) -> bool:
    """Match ``*`` and ``?`` by going back to the last star only, so that no pattern takes more than the product."""
    at = star = mark = 0
    inside, seen = 0, False
    while at < len(text):
        if inside < len(wish) and wish[inside] == "*":
            seen, star, mark = True, inside, at
            inside += 1
        elif inside < len(wish) and wish[inside] in ("?", text[at]):
            inside += 1
            at += 1
        elif seen:
            mark += 1
            at, inside = mark, star + 1
        else:
            return False
    return not wish[inside:].strip("*")


def _moment_met(kind: str, wish: str, text: str) -> bool:
    """Match dates, times and date-times: ranges, parts of a moment, and both notations (PS3.4 C.2.2.2.5)."""
    if kind == "DA" and not re.match(r"\d{4}-\d{2}-\d{2}\Z", wish) and "-" in wish:
        return _within(wish, _digits(text)[:8], 8)
    if kind == "DA" and "*" not in wish and "?" not in wish:
        return _digits(text)[:8] == _digits(wish)[:8]
    if kind == "TM" and "-" in wish:
        return _within(wish, _plain_time(text), 6)
    if kind == "DT" and "-" in wish and not OFFSET.search(wish):
        return _within(wish, _plain_time(text), 14)
    if "*" in wish or "?" in wish:
        return _wild(wish, text)
    if kind == "TM":
        return _filled(_plain_time(text), 6, "0") == _filled(_plain_time(wish), 6, "0")
    return text == wish or (bool(wish) and _plain_time(text).startswith(_plain_time(wish)))


def _within(wish: str, text: str, width: int) -> bool:
    """Tell whether a moment lies in ``A-B``, ``A-`` or ``-B``; a short end means its whole hour, day or year."""
    first, _, last = (_plain_time(part.strip()) for part in wish.partition("-"))
    if not text:
        return False
    moment = _filled(text, width, "0")
    return (not first or moment >= _filled(first, width, "0")) and (not last or moment <= _filled(last, width, "9"))


def _digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)


def _plain_time(text: str) -> str:
    """Return a moment without colons, dots between date parts (ACR-NEMA) and its zone."""
    return re.sub(r"[+-]\d{4}\Z", "", text.replace(":", ""))


def _filled(text: str, width: int, fill: str) -> str:
    """Return a moment with its whole seconds and six digits of a fraction filled up."""
    whole, _, fraction = text.partition(".")
    return whole.ljust(width, fill) + "." + fraction.ljust(6, fill)


def _number(value: Any) -> float | None:
    try:
        return float(str(value).strip(" \0"))
    except ValueError:
        return None


def _compared(wanted: str, value: Any) -> bool:
    found = COMPARISON.match(wanted)
    number, bound = _number(value), _number(found.group(2)) if found else None
    if found is None or number is None or bound is None:
        return False
    sign = found.group(1)
    if sign.startswith("<"):
        return number <= bound if sign == "<=" else number < bound
    return number >= bound if sign == ">=" else number > bound
