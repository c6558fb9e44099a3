"""Frames of an instance, as stored or decoded, read from its file without the rest of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final  # Any: data sets and arrays

from attrs import define, field

from diana.exceptions import InvalidItem, Unsupported
from diana.server.asked import Refusal
from diana.utils.blob import PIECE, Blob
from diana.utils.dicom.header import Header, read_header
from diana.utils.lazy import parent_first

IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
NATIVE: Final = frozenset((IMPLICIT, EXPLICIT))
BIG: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
UNDEFINED: Final = 0xFFFFFFFF
TAGS: Final = (
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames", "PhotometricInterpretation",
)  # fmt: skip
KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70)), "image/jpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in (80, 81)), "image/jls"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in (92, 93)), "image/jpx"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)), "image/jphc"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in (100, 101)), "video/mpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in (102, 103, 104, 105, 106)), "video/mp4"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in (107, 108)), "video/H265"),
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}


def no_pixels(why: str = "the instance has no pixels that can be given so") -> Refusal:
    """Return the refusal of pixels."""
    return Refusal(406, why)


@define(eq=False)
class Pixels:
    """
    Read the pixels of a file. Raises Refusal (406) when there are none that can be read.

    ``start`` is where the value begins, ``length`` its length, undefined when it is encapsulated.
    """

    blob: Blob
    header: Header = field(init=False)
    start: int = field(init=False, default=0)
    length: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        with self.blob.open() as stream:
            self.header = read_header(stream, TAGS)
            if self.header.pixel_offset is None or self.syntax in (BIG, DEFLATED):
                raise no_pixels()
            stream.seek(self.header.pixel_offset)
            head = stream.read(12)
            if len(head) < 12:
                raise no_pixels()
            explicit = self.syntax != IMPLICIT and head[4:6].isalpha()
            self.length = struct.unpack_from("<I", head, 8 if explicit else 4)[0]
            self.start = self.header.pixel_offset + (12 if explicit else 8)
        if self.length != UNDEFINED and self.start + self.length > len(self.blob):
            raise no_pixels("the stored instance is not whole")

    @property
    def syntax(self) -> str:
        """Return the transfer syntax."""
        return self.header.transfer_syntax

    @property
    def encapsulated(self) -> bool:
        """Tell whether the pixels are compressed."""
        return self.length == UNDEFINED

    @property
    def kind(self) -> str:
        """Return the media type of a stored frame."""
        return KINDS.get(self.syntax, "application/octet-stream") if self.encapsulated else "application/octet-stream"

    def number(self, keyword: str, default: int) -> int:
        """Return a whole number of the header. Raises Refusal (406)."""
        text = self.header.get(keyword, "").split("\\")[0].strip() or str(default)
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise no_pixels()
        return int(text)

    @property
    def count(self) -> int:
        """Return how many frames there are."""
        return max(1, self.number("NumberOfFrames", 1))

    def frame_bits(self) -> int:
        """Return how many bits an uncompressed frame takes."""
        samples = self.number("SamplesPerPixel", 1)
        bits = self.number("Rows", 0) * self.number("Columns", 0) * samples * self.number("BitsAllocated", 8)
        return bits * 2 // 3 if self.header.get("PhotometricInterpretation", "").strip() == "YBR_FULL_422" else bits

    def stored(self, frame: int) -> Iterator[bytes]:
        """Yield a frame, counted from 1, as it is stored. Raises Refusal."""
        if self.encapsulated:
            yield self._fragmented(frame)
            return
        bits = self.frame_bits()
        if not bits or (bits % 8 and self.count > 1):
            raise no_pixels()
        size = (bits + 7) // 8
        yield from self.range((frame - 1) * size, size)

    def size(self, frame: int) -> int | None:
        """Return the length in bytes of a stored frame, None when it is compressed."""
        if self.encapsulated:
            return None
        size = (self.frame_bits() + 7) // 8
        if not size or frame * size > self.length:
            raise no_pixels("the stored instance is not whole")
        return size

    def range(self, at: int, size: int) -> Iterator[bytes]:
        """Yield some bytes of the value."""
        with self.blob.open() as stream:
            stream.seek(self.start + at)
            while size and (piece := stream.read(min(size, PIECE))):
                size -= len(piece)
                yield piece

    def _fragmented(self, frame: int) -> bytes:
        parent_first("pydicom")
        from pydicom.encaps import get_frame

        try:
            with self.blob.open() as stream:
                stream.seek(self.start)
                return get_frame(stream, frame - 1, number_of_frames=self.count)
        except Exception:  # noqa: BLE001  # pydicom raises many types for damaged fragments
            raise no_pixels("the frames cannot be told apart") from None

    def decoded(self, frame: int, most: int) -> Any:
        """Return a frame as an array of the stored values. Raises Refusal, Unsupported without the decoder."""
        if self.frame_bits() // 8 > most:
            raise no_pixels("a frame is too large to be decoded")
        parent_first("pydicom")
        from pydicom.pixels.utils import pixel_array

        try:
            with self.blob.open() as stream:
                return pixel_array(stream, index=frame - 1, raw=False)
        except (RuntimeError, NotImplementedError):
            raise no_pixels("the pixels cannot be decoded here") from None
        except Exception:  # noqa: BLE001  # decoders raise any type for damaged pixels
            raise no_pixels("the pixels cannot be decoded") from None


def transcoded(blob: Blob, syntaxes: tuple[str, ...] | None, most: int) -> Blob:
    """
    Return a file in one of some transfer syntaxes; as it is when it already is, or when any will do.

    Only the two uncompressed ones can be made. Raises Refusal (406).
    """
    if syntaxes is None:
        return blob
    with blob.open() as stream:
        stored = read_header(stream, ("SOPInstanceUID",)).transfer_syntax
    if stored in syntaxes:
        return blob
    target = next((one for one in syntaxes if one in NATIVE), "")
    if not target or len(blob) > most:
        raise no_pixels("the instance cannot be given in this transfer syntax")
    with blob.open() as stream:
        return Blob(_written(stream, target, most))


def _written(stream: BinaryIO, target: str, most: int) -> bytes:
    from io import BytesIO

    from pydicom import dcmread
    from pydicom.uid import UID

    try:
        ds = dcmread(stream, force=True)
        if ds.file_meta.TransferSyntaxUID.is_compressed and "PixelData" in ds:
            size = int(ds.Rows) * int(ds.Columns) * int(ds.get("SamplesPerPixel") or 1) * int(ds.BitsAllocated) // 8
            if size * int(ds.get("NumberOfFrames") or 1) > most:
                raise InvalidItem("too large")
            ds.decompress(generate_instance_uid=False)
        out = BytesIO()
        ds.file_meta.TransferSyntaxUID = UID(target)
        ds.save_as(out, implicit_vr=target == IMPLICIT, little_endian=True, enforce_file_format=True)
    except Exception:  # noqa: BLE001  # pydicom and decoders raise any type
        raise no_pixels("the instance cannot be given in this transfer syntax") from None
    return out.getvalue()


def require_pillow() -> Any:
    """Return Pillow's Image module. Raises Unsupported without it."""
    try:
        from PIL import Image
    except ImportError:
        raise Unsupported("pictures need Pillow; pip install 'python-diana[images]'") from None
    return Image
