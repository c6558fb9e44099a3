"""One HTTP/1.1 connection (RFC 9112): send a request, read the answer, nothing more."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from diana.exceptions import IncompleteTransfer, InvalidItem
from diana.utils.blob import PIECE, Blob

MAX_HEAD: Final = 64 << 10
SMALL: Final = 32 << 10
BUFFER: Final = 64 << 10
MAX_LINE: Final = 1 << 10
QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)

Pieces = Callable[[], Iterable[bytes]]
Body = bytes | Blob | Pieces


# What a peer that has gone looks like: to be met again on a fresh connection.
GONE: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class BadAnswer(ValueError):
    """Say that what came is not HTTP."""


class ClosedBeforeAnswer(ConnectionError):
    """Say that the peer hung up before the first byte of an answer."""


class Wire:
    """
    Carry one request at a time over one socket; not for several threads.

    ``idle`` (seconds) is how long the peer may be silent, ``deadline`` (monotonic time) ends everything. Packets are
    neither held back (TCP_NODELAY) nor acknowledged late (TCP_QUICKACK), which costs 40 ms per answer otherwise.
    """

    __slots__ = ("_buffer", "_end", "_poll", "_start", "_view", "deadline", "idle", "plain", "sock", "used")

    def __init__(self, sock: socket.socket, idle: float) -> None:
        self.sock = sock
        self.idle = idle
        self.deadline: float | None = None
        self.used = False
        self.plain = not isinstance(sock, ssl.SSLSocket)
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def stale(self) -> bool:
        """Tell whether the peer has closed, or sent what nobody asked for."""
        if self._start != self._end:
            return True
        return bool(self._poll.poll(0)) and (self.plain or not self._only_tls())

    def _only_tls(self) -> bool:
        """Tell whether what waits is TLS's own, such as a session ticket."""
        self.sock.settimeout(0)
        try:
            self.sock.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def limit(self, idle: float, deadline: float | None) -> None:
        """Set the times for the next request."""
        self.idle, self.deadline = idle, deadline
        self._arm()

    def _arm(self) -> None:
        if self.deadline is None:
            self.sock.settimeout(self.idle)
            return
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(min(left, self.idle))

    def send(self, head: bytes, body: Body, length: int | None) -> None:
        """Send head and body; ``length`` None: pieces of unknown total, sent in chunks."""
        if isinstance(body, bytes):
            self._send_bytes(head, memoryview(body))
        elif isinstance(body, Blob):
            self._send_blob(head, body)
        else:
            self._send_pieces(head, body(), length)

    def _send_bytes(self, head: bytes, body: memoryview) -> None:
        if len(body) <= SMALL:
            self.sock.sendall(head + body)
            return
        self.sock.sendall(head)
        for at in range(0, len(body), PIECE):
            if self.deadline is not None:
                self._arm()
            self.sock.sendall(body[at : at + PIECE])

    def _send_blob(self, head: bytes, blob: Blob) -> None:
        if blob.path is None:
            self._send_bytes(head, memoryview(blob.read()))
            return
        try:
            stream = blob.open()
        except OSError as error:
            raise InvalidItem(f"the file to send cannot be opened ({error.strerror})") from None
        with stream:
            self.sock.sendall(head)
            sent = self.sock.sendfile(stream, 0, len(blob)) if len(blob) else 0
        if sent != len(blob):
            raise IncompleteTransfer("the file became shorter while it was sent")

    def _send_pieces(self, head: bytes, pieces: Iterable[bytes], length: int | None) -> None:
        self.sock.sendall(head)
        sent = 0
        for piece in pieces:
            if self.deadline is not None:
                self._arm()
            if length is None:
                if piece:
                    self.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            else:
                self.sock.sendall(piece)
            sent += len(piece)
        if length is None:
            self.sock.sendall(b"0\r\n\r\n")
        elif sent != length:
            raise IncompleteTransfer("the body has not the length that was announced")

    def receive_into(self, target: memoryview) -> int:
        """Fill the start of a buffer with what is there; 0 when the peer has closed."""
        waiting = self._end - self._start
        if waiting:
            count = min(waiting, len(target))
            target[:count] = self._view[self._start : self._start + count]
            self._start += count
            return count
        return self._receive(target)

    def _receive(self, target: memoryview) -> int:
        if self.deadline is not None:
            self._arm()
        if QUICKACK is not None and self.plain:
            self.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        return self.sock.recv_into(target)

    def _more(self) -> int:
        """Receive behind what is buffered."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._buffer[: self._end - self._start] = self._buffer[self._start : self._end]
            self._start, self._end = 0, self._end - self._start
        count = self._receive(self._view[self._end :]) if self._end < len(self._buffer) else 0
        self._end += count
        return count

    def await_answer(self, patience: float) -> None:
        """Wait for the first byte as long as ``idle``; from then on silence may last ``patience``. Raises EOFError."""
        if self._start == self._end and not self._more():
            raise ClosedBeforeAnswer
        self.idle = min(self.idle, patience)
        self._arm()

    def until(self, mark: bytes, limit: int) -> bytes:
        """Return what comes up to a mark, without it. Raises EOFError, BadAnswer when it is longer than ``limit``."""
        while True:
            at = self._buffer.find(mark, self._start, self._end)
            if at >= 0:
                found = bytes(self._view[self._start : at])
                self._start = at + len(mark)
                return found
            if self._end - self._start > limit or (self._start == 0 and self._end == len(self._buffer)):
                raise BadAnswer("a head without end")
            if not self._more():
                if self._start == self._end:
                    raise ClosedBeforeAnswer
                raise EOFError


class Framing:
    """Read the body of one answer to its end, however the end is told; ``length`` is None when it is not announced."""

    __slots__ = ("_chunked", "_left", "length", "wire")

    def __init__(self, wire: Wire, left: int | None, *, chunked: bool) -> None:
        self.wire = wire
        self.length = left
        self._left = left
        self._chunked = chunked

    @property
    def over(self) -> bool:
        """Tell whether the whole body was read."""
        return self._left == 0 and not self._chunked

    def read_into(self, target: memoryview) -> int:
        """Return how many bytes came; 0 at the end. Raises EOFError when the body ends before its announced end."""
        if self._chunked and not self._left:
            self._next_chunk()
        if self._left is None:
            count = self.wire.receive_into(target)
            if not count:
                self._left = 0
            return count
        if not self._left:
            return 0
        count = self.wire.receive_into(target[: self._left] if self._left < len(target) else target)
        if not count:
            raise EOFError
        self._left -= count
        if self._chunked and not self._left and self._line(2):
            raise BadAnswer("a chunk of another length")
        return count

    def _next_chunk(self) -> None:
        line = self._line(MAX_LINE).partition(b";")[0].strip()
        try:
            size = int(line, 16) if line[:1] not in (b"-", b"+", b"") else -1
        except ValueError:
            size = -1
        if size < 0 or b"_" in line:
            raise BadAnswer("a chunk without a length")
        self._left = size
        if not size:
            self._chunked = False
            trailer = 0
            while line := self._line(MAX_HEAD):
                trailer += len(line)
                if trailer > MAX_HEAD:
                    raise BadAnswer("a trailer without end")

    def _line(self, limit: int) -> bytes:
        try:
            return self.wire.until(b"\r\n", limit)
        except ClosedBeforeAnswer:
            raise EOFError from None

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the body in pieces of at most ``size`` bytes."""
        view = memoryview(bytearray(size))
        while count := self.read_into(view):
            yield bytes(view[:count])


def read_head(wire: Wire) -> tuple[int, dict[str, str], bool]:
    """
    Read status and headers (names in lower case) of the final answer; the last value tells HTTP/1.1 from 1.0.

    Raises ClosedBeforeAnswer, EOFError, BadAnswer.
    """
    for _ in range(10):
        lines = wire.until(b"\r\n\r\n", MAX_HEAD).decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        status = rest[:3]
        if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit() and len(status) == 3):
            raise BadAnswer("no status line")
        if status[0] != "1":
            return int(status), _headers(lines[1:]), version != "HTTP/1.0"
    raise BadAnswer("interim answers without end")


def _headers(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name[0] in " \t":
            raise BadAnswer("a broken header")
        name, value = name.lower(), value.strip(" \t")
        before = found.get(name)
        if before is not None and name == "content-length" and before != value:
            raise BadAnswer("two lengths")
        found[name] = value if before is None or name == "content-length" else f"{before}, {value}"
    return found


def framing_of(wire: Wire, method: str, status: int, headers: dict[str, str]) -> Framing:
    """Return the reader for the body that the headers announce."""
    if method == "HEAD" or status in (204, 304):
        return Framing(wire, 0, chunked=False)
    coding = headers.get("transfer-encoding", "").lower()
    if coding:
        if coding != "chunked":
            raise BadAnswer("an unknown transfer coding")
        return Framing(wire, None, chunked=True)
    text = headers.get("content-length")
    if text is None:
        return Framing(wire, None, chunked=False)
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadAnswer("a length that is no number")
    return Framing(wire, int(text), chunked=False)
