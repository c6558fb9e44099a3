"""WADO-RS: instances, metadata, frames, pictures and bulk data (PS3.18 10.4)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing as closed
from itertools import chain
from typing import Any, Final, cast  # Any: generators as context

from attrs import define

from diana.dixel import Dixel
from diana.exceptions import InvalidItem, ItemNotFound
from diana.server import pictures
from diana.server.accept import DICOM, JSON, MULTIPART, OCTETS, Wish, chosen, dicom_wish, matches, media_of
from diana.server.archive import Archive
from diana.server.asked import Ask, Refusal, Reply, gathered, json_bytes
from diana.server.limits import Limits
from diana.server.metadata import PIXELS, bulk_value, model_of
from diana.server.pixels import EXPLICIT, Pixels, no_pixels, transcoded
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.dicom.header import read_header
from diana.utils.gateways.multipart_write import closing, content_type, new_boundary, part_head

MAX_FRAMES: Final = 4096
FRAMES: Final = re.compile(r"[0-9]{1,9}(?:,[0-9]{1,9})*\Z")


def blob_of(one: Dixel) -> Blob:
    """Return the file of an instance that an archive gave."""
    if one.blob is None:
        raise ItemNotFound("the instance has no file")
    return one.blob


def dicom_kind(blob: Blob) -> str:
    """Return the media type of a file with its transfer syntax."""
    with blob.open() as stream:
        syntax = read_header(stream, ("SOPInstanceUID",)).transfer_syntax
    return f"{DICOM}; transfer-syntax={syntax}" if syntax else DICOM


def instance_url(base: str, ref: Ref) -> str:
    """Return the address of a study, series or instance."""
    url = f"{base}/dicom-web/studies/{ref.study}"
    url += f"/series/{ref.series}" if ref.series else ""
    return url + (f"/instances/{ref.instance}" if ref.instance else "")


@define(eq=False)
class RetrieveFace:
    """Answer requests for what is stored."""

    archive: Archive
    limits: Limits

    def instances(self, ask: Ask) -> Reply:
        """Answer with the files of a study, series or instance, in parts or, for an instance, alone."""
        ref = ask.ref()
        wish = dicom_wish(ask.accept(), single=ref.level == DicomLevel.INSTANCES)
        if ref.level == DicomLevel.INSTANCES:
            return self.single(self.archive.one(ref), wish)
        boundary = new_boundary()
        body = gathered(self._parts(self.archive.instances(ref), wish, boundary))
        return Reply(body, content_type(boundary, DICOM))

    def single(self, one: Dixel, wish: Wish) -> Reply:
        """Answer with one file, in parts or alone."""
        blob = blob_of(one)
        try:
            out = transcoded(blob, wish.syntaxes, self.limits.pixels)
            kind = dicom_kind(out)
        except BaseException:
            blob.close()
            raise
        if not wish.parts:
            return Reply(_then_close(out.pieces(), blob), DICOM, headers={"Content-Length": str(len(out))})
        boundary = new_boundary()
        head, tail = part_head(boundary, {"Content-Type": kind}, len(out), first=True), closing(boundary)
        pieces = gathered(_then_close(chain((head,), out.pieces(), (tail,)), blob))
        length = len(head) + len(out) + len(tail)
        return Reply(pieces, content_type(boundary, DICOM), headers={"Content-Length": str(length)})

    def _parts(self, found: Iterator[Dixel], wish: Wish, boundary: str) -> Iterator[bytes]:
        with closed(cast(Any, found)):
            for number, one in enumerate(found):
                blob = blob_of(one)
                try:
                    out = transcoded(blob, wish.syntaxes, self.limits.pixels)
                    yield part_head(boundary, {"Content-Type": dicom_kind(out)}, len(out), first=not number)
                    yield from out.pieces()
                finally:
                    blob.close()
        yield closing(boundary)

    def metadata(self, ask: Ask) -> Reply:
        """Answer with the attributes of every instance, bulk data as references."""
        kind = chosen(ask.accept(), (JSON, "application/json"))
        found = self.archive.instances(ask.ref())
        return Reply(gathered(self._models(found, ask.base)), kind)

    def _models(self, found: Iterator[Dixel], base: str) -> Iterator[bytes]:
        mark = b"["
        with closed(cast(Any, found)):
            for one in found:
                blob = blob_of(one)
                try:
                    yield mark + json_bytes(model_of(blob, f"{instance_url(base, one.ref)}/bulkdata"))
                finally:
                    blob.close()
                mark = b","
        yield b"]"

    def frames(self, ask: Ask) -> Reply:
        """Answer with some frames, as stored or uncompressed, in parts."""
        numbers = frame_numbers(ask.path.get("frames", ""))
        blob = blob_of(self.archive.one(ask.ref()))
        try:
            pixels = Pixels(blob)
            if max(numbers) > pixels.count:
                raise ItemNotFound("the instance has no such frame")
            raw = _as_stored(pixels, ask.accept())
            boundary = new_boundary()
            kind = pixels.kind if raw else OCTETS
            body = gathered(self._frames(pixels, numbers, boundary, raw))
        except BaseException:
            blob.close()
            raise
        return Reply(body, content_type(boundary, kind))

    def _frames(self, pixels: Pixels, numbers: list[int], boundary: str, raw: bool) -> Iterator[bytes]:
        kind = pixels.kind if raw else OCTETS
        syntax = pixels.syntax if raw and pixels.encapsulated else EXPLICIT
        head = {"Content-Type": f"{kind}; transfer-syntax={syntax}"}
        try:
            for at, number in enumerate(numbers):
                if raw and not pixels.encapsulated:
                    yield part_head(boundary, head, pixels.size(number), first=not at)
                    yield from pixels.stored(number)
                    continue
                data = b"".join(pixels.stored(number)) if raw else _little(pixels.decoded(number, self.limits.pixels))
                yield part_head(boundary, head, len(data), first=not at)
                yield data
            yield closing(boundary)
        finally:
            pixels.blob.close()

    def rendered(self, ask: Ask) -> Reply:
        """Answer with a picture of an instance or frame; for a study or series of the first that can be shown."""
        kind = chosen(ask.accept(), pictures.KINDS)
        look = pictures.look_of(dict(ask.pairs()))
        numbers = frame_numbers(ask.path.get("frames", "1"))
        if len(numbers) > 1:
            raise Refusal(406, "a picture shows one frame")
        found = self.archive.instances(ask.ref())
        with closed(cast(Any, found)):
            for one in found:
                blob = blob_of(one)
                try:
                    pixels = Pixels(blob)
                    if numbers[0] > pixels.count:
                        raise ItemNotFound("the instance has no such frame")
                    return Reply(pictures.picture(pixels, numbers[0], kind, look, self.limits.pixels), kind)
                except Refusal:
                    if "instance" in ask.path:
                        raise
                finally:
                    blob.close()
        raise no_pixels()

    def bulkdata(self, ask: Ask) -> Reply:
        """Answer with the value behind a reference in the metadata."""
        path, accept = ask.path.get("path", ""), ask.accept()
        alone = _alone(accept)
        blob = blob_of(self.archive.one(ask.ref()))
        try:
            if path.upper() not in (PIXELS, "7FE00008", "7FE00009"):
                return _octets(iter((value := bulk_value(blob, path),)), len(value), alone=alone)
            pixels = Pixels(blob)
            if pixels.encapsulated:
                boundary = new_boundary()
                pieces = self._frames(pixels, list(range(1, min(pixels.count, MAX_FRAMES) + 1)), boundary, True)
                return Reply(gathered(pieces), content_type(boundary, pixels.kind))
            return _octets(_then_close(pixels.range(0, pixels.length), blob), pixels.length, alone=alone)
        except BaseException:
            blob.close()
            raise


def frame_numbers(text: str) -> list[int]:
    """Return the numbers of a list of frames. Raises InvalidItem."""
    if not FRAMES.match(text):
        raise InvalidItem("frames are numbers from 1, joined by commas")
    numbers = [int(one) for one in text.split(",")]
    if min(numbers) < 1 or len(numbers) > MAX_FRAMES:
        raise InvalidItem("frames are numbers from 1, joined by commas")
    return numbers


def _as_stored(pixels: Pixels, accept: str) -> bool:
    """Tell whether frames go out as they are stored. Raises Refusal (406) when the client takes neither form."""
    decoded = False
    for one in media_of(accept):
        in_parts = matches(MULTIPART, one.kind)
        inner = one.inner if in_parts and one.kind != "*/*" else "*/*" if one.kind == "*/*" else one.kind
        if matches(pixels.kind, inner) and one.syntax in ("*", pixels.syntax):
            return True
        if matches(OCTETS, inner):
            if not pixels.encapsulated or one.syntax == "*":
                return True
            decoded = decoded or one.syntax == EXPLICIT
    if not decoded:
        raise Refusal(406, f'available are: {MULTIPART}; type="{pixels.kind}" or "{OCTETS}"')
    return False


def _little(values: Any) -> bytes:
    """Return an array in little endian."""
    return bytes(values.astype(values.dtype.newbyteorder("<")).tobytes())


def _alone(accept: str) -> bool:
    """Tell whether bulk data go out outside of parts."""
    for one in media_of(accept):
        if matches(MULTIPART, one.kind) and matches(OCTETS, one.inner) and one.kind != "*/*":
            return False
        if matches(OCTETS, one.kind):
            return True
    raise Refusal(406, f"available is: {OCTETS}, in parts or alone")


def _octets(pieces: Iterator[bytes], length: int, *, alone: bool) -> Reply:
    if alone:
        return Reply(pieces, OCTETS, headers={"Content-Length": str(length)})
    boundary = new_boundary()
    head, tail = part_head(boundary, {"Content-Type": OCTETS}, length, first=True), closing(boundary)
    total = len(head) + length + len(tail)
    return Reply(
        gathered(chain((head,), pieces, (tail,))),
        content_type(boundary, OCTETS),
        headers={"Content-Length": str(total)},
    )


def _then_close(pieces: Iterator[bytes], blob: Blob) -> Iterator[bytes]:
    try:
        yield from pieces
    finally:
        blob.close()
