"""The standard's tables as shipped in ``diana/deid/data``, each with its edition and pinned checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final  # rows are JSON

from attrs import frozen

from diana.exceptions import StateError
from diana.utils.dicom import dictionary

PINNED: Final[Mapping[str, str]] = {
    "ps3_15_e1_1": "3c4ba90142da55765b3f07e969c0e0db2e4699f48d9a95e15431393e4c3a8629",
    "ps3_15_e3_10_1": "dcffa1f64fd1caa3348f63f71eae6862d9fd2c17aa80606dde07ad719cdcaeb7",
    "ps3_16_cid_7050": "6dae1c91606e56920a4149397ca25dffe4c6d6860ad0e024cbb19bfcc6775cad",
    "ps3_3_types_for_e1_1": "7bc1e7d60f7ddadcbf27854a8f259761483eb40cf7b5c0ad582a28d8f616f05f",
    "ps3_3_text_types": "e49aae5afa8cf69d6985146d1bbd8c01d5c09e32eb89b248054c4d018aae0e25",
}

# attributes of Table E.1-1 that pydicom's dictionary does not know
_NEW: Final[Mapping[int, str]] = {
    0x0040B034: "DT", 0x0040E012: "UR", 0x3004007F: "LO", 0x0040A034: "DT", 0x0040A035: "DT", 0x00102162: "UC",
    0x00100044: "SQ", 0x00100045: "LT", 0x00100041: "SQ", 0x00081304: "SQ", 0x0040B03F: "LO", 0x0040B03B: "LO",
    0x00100012: "LT", 0x00100013: "LT", 0x00100011: "SQ", 0x00081302: "SQ", 0x00081301: "SQ", 0x00100015: "SQ",
    0x00100016: "LT", 0x00081303: "SQ", 0x0040B036: "DT", 0x00100046: "SQ", 0x00100042: "LT", 0x00100047: "UR",
    0x00100043: "SQ", 0x00100014: "SQ",
}  # fmt: skip
_AMBIGUOUS: Final = {"US or SS": "US", "OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "OW"}


@frozen
class Row:
    """Hold a row of Table E.1-1: ``tag`` is eight characters, hexadecimal digits and ``x``."""

    tag: str
    name: str
    basic: str
    options: Mapping[str, str]


@lru_cache(maxsize=8)
def load(name: str) -> Any:
    """Return a table as parsed JSON. Raises StateError when the file is not the one that was pinned."""
    data = files("diana.deid").joinpath(f"data/{name}.json").read_bytes()
    if sha256(data).hexdigest() != PINNED[name]:
        raise StateError(
            f"the table {name} is not the one that this version was tested with; install the package again"
        )
    return json.loads(data)


def edition() -> str:
    """Return the edition of Table E.1-1, as ``2026d``."""
    return str(load("ps3_15_e1_1")["edition"])


def checksum() -> str:
    """Return the SHA-256 of the rows of Table E.1-1, as ``content_sha256`` of the source names it."""
    return str(load("ps3_15_e1_1")["content_sha256"])


@lru_cache(maxsize=1)
def rows() -> tuple[Row, ...]:
    """Return Table E.1-1 without the row of the odd groups."""
    found = []
    for row in load("ps3_15_e1_1")["rows"]:
        tag = row["tag"].strip("()").replace(",", "")
        if len(tag) == 8:
            found.append(Row(tag, row["name"], row["basic_profile"], row["options"]))
    return tuple(found)


@lru_cache(maxsize=1)
def by_tag() -> dict[int, Row]:
    """Return the rows of single tags; not those of repeating groups."""
    return {int(row.tag, 16): row for row in rows() if "x" not in row.tag}


@lru_cache(maxsize=1)
def safe_private() -> dict[tuple[str, int, int], str]:
    """Return Table E.3.10-1: creator, group and the last two digits of the element give the VR."""
    found = {}
    for row in load("ps3_15_e3_10_1")["rows"]:
        group, _, element = row["tag"].strip("()").partition(",")
        found[row["private_creator"], int(group, 16), int(element[2:], 16)] = row["vr"].partition("/")[0]
    return found


@lru_cache(maxsize=256)
def types_of(sop_class: str) -> Mapping[str, str] | None:
    """
    Return the Types (PS3.3) of the attributes with a compound action in the IOD of a SOP class; None when unknown.

    Keys are tags joined by dots, those of the sequences first; Type 3 is left out.
    """
    table = load("ps3_3_types_for_e1_1")
    iod = table["sop_class_to_iod"].get(sop_class)
    return None if iod is None else table["iods"][iod]


@lru_cache(maxsize=1)
def text_types() -> dict[int, str]:
    """Return the strictest Type, 1 or 2, of attributes that Table E.1-1 does not list and that hold text or dates."""
    return {int(tag, 16): kind for tag, kind in load("ps3_3_text_types")["types"].items()}


@lru_cache(maxsize=1)
def code_meanings() -> dict[str, str]:
    """Return CID 7050: code to meaning."""
    return {row["code"]: row["meaning"] for row in load("ps3_16_cid_7050")["rows"]}


@lru_cache(maxsize=1)
def vrs() -> dict[int, str]:
    """Return the VR of every attribute of the standard; of those with several, the one that PS3.5 A.1 prefers."""
    found = {tag: _AMBIGUOUS.get(one.vr, one.vr) for tag, one in dictionary.entries().items() if one.vr != "NONE"}
    return {**found, **_NEW}


def name_of(tag: int) -> str:
    """Return the name of an attribute, empty when it is unknown."""
    row = by_tag().get(tag)
    if row is not None:
        return row.name
    entry = dictionary.entries().get(tag)
    return entry.name if entry else ""
