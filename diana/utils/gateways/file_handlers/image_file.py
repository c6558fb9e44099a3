"""Pictures: arrays to PNG and JPEG and back."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, BinaryIO  # arrays hold any number type

from attrs import define

from diana.exceptions import InvalidItem, Unsupported
from diana.utils.gateways.file_handlers._handler import FileHandler

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
FLOOR = -1024.0
WINDOW = 4096.0
MAX_PICTURE = 512 << 20


@define(eq=False, slots=False)
class ImageFileHandler(FileHandler):
    """Read and write 8-bit pictures below one folder; the suffix of the name (png, jpg, jpeg) is the format."""

    def put(self, fn: str, data: NDArray[Any], max_size: int = 1024) -> str:
        """Write an array as a picture (see ``encoded``), replacing one of that name; return its path."""
        picture = self.encoded(fn, data, max_size)
        return self.write(fn, lambda out: out.write(picture))

    def get(self, fn: str) -> NDArray[Any]:
        """
        Return a picture as an array of uint8: (rows, columns), or (rows, columns, 3) for colour.

        Raises ItemNotFound; InvalidItem for what is no picture.
        """
        self._format(fn)
        with self.open(fn) as stream:
            return self.decoded(stream)

    def encoded(self, fn: str, data: NDArray[Any], max_size: int = 1024) -> bytes:
        """
        Return an array as the bytes of a picture of at most ``max_size`` pixels on its longer side.

        Shapes: (rows, columns), (rows, columns, 3) for colour, with 4 for colour and opacity in uint8, and with a first
        axis for several frames, which are laid side by side in a near-square grid. Values of more than 8 bits are
        brought to 8 by ``squash_to_8bit``.
        Raises InvalidItem for other shapes and suffixes, Unsupported without Pillow.
        """
        kind = self._format(fn)
        if max_size < 1:
            raise InvalidItem(f"{self.name}: a picture has at least one pixel")
        picture = self._picture(data, max_size)
        if kind == "JPEG" and picture.mode == "RGBA":
            picture = picture.convert("RGB")
        out = io.BytesIO()
        picture.save(out, format=kind)
        return out.getvalue()

    def decoded(self, stream: BinaryIO) -> NDArray[Any]:
        """Return an open picture as an array. Raises InvalidItem for what is no picture, or takes more than 512 MiB."""
        import numpy as np

        image = self._pillow()
        try:
            with image.open(stream, formats=("PNG", "JPEG")) as found:
                if found.width * found.height * 4 > MAX_PICTURE:
                    raise InvalidItem(f"{self.name}: the picture takes more than {MAX_PICTURE} bytes")
                values: NDArray[Any] = np.array(found.convert("L" if found.mode in ("1", "L", "I", "I;16") else "RGB"))
                return values
        except InvalidItem:
            raise
        except Exception as error:  # noqa: BLE001  # Pillow raises many types for damaged files
            raise InvalidItem(f"{self.name}: the picture cannot be read ({type(error).__name__})") from None

    @staticmethod
    def squash_to_8bit(data: NDArray[Any]) -> NDArray[Any]:
        """
        Return values as uint8.

        Values below -1024 (air) count as -1024; the lowest becomes 0, and 4096 above it becomes 255; what lies higher
        is 255 too. Fractions are cut, not-a-number counts as the lowest. uint8 passes through as it is.
        """
        import numpy as np

        if data.dtype == np.uint8:
            return data
        if data.dtype == np.bool_:
            black_white: NDArray[Any] = data.astype(np.uint8) * np.uint8(255)
            return black_white
        values = np.maximum(np.nan_to_num(data.astype(np.float32), nan=FLOOR), np.float32(FLOOR))
        if values.size:
            values -= values.min()
        values *= np.float32(255.0 / WINDOW)
        squashed: NDArray[Any] = np.minimum(values, np.float32(255)).astype(np.uint8)
        return squashed

    def _picture(self, data: NDArray[Any], max_size: int) -> Any:
        """Return a Pillow image of one frame, or of the grid of several."""
        colour = data.ndim >= 3 and (data.shape[-1] == 3 or (data.shape[-1] == 4 and data.dtype == "uint8"))
        frames = data[None] if data.ndim == (3 if colour else 2) else data
        if frames.ndim != (4 if colour else 3) or 0 in frames.shape:
            raise InvalidItem(f"{self.name}: no picture has {data.ndim} axes of these lengths")
        image = self._pillow()
        if len(frames) == 1:
            return _limited(image, self._eight_bits(frames[0], colour), max_size)
        across = math.ceil(math.sqrt(len(frames)))
        low = None if colour else self._window_low(frames)
        tiles = [_limited(image, self._eight_bits(one, colour, low), max(1, max_size // across)) for one in frames]
        width, height = tiles[0].size
        grid = image.new(tiles[0].mode, (width * across, height * math.ceil(len(tiles) / across)))
        for at, tile in enumerate(tiles):
            grid.paste(tile, (at % across * width, at // across * height))
        return grid

    def _eight_bits(self, frame: NDArray[Any], colour: bool, low: float | None = None) -> NDArray[Any]:
        import numpy as np

        if frame.dtype == np.uint8 or frame.dtype == np.bool_:
            return self.squash_to_8bit(frame)
        if colour:
            top = float(np.iinfo(frame.dtype).max) if np.issubdtype(frame.dtype, np.integer) else 1.0
            eight: NDArray[Any] = np.clip(frame.astype(np.float32) / top * 255, 0, 255).astype(np.uint8)
            return eight
        if low is None:
            return self.squash_to_8bit(frame)
        ruler = np.append(frame.astype(np.float32).ravel(), np.float32(low))
        return self.squash_to_8bit(ruler)[:-1].reshape(frame.shape)

    @staticmethod
    def _window_low(frames: NDArray[Any]) -> float:
        """Return the lowest value of all frames, so that they share one scale of grey."""
        return float(frames.min())

    def _format(self, fn: str) -> str:
        for suffix, kind in FORMATS.items():
            if str(fn).lower().endswith(suffix):
                return kind
        raise InvalidItem(f"{self.name}: a picture is called .png, .jpg or .jpeg")

    def _pillow(self) -> ModuleType:
        try:
            from PIL import Image
        except ImportError:
            raise Unsupported(f"{self.name}: pictures need Pillow; pip install 'python-diana[images]'") from None
        return Image


def _limited(image: Any, frame: NDArray[Any], max_size: int) -> Any:
    """Return a Pillow image whose longer side is at most ``max_size``."""
    import numpy as np

    found = image.fromarray(np.ascontiguousarray(frame))
    if max(found.size) > max_size:
        found.thumbnail((max_size, max_size))
    return found
