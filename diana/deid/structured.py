"""What is left of a content tree under the Basic Profile: a valid stub with the references in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from diana.deid.raw import Coding, Item, Node, encode, encode_item

if TYPE_CHECKING:
    from diana.deid.walk import Piece, Walk

CONTENT_SEQUENCE: Final = 0x0040A730
REFERENCED_SOP: Final = 0x00081199
RELATIONSHIP: Final = 0x0040A010
VALUE_TYPE: Final = 0x0040A040
CONCEPT_NAME: Final = 0x0040A043
TEXT_VALUE: Final = 0x0040A160
_REFERRING: Final = frozenset((b"IMAGE", b"COMPOSITE", b"WAVEFORM"))
_REMOVED: Final = b"Removed by de-identification"


def outline(walk: Walk, node: Node, prefix: str, where: str) -> Piece:
    """
    Return a content tree (PS3.3 C.17.3) that holds the references of the original, else one line of dummy text.

    What else was in it counts as removed.
    """
    from diana.deid.walk import Piece

    coding = node.items[0].coding if node.items else node.coding
    inner = f"{prefix}{CONTENT_SEQUENCE:08X}."
    items = [
        encode_item(_reference(walk, item, inner, f"{where}(0040,A730)[{number}]."), item.coding)
        for number, item in enumerate(_references(node))
    ]
    for item in node.items or ():
        for one in item.nodes:
            _collect(walk, one)
    content = b"".join(items) or encode_item(_text(coding), coding)
    return Piece(node.tag, encode(node.tag, node.wire or "SQ", content, node.coding), node)


def code_item(code: str, scheme: str, meaning: str, coding: Coding) -> bytes:
    """Return an item with a code triplet (PS3.3 8.8)."""
    content = (
        encode(0x00080100, "SH", code.encode("ascii"), coding)
        + encode(0x00080102, "SH", scheme.encode("ascii"), coding)
        + encode(0x00080104, "LO", meaning.encode("ascii"), coding)
    )
    return encode_item(content, coding)


def _references(node: Node) -> Iterator[Item]:
    """Yield the content items that refer to objects, at every depth."""
    for item in node.items or ():
        if any(one.tag == REFERENCED_SOP and one.items for one in item.nodes):
            yield item
        for one in item.nodes:
            if one.tag == CONTENT_SEQUENCE:
                yield from _references(one)


def _reference(walk: Walk, item: Item, prefix: str, where: str) -> bytes:
    value_type = b"COMPOSITE"
    reference = b""
    for node in item.nodes:
        if node.tag == REFERENCED_SOP and node.items:
            reference = walk.sequence(node, prefix, where, "").content()
        elif node.tag == VALUE_TYPE and node.content().strip(b" \0") in _REFERRING:
            value_type = node.content().strip(b" \0")
    return (
        reference
        + encode(RELATIONSHIP, "CS", b"CONTAINS", item.coding)
        + encode(VALUE_TYPE, "CS", value_type, item.coding)
    )


def _collect(walk: Walk, node: Node) -> None:
    """Note the values that are gone, not those of the references, which were replaced one by one."""
    if node.tag == REFERENCED_SOP:
        return
    if node.tag == CONTENT_SEQUENCE:
        for item in node.items or ():
            for one in item.nodes:
                _collect(walk, one)
        return
    walk.collect(node)


def _text(coding: Coding) -> bytes:
    return (
        encode(RELATIONSHIP, "CS", b"CONTAINS", coding)
        + encode(VALUE_TYPE, "CS", b"TEXT", coding)
        + encode(CONCEPT_NAME, "SQ", code_item("121106", "DCM", "Comment", coding), coding)
        + encode(TEXT_VALUE, "UT", _REMOVED, coding)
    )
