"""Run the application on uvicorn: sockets, TLS, a clean start and end."""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final  # Any: frames of signals, states of h11

import h11
import uvicorn
from attrs import define, field
from uvicorn.protocols.http.h11_impl import H11Protocol

from diana.exceptions import ConfigError, StateUnavailable
from diana.server.app import make_app
from diana.server.auth import Auth, as_auths
from diana.server.bridge import ABORT
from diana.server.limits import Limits
from diana.utils.endpoint import Endpoint
from diana.utils.signals import stop_signal

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

LOCAL: Final = ("localhost", "127.0.0.1", "::1")
GRACE: Final = 10
KEEP_ALIVE: Final = 15
START_TIME: Final = 15.0


def _protocol(limits: Limits) -> type[H11Protocol]:
    """Return uvicorn's protocol with a time within which the head of a request must come."""

    class Protocol(H11Protocol):
        _timer: Any = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.app_state = {**self.app_state, ABORT: self._abort}

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            sock = transport.get_extra_info("socket")
            if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._timer = self.loop.call_later(limits.head_time, self._abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            waits = self.conn.their_state is h11.IDLE
            if not waits and self._timer is not None:
                self._timer.cancel()
                self._timer = None
            elif waits and self._timer is None:
                self._timer = self.loop.call_later(limits.head_time, self._abort)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _abort(self) -> None:
            """Drop the connection with all that is still to be sent, also by the kernel."""
            sock = self.transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    return Protocol


def is_loopback(host: str) -> bool:
    """Tell whether an address or name means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@define(eq=False)
class HttpFace:
    """
    Serve an endpoint over HTTP in a thread of its own; ``start`` and ``stop`` it, or use it in a ``with``.

    Port 0 takes a free one. Bound to another address than loopback without ``auth`` it raises ConfigError, unless
    ``insecure``. ``tls_cert`` and ``tls_key`` are PEM files.
    """

    endpoint: Endpoint
    host: str = "127.0.0.1"
    port: int = 0
    auth: Auth | Iterable[Auth] | None = field(default=None, kw_only=True, repr=False)
    tls_cert: str | Path | None = field(default=None, kw_only=True)
    tls_key: str | Path | None = field(default=None, kw_only=True)
    insecure: bool = field(default=False, kw_only=True)
    limits: Limits = field(factory=Limits, kw_only=True)
    base: str = field(default="", kw_only=True)
    _server: uvicorn.Server | None = field(init=False, default=None, repr=False)
    _thread: threading.Thread | None = field(init=False, default=None, repr=False)

    @property
    def url(self) -> str:
        """Return the address, once it is started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"

    def start(self) -> Self:
        """Begin to listen. Raises ConfigError, StateUnavailable when the address cannot be had."""
        auths = as_auths(self.auth)
        if not auths and not self.insecure and not is_loopback(self.host):
            raise ConfigError("serving beyond this machine needs a user and password, a token, or --insecure")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("TLS needs a certificate and its key")
        closed = not auths and not self.insecure
        app = make_app(
            self.endpoint,
            auth=auths,
            limits=self.limits,
            hosts={*LOCAL, self.host} if closed else None,
            base=self.base,
        )
        config = self._config(app)
        sock = self._bound()
        self.port = sock.getsockname()[1]
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(self._server, sock), name="http-face", daemon=True)
        self._thread.start()
        limit = threading.Event()
        waited = 0.0
        while not self._server.started and self._thread.is_alive() and waited < START_TIME:
            limit.wait(0.01)
            waited += 0.01
        if not self._server.started:
            self.stop()
            raise StateUnavailable("the HTTP server did not start")
        log.info("serving %s at %s", self.endpoint.name, self.url)
        return self

    @staticmethod
    def _run(server: uvicorn.Server, sock: socket.socket) -> None:
        with sock:
            server.run(sockets=[sock])

    def _config(self, app: Any) -> uvicorn.Config:
        config = uvicorn.Config(
            app,
            http=_protocol(self.limits),
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=256,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
            limit_concurrency=self.limits.connections,
            h11_max_incomplete_event_size=self.limits.headers,
            ssl_certfile=self.tls_cert,
            ssl_keyfile=None if self.tls_key is None else str(self.tls_key),
        )
        try:
            config.load()
        except (OSError, ssl.SSLError):
            raise ConfigError("the certificate or its key cannot be used") from None
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        return config

    def _bound(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.host, self.port))
            sock.listen(256)
        except (OSError, OverflowError) as error:
            sock.close()
            why = getattr(error, "strerror", None) or "no such port"
            raise StateUnavailable(f"cannot listen at {self.host} port {self.port}: {why}") from None
        return sock

    def stop(self) -> None:
        """End: what is being answered may end within the grace, then connections are closed. Twice does no harm."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None:
            server.should_exit = True
        if thread is not None:
            thread.join(GRACE + 5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    endpoint: Endpoint,
    http_port: int = 0,
    *,
    host: str = "127.0.0.1",
    ready: Callable[[HttpFace], None] | None = None,
    **options: Any,
) -> None:
    """
    Serve an endpoint until SIGTERM or SIGINT; for the main thread.

    ``ready`` is called once it listens; ``options`` are those of ``HttpFace``.
    """
    with stop_signal() as stopped, HttpFace(endpoint, host, http_port, **options) as face:
        if ready is not None:
            ready(face)
        stopped.wait()
