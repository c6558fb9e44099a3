"""One TCP connection that carries PDUs, with a deadline on everything."""

from __future__ import annotations

import select
import socket
import ssl
import time
from contextlib import suppress
from typing import Final

from attrs import define, field

from diana.exceptions import GatewayAnswerError, GatewayConnectionError
from diana.utils.gateways import dimse_pdu as p

# A request with 128 contexts of many transfer syntaxes stays below this.
MAX_ASSOCIATE: Final = 512 << 10
QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)


class PeerClosed(GatewayConnectionError):
    """Say that the peer closed the connection between two PDUs."""


@define(eq=False)
class Wire:
    """
    Send and receive whole PDUs over a connected socket.

    ``timeout`` (seconds) ends a PDU that stops half-way and a send that nobody takes; ``max_pdu`` bounds what is
    read at once. Small packets are neither held back (TCP_NODELAY) nor acknowledged late (TCP_QUICKACK), which costs
    40 ms per message otherwise. Not for several threads, but for ``hang_up``.
    """

    sock: socket.socket
    timeout: float
    max_pdu: int = p.DEFAULT_MAX_PDU
    _buffer: bytearray = field(init=False, factory=bytearray, repr=False)

    def __attrs_post_init__(self) -> None:
        with suppress(OSError):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def read_pdu(self, wait: float, *, within: float | None = None) -> tuple[int, memoryview]:
        """
        Return type and body of the next PDU; the body is valid until the next call.

        ``wait`` is how long the first byte may take, the rest has ``timeout``; ``within`` limits the whole. Raises
        PeerClosed, GatewayConnectionError when the time is over, GatewayAnswerError for what is no PDU of acceptable
        size.
        """
        start = time.monotonic()
        head = self._read(p.HEADER, start + (wait if within is None else min(wait, within)), first=True)
        kind, size = head[0], int.from_bytes(head[2:6], "big")
        limit = self.max_pdu if kind == p.P_DATA else MAX_ASSOCIATE if kind <= p.ASSOCIATE_AC else 64
        if not p.ASSOCIATE_RQ <= kind <= p.ABORT or size > limit:
            raise GatewayAnswerError("what came is no DICOM PDU of acceptable size")
        end = time.monotonic() + self.timeout if within is None else start + within
        return kind, self._read(size, end)

    def _read(self, size: int, end: float, *, first: bool = False) -> memoryview:
        if len(self._buffer) < size:
            self._buffer = bytearray(max(size, 4096))
        view = memoryview(self._buffer)[:size]
        got = 0
        while got < size:
            got += self._receive(view[got:], end, first=first and not got)
            if first:
                end = min(end, time.monotonic() + self.timeout)
        return view

    def _receive(self, room: memoryview, end: float, *, first: bool) -> int:
        left = end - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)
            self._acknowledge_at_once()
            count = self.sock.recv_into(room)
        except TimeoutError:
            raise GatewayConnectionError("the DICOM peer fell silent") from None
        except OSError as error:
            raise GatewayConnectionError(f"the DICOM connection broke ({type(error).__name__})") from None
        if not count:
            raise (
                PeerClosed("the DICOM peer closed the connection")
                if first
                else GatewayConnectionError("the DICOM peer closed the connection inside a PDU")
            )
        return count

    def _acknowledge_at_once(self) -> None:
        if QUICKACK is not None:
            self.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)

    def send(self, data: bytes | bytearray) -> None:
        """Send bytes. Raises GatewayConnectionError when the peer is gone or does not take them in time."""
        try:
            self.sock.settimeout(self.timeout)
            self.sock.sendall(data)
        except OSError as error:
            raise GatewayConnectionError(f"the DICOM connection broke ({type(error).__name__})") from None

    def readable(self, wait: float = 0.0) -> bool:
        """Tell whether there is something to read, or an end, within some seconds. Raises GatewayConnectionError."""
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return True
        try:
            waiter = select.poll()
            waiter.register(self.sock, select.POLLIN)
            return bool(waiter.poll(wait * 1000))
        except (OSError, ValueError) as error:
            raise GatewayConnectionError(f"the DICOM connection broke ({type(error).__name__})") from None

    def hang_up(self, how: int = socket.SHUT_RDWR) -> None:
        """Wake whoever reads or writes here with an end of the stream; from any thread."""
        with suppress(OSError):
            # not SSLSocket's own, which takes the encryption away from whoever still writes
            socket.socket.shutdown(self.sock, how)

    def close(self) -> None:
        """Close the connection; twice does no harm."""
        self.sock.close()
