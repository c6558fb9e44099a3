"""Jobs and their items: claimed under a lease, ended behind a fence, counted when they start."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any  # specs, payloads and outcomes are JSON

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, update

from diana.exceptions import ConfigError, ItemNotFound
from diana.ledger import clock
from diana.ledger.leases import Leases
from diana.ledger.schema import jobs, work_items
from diana.ledger.store import Store
from diana.ledger.work_rows import ITEM_COLUMNS, Claim, Item, Job, item_of, loaded

MAX_KILLS = 8
SUSPECT = 2
OPEN = ("waiting", "running")
BATCH = 500

_OF_OPEN_JOB = exists().where(jobs.c.id == work_items.c.job, jobs.c.is_open == 1)
_CLAIMED = (
    work_items.c.id,
    work_items.c.key,
    work_items.c.payload,
    work_items.c.state,
    work_items.c.attempts,
    work_items.c.crashes,
    work_items.c.token,
)


class Work:
    """
    Keep jobs in a ``Store``; many processes, and with PostgreSQL many machines, may work one job.

    An item is *waiting*, *running* (claimed, until its lease ends), or in a final state whose name the caller chooses.
    The start counts as an attempt, so an item that kills its process is found out: after two such ends it is a suspect,
    to be worked after everything else while nothing else is in hand; after ``max_kills`` it is *failed*. Leases run on
    a clock that is not set: the database's with PostgreSQL, else the time since the machine started.
    """

    def __init__(self, store: Store, *, max_kills: int = MAX_KILLS) -> None:
        self.store = store
        self.max_kills = max_kills
        self.leases = Leases(store)

    def create(
        self,
        kind: str,
        spec: Mapping[str, Any],
        items: Iterable[tuple[str, Mapping[str, Any]]] = (),
        job: str = "",
    ) -> str:
        """
        Store a job with its items (key, payload), and return its id.

        For a job that is known, the spec replaces the old one, and keys that are known are left alone. Items are stored
        in batches: a call that was interrupted can be repeated. Raises ConfigError when the known job is of another
        kind.
        """
        name = job or secrets.token_hex(8)
        row = {"name": name, "kind": kind, "spec": json.dumps(dict(spec)), "is_open": 1, "created": time.time()}
        with self.store.begin() as connection:
            connection.execute(self.store.insert_new(jobs), [row])
            found = connection.execute(select(jobs.c.id, jobs.c.kind).where(jobs.c.name == name)).one()
            if found.kind != kind:
                raise ConfigError(f"the job exists already and is of the kind {found.kind!r}")
            connection.execute(update(jobs).where(jobs.c.id == found.id).values(spec=row["spec"]))
        pairs = iter(items)
        while batch := list(islice(pairs, BATCH)):
            rows = [_new_row(found.id, key, payload) for key, payload in batch]
            with self.store.begin() as connection:
                connection.execute(self.store.insert_new(work_items), rows)
        return name

    def claim(
        self,
        job: str | int,
        worker: str,
        lease_s: float = 60.0,
        limit: int = 1,
        keys: Sequence[str] | None = None,
        *,
        ids: Sequence[int] | None = None,
        suspects: bool | None = None,
    ) -> list[Claim]:
        """
        Start up to ``limit`` items that wait, are due, or whose lease has ended; the start is counted here.

        ``keys`` or ``ids`` choose among them. ``suspects`` False leaves out what killed its process twice, True takes
        only such. ``worker`` is best a ``clock.worker_name()``: see ``recover``. Nothing of a closed job is started.
        """
        wanted: list[ColumnElement[bool]] = [work_items.c.job == _number(job), _OF_OPEN_JOB]
        if keys is not None:
            wanted.append(work_items.c.key.in_(list(keys)))
        if ids is not None:
            wanted.append(work_items.c.id.in_(list(ids)))
        if suspects is not None:
            wanted.append(work_items.c.crashes >= SUSPECT if suspects else work_items.c.crashes < SUSPECT)
        name = job if isinstance(job, str) else self.job(job).name
        claims: list[Claim] = []
        with self.store.begin() as connection:
            for state in OPEN:
                if len(claims) < limit:
                    of_state = [*wanted, work_items.c.state == state]
                    claims += self._start(connection, name, of_state, limit - len(claims), suspects is False)
            if claims:
                changed = (
                    update(work_items)
                    .where(work_items.c.id.in_([one.id for one in claims]))
                    .values(
                        state="running",
                        attempts=work_items.c.attempts + 1,
                        crashes=work_items.c.crashes + 1,
                        token=work_items.c.token + 1,
                        owner=worker,
                        clock=self.leases.name,
                        until=self.leases.after(lease_s),
                        sends=0,
                        send_at=0.0,
                        last_at=self.leases.dated(),
                    )
                )
                connection.execute(changed)
        return claims

    def _start(
        self, connection: Connection, job: str, wanted: Sequence[ColumnElement[bool]], limit: int, in_order: bool
    ) -> list[Claim]:
        """Choose and lock what can start; what killed its process too often ends here instead."""
        found: list[Claim] = []
        order = (work_items.c.id,) if in_order else (work_items.c.crashes, work_items.c.id)
        while len(found) < limit:
            asked = (
                select(*_CLAIMED)
                .where(*wanted, self.leases.over(), work_items.c.id.not_in([one.id for one in found]))
                .order_by(*order)
                .limit(limit - len(found))
                .with_for_update(skip_locked=True)
            )
            rows = connection.execute(asked).all()
            if not rows:
                break
            killers = [row.id for row in rows if row.crashes >= self.max_kills]
            if killers:
                self._bury(connection, killers)
            found += [
                Claim(row.id, job, row.key, loaded(row.payload), row.attempts + 1, row.token + 1, row.crashes)
                for row in rows
                if row.id not in killers
            ]
        return found

    def renew(self, claim: Claim, lease_s: float = 60.0) -> bool:
        """Lengthen the lease, or take it up again; return False when the item has gone to somebody else."""
        values = {"until": self.leases.after(lease_s), "clock": self.leases.name}
        return self._change(claim, state="running", sends=0, send_at=0.0, **values)

    def finish(self, claim: Claim, state: str, outcome: Mapping[str, Any] | None = None) -> bool:
        """
        End an item in a final state; return False, and change nothing, when it has gone to somebody else.

        A ``reason`` in the outcome is what reports show first. Raises ValueError for a state that is not final.
        """
        if state in OPEN or not state:
            raise ValueError("the name of a final state is needed")
        data = dict(outcome or {})
        return self._change(
            claim,
            state=state,
            outcome=json.dumps(data),
            reason=str(data.get("reason", "")),
            owner="",
            crashes=0,
            last_at=self.leases.dated(),
        )

    def release(self, claim: Claim, delay_s: float = 0.0, reason: str = "", *, spent: bool = True) -> bool:
        """
        Give an item back, to be started again after a delay of at most a day; False as for ``finish``.

        ``spent`` False takes the attempt back: the item was not at fault.
        """
        return self._change(
            claim,
            state="waiting",
            attempts=work_items.c.attempts - int(not spent),
            crashes=0,
            token=work_items.c.token + 1,
            owner="",
            clock=self.leases.name,
            until=self.leases.after(delay_s),
            reason=reason,
            last_at=self.leases.dated(),
        )

    def recover(self, job: str | int | None = None) -> int:
        """
        Put back into the line what lies under no lease, or belongs to a process of this machine that is gone.

        What killed its process too often ends *failed* instead. Return how many were found.
        """
        running = [work_items.c.state == "running"]
        if job is not None:
            running.append(work_items.c.job == _number(job))
        with self.store.begin() as connection:
            owners = connection.execute(select(work_items.c.owner).where(*running).distinct()).scalars()
            gone = [owner for owner in owners if clock.is_dead(owner)]
            free = or_(self.leases.over(), work_items.c.owner.in_(gone))
            asked = select(work_items.c.id, work_items.c.crashes).where(*running, free)
            found = connection.execute(asked.with_for_update(skip_locked=True)).all()
            if not found:
                return 0
            back = [row.id for row in found if row.crashes < self.max_kills]
            self._bury(connection, [row.id for row in found if row.crashes >= self.max_kills])
            changes = {"state": "waiting", "until": 0.0, "sends": 0, "send_at": 0.0}
            connection.execute(update(work_items).where(work_items.c.id.in_(back)).values(**changes))
        return len(found)

    def _bury(self, connection: Connection, ids: Sequence[int]) -> None:
        for item in ids:
            kills = connection.execute(select(work_items.c.crashes).where(work_items.c.id == item)).scalar_one()
            reason = f"killed {kills} times"
            connection.execute(
                update(work_items)
                .where(work_items.c.id == item)
                .values(
                    state="failed",
                    token=work_items.c.token + 1,
                    owner="",
                    reason=reason,
                    outcome=json.dumps({"reason": reason}),
                    last_at=self.leases.dated(),
                )
            )

    def items(self, job: str | int, state: str = "", *, since: float = 0.0) -> Iterator[Item]:
        """Yield the items of a job, or those in one state, or those changed since a Unix time, in order of creation."""
        number, last = _number(job), 0
        while True:
            asked = select(*ITEM_COLUMNS).where(work_items.c.job == number, work_items.c.id > last)
            if state:
                asked = asked.where(work_items.c.state == state)
            if since:
                asked = asked.where(work_items.c.last_at >= since)
            with self.store.begin() as connection:
                rows = connection.execute(asked.order_by(work_items.c.id).limit(BATCH)).all()
            for row in rows:
                yield item_of(row)
            if len(rows) < BATCH:
                return
            last = rows[-1].id

    def item(self, job: str | int, key: str) -> Item:
        """Return one item by its key. Raises ItemNotFound."""
        asked = select(*ITEM_COLUMNS).where(work_items.c.job == _number(job), work_items.c.key == key)
        with self.store.begin() as connection:
            row = connection.execute(asked).one_or_none()
        if row is None:
            raise ItemNotFound("the job has no such item")
        return item_of(row)

    def by_id(self, item: int) -> Item:
        """Return one item by its row number. Raises ItemNotFound."""
        with self.store.begin() as connection:
            row = connection.execute(select(*ITEM_COLUMNS).where(work_items.c.id == item)).one_or_none()
        if row is None:
            raise ItemNotFound("the ledger has no such item")
        return item_of(row)

    def has_suspects(self, job: str | int, ids: Sequence[int] | None = None) -> bool:
        """Tell whether an item of a job that killed its process twice can be claimed."""
        wanted = [work_items.c.job == _number(job), work_items.c.state.in_(OPEN), work_items.c.crashes >= SUSPECT]
        if ids is not None:
            wanted.append(work_items.c.id.in_(list(ids)))
        with self.store.begin() as connection:
            asked = select(work_items.c.id).where(*wanted, self.leases.over()).limit(1)
            return connection.execute(asked).first() is not None

    def counts(self, job: str | int) -> dict[str, int]:
        """Return state to number of items."""
        asked = (
            select(work_items.c.state, func.count())
            .where(work_items.c.job == _number(job))
            .group_by(work_items.c.state)
        )
        with self.store.begin() as connection:
            return {row[0]: row[1] for row in connection.execute(asked)}

    def next_start(self, job: str | int) -> float | None:
        """Return in how many seconds something can be claimed (0: now), or None when every item has ended."""
        number = _number(job)
        with self.store.begin() as connection:
            mine = and_(work_items.c.job == number, work_items.c.state.in_(OPEN))
            if connection.execute(select(work_items.c.id).where(mine, self.leases.over()).limit(1)).first():
                return 0.0
            asked = select(func.min(work_items.c.until) - self.leases.now()).where(mine)
            left = connection.execute(asked).scalar()
        return None if left is None else max(0.0, left)

    def job(self, job: str | int) -> Job:
        """Return a job by its id or number. Raises ItemNotFound."""
        which = jobs.c.name == job if isinstance(job, str) else jobs.c.id == job
        with self.store.begin() as connection:
            row = connection.execute(select(jobs).where(which)).one_or_none()
        if row is None:
            raise ItemNotFound("the ledger has no such job")
        return Job(row.id, row.name, row.kind, loaded(row.spec), bool(row.is_open), row.created)

    def jobs(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        with self.store.begin() as connection:
            rows = connection.execute(select(jobs).order_by(jobs.c.id)).all()
        return [Job(row.id, row.name, row.kind, loaded(row.spec), bool(row.is_open), row.created) for row in rows]

    def open(self, job: str | int, is_open: bool = True) -> None:
        """Let items of a job be started, or no longer; what runs may end."""
        number = _number(job)
        with self.store.begin() as connection:
            connection.execute(update(jobs).where(jobs.c.id == number).values(is_open=int(is_open)))
            if is_open:
                # messages that came while it was closed have been dropped
                sent = and_(work_items.c.job == number, work_items.c.state.in_(OPEN), work_items.c.sends > 0)
                connection.execute(update(work_items).where(sent).values(sends=0, send_at=0.0))

    def again(self, job: str | int, states: Sequence[str] = ("failed",), keys: Sequence[str] | None = None) -> int:
        """Put items that ended in one of the states back into the line with fresh attempts; return how many."""
        ended = [one for one in states if one not in OPEN]
        which = [work_items.c.job == _number(job), work_items.c.state.in_(ended)]
        if keys is not None:
            which.append(work_items.c.key.in_(list(keys)))
        fresh = {"state": "waiting", "attempts": 0, "crashes": 0, "until": 0.0, "sends": 0, "send_at": 0.0}
        token = work_items.c.token + 1
        with self.store.begin() as connection:
            return connection.execute(
                update(work_items).where(*which).values(**fresh, token=token, outcome="{}", reason="")
            ).rowcount

    def forget(self, job: str | int) -> None:
        """Remove a job and its items."""
        number = _number(job)
        with self.store.begin() as connection:
            connection.execute(delete(work_items).where(work_items.c.job == number))
            connection.execute(delete(jobs).where(jobs.c.id == number))

    def _change(self, claim: Claim, **values: Any) -> bool:
        """Change the item of a claim if it is still the claim's."""
        mine = and_(work_items.c.id == claim.id, work_items.c.token == claim.token, work_items.c.state.in_(OPEN))
        with self.store.begin() as connection:
            return connection.execute(update(work_items).where(mine).values(**values)).rowcount == 1


def _number(job: str | int) -> Any:
    """Return a job's row number, or the question for it."""
    return job if isinstance(job, int) else select(jobs.c.id).where(jobs.c.name == job).scalar_subquery()


def _new_row(job: int, key: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    now = time.time()
    return {
        "job": job,
        "key": key,
        "payload": json.dumps(dict(payload)),
        "state": "waiting",
        "attempts": 0,
        "crashes": 0,
        "token": 0,
        "owner": "",
        "clock": "",
        "until": 0.0,
        "sends": 0,
        "send_at": 0.0,
        "reason": "",
        "outcome": "{}",
        "first_at": now,
        "last_at": now,
    }
