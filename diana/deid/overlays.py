"""Overlays in bits of the pixels (retired; PS3.5 8.1.2): graphics that removing their group would leave behind."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from diana.deid.raw import Node
from diana.deid.result import Quarantined, Reason
from diana.deid.source import Opened

FIRST: Final = 0x6000
LAST: Final = 0x60FE
ALLOCATED: Final = 0x0100
POSITION: Final = 0x0102
PIXELS: Final = 0x7FE00010
BITS_ALLOCATED: Final = 0x00280100
BITS_STORED: Final = 0x00280101
HIGH_BIT: Final = 0x00280102
SIZES: Final = {8: 1, 16: 2, 32: 4}


def kept_bits(opened: Opened, left: Collection[int]) -> bytes:
    """
    Return the mask of one sample, in the byte order of the file, without the overlays that go; empty without any.

    ``left`` are the tags of the output: an overlay whose Overlay Bit Position (60xx,0102) stays is not touched. Raises
    Quarantined when the bits of an overlay cannot be cleared: in compressed pixels, or inside of the stored bits.
    """
    if opened.pixels is None or opened.pixels.tag != PIXELS:
        return b""
    bits = {
        at for group in range(FIRST, LAST + 1, 2) for at in _bit(opened, group) if group << 16 | POSITION not in left
    }
    if not bits:
        return b""
    allocated = _number(opened.find(BITS_ALLOCATED), 0)
    stored = _number(opened.find(BITS_STORED), allocated)
    high = _number(opened.find(HIGH_BIT), stored - 1)
    size = SIZES.get(allocated, 0)
    swapped = opened.coding.big and size > 2  # 32 bits in words of 16: nobody agrees on the order
    if opened.pixels.fragments or not size or swapped or not stored or high >= allocated:
        raise Quarantined(Reason.PIXEL_REVIEW, "an overlay lies in the bits of pixels that cannot be changed")
    if any(high - stored < at <= high for at in bits):
        raise Quarantined(Reason.PIXEL_REVIEW, "an overlay lies in the bits that the image uses")
    mask = ~sum(1 << at for at in bits if at < allocated) & ((1 << allocated) - 1)
    return mask.to_bytes(size, "big" if opened.coding.big else "little")


def cleared(data: bytes, keep: bytes) -> bytes:
    """Return samples with the bits of a mask; the last one may be cut."""
    count = -(-len(data) // len(keep))
    mask = int.from_bytes((keep * count)[: len(data)], "little")
    return (int.from_bytes(data, "little") & mask).to_bytes(len(data), "little")


def _bit(opened: Opened, group: int) -> Collection[int]:
    """Return the bit of the pixels that an overlay lies in, if it lies there."""
    position = _number(opened.find(group << 16 | POSITION), 0)
    return (position,) if position or _number(opened.find(group << 16 | ALLOCATED), 1) > 1 else ()


def _number(node: Node | None, default: int) -> int:
    if node is None or len(node) < 2:
        return default
    return int.from_bytes(node.content()[:2], "big" if node.coding.big else "little")
