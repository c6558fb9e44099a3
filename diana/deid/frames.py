"""Encapsulated pixels: comments in the streams of the codecs go, everything else stays (PS3.5 A.4)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Final

from diana.deid.raw import Coding
from diana.deid.result import Reason, Refused
from diana.deid.source import Bytes, Opened, Span

if TYPE_CHECKING:
    from diana.deid.source import Reader

MAX_FRAME: Final = 256 << 20
LONG_HEAD: Final = 1 << 16
EXTENDED_OFFSETS: Final = 0x7FE00001
EXTENDED_LENGTHS: Final = 0x7FE00002
_JPEG: Final = "1.2.840.10008.1.2.4."
_STARTS: Final = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")


def clean_fragments(opened: Opened) -> tuple[list[Bytes], dict[int, bytes], bool]:
    """
    Return the pieces of encapsulated pixels, new values of the extended offset table, and whether a stream changed.

    Only frames that hold comments are read whole and written anew, as one fragment each; the offset tables follow.
    Raises Refused for a frame of more than 256 MiB that would have to be rewritten, or one whose stream is damaged.
    """
    frames = _frames(opened)
    changed = {}
    if opened.syntax.startswith(_JPEG):
        strip: Callable[[bytes], bytes] = import_module("diana.deid.jpeg").strip_comments
        for number, spans in enumerate(frames):
            cleaned = _cleaned(opened.reader, spans, strip)
            if cleaned is not None:
                changed[number] = cleaned
    return _pieces(opened, frames, changed)


def _cleaned(reader: Reader, spans: list[Span], strip: Callable[[bytes], bytes]) -> bytes | None:
    size = sum(span.length for span in spans)
    if size > MAX_FRAME:
        raise Refused(Reason.PIXELS, "a compressed frame is too large")
    data = reader.read(*spans[0]) if len(spans) == 1 else b"".join(reader.read(*span) for span in spans)
    cleaned = strip(data)
    return None if cleaned == data else cleaned


def _frames(opened: Opened) -> list[list[Span]]:
    """Return the fragments of each frame: one each, all of the only frame, by the offset table, or by their starts."""
    fragments = opened.fragments[1:]
    if not fragments:
        return []
    count = _number_of_frames(opened)
    if count == len(fragments):
        return [[one] for one in fragments]
    if count == 1:
        return [fragments]
    table = opened.reader.read(*opened.fragments[0])
    starts = set(struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4]))
    first = fragments[0].offset - 8
    if len(starts) != count or not starts <= {one.offset - 8 - first for one in fragments}:
        starts = {one.offset - 8 - first for one in fragments if opened.reader.read(one.offset, 8).startswith(_STARTS)}
    frames: list[list[Span]] = []
    for one in fragments:
        if one.offset - 8 - first in starts or not frames:
            frames.append([])
        frames[-1].append(one)
    return frames


def _number_of_frames(opened: Opened) -> int:
    try:
        return int(opened.value(0x00280008) or b"1")
    except ValueError:
        return 1


def _pieces(
    opened: Opened, frames: list[list[Span]], changed: dict[int, bytes]
) -> tuple[list[Bytes], dict[int, bytes], bool]:
    coding, pixels = opened.coding, opened.pixels
    if pixels is None or (not changed and not opened.deflated):
        begin, end = (opened.fragments[0].offset - 8, pixels.end) if pixels and opened.fragments else (0, 0)
        return [opened.reader.piece(begin, end - begin)], {}, False
    out: list[Bytes] = []
    offsets: list[int] = []
    lengths: list[int] = []
    at = 0
    for number, spans in enumerate(frames):
        offsets.append(at)
        begin = at
        for piece in _frame(opened, spans, changed.get(number), coding):
            out.append(piece)
            at += piece.length if isinstance(piece, Span) else len(piece)
        lengths.append(at - begin - 8)
    had_table = opened.fragments[0].length > 0
    table = struct.pack(f"<{len(offsets)}I", *offsets) if had_table and at < 1 << 32 else b""
    head = coding.bare.pack(0xFFFE, 0xE000, len(table)) + table
    extended = {
        EXTENDED_OFFSETS: struct.pack(f"<{len(offsets)}Q", *offsets),
        EXTENDED_LENGTHS: struct.pack(f"<{len(lengths)}Q", *lengths),
    }
    return [head, *out, coding.bare.pack(0xFFFE, 0xE0DD, 0)], extended, True


def _frame(opened: Opened, spans: list[Span], data: bytes | None, coding: Coding) -> Iterator[Bytes]:
    if data is None:
        for span in spans:
            yield opened.reader.piece(span.offset - 8, span.length + 8)
        return
    data += b"\0" * (len(data) & 1)
    yield coding.bare.pack(0xFFFE, 0xE000, len(data)) + data
