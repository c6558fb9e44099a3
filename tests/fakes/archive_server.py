"""What the fake MINT and RAD-69 archives share: instances in memory behind a threading HTTP server."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from diana.dixel import Dixel

if TYPE_CHECKING:
    from typing_extensions import Self


class Handler(BaseHTTPRequestHandler):
    """Hand every request to the archive; log nothing."""

    protocol_version = "HTTP/1.1"
    archive: ClassVar[ArchiveServer]

    def do_GET(self) -> None:
        """Answer."""
        self._answer(b"")

    def do_POST(self) -> None:
        """Answer."""
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def _answer(self, body: bytes) -> None:
        status, kind, content = self.archive.handle(self.command, self.path, self.headers.get("Content-Type", ""), body)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


class ArchiveServer:
    """
    Hold instances and answer from them; use it in a ``with``.

    ``requests`` counts; ``paths`` holds the targets as they came.
    """

    def __init__(self, items: Iterable[Dixel] = ()) -> None:
        self.items: dict[str, Dixel] = {}
        self.paths: list[str] = []
        self._lock = threading.Lock()
        for item in items:
            self.add(item)
        handler = type("BoundHandler", (Handler,), {"archive": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def base(self) -> str:
        """Return the address without path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def requests(self) -> int:
        """Return how many requests came."""
        return len(self.paths)

    def add(self, item: Dixel) -> None:
        """Store an instance."""
        self.items[str(item.tags["SOPInstanceUID"])] = item

    def clear(self) -> None:
        """Forget everything."""
        self.items.clear()
        self.paths.clear()

    def handle(self, method: str, path: str, kind: str, body: bytes) -> tuple[int, str, bytes]:
        """Note a request and answer it."""
        with self._lock:
            self.paths.append(path)
        return self.respond(method, path, kind, body)

    def respond(self, method: str, path: str, kind: str, body: bytes) -> tuple[int, str, bytes]:
        """Return status, content type and body."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
