"""Walk nested DICOM sequences in untrusted bytes without recursion and within limits."""

from __future__ import annotations

from typing import Final, NamedTuple

from diana.utils.dicom._scan import UNDEFINED, Coding, Element, element, guess
from diana.utils.dicom._source import Cut, Malformed, OverLimit, Window

MAX_DEPTH: Final = 64
MAX_ELEMENTS: Final = 200_000
UNBOUNDED: Final = 1 << 62


class _Frame(NamedTuple):
    """
    Stand for one open sequence (``items``) or data set.

    ``end`` is -1 when the length is undefined, ``bound`` the end of the innermost defined length around it. What is
    ``soft`` only looks like a sequence: when it does not parse it is skipped as plain bytes.
    """

    items: bool
    end: int
    bound: int
    coding: Coding
    soft: bool = False


class Walker:
    """
    Walk nested structure without recursion, with one budget of elements for the whole object.

    A ``deep`` walk enters what has a defined length too. Raises Cut, Malformed, and OverLimit for more than 64
    levels or 200,000 elements (reliability: bombs stop here, before any recursive parser).
    """

    def __init__(self, window: Window, *, deep: bool) -> None:
        self.window = window
        self.deep = deep
        self.left = MAX_ELEMENTS

    def count(self) -> None:
        """Spend one element. Raises OverLimit."""
        self.left -= 1
        if self.left < 0:
            raise OverLimit(f"more than {MAX_ELEMENTS} elements")

    def value(self, this: Element, coding: Coding) -> int:
        """Return the position after the value of an element of the top level."""
        stack: list[_Frame] = []
        pos = self._value(this, coding, UNBOUNDED, stack)
        while stack:
            try:
                pos = self._step(pos, stack)
            except (Malformed, Cut):
                soft = next((depth for depth, frame in enumerate(stack) if frame.soft), -1)
                if soft < 0:
                    raise
                pos = stack[soft].end
                del stack[soft:]
            if len(stack) > MAX_DEPTH * 2:
                raise OverLimit(f"sequences deeper than {MAX_DEPTH} levels")
        return pos

    def _step(self, pos: int, stack: list[_Frame]) -> int:
        items, end, bound, coding, _ = stack[-1]
        if pos == end:
            stack.pop()
            return pos
        if pos >= bound:
            raise Malformed("a value is longer than what holds it")
        if items:
            return self._item(pos, stack)
        this = element(self.window, pos, coding)
        if this.tag == coding.item_end:
            if end >= 0:
                raise Malformed("an item of defined length is ended twice")
            stack.pop()
            return pos + 8
        self.count()
        return self._value(this, coding, bound, stack)

    def _item(self, pos: int, stack: list[_Frame]) -> int:
        _, end, bound, coding, _ = stack[-1]
        i = self.window.index(pos, 8)
        tag, n = coding.bare.unpack_from(self.window.data, i)
        pos += 8
        if tag == coding.sequence_end and end < 0:
            stack.pop()
            return pos
        if tag != coding.item:
            raise Malformed("a sequence holds something that is no item")
        self.count()
        stop = pos + int(n)
        if n == UNDEFINED:
            stack.append(_Frame(False, -1, bound, guess(self.window, pos, coding, nested=True)))
        elif self.deep:
            self._enter(stop, bound)
            stack.append(_Frame(False, stop, stop, guess(self.window, pos, coding, nested=True)))
        else:
            self.window.reach(stop)
            return stop
        return pos

    def _value(self, this: Element, coding: Coding, bound: int, stack: list[_Frame]) -> int:
        _, vr, n, pos = this
        if n == UNDEFINED:
            if vr not in ("", "SQ", "UN"):
                return self.fragments(pos, coding)
            stack.append(_Frame(True, -1, bound, coding))
            return pos
        if pos + n > bound:
            raise Malformed("a value is longer than what holds it")
        if self.deep and n >= 8 and this.tag not in coding.pixels:
            soft = vr in ("", "UN") and self._holds_items(pos, coding)
            if soft or vr == "SQ":
                self._enter(pos + n, bound)
                stack.append(_Frame(True, pos + n, pos + n, coding, soft))
                return pos
        self.window.reach(pos + n)
        return pos + n

    def _enter(self, stop: int, bound: int) -> None:
        if stop > bound:
            raise Malformed("an item is longer than its sequence")
        if self.window.size is not None and stop > self.window.size:
            raise Cut("the data end inside a sequence")

    def _holds_items(self, pos: int, coding: Coding) -> bool:
        head = self.window.peek(pos, 4)
        return len(head) == 4 and bool(coding.long.unpack(head)[0] == coding.item)

    def fragments(self, pos: int, coding: Coding) -> int:
        """Return the position after encapsulated pixel data: items of bytes up to a delimiter (PS3.5 A.4)."""
        while True:
            i = self.window.index(pos, 8)
            tag, n = coding.bare.unpack_from(self.window.data, i)
            if tag == coding.sequence_end:
                return pos + 8
            if tag != coding.item or n == UNDEFINED:
                raise Malformed("encapsulated data hold something that is no fragment")
            pos += 8 + int(n)
            self.window.reach(pos)
