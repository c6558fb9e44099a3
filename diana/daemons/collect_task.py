"""One study of a collection: moved, proved, and put down in the ledger."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final  # specs and payloads are JSON

from attrs import define, evolve, field

from diana.daemons.collect_deid import Choose, Noted, make_deid, options_of, pseudonym_given, registry_of
from diana.daemons.collect_plan import ref_of
from diana.daemons.manners import Budget, Hours
from diana.daemons.steps import Filter, Step, bound, make_step
from diana.daemons.task import Beat, Later, Outcome
from diana.daemons.transfer import transfer
from diana.exceptions import ConfigError, DianaError, StateUnavailable
from diana.ledger import Proof, Receipt, ReceiptBook, Slots, Store
from diana.ledger.work_rows import Claim
from diana.utils.dicom import Query
from diana.utils.endpoint import Endpoint, ServiceManager
from diana.utils.endpoint.circuit import Backoff

KIND: Final = "collect"
LISTED: Final = 10_000
DEFAULT_TRIES: Final = 5
CUT_TRIES: Final = 4
DEFAULT_WORKERS: Final = 4
PATIENCE_S: Final = 5.0
TURN_S: Final = 1.0


class Stopped(DianaError):
    """The item has gone to somebody else, or the process is to end."""

    temporary = True


@define(eq=False)
class CollectTask:
    """
    Move the studies of a collection from ``source`` to ``dest``.

    The outcome is the state of the receipt. What might heal is tried again, each time only for what is missing, until
    ``tries`` starts brought nothing new, or four times as many while an end cannot be reached; then it ends as it is.
    ``budget`` is that of this process; with ``slots`` all processes of the ledger share that of the ``archive``.
    """

    source: Endpoint
    dest: Endpoint
    book: ReceiptBook
    project: str = ""
    steps: Sequence[Step] = ()
    hours: Hours = field(factory=Hours)
    budget: Budget = field(factory=Budget)
    slots: Slots | None = None
    archive: str = ""
    tries: int = DEFAULT_TRIES
    workers: int = DEFAULT_WORKERS
    backoff: Backoff = field(factory=lambda: Backoff(cap=10.0))
    kind: str = KIND

    def do(self, claim: Claim, beat: Beat) -> Outcome | Later:
        """Move one study; see ``Task``."""
        wait = self.hours.wait(dt.datetime.now().astimezone())
        if wait > 0:
            return Later(wait, "outside its hours", spent=False)
        if (ended := self._ended_before(claim)) is not None:
            return ended
        # one that killed its process is not given back, which would forget that
        patience = math.inf if claim.kills else monotonic() + PATIENCE_S
        take = partial(self._take, claim)
        with self.budget.slot(lambda: beat() and monotonic() < patience, take) as may_go:
            if not may_go:
                return Later(TURN_S if beat() else 0.0, "as many at once as the source shall bear", spent=False)
            follows, known = self.book.previous(self.project, self.dest.name, claim.key)
            receipt, pseudonym = self._move(claim, beat, follows, known)
            if receipt.verified or beat():
                # what is proved stays proved, whoever goes on
                receipt = evolve(receipt, id=self.book.save(receipt))
            if not beat():
                return Later(spent=False)
            self._note(receipt)
        if receipt.temporary and claim.attempt < self.tries * (CUT_TRIES if receipt.cut else 1):
            return Later(self.backoff.delay(claim.attempt), receipt.reason, spent=not _brings_more(receipt, known))
        return Outcome(receipt.state, self._data(claim, receipt.asdict(), pseudonym))

    def _take(self, claim: Claim, room: int) -> bool:
        """Take one of the places at the source that all processes share."""
        if self.slots is None:
            return True
        try:
            return self.slots.take(f"{KIND}:{self.archive}", claim, room)
        except StateUnavailable:
            return False

    def _ended_before(self, claim: Claim) -> Outcome | None:
        """Return how a study ended whose process was killed after that, and before the ledger knew."""
        if not claim.kills:
            return None
        found = self.book.list(route=self.project, dest=self.dest.name, study=claim.key, limit=1)
        if not found or found[0]["state"] != "verified":
            return None
        return Outcome("verified", self._data(claim, found[0], ""))

    def _move(self, claim: Claim, beat: Beat, follows: str, known: Mapping[str, str]) -> tuple[Receipt, str]:
        """Move what is missing of a study; return the receipt, and the pseudonym under which it went."""
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
        if receipt.state == "failed" and known and (receipt.missing or receipt.rejected):
            # a part is there since an earlier start
            receipt = evolve(receipt, state="incomplete")
        receipt = evolve(receipt, study=claim.key, follows=follows)
        dropped = sum(len(one.dropped) for one in noted)
        receipt = self._recounted(receipt, claim.payload.get("instances"), known, dropped)
        return receipt, pseudonym_given(noted)

    def _chosen(self, claim: Claim) -> list[Step]:
        """Return the step that holds to the pseudonym that the worklist chose for a study."""
        pseudonym = claim.payload.get("pseudonym")
        if not pseudonym:
            return []
        registry = registry_of(self.steps)
        if registry is None:
            raise ConfigError("the worklist chose a pseudonym, but nothing de-identifies with a registry")
        return [Choose(registry, str(pseudonym))]

    def _recounted(self, receipt: Receipt, counted: Any, known: Collection[str], dropped: int) -> Receipt:
        """Doubt fewer instances than the source counted when the plan was made."""
        if receipt.state not in ("verified", "unverifiable") or not isinstance(counted, int):
            return receipt
        if receipt.expected is None:
            said, seen = "gave", len({*known, *(one.uid for one in receipt.proofs)}) + dropped
        else:
            said, seen = "lists", len(known) + receipt.expected + dropped
        if seen < counted:
            reason = f"the source counts {counted} instances and {said} {seen}"
            return evolve(receipt, state="incomplete", reason=reason, blame="source", temporary=True)
        return receipt

    def _note(self, receipt: Receipt) -> None:
        if receipt.temporary and receipt.blame == "source":
            self.budget.refused()
        else:
            self.budget.succeeded()

    def _data(self, claim: Claim, data: Mapping[str, Any], pseudonym: str) -> dict[str, Any]:
        """Return the outcome of a study by its last receipt and those before it."""
        _, known = self.book.previous(self.project, self.dest.name, claim.key)
        before = max(0, len(known) - data["verified"])
        pseudonym = pseudonym or self._pseudonym(claim.payload.get("patient"))
        return {
            "reason": data["reason"],
            "receipt": data["id"],
            "expected": None if data["expected"] is None else data["expected"] + before,
            "verified": data["verified"] + before,
            "bytes": data["bytes"],
            "missing": data["missing"][:LISTED],
            "rejected": dict(list(data["rejected"].items())[:LISTED]),
            "started": data["started"],
            "ended": data["ended"],
            **({"pseudonym": pseudonym} if pseudonym else {}),
        }

    def _pseudonym(self, patient: Any) -> str:
        """Return the pseudonym of a patient, for a study of which nothing had to be moved any more."""
        registry = registry_of(self.steps)
        found = registry.lookup("", patient) if registry is not None and isinstance(patient, str) else None
        return "" if found is None else found.pseudonym


def _brings_more(receipt: Receipt, known: Collection[str]) -> bool:
    """Tell whether an instance was verified that was not before."""
    return any(one.state == "verified" and one.uid not in known for one in receipt.proofs)


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
        slots=Slots(store),
        archive=str(spec["source"]),
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
