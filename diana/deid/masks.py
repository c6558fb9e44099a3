"""Blank rectangles of an image, frame by frame; what is compressed is written anew without compression."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final  # pydicom's options and arrays may be of any type

from diana.deid.layout import KEYS, SUBSAMPLED, Layout
from diana.deid.pixel_rules import Rectangle
from diana.exceptions import InvalidItem
from diana.utils.blob import PIECE, Blob
from diana.utils.dicom import Header, read_header
from diana.utils.lazy import parent_first

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

IN_MEMORY: Final = 64 << 20
MAX_VALUE: Final = 0xFFFFFFFE
_IMPLICIT: Final = "1.2.840.10008.1.2"
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
_BIG: Final = "1.2.840.10008.1.2.2"
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_UNDEFINED: Final = 0xFFFFFFFF
_FIRST_PIXEL_TAG: Final = 0x7FE00001


def mask(blob: Blob, rectangles: Sequence[Rectangle]) -> Blob:
    """
    Return a file in which rectangles of every frame are black.

    Native pixels keep their transfer syntax and are rewritten in place; others, deflated ones too, are decoded and
    written as explicit VR little endian with the photometric interpretation and bits that decoding gives. Memory does
    not grow with the frames; a large result is a file that ``close`` removes. The rest of the header stays: markers
    are for the caller, and so is the icon image, which shows the same. Raises InvalidItem when the pixels cannot be
    read, their decoder is not installed, or nothing lies inside the image.
    """
    header = _header(blob)
    layout = Layout.of(header)
    inside = [part for one in rectangles if (part := one.clipped(layout.columns, layout.rows)) is not None]
    if not inside:
        raise InvalidItem("no rectangle lies inside the image")
    if header.transfer_syntax in (_IMPLICIT, _EXPLICIT, _BIG, ""):
        return _native(blob, header, layout, inside)
    return _decoded(blob, header, layout, inside)


def _header(blob: Blob) -> Header:
    with blob.open() as stream:
        return read_header(stream if blob.path is not None else blob.read(), KEYS)


@contextlib.contextmanager
def _sink(size: int) -> Iterator[tuple[BinaryIO, list[Blob]]]:
    """Give a writer in memory or on disk, and a list that holds the blob afterwards."""
    made: list[Blob] = []
    if size <= IN_MEMORY:
        memory = io.BytesIO()
        yield memory, made
        made.append(Blob(memory.getvalue()))
        return
    handle, name = tempfile.mkstemp(prefix="diana-mask-")
    try:
        with os.fdopen(handle, "wb") as out:
            yield out, made
        made.append(Blob(name, owned=True))
    finally:
        if not made:
            Path(name).unlink(missing_ok=True)


def _native(blob: Blob, header: Header, layout: Layout, rectangles: Sequence[Rectangle]) -> Blob:
    if header.pixel_offset is None:
        raise InvalidItem("the file has no pixels to mask")
    with blob.open() as stream, _sink(len(blob)) as (out, made):
        head, vr, big, length = _pixel_head(stream, header.pixel_offset)
        if length == _UNDEFINED:
            raise InvalidItem("the pixels are encapsulated although the transfer syntax is native")
        stream.seek(0)
        _copy(stream, out, header.pixel_offset + head)
        swapped = big and layout.bits == 8 and vr == b"OW"
        left = length
        for data, frames in _groups(stream, layout, left):
            out.write(_blanked(data, frames, layout, rectangles, big=big, swapped=swapped))
            left -= len(data)
        if left:  # what follows the last frame is no image
            out.write(bytes(min(left, PIECE)))
            left = _skip(stream, out, left)
        _copy(stream, out, len(blob))
    return made[0]


def _pixel_head(stream: BinaryIO, offset: int) -> tuple[int, bytes, bool, int]:
    """Return size of the element's head, VR, byte order and length of the value."""
    stream.seek(offset)
    head = stream.read(12)
    big = head[:2] == b"\x7f\xe0"
    explicit = head[4:6].isalpha() and head[4:6].isupper() and head[6:8] == b"\0\0"
    length = int.from_bytes(head[8:12] if explicit else head[4:8], "big" if big else "little")
    return (12 if explicit else 8), head[4:6] if explicit else b"OW", big, length


def _copy(stream: BinaryIO, out: BinaryIO, size: int) -> None:
    while size > 0 and (piece := stream.read(min(PIECE, size))):
        out.write(piece)
        size -= len(piece)


def _skip(stream: BinaryIO, out: BinaryIO, size: int) -> int:
    """Write zeros for what is left out of the pixels."""
    stream.seek(size, os.SEEK_CUR)
    size -= min(size, PIECE)
    while size > 0:
        out.write(bytes(min(PIECE, size)))
        size -= min(size, PIECE)
    return size


def _groups(stream: BinaryIO, layout: Layout, length: int) -> Iterator[tuple[bytearray, int]]:
    """Yield the bytes of one frame, or of eight where frames do not end with a byte. Raises InvalidItem when cut."""
    if (layout.frame_bits * layout.frames + 7) // 8 > length:
        raise InvalidItem("the pixel data are shorter than rows, columns and frames announce")
    together = 8 if layout.frame_bits % 8 else 1
    for first in range(0, layout.frames, together):
        frames = min(together, layout.frames - first)
        size = (layout.frame_bits * frames + 7) // 8
        data = bytearray(stream.read(size))
        if len(data) < size:
            raise InvalidItem("the file ends inside the pixels")
        yield data, frames


def _blanked(
    data: bytearray, frames: int, layout: Layout, rectangles: Sequence[Rectangle], *, big: bool, swapped: bool
) -> bytearray:
    import numpy as np

    if layout.bits == 1:
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        size = layout.frame_bits * frames
        images = bits[:size].reshape(frames, layout.rows, layout.columns)
        for one in rectangles:
            images[:, one.y : one.y + one.height, one.x : one.x + one.width] = layout.fill[0]
        return bytearray(np.packbits(bits, bitorder="little").tobytes()[: len(data)])
    if swapped and len(data) % 2:
        raise InvalidItem("big endian words of odd frames cannot be masked")
    kind = np.dtype(f"{'>' if big else '<'}{'i' if layout.signed else 'u'}{layout.bits // 8}")
    if swapped:
        np.frombuffer(data, "<u2").byteswap(inplace=True)
    blank(np.frombuffer(data, kind), layout, rectangles)
    if swapped:
        np.frombuffer(data, "<u2").byteswap(inplace=True)
    return data


def blank(samples: NDArray[Any], layout: Layout, rectangles: Sequence[Rectangle]) -> None:
    """Blank rectangles in the flat samples of one frame, in place."""
    import numpy as np

    fill = np.array(layout.fill, samples.dtype)
    if layout.subsampled:
        if layout.columns % 2:
            raise InvalidItem("an image of odd width cannot share colours between pixels")
        pairs = samples.reshape(layout.rows, layout.columns // 2, 4)
        for one in rectangles:
            pairs[one.y : one.y + one.height, one.x // 2 : (one.x + one.width + 1) // 2] = SUBSAMPLED[
                layout.photometric
            ]
    elif layout.planar and layout.samples > 1:
        planes = samples.reshape(layout.samples, layout.rows, layout.columns)
        for one in rectangles:
            planes[:, one.y : one.y + one.height, one.x : one.x + one.width] = fill[:, None, None]
    else:
        image = samples.reshape(layout.rows, layout.columns, layout.samples)
        for one in rectangles:
            image[one.y : one.y + one.height, one.x : one.x + one.width] = fill


def decoded_frames(blob: Blob) -> Iterator[NDArray[Any]]:
    """
    Yield the frames of a file as arrays, colour as RGB, one at a time.

    Raises InvalidItem when the pixels cannot be decoded.
    """
    header = _header(blob)
    layout = Layout.of(header)
    for frame, _ in _frames(blob, header, layout):
        yield frame


def _frames(blob: Blob, header: Header, layout: Layout) -> Iterator[tuple[NDArray[Any], dict[str, Any]]]:
    parent_first("pydicom")
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = UID(header.transfer_syntax or _EXPLICIT)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise InvalidItem("the pixels have a transfer syntax that nothing here decodes") from None
    if not decoder.is_available:
        raise InvalidItem("the decoder for this transfer syntax is not installed; the extra 'images' has some")
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "bits_allocated": layout.bits,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.signed),
        "number_of_frames": layout.frames,
        "pixel_keyword": "PixelData",
    }
    if layout.samples > 1:
        options["planar_configuration"] = int(layout.planar)
    if header.pixel_offset is None:
        raise InvalidItem("the file has no pixels that can be decoded")
    with blob.open() as stream:
        head, vr, _, _ = _pixel_head(stream, header.pixel_offset)
        options["pixel_vr"] = vr.decode("ascii")
        stream.seek(header.pixel_offset + head)
        count = 0
        try:
            if layout.frames == 1:  # the only way that pydicom corrects the sign of JPEG 2000
                found = iter([decoder.as_array(stream, **options)])
            else:
                found = decoder.iter_array(stream, **options)
            for frame, told in found:
                count += 1
                yield frame, dict(told)
        except (GeneratorExit, InvalidItem, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - decoders raise any type for damaged streams
            raise InvalidItem(f"the pixels cannot be decoded ({type(error).__name__})") from None
        if count != layout.frames:
            raise InvalidItem("the pixels have fewer frames than the header announces")


def _decoded(blob: Blob, header: Header, layout: Layout, rectangles: Sequence[Rectangle]) -> Blob:
    if header.transfer_syntax == _DEFLATED:
        return mask(_inflated(blob), rectangles)
    frames = _frames(blob, header, layout)
    first, told = next(frames, (None, {}))
    if first is None:
        raise InvalidItem("the pixels have no frame")
    size = first.nbytes * layout.frames
    if size > MAX_VALUE:
        raise InvalidItem("the pixels are too large without compression")
    plain = _plain_layout(layout, first, told)
    with _sink(size) as (out, made):
        _write_header(out, blob, plain)
        words = plain.bits > 8
        out.write(b"\xe0\x7f\x10\x00" + (b"OW" if words else b"OB") + b"\0\0")
        out.write((size + size % 2).to_bytes(4, "little"))
        _write_frame(out, first, plain, rectangles)
        for frame, _ in frames:
            if frame.nbytes != first.nbytes:
                raise InvalidItem("the frames differ in size")
            _write_frame(out, frame, plain, rectangles)
        out.write(bytes(size % 2))
    return made[0]


def _plain_layout(layout: Layout, frame: NDArray[Any], told: dict[str, Any]) -> Layout:
    """Return the layout of decoded pixels."""
    bits = frame.dtype.itemsize * 8
    if layout.bits == 1:
        raise InvalidItem("compressed pixels of one bit cannot be masked")
    return Layout(
        layout.rows,
        layout.columns,
        layout.samples,
        False,
        bits,
        min(layout.stored, bits),
        min(layout.high, bits - 1),
        bool(told.get("pixel_representation", layout.signed)),
        layout.frames,
        str(told.get("photometric_interpretation", layout.photometric)),
    )


def _write_frame(out: BinaryIO, frame: NDArray[Any], layout: Layout, rectangles: Sequence[Rectangle]) -> None:
    samples = frame.astype(frame.dtype.newbyteorder("<"), copy=True).reshape(-1)
    blank(samples, layout, rectangles)
    out.write(samples.tobytes())


def _read(blob: Blob, *, pixels: bool) -> Dataset:
    from pydicom import dcmread

    with blob.open() as stream:
        try:
            return dcmread(stream, stop_before_pixels=not pixels, force=True)
        except Exception as error:  # noqa: BLE001 - pydicom raises any type for damaged files
            raise InvalidItem(f"the file cannot be read ({type(error).__name__})") from None


def _save(ds: Dataset, out: BinaryIO) -> None:
    parent_first("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian

    try:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if any(getattr(ds.get_item(tag), "VR", "") is None for tag in ds.keys()):  # noqa: SIM118 - a data set is no dict
            ds.walk(lambda inner, element: None)  # gives implicit elements their VR
        ds.save_as(out, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except Exception as error:  # noqa: BLE001 - pydicom raises any type for values that it cannot write
        raise InvalidItem(f"the file cannot be rewritten ({type(error).__name__})") from None


def _write_header(out: BinaryIO, blob: Blob, layout: Layout) -> None:
    ds = _read(blob, pixels=False)
    ds.PhotometricInterpretation = layout.photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = layout.bits, layout.stored, layout.high
    ds.PixelRepresentation = int(layout.signed)
    if layout.samples > 1:
        ds.PlanarConfiguration = 0
    for tag in [one for one in ds.keys() if one >= _FIRST_PIXEL_TAG]:  # noqa: SIM118 - a data set is no dict
        del ds[tag]
    memory = io.BytesIO()
    _save(ds, memory)
    out.write(memory.getvalue())


def _inflated(blob: Blob) -> Blob:
    ds = _read(blob, pixels=True)
    memory = io.BytesIO()
    _save(ds, memory)
    return Blob(memory.getvalue())
