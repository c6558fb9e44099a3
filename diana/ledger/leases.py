"""The clock of leases and delays, as the database sees it."""

from __future__ import annotations

import time
from typing import Any  # a time is a number here and an expression there

from sqlalchemy import ColumnElement, Float, and_, cast, extract, func, or_, select

from diana.ledger import clock
from diana.ledger.schema import work_items
from diana.ledger.store import Store

LONGEST = 86400.0


class Leases:
    """
    Tell the time that leases run on: the database's with PostgreSQL, else that since the machine started.

    ``name`` names the clock; times of another one, such as before a restart of the machine, count as over.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = clock.boot() if store.is_sqlite else "database"

    def now(self) -> Any:
        """Return the time: a number, or the database's expression."""
        if self._store.is_sqlite:
            return clock.seconds()
        return cast(extract("epoch", func.clock_timestamp()), Float)

    def after(self, seconds: float) -> Any:
        """Return the time after some seconds, none at least and a day at most."""
        return self.now() + min(max(seconds, 0.0), LONGEST)

    def dated(self) -> Any:
        """Return the Unix time by which changes are dated: a number, or the database's expression."""
        return time.time() if self._store.is_sqlite else self.now()

    def date(self) -> float:
        """Return the Unix time by which changes are dated."""
        if self._store.is_sqlite:
            return time.time()
        with self._store.begin() as connection:
            return float(connection.execute(select(self.now())).scalar_one())

    def over(self, until: Any = work_items.c.until) -> ColumnElement[bool]:
        """Ask that a time is past: one of another clock is, and so is one further ahead than any can be."""
        now = self.now()
        return or_(until <= now, until > now + 2 * LONGEST, and_(work_items.c.clock != self.name, until > 0))
