"""Pixel arithmetic that is numerically right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any  # tag values and array types are DICOM's

import numpy as np
from numpy.typing import NDArray

from diana.exceptions import InvalidItem


def shaped(pixels: NDArray[Any], tags: Mapping[str, Any]) -> NDArray[Any]:
    """
    Return an array as (frames, rows, columns, samples) without the axes that have length one for frames and samples.

    An array that is already so shaped is returned as it is; a flat or wrongly grouped one is laid out by Rows,
    Columns, SamplesPerPixel, NumberOfFrames and PlanarConfiguration (PS3.3 C.7.6.3). Raises InvalidItem when the
    count does not fit.
    """
    rows, columns = _whole(tags, "Rows", 0), _whole(tags, "Columns", 0)
    samples, frames = _whole(tags, "SamplesPerPixel", 1), _whole(tags, "NumberOfFrames", 1)
    if not rows or not columns:
        return pixels
    shape = (*((frames,) if frames > 1 else ()), rows, columns, *((samples,) if samples > 1 else ()))
    if pixels.shape == shape:
        return pixels
    if pixels.size != frames * rows * columns * samples:
        raise InvalidItem("the pixel array does not have the size that Rows, Columns, samples and frames announce")
    if samples > 1 and _whole(tags, "PlanarConfiguration", 0) == 1:
        planes = pixels.reshape(frames, samples, rows, columns)
        pixels = np.moveaxis(planes, 1, -1)
    laid_out: NDArray[Any] = pixels.reshape(shape)
    return laid_out


def rescaled(pixels: NDArray[Any], tags: Mapping[str, Any]) -> NDArray[Any]:
    """Return stored values times RescaleSlope plus RescaleIntercept; the given array stays as it is."""
    slope, intercept = _real(tags, "RescaleSlope", 1.0), _real(tags, "RescaleIntercept", 0.0)
    if (slope, intercept) == (1.0, 0.0) or _whole(tags, "SamplesPerPixel", 1) > 1:
        same: NDArray[Any] = pixels.copy()
        return same
    if slope.is_integer() and intercept.is_integer() and np.issubdtype(pixels.dtype, np.integer):
        ends = [int(one) * int(slope) + int(intercept) for one in (pixels.min(initial=0), pixels.max(initial=0))]
        largest = max(abs(one) for one in (*ends, int(slope), int(intercept)))
        if largest < 2**63:
            kind = np.int32 if largest < 2**31 else np.int64
            whole: NDArray[Any] = pixels.astype(kind) * kind(int(slope)) + kind(int(intercept))
            return whole
    real: NDArray[Any] = pixels.astype(np.float64) * slope + intercept
    return real


def _whole(tags: Mapping[str, Any], keyword: str, default: int) -> int:
    value = tags.get(keyword)
    try:
        return default if value in (None, "") else int(value)
    except (TypeError, ValueError):
        raise InvalidItem(f"{keyword} is not a whole number") from None


def _real(tags: Mapping[str, Any], keyword: str, default: float) -> float:
    value = tags.get(keyword)
    try:
        return default if value in (None, "") else float(value)
    except (TypeError, ValueError):
        raise InvalidItem(f"{keyword} is not a number") from None
