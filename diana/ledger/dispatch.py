"""Which items to send to workers elsewhere, and which to send once more because nobody took them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any  # the columns of an update

from sqlalchemy import ColumnElement, Connection, exists, func, or_, select, update

from diana.ledger.schema import about, jobs, work_items
from diana.ledger.work import OPEN, SUSPECT, Work

AGAIN_S = 15.0


class Dispatch:
    """
    Choose what is sent, as numbers: (job, item).

    A message is only a hint that an item can be claimed. One that was lost is sent again after ``again_s`` seconds,
    then after longer and longer, so that what merely waits in a long line is not sent over and over.
    """

    def __init__(self, work: Work, *, again_s: float = AGAIN_S) -> None:
        self.work = work
        self.again_s = again_s

    def ledger(self) -> str:
        """Return a name for this ledger, by which messages of several are told apart."""
        with self.work.store.begin() as connection:
            row = {"key": "ledger", "value": secrets.token_hex(8)}
            connection.execute(self.work.store.insert_new(about), [row])
            found: str = connection.execute(select(about.c.value).where(about.c.key == "ledger")).scalar_one()
        return found

    def pick(self, limit: int, job: str | None = None) -> list[tuple[int, int]]:
        """
        Return up to ``limit`` items that wait and are due, evenly from the open jobs; they count as sent.

        What lies under no lease is found after ``Work.recover``. Suspects come last.
        """
        found: list[tuple[int, int]] = []
        with self.work.store.begin() as connection:
            wanted = select(jobs.c.id).where(jobs.c.is_open == 1).order_by(jobs.c.id)
            if job is not None:
                wanted = wanted.where(jobs.c.name == job)
            numbers = list(connection.execute(wanted).scalars())
            for at, number in enumerate(numbers):
                share = -(-(limit - len(found)) // (len(numbers) - at))
                found += self._pick(connection, number, share)
        return found

    def _pick(self, connection: Connection, job: int, limit: int) -> list[tuple[int, int]]:
        over, found = self.work.leases.over, list[int]()
        kills = work_items.c.crashes
        for last in (kills < SUSPECT, kills >= SUSPECT):
            if len(found) >= limit:
                break
            asked = (
                select(work_items.c.id)
                .where(work_items.c.job == job, work_items.c.state == "waiting", last, over())
                .where(or_(work_items.c.sends == 0, over(work_items.c.send_at)))
                .order_by(work_items.c.id)
                .limit(limit - len(found))
                .with_for_update(skip_locked=True)
            )
            found += connection.execute(asked).scalars()
        if found:
            changes: dict[str, Any] = {
                "sends": work_items.c.sends + 1,
                "send_at": self.work.leases.now() + self.again_s * (1 + work_items.c.sends * work_items.c.sends),
                "clock": self.work.leases.name,
                "until": 0.0,
            }
            connection.execute(update(work_items).where(work_items.c.id.in_(found)).values(**changes))
        return [(job, item) for item in found]

    def take_back(self, items: Sequence[int]) -> None:
        """Note that messages could not be sent."""
        with self.work.store.begin() as connection:
            connection.execute(update(work_items).where(work_items.c.id.in_(list(items))).values(sends=0, send_at=0.0))

    def under_way(self, job: str | None = None) -> int:
        """Return how many items were sent and not yet begun."""
        of_open: ColumnElement[bool] = exists().where(jobs.c.id == work_items.c.job, jobs.c.is_open == 1)
        if job is not None:
            of_open = work_items.c.job == select(jobs.c.id).where(jobs.c.name == job).scalar_subquery()
        asked = select(func.count()).where(work_items.c.state.in_(OPEN), work_items.c.sends > 0, of_open)
        with self.work.store.begin() as connection:
            return connection.execute(asked).scalar_one()
