"""Routing rules: which events of a source go where, changed how, and why an object would or would not match."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any  # tag values may be of any type

from attrs import define, evolve, field, frozen

from diana.daemons.steps import Filter, Step
from diana.daemons.transfer import NOTHING_LEFT, transfer
from diana.exceptions import DianaError, Unsupported
from diana.ledger.journal import Journal
from diana.ledger.receipts import Receipt, ReceiptBook
from diana.ledger.rows import Delivery
from diana.utils.dicom import DicomEventType, DicomLevel, DixelView, Query, Ref
from diana.utils.dicom.query import Clause
from diana.utils.endpoint import Endpoint, Event, Trigger


@define
class Route:
    """
    Say where the events of a source go.

    ``when`` is asked of each object's tags; ``steps`` change or drop instances on the way; each of ``to`` is served on
    its own, so that one which is down does not stop the others. With ``remove_source`` the item is deleted at the
    source after a *verified* receipt (only with a single destination).
    """

    name: str
    source: Any  # an Endpoint that is also an Observable
    evtype: DicomEventType
    to: Sequence[Endpoint]
    when: Query = field(factory=Query)
    steps: Sequence[Step] = ()
    remove_source: bool = False
    workers: int = 4

    def explain(self, tags: Mapping[str, Any]) -> list[Clause]:
        """Return for each clause of ``when`` whether an object with these tags meets it."""
        return self.when.explain(tags)

    def triggers(self, book: ReceiptBook) -> list[RouteTrigger]:
        """Return one trigger for each destination; they look up earlier receipts in ``book``."""
        return [
            RouteTrigger(
                self.evtype,
                self.source,
                lambda data: None,
                name=f"{self.name}:{dest.name}",
                dest=dest.name,
                workers=self.workers,
                route=self,
                endpoint=dest,
                book=book,
            )
            for dest in self.to
        ]


@define(eq=False, slots=False)
class RouteTrigger(Trigger):
    """Serve one destination of a route."""

    route: Route = field(kw_only=True)
    endpoint: Endpoint = field(kw_only=True)
    book: ReceiptBook = field(kw_only=True)

    def handle(self, event: Event, delivery: Delivery) -> Receipt | str:
        """Transfer what the event announced; return the receipt, or a word when there was nothing to send."""
        route, ref, steps = self.route, event.ref, list(self.route.steps)
        follows: str = ""
        known: dict[str, str] = {}
        if event.evtype.level == DicomLevel.INSTANCES:
            if route.when.match:
                steps.insert(0, Filter(route.when))
        else:
            ref, tags = _look_up(route.source, ref)
            if not route.when.matches(tags):
                return "filtered"
            follows, known = self.book.previous(route.name, self.endpoint.name, ref.study, but=delivery.receipt)
        receipt = transfer(
            route.source,
            self.endpoint,
            ref,
            steps,
            route=route.name,
            known=known,
            workers=1 if event.evtype.level == DicomLevel.INSTANCES else route.workers,
            look_first=delivery.attempt > 1,
        )
        if receipt.reason == NOTHING_LEFT:
            return "filtered"
        if follows and receipt.state == "verified" and not receipt.proofs:
            return "nothing new"
        if route.remove_source and receipt.state == "verified":
            route.source.delete(ref)
        return evolve(receipt, follows=follows)


@frozen
class Backtested:
    """Say what a rule would have done about an event of the ledger; ``matched`` is None when nobody can tell."""

    event: int
    evtype: DicomEventType
    at: float
    matched: bool | None
    clauses: tuple[Clause, ...] = ()


def backtest(route: Route, journal: Journal, since: float = 0.0) -> Iterator[Backtested]:
    """
    Yield what a route's ``when`` says of each event in the ledger from its source since a Unix time.

    The tags are asked of the source as they are now; what is gone there has ``matched=None``.
    """
    for row in journal.events_since(since):
        if row.source != route.source.source_id or row.evtype != int(route.evtype):
            continue
        event = Event(DicomEventType(row.evtype), row.data, key=row.key, source_id=row.source, study=row.study)
        try:
            _, tags = _look_up(route.source, event.ref)
        except DianaError:
            yield Backtested(row.id, event.evtype, row.at, None)
            continue
        clauses = tuple(route.explain(tags))
        yield Backtested(row.id, event.evtype, row.at, route.when.matches(tags), clauses)


def _look_up(source: Endpoint, ref: Ref) -> tuple[Ref, Mapping[str, Any]]:
    """Return the full address and the tags of an item at its source."""
    if not source.can("get"):
        raise Unsupported(f"{source.name} cannot tell tags")
    found = source.get(ref, view=DixelView.TAGS)
    return evolve(found.ref, id=ref.id, level=ref.level), found.tags
