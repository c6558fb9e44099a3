"""Draw the pixels of mock images: cheap, reproducible, and what the modality plausibly stores."""

from __future__ import annotations

from functools import lru_cache
from hashlib import shake_256
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[Any]

CT_INTERCEPT = -1024
CT_AIR, CT_WATER, CT_BONE = -1000, 40, 700
CINE_FRAMES = 4


def ct_slice(seed: str, size: int) -> Pixels:
    """Return a slice in stored values, int16: Hounsfield units plus 1024."""
    body, rim = _disc(size, 0.85), _disc(size, 0.95)
    units = np.where(body, CT_WATER, np.where(rim, CT_BONE, CT_AIR)).astype(np.int16)
    stored: Pixels = units + _noise(seed, size) // 8 - CT_INTERCEPT
    return stored.astype(np.int16)


def mr_slice(seed: str, size: int) -> Pixels:
    """Return a slice of 12 bits, uint16."""
    body = np.where(_disc(size, 0.9), 900, 20)
    core = np.where(_disc(size, 0.3), 600, 0)
    return (body + core + _noise(seed, size)).astype(np.uint16)


def radiograph(seed: str, size: int) -> Pixels:
    """Return a projection of 12 bits, uint16."""
    ramp = np.linspace(500, 3000, size, dtype=np.float64)[:, None]
    return (np.where(_disc(size, 0.8), ramp * 0.6, ramp) + _noise(seed, size)).astype(np.uint16)


def ultrasound(seed: str, size: int, *, colour: bool = False) -> Pixels:
    """Return a fan of echoes as RGB, uint8; with ``colour`` a flow in red and blue inside."""
    fan = np.where(_fan(size), 40 + _noise(seed, size) // 2, 0).astype(np.uint8)
    image = np.repeat(fan[:, :, None], 3, axis=2)
    if colour:
        vessel = _disc(size, 0.25)
        image[vessel] = np.where(_noise(seed, size)[vessel][:, None] < 128, (200, 20, 20), (20, 20, 200))
    return image


def cine(seed: str, size: int, frames: int = CINE_FRAMES) -> Pixels:
    """Return frames of echoes as RGB, uint8, of half the size."""
    return np.stack([ultrasound(f"{seed}.{frame}", size // 2) for frame in range(frames)])


def text_screen(seed: str, size: int) -> Pixels:
    """Return a picture of 8 bits that looks like lines of text from afar, uint8."""
    rows, columns = np.indices((size, size))
    line = (rows // 4) % 3 == 1
    words = _noise(seed, size)[rows // 12 * 12, columns // 4 * 4] > 90
    return np.where(line & words, 220, 0).astype(np.uint8)


def _noise(seed: str, size: int) -> Pixels:
    """Return 0..255 in a square that follows from the seed, the same in every version of numpy."""
    raw = shake_256(seed.encode("ascii")).digest(size * size)
    return np.frombuffer(raw, np.uint8).reshape(size, size).astype(np.int16)


@lru_cache(maxsize=32)
def _disc(size: int, part: float) -> Pixels:
    """Return where an ellipse lies that takes this part of the width."""
    y, x = np.ogrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    inside: Pixels = x**2 + (y / 0.9) ** 2 <= part**2
    inside.flags.writeable = False
    return inside


@lru_cache(maxsize=8)
def _fan(size: int) -> Pixels:
    y, x = np.ogrid[0 : 1 : size * 1j, -1 : 1 : size * 1j]
    inside: Pixels = (x**2 + y**2 <= 1) & (np.abs(x) <= y)
    inside.flags.writeable = False
    return inside
