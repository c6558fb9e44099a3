"""What stays inside of a sequence that is kept only as a shell."""

from __future__ import annotations

from typing import Final

from diana.deid.allowed import CODE_TAGS
from diana.deid.plan import Verdict
from diana.deid.raw import Node

CONTENT: Final = "content"
GRAPHICS: Final = "graphics"
STUB: Final = "stub"
KEEPS: Final = frozenset(("keep", "text", "code", "term", "number", "age"))
TEXT_VRS: Final = frozenset(("AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT", "PN"))
_GRAPHIC_DATA: Final = 0x00700022
_COMPOUND_GRAPHICS: Final = 0x00700209


def in_mode(found: Verdict, node: Node, mode: str) -> Verdict:
    """Return what is done inside a sequence that is kept as a shell: no free text, no drawings."""
    if found.action not in KEEPS:
        return found
    if mode == GRAPHICS:
        if node.tag == _GRAPHIC_DATA:
            return Verdict("dummy", "graphics: points")
        if node.tag == _COMPOUND_GRAPHICS:
            return Verdict("remove", "graphics: compound")
    if node.vr in TEXT_VRS and node.items is None:
        if mode == CONTENT and node.tag in CODE_TAGS:
            return Verdict("code", "content: part of a code", "hash")
        return Verdict("dummy", f"{mode}: text")
    return found
