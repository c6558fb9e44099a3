"""How the pixels of an image are laid out."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from diana.exceptions import InvalidItem
from diana.utils.dicom import Header

MAX_FRAME: Final = 1 << 30
MAX_FRAMES: Final = 1 << 20
KEYS: Final = (
    *("Rows", "Columns", "SamplesPerPixel", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "NumberOfFrames", "PhotometricInterpretation"),
)
SUBSAMPLED: Final = {"YBR_FULL_422": (0, 0, 128, 128), "YBR_PARTIAL_422": (16, 16, 128, 128)}


@frozen
class Layout:
    """Say how pixels are laid out (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    samples: int
    planar: bool
    bits: int
    stored: int
    high: int
    signed: bool
    frames: int
    photometric: str

    @staticmethod
    def of(header: Header) -> Layout:
        """Return the layout that a header announces. Raises InvalidItem for one that cannot be."""
        bits = _number(header, "BitsAllocated", 0)
        stored = _number(header, "BitsStored", bits)
        found = Layout(
            _number(header, "Rows", 0),
            _number(header, "Columns", 0),
            _number(header, "SamplesPerPixel", 1),
            _number(header, "PlanarConfiguration", 0) == 1,
            bits,
            stored,
            _number(header, "HighBit", stored - 1),
            _number(header, "PixelRepresentation", 0) == 1,
            _number(header, "NumberOfFrames", 1) or 1,
            str(header.get("PhotometricInterpretation") or "").strip(),
        )
        if bits not in (1, 8, 16, 32, 64) or found.samples not in (1, 3, 4) or (bits == 1 and found.samples > 1):
            raise InvalidItem("the pixels are laid out in a way that cannot be masked")
        if not 0 < stored <= bits or not stored <= found.high + 1 <= bits:
            raise InvalidItem("the bits of the pixels contradict each other")
        if not (found.rows and found.columns and found.frames <= MAX_FRAMES and found.frame_bits // 8 <= MAX_FRAME):
            raise InvalidItem("the image has no size, or one that is too large")
        return found

    @property
    def subsampled(self) -> bool:
        """Tell whether two pixels share their colour (native YBR_FULL_422)."""
        return self.photometric in SUBSAMPLED and self.samples == 3 and self.bits == 8

    @property
    def frame_bits(self) -> int:
        """Return the bits of one frame."""
        return self.rows * self.columns * (2 if self.subsampled else self.samples) * self.bits

    @property
    def fill(self) -> tuple[int, ...]:
        """Return the samples of a black pixel; of palettes the first colour."""
        if self.photometric == "MONOCHROME1":
            shift = self.high + 1 - self.stored
            return (((1 << (self.stored - (1 if self.signed else 0))) - 1) << shift,)
        if self.photometric.startswith("YBR") and self.photometric not in ("YBR_ICT", "YBR_RCT") and self.samples == 3:
            middle = 1 << (self.stored - 1)
            return (0, middle, middle)
        return (0,) * self.samples


def _number(header: Header, keyword: str, default: int) -> int:
    text = str(header.get(keyword) or "").strip(" \0")
    if not text:
        return default
    try:
        number = int(text)
    except ValueError:
        raise InvalidItem(f"{keyword} is not a whole number") from None
    if not 0 <= number <= 1 << 31:
        raise InvalidItem(f"{keyword} is out of range")
    return number
