"""Take comments and application data out of JPEG, JPEG-LS and JPEG 2000 streams without touching the image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from diana.exceptions import InvalidItem

__all__ = ["strip_comments"]

MAX_MARKERS: Final = 1_000_000
_SOI: Final = b"\xff\xd8"
_SOC: Final = b"\xff\x4f"
_BOXED: Final = b"\x00\x00\x00\x0cjP  "
_IN_SCAN: Final = re.compile(rb"\xff+([\x80-\xcf\xd8-\xfe])")
_COM: Final = 0xFE
_SOS: Final = 0xDA
_EOI: Final = 0xD9
_APP0, _APP8, _APP14, _APP15 = 0xE0, 0xE8, 0xEE, 0xEF
_J2K_COM, _J2K_TLM, _J2K_SOT, _J2K_SOD, _J2K_EOC = 0xFF64, 0xFF55, 0xFF90, 0xFF93, 0xFFD9
_KEPT_BOXES: Final = (b"jP  ", b"ftyp", b"jp2h", b"jp2c")
_LONG_BOX: Final = 16


def strip_comments(frame: bytes) -> bytes:
    """
    Return the stream of one frame without comments, application data, and what follows its end.

    Of JPEG and JPEG-LS, COM and APPn go, but for what tells how colours are to be read: a plain JFIF APP0 without its
    thumbnail, an Adobe APP14, the colour transform of JPEG-LS. Of JPEG 2000, COM goes from the main header and those
    of tile parts, with TLM, which lists their lengths; of a JP2 file all boxes but header and codestream. The coded
    image stays bit by bit, and so does a stream that needs no change, or is neither. Raises InvalidItem for a header
    that does not parse.
    """
    if frame.startswith(_SOI):
        return _jpeg(frame)
    if frame.startswith(_SOC):
        return _codestream(frame)
    if frame.startswith(_BOXED):
        return _boxes(frame)
    return frame


def _jpeg(data: bytes) -> bytes:
    out = [_SOI]
    at = 2
    for _ in range(MAX_MARKERS):
        marker, at = _marker(data, at)
        if marker is None:
            return _joined(out, data)
        if marker == _EOI:
            out.append(b"\xff\xd9")
            return _joined(out, data)
        if 0xD0 <= marker <= 0xD8 or marker == 0x01:
            out.append(bytes((0xFF, marker)))
            continue
        end = at + int.from_bytes(data[at : at + 2], "big")
        if end < at + 2 or end > len(data):
            raise InvalidItem("a JPEG stream has a segment that does not end inside it")
        kept = _segment(marker, data[at + 2 : end])
        if kept is not None:
            out.append(bytes((0xFF, marker)) + (len(kept) + 2).to_bytes(2, "big") + kept)
        at = end
        if marker == _SOS:
            scan = _IN_SCAN.search(data, at)
            stop = scan.start() if scan else len(data)
            out.append(data[at:stop])
            at = stop
    raise InvalidItem("a JPEG stream has too many segments")


def _marker(data: bytes, at: int) -> tuple[int | None, int]:
    """Return the next marker and the place after it; None at the end of the bytes."""
    if at >= len(data):
        return None, at
    if data[at] != 0xFF:
        if not data[at:].strip(b"\0"):
            return None, at
        raise InvalidItem("a JPEG stream has no marker where one belongs")
    while at < len(data) and data[at] == 0xFF:
        at += 1
    return (data[at], at + 1) if at < len(data) else (None, at)


def _segment(marker: int, body: bytes) -> bytes | None:
    """Return what is kept of a segment, None when it goes."""
    if marker == _COM or (_APP0 < marker <= _APP15 and marker not in (_APP8, _APP14)):
        return None
    if marker == _APP0:
        return body[:12] + b"\0\0" if body.startswith(b"JFIF\0") and len(body) >= 14 else None
    if marker == _APP14:
        return body[:12] if body.startswith(b"Adobe") and len(body) >= 12 else None
    if marker == _APP8:
        return body[:5] if body.startswith(b"mrfx") and len(body) >= 5 else None
    return body


def _joined(out: list[bytes], data: bytes) -> bytes:
    """Return the pieces as one, or the given bytes when only padding differs."""
    made = b"".join(out)
    return data if data.startswith(made) and not data[len(made) :].strip(b"\0") else made


def _codestream(data: bytes) -> bytes:
    out = [_SOC]
    at = 2
    while True:
        marker, end = _j2k_segment(data, at)
        if marker == _J2K_EOC:
            out.append(data[at:end])
            return _joined(out, data)
        if marker == _J2K_SOT:
            break
        if marker not in (_J2K_COM, _J2K_TLM) or (marker == _J2K_TLM and not _has_comment(data, at)):
            out.append(data[at:end])
        at = end
    for piece, after in _tile_parts(data, at):
        out.append(piece)
        at = after
    if data[at : at + 2] == b"\xff\xd9":
        out.append(b"\xff\xd9")
    return _joined(out, data)


def _has_comment(data: bytes, at: int) -> bool:
    """Tell whether a comment may stand in a tile part, so that the lengths in TLM would be wrong."""
    return data.find(b"\xff\x64", at) >= 0


def _j2k_segment(data: bytes, at: int) -> tuple[int, int]:
    """Return the marker at a place and where its segment ends."""
    marker = int.from_bytes(data[at : at + 2], "big")
    if marker == _J2K_EOC:
        return marker, at + 2
    size = int.from_bytes(data[at + 2 : at + 4], "big")
    end = at + 2 + size
    if marker < 0xFF00 or size < 2 or end > len(data):
        raise InvalidItem("a JPEG 2000 header has a segment that does not end inside it")
    return marker, end


def _tile_parts(data: bytes, at: int) -> Iterator[tuple[bytes, int]]:
    """Yield each tile part without its comments, its length adjusted, and the place after it."""
    while data[at : at + 2] == b"\xff\x90":
        if at + 12 > len(data):
            raise InvalidItem("a JPEG 2000 tile part is cut")
        length = int.from_bytes(data[at + 6 : at + 10], "big")
        end = min(at + length, len(data)) if length else _end_of_code(data)
        if length and length < 14:
            raise InvalidItem("a JPEG 2000 tile part has no room for its header")
        head = []
        pos = at + 12
        while data[pos : pos + 2] != b"\xff\x93":
            marker, after = _j2k_segment(data, pos)
            if after > end:
                raise InvalidItem("a JPEG 2000 tile part ends inside its header")
            if marker != _J2K_COM:
                head.append(data[pos:after])
            pos = after
        kept = b"".join(head)
        removed = pos - (at + 12) - len(kept)
        size = (length - removed if length else 0).to_bytes(4, "big")
        yield data[at : at + 6] + size + data[at + 10 : at + 12] + kept + data[pos:end], end
        at = end


def _end_of_code(data: bytes) -> int:
    found = data.rfind(b"\xff\xd9")
    return found if found >= 0 else len(data)


def _boxes(data: bytes) -> bytes:
    out = []
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + _LONG_BOX], "big"), _LONG_BOX
        end = at + size if size else len(data)
        if size and (size < head or end > len(data)):
            if not data[at:].strip(b"\0"):
                break
            raise InvalidItem("a JP2 file has a box that does not end inside it")
        if kind == b"jp2c":
            code = _codestream(data[at + head : end])
            code = code.rstrip(b"\0") if code.endswith(b"\xff\xd9\0") else code
            out.append((len(code) + 8).to_bytes(4, "big") + kind + code)
        elif kind in _KEPT_BOXES:
            out.append(data[at:end])
        at = end
    return _joined(out, data)
