"""Questions to a DICOM archive through an Orthanc: C-FIND level by level, C-MOVE of exactly one item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final  # Any: JSON of the server

from attrs import define, field

from diana.exceptions import GatewayAnswerError, GatewayRefused, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, matching
from diana.utils.gateways.orthanc import Orthanc as Gateway

# Unique and some useful keys that are asked for at each level (PS3.4 C.6.1 and C.6.2).
ASKED: Final[Mapping[DicomLevel, tuple[str, ...]]] = {
    DicomLevel.PATIENTS: ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    DicomLevel.STUDIES: (
        "StudyInstanceUID",
        "PatientID",
        "PatientName",
        "AccessionNumber",
        "StudyDate",
        "StudyTime",
        "StudyDescription",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedInstances",
    ),
    DicomLevel.SERIES: (
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "Modality",
        "SeriesNumber",
        "SeriesDescription",
        "NumberOfSeriesRelatedInstances",
    ),
    DicomLevel.INSTANCES: (
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
        "SOPClassUID",
        "InstanceNumber",
    ),
}
OF_PATIENTS: Final = ("Patient", "IssuerOfPatientID", "OtherPatient", "EthnicGroup")
OF_STUDIES: Final = (
    "Study", "AccessionNumber", "ReferringPhysician", "ModalitiesInStudy", "SOPClassesInStudy", "NumberOfStudy",
    "NumberOfPatient", "NameOfPhysiciansReadingStudy", "AdmittingDiagnoses",
)  # fmt: skip
OF_INSTANCES: Final = (
    "SOP", "InstanceNumber", "InstanceCreation", "Content", "AcquisitionDate", "AcquisitionTime", "AcquisitionNumber",
    "Rows", "Columns", "BitsAllocated", "NumberOfFrames", "ImageType", "RelatedGeneralSOP",
)  # fmt: skip
# what a server says about its answer, not about the item
NOT_OF_THE_ITEM: Final = ("QueryRetrieveLevel", "SpecificCharacterSet", "MediaStorageSOPInstanceUID", "RetrieveAETitle")
TIMES: Final = ("StudyDate", "StudyTime")
TEXT_BY_CHARSET: Final = ("Name", "Description", "ID", "Number", "Comments")


def level_of(keyword: str) -> DicomLevel:
    """Return the level to which a key belongs in the study root model."""
    if keyword.startswith((*OF_PATIENTS, *OF_STUDIES)):
        return DicomLevel.STUDIES
    return DicomLevel.INSTANCES if keyword.startswith(OF_INSTANCES) else DicomLevel.SERIES


def is_exact(wanted: Any) -> bool:
    """Tell whether a wanted text names one value."""
    return bool(wanted) and not any(sign in str(wanted) for sign in "*?\\")


@define(eq=False)
class ArchiveSearch:
    """
    Ask the modality ``domain`` of an Orthanc.

    Archives need not answer a question for series or instances that does not name the study (PS3.4 C.4.1.2.2.1), so
    the levels above are asked first, where they have keys. Answers that do not match are dropped, because archives
    ignore keys they do not know; when they do not even return such a key, nobody can tell, which raises Unsupported.
    """

    gateway: Gateway = field(repr=False)
    domain: str

    def rows(self, match: Mapping[str, str], level: DicomLevel, *, lenient: bool = False) -> Iterator[dict[str, Any]]:
        """
        Yield the answers at a level by keyword, with what the levels above told.

        ``lenient`` accepts answers without StudyDate or StudyTime.
        """
        above = DicomLevel(level - 1)
        keys_above = {key: value for key, value in match.items() if level_of(key) <= above}
        if level <= DicomLevel.STUDIES or is_exact(match.get(above.uid_keyword)) or not any(keys_above.values()):
            yield from self._ask(match, level, lenient)
            return
        keys_here = {key: value for key, value in match.items() if key not in keys_above}
        for parent in self.rows(keys_above, above, lenient=lenient):
            uids = {key: parent[key] for key in _uid_keys(above) if parent.get(key)}
            for row in self._ask({**keys_here, **uids}, level, lenient):
                yield {**parent, **row}

    def _ask(self, match: Mapping[str, str], level: DicomLevel, lenient: bool) -> Iterator[dict[str, Any]]:
        asked = {**dict.fromkeys(ASKED[level], ""), **match}
        for row in self._told(self.gateway.rfind, {"Level": level.singular, "Query": asked}, self.domain):
            if self._matches(match, row, lenient):
                yield {key: value for key, value in row.items() if key not in NOT_OF_THE_ITEM}

    def _matches(self, match: Mapping[str, str], row: Mapping[str, Any], lenient: bool) -> bool:
        for key, wanted in match.items():
            if matching.is_blank(wanted) or wanted == "*":
                continue
            value = row.get(key)
            if lenient and key in TIMES and matching.is_blank(value):
                continue
            if key not in row and key in _uid_keys(DicomLevel.INSTANCES):
                continue
            if key not in row:
                raise Unsupported(f"{self.domain}: the archive does not match by {key} at this level")
            if key.endswith(TEXT_BY_CHARSET) and not (str(value).isascii() and wanted.isascii()):
                continue
            if not matching.met(key, wanted, value):
                return False
        return True

    def members(self, uids: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Return the UIDs of each instance that the archive has below an item, by SOP Instance UID."""
        found = {}
        for row in self.rows({**uids}, DicomLevel.INSTANCES):
            known = {key: str(row.get(key) or uids.get(key) or "") for key in _uid_keys(DicomLevel.INSTANCES)}
            found[known["SOPInstanceUID"]] = known
        found.pop("", None)
        return found

    def move(self, level: DicomLevel, uids: Mapping[str, str], aet: str, patience: float) -> None:
        """
        Let the archive send one item to ``aet``, and wait until it says that it did; ``patience`` is in seconds.

        Raises ItemNotFound when the archive does not have it, GatewayError. That it ended well proves nothing.
        """
        asked = {"Level": level.singular, "Query": dict(uids)}
        number = self._told(self.gateway.remote_query, asked, self.domain)
        if not self.gateway.answers(number):
            raise ItemNotFound(f"{self.domain}: no such {level.singular.lower()}")
        job = self.gateway.http.json("POST", f"queries/{number}/retrieve", {"TargetAet": aet, "Synchronous": False})
        if not isinstance(job, dict) or not isinstance(job.get("ID"), str):
            raise GatewayAnswerError(f"{self.gateway.name}: the answer names no job")
        self.gateway.wait_job(job["ID"], idle=patience)

    def echo(self) -> None:
        """Let the Orthanc verify the archive. Raises GatewayError."""
        self._told(self.gateway.recho, self.domain)

    def _told(self, ask: Any, *args: Any) -> Any:
        """Return what a question is answered, and say it when the Orthanc does not know the domain at all."""
        try:
            return ask(*args)
        except (ItemNotFound, GatewayAnswerError) as error:
            if getattr(error, "status", 404) == 404 and self.domain not in self.gateway.modalities():
                raise GatewayRefused(f"{self.gateway.name}: knows no modality {self.domain!r}", 404) from None
            raise


def _uid_keys(level: DicomLevel) -> tuple[str, ...]:
    return tuple(one.uid_keyword for one in DicomLevel if DicomLevel.STUDIES <= one <= level)
