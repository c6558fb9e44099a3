"""A DICOM node: searched by C-FIND, stored on by C-STORE, fetched from by C-GET or C-MOVE."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from io import BytesIO
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, ClassVar  # Any: tag values

from attrs import define, field

from diana.apis._dicom_store import StoreJob
from diana.apis._web import Uids
from diana.apis._web_pull import Retrieval, Unit, with_view
from diana.apis.dicom_qr import UIDS, DicomQR
from diana.dixel import Dixel, DixelView
from diana.exceptions import (
    ConfigError,
    DianaError,
    GatewayAnswerError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
)
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.dicom.ref import is_uid
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.endpoint import Outcome
from diana.utils.endpoint.serializable import whole_number
from diana.utils.gateways.dicom_qr import tls_context
from diana.utils.gateways.dimse_get import (
    STUDY_MOVE,
    Counts,
    NodeAssociation,
    node_contexts,
    retrieve_contexts,
)
from diana.utils.gateways.dimse_move import Arrivals, Landing
from diana.utils.gateways.dimse_pdu import check_ae_title
from diana.utils.gateways.dimse_scp import LOOPBACK, networks

if TYPE_CHECKING:
    from diana.utils.endpoint.endpoint import Item

log = logging.getLogger(__name__)

__all__ = ["DicomNode"]

WAYS = ("get", "move")
# instances that may come to a study while it is fetched
MORE = 1000
UNLISTED = 100_000


def _as_way(text: str) -> str:
    if text not in WAYS:
        raise ConfigError("retrieve: either get or move")
    return text


@define(eq=False)
class DicomNode(DicomQR):
    """
    Hold instances in a DICOM node; ids are the UIDs down to the item, joined by slashes.

    What is stored is read back by C-FIND, ``settle`` seconds long if it does not show at once. It is compared with
    what is there before, data set by data set: the node keeps no file meta information of ours. Files are fetched over
    the same association (``retrieve="get"``), or sent by the node to a port of ours (``"move"``): the node must know
    ``move_aet`` (default: ``aet``) with our address and ``move_port``; we listen at ``move_host``, without TLS, while
    something is fetched, and let ``move_addresses`` in. What a node says it sent counts for nothing: what arrived is
    compared with what it lists. Files beyond ``spill`` bytes go to ``folder``. The protocol has no delete.
    """

    views: ClassVar[DixelView] = DixelView.TAGS | DixelView.FILE | DixelView.PIXELS
    needs: ClassVar[DicomLevel] = DicomLevel.PATIENTS

    retrieve: str = field(default="get", kw_only=True, converter=_as_way)
    move_aet: str = field(default="", kw_only=True)
    move_host: str = field(default="127.0.0.1", kw_only=True)
    move_port: int = field(default=0, kw_only=True, converter=whole_number)
    move_addresses: Sequence[str] = field(default=LOOPBACK, kw_only=True, converter=tuple)
    settle: float = field(default=2.0, kw_only=True)
    spill: int = field(default=4 << 20, kw_only=True)
    folder: str | None = field(default=None, kw_only=True)
    name: str = field(default="DicomNode", kw_only=True)
    _landing: Landing | None = field(init=False, default=None, repr=False)
    _lock: Any = field(init=False, factory=Lock, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.retrieve == "move" and self.tls:
            raise ConfigError("retrieve: what is moved here would come without TLS; use get")
        if self.move_aet:
            check_ae_title(self.move_aet)

    def connect(
        self, contexts: list[tuple[str, Sequence[str]]], provides: Mapping[str, bool] | None = None
    ) -> NodeAssociation:
        """Return a new association, not yet open."""
        return NodeAssociation(
            self.host,
            self.port,
            contexts,
            aet=self.aet,
            called_aet=self.aec,
            timeout=self.timeout[1],
            connect_timeout=self.timeout[0],
            tls=tls_context(verify=self.verify, cert=self.cert) if self.tls else None,
            provides=provides or {},
            spill=self.spill,
            folder=self.folder,
        )

    # storing

    def _put(self, dixel: Dixel) -> str:
        (outcome,) = StoreJob(self).run([dixel])
        if outcome.error is not None:
            raise outcome.error
        return outcome.id

    def put_many(self, items: Iterable[Dixel], *, workers: int = 4) -> Iterator[Outcome]:
        """Put items as they come over ``workers`` associations, and yield an outcome for each in their order."""
        return StoreJob(self).stream(items, workers)

    def same(self, uids: Uids, blob: Blob) -> bool:
        """Tell whether the node keeps the same data set as a file; raises when it cannot be fetched."""
        ref = Ref(DicomLevel.INSTANCES, study=uids[0], series=uids[1], instance=uids[2])
        with closing(self._pull(ref)) as found:
            kept = next(found).blob
        if kept is None:
            return False
        try:
            return same_data_set(kept, blob)
        finally:
            kept.close()

    # fetching

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        if DixelView.FILE not in view and DixelView.PIXELS not in view:
            return DicomQR._get(self, ref, view)
        if ref.level != DicomLevel.INSTANCES:
            raise InvalidItem(f"{self.name}: files and pixels belong to instances; pull a {ref.level.singular}")
        (found,) = self._pull(ref)
        return with_view(found, view)

    def _exists(self, ref: Ref) -> bool:
        keys = {key: uid for key, uid in self._by_ref(ref).match.items() if uid} if self._named(ref) else {}
        if len(keys) < max(1, ref.level - 1):
            return DicomQR._exists(self, ref)
        with self.connect(node_contexts()) as association:
            return any(self._is(row, keys) for row in list(association.find(ref.level, keys)))

    @staticmethod
    def _is(row: Mapping[str, Any], keys: Mapping[str, str]) -> bool:
        return all(str(row.get(key, uid)) == uid for key, uid in keys.items())

    def _named(self, ref: Ref) -> bool:
        uids = (ref.study, ref.series, ref.instance)[: ref.level - 1]
        return ref.level > DicomLevel.PATIENTS and all(map(is_uid, uids))

    def members(self, item: Item) -> list[Dixel]:
        """Return the instances of an item as the node lists them. Raises ItemNotFound when it has none."""
        ref = self.ref(item)
        found = list(self._find(Query(self._by_ref(ref).match, DicomLevel.INSTANCES)))
        if not found:
            raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
        return found

    def _pull(self, ref: Ref) -> Generator[Dixel, None, None]:
        ref = Ref.from_tags(self._by_ref(ref).match, ref.level)
        listed = self._listed(ref)
        expected = None if listed is None else [str(one.tags["SOPInstanceUID"]) for one in listed]
        classes = sorted({str(one.tags.get("SOPClassUID") or "") for one in listed or ()})
        below = [ref] if listed is None else [one.ref for one in listed]
        targets = dict.fromkeys(self._target(one, ref.level) for one in below)
        fetch = self._got if self.retrieve == "get" else self._moved
        job = Retrieval(self.name, expected)
        most = UNLISTED if expected is None else 2 * len(expected) + MORE
        yield from job.run([Unit(_padded(one), partial(fetch, one, classes, most)) for one in targets])

    def _listed(self, ref: Ref) -> list[Dixel] | None:
        """
        Return the instances of an item; None when the node has the item and does not tell them.

        Without the list what comes is all that anybody knows. Raises ItemNotFound.
        """
        try:
            return self.members(ref)
        except (GatewayRefused, ItemNotFound):
            if ref.level == DicomLevel.INSTANCES or not self._named(ref) or not self._exists(ref):
                raise
            return None

    @staticmethod
    def _target(one: Ref, level: DicomLevel) -> tuple[str, ...]:
        """Return the UIDs of what one request asks for: the item above an instance at the level that is wanted."""
        depth = max(level, DicomLevel.STUDIES) - 1
        return (one.study, one.series, one.instance)[:depth]

    def _got(self, uids: tuple[str, ...], classes: list[str], most: int) -> Generator[Blob, None, None]:
        contexts, provides = retrieve_contexts(classes)
        keys = dict(zip(UIDS, uids, strict=False))
        with self.connect(contexts, provides) as association:
            yield from self._counted(association.get(DicomLevel(len(uids) + 1), keys), most)

    def _counted(self, blobs: Generator[Blob, None, None] | Arrivals, most: int) -> Generator[Blob, None, None]:
        """Pass files on. Raises GatewayAnswerError when they are many more than the node lists."""
        for count, blob in enumerate(blobs):
            if count >= most:
                blob.close()
                raise GatewayAnswerError(f"{self.name}: the node sends without end, more than {most} instances")
            yield blob

    def _moved(self, uids: tuple[str, ...], _classes: list[str], most: int) -> Generator[Blob, None, None]:
        landing = self._landed()
        with landing.turn(self.timeout[1]):
            arrivals = landing.expect()
            association = self.connect(node_contexts(operations=[STUDY_MOVE]))
            association.open()
            keys = dict(zip(UIDS, uids, strict=False))
            work: Callable[[], Counts] = partial(
                association.move,
                DicomLevel(len(uids) + 1),
                keys,
                self.move_aet or self.aet,
                alive=lambda: arrivals.last,
            )
            thread = Thread(target=_run, args=(work, arrivals), name="dicom-move", daemon=True)
            thread.start()
            done = False
            try:
                yield from self._counted(arrivals, most)
                done = True
            finally:
                if not done:
                    association.hang_up()
                landing.no_more()
                thread.join()
                association.close(abort=not done)

    def _landed(self) -> Landing:
        with self._lock:
            if self._landing is None:
                places = networks(self.move_addresses)
                self._landing = Landing(
                    self.move_aet or self.aet, self.move_host, self.move_port, places, spill=self.spill,
                    folder=self.folder,
                )  # fmt: skip
            self._landing.open()
            return self._landing

    def move(self, item: Item, dest_aet: str, *, dest: Endpoint | None = None) -> Counts:
        """
        Have the node send an item straight to another, which it must know as ``dest_aet``; return how it went.

        Nodes report success for what they never sent: with ``dest``, an endpoint for the same destination, each
        instance is looked for there. Raises IncompleteTransfer with what is not there, GatewayRefused.
        """
        ref = self.ref(item)
        listed = self.members(ref)
        done = failed = warnings = 0
        failures: list[str] = []
        for uids in dict.fromkeys(self._target(one.ref, ref.level) for one in listed):
            keys = dict(zip(UIDS, uids, strict=False))
            try:
                with self.connect(node_contexts(operations=[STUDY_MOVE])) as association:
                    found = association.move(DicomLevel(len(uids) + 1), keys, dest_aet)
                done, failed, warnings = done + found.completed, failed + found.failed, warnings + found.warnings
            except IncompleteTransfer as error:
                if dest is None:
                    raise
                failures += error.missing
        self._prove(listed, done + warnings, dest)
        return Counts(done, failed, warnings, tuple(failures))

    def _prove(self, listed: list[Dixel], sent: int, dest: Endpoint | None) -> None:
        missing: list[str] = []
        uids = [one.ref.instance for one in listed]
        if dest is not None:
            missing = [one.ref.instance for one in listed if not dest.exists(one.ref)]
        elif 0 < sent < len(listed):
            raise IncompleteTransfer(f"{self.name}: only {sent} of {len(listed)} instances were sent")
        if missing:
            there = [uid for uid in uids if uid not in set(missing)]
            text = f"{self.name}: {len(missing)} of {len(uids)} instances did not reach the destination"
            raise IncompleteTransfer(text, missing, there)

    def close(self) -> None:
        """Close the port for what is moved here; the endpoint may be used again."""
        with self._lock:
            landing, self._landing = self._landing, None
        if landing is not None:
            landing.close()


def _padded(uids: tuple[str, ...]) -> Uids:
    study, series, instance = (*uids, "", "")[:3]
    return study, series, instance


def _run(work: Callable[[], Counts], arrivals: Arrivals) -> None:
    """Tell the one that waits for arrivals how the retrieval ended."""
    try:
        work()
    except DianaError as error:
        arrivals.end(error)
    except Exception as error:  # noqa: BLE001  # nobody else would hear of it
        arrivals.end(GatewayAnswerError(f"the retrieval failed ({type(error).__name__})"))
    else:
        arrivals.end()


def same_data_set(one: Blob, two: Blob) -> bool:
    """
    Tell whether two files hold the same data set.

    In different transfer syntaxes everything is compared but pixels and lengths of groups. Raises InvalidItem.
    """
    from diana.utils.gateways.dimse_scu import outgoing

    first, second = outgoing(one), outgoing(two)
    if first.transfer_syntax == second.transfer_syntax:
        if len(one) - first.offset != len(two) - second.offset:
            return False
        with one.open() as left, two.open() as right:
            left.seek(first.offset)
            right.seek(second.offset)
            while piece := left.read(1 << 20):
                if right.read(len(piece)) != piece:
                    return False
        return True
    return bool(_values(one) == _values(two))


def _values(blob: Blob) -> Any:
    from pydicom import dcmread

    try:
        with blob.open() as stream:
            ds = dcmread(BytesIO(stream.read()) if blob.path is None else stream, stop_before_pixels=True)
        return {key: value for key, value in ds.to_json_dict(suppress_invalid_tags=True).items() if key[4:] != "0000"}
    except Exception:  # noqa: BLE001  # pydicom fails in many ways on damaged files, each meaning the same here
        raise InvalidItem("a file cannot be compared with what is stored") from None
