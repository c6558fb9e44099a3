"""
Items between commands: one JSON line per dixel, or one plain id per line.

A line is ``{"level", "id", "uid", "at", "tags", ...}``. ``at`` says which service the id belongs to, so that another
service goes by the UIDs in ``tags`` instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO, TypeGuard  # tags hold anything

from attrs import evolve, field, frozen

from diana.exceptions import DianaError, InvalidItem
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import Ref

if TYPE_CHECKING:
    from diana.dixel import Dixel
    from diana.utils.endpoint import Endpoint

MAX_LINE = 16 << 20


@frozen
class Item:
    """
    Hold one item as given: a plain id, the address that a line spells, or what is wrong with it.

    ``label`` names it without patient data; ``level`` is what the command line says of plain ids.
    """

    label: str
    ref: Ref | None = None
    plain: str = field(default="", repr=False)
    level: DicomLevel | None = None
    at: str = ""
    problem: str = ""
    row: Mapping[str, Any] = field(factory=dict, repr=False)

    def at_service(self, endpoint: Endpoint) -> Ref:
        """
        Return the address for a service, which decides what a plain id means there.

        An id that belongs to another service counts only without UIDs. Raises InvalidItem when the item could not be
        read.
        """
        ref = self.checked().ref
        if ref is None:
            return endpoint.ref(self.plain, self.level)
        if self.at and self.at != mark(endpoint) and ref.uid:
            return evolve(ref, id="")
        return ref

    def checked(self) -> Item:
        """Return the item itself. Raises InvalidItem when it could not be read."""
        if self.problem:
            raise InvalidItem(self.problem)
        return self


def mark(endpoint: Endpoint) -> str:
    """Return a short mark of a service that is the same for the same configuration."""
    return endpoint.epid[:12]


def is_dixel(value: object) -> TypeGuard[Dixel]:
    """Tell whether a result is a dixel."""
    from diana.dixel.dixel import Dixel

    return isinstance(value, Dixel)


def row_of(dixel: Dixel, endpoint: Endpoint | None = None, **more: Any) -> dict[str, Any]:
    """Return a dixel as the line that commands exchange."""
    ref = dixel.ref
    row: dict[str, Any] = {"level": str(dixel.level), "id": ref.id, "uid": ref.uid}
    if endpoint is not None:
        row["at"] = mark(endpoint)
    meta = {key: value for key, value in dixel.meta.items() if key != "ID"}
    return {**row, **more, "tags": dixel.tags, **({"meta": meta} if meta else {})}


def read_items(given: Iterable[str], level: DicomLevel | None = None, stream: TextIO | None = None) -> Iterator[Item]:
    """
    Yield the items of the command line; ``-`` stands for the lines of standard input, read as they come.

    ``level`` is that of plain ids; without it the service decides.
    """
    for number, one in enumerate(given, 1):
        if one == "-":
            yield from read_lines(stream or sys.stdin, level)
        else:
            yield parse(one, f"item {number}", level)


def read_lines(stream: TextIO, level: DicomLevel | None = None) -> Iterator[Item]:
    """Yield the items of a stream, blank lines left out; a line that is too long is one bad item."""
    number, too_long = 0, False
    while line := stream.readline(MAX_LINE):
        whole = line.endswith("\n")
        if too_long:
            too_long = not whole
            continue
        number += 1
        if not whole and len(line) == MAX_LINE:
            too_long = True
            yield Item(f"line {number}", problem="the line is too long")
        elif line.strip():
            yield parse(line.strip().lstrip("\ufeff"), f"line {number}", level)


def parse(text: str, label: str, level: DicomLevel | None = None) -> Item:
    """Return the item that a text names; what cannot be read becomes an item with a problem."""
    if not text.startswith("{"):
        return Item(label, plain=text, level=level)
    try:
        row = json.loads(text)
        return Item(label, _ref(row, level), at=str(row.get("at") or ""), row=row)
    except DianaError as error:
        return Item(label, problem=str(error))
    except (ValueError, RecursionError):
        return Item(label, problem="not a JSON object")


def _ref(row: Mapping[str, Any], level: DicomLevel | None) -> Ref:
    wanted = row.get("level")
    depth = DicomLevel.from_label(wanted) if isinstance(wanted, str) else level or DicomLevel.STUDIES
    tags = row.get("tags") if isinstance(row.get("tags"), Mapping) else {}
    known = {key: value for key, value in (tags or {}).items() if isinstance(value, str)}
    if isinstance(row.get("uid"), str) and row["uid"]:
        known.setdefault(depth.uid_keyword, row["uid"])
    found = row.get("id")
    ref = Ref.from_tags(known, depth, id=found if isinstance(found, str) else "")
    if not ref.id and not ref.uid:
        raise InvalidItem("the line has neither an id nor a uid")
    return ref
