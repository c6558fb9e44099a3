"""An HTTP server on a socket that does what a script says, mostly wrong."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

if TYPE_CHECKING:
    from typing_extensions import Self


@frozen
class Request:
    """One request as it came; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@frozen
class Reply:
    """
    Say what to do with one request.

    ``cut`` sends so many bytes of the body and hangs up; ``length`` announces another length than the body's (None in
    the headers when ``bare``); ``raw`` is sent as it is; ``silent`` waits for the end of the test; ``reset`` hangs up
    at once with RST; ``early`` answers before the body was read and hangs up; ``close`` hangs up after the answer,
    without saying so; ``drip`` sends that many bytes at a time.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(factory=dict)
    cut: int | None = None
    length: int | None = None
    bare: bool = False
    raw: bytes | None = None
    silent: bool = False
    reset: bool = False
    early: bool = False
    close: bool = False
    drip: int = 0

    def wire(self) -> bytes:
        """Return the bytes of the answer."""
        if self.raw is not None:
            return self.raw
        lines = [f"HTTP/1.1 {self.status} Scripted"]
        if not self.bare:
            lines.append(f"Content-Length: {len(self.body) if self.length is None else self.length}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + (self.body if self.cut is None else self.body[: self.cut])


def json_reply(data: Any, **options: Any) -> Reply:
    """Return a reply with JSON."""
    return Reply(body=json.dumps(data).encode(), headers={"Content-Type": "application/json"}, **options)


def html_reply(status: int = 200) -> Reply:
    """Return a login page."""
    return Reply(status, b"<html><body>Log in, please</body></html>", {"Content-Type": "text/html; charset=utf-8"})


def gzip_reply(data: bytes) -> Reply:
    """Return a compressed body."""
    return Reply(body=gzip.compress(data), headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})


@define(eq=False)
class ScriptedServer:
    """
    Answer each request with the next reply; the last one again and again.

    ``requests`` holds what came, ``connections`` counts. Use it in a ``with``.
    """

    replies: list[Reply]
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(init=False, factory=list)
    connections: int = field(init=False, default=0)
    open_connections: int = field(init=False, default=0)
    _listener: socket.socket = field(init=False)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _over: threading.Event = field(init=False, factory=threading.Event)
    _threads: list[threading.Thread] = field(init=False, factory=list)
    _socks: list[socket.socket] = field(init=False, factory=list)
    _taken: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        """Return the base address."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: Any, *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self.open_connections += 1
                self._socks.append(sock)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock if self.tls is None else self.tls.wrap_socket(sock, server_side=True) as wire:
            stream = wire.makefile("rb")
            while self._one(wire, stream):
                pass
            stream.close()
        with self._lock:
            self.open_connections -= 1

    def _one(self, sock: socket.socket, stream: Any) -> bool:
        line = stream.readline().decode("latin-1").split()
        if len(line) != 3:
            return False
        headers: dict[str, str] = {}
        while text := stream.readline().decode("latin-1").strip():
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        with self._lock:
            reply = self.replies[min(self._taken, len(self.replies) - 1)]
            self._taken += 1
        body = b"" if reply.early else self._body(stream, headers)
        self.requests.append(Request(line[0], line[1], headers, body))
        return self._answer(sock, reply)

    @staticmethod
    def _body(stream: Any, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return bytes(stream.read(int(headers.get("content-length", "0"))))
        found = b""
        while size := int(stream.readline(), 16):
            found += stream.read(size)
            stream.readline()
        stream.readline()
        return found

    def _answer(self, sock: socket.socket, reply: Reply) -> bool:
        if reply.silent:
            self._over.wait(30)
            return False
        if reply.reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        data = reply.wire()
        if reply.drip:
            for at in range(0, len(data), reply.drip):
                sock.sendall(data[at : at + reply.drip])
        else:
            sock.sendall(data)
        ends = reply.cut is not None or reply.bare or reply.early or reply.close or reply.length is not None
        return not ends
