"""Write and read names, dates and times as DICOM does (PS3.5 6.2)."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, timezone

log = logging.getLogger(__name__)

_DA = re.compile(r"([0-9]{4})(?:([0-9]{2})([0-9]{2})|\.([0-9]{2})\.([0-9]{2}))")
_TM = re.compile(r"([0-9]{2})(?:(:?)([0-9]{2})(?:\2([0-9]{2})(?:\.([0-9]{0,12}))?)?)?")
_DT = re.compile(
    r"([0-9]{4})(?:([0-9]{2})(?:([0-9]{2})"
    r"(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:\.([0-9]{0,12}))?)?)?)?)?)?"
    r"([+-][0-9]{4})?"
)
_MAX_LENGTH = 64
_MIN_OFFSET, _MAX_OFFSET = timedelta(hours=-12), timedelta(hours=14)


def dicom_name(names: Sequence[str]) -> str:
    """Return name components joined by ``^`` in upper case; a plain string is one component."""
    return "^".join([names] if isinstance(names, str) else names).upper()


def dicom_date(dt: date) -> str:
    """Return ``YYYYMMDD``."""
    return f"{dt.year:04}{dt.month:02}{dt.day:02}"


def dicom_time(dt: date | time) -> str:
    """Return ``HHMMSS``; fractions of a second are cut, a date without time is midnight."""
    return dt.strftime("%H%M%S")


def dicom_datetime(dt: date) -> tuple[str, str]:
    """Return the date and the time of a moment as DICOM writes them."""
    return dicom_date(dt), dicom_time(dt)


def parse_dicom_datetime(d: str | date | None, t: str | time | None = None) -> datetime | None:
    """
    Return the moment of a DA value with an optional TM value, or of a DT value alone; None for anything else.

    All legal forms are read: shortened times and moments ("12", "1234", "201801"), which mean their first instant,
    fractions, the older ``YYYY.MM.DD`` and ``HH:MM:SS``, and second 60, which is the next minute's first. A DT value
    with an offset from UTC gives an aware datetime. ISO 8601 text is taken too. What cannot be read is logged, without
    the value, at DEBUG.
    """
    try:
        moment = _parse(d, t)
    except (ValueError, OverflowError):
        moment = None
    if moment is None and (d or t):
        log.debug("a date and time could not be read")
    return moment


def _parse(d: str | date | None, t: str | time | None) -> datetime | None:
    if isinstance(d, datetime):
        return d
    clock = _parse_time(t)
    if isinstance(d, date):
        return None if clock is None else datetime.combine(d, time()) + clock
    if not isinstance(d, str) or len(d) > _MAX_LENGTH:
        return None
    text = d.strip(" \0")
    match = _DA.fullmatch(text)
    if match:
        year, month, day = int(match[1]), int(match[2] or match[4]), int(match[3] or match[5])
        return None if clock is None else datetime(year, month, day) + clock
    if isinstance(t, time) or (t and t.strip(" \0")):
        return None
    match = _DT.fullmatch(text)
    return _parse_dt(match) if match else _parse_iso(text)


def _parse_time(t: str | time | None) -> timedelta | None:
    """Return the time since midnight, zero for a blank time, None for what is no time."""
    if isinstance(t, time):
        return timedelta(hours=t.hour, minutes=t.minute, seconds=t.second, microseconds=t.microsecond)
    text = (t or "").strip(" \0")
    if not text:
        return timedelta()
    match = _TM.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    return _clock(match[1], match[3], match[4], match[5]) if match else None


def _clock(hours: str | None, minutes: str | None, seconds: str | None, fraction: str | None) -> timedelta | None:
    h, m, s = int(hours or 0), int(minutes or 0), int(seconds or 0)
    if h > 23 or m > 59 or s > 60:
        return None
    return timedelta(hours=h, minutes=m, seconds=s, microseconds=int((fraction or "")[:6].ljust(6, "0")))


def _parse_dt(match: re.Match[str]) -> datetime | None:
    clock = _clock(match[4], match[5], match[6], match[7])
    zone = _zone(match[8])
    if clock is None or (match[8] and zone is None):
        return None
    return datetime(int(match[1]), int(match[2] or 1), int(match[3] or 1), tzinfo=zone) + clock


def _zone(offset: str | None) -> timezone | None:
    """Return the zone of ``+HHMM`` or ``-HHMM``, None outside -1200 to +1400 (PS3.5 6.2, DT)."""
    if not offset or int(offset[3:]) > 59:
        return None
    delta = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
    if offset[0] == "-":
        delta = -delta
    return timezone(delta) if _MIN_OFFSET <= delta <= _MAX_OFFSET else None


def _parse_iso(text: str) -> datetime | None:
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return None
    return datetime.fromisoformat(text)
