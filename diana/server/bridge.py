"""Between the event loop and the faces: bounded threads, bodies in, streams out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar  # Any: messages of ASGI

import anyio
import anyio.from_thread
import anyio.to_thread
from attrs import define, field
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from diana.exceptions import DianaError, GatewayConnectionError
from diana.server.asked import Refusal
from diana.server.limits import Limits

log = logging.getLogger(__name__)

Out = TypeVar("Out")
ABORT: Final = "abort"
CLOSE: Final = (b"connection", b"close")


@define(eq=False)
class Pool:
    """Call blocking functions in threads, uploads apart from the rest, so that slow ones leave room."""

    limits: Limits
    _readers: anyio.CapacityLimiter = field(init=False)
    _writers: anyio.CapacityLimiter = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._readers = anyio.CapacityLimiter(self.limits.workers)
        self._writers = anyio.CapacityLimiter(self.limits.uploads)

    async def run(self, work: Callable[..., Out], *args: Any, upload: bool = False) -> Out:
        """Call a function in a thread and return what it returns."""
        limiter = self._writers if upload else self._readers
        return await anyio.to_thread.run_sync(partial(work, *args), limiter=limiter)


class Incoming:
    """
    Give the body of a request to a thread, as it arrives.

    Raises Refusal for a body that is too long (413) or does not go on (408), GatewayConnectionError when the client
    went away.
    """

    def __init__(self, receive: Receive, most: int, idle: float) -> None:
        self._receive = receive
        self._most = most
        self._idle = idle
        self._left = memoryview(b"")
        self._more = True
        self._size = 0

    @property
    def unread(self) -> bool:
        """Tell whether there may be more."""
        return self._more

    def read_into(self, target: memoryview) -> int:
        """Fill the start of a buffer; return how much, 0 at the end. For threads of the pool only."""
        while not self._left and self._more:
            piece: bytes = anyio.from_thread.run(self._next)
            self._left = memoryview(piece)
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    async def _next(self) -> bytes:
        try:
            with anyio.fail_after(self._idle):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(408, "the request did not go on") from None
        if message["type"] != "http.request":
            self._more = False
            raise GatewayConnectionError("the client went away")
        self._more = bool(message.get("more_body", False))
        body: bytes = message.get("body", b"")
        self._size += len(body)
        if self._size > self._most:
            raise Refusal(413, f"the request is larger than {self._most} bytes")
        return body


class Stream(Response):
    """
    Send what an iterator gives, piece by piece, from threads of the pool.

    When the iterator fails the connection is closed before the answer is complete, so that no client takes it for
    whole. A client that takes nothing for a while is dropped. The iterator is closed in any case.
    """

    def __init__(self, pieces: Iterator[bytes], pool: Pool, status: int, headers: dict[str, str], kind: str) -> None:
        super().__init__(None, status, headers, kind)
        if not any(name == b"content-length" for name, _ in self.raw_headers if headers.get("Content-Length")):
            self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        self._pieces = pieces
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._until_gone, receive, group.cancel_scope)
                await self._send_all(scope, send)
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._pool.run(_close, self._pieces)

    @staticmethod
    async def _until_gone(receive: Receive, cancel: anyio.CancelScope) -> None:
        """Stop sending when the client goes away."""
        while (await receive())["type"] != "http.disconnect":
            pass
        cancel.cancel()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            while scope["method"] != "HEAD":
                piece = await self._pool.run(next, self._pieces, None)
                if piece is None:
                    break
                await self._send(send, {"type": "http.response.body", "body": piece, "more_body": True})
        except DianaError as error:
            log.warning("an answer was broken off (%s)", type(error).__name__)
            return
        except TimeoutError:
            log.warning("a client that takes nothing was dropped")
            scope.get("state", {}).get(ABORT, _nothing)()
            return
        except Exception as error:  # noqa: BLE001 - whatever the endpoint does, the answer is not whole
            log.error("an answer was broken off by a bug (%s)", type(error).__name__)
            return
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: Message) -> None:
        with anyio.fail_after(self._pool.limits.idle):
            await send(message)


def _close(pieces: Iterator[bytes]) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        close()


def _nothing() -> None:
    """Do nothing: the server has no way to abort a connection."""


async def drained(receive: Callable[[], Awaitable[Message]], most: int = 1 << 20) -> bool:
    """Read what little of a body is left, so that the client can read the answer; False when there is more."""
    size = 0
    with anyio.move_on_after(1):
        while size <= most:
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body", False):
                return True
    return False
