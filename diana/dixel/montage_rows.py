"""Studies from what a Montage report archive hands out: search results (JSON) and downloaded tables (CSV)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any  # JSON values

from diana.dixel.dixel import Dixel
from diana.dixel.report import RadiologyReport
from diana.exceptions import InvalidItem
from diana.utils.dicom import dicom_name
from diana.utils.endpoint import Factory
from diana.utils.report_text import clean_text

CSV_TAGS = {
    "AccessionNumber": "Accession Number",
    "PatientID": "Patient MRN",
    "StudyDescription": "Exam Description",
    "ReferringPhysicianName": "Ordered By",
    "PatientSex": "Patient Sex",
    "StudyDate": "Exam Completed Date",
    "Organization": "Organization",
}
CSV_META = {
    "PatientAge": "Patient Age",
    "OrderCode": "Exam Code",
    "PatientStatus": "Patient Status",
    "ReportText": "Report Text",
}
JSON_TAGS = {
    "AccessionNumber": "accession_number",
    "PatientID": "patient_mrn",
    "StudyDescription": "exam_type.description",
    "PatientSex": "patient_sex",
    "Organization": "organization.label",
    "Modality": "exam_type.modality.label",
}
JSON_META = {
    "PatientAge": "patient_age",
    "OrderCode": "exam_type.code",
    "PatientStatus": "patient_status",
}
NEEDED = ("AccessionNumber", "PatientID")


def from_json(data: Mapping[str, Any]) -> Dixel:
    """
    Return a study from one object of a search result, or from the JSON of such a study (``meta`` and ``tags``).

    The referring physician is the provider of the first event, the reader that of the last; the study took place at the
    second to last event, or at the only one. ``BodyParts`` and ``CPTCodes`` are None until they are looked up. Raises
    InvalidItem naming the part that is missing or of a wrong kind.
    """
    if not isinstance(data, Mapping):
        raise InvalidItem("a Montage result is a mapping")
    if "accession_number" not in data and isinstance(data.get("tags"), Mapping):
        return _from_own_json(data)
    events = _list(data, "events")
    if not events or not all(isinstance(one, Mapping) for one in events):
        raise InvalidItem("the Montage result lacks events" if not events else "an entry of events is not a mapping")
    held = max(len(events) - 2, 0)
    tags = {keyword: _scalar(data, path) for keyword, path in JSON_TAGS.items()}
    tags["ReferringPhysicianName"] = _provider(events[0])
    meta: dict[str, Any] = {keyword: _scalar(data, path) for keyword, path in JSON_META.items()}
    meta.update(
        PatientName=_name(_scalar(data, "patient_last_name"), _scalar(data, "patient_first_name")),
        ReportText=clean_text(_text(_scalar(data, "text"))),
        ReadingPhysiciansName=_provider(events[-1]),
        StudyDateTime=_moment(events[held].get("date"), f"events[{held}].date"),
        MontageCPTCodes=[_code(one) for one in _list(data, "exam_type.cpts")],
        BodyParts=None,
        CPTCodes=None,
    )
    return _study(meta, tags)


def from_csv(row: Mapping[str, Any]) -> Dixel:
    """Return a study from one row of a table; dates stay as they are written. Raises InvalidItem naming the column."""
    if not isinstance(row, Mapping):
        raise InvalidItem("a Montage row is a mapping of columns")
    tags = {keyword: _cell(row, column) for keyword, column in CSV_TAGS.items()}
    meta: dict[str, Any] = {keyword: _cell(row, column) for keyword, column in CSV_META.items()}
    meta["PatientName"] = _name(_cell(row, "Patient Last Name"), _cell(row, "Patient First Name"))
    return _study(meta, tags)


def _study(meta: dict[str, Any], tags: dict[str, Any]) -> Dixel:
    for keyword in NEEDED:
        if tags.get(keyword) in (None, ""):
            raise InvalidItem(f"the Montage study has no {keyword}")
        tags[keyword] = str(tags[keyword])
    found = Dixel(meta=meta, tags=tags)
    found.report = RadiologyReport(_text(meta.get("ReportText")))
    return found


def _from_own_json(data: Mapping[str, Any]) -> Dixel:
    meta = data.get("meta", {})
    if not isinstance(meta, Mapping):
        raise InvalidItem("meta is not a mapping")
    made: Dixel = Factory.create(ctype="Dixel", meta=meta, tags=data["tags"])
    return _study(made.meta, made.tags)


def _at(data: Mapping[str, Any], path: str) -> Any:
    """Return what stands at a path of keys."""
    found: Any = data
    for key in path.split("."):
        if not isinstance(found, Mapping) or key not in found:
            raise InvalidItem(f"the Montage result lacks {path}")
        found = found[key]
    return found


def _scalar(data: Mapping[str, Any], path: str) -> Any:
    found = _at(data, path)
    if found is not None and not isinstance(found, str | int | float):
        raise InvalidItem(f"{path} is not a single value")
    return found


def _list(data: Mapping[str, Any], path: str) -> Sequence[Any]:
    found = _at(data, path)
    if not isinstance(found, list | tuple):
        raise InvalidItem(f"{path} is not a list")
    return found


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise InvalidItem(f"the Montage row lacks the column {column!r}")
    return _text(row[column])


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _name(last: Any, first: Any) -> str:
    return dicom_name([_text(last), _text(first)])


def _provider(event: Mapping[str, Any]) -> str | None:
    """Return the name of who did an event, None when it is not told."""
    provider = event.get("provider")
    name = provider.get("name") if isinstance(provider, Mapping) else None
    return name if isinstance(name, str) else None


def _moment(value: Any, path: str) -> dt.datetime | None:
    if value in (None, ""):
        return None
    from dateutil.parser import isoparse

    try:
        return isoparse(value)
    except (ValueError, TypeError, OverflowError, AttributeError):
        raise InvalidItem(f"{path} is not a date and time") from None


def _code(address: Any) -> str:
    """Return the second to last part of the address of a code."""
    parts = address.split("/") if isinstance(address, str) else ()
    if len(parts) < 2:
        raise InvalidItem("an entry of exam_type.cpts is not an address")
    return str(parts[-2])
