"""Places that items of any job share by a name, among all processes of a ledger."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists, not_, select, update

from diana.ledger.leases import Leases
from diana.ledger.schema import slots, work_items
from diana.ledger.store import Store
from diana.ledger.work_rows import Claim


class Slots:
    """
    Let so many items at once use what a name stands for, such as an archive.

    An item holds its place until it ends, is given back, or loses its lease: there is nothing to give back, and a
    process that dies leaves no place taken.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.leases = Leases(store)
        self._made: dict[str, int] = {}

    def take(self, name: str, claim: Claim, most: int) -> bool:
        """Take one of the first ``most`` places for a running item, or keep it; False when all are taken."""
        here = slots.c.name == name
        with self.store.begin() as connection:
            if self._made.get(name, 0) < most:
                rows = [{"name": name, "number": number, "item": 0, "token": 0} for number in range(most)]
                connection.execute(self.store.insert_new(slots), rows)
                self._made[name] = most
            mine = and_(here, slots.c.item == claim.id, slots.c.token == claim.token)
            if connection.execute(select(slots.c.number).where(mine)).first() is not None:
                return True
            free = select(slots).where(here, slots.c.number < most, not_(self._held())).order_by(slots.c.number)
            for row in connection.execute(free).all():
                # another process may have been faster
                as_seen = and_(here, slots.c.number == row.number, slots.c.item == row.item, slots.c.token == row.token)
                if connection.execute(update(slots).where(as_seen).values(item=claim.id, token=claim.token)).rowcount:
                    return True
        return False

    def _held(self) -> ColumnElement[bool]:
        """Ask that the item of a place runs, and is still the start that took it."""
        return exists().where(
            work_items.c.id == slots.c.item,
            work_items.c.token == slots.c.token,
            work_items.c.state == "running",
            not_(self.leases.over()),
        )
