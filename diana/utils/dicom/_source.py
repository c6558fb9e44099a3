"""Read untrusted bytes by position: files, descriptors, buffers, file objects and deflate streams."""

from __future__ import annotations

import errno
import io
import os
import zlib
from typing import IO, Final, Protocol, TypeAlias

from diana.exceptions import InvalidItem

Readable: TypeAlias = "str | os.PathLike[str] | int | bytes | bytearray | memoryview | IO[bytes]"

FIRST_READ: Final = 4096
LARGEST_READ: Final = 65536
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
MAX_INFLATED: Final = 512 * 1024 * 1024


class Cut(InvalidItem):
    """Say that the data end before the structure does."""


class Malformed(InvalidItem):
    """Say that the structure contradicts itself."""


class OverLimit(InvalidItem):
    """Say that the structure is deeper, longer or larger than any sane object."""


class Source(Protocol):
    """Read bytes by absolute position; a short answer means the end."""

    def read(self, pos: int, n: int) -> bytes:
        """Return up to ``n`` bytes at ``pos``, fewer only at the end."""
        ...  # pragma: no cover

    def length(self) -> int | None:
        """Return the size in bytes, None when it is not known."""
        ...  # pragma: no cover

    def close(self) -> None:
        """Give back what was opened; leave the caller's own file as it was."""
        ...  # pragma: no cover


class DescriptorSource:
    """Read a regular file by ``pread``; the offset of the descriptor does not move."""

    __slots__ = ("_fd", "_owned", "_size")

    def __init__(self, fd: int, *, owned: bool, size: int | None) -> None:
        self._fd = fd
        self._owned = owned
        self._size = size

    def read(self, pos: int, n: int) -> bytes:
        """Return up to ``n`` bytes at ``pos``. Raises InvalidItem for folders, pipes and devices without offsets."""
        if self._size is not None:
            n = max(0, min(n, self._size - pos))
        try:
            data = os.pread(self._fd, n, pos)
            while data and len(data) < n:
                more = os.pread(self._fd, n - len(data), pos + len(data))
                if not more:
                    break
                data += more
        except OSError as err:
            if err.errno in (errno.EISDIR, errno.ESPIPE, errno.EINVAL, errno.ENXIO, errno.EAGAIN):
                raise InvalidItem("not a regular file") from None
            raise
        return data

    def length(self) -> int | None:
        """Return the size of the file now, or the size given."""
        return os.fstat(self._fd).st_size if self._size is None else self._size

    def close(self) -> None:
        """Close the descriptor when it was opened here."""
        if self._owned:
            os.close(self._fd)


class BufferSource:
    """Read from memory."""

    __slots__ = ("_view",)

    def __init__(self, data: bytes | bytearray | memoryview, size: int | None) -> None:
        self._view = memoryview(data).cast("B")[:size]

    def read(self, pos: int, n: int) -> bytes:
        """Return up to ``n`` bytes at ``pos``."""
        return bytes(self._view[pos : pos + n])

    def length(self) -> int | None:
        """Return the size of the buffer."""
        return len(self._view)

    def close(self) -> None:
        """Let the buffer go."""
        self._view.release()


class FileSource:
    """Read a seekable binary file object from its start; ``close`` puts its position back."""

    __slots__ = ("_before", "_file", "_size")

    def __init__(self, file: IO[bytes], size: int | None) -> None:
        self._file = file
        self._before = file.tell()
        self._size = size

    def read(self, pos: int, n: int) -> bytes:
        """Return up to ``n`` bytes at ``pos``."""
        if self._size is not None:
            n = max(0, min(n, self._size - pos))
        self._file.seek(pos)
        data = self._file.read(n)
        while data and len(data) < n:
            more = self._file.read(n - len(data))
            if not more:
                break
            data += more
        return data

    def length(self) -> int | None:
        """Return the size, found by seeking."""
        return self._file.seek(0, io.SEEK_END) if self._size is None else self._size

    def close(self) -> None:
        """Put the position back."""
        self._file.seek(self._before)


class InflatedSource:
    """
    Inflate a raw deflate stream forwards, holding only what the last read asked for (PS3.5 A.5).

    Positions count inflated bytes and may not go back behind the last one read. Raises OverLimit after ``limit``
    inflated bytes, Malformed when the stream is not deflate. ``finished`` says that its end was seen.
    """

    __slots__ = ("_at", "_buffer", "_engine", "_from", "_limit", "_next", "finished")

    def __init__(self, source: Source, start: int, limit: int = MAX_INFLATED) -> None:
        self._from = source
        self._next = start
        self._engine = zlib.decompressobj(-zlib.MAX_WBITS)
        self._buffer = b""
        self._at = 0
        self._limit = limit
        self.finished = False

    def read(self, pos: int, n: int) -> bytes:
        """Return up to ``n`` inflated bytes at ``pos``."""
        self._forget(pos)
        while self._at + len(self._buffer) < pos + n:
            more = self._more()
            if not more:
                break
            self._buffer += more
            self._forget(pos)
        return self._buffer[pos - self._at : pos - self._at + n]

    def _forget(self, pos: int) -> None:
        drop = min(pos - self._at, len(self._buffer))
        self._buffer = self._buffer[drop:]
        self._at += drop

    def _more(self) -> bytes:
        while not self.finished:
            packed = self._engine.unconsumed_tail
            if not packed:
                packed = self._from.read(self._next, LARGEST_READ)
                self._next += len(packed)
            try:
                data = self._engine.decompress(packed, LARGEST_READ)
            except zlib.error:
                raise Malformed("the deflated data set does not inflate") from None
            self.finished = self._engine.eof
            if self._at + len(self._buffer) + len(data) > self._limit:
                raise OverLimit(f"the deflated data set inflates to more than {self._limit} bytes")
            if data:
                return data
            if not packed:
                break
        return b""

    def length(self) -> int | None:
        """Return None: the size is not known before the end."""
        return None

    def close(self) -> None:
        """Keep the compressed source open; who opened it closes it."""


def open_source(source: Readable, size: int | None = None) -> Source:
    """
    Open a path, descriptor, buffer or seekable binary file; only the first ``size`` bytes count when it is given.

    A FIFO does not block. Raises OSError when a path cannot be opened, InvalidItem when a file cannot seek.
    """
    if isinstance(source, (str, os.PathLike)):
        return DescriptorSource(os.open(source, _FLAGS), owned=True, size=size)
    if isinstance(source, int):
        return DescriptorSource(source, owned=False, size=size)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return BufferSource(source, size)
    try:
        return FileSource(source, size)
    except (OSError, AttributeError):
        raise InvalidItem("the file object cannot seek") from None


class Window:
    """Hold one stretch of a source: ``data`` starts at position ``base``; reads grow from 4 to 64 KiB."""

    __slots__ = ("base", "data", "size", "source", "step")

    def __init__(self, source: Source, *, size: int | None = None) -> None:
        self.source = source
        self.size = size
        self.base = 0
        self.step = FIRST_READ
        self.data = b""

    def load(self, pos: int, need: int = 0) -> bool:
        """Move to ``pos`` and tell whether ``need`` bytes are there."""
        self.data = self.source.read(pos, max(self.step, need))
        self.base = pos
        self.step = min(self.step * 4, LARGEST_READ)
        return len(self.data) >= need

    def index(self, pos: int, need: int) -> int:
        """Return where ``pos`` lies in ``data``, loading as needed. Raises Cut unless ``need`` bytes follow."""
        i = pos - self.base
        if i < 0 or i + need > len(self.data):
            if not self.load(pos, need):
                raise Cut("the data end inside an element")
            return 0
        return i

    def peek(self, pos: int, n: int) -> bytes:
        """Return up to ``n`` bytes at ``pos``."""
        i = pos - self.base
        if i < 0 or i + n > len(self.data):
            self.load(pos, n)
            i = 0
        return self.data[i : i + n]

    def reach(self, pos: int) -> None:
        """Raise Cut unless the source holds every byte before ``pos``."""
        if self.size is not None:
            if pos > self.size:
                raise Cut("the data end inside a value")
        elif pos > self.base + len(self.data) and not self.load(pos - 1, 1):
            raise Cut("the data end inside a value")
