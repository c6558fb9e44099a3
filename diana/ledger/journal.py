"""Events and what is owed for each: stored before it is worked, finished before it is forgotten."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any  # cursors and event data are JSON

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)

from diana.exceptions import StateError
from diana.ledger.receipts import ReceiptBook
from diana.ledger.rows import (
    DELIVERY_COLUMNS,
    EVENT_COLUMNS,
    Delivery,
    EventRow,
    Result,
    Turn,
    delivery_of,
    event_of,
)
from diana.ledger.schema import cursors, deliveries, events
from diana.ledger.store import Store

MAX_STARTS = 5
READ_AHEAD = 5000
BATCH = 200
OPEN = ("new", "busy", "waiting")


_before = deliveries.alias("before")
_FIRST_OF_STUDY = or_(
    deliveries.c.study == "",
    ~exists().where(
        _before.c.trigger == deliveries.c.trigger,
        _before.c.study == deliveries.c.study,
        _before.c.state.in_(OPEN),
        _before.c.id < deliveries.c.id,
    ),
)
_NEXT_DUE = select(func.min(deliveries.c.due), func.max(deliveries.c.due)).where(deliveries.c.state == "waiting")
_STARTED = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("of"))
    .values(state="busy", owner=bindparam("owner"), attempts=bindparam("at"), crashes=deliveries.c.crashes + 1)
)
_ENDED = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("of"), deliveries.c.state == "busy")
    .values(
        state=bindparam("now_in"),
        note=bindparam("said"),
        due=bindparam("next"),
        attempts=deliveries.c.attempts - bindparam("unspent"),
        receipt=case((bindparam("kept") == "", deliveries.c.receipt), else_=bindparam("kept")),
        owner="",
        crashes=0,
        last_at=bindparam("at"),
    )
)


@lru_cache(maxsize=8)
def _ready(state: str, ordered: bool) -> Select[Any]:
    """Return the question for what may start: built once, because building costs more than asking."""
    conditions: list[ColumnElement[bool]] = [deliveries.c.trigger == bindparam("of"), deliveries.c.state == state]
    if state == "waiting":
        conditions.append(or_(deliveries.c.due <= bindparam("now"), deliveries.c.due > bindparam("latest")))
    if ordered:
        conditions.append(_FIRST_OF_STUDY)
    return (
        select(*DELIVERY_COLUMNS, *EVENT_COLUMNS)
        .join(events, events.c.id == deliveries.c.event)
        .where(*conditions)
        .order_by(deliveries.c.due, deliveries.c.id)
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True, of=deliveries)
    )


class Journal:
    """
    Keep events, deliveries and source cursors in a ``Store``.

    Every method is one transaction. States of a delivery: new, busy, waiting, done, dead.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.receipts = ReceiptBook(store)

    def cursor(self, source: str) -> Any:
        """Return the saved cursor of a source, or None. Raises StateError when it is not JSON."""
        with self.store.begin() as connection:
            text = connection.execute(select(cursors.c.cursor).where(cursors.c.source == source)).scalar()
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            raise StateError("the cursor of a source in the ledger is damaged") from None

    def seen(self, source: str, keys: Sequence[str]) -> set[str]:
        """Return which event keys of a source are known."""
        found: set[str] = set()
        with self.store.begin() as connection:
            for at in range(0, len(keys), 500):
                part = list(keys[at : at + 500])
                rows = connection.execute(select(events.c.key).where(events.c.source == source, events.c.key.in_(part)))
                found.update(rows.scalars())
        return found

    def take(
        self,
        source: str,
        page: Sequence[EventRow],
        triggers: Mapping[int, Sequence[str]],
        cursor: Any,
        *,
        wants_done: bool = False,
    ) -> int:
        """
        Store a page of events, a delivery for each trigger of their type, and the source's cursor, all or nothing.

        Events known by key are left alone. With ``wants_done`` the events stay open until ``close_events``. Return how
        many were new.
        """
        now, new = time.time(), 0
        with self.store.begin() as connection:
            for at in range(0, len(page), BATCH):
                new += self._take_batch(connection, source, page[at : at + BATCH], triggers, now, not wants_done)
            if cursor is not None:
                row = {"source": source, "cursor": json.dumps(cursor), "updated": now}
                connection.execute(self.store.upsert(cursors), [row])
        return new

    def _take_batch(
        self,
        connection: Connection,
        source: str,
        page: Sequence[EventRow],
        triggers: Mapping[int, Sequence[str]],
        now: float,
        closed: bool,
    ) -> int:
        of_source = and_(events.c.source == source, events.c.key.in_([row.key for row in page]))
        known = set(connection.execute(select(events.c.key).where(of_source)).scalars())
        fresh = {row.key: row for row in page if row.key not in known}
        if not fresh:
            return 0
        rows = [
            {
                "source": source,
                "key": row.key,
                "evtype": int(row.evtype),
                "data": json.dumps(dict(row.data)),
                "study": row.study,
                "at": row.at,
                "closed": int(closed),
            }
            for row in fresh.values()
        ]
        connection.execute(self.store.insert_new(events), rows)
        found = connection.execute(select(events.c.key, events.c.id).where(of_source))
        ids = {row.key: row.id for row in found}
        owed = [
            {
                "event": ids[row.key],
                "trigger": trigger,
                "study": row.study,
                "state": "new",
                "attempts": 0,
                "crashes": 0,
                "due": 0.0,
                "owner": "",
                "note": "",
                "receipt": "",
                "first_at": now,
                "last_at": now,
            }
            for row in fresh.values()
            for trigger in triggers.get(int(row.evtype), ())
        ]
        if owed:
            connection.execute(self.store.insert_new(deliveries), owed)
        return len(fresh)

    def turn(
        self,
        results: Sequence[Result],
        wanted: Mapping[str, int],
        *,
        owner: str,
        ordered: frozenset[str] = frozenset(),
        longest_wait: float = 300.0,
    ) -> Turn:
        """
        Save how starts ended, with their receipts, and start up to ``wanted[trigger]`` deliveries of each trigger.

        A start is counted here, before its work begins. For a trigger in ``ordered`` only the first open delivery of
        each study is started. A due time further ahead than ``longest_wait`` seconds can only come from a clock that
        was set back, and counts as due. One transaction for all of it keeps the cost per delivery low.
        """
        now = time.time()
        window = (now, now + longest_wait)
        with self.store.begin() as connection:
            if results:
                self._finish(connection, results, now)
            due, last = connection.execute(_NEXT_DUE).one()
            waits = due is not None and (due <= window[0] or last > window[1])
            started: list[Delivery] = []
            for trigger, count in wanted.items():
                if count > 0:
                    started += self._start(connection, trigger, count, window, trigger in ordered, waits)
            if started:
                connection.execute(_STARTED, [{"of": one.id, "at": one.attempt, "owner": owner} for one in started])
        return Turn(started, due)

    def _finish(self, connection: Connection, results: Sequence[Result], now: float) -> None:
        receipt_of = self.receipts.add(connection, [one.receipt for one in results if one.receipt is not None])
        connection.execute(
            _ENDED,
            [
                {
                    "of": one.delivery,
                    "now_in": one.state,
                    "said": one.note,
                    "next": one.due,
                    "unspent": int(not one.spent),
                    "kept": "" if one.receipt is None else receipt_of[one.receipt.id],
                    "at": now,
                }
                for one in results
            ],
        )

    @staticmethod
    def _start(
        connection: Connection,
        trigger: str,
        count: int,
        window: tuple[float, float],
        ordered: bool,
        waits: bool,
    ) -> list[Delivery]:
        values = {"of": trigger, "now": window[0], "latest": window[1]}
        found: list[Delivery] = []
        for state in ("waiting", "new") if waits else ("new",):
            asked = connection.execute(_ready(state, ordered), {**values, "most": count - len(found)})
            found.extend(delivery_of(row) for row in asked)
            if len(found) >= count:
                break
        return found

    def put_back(self, ids: Sequence[int]) -> None:
        """Give back deliveries that were started but not begun; the start does not count."""
        with self.store.begin() as connection:
            connection.execute(
                update(deliveries)
                .where(deliveries.c.id.in_(list(ids)), deliveries.c.state == "busy")
                .values(
                    state="waiting",
                    owner="",
                    attempts=deliveries.c.attempts - 1,
                    crashes=deliveries.c.crashes - 1,
                    due=0.0,
                )
            )

    def recover(self) -> tuple[int, int]:
        """
        Return what a dead owner had in hand to the line, and how many; those that died ``MAX_STARTS`` times are dead.

        Only the owner of the ledger may call this, before it starts anything.
        """
        busy = deliveries.c.state == "busy"
        with self.store.begin() as connection:
            dead = connection.execute(
                update(deliveries)
                .where(busy, deliveries.c.crashes >= MAX_STARTS)
                .values(
                    state="dead",
                    owner="",
                    note=f"the process died {MAX_STARTS} times with this in hand",
                    last_at=time.time(),
                )
            )
            back = connection.execute(update(deliveries).where(busy).values(state="waiting", owner="", due=0.0))
        return back.rowcount, dead.rowcount

    def counts(self) -> dict[str, dict[str, int]]:
        """Return trigger to state to number of deliveries."""
        asked = select(deliveries.c.trigger, deliveries.c.state, func.count()).group_by(
            deliveries.c.trigger, deliveries.c.state
        )
        found: dict[str, dict[str, int]] = {}
        with self.store.begin() as connection:
            for trigger, state, number in connection.execute(asked):
                found.setdefault(trigger, {})[state] = number
        return found

    def oldest_open(self) -> float | None:
        """Return the Unix time at which the oldest unfinished delivery came in, or None."""
        with self.store.begin() as connection:
            asked = select(func.min(deliveries.c.first_at)).where(deliveries.c.state.in_(OPEN))
            return connection.execute(asked).scalar()

    def dead(self, *, trigger: str | None = None, since: float = 0.0, limit: int = 1000) -> list[dict[str, Any]]:
        """Return dead deliveries with their reason, newest first: id, trigger, event type, attempts, note, times."""
        columns = (deliveries.c.id, deliveries.c.trigger, events.c.evtype, deliveries.c.attempts, deliveries.c.note)
        asked = (
            select(*columns, deliveries.c.first_at, deliveries.c.last_at, deliveries.c.receipt)
            .join(events, events.c.id == deliveries.c.event)
            .where(deliveries.c.state == "dead", deliveries.c.last_at >= since)
            .order_by(deliveries.c.id.desc())
            .limit(limit)
        )
        if trigger is not None:
            asked = asked.where(deliveries.c.trigger == trigger)
        with self.store.begin() as connection:
            return [dict(row) for row in connection.execute(asked).mappings()]

    def replay(self, ids: Sequence[int]) -> int:
        """Put dead deliveries back into the line with fresh attempts; return how many."""
        with self.store.begin() as connection:
            changed = connection.execute(
                update(deliveries)
                .where(deliveries.c.id.in_(list(ids)), deliveries.c.state == "dead")
                .values(state="waiting", attempts=0, crashes=0, due=0.0, owner="")
            )
        return changed.rowcount

    def drop(self, ids: Sequence[int]) -> int:
        """End dead deliveries for good, keeping the record; return how many."""
        with self.store.begin() as connection:
            changed = connection.execute(
                update(deliveries)
                .where(deliveries.c.id.in_(list(ids)), deliveries.c.state == "dead")
                .values(state="done", note="dropped by hand")
            )
        return changed.rowcount

    def deliveries_of(self, receipt_ids: Sequence[str]) -> list[int]:
        """Return the dead deliveries that belong to receipts, for replay."""
        with self.store.begin() as connection:
            asked = select(deliveries.c.id).where(
                deliveries.c.receipt.in_(list(receipt_ids)), deliveries.c.state == "dead"
            )
            return list(connection.execute(asked).scalars())

    def events_since(self, since: float, *, limit: int = 100_000) -> list[EventRow]:
        """Return the events that came in since a Unix time, oldest first."""
        asked = select(*EVENT_COLUMNS).where(events.c.at >= since).order_by(events.c.id).limit(limit)
        with self.store.begin() as connection:
            return [event_of(row) for row in connection.execute(asked)]

    def finished_events(self, source: str, ids: Sequence[int] | None = None) -> list[EventRow]:
        """Return the open events of a source (or those among ``ids``) whose deliveries all ended well."""
        unfinished = exists().where(deliveries.c.event == events.c.id, deliveries.c.state != "done")
        asked = select(*EVENT_COLUMNS).where(events.c.source == source, events.c.closed == 0, ~unfinished)
        if ids is not None:
            asked = asked.where(events.c.id.in_(list(ids)))
        with self.store.begin() as connection:
            return [event_of(row) for row in connection.execute(asked)]

    def close_events(self, ids: Sequence[int]) -> None:
        """Note that the source has heard of the end of these events."""
        with self.store.begin() as connection:
            connection.execute(update(events).where(events.c.id.in_(list(ids))).values(closed=1))

    def prune(self, before: float, *, keep_keys_of: Sequence[str] = ()) -> int:
        """
        Forget events whose deliveries all ended before a Unix time; return how many.

        Events of the sources in ``keep_keys_of`` (those that find out from the journal what they have announced) stay.
        """
        open_or_late = exists().where(
            deliveries.c.event == events.c.id,
            or_(deliveries.c.state.in_((*OPEN, "dead")), deliveries.c.last_at >= before),
        )
        with self.store.begin() as connection:
            gone = delete(events).where(events.c.at < before, ~open_or_late, events.c.source.not_in(list(keep_keys_of)))
            removed = connection.execute(gone).rowcount
            connection.execute(delete(deliveries).where(~exists().where(events.c.id == deliveries.c.event)))
        return removed
