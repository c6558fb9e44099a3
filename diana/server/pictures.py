"""Pictures of frames for viewers (PS3.18 8.3.5 and 8.7.4)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final  # Any: arrays and data sets

from attrs import define

from diana.exceptions import InvalidItem
from diana.server.pixels import Pixels, no_pixels, require_pillow
from diana.utils.gateways.file_handlers.dcm_file import parse
from diana.utils.lazy import parent_first

JPEG: Final = "image/jpeg"
PNG: Final = "image/png"
KINDS: Final = (JPEG, PNG)
LARGEST: Final = 8192


@define
class Look:
    """Say how a picture should look: window centre and width, size in pixels, quality of a JPEG in percent."""

    centre: float | None = None
    width: float | None = None
    size: tuple[int, int] | None = None
    quality: int = 90


def real(text: str) -> float:
    """Return a finite number. Raises InvalidItem."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not -1e12 < number < 1e12:
        raise InvalidItem("a parameter is not a number")
    return number


def whole(text: str, low: int, high: int) -> int:
    """Return a whole number within bounds. Raises InvalidItem."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise InvalidItem(f"a parameter is not a whole number from {low} to {high}")
    return int(text)


def look_of(parameters: Mapping[str, str]) -> Look:
    """Read the parameters of a rendered resource. Raises InvalidItem."""
    look = Look()
    if window := parameters.get("window"):
        parts = window.split(",")
        if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] not in ("linear", "linear-exact", "")):
            raise InvalidItem("a window is centre,width,function, with a linear function")
        look.centre, look.width = real(parts[0]), real(parts[1])
        if look.width < 1:
            raise InvalidItem("the width of a window is at least 1")
    if viewport := parameters.get("viewport"):
        parts = viewport.split(",")
        if len(parts) != 2:
            raise InvalidItem("a viewport is width,height")
        look.size = (whole(parts[0], 1, LARGEST), whole(parts[1], 1, LARGEST))
    if quality := parameters.get("quality"):
        look.quality = whole(quality, 1, 100)
    return look


def picture(pixels: Pixels, frame: int, kind: str, look: Look, most: int) -> bytes:
    """Return a frame as PNG or JPEG. Raises Refusal (406) when it cannot be shown, Unsupported without Pillow."""
    image = require_pillow()
    if max(pixels.number("Rows", 0), pixels.number("Columns", 0)) > LARGEST * 4:
        raise no_pixels("a frame is too large to be shown")
    values = pixels.decoded(frame, most)
    try:
        with pixels.blob.open() as stream:
            ds = parse(stream)
        shown = image.fromarray(_eight_bits(values, ds, look))
        if look.size is not None:
            shown.thumbnail(look.size)
        out = io.BytesIO()
        shown.save(out, format="PNG" if kind == PNG else "JPEG", **({} if kind == PNG else {"quality": look.quality}))
    except Exception:  # noqa: BLE001  # damaged attributes fail in many ways, each meaning that it cannot be shown
        raise no_pixels("the frame cannot be shown") from None
    return out.getvalue()


def _eight_bits(values: Any, ds: Any, look: Look) -> Any:
    parent_first("pydicom")
    import numpy as np
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

    if ds.get("PhotometricInterpretation") == "PALETTE COLOR":
        values = apply_color_lut(values, ds)
    if values.ndim == 3:
        top = 255 if values.dtype == np.uint8 else max(1, int(values.max()))
        return np.ascontiguousarray((values.astype(np.float64) * 255 / top).astype(np.uint8)[..., :3])
    values = apply_modality_lut(values, ds)
    if look.centre is not None and look.width is not None:
        low, high = look.centre - look.width / 2, look.centre + look.width / 2
    else:
        windowed = bool(ds.get("WindowWidth")) or "VOILUTSequence" in ds
        values = apply_voi_lut(values, ds) if windowed else values
        low, high = float(values.min()), float(values.max())
    scaled = np.clip((values.astype(np.float64) - low) / max(high - low, 1e-9), 0, 1) * 255
    if ds.get("PhotometricInterpretation") == "MONOCHROME1":
        scaled = 255 - scaled
    return np.ascontiguousarray(np.nan_to_num(scaled).astype(np.uint8))
