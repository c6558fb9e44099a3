"""Events, deliveries and results as plain values."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any  # event data is JSON

from attrs import field, frozen

from diana.exceptions import StateError
from diana.ledger.receipts import Receipt
from diana.ledger.schema import deliveries, events, storable


@frozen
class EventRow:
    """Hold an event as plain values."""

    source: str
    key: str = field(repr=False, converter=storable)
    evtype: int
    data: Mapping[str, Any] = field(repr=False)
    study: str = field(default="", repr=False, converter=storable)
    at: float = field(factory=time.time)
    id: int = 0


@frozen
class Delivery:
    """
    Hold one thing to do: an event and the trigger that wants it.

    ``attempt`` counts this start; ``alone`` asks that nothing else runs beside it, because the process has died twice
    with it in hand.
    """

    id: int
    trigger: str
    event: EventRow
    attempt: int
    alone: bool = False
    receipt: str = ""


@frozen
class Result:
    """
    Say how a start of a delivery ended.

    ``state`` is done, dead or waiting (then ``due`` is the Unix time of the next start, and ``spent`` says whether the
    start counts as an attempt).
    """

    delivery: int
    state: str
    note: str = ""
    due: float = 0.0
    spent: bool = True
    receipt: Receipt | None = None


@frozen
class Turn:
    """Hold what a turn of the journal started, and the Unix time at which the next waiting delivery was due."""

    started: list[Delivery]
    next_due: float | None


EVENT_COLUMNS = (
    events.c.source,
    events.c.key,
    events.c.evtype,
    events.c.data,
    events.c.study,
    events.c.at,
    events.c.id,
)
DELIVERY_COLUMNS = (
    deliveries.c.id,
    deliveries.c.trigger,
    deliveries.c.attempts,
    deliveries.c.crashes,
    deliveries.c.receipt,
)


def event_of(row: Sequence[Any]) -> EventRow:
    """Return the event in a row of ``EVENT_COLUMNS``. Raises StateError when its data are not JSON."""
    source, key, evtype, data, study, at, event_id = row
    try:
        known = json.loads(data)
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        raise StateError(f"event {event_id} of the ledger is damaged")
    return EventRow(source, key, evtype, known, study, at, event_id)


def delivery_of(row: Sequence[Any]) -> Delivery:
    """Return the delivery in a row of ``DELIVERY_COLUMNS`` and ``EVENT_COLUMNS``, as it will be when started."""
    delivery_id, trigger, attempts, crashes, receipt = row[:5]
    return Delivery(delivery_id, trigger, event_of(row[5:]), attempts + 1, alone=crashes >= 2, receipt=receipt)
