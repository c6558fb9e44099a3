"""Say which header elements are wanted, keep them as bytes, and turn them into text when asked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from diana.utils.dicom import _text
from diana.utils.dicom._scan import EXPLICIT_LITTLE, IMPLICIT_LITTLE, TRANSFER_SYNTAX, encoding, raw_value, swap
from diana.utils.dicom._source import OverLimit

MAX_KEPT: Final = 4 << 20
CHARSET: Final = 0x00080005
SIGNED: Final = 0x00280103
MEDIA_CLASS: Final = 0x00020002

_KNOWN: Final[Mapping[str, tuple[int, str]]] = {
    "SpecificCharacterSet": (CHARSET, "CS"),
    "ImageType": (0x00080008, "CS"),
    "SOPClassUID": (0x00080016, "UI"),
    "SOPInstanceUID": (0x00080018, "UI"),
    "StudyDate": (0x00080020, "DA"),
    "SeriesDate": (0x00080021, "DA"),
    "StudyTime": (0x00080030, "TM"),
    "SeriesTime": (0x00080031, "TM"),
    "AccessionNumber": (0x00080050, "SH"),
    "Modality": (0x00080060, "CS"),
    "Manufacturer": (0x00080070, "LO"),
    "InstitutionName": (0x00080080, "LO"),
    "ReferringPhysicianName": (0x00080090, "PN"),
    "StationName": (0x00081010, "SH"),
    "StudyDescription": (0x00081030, "LO"),
    "SeriesDescription": (0x0008103E, "LO"),
    "ManufacturerModelName": (0x00081090, "LO"),
    "PatientName": (0x00100010, "PN"),
    "PatientID": (0x00100020, "LO"),
    "PatientBirthDate": (0x00100030, "DA"),
    "PatientSex": (0x00100040, "CS"),
    "BodyPartExamined": (0x00180015, "CS"),
    "ProtocolName": (0x00181030, "LO"),
    "StudyInstanceUID": (0x0020000D, "UI"),
    "SeriesInstanceUID": (0x0020000E, "UI"),
    "StudyID": (0x00200010, "SH"),
    "SeriesNumber": (0x00200011, "IS"),
    "InstanceNumber": (0x00200013, "IS"),
    "NumberOfFrames": (0x00280008, "IS"),
    "Rows": (0x00280010, "US"),
    "Columns": (0x00280011, "US"),
}

_PIXEL_TAGS: Final[Mapping[str, tuple[int, str]]] = {
    "SamplesPerPixel": (0x00280002, "US"),
    "PhotometricInterpretation": (0x00280004, "CS"),
    "BitsAllocated": (0x00280100, "US"),
}

DEFAULT_TAGS: Final[tuple[str, ...]] = tuple(_KNOWN)
STRUCTURE_TAGS: Final[tuple[str, ...]] = (*_KNOWN, *_PIXEL_TAGS)


class Plan(NamedTuple):
    """Hold what to look for: tag to keyword and VR, per byte order; no keyword where only the reader needs it."""

    numbers: dict[str, int]
    little: dict[int, tuple[str, str]]
    big: dict[int, tuple[str, str]]


@lru_cache(maxsize=64)
def make_plan(tags: tuple[str | int, ...]) -> Plan:
    """Look the tags up; pydicom's dictionary is loaded only for those not in the tables here. Raises InvalidItem."""
    wanted: dict[int, tuple[str, str]] = {}
    helpers = {CHARSET: "CS", swap(TRANSFER_SYNTAX): "UI", swap(MEDIA_CLASS): "UI"}
    for tag in tags:
        known = (_KNOWN.get(tag) or _PIXEL_TAGS.get(tag)) if isinstance(tag, str) else None
        number, keyword, vr = (known[0], str(tag), known[1]) if known else _text.look_up(tag)
        wanted[number] = (keyword, vr)
        if number >> 16 & 1:
            helpers[creator_of(number)] = "LO"
        if vr == "US or SS":
            helpers[SIGNED] = "US"
    wanted = {**{number: ("", vr) for number, vr in helpers.items()}, **wanted}
    numbers = {keyword: number for number, (keyword, _) in wanted.items() if keyword}
    return Plan(numbers, {swap(number): entry for number, entry in wanted.items()}, wanted)


def creator_of(number: int) -> int:
    """Return the tag of the private creator element of a private tag (PS3.5 7.8.1)."""
    return number & 0xFFFF0000 | (number & 0xFFFF) >> 8


class Found(NamedTuple):
    """Hold elements as they lie in the file: tag, as read, to where the element starts in the data."""

    data: bytes
    places: dict[int, int]
    meta: dict[int, int]
    plan: Plan
    explicit: bool
    big: bool

    def text(self, keyword: str) -> str | None:
        """Decode one value; None when it is absent or no text."""
        number = self.plan.numbers.get(keyword, 0)
        vr, raw = self._raw(number)
        return None if vr is None else self._text(number, vr, raw, None)

    def texts(self) -> dict[str, str]:
        """Decode all values that are text."""
        charset = self._charset()
        texts: dict[str, str] = {}
        for keyword, number in self.plan.numbers.items():
            vr, raw = self._raw(number)
            if vr is not None:
                text = self._text(number, vr, raw, charset)
                if text is not None:
                    texts[keyword] = text
        return texts

    def media_class(self) -> str:
        """Return the Media Storage SOP Class UID, empty without file meta."""
        return self._raw(MEDIA_CLASS)[1].decode(_text.LATIN).rstrip(_text.PADDING)

    def _raw(self, number: int) -> tuple[str | None, bytes]:
        """Return VR and value of an element, None and nothing when it is absent."""
        if number >> 16 == 2:
            place, coding = self.meta.get(swap(number)), EXPLICIT_LITTLE
        elif self.big:
            place, coding = self.places.get(number), encoding(self.explicit, True)
        else:
            place = self.places.get((number & 0xFFFF) << 16 | number >> 16)
            coding = EXPLICIT_LITTLE if self.explicit else IMPLICIT_LITTLE
        return (None, b"") if place is None else raw_value(self.data, place, coding)

    def _text(self, number: int, vr: str, raw: bytes, charset: tuple[str, ...] | None) -> str | None:
        if vr in ("", "UN", "??") and (vr != "UN" or len(raw) < 0xFFFF):
            vr = self.plan.big[number][1] or self._private_vr(number)
        if vr == "US or SS":
            vr = "SS" if self._raw(SIGNED)[1].strip(b"\0") else "US"
        if vr in _text.TEXT_VRS and number >> 16 != 2:
            return _text.value(vr, raw, charset or self._charset(), big=self.big)
        return _text.value(vr, raw, (_text.LATIN,), big=self.big and number >> 16 != 2)

    def _charset(self) -> tuple[str, ...]:
        return _text.codecs_of(self._raw(CHARSET)[1].decode(_text.LATIN).rstrip(_text.PADDING))

    def _private_vr(self, number: int) -> str:
        if not number >> 16 & 1:
            return ""
        return _text.private_vr(number, self._raw(creator_of(number))[1].decode(_text.LATIN).rstrip(_text.PADDING))


class Kept:
    """Hold the elements found: those of the first bytes stay where they are, later ones are copied behind them."""

    __slots__ = ("data", "extra", "places")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.extra = bytearray()
        self.places: dict[int, int] = {}

    def put(self, element: bytes) -> int:
        """Copy one element and return its place."""
        place = len(self.data) + len(self.extra)
        self.extra += element
        if len(self.extra) > MAX_KEPT:
            raise OverLimit(f"the header values are longer than {MAX_KEPT} bytes")
        return place

    def add(self, tag: int, element: bytes) -> None:
        """Keep one element; the last of equal tags counts."""
        self.places[tag] = self.put(element)

    def finish(self) -> bytes:
        """Return the bytes that all places point into."""
        return self.data + bytes(self.extra) if self.extra else self.data
