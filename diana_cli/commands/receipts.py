"""``diana-cli receipts``."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any  # rows

import click

from diana.exceptions import ConfigError, InvalidItem
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import Ref
from diana_cli.app import WITH_FAILURES, App, say
from diana_cli.commands.transfer import Mover
from diana_cli.output import local_time, progress
from diana_cli.receipt_rows import COLUMNS, receipt_row

if TYPE_CHECKING:
    from diana.ledger import Journal

STATES = ("verified", "incomplete", "unverifiable", "failed")
UNPROVED = STATES[1:]
STUDY = int(DicomLevel.STUDIES)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Since(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """Take a time span back from now (``90s 30m 2h 7d 4w``) or an ISO date; gives Unix seconds."""

    name = "2h|date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the Unix time."""
        if isinstance(value, float):
            return value
        span = re.fullmatch(r"([0-9]{1,6})([smhdw])", str(value).strip())
        if span:
            return time.time() - int(span[1]) * UNITS[span[2]]
        try:
            return dt.datetime.fromisoformat(str(value).strip()).timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail("takes a span such as 2h or 7d, or a date such as 2024-01-31", param, ctx)


SINCE = Since()


@click.command("receipts", short_help="List receipts and dead letters; send again what failed.")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only receipts of this state.")
@click.option("--since", type=SINCE, default=0.0, help="Only what ended since: 2h, 7d, or a date.")
@click.option("--dest", metavar="SERVICE", help="Only this destination.")
@click.option("--route", metavar="NAME", help="Only this route.")
@click.option("--study", metavar="UID", help="Only this study.")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="The newest so many.")
@click.option("--dead", is_flag=True, help="List dead letters: what is not tried any more, with the reason.")
@click.option("--replay", is_flag=True, help="Send again what is listed and not verified.")
@click.option("--to", "other", metavar="SERVICE", help="With --replay: send to this destination instead.")
@click.option("--drop", is_flag=True, help="With --dead: give up what is listed for good.")
@click.option("--ledger", type=click.Path(path_type=Path), metavar="FOLDER", help="The ledger, as the global --state.")
@click.pass_obj
def command(
    app: App,
    states: tuple[str, ...],
    since: float,
    dest: str | None,
    route: str | None,
    study: str | None,
    limit: int,
    dead: bool,
    replay: bool,
    other: str | None,
    drop: bool,
    ledger: Path | None,
) -> int:
    """
    List the receipts of the ledger, newest first.

    --replay puts what a route could not deliver back into the line of its watcher, and sends what `transfer` could not
    deliver again at once. With --to everything listed goes to another destination at once.
    """
    from diana.ledger import Journal

    if drop and not dead:
        raise click.UsageError("--drop needs --dead")
    if drop and replay:
        raise click.UsageError("--drop and --replay do not go together")
    if other and not replay:
        raise click.UsageError("--to needs --replay")
    app.state_given = ledger or app.state_given
    if not (app.state / "ledger.sqlite").is_file():
        raise ConfigError(f"no ledger in {app.state}; name its folder with --state")
    store = app.store()
    try:
        journal = Journal(store)
        chosen = Chosen(app, journal, since=since, limit=limit)
        if dead:
            return chosen.dead(route, dest, replay, drop, other)
        wanted = states or (UNPROVED if replay else ())
        rows = journal.receipts.list(states=wanted, dest=dest, route=route, study=study, since=since, limit=limit)
        return chosen.replay(rows, other) if replay else chosen.show(rows)
    finally:
        store.close()


class Chosen:
    """Do something with what was chosen from the ledger."""

    def __init__(self, app: App, journal: Journal, *, since: float, limit: int) -> None:
        self.app = app
        self.journal = journal
        self.since = since
        self.limit = limit

    def show(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Print receipts."""
        out = self.app.out
        out.rows(map(receipt_row, rows) if out.is_table else rows, COLUMNS)
        return 0

    def dead(self, route: str | None, dest: str | None, replay: bool, drop: bool, other: str | None) -> int:
        """Print dead letters, or put them back, send them elsewhere or drop them."""
        rows = [one for one in self.journal.dead(since=self.since, limit=self.limit) if _concerns(one, route, dest)]
        ids = [one["id"] for one in rows]
        if drop:
            say(f"{self.journal.drop(ids)} dropped")
        elif replay and other is not None:
            return self._send_dead(rows, other)
        elif replay:
            self._put_back(ids)
        self.app.out.rows((_dead_row(one) for one in rows), ("id", "route", "attempts", "ended", "reason"))
        return 0

    def _send_dead(self, rows: Sequence[Mapping[str, Any]], other: str) -> int:
        known = {one["id"]: one for one in self.journal.receipts.list(limit=100_000)}
        with_receipt = [known[one["receipt"]] for one in rows if one["receipt"] in known]
        lacking = len(rows) - len(with_receipt)
        if lacking:
            say(f"{lacking} dead letters never got as far as a receipt; replay them without --to")
        code = self._send(list({one["id"]: one for one in with_receipt}.values()), other)
        return WITH_FAILURES if lacking else code

    def replay(self, rows: Sequence[Mapping[str, Any]], other: str | None) -> int:
        """Send again: routes by their watcher, transfers and everything for another destination here and now."""
        unproved = [one for one in rows if one["state"] != "verified"]
        routed = [] if other else [one for one in unproved if one["route"]]
        if routed:
            self._put_back(self.journal.deliveries_of([one["id"] for one in routed]))
        return self._send([one for one in unproved if other or not one["route"]], other)

    def _put_back(self, ids: Sequence[int]) -> None:
        say(f"{self.journal.replay(ids)} put back into the line; the watcher of this ledger takes them")

    def _send(self, rows: Sequence[Mapping[str, Any]], other: str | None) -> int:
        """Transfer what receipts name, here and now; what a later receipt proves is left out."""
        mover = Mover(self.journal.receipts, tries=3)
        verified = self.journal.receipts.list(states=["verified"], limit=100_000)
        proved = {(one["dest"], one["study"]): one["started"] for one in reversed(verified) if one["level"] == STUDY}

        def sent() -> Iterator[dict[str, Any]]:
            with progress("instances") as step:
                for one in rows:
                    with mover.batch.guard(f"receipt {one['id']}"):
                        source, dest = self.app.endpoint(one["source"]), self.app.endpoint(other or one["dest"])
                        if proved.get((dest.name, one["study"]), 0.0) >= one["started"]:
                            continue
                        for ref in _refs(one):
                            yield mover.move(source, dest, ref, step)

        out = self.app.out
        out.rows(map(receipt_row, sent()) if out.is_table else sent(), COLUMNS)
        return mover.code()


def _refs(receipt: Mapping[str, Any]) -> list[Ref]:
    """Return what is to be sent again: the study, or of a part of it what was missing. Raises InvalidItem."""
    study = receipt["study"]
    if not study:
        raise InvalidItem("its study is not known")
    missing = receipt["missing"] if receipt["level"] != STUDY else []
    found = [Ref(DicomLevel.INSTANCES, study=study, instance=uid) for uid in missing]
    return found or [Ref(DicomLevel.STUDIES, study=study)]


def _concerns(dead: Mapping[str, Any], route: str | None, dest: str | None) -> bool:
    name, _, party = str(dead["trigger"]).rpartition(":")
    return (route is None or name == route) and (dest is None or party == dest)


def _dead_row(dead: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": dead["id"],
        "route": dead["trigger"],
        "attempts": dead["attempts"],
        "ended": local_time(float(dead["last_at"])),
        "reason": dead["note"],
        "receipt": dead["receipt"],
    }
