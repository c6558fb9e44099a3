"""Events, deliveries and results as plain values."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any  # event data is JSON

from attrs import field, frozen
from sqlalchemy import RowMapping

from diana.ledger.receipts import Receipt
from diana.ledger.schema import deliveries, events


@frozen
class EventRow:
    """Hold an event as plain values."""

    source: str
    key: str = field(repr=False)
    evtype: int
    data: Mapping[str, Any] = field(repr=False)
    study: str = field(default="", repr=False)
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


def event_of(row: RowMapping) -> EventRow:
    """Return the event in a row of a query over events."""
    return EventRow(
        source=row[events.c.source],
        key=row[events.c.key],
        evtype=row[events.c.evtype],
        data=json.loads(row[events.c.data]),
        study=row[events.c.study],
        at=row[events.c.at],
        id=row[events.c.id],
    )


def delivery_of(row: RowMapping) -> Delivery:
    """Return the delivery in a row of a query over deliveries and events, as it will be when started."""
    return Delivery(
        id=row[deliveries.c.id],
        trigger=row[deliveries.c.trigger],
        event=event_of(row),
        attempt=row[deliveries.c.attempts] + 1,
        alone=row[deliveries.c.crashes] >= 2,
        receipt=row[deliveries.c.receipt],
    )
