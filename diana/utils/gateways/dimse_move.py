"""Where a C-MOVE to ourselves arrives: a storage port that hands on files as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Lock

from attrs import define, field

from diana.exceptions import DianaError, GatewayConnectionError
from diana.utils.blob import Blob
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dimse_scp import LOOPBACK, Network, StorageScp, networks
from diana.utils.gateways.dimse_service import CANNOT_UNDERSTAND, SUCCESS, StoreRequest
from diana.utils.gateways.multipart_sink import Sink

__all__ = ["Arrivals", "Landing"]

IN_MEMORY = 8


class Arrivals:
    """Pass files from the threads that receive to the one that asked; those that wait long lie on disk."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self._queue: SimpleQueue[Blob | DianaError | None] = SimpleQueue()
        self._closed = False
        self._lock = Lock()

    @property
    def crowded(self) -> bool:
        """Tell whether so many wait that further ones belong on disk."""
        return self._queue.qsize() >= IN_MEMORY

    def add(self, blob: Blob) -> None:
        """Take a file."""
        self.last = time.monotonic()
        with self._lock:
            if not self._closed:
                self._queue.put(blob)
                return
        blob.close()

    def end(self, error: DianaError | None = None) -> None:
        """Say that nothing more comes, because of an error or not."""
        self._queue.put(error)

    def __iter__(self) -> Iterator[Blob]:
        while (found := self._queue.get()) is not None:
            if isinstance(found, DianaError):
                raise found
            yield found

    def close(self) -> None:
        """Drop what waits and what still comes."""
        with self._lock:
            self._closed = True
        with suppress(Empty):
            while True:
                left = self._queue.get_nowait()
                if isinstance(left, Blob):
                    left.close()


class _Reception:
    def __init__(self, request: StoreRequest, arrivals: Arrivals, spill: int, folder: str | None) -> None:
        self._arrivals = arrivals
        self._sink = Sink(0 if arrivals.crowded else spill, folder)
        self._write(p.file_head(request.sop_class, request.sop_instance, request.transfer_syntax))

    def _write(self, piece: memoryview | bytes) -> None:
        try:
            self._sink.write(piece)
        except DianaError as error:
            raise OSError(str(error)) from None

    def write(self, piece: memoryview) -> None:
        """Take the next bytes."""
        self._arrivals.last = time.monotonic()
        self._write(piece)

    def finish(self) -> int:
        """Hand the file on."""
        content = self._sink.finish()
        self._arrivals.add(content if isinstance(content, Blob) else Blob(content))
        return SUCCESS

    def abandon(self) -> None:
        """Remove what was written."""
        self._sink.discard()


class _Unasked:
    def write(self, piece: memoryview) -> None:
        """Throw the bytes away."""

    def finish(self) -> int:
        """Refuse what nobody asked for."""
        return CANNOT_UNDERSTAND

    def abandon(self) -> None:
        """Leave nothing behind, as nothing was kept."""


@define(eq=False)
class Landing:
    """
    Listen as the destination of a C-MOVE, for one retrieval at a time.

    ``addresses`` are those of the node, and of this machine.
    """

    aet: str
    host: str = "127.0.0.1"
    port: int = 0
    addresses: list[Network] = field(factory=lambda: networks(LOOPBACK))
    spill: int = field(default=4 << 20, kw_only=True)
    folder: str | None = field(default=None, kw_only=True)
    _turns: Lock = field(init=False, factory=Lock, repr=False)
    _arrivals: Arrivals | None = field(init=False, default=None, repr=False)
    _scp: StorageScp | None = field(init=False, default=None, repr=False)

    def open(self) -> None:
        """Begin to listen; ``port`` says where when it was 0. Raises GatewayConnectionError."""
        if self._scp is None:
            scp = StorageScp(self._receive, self.aet, self.host, self.port, addresses=self.addresses)
            scp.start()
            self.port, self._scp = scp.port, scp

    def close(self) -> None:
        """Stop listening; twice does no harm."""
        scp, self._scp = self._scp, None
        if scp is not None:
            scp.stop(0)

    @contextmanager
    def turn(self, patience: float) -> Iterator[None]:
        """Wait for the turn of a retrieval, some seconds at most. Raises GatewayConnectionError."""
        if not self._turns.acquire(timeout=patience):
            raise GatewayConnectionError("another retrieval by C-MOVE over this port has not ended")
        try:
            yield
        finally:
            self._turns.release()

    def expect(self) -> Arrivals:
        """Return where the next files arrive. Raises GatewayConnectionError when the port is not open."""
        if self._scp is None:
            raise GatewayConnectionError("the port for what is moved here is not open")
        self._arrivals = Arrivals()
        return self._arrivals

    def no_more(self) -> None:
        """Refuse what comes from now on."""
        arrivals, self._arrivals = self._arrivals, None
        if arrivals is not None:
            arrivals.close()

    def _receive(self, request: StoreRequest) -> _Reception | _Unasked:
        arrivals = self._arrivals
        return _Unasked() if arrivals is None else _Reception(request, arrivals, self.spill, self.folder)
