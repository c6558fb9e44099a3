"""De-identify the report of a study, and name files by what is no patient's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final  # tag values may be of any type

from diana.deid.pseudonyms import new_uid
from diana.deid.result import Quarantined, Refused
from diana.deid.text import clean_report, known_of
from diana.deid.values import token
from diana.exceptions import InvalidItem

if TYPE_CHECKING:
    from diana.deid.key import Key
    from diana.deid.pseudonyms import Subject
    from diana.deid.setup import LocalDeid
    from diana.dixel import Dixel

ACCESSION: Final = 0x00080050
NAME_LENGTH: Final = 26


def released_text(local: LocalDeid, dixel: Dixel) -> str:
    """
    Return the text of a study's report, cleaned into the pseudonym that the images of its patient have.

    What tags and meta tell of the patient is looked for in it. Raises Quarantined or Refused with the reason code,
    InvalidItem without a report, or with nothing that names patient or study.
    """
    if dixel.report is None:
        raise InvalidItem("the study has no report")
    try:
        text = clean_report(dixel.report, _subject(local, dixel.tags), known_of(dixel), local.patterns)
    except (Quarantined, Refused) as error:
        state = "refused" if isinstance(error, Refused) else "quarantined"
        local.record({"event": "report", "state": state, "reason": error.reason})
        raise
    local.record({"event": "report", "state": "done"})
    return text


def accession_name(key: Key, accession: str) -> str:
    """
    Return 26 letters and digits that stand for an accession number.

    They begin with what a rule with the action ``hash`` makes of it in an object.
    """
    return token(key, ACCESSION, accession.encode("utf-8"), NAME_LENGTH).decode("ascii")


def study_name(key: Key, tags: Mapping[str, Any]) -> str:
    """Return the new StudyInstanceUID of a study, else what stands for its accession number; empty without both."""
    uid, accession = str(tags.get("StudyInstanceUID") or ""), str(tags.get("AccessionNumber") or "")
    if uid:
        return new_uid(key, uid)
    return accession_name(key, accession) if accession else ""


def short_number(key: Key, uid: str) -> int:
    """Return up to nine digits that stand for a UID."""
    return int.from_bytes(key.mac("number", uid)[:8], "big") % 10**9


def _subject(local: LocalDeid, tags: Mapping[str, Any]) -> Subject:
    """Return who stands for the patient; a study without Patient ID is a patient of its own, as an object is."""
    issuer, patient = str(tags.get("IssuerOfPatientID") or ""), str(tags.get("PatientID") or "").strip()
    if not patient:
        issuer, patient = "^study", str(tags.get("StudyInstanceUID") or tags.get("AccessionNumber") or "")
    if not patient:
        raise InvalidItem("the report names neither patient nor study")
    others = tags.get("OtherPatientIDs") or ()
    pairs = [(issuer, str(one)) for one in ([others] if isinstance(others, str) else others)]
    return local.subject(issuer, patient, pairs if issuer != "^study" else ())
