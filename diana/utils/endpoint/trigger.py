"""What to do about an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any  # actions take whatever their source tells

from attrs import define, field

from diana.ledger.rows import Delivery
from diana.utils.dicom.events import DicomEventType
from diana.utils.endpoint.observable import Event, Observable


@define(eq=False, slots=False)
class Trigger:
    """
    Say what to do about one type of event of one source.

    ``action`` is called with the event's data. It may run twice for the same event. ``name`` tells triggers apart in
    the journal, so it must stay the same over restarts. ``dest`` names the party that the action writes to; while it
    is down the trigger pauses. ``workers`` starts may run at once; with ``ordered`` one study's events are worked in
    turn (default: for studies and series).
    """

    evtype: DicomEventType
    source: Observable
    action: Callable[[Mapping[str, Any]], Any]
    name: str = field(default="", kw_only=True)
    dest: str = field(default="", kw_only=True)
    workers: int = field(default=4, kw_only=True)
    ordered: bool | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        self.name = self.name or f"{getattr(self.action, '__name__', 'action')}:{self.source.source_id}:{self.dest}"
        if self.ordered is None:
            self.ordered = self.evtype in (DicomEventType.STUDY_ADDED, DicomEventType.SERIES_ADDED)

    def handle(self, event: Event, delivery: Delivery) -> Any:
        """Work one event; ``delivery`` says which start this is. A ``Receipt`` is judged, anything else is success."""
        return self.action(event.data)

    @property
    def parties(self) -> tuple[str, ...]:
        """Return the names whose being down pauses this trigger."""
        return tuple(name for name in (self.source.source_id, self.dest, self.name) if name)
