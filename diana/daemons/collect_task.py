"""One study of a collection: moved, proved, and put down in the ledger."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final  # specs and payloads are JSON

from attrs import define, evolve, field

from diana.daemons.collect_deid import Choose, Noted, make_deid, options_of, pseudonym_given, registry_of
from diana.daemons.collect_plan import ref_of
from diana.daemons.manners import Budget, Hours
from diana.daemons.steps import Filter, Step, bound, make_step
from diana.daemons.task import Beat, Later, Outcome
from diana.daemons.transfer import transfer
from diana.exceptions import ConfigError, DianaError
from diana.ledger import Proof, Receipt, ReceiptBook, Store
from diana.ledger.work_rows import Claim
from diana.utils.dicom import Query
from diana.utils.endpoint import Endpoint, ServiceManager
from diana.utils.endpoint.circuit import Backoff

KIND: Final = "collect"
LISTED: Final = 10_000
DEFAULT_TRIES: Final = 5
CUT_TRIES: Final = 4
DEFAULT_WORKERS: Final = 4


class Stopped(DianaError):
    """The item has gone to somebody else, or the process is to end."""

    temporary = True


@define(eq=False)
class CollectTask:
    """
    Move the studies of a collection from ``source`` to ``dest``.

    The outcome is the state of the receipt. What might heal is tried again, each time only for what is missing, until
    ``tries`` starts brought nothing new, or four times as many while an end cannot be reached; then it ends as it is.
    """

    source: Endpoint
    dest: Endpoint
    book: ReceiptBook
    project: str = ""
    steps: Sequence[Step] = ()
    hours: Hours = field(factory=Hours)
    budget: Budget = field(factory=Budget)
    tries: int = DEFAULT_TRIES
    workers: int = DEFAULT_WORKERS
    backoff: Backoff = field(factory=lambda: Backoff(cap=10.0))
    kind: str = KIND

    def do(self, claim: Claim, beat: Beat) -> Outcome | Later:
        """Move one study; see ``Task``."""
        wait = self.hours.wait(dt.datetime.now().astimezone())
        if wait > 0:
            return Later(wait, "outside its hours", spent=False)
        with self.budget.slot(beat) as may_go:
            if not may_go:
                return Later(spent=False)
            receipt, pseudonym = self._move(claim, beat)
            if receipt.verified or beat():
                # what is proved stays proved, whoever goes on
                receipt = evolve(receipt, id=self.book.save(receipt))
            if not beat():
                return Later(spent=False)
            self._note(receipt)
        if receipt.temporary and claim.attempt < self.tries * (CUT_TRIES if receipt.cut else 1):
            return Later(self.backoff.delay(claim.attempt), receipt.reason, spent=not receipt.verified)
        return Outcome(receipt.state, self._data(claim, receipt, pseudonym))

    def _move(self, claim: Claim, beat: Beat) -> tuple[Receipt, str]:
        """Move what is missing of a study; return the receipt, and the pseudonym under which it went."""
        follows, known = self.book.previous(self.project, self.dest.name, claim.key)
        noted = [Noted(step) for step in (*self._chosen(claim), *self.steps)]

        def go_on(_: Proof) -> None:
            if not beat():
                raise Stopped("stopped")

        receipt = transfer(
            self.source,
            self.dest,
            ref_of(claim.key, claim.payload.get("patient")),
            noted,
            route=self.project,
            known=known,
            workers=self.workers,
            look_first=claim.attempt > 1 or claim.kills > 0 or bool(follows),
            on_instance=go_on,
        )
        receipt = evolve(receipt, study=claim.key, follows=follows)
        dropped = sum(len(one.dropped) for one in noted)
        return self._recounted(receipt, claim.payload.get("instances"), len(known) + dropped), pseudonym_given(noted)

    def _chosen(self, claim: Claim) -> list[Step]:
        """Return the step that holds to the pseudonym that the worklist chose for a study."""
        pseudonym = claim.payload.get("pseudonym")
        if not pseudonym:
            return []
        registry = registry_of(self.steps)
        if registry is None:
            raise ConfigError("the worklist chose a pseudonym, but nothing de-identifies with a registry")
        return [Choose(registry, str(pseudonym))]

    def _recounted(self, receipt: Receipt, counted: Any, besides: int) -> Receipt:
        """Doubt a proof of fewer instances than the source counted when the plan was made."""
        if receipt.state != "verified" or not isinstance(counted, int) or receipt.expected is None:
            return receipt
        seen = receipt.expected + besides
        if seen < counted:
            reason = f"the source counts {counted} instances and lists {seen}"
            return evolve(receipt, state="incomplete", reason=reason, blame="source", temporary=True)
        return receipt

    def _note(self, receipt: Receipt) -> None:
        if receipt.temporary and receipt.blame == "source":
            self.budget.refused()
        else:
            self.budget.succeeded()

    def _data(self, claim: Claim, receipt: Receipt, pseudonym: str) -> dict[str, Any]:
        _, known = self.book.previous(self.project, self.dest.name, claim.key)
        data = receipt.asdict()
        return {
            "reason": data["reason"],
            "receipt": data["id"],
            "expected": data["expected"],
            "verified": len(known) if known else data["verified"],
            "bytes": data["bytes"],
            "missing": data["missing"][:LISTED],
            "rejected": dict(list(data["rejected"].items())[:LISTED]),
            "started": data["started"],
            "ended": data["ended"],
            **({"pseudonym": pseudonym} if pseudonym else {}),
        }


def make_task(spec: Mapping[str, Any], services: ServiceManager, store: Store) -> CollectTask:
    """Return the task of a job of the kind *collect*; its receipts go to the job's ledger. Raises ConfigError."""
    try:
        source, dest = services.get(spec["source"]), services.get(spec["dest"])
    except (KeyError, TypeError):
        raise ConfigError("the job names no source or destination") from None
    project = str(spec.get("project", ""))
    steps = steps_of(spec.get("match"), spec.get("steps", ()), store, project)
    return CollectTask(
        source,
        dest,
        ReceiptBook(store),
        project=project,
        steps=[bound(step, source) for step in steps],
        hours=Hours.parse(str(spec.get("hours", ""))),
        budget=Budget(int(spec.get("budget", 2))),
        tries=int(spec.get("tries", DEFAULT_TRIES)),
        workers=int(spec.get("workers", DEFAULT_WORKERS)),
    )


def steps_of(match: Any, described: Sequence[Any], store: Store, project: str) -> list[Step]:
    """
    Return the steps of a collection: a filter of instances first, if there is one. Raises ConfigError.

    The step ``deid`` takes its pseudonyms from the ledger, unless its options name a registry.
    """
    steps: list[Step] = []
    if match:
        query = Query(match)
        query.check_keywords()
        steps.append(Filter(query))
    for one in described:
        is_deid, options = options_of(one)
        steps.append(make_deid(options, store, project) if is_deid else make_step(one))
    return steps
