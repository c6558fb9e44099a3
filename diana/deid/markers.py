"""Say in the object what was done to it (PS3.15 E.1.1), from what was really done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from diana.deid import tables
from diana.deid.options import BASIC_CODE, Option
from diana.deid.raw import Coding, encode
from diana.deid.result import Step
from diana.deid.structured import code_item
from diana.deid.walk import Piece

if TYPE_CHECKING:
    from diana.deid.recipe import Recipe
    from diana.deid.walk import Walk

IDENTITY_REMOVED: Final = 0x00120062
METHOD: Final = 0x00120063
METHOD_CODES: Final = 0x00120064
BURNED_IN: Final = 0x00280301
DATES_MODIFIED: Final = 0x00280303
LO_LENGTH: Final = 64


def codes(recipe: Recipe, *, claim: bool, masked: bool) -> tuple[str, ...]:
    """Return the codes of CID 7050 that may be claimed, none when a rule left more than the profile allows."""
    if not claim:
        return ()
    options = [one for one in recipe.options if one is not Option.CLEAN_PIXEL_DATA or masked]
    return (BASIC_CODE, *sorted(option.code for option in options))


def dates_marker(recipe: Recipe, walk: Walk) -> str:
    """Return the value of Longitudinal Temporal Information Modified (0028,0303)."""
    if Option.MODIFIED_DATES in recipe.options:
        return "MODIFIED"
    if Option.FULL_DATES in recipe.options:
        return "MODIFIED" if recipe.remove_times else "UNMODIFIED"
    vrs = tables.vrs()
    return "MODIFIED" if any(vrs.get(tag) in ("DA", "DT") for tag in walk.kept) else "REMOVED"


def add(
    pieces: list[Piece], recipe: Recipe, walk: Walk, coding: Coding, claimed: tuple[str, ...], *, masked: bool
) -> list[Piece]:
    """Return the elements of the top level with the markers in their places."""
    meanings = tables.code_meanings()
    items = b"".join(code_item(code, "DCM", meanings[code], coding) for code in claimed)
    new = [
        (IDENTITY_REMOVED, "CS", b"YES" if claimed else b"NO"),
        (METHOD, "LO", _method(recipe, claimed)),
        (DATES_MODIFIED, "CS", dates_marker(recipe, walk).encode("ascii")),
    ]
    if items:
        new.append((METHOD_CODES, "SQ", items))
    if masked:
        new.append((BURNED_IN, "CS", b"NO"))
    tags = {tag for tag, _, _ in new}
    out = [piece for piece in pieces if piece.tag not in tags]
    for tag, vr, value in new:
        place = next((at for at, piece in enumerate(out) if piece.tag > tag), len(out))
        out.insert(place, Piece(tag, encode(tag, vr, value, coding)))
    return out


def steps() -> Iterator[Step]:
    """Yield the markers as steps."""
    for tag, name, vr in (
        (IDENTITY_REMOVED, "Patient Identity Removed", "CS"),
        (METHOD, "De-identification Method", "LO"),
        (METHOD_CODES, "De-identification Method Code Sequence", "SQ"),
        (DATES_MODIFIED, "Longitudinal Temporal Information Modified", "CS"),
    ):
        yield Step(f"({tag >> 16:04X},{tag & 0xFFFF:04X})", name, vr, "add", "PS3.15 E.1.1: marker")


def _method(recipe: Recipe, claimed: tuple[str, ...]) -> bytes:
    from diana import __version__

    name = "".join(one if one.isascii() and (one.isalnum() or one in " .-_") else "_" for one in recipe.name)
    profile = f"PS3.15 {tables.edition()} Table E.1-1" if claimed else "own rules beyond the profile"
    values = (f"DIANA {__version__}", profile, f"recipe {name}, {recipe.mode}")
    return "\\".join(value[:LO_LENGTH] for value in values).encode("ascii")
