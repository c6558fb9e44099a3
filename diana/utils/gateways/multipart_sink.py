"""Where the content of a part goes while it arrives: memory, or a temporary file when it grows."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from diana.exceptions import IncompleteTransfer
from diana.utils.blob import Blob

SPILL: Final = 4 << 20


class Sink:
    """Gather pieces; beyond ``spill`` bytes they go to a temporary file in ``folder``."""

    __slots__ = ("_handle", "_name", "_pieces", "_size", "folder", "spill", "where")

    def __init__(self, spill: int = SPILL, folder: str | None = None, where: str = "") -> None:
        self.spill = spill
        self.folder = folder
        self.where = where
        self._pieces: list[bytes] = []
        self._size = 0
        self._handle = -1
        self._name = ""

    def __len__(self) -> int:
        return self._size

    def write(self, piece: memoryview | bytes) -> None:
        """Add a piece; it is copied. Raises IncompleteTransfer when the file cannot be written."""
        self._size += len(piece)
        if self._handle < 0 and self._size <= self.spill:
            self._pieces.append(bytes(piece))
            return
        try:
            if self._handle < 0:
                self._handle, self._name = tempfile.mkstemp(prefix="diana-", suffix=".part", dir=self.folder)
                for one in self._pieces:
                    self._write(memoryview(one))
                self._pieces.clear()
            self._write(memoryview(piece))
        except OSError as error:
            text = f"{self.where}: cannot write a temporary file ({error.strerror})"
            raise IncompleteTransfer(text.removeprefix(": ")) from None

    def _write(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += os.write(self._handle, view[done:])

    def finish(self) -> bytes | Blob:
        """Return what was gathered; a blob removes its file when it is closed."""
        if self._handle < 0:
            return b"".join(self._pieces)
        handle, self._handle = self._handle, -1
        os.close(handle)
        return Blob(self._name, owned=True)

    def discard(self) -> None:
        """Remove the file, if there is one; twice does no harm."""
        self._pieces.clear()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._name:
            Path(self._name).unlink(missing_ok=True)
            self._name = ""
