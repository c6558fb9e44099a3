"""Shift dates by days in the raw values of DA and DT; times stay (PS3.15 E.3.6)."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Final

PADDING: Final = b" \0"
_DATE: Final = re.compile(rb"(\d{4})([.\-/]?)(\d{2})\2(\d{2})\Z")
_DATETIME: Final = re.compile(rb"(\d{4})(\d{2})?(\d{2})?((?:\d{2}){0,3}(?:\.\d{1,6})?)([+-]\d{4})?\Z")
_TIME: Final = re.compile(rb"\d{2}(:?)(?:\d{2}(?:\1\d{2}(?:\.\d{1,6})?)?)?\Z")
_AGE: Final = re.compile(rb"(\d{3})([DWMY])\Z")
DAYS_OF: Final = {b"D": 1.0, b"W": 7.0, b"M": 30.4375, b"Y": 365.25}


def shift_date(value: bytes, days: int) -> bytes | None:
    """
    Return the dates of a DA value moved by days, written as YYYYMMDD; None when one is no date.

    Several values and empty ones are kept apart; the old spellings 2003.01.09 and 2003-01-09 are read.
    """
    return _each(value, lambda part: _shifted_date(part, days))


def shift_datetime(value: bytes, days: int) -> bytes | None:
    """
    Return the DT values with their dates moved by days, as precise as they were; None when one is no date and time.

    A year alone moves as its middle, a month as its fifteenth.
    """
    return _each(value, lambda part: _shifted_datetime(part, days))


def is_time(value: bytes) -> bool:
    """Tell whether a TM value holds only times, with or without colons, or nothing."""
    return all(not part or _TIME.match(part) for part in _parts(value))


def is_age(value: bytes) -> bool:
    """Tell whether an AS value holds only ages, or nothing."""
    return all(not part or _AGE.match(part) for part in _parts(value))


def cap_age(value: bytes, years: int) -> bytes:
    """Return the ages with those above the limit replaced by it; with a limit of 0 all stay."""
    if not years:
        return value
    limit = b"%03dY" % years
    return b"\\".join(limit if _years(part) > years else part for part in _parts(value))


def year_of(value: bytes) -> bytes | None:
    """Return the first of January of the year of a DA value; None when it is no date."""
    moved = shift_date(value, 0)
    return moved[:4] + b"0101" if moved else None


def _years(part: bytes) -> float:
    found = _AGE.match(part)
    return int(found[1]) * DAYS_OF[found[2]] / DAYS_OF[b"Y"] if found else 0.0


def _parts(value: bytes) -> list[bytes]:
    return [part.strip(PADDING) for part in value.split(b"\\")]


def _each(value: bytes, move: Callable[[bytes], bytes | None]) -> bytes | None:
    moved = []
    for part in _parts(value):
        one = move(part) if part else b""
        if one is None:
            return None
        moved.append(one)
    return b"\\".join(moved)


def _shifted_date(part: bytes, days: int) -> bytes | None:
    found = _DATE.match(part)
    return _moved(int(found[1]), int(found[3]), int(found[4]), days) if found else None


def _shifted_datetime(part: bytes, days: int) -> bytes | None:
    found = _DATETIME.match(part)
    if not found:
        return _shifted_date(part, days)
    year, month, day, time, zone = found.groups()
    if time and not day:
        return None
    moved = _moved(int(year), int(month or b"07"), int(day or (b"15" if month else b"01")), days)
    if moved is None:
        return None
    kept = 4 if not month else 6 if not day else 8
    return moved[:kept] + time + (zone or b"")


def _moved(year: int, month: int, day: int, days: int) -> bytes | None:
    try:
        moved = dt.date(year, month, day) + dt.timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return b"%04d%02d%02d" % (moved.year, moved.month, moved.day)
