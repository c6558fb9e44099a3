"""What a face gets and gives: requests and answers in plain values, without the web framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from typing import Any, Final, Protocol  # Any: values of JSON
from urllib.parse import parse_qsl

from attrs import field, frozen

from diana.exceptions import InvalidItem
from diana.utils.blob import PIECE
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import Ref, is_uid

MAX_FIELDS: Final = 500
GATHERED: Final = 256 << 10


class Refusal(InvalidItem):
    """Say that a request is refused with an HTTP status."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class Body(Protocol):
    """Give the body of a request: fill the start of a buffer, return how much, 0 at the end."""

    def read_into(self, target: memoryview) -> int:
        """Fill the start of a buffer."""


@frozen(eq=False)
class Ask:
    """Hold a request: ``path`` are the named parts of the path, header names are in lower case, ``base`` the origin."""

    path: Mapping[str, str] = field(repr=False)
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    base: str = ""
    body: Body | None = field(default=None, repr=False)

    def pairs(self) -> list[tuple[str, str]]:
        """Return the parameters in their order. Raises InvalidItem for too many."""
        try:
            return parse_qsl(self.query, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="replace")
        except ValueError:
            raise InvalidItem("the parameters of the request are too many or damaged") from None

    def header(self, name: str) -> str:
        """Return a header, empty when it is absent."""
        return self.headers.get(name, "")

    def accept(self) -> str:
        """Return what the client takes: the parameter ``accept`` before the header, anything when neither is there."""
        given = [value for key, value in self.pairs() if key == "accept" and value]
        return ",".join(given) or self.header("accept") or "*/*"

    def ref(self) -> Ref:
        """Return the address that the path spells. Raises InvalidItem for what is no UID."""
        uids = {key: self.path[key] for key in ("study", "series", "instance") if key in self.path}
        if not all(map(is_uid, uids.values())):
            raise InvalidItem("the path names something by what is no UID")
        return Ref(
            DicomLevel.INSTANCES
            if "instance" in uids
            else DicomLevel.SERIES
            if "series" in uids
            else DicomLevel.STUDIES,
            **uids,
        )


@frozen(eq=False)
class Reply:
    """Hold an answer; a body that is no bytes is streamed, and its iterator closed at the end."""

    body: bytes | Iterator[bytes] = field(repr=False)
    kind: str
    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)


def json_bytes(value: Any) -> bytes:
    """Return JSON in ASCII, so that no client guesses its encoding."""
    import json

    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces, small ones put together, large ones as they are; closes what it reads from."""
    source = iter(pieces)
    waiting: list[bytes] = []
    size = 0
    try:
        for piece in source:
            waiting.append(piece)
            size += len(piece)
            if size >= GATHERED:
                yield b"".join(waiting) if len(waiting) > 1 else piece
                waiting, size = [], 0
        if waiting:
            yield b"".join(waiting)
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


def begun(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Produce the first piece now, so that what goes wrong at once is raised before an answer is begun."""
    first = next(pieces, b"")
    return _rest(first, pieces)


def _rest(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    close = getattr(pieces, "close", None)
    if close is None:
        yield from chain((first,), pieces)
        return
    with closing(pieces):  # type: ignore[type-var]  # it has close
        yield first
        yield from pieces


def read_all(body: Body | None, most: int) -> bytes:
    """Return a whole body. Raises Refusal (413) when it is longer than allowed."""
    found = bytearray()
    if body is None:
        return b""
    view = memoryview(bytearray(min(PIECE, most + 1)))
    while count := body.read_into(view):
        if len(found) + count > most:
            raise Refusal(413, f"the request is larger than {most} bytes")
        found += view[:count]
    return bytes(found)
