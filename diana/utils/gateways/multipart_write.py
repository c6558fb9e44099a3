"""Write multipart bodies (RFC 2046 5.1, RFC 2387) of a length that is known before."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from attrs import field, frozen

from diana.exceptions import InvalidItem
from diana.utils.blob import PIECE, Blob

__all__ = ["OutPart", "body_length", "body_pieces", "closing", "content_type", "new_boundary", "part_head"]

_SAFE: Final = re.compile(r"[\x20-\x7e\t]*\Z")


@frozen
class OutPart:
    """Hold a part to be sent: its content and its headers; Content-Length is added."""

    content: bytes | Blob
    headers: Mapping[str, str] = field(factory=dict)


def new_boundary() -> str:
    """Return a boundary of 128 random bits, which no content holds."""
    return f"diana-{secrets.token_hex(16)}"


def content_type(boundary: str, kind: str, subtype: str = "related", **parameters: str) -> str:
    """Return the Content-Type of a body; ``kind`` is the media type of its (root) part."""
    more = "".join(f'; {name.replace("_", "-")}="{value}"' for name, value in parameters.items())
    return f'multipart/{subtype}; type="{kind}"; boundary="{boundary}"{more}'


def part_head(boundary: str, headers: Mapping[str, str], length: int | None, *, first: bool) -> bytes:
    """Return what stands before a content. Raises InvalidItem for headers that hold line ends."""
    lines = [f"--{boundary}", *(f"{name}: {value}" for name, value in headers.items())]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if not all(map(_SAFE.match, lines)):
        raise InvalidItem("a header of a part holds characters that are not allowed")
    return (("" if first else "\r\n") + "\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def closing(boundary: str) -> bytes:
    """Return what ends a body."""
    return f"\r\n--{boundary}--\r\n".encode("ascii")


def body_length(parts: Sequence[OutPart], boundary: str) -> int:
    """Return the length in bytes of a body of some parts."""
    heads = sum(
        len(part_head(boundary, part.headers, len(part.content), first=not number)) + len(part.content)
        for number, part in enumerate(parts)
    )
    return heads + len(closing(boundary))


def body_pieces(parts: Iterable[OutPart], boundary: str) -> Iterator[bytes]:
    """Yield a body in pieces; contents on disk are read as they are sent."""
    for number, part in enumerate(parts):
        content = part.content
        yield part_head(boundary, part.headers, len(content), first=not number)
        if isinstance(content, bytes):
            yield content
        elif content.path is None:
            yield content.read()
        else:
            yield from content.pieces(PIECE)
    yield closing(boundary)
