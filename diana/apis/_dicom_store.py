"""Instances on their way into a DICOM node: what is there is compared, what was sent is read back."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any

from attrs import define, field

from diana.apis.stow_rs import addressed
from diana.dixel import Dixel
from diana.exceptions import (
    Conflict,
    DianaError,
    GatewayConnectionError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    Unsupported,
)
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel
from diana.utils.endpoint.endpoint import Outcome
from diana.utils.gateways.dimse_get import NodeAssociation, node_contexts
from diana.utils.gateways.dimse_pdu import EXPLICIT_LITTLE, IMPLICIT_LITTLE, MAX_CONTEXTS, file_head
from diana.utils.gateways.dimse_scu import Outgoing, outgoing
from diana.utils.pool import bounded_map

if TYPE_CHECKING:
    from diana.apis.dicom_node import DicomNode

log = logging.getLogger(__name__)

AT_ONCE = 64
MOST_PAIRS = (MAX_CONTEXTS - 2) // 2
OUT_OF_RESOURCES = 0xA700
PAUSE = 0.1
Uids = tuple[str, str, str]


@define(eq=False)
class _Sending:
    """One instance on its way."""

    item: Dixel
    uids: Uids
    out: Outgoing
    sent: bool = False
    error: DianaError | None = None

    def outcome(self) -> Outcome:
        if self.error is not None:
            return Outcome(self.item, error=self.error)
        return Outcome(self.item, id="/".join(self.uids))


@define(eq=False)
class StoreJob:
    """
    Store any number of instances; what the node holds of a series is asked once for all of them.

    Each batch has an association of its own.
    """

    node: DicomNode
    _held: dict[tuple[str, str], set[str]] = field(init=False, factory=dict)
    _taken: set[str] = field(init=False, factory=set)
    _lock: Any = field(init=False, factory=Lock)

    def stream(self, items: Iterable[Dixel], workers: int) -> Iterator[Outcome]:
        """Yield an outcome for each item in their order, as the batches end."""
        for outcomes in bounded_map(self._batch, _batches(items), workers=workers):
            yield from outcomes

    def _batch(self, items: list[Dixel]) -> list[Outcome]:
        try:
            return self.run(items)
        except DianaError as error:
            return [Outcome(item, error=error) for item in items]
        except Exception as error:  # noqa: BLE001  # whatever one batch does, the others go on
            text = f"{self.node.name}: {type(error).__name__} while putting"
            return [Outcome(item, error=InvalidItem(text)) for item in items]

    def run(self, items: list[Dixel]) -> list[Outcome]:
        """Return what became of each of some instances. Raises DianaError when the node cannot be spoken to at all."""
        found = [self._opened(item) for item in items]
        again: list[_Sending] = []
        fresh: list[_Sending] = []
        for one in found:
            if isinstance(one, _Sending):
                (fresh if self._claim(one.uids[2]) else again).append(one)
        for group in _by_contexts(fresh):
            self._send(group)
        for one in again:
            # the same UID twice: as if it were put after the first
            (outcome,) = StoreJob(self.node).run([one.item])
            one.error = outcome.error
        return [one.outcome() if isinstance(one, _Sending) else one for one in found]

    def _claim(self, uid: str) -> bool:
        with self._lock:
            new = uid not in self._taken
            self._taken.add(uid)
            return new

    def _opened(self, item: Dixel) -> _Sending | Outcome:
        try:
            # what is no dixel is refused as put refuses it
            self.node.ref(item)
            uids, blob = addressed(self.node.name, item)
            out = outgoing(blob)
            if out.sop_instance != uids[2]:
                raise InvalidItem(f"{self.node.name}: the file names two SOP Instance UIDs")
            return _Sending(item, uids, out)
        except DianaError as error:
            return Outcome(item, error=error)
        except OSError as error:
            text = f"{self.node.name}: the file cannot be read ({type(error).__name__})"
            return Outcome(item, error=InvalidItem(text))

    def _send(self, group: list[_Sending]) -> None:
        pairs = [pair for one in group for pair in _pairs(one.out)]
        with self.node.connect(node_contexts(pairs)) as association:
            known = [one for one in group if one.uids[2] in self._there(association, one.uids)]
            fresh = [one for one in group if one not in known]
            broken = self._store(association, fresh)
            if broken is None:
                self._read_back(association, [one for one in fresh if one.sent])
        if broken is not None:
            self._after_break(fresh, broken)
        for one in known:
            self._compare(one)

    def _there(self, association: NodeAssociation, uids: Uids) -> set[str]:
        """Return what the node held of a series when it was first asked."""
        with self._lock:
            if uids[:2] not in self._held:
                self._held[uids[:2]] = _listed(association, uids[:2])
            return self._held[uids[:2]]

    def _compare(self, one: _Sending) -> None:
        try:
            if not self.node.same(one.uids, one.out.blob):
                one.error = Conflict(f"{self.node.name}: other bytes are stored under the same SOP Instance UID")
        except DianaError as error:
            one.error = error

    def _store(self, association: NodeAssociation, group: list[_Sending]) -> DianaError | None:
        """Send instances; return the error that broke the association, if one did."""
        for one in group:
            try:
                sending = _acceptable(one.out, association)
            except (GatewayRefused, InvalidItem) as error:
                one.error = error
                continue
            try:
                one.error = self._verdict(association.store(sending))
                one.sent = one.error is None
            except GatewayRefused as error:
                one.error = error
            except DianaError as error:
                association.close(abort=True)
                one.error = error
                return error
        return None

    def _verdict(self, status: int) -> DianaError | None:
        if status & 0xF000 == 0xB000:
            log.warning("%s: the node stored an instance with a warning (status %#06x)", self.node.name, status)
        if status == 0 or status & 0xF000 == 0xB000:
            return None
        kind = GatewayConnectionError if status & 0xFF00 == OUT_OF_RESOURCES else GatewayRefused
        return kind(f"{self.node.name}: the node refused an instance with status {status:#06x}", status=status)

    def _after_break(self, group: list[_Sending], broken: DianaError) -> None:
        """Say of what was not sent that it was not; what was confirmed is looked for over a new association."""
        for one in group:
            if not one.sent and one.error is None:
                one.error = GatewayConnectionError(f"{self.node.name}: the association broke before: {broken}")
        sent = [one for one in group if one.sent]
        if not sent:
            return
        try:
            with self.node.connect(node_contexts()) as association:
                self._read_back(association, sent)
        except DianaError as error:
            for one in sent:
                one.error = error

    def _read_back(self, association: NodeAssociation, sent: list[_Sending]) -> None:
        missing = self._missing(association, sent)
        end = time.monotonic() + self.node.settle
        while missing and time.monotonic() < end:
            time.sleep(PAUSE)
            missing = self._missing(association, missing)
        for one in missing:
            text = f"{self.node.name}: the node took an instance but does not list it"
            one.error = IncompleteTransfer(text, [one.uids[2]])

    def _missing(self, association: NodeAssociation, sent: list[_Sending]) -> list[_Sending]:
        series: dict[tuple[str, str], list[_Sending]] = {}
        for one in sent:
            series.setdefault(one.uids[:2], []).append(one)
        missing: list[_Sending] = []
        for above, members in series.items():
            there = _listed(association, above, [one.uids[2] for one in members])
            if any(one.uids[2] not in there for one in members) and len(members) > 1:
                # not every node takes lists of UIDs
                there = _listed(association, above)
            missing += [one for one in members if one.uids[2] not in there]
        return missing


def _pairs(out: Outgoing) -> list[tuple[str, str]]:
    """Return how an instance may be sent: as it is, and in the syntax that every node knows (PS3.5 10.1)."""
    own = (out.sop_class, out.transfer_syntax)
    return [own, (out.sop_class, IMPLICIT_LITTLE)] if out.transfer_syntax == EXPLICIT_LITTLE else [own]


def _acceptable(out: Outgoing, association: NodeAssociation) -> Outgoing:
    """Return an instance in a transfer syntax that the node takes: as it is, wherever that is possible."""
    if (out.sop_class, out.transfer_syntax) in association.accepted or out.transfer_syntax != EXPLICIT_LITTLE:
        return out
    if (out.sop_class, IMPLICIT_LITTLE) not in association.accepted:
        return out
    return outgoing(Blob(_as_implicit(out)))


def _as_implicit(out: Outgoing) -> bytes:
    from pydicom import dcmread
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    try:
        with out.blob.open() as stream:
            ds = dcmread(BytesIO(stream.read()))
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, True
        write_dataset(buffer, ds)
    except Exception:  # noqa: BLE001  # pydicom fails in many ways on odd files, each meaning the same here
        raise InvalidItem("the instance cannot be written in the only transfer syntax that the node takes") from None
    return file_head(out.sop_class, out.sop_instance, IMPLICIT_LITTLE) + buffer.getvalue()


def _listed(association: NodeAssociation, above: tuple[str, str], instances: Iterable[str] = ()) -> set[str]:
    keys = {"StudyInstanceUID": above[0], "SeriesInstanceUID": above[1], "SOPInstanceUID": "\\".join(instances)}
    rows = association.find(DicomLevel.INSTANCES, keys)
    try:
        return {
            str(row["SOPInstanceUID"])
            for row in rows
            if "SOPInstanceUID" in row and all(str(row.get(key, keys[key])) == keys[key] for key in list(keys)[:2])
        }
    except Unsupported as error:
        raise GatewayRefused(str(error)) from None


def _batches(items: Iterable[Dixel]) -> Iterator[list[Dixel]]:
    rest = iter(items)
    while batch := list(islice(rest, AT_ONCE)):
        yield batch


def _by_contexts(found: list[_Sending]) -> Iterator[list[_Sending]]:
    """Yield groups that one association has room for."""
    group: list[_Sending] = []
    pairs: set[tuple[str, str]] = set()
    for one in found:
        pair = (one.out.sop_class, one.out.transfer_syntax)
        if pair not in pairs and len(pairs) == MOST_PAIRS:
            yield group
            group, pairs = [], set()
        pairs.add(pair)
        group.append(one)
    if group:
        yield group
