"""
Read multipart answers (RFC 2046 5.1) as they arrive.

A body without its closing boundary was cut, whatever the layers below say.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from typing import Final, Protocol

from attrs import define, field

from diana.exceptions import GatewayAnswerError, GatewayError
from diana.utils.gateways.multipart_reader import CHUNK, Limits, Part, PartReader, Source
from diana.utils.gateways.multipart_sink import SPILL

__all__ = [
    "CHUNK",
    "Limits",
    "Part",
    "PartReader",
    "PieceSource",
    "Source",
    "boundary_of",
    "parse_media_type",
    "parts_of",
]

EPILOGUE: Final = 64 << 10
LONGEST_BOUNDARY: Final = 256

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105
_PARAMETER: Final = re.compile(rf';\s*(?:({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))\s*)?')


def parse_media_type(text: str) -> tuple[str, dict[str, str]]:
    """
    Return type and parameters of a Content-Type: ``("multipart/related", {"boundary": ...})``.

    Raises GatewayAnswerError for what is not of that form, or says the same parameter twice.
    """
    kind, semicolon, rest = text.partition(";")
    found: dict[str, str] = {}
    rest, at = semicolon + rest.rstrip(), 0
    while at < len(rest):
        match = _PARAMETER.match(rest, at)
        if match is None or (match[1] or "").lower() in found:
            raise GatewayAnswerError("a Content-Type has damaged parameters")
        if match[1]:
            quoted = match[2]
            found[match[1].lower()] = match[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = match.end()
    return kind.strip().lower(), found


def boundary_of(content_type: str, where: str = "") -> str:
    """Return the boundary of a multipart Content-Type. Raises GatewayAnswerError when it is none."""
    kind, parameters = parse_media_type(content_type)
    if not kind.startswith("multipart/"):
        shown = kind if re.match(rf"{_TOKEN}/{_TOKEN}\Z", kind) else "without a type"
        raise GatewayAnswerError(f"{where}: the answer is not multipart but {shown}")
    boundary = parameters.get("boundary", "")
    if not 0 < len(boundary) <= LONGEST_BOUNDARY or not boundary.isascii() or not boundary.isprintable():
        raise GatewayAnswerError(f"{where}: the multipart answer names no usable boundary")
    return boundary


class WebAnswer(Source, Protocol):
    """Say what ``parts_of`` needs of an answer."""

    where: str
    length: int | None
    headers: dict[str, str]

    def close(self) -> None:
        """Give the connection back."""


def parts_of(
    answer: WebAnswer,
    *,
    spill: int = SPILL,
    folder: str | None = None,
    limits: Limits | None = None,
    chunk: int = CHUNK,
) -> Generator[Part, None, None]:
    """Yield the parts of a multipart answer and close it at the end; see ``PartReader``."""
    try:
        boundary = boundary_of(answer.headers.get("content-type", ""), answer.where)
        yield from PartReader(
            answer, boundary, answer.where, spill=spill, folder=folder, limits=limits or Limits(), chunk=chunk
        )
        if answer.length is not None or "chunked" in answer.headers.get("transfer-encoding", ""):
            _drain(answer)
    finally:
        answer.close()


def _drain(answer: Source) -> None:
    """Read what little may follow, so that the connection can be kept; all parts are here already."""
    view, total = memoryview(bytearray(EPILOGUE)), 0
    try:
        while total < EPILOGUE and (count := answer.read_into(view)):
            total += count
    except GatewayError:
        return


@define(eq=False)
class PieceSource:
    """Make a source of pieces of bytes, in whatever sizes they come."""

    pieces: Iterable[bytes]
    _iterator: Iterator[bytes] | None = field(init=False, default=None)
    _left: memoryview = field(init=False, factory=lambda: memoryview(b""))

    def read_into(self, target: memoryview) -> int:
        """Fill the start of a buffer; return how many bytes came, 0 at the end."""
        if self._iterator is None:
            self._iterator = iter(self.pieces)
        while not self._left:
            piece = next(self._iterator, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
