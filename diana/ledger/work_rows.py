"""Jobs, items and claims as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any  # specs, payloads and outcomes are JSON

from attrs import field, frozen

from diana.exceptions import StateError
from diana.ledger.schema import work_items


@frozen
class Job:
    """Hold what kind of work a job is, and what its task needs to know; ``id`` is its name, ``number`` its row."""

    number: int
    name: str
    kind: str
    spec: Mapping[str, Any] = field(repr=False)
    is_open: bool = True
    created: float = 0.0


@frozen
class Claim:
    """
    Hold an item that was started.

    ``attempt`` counts this start, ``token`` is its fence, ``kills`` tells how many starts in a row before this one
    never came to an end. Logs and messages name an item by its ``id``: the key may be an accession number.
    """

    id: int
    job: str
    key: str = field(repr=False)
    payload: Mapping[str, Any] = field(repr=False)
    attempt: int
    token: int
    kills: int = 0


@frozen
class Item:
    """
    Hold an item as the ledger knows it.

    ``state`` is waiting, running or final; ``reason`` says why it waits or failed; ``changed`` is the Unix time of its
    last start or end.
    """

    id: int
    key: str = field(repr=False)
    payload: Mapping[str, Any] = field(repr=False)
    state: str
    attempts: int
    outcome: Mapping[str, Any] = field(repr=False)
    reason: str = ""
    changed: float = 0.0


ITEM_COLUMNS = (
    work_items.c.id,
    work_items.c.key,
    work_items.c.payload,
    work_items.c.state,
    work_items.c.attempts,
    work_items.c.outcome,
    work_items.c.reason,
    work_items.c.last_at,
)


def item_of(row: Sequence[Any]) -> Item:
    """Return the item in a row of ``ITEM_COLUMNS``. Raises StateError when it is damaged."""
    number, key, payload, state, attempts, outcome, reason, changed = row
    return Item(number, key, loaded(payload), state, attempts, loaded(outcome), reason, changed)


def loaded(text: str) -> dict[str, Any]:
    """Return a stored JSON object. Raises StateError when it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise StateError("an item or job of the ledger is damaged")
    return found
