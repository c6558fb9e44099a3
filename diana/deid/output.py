"""Put the output together, and look at it again before it counts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from diana.deid.allowed import allowed_tags
from diana.deid.descriptors import vocabulary
from diana.deid.facts import MEDIA_CLASS, MEDIA_UID, SOP_CLASS, SOP_UID
from diana.deid.frames import clean_fragments
from diana.deid.markers import DATES_MODIFIED, IDENTITY_REMOVED
from diana.deid.plan import KINDS
from diana.deid.raw import Node, encode
from diana.deid.result import Quarantined, Reason, Refused
from diana.deid.scan import Hit, Identifiers
from diana.deid.source import Bytes, Cleared, Opened, open_blob
from diana.utils.dicom._scan import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE

if TYPE_CHECKING:
    from diana.deid.facts import Facts
    from diana.deid.walk import Piece, Walk
    from diana.utils.blob import Blob

MAX_EXCESS: Final = 1 << 20
SHORTEST: Final = 4
_BODY_PART: Final = 0x00180015
_KINDS: Final = frozenset(f"{tag:08X}" for tag in KINDS)
_ROWS, _COLUMNS, _BITS, _SAMPLES, _FRAMES = 0x00280010, 0x00280011, 0x00280100, 0x00280002, 0x00280008


def assemble(opened: Opened, pieces: list[Piece], keep: bytes = b"") -> list[Bytes]:
    """
    Return the bytes of the data set in order, large values and pixels as places in the source.

    Of native pixels only the bits ``keep`` of each sample are copied, all without it.
    """
    pixels: list[Bytes] = []
    tables: dict[int, bytes] = {}
    if opened.pixels is not None and opened.pixels.fragments:
        pixels, tables, _ = clean_fragments(opened)
    out: list[Bytes] = []
    held: list[bytes] = []
    for piece in pieces:
        node = piece.node
        if piece.tag in tables and node is not None:
            held.append(encode(piece.tag, node.vr or "OV", tables[piece.tag], node.coding))
        elif piece.data is not None:
            held.append(piece.data)
        elif node is None:
            continue
        elif node.data is not None:
            held.append(node.data[node.start : node.end])
        else:
            out.append(b"".join(held))
            held = []
            is_masked = keep and node is opened.pixels
            fragments = pixels if node is opened.pixels else None
            out += _masked(opened, node, keep) if is_masked else _large(opened, node, fragments)
    out.append(b"".join(held))
    return out


def _large(opened: Opened, node: Node, fragments: list[Bytes] | None) -> list[Bytes]:
    """Return an element whose value stayed in the source."""
    reader = opened.reader
    if node.fragments and fragments is not None:
        return [reader.read(node.start, node.value - node.start), *fragments]
    length = len(node) - (_excess(opened, node) if node is opened.pixels else 0)
    if length == len(node):
        return [reader.piece(node.start, node.end - node.start)]
    head = reader.read(node.start, node.value - node.start)
    return [head[:-4] + node.coding.long.pack(length), reader.piece(node.value, length)]


def _masked(opened: Opened, node: Node, keep: bytes) -> list[Bytes]:
    """Return native pixels without the bits that go, nor what follows the last pixel."""
    length = len(node) - _excess(opened, node)
    head = opened.reader.read(node.start, node.value - node.start)
    return [head[:-4] + node.coding.long.pack(length), Cleared(node.value, length, keep)]


def _excess(opened: Opened, node: Node) -> int:
    """Return how many bytes follow the last pixel, unless they are zeros: nobody shows them, they may say anything."""
    if node.tag != 0x7FE00010 or opened.syntax not in (EXPLICIT_LE, EXPLICIT_BE, IMPLICIT_LE):
        return 0
    rows, columns, bits = (_number(opened, tag) for tag in (_ROWS, _COLUMNS, _BITS))
    samples, frames = _number(opened, _SAMPLES) or 1, _text_number(opened, _FRAMES)
    one = rows * columns * bits * samples
    need = (one * frames + 7) // 8
    need += need & 1
    excess = len(node) - need
    if not one or not 0 < excess < min(one // 8, MAX_EXCESS) or opened.value(0x00280004).endswith(b"_422"):
        return 0
    tail = opened.reader.read(node.value + need, excess)
    return excess if tail.count(0) != len(tail) else 0


def _number(opened: Opened, tag: int) -> int:
    node = opened.find(tag)
    if node is None or len(node) < 2:
        return 0
    return int.from_bytes(node.content()[:2], "big" if node.coding.big else "little")


def _text_number(opened: Opened, tag: int) -> int:
    try:
        return int(opened.value(tag) or b"1")
    except ValueError:
        return 1


def check(made: Blob, opened: Opened, walk: Walk, known: Facts, pieces: list[Piece]) -> None:
    """
    Read the output again: its elements and markers, and whether anything of the input is left.

    Raises Quarantined; the text names places and kinds, never values. Raises Refused when a recipe took the UIDs.
    """
    try:
        again = open_blob(made)
    except Refused:
        raise Quarantined(Reason.MARKERS, "the output cannot be read again") from None
    try:
        if [node.tag for node in again.nodes] != [piece.tag for piece in pieces] or again.tail:
            raise Quarantined(Reason.MARKERS, "the output does not hold the elements that were written")
        if not again.value(IDENTITY_REMOVED) or not again.value(DATES_MODIFIED):
            raise Quarantined(Reason.MARKERS, "the output lacks its markers")
        check_uids(again, *(again.meta.get(tag, b"").strip(b" \0") for tag in (MEDIA_CLASS, MEDIA_UID)))
        offset = again.pixels.start if again.pixels is not None and not again.deflated else None
        # what is shorter cannot be told from anything else; under its own tag it was replaced
        telling = (one for one in walk.gone if len(one.value) >= SHORTEST or one.vr == "PN")
        found = Identifiers.of(telling, known.charset)
        held = found.hits(made, allowed=walk.kept | allowed_tags(), pixel_offset=offset)
        hits = [hit for hit in held if not _is_meant(hit, walk, again)]
    finally:
        again.reader.close()
    if hits:
        places = ", ".join(sorted({f"{hit.kind} in {hit.where}" for hit in hits})[:5])
        raise Quarantined(Reason.LEAK, f"something of the input is left: {places}")


def check_uids(opened: Opened, sop_class: bytes, sop_uid: bytes) -> None:
    """Raise Refused when the data set holds other UIDs than its file meta shall have (PS3.10 7.1)."""
    if opened.value(SOP_CLASS) != sop_class or opened.value(SOP_UID) != sop_uid:
        raise Refused(Reason.UNNAMED, "the data set lacks the SOP Class UID or the SOP Instance UID of its file meta")


def _is_meant(hit: Hit, walk: Walk, again: Opened) -> bool:
    """
    Tell whether a value is there on purpose.

    A date that was put or left there may equal another of the input by chance, the UID of a kind of things may be
    that of a thing elsewhere, and a name may be a part of the body.
    """
    if hit.where == "(0018,0015)":
        return all(word.lower() in vocabulary() for word in again.value(_BODY_PART).decode("latin-1").split())
    if hit.kind not in ("birth", "date", "uid"):
        return False
    last = hit.where.rpartition(".")[2][1:10].replace(",", "")
    if hit.kind == "uid":
        return last in _KINDS
    return last in walk.dated


def actions(walk: Walk, opened: Opened) -> dict[str, Counter[str]]:
    """Return what was done by path, tags joined by dots without item numbers."""
    found = {f"{prefix}{tag:08X}": counter for (prefix, tag), counter in walk.counts.items()}
    if opened.tail:
        found["tail"] = Counter(remove=1)
    return found
