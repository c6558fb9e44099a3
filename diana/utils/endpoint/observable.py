"""What happened, and who can tell."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar  # Any: event data is the source's own JSON

from attrs import field, frozen

from diana.utils.dicom.events import DicomEventType
from diana.utils.dicom.ref import Ref


@frozen
class Event:
    """
    Say that something appeared at a source.

    ``key`` is unique within the source and the same when the same thing is announced again; ``data`` is JSON (an
    Orthanc event has ``oid``, a file event ``fn``). ``study`` orders the work: events of one study are handled in
    turn.
    """

    evtype: DicomEventType
    data: Mapping[str, Any] = field(repr=False)
    key: str = field(default="", repr=False)
    source_id: str = ""
    study: str = field(default="", repr=False)
    timestamp: float = field(factory=time.time)

    @property
    def ref(self) -> Ref:
        """Return the address of what appeared, as far as the event tells."""
        data = self.data
        return Ref(
            self.evtype.level,
            study=str(data.get("StudyInstanceUID") or ""),
            series=str(data.get("SeriesInstanceUID") or ""),
            instance=str(data.get("SOPInstanceUID") or ""),
            patient=data.get("PatientID"),
            id=str(data.get("oid") or data.get("fn") or ""),
        )


Seen = Callable[[Sequence[str]], set[str]]


@frozen
class Page:
    """
    Hold the events found by one look, and where the source stands after them.

    ``cursor`` is JSON that the source gets back at the next start; it is saved in the same transaction as the events.
    ``more`` asks for the next look at once.
    """

    events: Sequence[Event]
    cursor: Any = None
    more: bool = False


class Observable(ABC):
    """
    Tell what is new at a source; owns no thread but what ``listen`` starts.

    The Watcher calls ``resume`` once, then ``changes`` again and again, stores each page, and calls ``ack`` when the
    page is durable. After a crash between the two, ``changes`` may tell the same events again; the journal knows them
    by their key.
    """

    shortest_pause: ClassVar[float | None] = None
    """Seconds between looks while things happen; the pause then grows with the quiet, up to ``polling_interval``."""

    polling_interval: float
    name: str

    @property
    def source_id(self) -> str:
        """Return the text by which the journal knows this source, the same after a restart."""
        return f"{type(self).__name__}:{self.name}"

    @abstractmethod
    def resume(self, cursor: Any, seen: Seen) -> None:
        """
        Go on from a saved cursor (None at the first start).

        ``seen`` tells which of some event keys the journal already holds. Raises StateError when the cursor is not
        one of this source.
        """

    @abstractmethod
    def changes(self) -> Page:
        """Return what is new since the last acknowledged page. Raises GatewayError when the source cannot be asked."""

    def ack(self, page: Page) -> None:
        """Take note that the page's events and cursor are durable."""

    def done(self, event: Event) -> None:
        """Take note that every action on an event has ended well; a spool may remove its file now. May come twice."""

    def still_there(self, event: Event) -> bool:
        """Tell whether what an event announced is still as it was; False ends the event without work."""
        return True

    def listen(self, wake: Callable[[], None]) -> None:
        """Start notifications, if the source has any: ``wake`` is called when something may have changed."""

    def unlisten(self) -> None:
        """Stop notifications and every thread that ``listen`` started; twice does no harm."""
