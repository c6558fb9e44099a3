"""Instances as they come over the web: each looked at, and all of them counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from threading import Lock
from typing import Any

from attrs import define, field, frozen

from diana.apis._streams import side_by_side
from diana.apis._web import Uids
from diana.dixel import Dixel, DixelView
from diana.exceptions import (
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
)
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel
from diana.utils.dicom.header import DEFAULT_TAGS, Header, read_header
from diana.utils.dicom.structure import check_whole

log = logging.getLogger(__name__)

EXPLICIT_LE = "1.2.840.10008.1.2.1"
PIXEL_DATA = b"\xe0\x7f\x10\x00"
SIZES = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation")
TAGS = tuple(dict.fromkeys((*DEFAULT_TAGS, *SIZES)))
# instances that wait for their consumer, in memory up to where they spill
ROOM = 8
PASSING = (GatewayConnectionError, GatewayAnswerError, GatewayRefused, IncompleteTransfer)


@frozen
class Unit:
    """One request: the UIDs that every instance of its answer must have, and how to open it."""

    uids: Uids
    open: Callable[[], Generator[Blob, None, None]]


class Damaged(InvalidItem):
    """Say that an instance is not whole; ``instance`` is its UID when that could be read."""

    def __init__(self, message: str, instance: str = "") -> None:
        super().__init__(message)
        self.instance = instance


def checked(name: str, uids: Uids, blob: Blob) -> Dixel:
    """
    Return an instance with the values of its header.

    Its structure must be whole to the end (Damaged), and it must be what was asked for (GatewayAnswerError). The blob
    is closed when it is refused.
    """
    try:
        return _checked(name, uids, blob)
    except BaseException:
        blob.close()
        raise


def _checked(name: str, uids: Uids, blob: Blob) -> Dixel:
    data = blob if blob.path is not None else Blob(blob.read())
    try:
        header = _whole(name, uids, data)
    except Damaged:
        raise
    except (InvalidItem, OSError):
        raise GatewayAnswerError(f"{name}: the server sent what is not DICOM") from None
    for wanted, uid in zip(uids, (header.study, header.series, header.instance), strict=True):
        if wanted and wanted != uid:
            raise GatewayAnswerError(f"{name}: the server sent an instance that was not asked for")
    if not header.instance:
        raise Damaged(f"{name}: an instance has no SOP Instance UID")
    found = Dixel({"TransferSyntaxUID": header.transfer_syntax}, header.as_dict(), DicomLevel.INSTANCES)
    found.blob = data
    return found


def _whole(name: str, uids: Uids, data: Blob) -> Header:
    """Return the header of an instance whose structure was checked to its end. Raises Damaged, InvalidItem, OSError."""
    if data.path is None:
        content = data.read()
        header = read_header(content, TAGS)
        if _ends_with_pixels(content, header):
            return header
    whole = check_whole(data.read() if data.path is None else data.path)
    if whole.header is None:
        raise Damaged(f"{name}: an instance is not whole: {whole.reason}", uids[2] or _uid_of(data))
    return whole.header


def _ends_with_pixels(content: bytes, header: Header) -> bool:
    """
    Tell whether this is the commonest whole file: native pixels that end it, as many as the header announces.

    Whatever is not so is not damaged yet: the thorough check is to say.
    """
    at = header.pixel_offset
    if at is None or header.transfer_syntax != EXPLICIT_LE or content[at : at + 4] != PIXEL_DATA:
        return False
    length = int.from_bytes(content[at + 8 : at + 12], "little")
    if at + 12 + length != len(content) or header.get("PhotometricInterpretation", "").endswith("_422"):
        return False
    try:
        rows, columns, bits = int(header["Rows"]), int(header["Columns"]), int(header["BitsAllocated"])
        samples, frames = int(header.get("SamplesPerPixel") or 1), int(header.get("NumberOfFrames") or 1)
    except (KeyError, ValueError):
        return False
    return 0 < rows * columns * samples * frames * bits <= length * 8


def _uid_of(blob: Blob) -> str:
    try:
        return read_header(blob.read() if blob.path is None else blob.path).instance
    except (InvalidItem, OSError):
        return ""


@define(eq=False)
class Retrieval:
    """
    Fetch instances by one or several requests and prove that all came.

    ``expected`` are the SOP Instance UIDs that should come, None when nobody knows; ``ask`` is asked for them when
    something went wrong and they are not known. ``count`` is how many should come, when only that is known. One
    request that breaks does not stop the others.
    """

    name: str
    expected: Collection[str] | None = None
    count: int = 0
    ask: Callable[[], Collection[str]] | None = None
    workers: int = 1
    received: list[str] = field(init=False, factory=list)
    _seen: set[str] = field(init=False, factory=set)
    _damaged: list[str] = field(init=False, factory=list)
    _trouble: list[DianaError] = field(init=False, factory=list)
    _lock: Any = field(init=False, factory=Lock)

    def run(self, units: Sequence[Unit]) -> Iterator[Dixel]:
        """
        Yield the instances as they come, each once.

        Raises at the end ItemNotFound when nothing is there, IncompleteTransfer with what is missing and what came.
        """
        streams = [partial(self._unit, unit) for unit in units]
        if self.workers <= 1 or (len(units) <= 1 and all(unit.uids[2] for unit in units)):
            for stream in streams:
                for found in stream():
                    self.received.append(str(found.tags["SOPInstanceUID"]))
                    yield found
        else:
            # also for a single stream: it is read while its consumer works
            for found in side_by_side(streams, workers=self.workers, room=max(ROOM, self.workers), drop=_drop):
                self.received.append(str(found.tags["SOPInstanceUID"]))
                yield found
        self._finish()

    def _unit(self, unit: Unit) -> Iterator[Dixel]:
        try:
            with closing(unit.open()) as blobs:
                for blob in blobs:
                    found = self._taken(unit, blob)
                    if found is not None:
                        yield found
        except (*PASSING, ItemNotFound) as error:
            with self._lock:
                self._trouble.append(error)

    def _taken(self, unit: Unit, blob: Blob) -> Dixel | None:
        """Return a checked instance; None for one that is damaged or came before."""
        try:
            found = checked(self.name, unit.uids, blob)
        except Damaged as error:
            log.warning("%s", error)
            with self._lock:
                self._damaged.append(error.instance)
            return None
        uid = str(found.tags["SOPInstanceUID"])
        with self._lock:
            again = uid in self._seen
            self._seen.add(uid)
        if again:
            _drop(found)
            return None
        return found

    def _finish(self) -> None:
        came = set(self.received)
        wrong = bool(self._trouble or self._damaged)
        if not came and not self._damaged and self._trouble:
            worst = self._worst()
            if not self.expected or isinstance(worst, GatewayRefused):
                raise worst
        if not came and not wrong and not self.expected:
            raise ItemNotFound(f"{self.name}: the server has no instances of it")
        expected = self.expected
        if expected is None and self.ask is not None and (wrong or len(came) < self.count):
            expected = self._asked()
        missing = [uid for uid in expected or self._damaged if uid not in came and uid]
        if not wrong and not missing and len(came) >= self.count:
            return
        total = len(expected) if expected else self.count
        of = f" of {total}" if total else ""
        reason = f": {self._worst()}" if self._trouble else "; some were damaged" if self._damaged else ""
        text = f"{self.name}: only {len(came)}{of} instances came whole{reason}"
        raise IncompleteTransfer(text, missing, self.received)

    def _worst(self) -> DianaError:
        """Return the first trouble that is more than an absence."""
        return next((one for one in self._trouble if not isinstance(one, ItemNotFound)), self._trouble[0])

    def _asked(self) -> Collection[str] | None:
        try:
            return self.ask() if self.ask is not None else None
        except DianaError:
            return None


def _drop(found: Dixel) -> None:
    if found.blob is not None:
        found.blob.close()


def with_view(found: Dixel, view: DixelView) -> Dixel:
    """Return an instance that has its file with the asked parts: all its tags, its pixels; the file only if asked."""
    from diana.dixel.convert import element_values
    from diana.utils.gateways.file_handlers.dcm_file import parse, pixel_array

    blob = found.blob
    if blob is None or not (DixelView.TAGS in view or DixelView.PIXELS in view):
        return found
    try:
        with blob.open() as stream:
            ds = parse(stream, pixels=DixelView.PIXELS in view)
            found.tags = {**found.tags, **element_values(ds)}
            if DixelView.PIXELS in view:
                found.pixels = pixel_array(ds)
    finally:
        if DixelView.FILE not in view:
            found.blob = None
            blob.close()
    return found
