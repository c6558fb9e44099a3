"""Receipts: for each study and destination, what was sent, what is proved, what is missing and why."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import Any  # receipts are JSON

import attrs
from attrs import evolve, field, frozen
from sqlalchemy import Connection, bindparam, func, select, update

from diana.ledger.schema import proofs, receipts
from diana.ledger.store import Store

STATES = ("verified", "incomplete", "unverifiable", "failed")
QUIET_S = 60.0
ROW_KEYS = ("id", "route", "source", "dest", "study", "level", "state", "reason", "follows", "started", "ended")


@frozen
class Proof:
    """
    Say what is known of one instance at the destination.

    ``uid`` is its SOP Instance UID at the source, ``stored_uid`` at the destination (another one after
    de-identification); ``state`` is verified, missing or rejected; ``md5`` is of the bytes that were sent.
    """

    uid: str
    state: str
    stored_uid: str = ""
    md5: str = ""
    size: int = 0
    note: str = ""


@frozen
class Receipt:
    """
    Say how the transfer of one item ended.

    ``state`` is *verified* (everything the source has was read back from the destination), *incomplete* (``missing``
    and ``rejected`` list what is not there), *unverifiable* (``reason`` says who could not tell) or *failed*.
    ``expected`` is None when the source cannot say what it has. ``follows`` is the receipt that this one completes.
    ``temporary``: what is wrong may heal; ``blame`` says whose it is; ``cut``: one could not be reached.
    Times are Unix seconds.
    """

    state: str
    source: str
    dest: str
    level: int = 2
    study: str = ""
    route: str = ""
    reason: str = ""
    expected: int | None = None
    proofs: tuple[Proof, ...] = ()
    steps: tuple[str, ...] = ()
    follows: str = ""
    started: float = field(factory=time.time)
    ended: float = field(factory=time.time)
    id: str = field(factory=lambda: token_hex(8))
    temporary: bool = field(default=False, metadata={"transient": True})
    blame: str = field(default="", metadata={"transient": True})
    cut: bool = field(default=False, metadata={"transient": True})

    @property
    def verified(self) -> int:
        """Return how many instances were read back from the destination."""
        return sum(one.state == "verified" for one in self.proofs)

    @property
    def missing(self) -> list[str]:
        """Return the SOP Instance UIDs that the source has and the destination has not."""
        return [one.uid for one in self.proofs if one.state == "missing"]

    @property
    def rejected(self) -> dict[str, str]:
        """Return the SOP Instance UIDs that cannot be delivered, with the reason."""
        return {one.uid: one.note for one in self.proofs if one.state == "rejected"}

    @property
    def size(self) -> int:
        """Return the verified bytes."""
        return sum(one.size for one in self.proofs if one.state == "verified")

    def asdict(self) -> dict[str, Any]:
        """Return the receipt as JSON data, without the list of proofs of what is well."""
        skip = {"proofs"} | {one.name for one in attrs.fields(Receipt) if one.metadata.get("transient")}
        found = {one.name: getattr(self, one.name) for one in attrs.fields(Receipt) if one.name not in skip}
        return {
            **found,
            "steps": list(self.steps),
            "verified": self.verified,
            "bytes": self.size,
            "missing": self.missing,
            "rejected": self.rejected,
        }


def state_of(expected: int | None, counts: dict[str, int], reason: str) -> str:
    """Return the state that the numbers of proofs by state amount to."""
    verified = counts.get("verified", 0)
    if counts.get("missing") or counts.get("rejected"):
        return "incomplete" if verified or counts.get("missing") else "failed"
    if expected is None:
        return "unverifiable"
    if verified < expected:
        return "incomplete"
    return "failed" if reason and not verified else "verified"


class ReceiptBook:
    """
    Keep receipts in a ``Store``.

    Receipts of single instances are entered into the receipt of their study (same route and destination) while that
    is quiet for less than a minute; later ones open a new receipt that ``follows`` the first.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def save(self, receipt: Receipt) -> str:
        """Store one receipt durably; return the id under which it is found."""
        with self.store.begin() as connection:
            return self.add(connection, [receipt])[receipt.id]

    def add(self, connection: Connection, batch: Sequence[Receipt]) -> dict[str, str]:
        """Store receipts in a running transaction; return given id to the id under which each is found."""
        whole = [one for one in batch if one.level < 4 or not one.study]
        single = [one for one in batch if one.level == 4 and one.study]
        self._write(connection, whole)
        return {**{one.id: one.id for one in whole}, **(self._join_studies(connection, single) if single else {})}

    def list(
        self,
        *,
        states: Iterable[str] = (),
        dest: str | None = None,
        route: str | None = None,
        study: str | None = None,
        since: float = 0.0,
        limit: int = 1000,
    ) -> list[dict[str, Any]]:
        """Return receipts as JSON data, newest first."""
        asked = select(receipts).where(receipts.c.ended >= since).order_by(receipts.c.started.desc()).limit(limit)
        if wanted := list(states):
            asked = asked.where(receipts.c.state.in_(wanted))
        for column, value in ((receipts.c.dest, dest), (receipts.c.route, route), (receipts.c.study, study)):
            if value is not None:
                asked = asked.where(column == value)
        with self.store.begin() as connection:
            rows = connection.execute(asked).mappings().all()
            return [self._data(connection, dict(row)) for row in rows]

    def previous(self, route: str, dest: str, study: str, *, but: str = "") -> tuple[str, dict[str, str]]:
        """
        Return the first receipt of a study on a route, and the MD5 of each instance verified there so far.

        The receipt ``but`` is left out: a start that is repeated makes its own receipt anew.
        """
        same = (receipts.c.route == route, receipts.c.dest == dest, receipts.c.study == study, receipts.c.id != but)
        with self.store.begin() as connection:
            ids = list(connection.execute(select(receipts.c.id).where(*same).order_by(receipts.c.started)).scalars())
            if not ids:
                return "", {}
            asked = select(proofs.c.uid, proofs.c.md5).where(proofs.c.receipt.in_(ids), proofs.c.state == "verified")
            return ids[0], {row.uid: row.md5 for row in connection.execute(asked)}

    def _data(self, connection: Connection, row: dict[str, Any]) -> dict[str, Any]:
        bad = select(proofs).where(proofs.c.receipt == row["id"], proofs.c.state != "verified")
        listed = connection.execute(bad).mappings().all()
        row.update(json.loads(row.pop("data")))
        row["missing"] = [one["uid"] for one in listed if one["state"] == "missing"]
        row["rejected"] = {one["uid"]: one["note"] for one in listed if one["state"] == "rejected"}
        return row

    def _write(self, connection: Connection, batch: Sequence[Receipt]) -> None:
        if not batch:
            return
        rows = []
        for one in batch:
            data = one.asdict()
            row = {key: data[key] for key in ROW_KEYS}
            row.update(
                expected=one.expected, verified=one.verified, bytes=one.size, data=json.dumps({"steps": one.steps})
            )
            rows.append(row)
        connection.execute(self.store.upsert(receipts), rows)
        self._write_proofs(connection, [(one.id, proof) for one in batch for proof in one.proofs])

    def _write_proofs(self, connection: Connection, batch: Sequence[tuple[str, Proof]]) -> None:
        if batch:
            rows = [{"receipt": receipt_id, **attrs.asdict(one)} for receipt_id, one in batch]
            connection.execute(self.store.upsert(proofs), rows)

    def _join_studies(self, connection: Connection, batch: Sequence[Receipt]) -> dict[str, str]:
        """Enter receipts of instances into those of their studies, or open some; return where each went."""
        known = self._of_studies(connection, batch)
        again = select(proofs.c.receipt, proofs.c.uid).where(
            proofs.c.receipt.in_([row.id for rows in known.values() for row in rows]),
            proofs.c.uid.in_([proof.uid for one in batch for proof in one.proofs]),
        )
        redone = {(row.receipt, row.uid) for row in connection.execute(again)} if known else set()
        opened: dict[tuple[str, str, str], Receipt] = {}
        entered: list[tuple[str, Proof]] = []
        found: dict[str, str] = {}
        for one in batch:
            key = (one.route, one.dest, one.study)
            rows = known.get(key, ())
            at = next((row.id for row in rows for proof in one.proofs if (row.id, proof.uid) in redone), "")
            if not at and key in opened:
                at = opened[key].id
            elif not at and rows and one.started - rows[-1].ended < QUIET_S:
                at = str(rows[-1].id)
            elif not at:
                opened[key] = evolve(one, level=2, follows=rows[0].id if rows else "", proofs=())
                at = one.id
            found[one.id] = at
            entered += [(at, proof) for proof in one.proofs]
        self._write(connection, list(opened.values()))
        self._write_proofs(connection, entered)
        self._sum_up(connection, set(found.values()))
        return found

    @staticmethod
    def _of_studies(connection: Connection, batch: Sequence[Receipt]) -> dict[tuple[str, str, str], Sequence[Any]]:
        """Return the receipts that the studies of a batch have, oldest first."""
        asked = select(receipts.c.id, receipts.c.ended, receipts.c.route, receipts.c.dest, receipts.c.study).where(
            receipts.c.route.in_({one.route for one in batch}),
            receipts.c.dest.in_({one.dest for one in batch}),
            receipts.c.study.in_({one.study for one in batch}),
        )
        found: dict[tuple[str, str, str], Any] = {}
        for row in connection.execute(asked.order_by(receipts.c.started)):
            found.setdefault((row.route, row.dest, row.study), []).append(row)
        return found

    @staticmethod
    def _sum_up(connection: Connection, ids: set[str]) -> None:
        """Bring the numbers and states of receipts in line with their proofs."""
        asked = (
            select(proofs.c.receipt, proofs.c.state, func.count(), func.sum(proofs.c.size), func.max(proofs.c.note))
            .where(proofs.c.receipt.in_(ids))
            .group_by(proofs.c.receipt, proofs.c.state)
        )
        numbers: dict[str, dict[str, tuple[int, int, str]]] = {}
        for receipt_id, state, count, size, note in connection.execute(asked):
            numbers.setdefault(receipt_id, {})[state] = (count, size, note)
        now, rows = time.time(), []
        for receipt_id, of_state in numbers.items():
            counts = {state: count for state, (count, _, _) in of_state.items()}
            total = sum(counts.values())
            reason = next((note for state, (_, _, note) in of_state.items() if state != "verified"), "")
            verified, size, _ = of_state.get("verified", (0, 0, ""))
            state = state_of(total, counts, reason)
            rows.append(
                {
                    "of": receipt_id,
                    "in_state": state,
                    "why": reason,
                    "total": total,
                    "proved": verified,
                    "size": size,
                    "at": now,
                }
            )
        if rows:
            connection.execute(_SUMMED, rows)


_SUMMED = (
    update(receipts)
    .where(receipts.c.id == bindparam("of"))
    .values(
        state=bindparam("in_state"),
        reason=bindparam("why"),
        expected=bindparam("total"),
        verified=bindparam("proved"),
        bytes=bindparam("size"),
        ended=bindparam("at"),
    )
)
