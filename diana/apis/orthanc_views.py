"""Reading from an Orthanc: the parts of one resource, and the files of many."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from threading import Lock

from diana.dixel import Dixel, DixelView
from diana.exceptions import GatewayConnectionError, IncompleteTransfer, InvalidItem, ItemNotFound
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel
from diana.utils.gateways.orthanc import Orthanc as Gateway
from diana.utils.pool import bounded_map


def read_views(gateway: Gateway, oid: str, level: DicomLevel, view: DixelView, meta_keys: Sequence[str]) -> Dixel:
    """
    Return the asked parts of a resource, one request each.

    METAKV is put into ``meta``; ``meta_keys`` limits it. FILE above the instances is a ZIP of all files. Raises
    ItemNotFound, InvalidItem for pixels above the instances.
    """
    if DixelView.PIXELS in view and level != DicomLevel.INSTANCES:
        raise InvalidItem(f"{gateway.name}: pixels belong to instances; pull a {level.singular.lower()}")
    tags = gateway.tags(oid, level) if DixelView.TAGS in view else {}
    found = Dixel(tags={key: value for key, value in tags.items() if value is not None}, level=level)
    if tags:
        found.simplify_tags()
    if DixelView.META in view:
        found.meta.update(gateway.resource(oid, level))
    if DixelView.METAKV in view:
        known = gateway.metadata(oid, level)
        found.meta.update({key: known[key] for key in meta_keys or known if key in known})
    found.meta["ID"] = oid
    if DixelView.FILE in view or DixelView.PIXELS in view:
        found.blob = gateway.file(oid) if level == DicomLevel.INSTANCES else _archive(gateway, oid, level)
    if DixelView.PIXELS in view and found.blob is not None:
        _add_pixels(found, found.blob, keep=DixelView.FILE in view)
    return found


def _archive(gateway: Gateway, oid: str, level: DicomLevel) -> Blob:
    """Return the ZIP of a resource; its end is looked for, because the server sends no length."""
    blob = gateway.archive(oid, level)
    try:
        with blob.open() as stream:
            whole = zipfile.is_zipfile(stream)
    except BaseException:
        blob.close()
        raise
    if not whole:
        blob.close()
        raise GatewayConnectionError(f"{gateway.name}: the archive ended early")
    return blob


def _add_pixels(found: Dixel, blob: Blob, *, keep: bool) -> None:
    from diana.dixel.convert import element_values
    from diana.utils.gateways.file_handlers.dcm_file import parse, pixel_array

    try:
        with blob.open() as stream:
            ds = parse(stream, pixels=True)
            found.pixels = pixel_array(ds)
        # without slope and intercept nobody could read the values
        found.tags = {**element_values(ds), **found.tags}
    finally:
        if not keep:
            found.blob = None
            blob.close()


def pull_instances(gateway: Gateway, oid: str, level: DicomLevel, workers: int) -> Iterator[Dixel]:
    """
    Yield the instances of a resource with their files, in the order of the server.

    One request lists them, then ``workers`` connections read ahead, two files each. Large files are temporary ones on
    disk: close the blob when done. Raises ItemNotFound; IncompleteTransfer at the end when instances have vanished.
    """
    if level == DicomLevel.INSTANCES:
        yield _instance(oid, "", gateway.file(oid))
        return
    members = [(str(row.get("ID") or ""), _sop(row)) for row in gateway.members(oid, level)]
    missing: list[str] = []
    received: list[str] = []
    fetcher = _Fetcher(gateway)
    results = bounded_map(fetcher.fetch, members, workers=min(workers, len(members)))
    try:
        for member, sop, blob in results:
            if blob is None:
                missing.append(sop)
                continue
            received.append(sop)
            fetcher.forget(blob)
            yield _instance(member, sop, blob)
    finally:
        results.close()  # type: ignore[attr-defined]  # a generator
        fetcher.close()
    if missing:
        text = f"{gateway.name}: {len(missing)} of {len(members)} instances vanished while they were read"
        raise IncompleteTransfer(text, missing, received)


class _Fetcher:
    """Fetch files in several threads, and remove those that nobody takes."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._waiting: dict[int, Blob] = {}
        self._lock = Lock()

    def fetch(self, member: tuple[str, str]) -> tuple[str, str, Blob | None]:
        try:
            blob = self.gateway.file(member[0])
        except ItemNotFound:
            return *member, None
        with self._lock:
            self._waiting[id(blob)] = blob
        return *member, blob

    def forget(self, blob: Blob) -> None:
        with self._lock:
            self._waiting.pop(id(blob), None)

    def close(self) -> None:
        for blob in self._waiting.values():
            blob.close()


def _sop(row: dict[str, object]) -> str:
    tags = row.get("MainDicomTags")
    return str(tags.get("SOPInstanceUID") or "") if isinstance(tags, dict) else ""


def _instance(oid: str, sop: str, blob: Blob) -> Dixel:
    """Return an instance with the values of its header; one that cannot be read still moves, with what is known."""
    from diana.utils.dicom.header import read_header

    try:
        found = Dixel.from_header(read_header(blob.read() if blob.path is None else blob.path), file=blob)
    except InvalidItem:
        found = Dixel(tags={"SOPInstanceUID": sop} if sop else {}, level=DicomLevel.INSTANCES)
        found.blob = blob
    found.meta["ID"] = oid
    return found
