"""Where the elements of a data set lie in its bytes, nested ones too, for bytes that may be broken."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from diana.utils.dicom.dictionary import vr_of

UNDEFINED: Final = 0xFFFFFFFF
MAX_PLACES: Final = 500_000
MAX_DEPTH: Final = 64
_LONG: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD


class Place(NamedTuple):
    """Hold where the value of an element lies, the element around it (-1: none), and the number of its item there."""

    start: int
    end: int
    tag: int
    vr: str
    parent: int
    item: int


class _Level(NamedTuple):
    end: int
    items: bool
    place: int


def places(data: bytes, pos: int, *, explicit: bool, big: bool, end: int | None = None) -> tuple[list[Place], int]:
    """
    Return the elements from ``pos`` on in the order of their bytes, and where the reading stopped.

    The value of a sequence is its head alone: its elements follow. Never raises: what does not parse ends it, so that
    the caller knows which bytes no element explains.
    """
    reader = _Reader(data, explicit, big, len(data) if end is None else end)
    try:
        pos = reader.run(pos)
    except (struct.error, _Stop) as stop:
        pos = stop.args[0] if isinstance(stop, _Stop) else reader.pos
    return reader.found, pos


class _Stop(Exception):
    """Say where the bytes stop making sense."""


class _Reader:
    def __init__(self, data: bytes, explicit: bool, big: bool, end: int) -> None:
        mark = ">" if big else "<"
        self.data = data
        self.explicit = explicit
        self.end = end
        self.pos = 0
        self.found: list[Place] = []
        self._two = struct.Struct(mark + "HH").unpack_from
        self._long = struct.Struct(mark + "I").unpack_from
        self._short = struct.Struct(mark + "H").unpack_from
        self._numbers: dict[int, int] = {}

    def run(self, pos: int) -> int:
        """Walk without recursion."""
        stack = [_Level(self.end, False, -1)]
        while stack:
            self.pos = pos
            level = stack[-1]
            if pos >= (level.end if level.end >= 0 else self.end):
                stack.pop()
                continue
            if pos + 8 > self.end or len(self.found) > MAX_PLACES:
                raise _Stop(pos)
            group, number = self._two(self.data, pos)
            tag = group << 16 | number
            pos = self._delimiter(tag, pos, stack) if group == 0xFFFE else self._element(tag, pos, stack)
        return pos

    def _delimiter(self, tag: int, pos: int, stack: list[_Level]) -> int:
        (length,) = self._long(self.data, pos + 4)
        level = stack[-1]
        if tag == _ITEM and level.items:
            self._numbers[level.place] = self._numbers.get(level.place, -1) + 1
            if len(stack) > 2 * MAX_DEPTH:
                raise _Stop(pos)
            stack.append(_Level(-1 if length == UNDEFINED else pos + 8 + length, False, level.place))
        elif tag in (_ITEM_END, _SEQUENCE_END) and len(stack) > 1:
            stack.pop()
        else:
            raise _Stop(pos)
        return pos + 8

    def _element(self, tag: int, pos: int, stack: list[_Level]) -> int:
        if stack[-1].items:
            raise _Stop(pos)
        vr, length, start = self._head(pos)
        parent = stack[-1].place
        sequence = vr == "SQ" or (length == UNDEFINED and vr in ("", "UN"))
        if not sequence and (not vr or (vr == "UN" and vr_of(tag) == "SQ")):
            sequence = self._holds_items(start)
        fragments = length == UNDEFINED and not sequence
        end = start if sequence else self._fragments(start) if fragments else start + length
        if end > self.end:
            self.found.append(Place(start, self.end, tag, vr, parent, self._numbers.get(parent, -1)))
            raise _Stop(self.end)
        self.found.append(
            Place(start, end, tag, vr or ("SQ" if sequence else ""), parent, self._numbers.get(parent, -1))
        )
        if sequence:
            stack.append(_Level(-1 if length == UNDEFINED else start + length, True, len(self.found) - 1))
        return end

    def _head(self, pos: int) -> tuple[str, int, int]:
        code = self.data[pos + 4 : pos + 6]
        if self.explicit and code in _SHORT:
            return code.decode("ascii"), self._short(self.data, pos + 6)[0], pos + 8
        if self.explicit and code in _LONG:
            return code.decode("ascii"), self._long(self.data, pos + 8)[0], pos + 12
        return "", self._long(self.data, pos + 4)[0], pos + 8

    def _holds_items(self, start: int) -> bool:
        if start + 8 > self.end:
            return False
        group, number = self._two(self.data, start)
        return bool(group == 0xFFFE and number == 0xE000)

    def _fragments(self, pos: int) -> int:
        while True:
            group, number = self._two(self.data, pos)
            (length,) = self._long(self.data, pos + 4)
            if group != 0xFFFE or pos + 8 > self.end:
                raise _Stop(pos)
            if number == 0xE0DD:
                return pos + 8
            pos += 8 + int(length)


def path_of(found: list[Place], index: int) -> str:
    """Return the path of an element, as ``(0008,1140)[0].(0008,1155)``."""
    parts: list[str] = []
    item = -1
    while index >= 0:
        place = found[index]
        number = f"[{item}]" if item >= 0 else ""
        parts.append(f"({place.tag >> 16:04X},{place.tag & 0xFFFF:04X}){number}")
        index, item = place.parent, place.item
    return ".".join(reversed(parts))
