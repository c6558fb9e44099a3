"""Cut an output into what is searched thoroughly (header, what follows the pixels) and what in pieces (pixels)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterator
from typing import BinaryIO, Final, Literal

from attrs import define, field

from diana.deid.scan_context import Region
from diana.deid.scan_places import places
from diana.exceptions import InvalidItem
from diana.utils.blob import PIECE, Blob
from diana.utils.dicom import read_header
from diana.utils.dicom._scan import DEFLATED, Opened, open_dataset
from diana.utils.dicom._source import Window, open_source

PIXEL_PIECE: Final = 1 << 16  # small enough for the processor's cache
MAX_HEAD: Final = 128 << 20
MAX_INFLATED: Final = 256 << 20
MAX_FRAGMENTS: Final = 2_000_000
MUCH_WORK: Final = 100 << 20
_UNDEFINED: Final = 0xFFFFFFFF
_ZEROS: Final = re.compile(rb"\0{4,}")
_LETTERS: Final = re.compile(rb"[0-9a-z]{4}")
_CHARSET: Final = 0x00080005
_LONG_VRS: Final = (b"OB", b"OW", b"OF", b"OD", b"UN")
_ACCENTS: Final = re.compile(rb"[A-Za-z](?:[\xc3-\xc5][\x80-\xbf]|[\xc0-\xff])|\x1b[$(),\-.]")


@define
class Part:
    """Hold a part of an output: its bytes, or the pieces of its pixels. ``start`` counts from the start of the file."""

    label: str
    data: bytes = field(default=b"", repr=False)
    start: int = 0
    pixels: Iterator[bytes] | None = field(default=None, repr=False)

    def regions(self) -> list[Region]:
        """Return the elements in the part, and what no element explains; never raises."""
        data = self.data
        if self.label == "data set":
            return _elements(data, 0, explicit=True, big=False)
        if self.label != "file":
            return [Region(self.label, 0, len(data), [])]
        try:
            opened = _opened(data)
        except InvalidItem:
            return [Region("outside", 0, len(data), [])]
        first = 132 if data[128:132] == b"DICM" else 0
        end = len(data) if opened.deflated is not None else opened.pos
        found = [Region("outside", 0, first, [])] if first else []
        if end > first:
            held, stop = places(data, first, explicit=True, big=False, end=end)
            found.append(Region("file meta", first, stop, held))
        if opened.deflated is None:
            found += _elements(data, opened.pos, explicit=opened.coding.explicit, big=opened.coding.big)
        return found


def _opened(data: bytes) -> Opened:
    window = Window(open_source(data))
    window.load(0)
    return open_dataset(window)


def _elements(data: bytes, pos: int, *, explicit: bool, big: bool) -> list[Region]:
    held, stop = places(data, pos, explicit=explicit, big=big)
    own = next((one for one in held if one.tag == _CHARSET and one.parent < 0), None)
    charset = data[own.start : own.end].decode("latin-1").strip(" \0") if own is not None else ""
    found = [Region("data set", pos, stop, held, charset, big)] if held else []
    return [*found, Region("outside", stop if held else pos, len(data), [])]


def parts_of(blob: Blob, pixel_offset: int | None) -> Iterator[Part]:
    """
    Yield the parts of a file: what precedes the pixels, the pixels, what follows them.

    A deflated data set is inflated, at most 256 MiB of it. Without pixels the first 128 MiB are searched as a header,
    what follows as pixels. Raises OSError when the file cannot be read.
    """
    syntax = ""
    if pixel_offset is None:
        syntax, pixel_offset = _outline(blob)
    with blob.open() as stream:
        head = stream.read(min(MAX_HEAD, len(blob) if pixel_offset is None else pixel_offset))
        yield Part("file", head)
        if syntax == DEFLATED:
            yield from _inflated(head)
        if len(head) == len(blob):
            return
        start, end = len(head), len(blob)
        if pixel_offset == start:
            start, end = _pixel_value(stream, start, end)
        stream.seek(start)
        yield Part("pixel data", start=start, pixels=_pieces(stream, end - start))
        if end < len(blob):
            stream.seek(end)
            yield Part("outside", stream.read(MAX_HEAD), end)


def _outline(blob: Blob) -> tuple[str, int | None]:
    """Return transfer syntax and place of the pixels; neither when it is no DICOM."""
    try:
        with blob.open() as stream:
            header = read_header(stream if blob.path is not None else blob.read(), ())
    except InvalidItem:
        return "", None
    return header.transfer_syntax, header.pixel_offset


def _inflated(head: bytes) -> Iterator[Part]:
    try:
        start = _begin_of_deflated(head)
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head[start:], MAX_INFLATED)
    except (InvalidItem, zlib.error):
        return
    yield Part("data set", data)


def _begin_of_deflated(head: bytes) -> int:
    """Return where the file meta ends."""
    held, stop = places(head, 132, explicit=True, big=False)
    return next((one.end for one in reversed(held) if one.tag >> 16 == 2), stop)


def _pieces(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (piece := stream.read(min(PIXEL_PIECE, size))):
        size -= len(piece)
        yield piece


def _pixel_value(stream: BinaryIO, start: int, size: int) -> tuple[int, int]:
    """Return where the value of the pixel element begins and ends; nothing at its place where that cannot be told."""
    stream.seek(start)
    head = stream.read(12)
    order: Literal["big", "little"] = "big" if head[:2] == b"\x7f\xe0" else "little"
    explicit = head[4:6] in _LONG_VRS
    length = int.from_bytes(head[8:12] if explicit else head[4:8], order)
    begin = at = start + (12 if explicit else 8)
    if length != _UNDEFINED:
        return (begin, begin + length) if begin + length <= size else (start, start)
    for _ in range(MAX_FRAGMENTS):
        stream.seek(at)
        item = stream.read(8)
        if len(item) < 8 or item[:2] != b"\xfe\xff":
            break
        at += 8
        if item[2:4] == b"\xdd\xe0":
            return begin, at
        at += int.from_bytes(item[4:], "little")
    return start, start


def among(gates: Collection[bytes], data: bytes) -> frozenset[bytes]:
    """Return which of many byte strings stand in the data."""
    if len(gates) * len(data) > MUCH_WORK:
        gates = _perhaps_among(gates, data)
    return frozenset([gate for gate in gates if gate in data])


def _perhaps_among(gates: Collection[bytes], data: bytes) -> list[bytes]:
    """Return those whose every run of four bytes occurs, told by a table of hashes; shorter ones too."""
    import numpy as np

    seen = np.zeros(1 << 24, np.bool_)
    factor = np.uint32(2654435761)
    for first in range(0, max(len(data) - 3, 0), PIECE):
        piece = data[first : first + PIECE + 3]
        for shift in range(4):
            runs = np.frombuffer(piece, "<u4", max(len(piece) - shift, 0) // 4, shift)
            seen[(runs * factor) >> np.uint32(8)] = True
    found = []
    for gate in gates:
        runs = np.array([int.from_bytes(gate[at : at + 4], "little") for at in range(len(gate) - 3)], np.uint32)
        if seen[(runs * factor) >> np.uint32(8)].all():
            found.append(gate)
    return found


def wide_halves(low: bytes) -> tuple[bytes, ...]:
    """Return every other byte, from the first and from the second, when there is UTF-16 of ASCII; else nothing."""
    even, odd = low[0::2], low[1::2]
    return (even, odd) if _beside_zeros(even, odd) or _beside_zeros(odd, even) else ()


def _beside_zeros(zeros: bytes, letters: bytes) -> bool:
    """Tell whether four letters stand between or before zeros."""
    return any(_LETTERS.search(letters, max(0, run.start() - 1), run.end() + 1) for run in _ZEROS.finditer(zeros))


def may_hold_text(data: bytes) -> bool:
    """
    Tell whether there can be text of ASCII letters: a pair of printable bytes at an even place.

    Every run of three has such a pair; pixels of sixteen bits with twelve in use hardly ever do.
    """
    import numpy as np

    pairs = np.frombuffer(data, "<u2", len(data) // 2)
    return bool(((pairs - np.uint16(0x2020)) < np.uint16(0x5E5F)).any())


def has_accents(data: bytes) -> bool:
    """Tell whether there may be text beyond ASCII: an accented letter after a plain one, or an escape sequence."""
    return _ACCENTS.search(data) is not None
