"""Move one item from one endpoint to another, and prove that it arrived."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from random import shuffle

from attrs import define, evolve, field

from diana.daemons.steps import Step
from diana.dixel import Dixel
from diana.exceptions import (
    Conflict,
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.ledger.receipts import Proof, Receipt, state_of
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.dicom.header import is_dicom
from diana.utils.dicom.structure import check_whole
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.circuit import Backoff
from diana.utils.pool import bounded_map

log = logging.getLogger(__name__)

NOTHING_LEFT = "every instance was filtered out"
IS_DOWN = 3
ITEM_IS_BAD = (InvalidItem, GatewayRefused, ItemNotFound, Unsupported)


def transfer(
    source: Endpoint,
    dest: Endpoint,
    item: Dixel | Ref | str,
    steps: Sequence[Step] = (),
    *,
    level: DicomLevel | str | None = None,
    route: str = "",
    known: Mapping[str, str] | None = None,
    workers: int = 4,
    tries: int = 1,
    look_first: bool = False,
    on_instance: Callable[[Proof], None] | None = None,
) -> Receipt:
    """
    Move a patient, study, series or instance and return the receipt; trouble is in the receipt, not raised.

    What the source says it has is pulled, run through the ``steps`` (each may change or drop an instance), put, and
    read back from the destination: by the MD5 of its bytes where the destination can tell, else by its being there.
    ``known`` (source UID to MD5) names instances that are proved already; they are left out. ``look_first`` asks the
    destination for each instance before sending it, so that a repetition sends only the rest. With ``tries`` above
    one, what might heal is tried again after a pause; the result is one receipt.
    """
    backoff = Backoff(cap=30.0)
    done = dict(known or {})
    first: Receipt | None = None
    for attempt in range(1, tries + 1):
        job = _Job(source, dest, tuple(steps), route, done, workers, look_first or attempt > 1, on_instance)
        receipt = job.run(source.ref(item, level))
        receipt = receipt if first is None else _joined(first, receipt)
        if not receipt.temporary or attempt == tries:
            break
        first = receipt
        done.update({proof.uid: proof.md5 for proof in receipt.proofs if proof.state == "verified"})
        time.sleep(backoff.delay(attempt))
    log.info(
        "%s to %s: %s, %d instances verified, %d bytes",
        source.name,
        dest.name,
        receipt.state,
        receipt.verified,
        receipt.size,
    )
    return receipt


def _joined(before: Receipt, now: Receipt) -> Receipt:
    """Return one receipt for two tries; a later proof of an instance replaces an earlier one."""
    proofs = {proof.uid: proof for proof in (*before.proofs, *now.proofs)}
    expected = now.expected
    if expected is not None:
        expected += sum(proof.state == "verified" for proof in before.proofs)
    counts = _counts(proofs.values())
    state = "failed" if now.state == "failed" and not counts.get("verified") else state_of(expected, counts, now.reason)
    return evolve(
        now, id=before.id, started=before.started, proofs=tuple(proofs.values()), expected=expected, state=state
    )


def _counts(proofs: Iterable[Proof]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for proof in proofs:
        counts[proof.state] = counts.get(proof.state, 0) + 1
    return counts


@define
class _Job:
    """One try of a transfer."""

    source: Endpoint
    dest: Endpoint
    steps: tuple[Step, ...]
    route: str
    known: Mapping[str, str]
    workers: int
    look_first: bool
    on_instance: Callable[[Proof], None] | None
    started: float = field(init=False, factory=time.time)
    proofs: dict[str, Proof] = field(init=False, factory=dict)
    dropped: set[str] = field(init=False, factory=set)
    study: str = field(init=False, default="")
    trouble: DianaError | None = field(init=False, default=None)
    blame: str = field(init=False, default="")
    dest_is_down: bool = field(init=False, default=False)

    def run(self, ref: Ref) -> Receipt:
        expected: dict[str, Ref] | None = None
        wanted: dict[str, Ref] | None = None
        reason = ""
        try:
            ref, expected, reason = self._expected(ref)
            if expected is not None:
                wanted = {uid: at for uid, at in expected.items() if not self._is_known(uid, at)}
        except DianaError as error:
            return self._failed(ref, error)
        self.study = ref.study
        if wanted is None or wanted:
            self._move(ref, wanted, expected)
        return self._receipt(ref, wanted, reason)

    def _is_known(self, uid: str, at: Ref) -> bool:
        """Tell whether an instance is proved already; one that has other bytes now is not."""
        if uid not in self.known:
            return False
        if self.steps or not self.known[uid] or not self.source.can("digest"):
            return True
        try:
            return self.source.digest(at) == self.known[uid]
        except ItemNotFound:
            return True

    def _expected(self, ref: Ref) -> tuple[Ref, dict[str, Ref] | None, str]:
        """Return the full address, what the source has below it by SOP Instance UID, and why that is not known."""
        if ref.level == DicomLevel.INSTANCES:
            return ref, {ref.instance: ref} if ref.instance else None, ""
        if not self.source.can("find"):
            return ref, None, f"{self.source.name} cannot say what it has"
        if not ref.uid and self.source.can("get"):
            found = self.source.get(ref).ref
            ref = evolve(found, id=ref.id, level=ref.level)
        match = {
            key: value for key, value in ref.tags().items() if key != "PatientID" or ref.level == DicomLevel.PATIENTS
        }
        if not match:
            return ref, None, f"{self.source.name} does not know the item by a UID"
        level = ref.level.singular.lower()
        try:
            rows = self.source.find(Query(match), DicomLevel.INSTANCES)
        except Unsupported:
            return ref, None, f"{self.source.name} cannot list instances"
        except GatewayRefused as error:
            if not self.source.find(Query(match), ref.level):
                raise ItemNotFound(f"{self.source.name}: no such {level}") from None
            return ref, None, f"{self.source.name} refused to list instances: {_note_of(error)}"
        if not rows and self.source.find(Query(match), ref.level):
            return ref, None, f"{self.source.name} has the {level}, but lists no instances of it"
        found_refs = [self.source.ref(row) for row in rows]
        # two patients may share a study's UID
        found_refs = [one for one in found_refs if not ref.patient or one.patient in (None, "", ref.patient)]
        if not found_refs:
            raise ItemNotFound(f"{self.source.name}: no such {level}")
        if not all(one.instance for one in found_refs):
            return ref, None, f"{self.source.name} does not tell SOP Instance UIDs"
        return ref, {one.instance: one for one in found_refs}, ""

    def _move(self, ref: Ref, wanted: dict[str, Ref] | None, expected: dict[str, Ref] | None) -> None:
        try:
            for proof in bounded_map(self._deliver, self._pull(ref, wanted, expected), workers=self.workers):
                if proof is not None:
                    self.proofs[proof.uid] = proof
                    if self.on_instance is not None:
                        self.on_instance(proof)
                if self.dest_is_down:
                    return
        except DianaError as error:
            self._note(error, "source")
        except OSError as error:
            self._note(IncompleteTransfer(f"{self.source.name}: {type(error).__name__} while reading"), "source")
        except Exception as error:  # noqa: BLE001 - a source may raise anything; the receipt says so
            log.debug("%s failed (%s)", self.source.name, type(error).__name__)
            self._note(InvalidItem(f"{self.source.name}: {type(error).__name__} while reading"), "source")

    def _pull(self, ref: Ref, wanted: dict[str, Ref] | None, expected: dict[str, Ref] | None) -> Iterator[Dixel]:
        """Yield what is to be sent: the item at once, or only what is missing of it, series by series."""
        if wanted is None or expected is None or ref.level == DicomLevel.INSTANCES:
            yield from self.source.pull(ref)
            return
        if len(wanted) == len(expected) and not self.look_first:
            yield from self._pull_part(ref, wanted.values())
            return
        sizes, of_series = Counter(at.series for at in expected.values()), defaultdict(list)
        for at in wanted.values():
            of_series[at.series].append(at)
        for series, members in of_series.items():
            absent = [at for at in members if not self._is_there(at)]
            if series and ref.study and 1 < len(absent) == sizes[series]:
                part = Ref(DicomLevel.SERIES, study=ref.study, series=series, patient=ref.patient)
                yield from self._pull_part(part, absent)
                continue
            shuffle(absent)  # so that what cannot be had does not hold up the same others each time
            yield from self._pull_each(absent)

    def _pull_part(self, part: Ref, members: Collection[Ref]) -> Iterator[Dixel]:
        """Yield a part; when not all of it can be had, note that, and go on with those of ``members`` that had come."""
        came: set[str] = set()
        received: set[str] = set()
        try:
            for one in self.source.pull(part):
                came.add(str(one.tags.get("SOPInstanceUID") or ""))
                yield one
        except (IncompleteTransfer, *ITEM_IS_BAD) as error:
            self._note(error, "source")
            received.update(getattr(error, "received", ()))
        except (GatewayConnectionError, GatewayAnswerError) as error:
            if not self.look_first or len(members) < 2:
                raise
            self._note(error, "source")
            received.update(at.instance for at in members)
        yield from self._pull_each([at for at in members if at.instance in received - came])

    def _pull_each(self, members: Iterable[Ref]) -> Iterator[Dixel]:
        """Yield instances one by one; after some failures in a row the source counts as down."""
        failures = 0
        for at in members:
            try:
                yield from self._pull_part(at, ())
                failures = 0
            except (GatewayConnectionError, GatewayAnswerError) as error:
                failures += 1
                if failures == IS_DOWN:
                    raise
                self._note(error, "source")

    def _is_there(self, one: Ref) -> bool:
        """Prove an instance without moving it: unchanged by steps, and both ends tell the same MD5."""
        if self.steps or not self.look_first or not (self.source.can("digest") and self.dest.can("digest")):
            return False
        try:
            there = self.dest.digest(evolve(one, id=""))
        except ItemNotFound:
            return False
        except InvalidItem:
            return False
        if there != self.source.digest(one):
            return False
        self.proofs[one.instance] = Proof(one.instance, "verified", one.instance, there, note="was there")
        return True

    def _deliver(self, dixel: Dixel) -> Proof | None:
        """Run one instance through the steps, put it and read it back; None when a step dropped it."""
        uid = str(dixel.tags.get("SOPInstanceUID") or "")
        self.study = self.study or str(dixel.tags.get("StudyInstanceUID") or "")
        going = dixel
        try:
            _refuse_cut(dixel)
            for step in self.steps:
                changed = step(going)
                if changed is None:
                    self.dropped.add(uid)
                    return None
                going = changed
            return self._put(uid, going)
        except ITEM_IS_BAD as error:
            return Proof(uid, "rejected", note=_note_of(error))
        except DianaError as error:
            self._note(error, "dest")
            self.dest_is_down = isinstance(error, GatewayConnectionError)
            return Proof(uid, "missing", note=_note_of(error))
        except OSError as error:
            self._note(IncompleteTransfer(f"{self.dest.name}: {type(error).__name__} while writing"), "dest")
            return Proof(uid, "missing", note=f"{type(error).__name__} on the way")
        except Exception as error:  # noqa: BLE001 - whatever happens to one item, the others go on
            log.debug("an item failed (%s)", type(error).__name__)
            return Proof(uid, "rejected", note=f"InvalidItem: {type(error).__name__} on the way")
        finally:
            for one in (dixel, going):
                if one.blob is not None:
                    one.blob.close()

    def _put(self, uid: str, dixel: Dixel) -> Proof:
        blob = dixel.blob
        if blob is None:
            raise InvalidItem("the instance came without a file")
        stored_uid = str(dixel.tags.get("SOPInstanceUID") or uid)
        md5 = blob.digest()
        if self.look_first and self._has(dixel.ref, md5):
            return Proof(uid, "verified", stored_uid, md5, len(blob), note="was there")
        there = self.dest.put(dixel)
        address = evolve(dixel.ref, id=there)
        if self.dest.can("digest"):
            try:
                kept = self.dest.digest(address)
            except ItemNotFound:
                raise IncompleteTransfer(f"{self.dest.name} said success, but has it not", [stored_uid]) from None
            if kept != md5:
                raise Conflict(f"{self.dest.name} holds other bytes than were sent")
        elif self.dest.can("exists"):
            if not self.dest.exists(address):
                raise IncompleteTransfer(f"{self.dest.name} said success, but has it not", [stored_uid])
        else:
            return Proof(uid, "unread", stored_uid, md5, len(blob))
        return Proof(uid, "verified", stored_uid, md5, len(blob))

    def _has(self, ref: Ref, md5: str) -> bool:
        if not self.dest.can("digest"):
            return False
        try:
            return self.dest.digest(evolve(ref, id="")) == md5
        except (ItemNotFound, InvalidItem):
            return False

    def _note(self, error: DianaError, blame: str) -> None:
        if self.trouble is None or (error.temporary and not self.trouble.temporary):
            self.trouble, self.blame = error, blame

    def _failed(self, ref: Ref, error: DianaError) -> Receipt:
        self._note(error, "source")
        return self._make(ref, "failed", _note_of(error), None)

    def _receipt(self, ref: Ref, wanted: dict[str, Ref] | None, reason: str) -> Receipt:
        if wanted is not None:
            missing = wanted.keys() - self.proofs.keys() - self.dropped
            if missing and self.trouble is None:
                text = f"{self.source.name}: {len(missing)} of {len(wanted)} instances did not come"
                self._note(IncompleteTransfer(text, sorted(missing)), "source")
            for uid in missing:
                self.proofs[uid] = Proof(uid, "missing", note="" if self.trouble is None else _note_of(self.trouble))
            expected: int | None = len(wanted) - len(self.dropped & wanted.keys())
        else:
            expected = len(self.proofs) if ref.level == DicomLevel.INSTANCES and self.trouble is None else None
            if expected == 0 and not self.dropped:
                return self._make(ref, "failed", f"{self.source.name} sent nothing", None)
        if self.trouble is not None:
            reason = _note_of(self.trouble)
        counts = _counts(self.proofs.values())
        rejected = next((one.note for one in self.proofs.values() if one.state == "rejected"), "")
        if counts.get("unread") and self.trouble is None:
            return self._make(ref, "unverifiable", f"{self.dest.name} cannot be read back", expected)
        if self.dropped and not self.proofs and self.trouble is None:
            return self._make(ref, "verified", NOTHING_LEFT, 0)
        state = state_of(expected, counts, reason)
        if self.trouble is not None and state in ("verified", "unverifiable"):
            state = "incomplete" if counts else "failed"
        if self.trouble is not None and not counts.get("verified"):
            state = "failed" if not self.trouble.temporary else "incomplete"
        return self._make(ref, state, reason or rejected, expected)

    def _make(self, ref: Ref, state: str, reason: str, expected: int | None) -> Receipt:
        return Receipt(
            state,
            self.source.name,
            self.dest.name,
            level=int(ref.level),
            study=self.study or ref.study,
            route=self.route,
            reason=reason,
            expected=expected,
            proofs=tuple(self.proofs.values()),
            steps=tuple(step.name for step in self.steps),
            started=self.started,
            ended=time.time(),
            temporary=self.trouble is not None and self.trouble.temporary,
            blame=self.blame,
            cut=isinstance(self.trouble, GatewayConnectionError),
        )


def _refuse_cut(dixel: Dixel) -> None:
    """Raise InvalidItem for an instance whose file ends too early: equal bytes would prove a cut copy."""
    if dixel.blob is None:
        return
    with dixel.blob.open() as stream:
        if is_dicom(stream) and (whole := check_whole(stream)).state == "cut":
            raise InvalidItem(f"the file is not whole: {whole.reason}")


def _note_of(error: DianaError) -> str:
    return f"{type(error).__name__}: {error}"
