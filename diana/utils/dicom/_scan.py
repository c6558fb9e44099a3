"""Read the top level of DICOM: encodings, file meta, heads of elements."""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping
from struct import Struct
from typing import Final, NamedTuple

from diana.exceptions import InvalidItem
from diana.utils.dicom._source import FIRST_READ, Cut, InflatedSource, OverLimit, Window

UNDEFINED: Final = 0xFFFFFFFF
MAX_META: Final = 1 << 18

IMPLICIT_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BE: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
TRANSFER_SYNTAX: Final = 0x00100002  # (0002,0010) as read in little endian

SHORT_VRS: Final = (
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO"),
    *("LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"),
)
LONG_VRS: Final = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")


def swap(tag: int) -> int:
    """Exchange the halves of a tag: what little endian reads for 0xGGGGEEEE, and back."""
    return (tag & 0xFFFF) << 16 | tag >> 16


class Coding(NamedTuple):
    """
    Hold what a data set encoding needs for reading: VR explicit or not, byte order (PS3.5 7.1, A.4).

    A tag is compared as the integer that its four bytes make in the byte order: 0xGGGGEEEE when big endian, with
    its halves exchanged when little endian.
    """

    explicit: bool
    big: bool
    head: Struct  # tag, VR, 16-bit length
    bare: Struct  # tag, 32-bit length
    long: Struct
    short_vrs: Mapping[int, str]
    long_vrs: Mapping[int, str]
    item: int
    item_end: int
    sequence_end: int
    pixels: frozenset[int]


def _coding(explicit: bool, big: bool) -> Coding:
    mark = ">" if big else "<"
    code = Struct(mark + "H")
    item, item_end, sequence_end, *pixels = (
        tag if big else swap(tag) for tag in (0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00008, 0x7FE00009, 0x7FE00010)
    )
    return Coding(
        explicit=explicit,
        big=big,
        head=Struct(mark + "IHH"),
        bare=Struct(mark + "II"),
        long=Struct(mark + "I"),
        short_vrs={code.unpack(vr.encode())[0]: vr for vr in SHORT_VRS},
        long_vrs={code.unpack(vr.encode())[0]: vr for vr in LONG_VRS},
        item=item,
        item_end=item_end,
        sequence_end=sequence_end,
        pixels=frozenset(pixels),
    )


EXPLICIT_LITTLE: Final = _coding(explicit=True, big=False)
EXPLICIT_BIG: Final = _coding(explicit=True, big=True)
IMPLICIT_LITTLE: Final = _coding(explicit=False, big=False)
IMPLICIT_BIG: Final = _coding(explicit=False, big=True)


def encoding(explicit: bool, big: bool) -> Coding:
    """Return the encoding with explicit or implicit VR and the byte order."""
    if explicit:
        return EXPLICIT_BIG if big else EXPLICIT_LITTLE
    return IMPLICIT_BIG if big else IMPLICIT_LITTLE


def plausible(data: bytes) -> bool:
    """Tell whether bytes could start a data set: a low even group with a known VR, or a short implicit element."""
    if len(data) < 8:
        return False
    vr = data[4:6].decode("latin-1")
    known = vr in SHORT_VRS or vr in LONG_VRS
    if data[1] or data[0] < 2 or data[0] & 1:
        return known and not data[0] and data[1] >= 2 and not data[1] & 1
    if known:
        return True
    tag, n = IMPLICIT_LITTLE.bare.unpack_from(data)
    if n > 0xFFFF:
        return False
    if len(data) < 12 + n:
        return True
    after = swap(int.from_bytes(data[8 + n : 12 + n], "little"))
    return swap(tag) < after < 0x80000000


def guess(window: Window, pos: int, stated: Coding, *, nested: bool = False) -> Coding:
    """
    Return the encoding found at the first element, which may contradict the one stated.

    Two capital letters where the VR belongs mean explicit VR. Items of an implicit sequence stay implicit.
    """
    if nested and not stated.explicit:
        return stated
    vr = window.peek(pos, 6)[4:6]
    if len(vr) < 2:
        return stated
    explicit = 0x40 < vr[0] < 0x5B and 0x40 < vr[1] < 0x5B
    return stated if explicit == stated.explicit else encoding(explicit, stated.big)


class Opened(NamedTuple):
    """
    Say where a data set starts and how it is encoded.

    ``meta`` maps the file meta's tags (as read in little endian) to where their elements start in ``first``, the
    first bytes of the file, before any inflating.
    """

    window: Window
    pos: int
    coding: Coding
    first: bytes
    meta: dict[int, int]
    transfer_syntax: str
    deflated: InflatedSource | None


def _meta(window: Window, pos: int, *, grown: bool = False) -> tuple[dict[int, int], int]:
    """Return where the elements of the file meta (0002,eeee) start in the window, and where the data set does."""
    places: dict[int, int] = {}
    head, long = EXPLICIT_LITTLE.head.unpack_from, EXPLICIT_LITTLE.long.unpack_from
    short_vrs, long_vrs = EXPLICIT_LITTLE.short_vrs, EXPLICIT_LITTLE.long_vrs
    data = window.data
    i = pos
    try:
        while True:
            tag, vr, n = head(data, i)
            if tag & 0xFFFF != 2:
                break
            places[tag] = i
            if vr in short_vrs:
                i += 8 + n
            elif vr in long_vrs:
                i += 12 + long(data, i + 8)[0]
            else:
                _, _, n, i = parse(data, i, EXPLICIT_LITTLE)
                i += n
    except struct.error:
        if not grown and len(data) == FIRST_READ:
            window.load(0, MAX_META)
            return _meta(window, pos, grown=True)
        if i != len(data):
            raise Cut("the data end inside the file meta") from None
    return places, i


def open_dataset(window: Window) -> Opened:
    """
    Read preamble and file meta (PS3.10 7.1) in a window at the start, and decide on the encoding.

    It is taken as stated, or as found, like pydicom does.

    Raises Cut when the data end before that, OverLimit, and InvalidItem for what is not DICOM.
    """
    data = window.data
    pos = 132 if data[128:132] == b"DICM" else 0
    if not pos and not plausible(data):
        if len(data) < 132:
            raise Cut("shorter than a DICOM prefix")
        raise InvalidItem("not DICOM: no prefix, and no data set at the start")
    meta, pos = _meta(window, pos)
    data = window.data
    pos = _after_commands(window, pos)
    stated = ""
    if TRANSFER_SYNTAX in meta:
        stated = raw_value(data, meta[TRANSFER_SYNTAX], EXPLICIT_LITTLE)[1].decode("latin-1").rstrip("\0 ")
    deflated = None
    if stated == EXPLICIT_LE:
        coding = EXPLICIT_LITTLE
    elif stated == DEFLATED:
        coding = EXPLICIT_LITTLE
        deflated = InflatedSource(window.source, pos)
        window, pos = Window(deflated), 0
    elif stated:
        coding = {IMPLICIT_LE: IMPLICIT_LITTLE, EXPLICIT_BE: EXPLICIT_BIG}.get(stated, EXPLICIT_LITTLE)
    else:
        coding = _unstated(window, pos, bool(meta))
    return Opened(window, pos, guess(window, pos, coding), data, meta, stated, deflated)


def _after_commands(window: Window, pos: int) -> int:
    """Return the position after a command set (0000,eeee), which pydicom tolerates before the data set."""
    start = pos
    while (head := window.peek(pos, 8))[:2] == b"\0\0" and head != bytes(8) and len(head) == 8:
        if pos - start > MAX_META:
            raise OverLimit("the command set is too long")
        coding = guess(window, pos, IMPLICIT_LITTLE)
        this = element(window, pos, coding)
        pos = this.value + this.length
    return pos


def _unstated(window: Window, pos: int, has_meta: bool) -> Coding:
    """Return the encoding when no transfer syntax is stated. Raises Cut and InvalidItem."""
    first = window.peek(pos, FIRST_READ)
    if not has_meta and not plausible(first):
        if len(first) < 8:
            raise Cut("the data end after the prefix")
        raise InvalidItem("not DICOM: no data set after the prefix")
    known = first[4:6].decode("latin-1") in (*SHORT_VRS, *LONG_VRS)
    return EXPLICIT_BIG if known and first[1] >= 4 else EXPLICIT_LITTLE


class Element(NamedTuple):
    """Hold one element's place; ``vr`` is empty when the encoding does not tell it."""

    tag: int
    vr: str
    length: int
    value: int


def element(window: Window, pos: int, coding: Coding) -> Element:
    """Read the head of the element at ``pos``. Raises Cut."""
    i = window.index(pos, 8)
    try:
        tag, vr, n, start = parse(window.data, i, coding)
    except struct.error:
        i = window.index(pos, 12)
        tag, vr, n, start = parse(window.data, i, coding)
    return Element(tag, vr, n, pos + start - i)


def parse(data: bytes, i: int, coding: Coding) -> tuple[int, str, int, int]:
    """
    Return tag, VR, length and start of the value. Raises struct.error when the data end inside the head.

    Unknown VRs are taken like pydicom does: two letters have a 16-bit length, anything else is an implicit element.
    """
    if not coding.explicit:
        tag, n = coding.bare.unpack_from(data, i)
        return tag, "", n, i + 8
    tag, vr, n = coding.head.unpack_from(data, i)
    if vr in coding.short_vrs:
        return tag, coding.short_vrs[vr], n, i + 8
    if vr in coding.long_vrs:
        return tag, coding.long_vrs[vr], coding.long.unpack_from(data, i + 8)[0], i + 12
    if b"AA" <= data[i + 4 : i + 6] <= b"ZZ":
        return tag, "??", n, i + 8
    return tag, "", coding.long.unpack_from(data, i + 4)[0], i + 8


def raw_value(data: bytes, i: int, coding: Coding) -> tuple[str, bytes]:
    """Return VR and value of the element that starts at ``i``."""
    _, vr, n, start = parse(data, i, coding)
    return vr, data[start : start + n]


def scan_explicit(data: bytes, i: int, coding: Coding, wanted: Container[int], seen: dict[int, int]) -> int:
    """
    Note where the wanted elements start; return the index of the first one that needs care or is not all there.

    This is the hot loop. Care need undefined lengths, wanted elements of 32-bit length, pixels and unknown VRs.
    """
    head, long = coding.head.unpack_from, coding.long.unpack_from
    short_vrs, long_vrs, pixels = coding.short_vrs, coding.long_vrs, coding.pixels
    try:
        while True:
            tag, vr, n = head(data, i)
            if vr in short_vrs:
                if tag in wanted:
                    seen[tag] = i
                i += 8 + n
            elif vr in long_vrs:
                n = long(data, i + 8)[0]
                if n == UNDEFINED or tag in pixels or tag in wanted:
                    return i
                i += 12 + n
            else:
                return i
    except struct.error:
        return i


def scan_implicit(data: bytes, i: int, coding: Coding, wanted: Container[int], seen: dict[int, int]) -> int:
    """Do the same for implicit VR."""
    head = coding.bare.unpack_from
    stops = coding.pixels | {coding.item_end}
    try:
        while True:
            tag, n = head(data, i)
            if n == UNDEFINED or tag in stops:
                return i
            if tag in wanted:
                seen[tag] = i
            i += 8 + n
    except struct.error:
        return i
