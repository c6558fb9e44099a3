"""Turn the tags of an instance, a series or a study into a flat, complete, readable mapping."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any, TypeVar  # tag values are text, numbers, lists and mappings

from diana.exceptions import InvalidItem
from diana.utils.dicom.strings import parse_dicom_datetime

log = logging.getLogger(__name__)

UNKNOWN = "Unknown"
MAX_DEPTH = 64
_REPORT = "X-Ray Radiation Dose Report"
_REPORT_ALIAS = "X-ray Radiation Dose Report"
_CONTENT = ("ConceptNameCodeSequence", "ContentSequence", "ContentDate", "ContentTime")

Tags = MutableMapping[str, Any]
T = TypeVar("T", bound=Tags)


def dicom_simplify(tags: T, ignore_errors: bool = True) -> T:
    """
    Simplify a DICOM tag set, in place, and return it.

    - Dates and times become datetimes under StudyDateTime, SeriesDateTime and InstanceCreationDateTime; a missing one
      is that of the level above.
    - The content of a structured report becomes nested mappings under its title, with a ContentDateTime.
    - A blank AccessionNumber becomes the StudyInstanceUID, a blank PatientName the PatientID, a blank StationName the
      device's serial number or the observer of a dose report; else they become "Unknown".
    - Each CT acquisition of a dose report gets a CT Dose.

    What must be there and is not (a date, an accession number, a name) is logged, or raises InvalidItem when
    ``ignore_errors`` is False. Unlike diana2: a repeated zero is kept, an item of a report that cannot be read is left
    out alone, a single acquisition gets its default dose too, and values never reach the log.
    """
    _add_datetimes(tags, ignore_errors)
    _flatten_report(tags)
    _fill(tags, "AccessionNumber", "StudyInstanceUID", "no accession number and no study uid", ignore_errors)
    _fill(tags, "PatientName", "PatientID", "no patient name and no patient id", ignore_errors)
    _fill_station_name(tags)
    _complete_dose_report(tags)
    return tags


def _complain(problem: str, ignore_errors: bool) -> None:
    if not ignore_errors:
        raise InvalidItem(problem)
    log.debug(problem)


def _add_datetimes(tags: Tags, ignore_errors: bool) -> None:
    for level in ("Study", "Series"):
        if tags.get(f"{level}Date"):
            tags[f"{level}DateTime"] = parse_dicom_datetime(tags[f"{level}Date"], tags.get(f"{level}Time"))
    if not tags.get("SeriesDateTime"):
        tags["SeriesDateTime"] = tags.get("StudyDateTime")
    if not tags["SeriesDateTime"]:
        _complain("no study or series date", ignore_errors)
    if tags.get("InstanceCreationDate"):
        tags["InstanceCreationDateTime"] = parse_dicom_datetime(
            tags["InstanceCreationDate"], tags.get("InstanceCreationTime")
        )
    if not tags.get("InstanceCreationDateTime"):
        tags["InstanceCreationDateTime"] = tags["SeriesDateTime"] or tags.get("StudyDateTime")
    if not tags["InstanceCreationDateTime"]:
        _complain("no instance creation date", ignore_errors)


def _flatten_report(tags: Tags) -> None:
    title = _meaning(tags.get("ConceptNameCodeSequence"))
    if not title:
        return
    content = _flatten(tags.get("ContentSequence"), 0)
    content["ContentDateTime"] = parse_dicom_datetime(tags.get("ContentDate"), tags.get("ContentTime"))
    for keyword in _CONTENT:
        tags.pop(keyword, None)
    tags[title] = content


def _flatten(items: object, depth: int) -> dict[str, Any]:
    """Return content items by their concept name; a repeated name holds a list."""
    found: dict[str, Any] = {}
    for item in items if isinstance(items, list) else ():
        key = _meaning(item.get("ConceptNameCodeSequence")) if isinstance(item, Mapping) else None
        if not key or not item.get("ValueType"):
            log.debug("left out a content item without name or type")
            continue
        value = _value(item, depth)
        known = found.get(key)
        if known is None:
            found[key] = value
        elif isinstance(known, list):
            known.append(value)
        else:
            found[key] = [known, value]
    return found


def _value(item: Mapping[str, Any], depth: int) -> Any:
    """Return the value of a content item (PS3.3 C.17.3.2), None when it is missing or of a kind not simplified."""
    kind = item["ValueType"]
    if kind == "CONTAINER":
        if depth >= MAX_DEPTH:
            log.debug("left out a container below depth %d", MAX_DEPTH)
            return None
        return _flatten(item.get("ContentSequence"), depth + 1)
    if kind == "CODE":
        return _meaning(item.get("ConceptCodeSequence")) or "UNKNOWN"
    if kind == "NUM":
        return _number(_first(item.get("MeasuredValueSequence")).get("NumericValue"))
    if kind == "DATETIME":
        return parse_dicom_datetime(item.get("DateTime"))
    if kind == "IMAGE":
        return item.get("TextValue") or _first(item.get("ReferencedSOPSequence")).get("ReferencedSOPInstanceUID")
    return item.get({"TEXT": "TextValue", "UIDREF": "UID"}.get(kind, ""))


def _number(value: object) -> float | None:
    """Return the first of possibly several numbers."""
    if isinstance(value, list):
        value = value[0] if value else None
    try:
        return float(str(value).split("\\")[0])
    except ValueError:
        log.debug("a numeric content item has no number")
        return None


def _first(sequence: object) -> Mapping[str, Any]:
    """Return the first item of a sequence, an empty one when there is none."""
    if isinstance(sequence, list) and sequence and isinstance(sequence[0], Mapping):
        return sequence[0]
    return {}


def _meaning(sequence: object) -> str | None:
    meaning = _first(sequence).get("CodeMeaning")
    return str(meaning) if meaning else None


def _fill(tags: Tags, keyword: str, other: str, problem: str, ignore_errors: bool) -> None:
    if tags.get(keyword):
        return
    tags[keyword] = tags.get(other) or UNKNOWN
    if not tags.get(other):
        _complain(problem, ignore_errors)


def _fill_station_name(tags: Tags) -> None:
    if tags.get("StationName"):
        return
    report = tags.get(_REPORT)
    observer = report.get("Device Observer UID") if isinstance(report, Mapping) else None
    tags["StationName"] = tags.get("DeviceSerialNumber") or observer or UNKNOWN


def _complete_dose_report(tags: Tags) -> None:
    if tags.get(_REPORT_ALIAS):
        tags[_REPORT] = tags.pop(_REPORT_ALIAS)
    report = tags.get(_REPORT)
    if not isinstance(report, MutableMapping) or not report.get("CT Acquisition"):
        return
    acquisitions = report["CT Acquisition"]
    if not isinstance(acquisitions, list):
        acquisitions = report["CT Acquisition"] = [acquisitions]
    for acquisition in acquisitions:
        if isinstance(acquisition, MutableMapping):
            acquisition.setdefault("CT Dose", {"Mean CTDIvol": 0})
