"""Spans of time as keys of a C-FIND."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any, Final  # Any: tag values

from attrs import frozen

from diana.exceptions import ConfigError
from diana.utils.dicom import matching

DAY: Final = dt.timedelta(days=1)


@frozen
class Window:
    """
    Name a span by StudyDate and StudyTime, in the local time of the archive.

    The time is empty for whole days. PS3.4 C.2.2.2.5 matches the two keys separately, so a time never goes with
    several days.
    """

    date: str
    time: str = ""

    def keys(self) -> dict[str, str]:
        """Return the matching keys."""
        return {"StudyDate": self.date, "StudyTime": self.time}

    def holds(self, tags: Mapping[str, Any]) -> bool:
        """Tell whether an answer lies in the span; what it does not tell is taken to lie there."""
        return all(
            matching.is_blank(tags.get(key)) or matching.met(key, wanted, tags.get(key))
            for key, wanted in self.keys().items()
        )


def spans(start: dt.datetime, stop: dt.datetime) -> Iterator[Window]:
    """
    Yield the windows that cover a span, split at midnight: the first day's rest, whole days at once, the last day.

    Both ends belong to the span, in whole seconds; a window up to midnight has no upper end, so that fractions of
    the last second count.
    """
    first, last = start.date(), stop.date()
    if first == last:
        yield Window(_date(first), _times(start, stop))
        return
    midnight = dt.datetime.combine(first, dt.time())
    if start > midnight:
        yield Window(_date(first), f"{start:%H%M%S}-")
        first += DAY
    if first < last:
        until = last - DAY
        yield Window(_date(first) if first == until else f"{_date(first)}-{_date(until)}")
    yield Window(_date(last), _times(dt.datetime.combine(last, dt.time()), stop))


def _date(day: dt.date) -> str:
    return f"{day:%Y%m%d}"


def _times(start: dt.datetime, stop: dt.datetime) -> str:
    return f"{start:%H%M%S}-{stop:%H%M%S}"


def steps(start: dt.datetime, stop: dt.datetime, step: dt.timedelta) -> Iterator[list[Window]]:
    """
    Yield the windows of each step of a span, in order; neighbours share a second, so that nothing falls between.

    Raises ConfigError for a step that leads nowhere, or a span that runs backwards.
    """
    if step < dt.timedelta(seconds=1):
        raise ConfigError("a step is at least one second long")
    if start > stop:
        raise ConfigError("the span starts after its end")
    while True:
        end = min(start + step, stop)
        yield list(spans(start, end))
        if end >= stop:
            return
        start = end


def local_span(since: float, until: float) -> tuple[dt.datetime, dt.datetime]:
    """
    Return the local wall times that clocks have shown between two moments (seconds since 1970).

    When clocks were set back in between, the span covers what they showed before and after.
    """
    length = dt.timedelta(seconds=until - since)
    start, stop = dt.datetime.fromtimestamp(since), dt.datetime.fromtimestamp(until)
    return min(start, stop - length), max(stop, start + length)


def wall_time(moment: dt.datetime | str) -> dt.datetime:
    """Return a moment, or an ISO 8601 text, as local wall time. Raises ConfigError."""
    try:
        found = dt.datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        return found.astimezone().replace(tzinfo=None) if found.tzinfo else found
    except (TypeError, ValueError, AttributeError):
        raise ConfigError("a moment is a datetime or an ISO 8601 text") from None
