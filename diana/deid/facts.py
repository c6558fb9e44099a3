"""What must be known of an object before it is treated, and whether it may be treated at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from attrs import field, frozen

from diana.deid.result import Reason, Refused, Step
from diana.deid.source import Opened
from diana.utils.dicom import _text
from diana.utils.dicom.dictionary import tag_of

CHARSET: Final = 0x00080005
SOP_CLASS: Final = 0x00080016
SOP_UID: Final = 0x00080018
MODALITY: Final = 0x00080060
PATIENT_ID: Final = 0x00100020
ISSUER: Final = 0x00100021
OTHER_IDS: Final = 0x00101000
OTHER_IDS_SEQUENCE: Final = 0x00101002
MAX_OTHERS: Final = 64
STUDY: Final = 0x0020000D
SERIES: Final = 0x0020000E
REGIONS: Final = 0x00186011
RECORDS: Final = 0x00041220
MEDIA_CLASS: Final = 0x00020002
MEDIA_UID: Final = 0x00020003

_STANDARD: Final = "1.2.840.10008."
_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_DOCUMENTS: Final = "1.2.840.10008.5.1.4.1.1.104."
_VIDEO_CLASSES: Final = frozenset(
    ("1.2.840.10008.5.1.4.1.1.77.1.1.1", "1.2.840.10008.5.1.4.1.1.77.1.2.1", "1.2.840.10008.5.1.4.1.1.77.1.4.1")
)
_VIDEO_SYNTAXES: Final = frozenset(
    f"1.2.840.10008.1.2.4.{number}" for number in (100, 101, 102, 103, 104, 105, 106, 107, 108)
)
_SMPTE: Final = "1.2.840.10008.1.2.7."
_GE_PRIVATE: Final = "1.2.840.113619.5.2"
_SYNTAX: Final = re.compile(r"1\.2\.840\.10008\.1\.2\.[0-9.]{1,40}\Z", re.ASCII)
_NATIVE: Final = frozenset(
    ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", _GE_PRIVATE)
)


@frozen
class Facts:
    """Hold what an object says about itself; the values of the patient are in no ``repr``."""

    sop_class: str
    class_bytes: bytes = field(repr=False)
    sop_uid: bytes = field(repr=False)
    study_uid: bytes = field(repr=False)
    series_uid: bytes = field(repr=False)
    charset: str = ""
    issuer: str = field(default="", repr=False)
    stated_issuer: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)


def read(opened: Opened) -> Facts:
    """
    Return the facts. An object without Patient ID belongs to a patient of its own study.
    """
    charset = opened.value(CHARSET).decode("latin-1")
    codecs = _text.codecs_of(charset)
    sop_class = opened.value(SOP_CLASS) or opened.meta.get(MEDIA_CLASS, b"").strip(b" \0")
    sop_uid = opened.value(SOP_UID) or opened.meta.get(MEDIA_UID, b"").strip(b" \0")
    study = opened.value(STUDY)
    patient_id = _text.decode(opened.value(PATIENT_ID), codecs).strip(" \0")
    issuer = _text.decode(opened.value(ISSUER), codecs).strip(" \0")
    stated = issuer
    if not patient_id:
        patient_id, issuer = (study or sop_uid).decode("latin-1"), "^study"
    name = sop_class.decode("latin-1")
    return Facts(name, sop_class, sop_uid, study, opened.value(SERIES), charset, issuer, stated, patient_id)


def check(opened: Opened, known: Facts) -> None:
    """Raise Refused for what is not de-identified at all."""
    name, syntax = known.sop_class, opened.syntax
    if name == _DIRECTORY or opened.find(RECORDS) is not None:
        raise Refused(Reason.DIRECTORY, "a DICOMDIR is made anew from the new files, never de-identified")
    if not name or not known.sop_uid:
        raise Refused(Reason.UNNAMED, "the object has no SOP Class or no SOP Instance UID")
    if not name.startswith(_STANDARD):
        raise Refused(Reason.PRIVATE_CLASS, "no profile covers a private SOP Class")
    if name.startswith(_DOCUMENTS):
        raise Refused(Reason.ENCAPSULATED, "what an encapsulated document holds cannot be told")
    if name in _VIDEO_CLASSES or syntax in _VIDEO_SYNTAXES or syntax.startswith(_SMPTE):
        raise Refused(Reason.VIDEO, "what a video shows cannot be told")
    if syntax not in _NATIVE and not _SYNTAX.match(syntax):
        raise Refused(Reason.SYNTAX, "the transfer syntax is unknown")
    if opened.pixels is not None and not opened.pixels.fragments and syntax not in _NATIVE:
        raise Refused(Reason.BROKEN, "the pixels are not encapsulated as their transfer syntax demands")
    if opened.fragments and opened.reader.read(opened.pixels.end if opened.pixels else 0, 4) == b"\xfe\xff\x00\xe0":
        raise Refused(Reason.BROKEN, "the fragments of the pixels end before their end")


def other_ids(opened: Opened, known: Facts) -> list[tuple[str, str]]:
    """
    Return the issuers and ids that Other Patient IDs (0010,1000) and their sequence (0010,1002) give the patient.

    The plain list names no issuer: each of its ids counts under that of the Patient ID, and under none. At most 64;
    an object without Patient ID says of nobody that he has other ids.
    """
    if known.issuer == "^study":
        return []
    codecs = _text.codecs_of(known.charset)
    found = [
        (issuer, text.strip(" \0"))
        for text in _text.decode(opened.value(OTHER_IDS), codecs).split("\\")
        for issuer in dict.fromkeys((known.stated_issuer, ""))
    ]
    sequence = opened.find(OTHER_IDS_SEQUENCE)
    for item in (sequence.items if sequence is not None else None) or ():
        values = {node.tag: _text.decode(node.content(), codecs).strip(" \0") for node in item.nodes[:MAX_OTHERS]}
        found.append((values.get(ISSUER, ""), values.get(PATIENT_ID, "")))
    return [one for one in dict.fromkeys(found) if one[1]][:MAX_OTHERS]


def header(opened: Opened, known: Facts, keywords: Iterable[str]) -> dict[str, str]:
    """Return values of the top level as text, by keyword or eight digits; what is absent is left out."""
    codecs = _text.codecs_of(known.charset)
    nodes = {node.tag: node for node in opened.nodes}
    found = {}
    for keyword in keywords:
        node = nodes.get(_tag_of(keyword))
        if node is not None and node.data is not None and node.items is None:
            text = _text.value(node.vr, node.content(), codecs, big=node.coding.big)
            if text is not None:
                found[keyword] = text
    return found


@lru_cache(maxsize=1024)
def _tag_of(keyword: str) -> int:
    tag = tag_of(keyword)
    return int(keyword, 16) if tag is None else tag


def has_regions(opened: Opened) -> bool:
    """Tell whether there are ultrasound regions."""
    return opened.find(REGIONS) is not None


def container_steps(opened: Opened) -> Iterator[Step]:
    """Yield what happens to the container."""
    yield Step("", "Preamble", "", "replace", "container: zeros")
    for tag in sorted(opened.meta):
        yield Step(f"({tag >> 16:04X},{tag & 0xFFFF:04X})", "", "", "replace", "container: file meta is written anew")
    if opened.tail:
        yield Step("", "bytes after the data set", "", "remove", "container: no tail")
