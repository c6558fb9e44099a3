"""Reports of collected studies, under the pseudonyms that their images have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol  # tags

from attrs import evolve, field, frozen

from diana.deid.pseudonyms import Subject, new_uid, normal_id
from diana.deid.result import Quarantined
from diana.deid.text import Pattern, clean_study, known_of
from diana.exceptions import Conflict, InvalidItem, ItemNotFound
from diana.utils.dicom import DicomLevel, Query

if TYPE_CHECKING:
    from diana.deid.key import Key
    from diana.dixel import Dixel
    from diana.utils.endpoint import Endpoint

JOINED: Final = "joined"
NO_IMAGES: Final = "no images"
NO_REPORT: Final = "no report"
CONFLICT: Final = "conflict"
QUARANTINED: Final = "quarantined"
_NEW: Final = ("PatientID", "PatientName", "AccessionNumber")
_OLD: Final = ("PatientID", "PatientName", "PatientBirthDate")


class Study(Protocol):
    """Name a study as it was before: ``PlannedStudy`` of a collection does."""

    study: str
    accession: str


@frozen
class Joined:
    """
    Say what became of the report of one study.

    ``place`` is that of the study among those given, from 1. *joined*: ``report`` is a study dixel with the cleaned
    report, the new StudyInstanceUID and the pseudonym of the images. *no images*, *no report*: one of the two is not
    there. *conflict*: report and images are of different patients. *quarantined*: the cleaned text still holds
    something that is known of the patient. ``reason`` holds no value.
    """

    place: int
    state: str
    reason: str = ""
    report: Dixel | None = field(default=None, repr=False)


def join_reports(
    studies: Iterable[Study],
    reports: Endpoint,
    images: Endpoint,
    key: Key,
    *,
    source: Endpoint | None = None,
    patterns: Iterable[Pattern] | None = None,
) -> Iterator[Joined]:
    """
    Yield for each study its report, cleaned, under the pseudonym that its de-identified images have.

    ``images`` is where they are, de-identified with ``key``; ``source``, where they came from, adds what it knows of
    the patient to what is looked for in the text, and shows whether report and images are of one patient. Raises a
    GatewayError when a party cannot be asked.
    """
    used = None if patterns is None else tuple(patterns)
    for place, study in enumerate(studies, 1):
        try:
            yield Joined(place, JOINED, report=_joined(study, reports, images, key, source, used))
        except _Not as error:
            yield Joined(place, error.state, str(error))


class _Not(Exception):
    """Say why a report is not joined."""

    def __init__(self, state: str, reason: str = "") -> None:
        super().__init__(reason)
        self.state = state


def _joined(
    study: Study,
    reports: Endpoint,
    images: Endpoint,
    key: Key,
    source: Endpoint | None,
    patterns: tuple[Pattern, ...] | None,
) -> Dixel:
    uid = new_uid(key, study.study)
    new = _tags(images, uid, _NEW)
    if not new.get("PatientID"):
        raise _Not(NO_IMAGES, "there are no images with the new study UID and a pseudonym")
    report = _report(reports, study.accession)
    old = {} if source is None else _tags(source, study.study, _OLD)
    if old.get("PatientID") and normal_id(str(old["PatientID"])) != normal_id(str(report.tags["PatientID"])):
        raise _Not(CONFLICT, "report and images have different patient ids")
    known = known_of(report)
    known = evolve(
        known,
        names=(*known.names, str(old.get("PatientName") or "")),
        ids=(*known.ids, study.accession),
        births=(*known.births, str(old.get("PatientBirthDate") or "")),
    )
    subject = Subject(str(new["PatientID"]), str(new.get("PatientName") or new["PatientID"]), 0)
    accession = str(new.get("AccessionNumber") or "")
    try:
        made = clean_study(report, subject, accession=accession, patterns=patterns, known=known)
    except (Quarantined, InvalidItem) as error:
        raise _Not(QUARANTINED, str(error)) from None
    made.tags["StudyInstanceUID"] = uid
    made.meta["ID"] = f"{uid}.txt"
    return made


def _tags(endpoint: Endpoint, uid: str, fields: tuple[str, ...]) -> dict[str, Any]:
    """Return what an endpoint tells of a study, nothing when it has none."""
    asked = Query({"StudyInstanceUID": uid}, DicomLevel.STUDIES, fields=fields, limit=1)
    return next((one.tags for one in endpoint.iter_find(asked)), {})


def _report(reports: Endpoint, accession: str) -> Dixel:
    if not accession:
        raise _Not(NO_REPORT, "the study has no accession number")
    try:
        found = reports.get(accession, view=reports.views)
    except ItemNotFound:
        raise _Not(NO_REPORT) from None
    except Conflict:
        raise _Not(CONFLICT, "several patients have reports of this accession number") from None
    if found.report is None or not found.report.text.strip():
        raise _Not(NO_REPORT, "the report is empty")
    return found
