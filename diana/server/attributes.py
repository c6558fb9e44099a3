"""Which attributes searches take and give, at which level (PS3.18 10.6.1 and 10.6.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final  # Any: tag values

from diana.dixel import Dixel
from diana.exceptions import InvalidItem, Unsupported
from diana.server.archive import MODALITIES, Archive
from diana.utils.dicom import DicomLevel, dictionary
from diana.utils.dicom.matching import is_blank, is_comparison
from diana.utils.gateways.key_levels import level_of

STUDY: Final = (
    "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName", "StudyDescription",
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
    "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
)  # fmt: skip
SERIES: Final = (
    "Modality", "SeriesDate", "SeriesTime", "SeriesDescription", "BodyPartExamined", "ProtocolName",
    "SeriesInstanceUID", "SeriesNumber", "NumberOfSeriesRelatedInstances", "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
)  # fmt: skip
INSTANCE: Final = (
    "SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames",
)  # fmt: skip
USUAL: Final[Mapping[DicomLevel, tuple[str, ...]]] = {
    DicomLevel.STUDIES: STUDY,
    DicomLevel.SERIES: SERIES,
    DicomLevel.INSTANCES: INSTANCE,
}
COUNTS: Final = frozenset(
    ("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances", MODALITIES)
)
BULKY: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN"))

_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}\Z")
_WORD: Final = re.compile(r"[A-Z][A-Za-z0-9]{1,63}\Z")
MAX_VALUE: Final = 4096


def keyword_of(text: str) -> str:
    """Return the keyword of a keyword or tag, empty for a tag without. Raises InvalidItem for what is neither."""
    if _TAG.match(text):
        return dictionary.keyword_of(int(text, 16))
    if not _WORD.match(text) or dictionary.tag_of(text) is None:
        raise InvalidItem("a parameter is neither known nor a DICOM attribute")
    return text


def match_value(keyword: str, text: str) -> str | list[str]:
    """Return what an attribute has to match. Raises Unsupported for what cannot be matched, InvalidItem."""
    if dictionary.vr_of(keyword) in BULKY:
        raise Unsupported("an attribute of this kind cannot be matched")
    if len(text) > MAX_VALUE or "\0" in text:
        raise InvalidItem("a value to match is too long or damaged")
    if is_comparison(text):
        raise InvalidItem("a value to match is not of its form")
    if dictionary.vr_of(keyword) == "UI" and "," in text:
        return [one for one in text.split(",") if one]
    return text


def add_match(match: dict[str, Any], keyword: str, text: str) -> None:
    """Add a parameter to what is matched; an empty one asks for nothing. Raises InvalidItem for contradictions."""
    value = match_value(keyword, text)
    if is_blank(value):
        return
    if match.get(keyword, value) != value:
        raise InvalidItem("an attribute is given twice, with different values")
    match[keyword] = value


def upto(level: DicomLevel) -> tuple[str, ...]:
    """Return the usual attributes of a level and of those above it."""
    return tuple(key for one, keys in USUAL.items() if one <= level for key in keys)


def asked_of(level: DicomLevel, keys: Iterable[str]) -> tuple[str, ...]:
    """Return those keys that are kept at a level or above, and not counted."""
    return tuple(key for key in keys if level_of(key) <= level and key not in COUNTS)


def count(archive: Archive, found: list[Dixel], level: DicomLevel) -> None:
    """Add how many there are below, and the modalities of studies, where the endpoint did not say."""
    key = "NumberOfStudyRelatedInstances" if level == DicomLevel.STUDIES else "NumberOfSeriesRelatedInstances"
    for one in found:
        number = one.meta.get("Instances")
        if level < DicomLevel.INSTANCES and type(number) is int and is_blank(one.tags.get(key)):
            one.tags[key] = number
    if level != DicomLevel.STUDIES:
        return
    bare = [one for one in found if is_blank(one.tags.get(MODALITIES)) and one.tags.get("StudyInstanceUID")]
    series = archive.series_of(list(dict.fromkeys(str(one.tags["StudyInstanceUID"]) for one in bare)))
    for one in bare:
        mine = series.get(str(one.tags["StudyInstanceUID"]), [])
        if mine:
            kinds = sorted({str(child.tags["Modality"]) for child in mine if child.tags.get("Modality")})
            one.tags[MODALITIES] = kinds
            one.tags.setdefault("NumberOfStudyRelatedSeries", len(mine))


def tags_of(one: Dixel, level: DicomLevel, keys: Iterable[str] | None) -> dict[str, Any]:
    """Return the values of some keywords, or of all, that are kept at a level or above; those that are there."""
    tags = one.tags
    names = tags if keys is None else [key for key in dict.fromkeys(keys) if key in tags]
    return {key: tags[key] for key in names if level_of(key) <= level and not is_blank(tags[key])}
