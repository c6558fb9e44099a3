"""Write a file anew around its elements: zero preamble, own file meta, pixels copied piece by piece, no tail."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Final

from diana.deid.overlays import cleared
from diana.deid.raw import EXPLICIT_LITTLE, encode
from diana.deid.source import IN_MEMORY, Bytes, Cleared, Span
from diana.utils.blob import PIECE, Blob
from diana.utils.gateways.dimse_pdu import IMPLEMENTATION_NAME, IMPLEMENTATION_UID

if TYPE_CHECKING:
    from pathlib import Path

    from diana.deid.source import Reader

PREAMBLE: Final = bytes(128) + b"DICM"


def file_meta(sop_class: bytes, sop_uid: bytes, syntax: str) -> bytes:
    """Return preamble, prefix and a file meta that holds no more than it must (PS3.10 7.1)."""
    elements = b"".join(
        encode(tag, vr, value, EXPLICIT_LITTLE)
        for tag, vr, value in (
            (0x00020001, "OB", b"\0\1"),
            (0x00020002, "UI", sop_class),
            (0x00020003, "UI", sop_uid),
            (0x00020010, "UI", syntax.encode("ascii")),
            (0x00020012, "UI", IMPLEMENTATION_UID.encode("ascii")),
            (0x00020013, "SH", IMPLEMENTATION_NAME.encode("ascii")),
        )
    )
    return PREAMBLE + encode(0x00020000, "UL", len(elements).to_bytes(4, "little"), EXPLICIT_LITTLE) + elements


def write(
    meta: bytes, pieces: list[Bytes], reader: Reader, *, deflated: bool, folder: Path | None = None
) -> tuple[Blob, str]:
    """
    Return a blob of meta and pieces: a small one in memory, a large one in a file that it owns, with its SHA-256.

    Raises OSError when the file cannot be written.
    """
    size = len(meta) + sum(piece.length if isinstance(piece, Span | Cleared) else len(piece) for piece in pieces)
    if size <= IN_MEMORY:
        content = _flat(pieces, reader)
        return Blob(b"".join((meta, *(_deflated(content) if deflated else content)))), ""
    handle, name = tempfile.mkstemp(prefix="diana-", suffix=".part", dir=folder)
    try:
        with os.fdopen(handle, "wb") as out:
            digest = _stream(meta, pieces, reader, out, deflated)
        return Blob(name, owned=True), digest
    except BaseException:
        os.unlink(name)
        raise


def digest_of(reader: Reader) -> str:
    """Return the SHA-256 of what a reader reads."""
    if reader.in_memory:
        return hashlib.sha256(reader.data).hexdigest()
    found = hashlib.sha256()
    at = 0
    while piece := reader.read(at, PIECE):
        found.update(piece)
        at += len(piece)
    return found.hexdigest()


def _stream(meta: bytes, pieces: list[Bytes], reader: Reader, out: BinaryIO, deflated: bool) -> str:
    digest = hashlib.sha256(meta)
    out.write(meta)
    content = _flat(pieces, reader)
    for piece in _deflated(content) if deflated else content:
        out.write(piece)
        digest.update(piece)
    return digest.hexdigest()


def _flat(pieces: Iterable[Bytes], reader: Reader) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        if not isinstance(piece, Span | Cleared):
            yield piece
            continue
        at, end = piece.offset, piece.offset + piece.length
        while at < end:
            part = reader.read(at, min(PIECE, end - at))
            if not part:
                raise OSError("the source became shorter while it was read")
            at += len(part)
            yield cleared(part, piece.keep) if isinstance(piece, Cleared) else part


def _deflated(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Deflate without a header (PS3.5 A.5), to an even length."""
    maker = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    length = 0
    for piece in pieces:
        made = maker.compress(piece)
        length += len(made)
        yield made
    made = maker.flush()
    length += len(made)
    yield made + b"\0" * (length & 1)
