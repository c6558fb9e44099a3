"""Addresses of things: DICOM UIDs and the ids that Orthanc derives from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha1
from typing import Any  # tag values may be of any type

from attrs import evolve, field, frozen

from diana.exceptions import InvalidItem
from diana.utils.dicom.levels import DicomLevel, as_level

UID_PATTERN = re.compile(r"[0-9]+(\.[0-9]+)*\Z")
OID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}\Z")


def orthanc_id(
    PatientID: str | None,
    StudyInstanceUID: str | None = None,
    SeriesInstanceUID: str | None = None,
    SOPInstanceUID: str | None = None,
) -> str:
    """
    Return the id that Orthanc gives to a patient, study, series or instance.

    SHA-1 over ``PatientID|Study|Series|Instance`` in UTF-8, as five groups of eight hex digits. As the server does:
    an absent PatientID counts as empty, trailing padding is removed, leading spaces stay. The first empty UID ends
    the address; with a PatientID alone the result is the patient's id.
    """
    parts = [(PatientID or "").rstrip(" \0")]
    for uid in (StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID):
        if not uid:
            break
        parts.append(uid.rstrip(" \0"))
    digest = sha1("|".join(parts).encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
    return "-".join(digest[at : at + 8] for at in range(0, 40, 8))


def is_uid(text: str) -> bool:
    """Tell whether a text is a DICOM UID that is safe in paths and URLs (digits and dots, at most 64; PS3.5 9.1)."""
    return len(text) <= 64 and UID_PATTERN.match(text) is not None


@frozen
class Ref:
    """
    Address one patient, study, series or instance.

    ``patient`` is the PatientID (None: unknown); ``id`` is the name by which one endpoint knows the item (an Orthanc
    id, a file name). Neither shows in the ``repr``, because they may come from patient data.
    """

    level: DicomLevel = field(converter=as_level)
    study: str = field(default="", kw_only=True)
    series: str = field(default="", kw_only=True)
    instance: str = field(default="", kw_only=True)
    patient: str | None = field(default=None, kw_only=True, repr=False)
    id: str = field(default="", kw_only=True, repr=False)

    @classmethod
    def from_tags(cls, tags: Mapping[str, Any], level: DicomLevel, id: str = "") -> Ref:
        """Return the address that a set of tags spells, down to ``level``; absent keys stay empty."""

        def text(keyword: str, deepest: DicomLevel) -> str:
            return str(tags.get(keyword) or "") if level >= deepest else ""

        patient = tags.get("PatientID")
        return cls(
            level,
            study=text("StudyInstanceUID", DicomLevel.STUDIES),
            series=text("SeriesInstanceUID", DicomLevel.SERIES),
            instance=text("SOPInstanceUID", DicomLevel.INSTANCES),
            patient=None if patient is None else str(patient),
            id=id,
        )

    @property
    def uid(self) -> str:
        """Return the unique key at the ref's own level; empty when unknown."""
        return (self.patient or "", self.study, self.series, self.instance)[self.level - 1]

    @property
    def oid(self) -> str:
        """Return the Orthanc id of the ref's level. Raises InvalidItem when a UID on the way is unknown."""
        uids = (self.study, self.series, self.instance)[: self.level - 1]
        if not all(uids) or self.patient is None:
            raise InvalidItem(
                f"the address of a {self.level.singular.lower()} is not complete enough for its Orthanc id"
            )
        return orthanc_id(self.patient, *uids)

    def at(self, level: DicomLevel) -> Ref:
        """Return the address of the ancestor at a more general level. Raises InvalidItem for a deeper one."""
        if level > self.level:
            raise InvalidItem(f"a {self.level.singular.lower()} does not say which {level.singular.lower()} is meant")
        if level == self.level:
            return self
        return evolve(
            self,
            level=level,
            study=self.study if level >= DicomLevel.STUDIES else "",
            series=self.series if level >= DicomLevel.SERIES else "",
            instance="",
            id="",
        )

    def tags(self) -> dict[str, str]:
        """Return the known keys by keyword, as a query would want them."""
        known = {"StudyInstanceUID": self.study, "SeriesInstanceUID": self.series, "SOPInstanceUID": self.instance}
        found = {keyword: uid for keyword, uid in known.items() if uid}
        if self.patient:
            found["PatientID"] = self.patient
        return found
