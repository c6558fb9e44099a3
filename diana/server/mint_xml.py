"""The XML of MINT: attributes, searches of the Vitrea dialect, metadata of the reference server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final  # Any: tag values
from xml.sax.saxutils import quoteattr

from attrs import define, field

from diana.server.metadata import bulk_elements
from diana.utils.dicom import DicomLevel
from diana.utils.dicom.jsonmodel import GROUPS, MAX_DEPTH, to_model

NAMESPACE: Final = "http://medical.nema.org/mint"
HEAD: Final = b'<?xml version="1.0" encoding="UTF-8"?>\n'
ORDINAL_BITS: Final = 16
_NOT_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@define(eq=False)
class Node:
    """Hold a study, series or instance of an answer with what is below it."""

    uid: str
    tags: Mapping[str, Any] = field(factory=dict, repr=False)
    below: dict[str, Node] = field(factory=dict, repr=False)


def quoted(text: str) -> str:
    """Return a value for an attribute of XML; characters that XML cannot hold become a replacement."""
    return quoteattr(_NOT_XML.sub("\ufffd", text), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def attrs_of(tags: Mapping[str, Any]) -> str:
    """Return tags by keyword as ``attr`` elements."""
    return of_model(to_model(tags, empty=False), 0)


def of_model(model: Mapping[str, Any], depth: int) -> str:
    """Return an object of the DICOM JSON model as ``attr`` elements, bulk references left out."""
    return "".join(_attr(key, element, depth) for key, element in model.items() if "BulkDataURI" not in element)


def _attr(key: str, element: Mapping[str, Any], depth: int) -> str:
    vr = str(element.get("vr", "UN"))
    start = f'<attr tag="{key.lower()}" vr="{vr}"'
    values = element.get("Value") or []
    if vr == "SQ":
        if depth >= MAX_DEPTH:
            return ""
        items = "".join(f"<item><attributes>{of_model(item, depth + 1)}</attributes></item>" for item in values)
        return f"{start}>{items}</attr>"
    if "InlineBinary" in element:
        return f"{start} bytes={quoted(element['InlineBinary'])}/>"
    text = "\\".join(_text(one) for one in values)
    return f"{start} val={quoted(text)}/>" if text else f"{start}/>"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "=".join(str(value.get(name) or "") for name in GROUPS).rstrip("=")
    return str(value)


def search_pieces(studies: Iterable[Node], level: DicomLevel, fields: Iterable[str]) -> Iterator[bytes]:
    """Yield the answer to a search."""
    name = level.singular.upper()
    yield (
        HEAD
        + (
            f'<studySearchResults xmlns="{NAMESPACE}" QueryLevel="{name}" includefields={quoted(",".join(fields))}>\n'
        ).encode()
    )
    for study in studies:
        facts = f'studyUUID="{study.uid}" version="1" lastModified="1970-01-01T00:00:00.000Z"'
        yield f"<study {facts}>{_below(study, DicomLevel.SERIES)}{attrs_of(study.tags)}</study>\n".encode()
    yield b"</studySearchResults>\n"


def _below(node: Node, level: DicomLevel) -> str:
    name = level.singular.lower()
    return "".join(
        f"<{name}>{_below(one, DicomLevel(level + 1)) if one.below else ''}{attrs_of(one.tags)}</{name}>"
        for one in node.below.values()
    )


def item_number(instance: str, ordinal: int) -> int:
    """Return the number of a binary item: 43 bits that stand for the instance, then its place in the instance."""
    digest = hashlib.sha256(instance.encode("ascii")).digest()
    return (int.from_bytes(digest[:8], "big") >> 21) << ORDINAL_BITS | ordinal


def bulk_attrs(model: dict[str, Any], instance: str, sizes: Mapping[str, int]) -> str:
    """Return the bulk values of an instance as ``attr`` elements with the numbers of their binary items."""
    return "".join(
        f'<attr tag="{key.lower()}" vr="{element["vr"]}" bid="{item_number(instance, at)}"'
        + (f' bsize="{sizes[key]}"' if key in sizes else "")
        + "/>"
        for at, (key, element) in enumerate(bulk_elements(model))
    )


def metadata_pieces(study: str, common: str, series: Mapping[str, tuple[str, list[str]]]) -> Iterator[bytes]:
    """Yield the metadata of a study: what all share, and its series with their own attributes and instances."""
    yield (
        HEAD
        + (
            f'<study xmlns="{NAMESPACE}" studyInstanceUID="{study}" type="DICOM" version="1">'
            f"<attributes>{common}</attributes><seriesList>\n"
        ).encode()
    )
    for uid, (own, instances) in series.items():
        yield (
            f'<series seriesInstanceUID="{uid}" instanceCount="{len(instances)}"><attributes>{own}</attributes>'
            "<normalizedInstanceAttributes/><instances>\n"
        ).encode()
        for one in instances:
            yield one.encode()
        yield b"</instances></series>\n"
    yield b"</seriesList></study>\n"
