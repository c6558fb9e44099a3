"""Bytes in memory or in a file, behind one ``open``."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from hashlib import new
from pathlib import Path
from typing import BinaryIO, cast

PIECE = 1 << 20


class Blob:
    """
    Hold the bytes of one object, in memory or as a file on disk.

    A blob made with ``owned=True`` removes its file when it is closed; every other file is left alone.
    """

    __slots__ = ("_data", "_owned", "_size", "path")

    def __init__(self, source: bytes | bytearray | memoryview | str | os.PathLike[str], *, owned: bool = False) -> None:
        self._data: bytes | bytearray | memoryview | None = None
        self.path: Path | None = None
        self._owned = owned
        if isinstance(source, bytes | bytearray | memoryview):
            self._data = source
            self._size = source.nbytes if isinstance(source, memoryview) else len(source)
        else:
            self.path = Path(source)
            self._size = self.path.stat().st_size

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"Blob({self._size} bytes {'in memory' if self.path is None else 'on disk'})"

    def open(self) -> BinaryIO:
        """Return a new binary reader at the start."""
        if self.path is not None:
            return self.path.open("rb")
        return io.BytesIO(cast(bytes, self._data))

    def read(self) -> bytes:
        """Return all bytes; a large file should be read in ``pieces`` instead."""
        if self.path is not None:
            return self.path.read_bytes()
        return self._data if isinstance(self._data, bytes) else bytes(cast(bytes, self._data))

    def pieces(self, size: int = PIECE) -> Iterator[bytes]:
        """Yield the bytes in order, at most ``size`` at a time."""
        with self.open() as stream:
            while piece := stream.read(size):
                yield piece

    def digest(self, algorithm: str = "md5") -> str:
        """Return a hex digest of the bytes; MD5 is what archives keep, so it is the default."""
        found = new(algorithm, usedforsecurity=False)
        if self._data is not None:
            found.update(self._data)
        else:
            for piece in self.pieces():
                found.update(piece)
        return found.hexdigest()

    def copy_to(self, out: BinaryIO) -> None:
        """Write the bytes to an open file, in pieces."""
        if self._data is not None:
            out.write(self._data)
        else:
            with self.open() as stream:
                shutil.copyfileobj(stream, out, PIECE)

    def close(self) -> None:
        """Remove the file of an owned blob; twice does no harm."""
        if self._owned and self.path is not None:
            self.path.unlink(missing_ok=True)
