"""Read the file around a data set: preamble, file meta, encoding, pixels left where they are, and what follows."""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from attrs import define, field

from diana.deid.raw import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_BIG,
    IMPLICIT_LITTLE,
    LARGE,
    LONG,
    PIXELS,
    SHORT,
    UNDEFINED,
    Broken,
    Coding,
    Cut,
    Node,
    Parser,
    guess,
)
from diana.deid.result import Reason, Refused
from diana.exceptions import InvalidItem
from diana.utils.dicom._scan import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, open_dataset, parse, swap
from diana.utils.dicom._scan import EXPLICIT_LITTLE as _META
from diana.utils.dicom._source import Window, open_source

if TYPE_CHECKING:
    from diana.utils.blob import Blob

IN_MEMORY: Final = 16 << 20
MAX_INFLATED: Final = 256 << 20
MAX_ELEMENT: Final = 256 << 20
MAX_TAIL: Final = 1 << 20
MAX_FRAGMENTS: Final = 1 << 22
FIRST: Final = 1 << 18
HEAD: Final = 12
FAR: Final = 1 << 62
SERIES: Final = 0x0020000E
_VRS: Final = frozenset((*SHORT, *LONG))
_CODINGS: Final = {
    (True, False): EXPLICIT_LITTLE,
    (True, True): EXPLICIT_BIG,
    (False, False): IMPLICIT_LITTLE,
    (False, True): IMPLICIT_BIG,
}


class Span(NamedTuple):
    """Stand for bytes of the source that are copied, never held."""

    offset: int
    length: int


class Cleared(NamedTuple):
    """Stand for samples of the source of which only the bits of a mask are copied."""

    offset: int
    length: int
    keep: bytes


Bytes: TypeAlias = "bytes | memoryview | Span | Cleared"


@define(eq=False)
class Opened:
    """
    Hold what was read of one file.

    ``pixels`` is the element of the pixels among the ``nodes`` of the top level, None without; ``fragments`` are the
    places of its fragments when it is encapsulated, the basic offset table first. ``tail`` counts bytes after the data
    set. ``meta`` maps tags of the file meta to their values.
    """

    reader: Reader = field(repr=False)
    syntax: str
    coding: Coding
    meta: dict[int, bytes] = field(repr=False)
    nodes: list[Node] = field(factory=list, repr=False)
    pixels: Node | None = None
    fragments: list[Span] = field(factory=list, repr=False)
    tail: int = 0
    deflated: bool = False

    def find(self, tag: int) -> Node | None:
        """Return an element of the top level."""
        return next((node for node in self.nodes if node.tag == tag), None)

    def value(self, tag: int) -> bytes:
        """Return a value of the top level without padding, empty when it is absent."""
        node = self.find(tag)
        return b"" if node is None else node.content().strip(b" \0")


class Reader:
    """Read a blob by position: from memory when it is small, else by ``pread``; deflated data sets are inflated."""

    def __init__(self, blob: Blob) -> None:
        self.size = len(blob)
        self._fd = -1
        self.data = b""
        if blob.path is None or self.size <= IN_MEMORY:
            self.data = blob.read()
            self.size = len(self.data)
        else:
            self._fd = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)

    @property
    def in_memory(self) -> bool:
        """Tell whether all bytes are at hand."""
        return self._fd < 0

    def read(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes, fewer only at the end."""
        if self._fd < 0:
            return self.data[offset : offset + length]
        parts = []
        while length > 0 and (part := os.pread(self._fd, min(length, 1 << 30), offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def piece(self, offset: int, length: int) -> Bytes:
        """Return bytes that go into the output without being held twice."""
        return memoryview(self.data)[offset : offset + length] if self._fd < 0 else Span(offset, length)

    def inflate(self, offset: int) -> None:
        """Replace the bytes by the inflated data set. Raises Refused for more than 256 MiB or a broken stream."""
        made = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = made.decompress(self.read(offset, self.size - offset), MAX_INFLATED)
            if made.unconsumed_tail and not made.eof:
                raise Refused(Reason.SYNTAX, "the deflated data set is too large")
        except zlib.error:
            raise Broken("the deflated data set is damaged") from None
        if not made.eof:
            raise Broken("the data end inside the deflated data set")
        self.close()
        self.data, self.size = data, len(data)

    def close(self) -> None:
        """Give the descriptor back; twice does no harm."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_blob(blob: Blob) -> Opened:
    """
    Read everything but the pixels.

    Raises Refused for what is not DICOM, is cut or contradicts itself, or is too large to be understood.
    """
    reader = Reader(blob)
    try:
        opened, start = _begin(blob, reader)
        _Top(opened, start).run()
    except Cut:
        raise Broken("the data end inside an element") from None
    except Refused:
        raise
    except InvalidItem as error:
        raise Refused(Reason.NOT_DICOM, str(error)) from None
    finally:
        if reader.in_memory:
            reader.close()
    return opened


def _begin(blob: Blob, reader: Reader) -> tuple[Opened, int]:
    """Read preamble and file meta, inflate what is deflated; return where the data set starts."""
    source = open_source(reader.data if reader.in_memory else str(blob.path))
    try:
        window = Window(source)
        window.load(0)
        found = open_dataset(window)
        meta, end = {}, 0
        for tag, place in found.meta.items():
            _, _, length, start = parse(found.first, place, _META)
            meta[swap(tag)] = bytes(found.first[start : start + length])
            end = max(end, start + length)
    except struct.error:
        raise Broken("the file meta is damaged") from None
    finally:
        source.close()
    coding = _CODINGS[found.coding.explicit, found.coding.big]
    start = found.pos
    if found.deflated is not None:
        reader.inflate(end)
        start = 0
        coding = guess(reader.data, 0, EXPLICIT_LITTLE)
    stated = found.transfer_syntax
    if not stated:
        stated = EXPLICIT_BE if coding.big else EXPLICIT_LE if coding.explicit else IMPLICIT_LE
    opened = Opened(reader, stated, coding, meta, deflated=found.deflated is not None)
    return opened, start


class _Top:
    """Read the elements of the top level, in windows that grow when an element does not fit."""

    def __init__(self, opened: Opened, start: int) -> None:
        self.opened = opened
        self.reader = opened.reader
        self.pos = start
        self.base = 0
        self.data = self.reader.data
        self.parser = Parser()
        if not self.reader.in_memory:
            self._load(start, FIRST)

    def run(self) -> None:
        """Read to the end of the data set."""
        if self.reader.in_memory:
            self._quickly()
        while self.reader.size - self.pos >= 8:
            try:
                node = self._next()
            except (Cut, Broken):
                if not self._is_tail():
                    raise
                break
            if node is None:
                break
            self.opened.nodes.append(node)
        self.opened.tail = self.reader.size - self.pos
        if 0 < self.opened.tail < 8 and self.opened.pixels is None and self._seems_image():
            at = self.pos - self.base
            if self.data[at : at + self.opened.tail].strip(b"\0"):
                raise Broken("the object ends inside an element, before its pixels")

    def _quickly(self) -> None:
        """Read the elements before the pixels from memory, up to the first that needs care."""
        data, pos, size, coding = self.data, self.pos, self.reader.size - 8, self.opened.coding
        element, nodes = self.parser.element, self.opened.nodes
        with suppress(Cut, Broken):
            while pos <= size:
                node = element(data, pos, FAR, coding, 0)
                if node.end > len(data) or not node.tag or node.tag in PIXELS:
                    break
                nodes.append(node)
                pos = node.end
        self.pos = pos

    def _next(self) -> Node | None:
        """Return the element at the position, None where the data set has ended."""
        if not self.reader.in_memory and self.pos + HEAD > self.base + len(self.data):
            self._load(self.pos, FIRST)
        if self.opened.pixels is not None and not self._follows():
            return None
        if self.data[self.pos - self.base : self.pos - self.base + 8] == bytes(8):
            return None
        node = self._whole()
        if node.tag in PIXELS and self.opened.pixels is None:
            self._pixels(node)
        self.pos = node.end + (0 if node.data is None else self.base)
        return node

    def _whole(self) -> Node:
        """Return the element at the position with its value at hand, or left in the source when it is large."""
        while True:
            try:
                node = self.parser.element(self.data, self.pos - self.base, FAR, self.opened.coding, 0)
            except Cut:
                self._grow()
                continue
            if node.fragments and node.tag in PIXELS:
                return node
            missing = node.end - len(self.data)
            if missing <= 0:
                return node
            if node.end + self.base > self.reader.size:
                raise Broken("the data end inside a value")
            if len(node) < LARGE and node.tag not in PIXELS:
                self._grow()
                continue
            self._leave(node)
            return node

    def _leave(self, node: Node) -> None:
        """Let the value of an element stay in the source."""
        for name in ("start", "value", "stop", "end"):
            setattr(node, name, getattr(node, name) + self.base)
        node.data = None

    def _pixels(self, node: Node) -> None:
        if node.data is not None:
            self._leave(node)
        if node.fragments:
            self._fragments(node)
        self.opened.pixels = node

    def _fragments(self, node: Node) -> None:
        """Note where the fragments are (PS3.5 A.4)."""
        at, size, bare = node.value, self.reader.size, node.coding.bare
        while True:
            head = self.reader.read(at, 8)
            if len(head) < 8:
                raise Broken("the data end inside the pixels")
            group, number, length = bare.unpack(head)
            at += 8
            if group == 0xFFFE and number == 0xE0DD:
                break
            if group != 0xFFFE or number != 0xE000 or length == UNDEFINED or at + length > size:
                raise Broken("the pixels hold something that is no fragment, or are cut")
            self.opened.fragments.append(Span(at, length))
            if len(self.opened.fragments) > MAX_FRAGMENTS:
                raise Refused(Reason.DEEP, "the pixels have too many fragments")
            at += length
        node.stop, node.end = at - 8, at

    def _follows(self) -> bool:
        """Tell whether what comes after the pixels is an element: a higher tag, with a VR that exists."""
        at = self.pos - self.base
        group, number = self.opened.coding.pair.unpack_from(self.data, at)
        tag = group << 16 | number
        if tag <= self.opened.nodes[-1].tag:
            return False
        return not self.opened.coding.explicit or self.data[at + 4 : at + 6] in _VRS

    def _is_tail(self) -> bool:
        """Tell whether what does not parse can be something that was put after a data set, not a part of it."""
        if self.opened.pixels is not None:
            return True
        left = self.reader.size - self.pos
        return (
            left <= MAX_TAIL and not self._seems_image() and self.opened.find(SERIES) is not None and not self._looks()
        )

    def _seems_image(self) -> bool:
        return self.opened.find(0x00280010) is not None

    def _looks(self) -> bool:
        """Tell whether an element seems to start here, so that the object is cut."""
        at = self.pos - self.base
        head = self.data[at : at + 8]
        group, number = self.opened.coding.pair.unpack_from(head, 0)
        if group << 16 | number <= self.opened.nodes[-1].tag:
            return False
        return head[4:6] in _VRS if self.opened.coding.explicit else (group << 16 | number) in self.parser.known

    def _load(self, offset: int, length: int) -> None:
        self.data = self.reader.read(offset, length)
        self.base = offset

    def _grow(self) -> None:
        """Read more from the position on. Raises Cut at the end, Refused beyond 256 MiB."""
        have = len(self.data) if self.base == self.pos else 0
        if self.reader.in_memory or self.base + len(self.data) >= self.reader.size:
            raise Cut
        if have >= MAX_ELEMENT:
            raise Refused(Reason.DEEP, "an element is too large to be understood")
        self._load(self.pos, max(have * 4, FIRST))
