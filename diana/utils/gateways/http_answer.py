"""The answer to a request, of which the body is still to come."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

from diana.exceptions import GatewayAnswerError, IncompleteTransfer
from diana.utils.blob import PIECE, Blob
from diana.utils.gateways.http_errors import error_of_wire
from diana.utils.gateways.http_wire import BadAnswer, Framing, Wire

if TYPE_CHECKING:
    from typing_extensions import Self

TEXT_LIMIT: Final = 1 << 20
WIRE_TROUBLE: Final = (OSError, EOFError, BadAnswer)


class Keeper(Protocol):
    """Say what an answer needs of its client."""

    spill: int
    folder: str | None

    def give_back(self, wire: Wire) -> None:
        """Keep a connection for the next request."""


class Answer:
    """
    Hold an answer of which the body is still to be read.

    ``headers`` has names in lower case; ``length`` is that of the body, None when only its end tells. Close it, or use
    it in a ``with``; a connection whose body was read to the end serves the next request. Errors of the tree only.
    """

    __slots__ = ("_framing", "_reusable", "_wire", "headers", "keeper", "length", "status", "where")

    def __init__(
        self, keeper: Keeper, wire: Wire, where: str, head: tuple[int, dict[str, str], bool], framing: Framing
    ) -> None:
        self.keeper = keeper
        self.where = where
        self.status, self.headers, modern = head
        self._wire: Wire | None = wire
        self._framing = framing
        self.length = framing.length
        asked = self.headers.get("connection", "").lower()
        self._reusable = "keep-alive" in asked if not modern else "close" not in asked

    @property
    def content_type(self) -> str:
        """Return the media type in lower case, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def read_into(self, target: memoryview) -> int:
        """Fill the start of a buffer; return how many bytes came, 0 at the end. A body cut short raises."""
        try:
            return self._framing.read_into(target)
        except WIRE_TROUBLE as error:
            self._drop()
            raise error_of_wire(self.where, error) from None

    def pieces(self, size: int = PIECE) -> Iterator[bytes]:
        """Yield the body as it arrives, in pieces of at most ``size`` bytes."""
        view = memoryview(bytearray(size))
        while count := self.read_into(view):
            yield bytes(view[:count])

    def read(self, limit: int = TEXT_LIMIT) -> bytes | bytearray:
        """Return the whole body. Raises GatewayAnswerError when it is longer than ``limit``."""
        size = self.length
        if size is not None:
            if size > limit:
                raise self._too_large()
            whole = bytearray(size)
            self._fill(memoryview(whole))
            return whole
        found = bytearray()
        for piece in self.pieces(64 << 10):
            found += piece
            if len(found) > limit:
                raise self._too_large()
        return found

    def _fill(self, view: memoryview) -> None:
        at = 0
        while at < len(view) and (count := self.read_into(view[at:])):
            at += count

    def _too_large(self) -> GatewayAnswerError:
        self._drop()
        return GatewayAnswerError(f"{self.where}: the answer is larger than allowed", self.status)

    def blob(self, limit: int | None = None) -> Blob:
        """
        Return the body as a blob: in memory, or when it is large in a temporary file that closing the blob removes.

        Raises GatewayAnswerError when it is longer than ``limit`` bytes.
        """
        size = self.length
        if size is not None and limit is not None and size > limit:
            raise self._too_large()
        if size is not None and size <= self.keeper.spill:
            return Blob(self.read(size))
        handle, name = tempfile.mkstemp(prefix="diana-", suffix=".part", dir=self.keeper.folder)
        try:
            with os.fdopen(handle, "wb", buffering=0) as out:
                self._copy_to(out.write, limit)
            return Blob(name, owned=True)
        except OSError as error:
            Path(name).unlink(missing_ok=True)
            raise IncompleteTransfer(f"{self.where}: cannot write a temporary file ({error.strerror})") from None
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _copy_to(self, write: Callable[[memoryview], int | None], limit: int | None) -> None:
        view, total = memoryview(bytearray(PIECE)), 0
        while count := self.read_into(view):
            total += count
            if limit is not None and total > limit:
                raise self._too_large()
            done = 0
            while done < count:
                done += write(view[done:count]) or 0

    def close(self) -> None:
        """Give the connection back when the body was read to its end, else close it."""
        if self._wire is not None:
            if self._reusable and self._framing.over:
                self.keeper.give_back(self._wire)
                self._wire = None
            else:
                self._drop()

    def _drop(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
