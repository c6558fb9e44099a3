"""Attribute matching of PS3.4 C.2.2.2 on values in memory."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any  # tag values may be of any type

DATE_KEYS = ("Date", "Time")
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
    if key.endswith(DATE_KEYS) and _is_range(wish):
        return _in_range(key, wish, text)
    if key.endswith("Date"):
        return _digits(text)[:8] == _digits(wish)[:8]
    if key.endswith("Time") and "*" not in wish:
        return _whole_time(text) == _whole_time(wish)
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        number = _number(value)
        return number is not None and number == wanted
    if key.endswith("Name"):
        text, wish = text.casefold().rstrip("^"), wish.casefold().rstrip("^")
    if "*" in wish or "?" in wish:
        return _pattern(wish).match(text) is not None
    return text == wish


@lru_cache(maxsize=256)
def _pattern(wish: str) -> re.Pattern[str]:
    """Compile a wildcard text; runs of stars are one, so that no pattern takes more than polynomial time."""
    parts = re.split(r"(\*+|\?)", wish)
    body = "".join(".*?" if part.startswith("*") else "." if part == "?" else re.escape(part) for part in parts)
    return re.compile(body + r"\Z", re.DOTALL)


def _is_range(wish: str) -> bool:
    return "-" in wish and not re.match(r"\d{4}-\d{2}-\d{2}\Z", wish)


def _digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)


def _whole_time(text: str) -> str:
    whole, _, fraction = text.replace(":", "").partition(".")
    return whole.ljust(6, "0") + "." + fraction.ljust(6, "0")


def _in_range(key: str, wish: str, text: str) -> bool:
    first, _, last = (part.strip() for part in wish.partition("-"))
    if key.endswith("Date") and not key.endswith("DateTime"):
        first, last, text = _digits(first), _digits(last), _digits(text)[:8]
        return bool(text) and (not first or text >= first) and (not last or text <= last)
    plain = text.replace(":", "")
    low, high = first.replace(":", ""), last.replace(":", "")
    return bool(plain) and (not low or plain >= low) and (not high or plain[: len(high)] <= high)


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
