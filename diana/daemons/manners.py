"""Manners towards an archive: when it may be asked, and how much of it at once."""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from attrs import define, field, frozen

from diana.exceptions import ConfigError

GROW_AFTER: Final = 8
_HOURS: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)")


@frozen
class Hours:
    """Hold the times of day, local, in which work may start: ``22:00-06:00``, several joined by commas; empty: any."""

    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Return the hours that a text names. Raises ConfigError."""
        spans = []
        for part in filter(None, (one.strip() for one in text.split(","))):
            match = _HOURS.fullmatch(part)
            if match is None:
                raise ConfigError("hours are written like 22:00-06:00")
            a, b, c, d = map(int, match.groups())
            spans.append((a * 60 + b, c * 60 + d))
        return cls(tuple(spans))

    def wait(self, now: dt.datetime) -> float:
        """Return in how many seconds work may start, 0 for now."""
        if not self.spans:
            return 0.0
        minute = now.hour * 60 + now.minute + now.second / 60
        waits = []
        for start, end in self.spans:
            inside = start <= minute < end if start < end else minute >= start or minute < end
            if inside or start == end:
                return 0.0
            waits.append(((start - minute) % 1440) * 60)
        return min(waits)


@define(eq=False)
class Budget:
    """
    Let at most ``most`` pieces of work at one archive run at once, fewer while it refuses.

    A refusal halves the room, never below one; after eight successes in a row it grows by one. ``pause`` is how long a
    piece waits for room before it asks again whether it should go on, in seconds.
    """

    most: int = 2
    pause: float = 0.2
    room: int = field(init=False)
    _busy: int = field(init=False, default=0)
    _good: int = field(init=False, default=0)
    _changed: threading.Condition = field(init=False, factory=threading.Condition, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.most < 1:
            raise ConfigError("a budget is at least one")
        self.room = self.most

    @contextmanager
    def slot(self, go_on: Callable[[], bool], take: Callable[[int], bool] | None = None) -> Iterator[bool]:
        """
        Wait for room; give False when ``go_on`` said so first.

        ``take`` is asked for one of so many places that other processes share.
        """
        with self._changed:
            while not (may_go := self._busy < self.room and (take is None or take(self.room))) and go_on():
                self._changed.wait(self.pause)
            self._busy += may_go
        try:
            yield may_go
        finally:
            if may_go:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def refused(self) -> None:
        """Note that the archive refused or was not there."""
        with self._changed:
            self._good = 0
            self.room = max(1, min(self.room, max(self._busy, 1)) // 2)

    def succeeded(self) -> None:
        """Note a success."""
        with self._changed:
            self._good += 1
            if self._good >= GROW_AFTER and self.room < self.most:
                self.room, self._good = self.room + 1, 0
                self._changed.notify_all()
