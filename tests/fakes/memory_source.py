"""A source in memory that announces what a test puts into it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from attrs import define, field

from diana.apis import Memory
from diana.dixel import Dixel
from diana.utils.dicom import DicomEventType
from diana.utils.endpoint import Event, Observable, Page


@define(eq=False)
class ObservableMemory(Memory, Observable):
    """A Memory whose puts are events; ``trouble`` is raised by the next looks."""

    shortest_pause = 0.01

    name: str = field(default="ObservableMemory", kw_only=True)
    polling_interval: float = 0.05
    told: list[Event] = field(init=False, factory=list)
    trouble: list[Exception] = field(init=False, factory=list)
    looks: int = field(init=False, default=0)
    finished: list[str] = field(init=False, factory=list)
    _at: int = field(init=False, default=0)
    _wake: Callable[[], None] | None = field(init=False, default=None)
    _events_lock: Any = field(init=False, factory=threading.Lock, repr=False)

    def _put(self, dixel: Dixel) -> str:
        oid = super()._put(dixel)
        self.announce(DicomEventType.INSTANCE_ADDED, oid, dixel.tags["StudyInstanceUID"])
        return oid

    def announce(self, evtype: DicomEventType, oid: str, study: str = "") -> None:
        """Tell an event."""
        with self._events_lock:
            key = f"{int(evtype)}-{len(self.told)}"
            self.told.append(Event(evtype, {"oid": oid}, key=key, source_id=self.source_id, study=study))

    def resume(self, cursor: Any, seen: Any) -> None:
        self._at = cursor or 0

    def changes(self) -> Page:
        self.looks += 1
        if self.trouble:
            raise self.trouble.pop(0)
        with self._events_lock:
            events = self.told[self._at : self._at + 100]
        return Page(events, self._at + len(events) if events else None, more=len(events) == 100)

    def ack(self, page: Page) -> None:
        if page.cursor is not None:
            self._at = page.cursor
