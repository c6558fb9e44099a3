"""A tree of raw DICOM elements: places in the source's bytes, decoded only where a rule looks."""

from __future__ import annotations

import struct
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from diana.deid.result import Reason, Refused

UNDEFINED: Final = 0xFFFFFFFF
MAX_DEPTH: Final = 48
MAX_ELEMENTS: Final = 1_000_000
LARGE: Final = 1 << 20
PIXELS: Final = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
NUMBER_SIZES: Final = {
    "US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "AT": 4, "SV": 8, "UV": 8, "OF": 4, "OD": 8, "OL": 4, "OV": 8,
}  # fmt: skip
SHORT: Final = {
    vr.encode(): vr
    for vr in (
        *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO"),
        *("LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"),
    )
}  # PS3.5 7.1.2: a length of 16 bits
LONG: Final = {vr.encode(): vr for vr in ["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]}


class Cut(Exception):
    """Say that the bytes at hand end inside an element."""


class Broken(Refused):
    """Say that the structure contradicts itself."""

    def __init__(self, text: str) -> None:
        super().__init__(Reason.BROKEN, text)


class Coding(NamedTuple):
    """Hold what an encoding needs for reading and writing (PS3.5 7.1)."""

    explicit: bool
    big: bool
    head: Struct  # group, element, VR, 16-bit length
    bare: Struct  # group, element, 32-bit length
    long: Struct
    pair: Struct


def _coding(explicit: bool, big: bool) -> Coding:
    mark = ">" if big else "<"
    return Coding(explicit, big, Struct(mark + "HH2sH"), Struct(mark + "HHI"), Struct(mark + "I"), Struct(mark + "HH"))


EXPLICIT_LITTLE: Final = _coding(True, False)
EXPLICIT_BIG: Final = _coding(True, True)
IMPLICIT_LITTLE: Final = _coding(False, False)
IMPLICIT_BIG: Final = _coding(False, True)


class Item(NamedTuple):
    """Hold the elements of an item, and where it lies, its head and end included."""

    nodes: list[Node]
    start: int
    end: int
    coding: Coding


class Node:
    """
    Stand for one element: ``data[start:end]`` are all its bytes, ``data[value:stop]`` its value.

    ``items`` are those of a sequence, else None. ``vr`` is that of the file, or of the dictionary where the file says
    UN or nothing; empty when nobody knows. ``data`` is None for a large value that stays in the source, whose offsets
    are then absolute. ``fragments`` tells that the value is encapsulated.
    """

    __slots__ = ("coding", "data", "end", "fragments", "items", "start", "stop", "tag", "value", "vr", "wire")

    def __init__(
        self, tag: int, vr: str, wire: str, data: bytes | None, start: int, value: int, stop: int, coding: Coding
    ) -> None:
        self.tag = tag
        self.vr = vr
        self.wire = wire
        self.data = data
        self.start = start
        self.value = value
        self.stop = stop
        self.end = stop
        self.coding = coding
        self.items: list[Item] | None = None
        self.fragments = False

    def content(self) -> bytes:
        """Return the value; nothing for one that stays in the source."""
        return b"" if self.data is None else self.data[self.value : self.stop]

    def raw(self) -> bytes:
        """Return the whole element as it stands in the source."""
        return b"" if self.data is None else self.data[self.start : self.end]

    def __len__(self) -> int:
        return self.stop - self.value


Nodes: TypeAlias = list[Node]


class Parser:
    """
    Read elements from bytes.

    Raises Cut when the bytes end too early, Broken for what contradicts itself, Refused for more than 48 levels or
    a million elements.
    """

    def __init__(self) -> None:
        self.left = MAX_ELEMENTS
        self.known = _dictionary()

    def element(self, data: bytes, i: int, bound: int, coding: Coding, depth: int) -> Node:
        """Return the element at ``i``, which must end before ``bound``."""
        self.left -= 1
        if self.left < 0:
            raise Refused(Reason.DEEP, "the object has too many elements")
        try:
            if coding.explicit:
                group, number, code, length = coding.head.unpack_from(data, i)
                wire = SHORT.get(code, "")
                if wire:
                    start = i + 8
                else:
                    wire, length, start = self._long_head(data, i, code, length, coding)
            else:
                group, number, length = coding.bare.unpack_from(data, i)
                wire, start = "", i + 8
        except struct.error:
            raise Cut from None
        tag = group << 16 | number
        if group == 0xFFFE:
            raise Broken("an item outside of any sequence")
        vr = wire if wire and wire != "UN" else (self.known.get(tag) or wire)
        node = Node(tag, vr, wire, data, i, start, start + length, coding)
        if length == UNDEFINED:
            self._undefined(node, bound, depth)
            return node
        if node.stop > bound:
            raise Broken("an element is longer than what holds it")
        if wire == "SQ":
            if node.stop > len(data):
                raise Cut
            self._items(node, start, node.stop, coding, depth)
        elif length >= 8 and wire in ("", "UN") and tag not in PIXELS:
            self._soft(node, depth)
        return node

    def _long_head(self, data: bytes, i: int, code: bytes, length: int, coding: Coding) -> tuple[str, int, int]:
        wire = LONG.get(code, "")
        if wire:
            return wire, coding.long.unpack_from(data, i + 8)[0], i + 12
        if b"AA" <= code <= b"ZZ" and code.isalpha():
            return "??", length, i + 8
        return "", coding.long.unpack_from(data, i + 4)[0], i + 8

    def _undefined(self, node: Node, bound: int, depth: int) -> None:
        if node.wire in ("SQ", "UN", "") and (node.tag not in PIXELS):
            # UN of undefined length is a sequence in implicit VR little endian (PS3.5 6.2.2 note 4)
            coding = IMPLICIT_LITTLE if node.wire == "UN" else node.coding
            node.end = self._items(node, node.value, -1, coding, depth, bound)
            node.stop = node.end - 8
            node.vr = "SQ"
            return
        node.fragments = True
        if depth == 0 and node.tag in PIXELS:
            return  # the caller walks them without holding them
        node.end = self.fragments(node)
        node.stop = node.end - 8

    def fragments(self, node: Node) -> int:
        """Return where the fragments of an encapsulated value end (PS3.5 A.4)."""
        data, i = node.data or b"", node.value
        bare = node.coding.bare
        try:
            while True:
                group, number, length = bare.unpack_from(data, i)
                i += 8
                if group != 0xFFFE or (number != 0xE000 and number != 0xE0DD) or length == UNDEFINED:
                    raise Broken("encapsulated data hold something that is no fragment")
                if number == 0xE0DD:
                    return i
                i += length
        except struct.error:
            raise Cut from None

    def _soft(self, node: Node, depth: int) -> None:
        """Try a value of unknown VR as a sequence; it stays bytes when it is none."""
        data = node.data or b""
        little = node.wire == "UN" or not node.coding.big
        if data[node.value : node.value + 4] != (b"\xfe\xff\x00\xe0" if little else b"\xff\xfe\xe0\x00"):
            return
        if node.stop > len(data):
            raise Cut
        for coding in (IMPLICIT_LITTLE, EXPLICIT_LITTLE) if node.wire == "UN" else (node.coding,):
            try:
                self._items(node, node.value, node.stop, coding, depth)
            except (Cut, Broken):
                node.items = None
                continue
            node.vr = "SQ"
            return

    def _items(self, node: Node, i: int, end: int, coding: Coding, depth: int, bound: int = -1) -> int:
        """Read the items of a sequence; return where it ends."""
        if depth >= MAX_DEPTH:
            raise Refused(Reason.DEEP, f"sequences are nested more than {MAX_DEPTH} deep")
        data = node.data or b""
        items: list[Item] = []
        limit = end if end >= 0 else bound
        while i != end:
            try:
                group, number, length = coding.bare.unpack_from(data, i)
            except struct.error:
                raise Cut from None
            if group == 0xFFFE and number == 0xE0DD and end < 0:
                node.items = items
                return i + 8
            if group != 0xFFFE or number != 0xE000:
                raise Broken("a sequence holds something that is no item")
            stop = -1 if length == UNDEFINED else i + 8 + length
            if stop > limit:
                raise Broken("an item is longer than its sequence")
            inner = guess(data, i + 8, coding) if coding.explicit else coding
            nodes, after = self.dataset(data, i + 8, stop, limit, inner, depth + 1)
            items.append(Item(nodes, i, after, inner))
            i = after
        node.items = items
        return i

    def dataset(self, data: bytes, i: int, end: int, bound: int, coding: Coding, depth: int) -> tuple[Nodes, int]:
        """Return the elements of an item, and where it ends: at ``end``, or after its delimiter when that is -1."""
        nodes: Nodes = []
        mark = coding.bare.pack(0xFFFE, 0xE00D, 0)[:4]
        while i != end:
            if end >= 0 and i > end:
                raise Broken("an element is longer than its item")
            if end < 0 and data[i : i + 4] == mark:
                return nodes, i + 8
            node = self.element(data, i, end if end >= 0 else bound, coding, depth)
            if node.end > len(data):
                raise Cut
            nodes.append(node)
            i = node.end
        return nodes, i


def guess(data: bytes, i: int, stated: Coding) -> Coding:
    """Return the encoding found at an element: two capital letters where the VR belongs mean explicit VR."""
    vr = data[i + 4 : i + 6]
    if len(vr) < 2 or data[i : i + 4] in (b"\xfe\xff\x0d\xe0", b"\xff\xfe\xe0\x0d"):
        return stated
    explicit = 0x40 < vr[0] < 0x5B and 0x40 < vr[1] < 0x5B
    if explicit == stated.explicit:
        return stated
    if explicit:
        return EXPLICIT_BIG if stated.big else EXPLICIT_LITTLE
    return IMPLICIT_BIG if stated.big else IMPLICIT_LITTLE


def encode(tag: int, vr: str, value: bytes, coding: Coding) -> bytes:
    """
    Return an element with a value, padded to even length (PS3.5 6.2).

    Raises Refused when the value does not fit its length field.
    """
    if len(value) & 1:
        value += b"\0" if vr in ("UI", "OB", "UN", "??", "") else b" "
    if not coding.explicit:
        return coding.bare.pack(tag >> 16, tag & 0xFFFF, _checked(len(value), UNDEFINED)) + value
    code = vr.encode()
    if code in SHORT:
        return coding.head.pack(tag >> 16, tag & 0xFFFF, code, _checked(len(value), 0x10000)) + value
    if code not in LONG:
        code = b"UN"
    return (
        coding.head.pack(tag >> 16, tag & 0xFFFF, code, 0) + coding.long.pack(_checked(len(value), UNDEFINED)) + value
    )


def encode_item(content: bytes, coding: Coding) -> bytes:
    """Return an item of defined length."""
    return coding.bare.pack(0xFFFE, 0xE000, _checked(len(content), UNDEFINED)) + content


def _checked(length: int, limit: int) -> int:
    if length >= limit:
        raise Refused(Reason.ENCODING, "a value is too long for its element")
    return length


def _dictionary() -> dict[int, str]:
    from diana.deid.tables import vrs

    return vrs()
