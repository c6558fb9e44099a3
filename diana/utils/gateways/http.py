"""The HTTP client of the project: streams both ways, checks what came, keeps connections, hides secrets."""

from __future__ import annotations

import json
import logging
import re
import socket
import ssl
import time
import weakref
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final  # Any: JSON may be of any type
from urllib.parse import unquote, urlsplit

from attrs import define, field

from diana.exceptions import ConfigError, GatewayAnswerError
from diana.utils.blob import Blob
from diana.utils.endpoint.serializable import SECRET
from diana.utils.gateways.http_answer import TEXT_LIMIT, WIRE_TROUBLE, Answer
from diana.utils.gateways.http_errors import error_of_status, error_of_wire, kind_of
from diana.utils.gateways.http_wire import GONE, BadAnswer, Body, Framing, Wire, framing_of, read_head

log = logging.getLogger(__name__)

__all__ = ["Answer", "Body", "HttpClient"]

JSON_LIMIT: Final = 128 << 20
ERROR_LIMIT: Final = 64 << 10
JSON_PATIENCE: Final = 15
SPILL: Final = 4 << 20
NO_BODY: Final = b""

_TARGET: Final = re.compile(r"[\x21-\x7e]+\Z")
_HEADER: Final = re.compile(r"[\x20-\x7e\t]*\Z")


def _base(url: str) -> str:
    """Return an address without slash at the end. Raises ConfigError."""
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        parts.port  # noqa: B018  # raises for a port that is no number
    except ValueError:
        good = False
    if not good or not _TARGET.match(url.strip()):
        raise ConfigError("an address must look like http://host:port/path")
    return url.strip().rstrip("/")


@define(eq=False)
class HttpClient:
    """
    Ask one server, and only that one: redirects and proxies of the environment are not followed.

    ``timeout`` is (connect, silence) in seconds; there is no limit to the whole, so that large objects pass.
    ``verify`` is True, False or the file of a private CA; ``cert`` the file, or files, of a client certificate and its
    key. ``believe_404`` is the media type that a 404 must have, if it has one, to mean that an item is absent; empty:
    any but HTML. ``explain`` turns status and body of a refusal into the status to judge it by and a detail.
    ``spill`` is the size in bytes above which a body goes to a temporary file in ``folder``. User and password may
    stand in the address; they never show. A request that meets a kept connection which the server has closed
    meanwhile is repeated once. For any number of threads.
    """

    base_url: str = field(converter=_base, repr=False)
    name: str = field(default="", kw_only=True)
    user: str | None = field(default=None, kw_only=True, repr=False)
    password: str | None = field(default=None, kw_only=True, repr=False, metadata=SECRET)
    timeout: tuple[float, float] = field(default=(5.0, 60.0), kw_only=True)
    verify: bool | str = field(default=True, kw_only=True)
    cert: str | tuple[str, str] | None = field(default=None, kw_only=True, repr=False)
    headers: Mapping[str, str] = field(factory=dict, kw_only=True, repr=False)
    believe_404: str = field(default="", kw_only=True)
    explain: Callable[[int, bytes], tuple[int, str]] | None = field(default=None, kw_only=True, repr=False)
    spill: int = field(default=SPILL, kw_only=True)
    folder: str | None = field(default=None, kw_only=True)
    keep: int = field(default=8, kw_only=True)

    _idle: deque[Wire] = field(init=False, factory=deque, repr=False)
    _place: tuple[str, int] = field(init=False, repr=False)
    _prefix: str = field(init=False, repr=False)
    _head: str = field(init=False, repr=False)
    _tls: ssl.SSLContext | None = field(init=False, repr=False, default=None)

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        secure = parts.scheme == "https"
        host = parts.hostname or ""
        self._place = (host, parts.port or (443 if secure else 80))
        self._prefix = parts.path
        shown = f"[{host}]" if ":" in host else host
        authority = shown if parts.port is None else f"{shown}:{parts.port}"
        if parts.username is not None:
            self.user, self.password = unquote(parts.username), unquote(parts.password or "")
        self.base_url = f"{parts.scheme}://{authority}{parts.path}"
        self.name = self.name or authority
        lines = {"Host": authority, "Accept-Encoding": "identity", "User-Agent": "diana", **self.headers}
        if self.user:
            token = b64encode(f"{self.user}:{self.password or ''}".encode()).decode()
            lines["Authorization"] = f"Basic {token}"
        self._head = _lines(lines)
        if secure:
            self._tls = self._context()
        weakref.finalize(self, _close_all, self._idle)

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.verify if isinstance(self.verify, str) else None)
            if self.cert is not None:
                context.load_cert_chain(*((self.cert,) if isinstance(self.cert, str) else self.cert))
        except (OSError, ValueError):
            raise ConfigError(f"{self.name}: the CA or client certificate cannot be read") from None
        if self.verify is False:
            log.warning("%s: certificates are not checked (verify: false)", self.name)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Body = NO_BODY,
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
        absent: bool = False,
        idle: float | None = None,
        within: float | None = None,
    ) -> Answer:
        """
        Send a request and return the answer, which has status 2xx and whose body is still to be read.

        ``path`` is relative to the base address, quoted already. ``body`` is bytes, a blob, or a function that gives
        the pieces, of ``length`` bytes in all (None: sent in chunks). A 404 raises ItemNotFound when ``absent`` is
        set. ``idle`` replaces the second timeout, ``within`` limits the whole, in seconds. Raises
        GatewayConnectionError, GatewayRefused, GatewayAnswerError.
        """
        where = f"{self.name}: {method} {kind_of(path)}"
        head = self._request_head(method, path, body, length, headers)
        size = length if callable(body) else len(body)
        deadline = None if within is None else time.monotonic() + within
        wire, answer = self._exchange(where, method, (head, body, size), idle or self.timeout[1], deadline)
        found = Answer(self, wire, where, answer, self._framing(where, wire, method, answer))
        if 200 <= found.status < 300:
            if found.headers.get("content-encoding", "identity") != "identity":
                found.close()
                raise GatewayAnswerError(f"{where}: the answer is compressed although nobody asked", found.status)
            return found
        raise self._refused(found, absent)

    def _request_head(
        self, method: str, path: str, body: Body, length: int | None, headers: Mapping[str, str] | None
    ) -> bytes:
        target = f"{self._prefix}/{path.lstrip('/')}"
        if not _TARGET.match(target):
            raise GatewayAnswerError(f"{self.name}: the path of a request holds characters that must be quoted")
        size = ""
        if callable(body):
            size = "Transfer-Encoding: chunked\r\n" if length is None else f"Content-Length: {length}\r\n"
        elif body or method in ("POST", "PUT"):
            size = f"Content-Length: {len(body)}\r\n"
        more = _lines(headers) if headers else ""
        return f"{method} {target} HTTP/1.1\r\n{self._head}{size}{more}\r\n".encode("latin-1")

    def _exchange(
        self, where: str, method: str, sent: tuple[bytes, Body, int | None], idle: float, deadline: float | None
    ) -> tuple[Wire, tuple[int, dict[str, str], bool]]:
        """Send and read the head of the answer, once more when a kept connection was stale."""
        while True:
            wire = None
            try:
                wire = self._take(deadline)
                wire.limit(idle, deadline)
                return wire, self._converse(wire, sent)
            except GONE as error:
                self._discard(wire)
                if wire is not None and wire.used:
                    # when one kept connection is dead, the others probably are
                    self.close()
                    continue
                raise error_of_wire(where, error) from None
            except WIRE_TROUBLE as error:
                self._discard(wire)
                raise error_of_wire(where, error) from None
            except BaseException:
                self._discard(wire)
                raise

    def _converse(self, wire: Wire, sent: tuple[bytes, Body, int | None]) -> tuple[int, dict[str, str], bool]:
        try:
            wire.send(*sent)
        except GONE:
            if wire.used:
                raise
            # a server may refuse and hang up before it has read all: its answer says more than the reset
            return self._head_of(wire)
        return self._head_of(wire)

    def _head_of(self, wire: Wire) -> tuple[int, dict[str, str], bool]:
        """Wait for the answer as long as the request allows, and for the rest of it as long as any."""
        wire.await_answer(self.timeout[1])
        return read_head(wire)

    def _framing(self, where: str, wire: Wire, method: str, head: tuple[int, dict[str, str], bool]) -> Framing:
        try:
            return framing_of(wire, method, head[0], head[1])
        except BadAnswer as error:
            wire.close()
            raise error_of_wire(where, error) from None

    def _refused(self, answer: Answer, absent: bool) -> Exception:
        status, kind = answer.status, answer.content_type
        with answer:
            short = (answer.length or 0) <= ERROR_LIMIT
            text = bytes(answer.read(ERROR_LIMIT)) if short else b""
        believed = kind in (self.believe_404, "") if self.believe_404 else kind != "text/html"
        if status == 404 and absent and not believed:
            return GatewayAnswerError(f"{answer.where}: HTTP 404, but not from the service itself", status)
        status, detail = self.explain(status, text) if self.explain is not None else (status, "")
        wait = answer.headers.get("retry-after", "")
        return error_of_status(answer.where, status, retry_after=wait, detail=detail, absent=absent)

    def json(self, method: str, path: str, data: Any = None, *, limit: int = JSON_LIMIT, **options: Any) -> Any:
        """
        Return the decoded JSON answer; ``data`` is sent as JSON. ``options`` are those of ``request``.

        All of it must come within fifteen times the allowed silence, so that a drip of bytes holds nobody for ever.
        """
        options.setdefault("within", JSON_PATIENCE * (options.get("idle") or self.timeout[1]))
        if data is not None:
            options["body"] = json.dumps(data).encode()
            options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
        with self.request(method, path, **options) as answer:
            if "json" not in answer.content_type:
                raise GatewayAnswerError(f"{answer.where}: the answer is not JSON", answer.status)
            text = answer.read(limit)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise GatewayAnswerError(f"{answer.where}: the answer is damaged JSON", answer.status) from None

    def text(self, method: str, path: str, *, limit: int = TEXT_LIMIT, **options: Any) -> str:
        """Return the answer as text (UTF-8)."""
        with self.request(method, path, **options) as answer:
            if answer.content_type == "text/html":
                raise GatewayAnswerError(f"{answer.where}: the answer is a web page", answer.status)
            return answer.read(limit).decode("utf-8", "replace")

    def blob(self, method: str, path: str, *, limit: int | None = None, **options: Any) -> Blob:
        """Return the answer as a blob, see ``Answer.blob``."""
        with self.request(method, path, **options) as answer:
            if answer.content_type == "text/html":
                raise GatewayAnswerError(f"{answer.where}: the answer is a web page", answer.status)
            return answer.blob(limit)

    def call(self, method: str, path: str, **options: Any) -> None:
        """Send a request whose answer does not matter beyond its status."""
        with self.request(method, path, **options) as answer:
            answer.read()

    def _take(self, deadline: float | None) -> Wire:
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:
                break
            if not wire.stale():
                wire.used = True
                return wire
            wire.close()
        return self._connect(deadline)

    def _connect(self, deadline: float | None) -> Wire:
        patience = self.timeout[0] if deadline is None else max(0.01, min(self.timeout[0], deadline - time.monotonic()))
        sock = socket.create_connection(self._place, patience)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self._place[0])
        except BaseException:
            sock.close()
            raise
        return Wire(sock, self.timeout[1])

    def give_back(self, wire: Wire) -> None:
        """Keep a connection for the next request."""
        if len(self._idle) < self.keep:
            self._idle.append(wire)
        else:
            wire.close()

    @staticmethod
    def _discard(wire: Wire | None) -> None:
        if wire is not None:
            wire.close()

    def close(self) -> None:
        """Close the kept connections; the client may be used again."""
        _close_all(self._idle)


def _close_all(wires: deque[Wire]) -> None:
    while wires:
        try:
            wires.pop().close()
        except IndexError:
            return


def _lines(headers: Mapping[str, str]) -> str:
    for name, value in headers.items():
        if not _HEADER.match(value) or not _HEADER.match(name):
            raise ConfigError("a header holds characters that HTTP does not allow")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
