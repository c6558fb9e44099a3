"""Dixels that know under which identity they will go out, and the replacement maps that make Orthanc do it."""

# ruff: noqa: N802  # methods named after DICOM keywords keep their CamelCase

from __future__ import annotations

import logging
from datetime import date, datetime
from hashlib import md5
from typing import Any, ClassVar  # tag values may be of any type

from attrs import define, field

from diana.dixel.dixel import Dixel
from diana.exceptions import InvalidItem
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import orthanc_id
from diana.utils.dicom.simplify import UNKNOWN
from diana.utils.dicom.strings import dicom_date, dicom_name, dicom_time, parse_dicom_datetime
from diana.utils.dicom.uid_mint import DicomUIDMint, hash_component
from diana.utils.guid.birthdates import parse_date
from diana.utils.guid.mint import GUIDMint, ShamIdentity

log = logging.getLogger(__name__)


@define(eq=False, slots=False, repr=False)
class ShamDixel(Dixel):
    """
    Hold a dixel and its sham identity, under ``Sham...`` keys in meta.

    The identity follows from name, birth date and sex, the UIDs from the identity and the accession number, as in
    diana2, so that the ids of an anonymized study are known beforehand. They have no key and can be guessed; ``salt``,
    when it is kept secret, prevents that. Unlike diana2:

    - a missing or unreadable birth date does not make the identity change with the calendar (see ``GUIDMint``);
    - a name that was filled in as "Unknown" does not make one patient of many;
    - with ``wide`` the series and instance UIDs have 122 bits. Without it they are those of diana2, four digits each,
      and in a series of n instances about n*n/20000 get a UID that another one has. Use ``wide`` to anonymize.

    ``meta["Age"]``, in years at ``REFERENCE_DATE`` or else at the study, serves when there is no birth date.
    ``meta["ShamStudyDescription"]``, ``["ShamSeriesDescription"]`` and ``["ShamSeriesNumber"]`` replace the original's.
    Raises InvalidItem when there is neither name nor id, or neither accession number nor StudyInstanceUID.
    """

    REFERENCE_DATE: ClassVar[date | None] = None
    ShamUID: ClassVar[DicomUIDMint] = DicomUIDMint()

    salt: str | None = field(default=None, repr=False)
    wide: bool = field(default=False, kw_only=True)
    sham_info: ShamIdentity = field(init=False, repr=False)

    @classmethod
    def from_dixel(cls, dixel: Dixel, salt: str | None = None, *, wide: bool = False) -> ShamDixel:
        """Return the sham of a dixel, with its own copy of meta and tags and the same file and pixels."""
        sham = cls(meta=dict(dixel.meta), tags=dict(dixel.tags), level=dixel.level, salt=salt, wide=wide)
        sham.blob = dixel.blob
        sham.pixels = dixel.pixels
        return sham

    def __attrs_post_init__(self) -> None:
        self.sham_info = self.set_sham_info()
        self.simplify_tags()
        self.update_shams()

    def set_sham_info(self) -> ShamIdentity:
        """Return the pseudo-identity that follows from the tags."""
        studied = parse_dicom_datetime(self.tags.get("StudyDate"))
        return GUIDMint.get_sham_id(
            name=self._salted(self._name()),
            dob=self._birth_date(),
            age=self.meta.get("Age"),
            reference_date=self.REFERENCE_DATE or (studied.date() if studied else None),
            gender=self.tags.get("PatientSex"),
        )

    def update_shams(self) -> None:
        """Write the sham identity, accession number and moments to meta."""
        accession = self.tags.get("AccessionNumber")
        if not accession or (accession == UNKNOWN and not self.tags.get("StudyInstanceUID")):
            raise InvalidItem("a sham needs an accession number or a StudyInstanceUID")
        digest = md5(self._salted(accession).encode("utf-8"), usedforsecurity=False).hexdigest()
        self.meta["ShamID"] = self.sham_info["ID"]
        self.meta["ShamName"] = dicom_name(self.sham_info["Name"])
        self.meta["ShamBirthDate"] = dicom_date(self.sham_info["BirthDate"])
        self.meta["ShamAccessionNumber"] = digest
        for level, key in (
            (DicomLevel.STUDIES, "StudyDateTime"),
            (DicomLevel.SERIES, "SeriesDateTime"),
            (DicomLevel.INSTANCES, "InstanceCreationDateTime"),
        ):
            moment = self.meta.get(key)
            if self.level >= level and isinstance(moment, datetime):
                self.meta[f"Sham{key}"] = self._shifted(moment)

    def _name(self) -> str:
        name, patient = self.tags.get("PatientName"), self.tags.get("PatientID")
        if not patient and name == UNKNOWN:
            name = None
        found = str(name or patient or self.tags.get("StudyInstanceUID") or "")
        if not found:
            raise InvalidItem("a sham needs a PatientName, a PatientID or a StudyInstanceUID")
        return found

    def _salted(self, text: object) -> str:
        return f"{text}+{self.salt}" if self.salt else str(text)

    def _birth_date(self) -> date | str | None:
        """Return the birth date when it can be read."""
        born = self.tags.get("PatientBirthDate")
        if not isinstance(born, str):
            return born if isinstance(born, date) else None
        try:
            return parse_date(born)
        except InvalidItem:
            log.debug("a birth date could not be read and counts as unknown")
            return None

    def _shifted(self, moment: datetime) -> datetime:
        try:
            return moment + self.sham_info["TimeOffset"]
        except OverflowError:
            raise InvalidItem("a date is too far out to be shifted") from None

    def ShamStudyDate(self) -> str | None:
        """Return the shifted study date, None when unknown."""
        return self._date("ShamStudyDateTime")

    def ShamStudyTime(self) -> str | None:
        """Return the shifted study time, None when unknown."""
        return self._time("ShamStudyDateTime")

    def ShamSeriesDate(self) -> str | None:
        """Return the shifted series date, else that of the study."""
        return self._date("ShamSeriesDateTime", "ShamStudyDateTime")

    def ShamSeriesTime(self) -> str | None:
        """Return the shifted series time, else that of the study."""
        return self._time("ShamSeriesDateTime", "ShamStudyDateTime")

    def ShamInstanceDate(self) -> str | None:
        """Return the shifted creation date, else that of series or study."""
        return self._date("ShamInstanceCreationDateTime", "ShamSeriesDateTime", "ShamStudyDateTime")

    def ShamInstanceTime(self) -> str | None:
        """Return the shifted creation time, else that of series or study."""
        return self._time("ShamInstanceCreationDateTime", "ShamSeriesDateTime", "ShamStudyDateTime")

    def _moment(self, *keys: str) -> datetime | None:
        return next((self.meta[key] for key in keys if isinstance(self.meta.get(key), datetime)), None)

    def _date(self, *keys: str) -> str | None:
        moment = self._moment(*keys)
        return None if moment is None else dicom_date(moment)

    def _time(self, *keys: str) -> str | None:
        moment = self._moment(*keys)
        return None if moment is None else dicom_time(moment)

    def ShamStudyUID(self) -> str:
        """Return the StudyInstanceUID to go out with."""
        return self.ShamUID.uid(self.meta["ShamID"], self.meta["ShamAccessionNumber"])

    def ShamSeriesUID(self) -> str:
        """Return the SeriesInstanceUID to go out with. Raises InvalidItem when the original's is missing."""
        return self._uid("SeriesInstanceUID")

    def ShamInstanceUID(self) -> str:
        """Return the SOPInstanceUID to go out with. Raises InvalidItem when a UID of the original is missing."""
        return self._uid("SeriesInstanceUID", "SOPInstanceUID")

    def _uid(self, *keywords: str) -> str:
        mint = self.ShamUID.wide_uid if self.wide else self.ShamUID.uid
        try:
            originals = [self.tags[keyword] for keyword in keywords]
        except KeyError as missing:
            raise InvalidItem(f"a sham {self.level.singular.lower()} needs {missing.args[0]}") from None
        return mint(self.meta["ShamID"], self.meta["ShamAccessionNumber"], *originals)

    def _uids(self, level: DicomLevel) -> list[str]:
        makers = (self.ShamStudyUID, self.ShamSeriesUID, self.ShamInstanceUID)
        return [make() for make in makers[: level - 1]]

    def sham_oid(self) -> str:
        """Return the id that Orthanc gives to the sham at the dixel's own level."""
        return orthanc_id(self.meta["ShamID"], *self._uids(self.level))

    def sham_parent_oid(self, level: DicomLevel = DicomLevel.STUDIES) -> str:
        """Return the id that Orthanc gives to the sham's patient, study or series. Raises InvalidItem below it."""
        level = DicomLevel.from_label(level)
        if level > self.level:
            raise InvalidItem(f"a {self.level.singular.lower()} does not say which {level.singular.lower()} is meant")
        return orthanc_id(self.meta["ShamID"], *self._uids(level))

    def orthanc_sham_map(self) -> dict[str, Any]:
        """
        Return the body of Orthanc's ``/anonymize`` for this dixel.

        Dates and times that are unknown are None. At study level the UIDs of series and instances are left to Orthanc,
        which makes random ones; what is neither replaced nor kept is left to its profile.
        """
        replace = {
            "PatientName": self.meta["ShamName"],
            "PatientID": self.meta["ShamID"],
            "PatientBirthDate": self.meta["ShamBirthDate"],
            "AccessionNumber": self.meta["ShamAccessionNumber"],
            "StudyInstanceUID": self.ShamStudyUID(),
            "StudyDate": self.ShamStudyDate(),
            "StudyTime": self.ShamStudyTime(),
        }
        keep = ["PatientSex"]
        self._replace_or_keep("StudyDescription", replace, keep)
        if self.level >= DicomLevel.SERIES:
            replace["SeriesInstanceUID"] = self.ShamSeriesUID()
            replace["SeriesDate"] = self.ShamSeriesDate()
            replace["SeriesTime"] = self.ShamSeriesTime()
            self._replace_or_keep("SeriesDescription", replace, keep)
            self._replace_or_keep("SeriesNumber", replace, keep)
        if self.level >= DicomLevel.INSTANCES:
            replace["SOPInstanceUID"] = self.ShamInstanceUID()
            replace["InstanceCreationDate"] = self.ShamInstanceDate()
            replace["InstanceCreationTime"] = self.ShamInstanceTime()
        return {"Replace": replace, "Keep": keep, "Force": True}

    def _replace_or_keep(self, keyword: str, replace: dict[str, Any], keep: list[str]) -> None:
        chosen = self.meta.get(f"Sham{keyword}")
        if chosen:
            replace[keyword] = chosen
        else:
            keep.append(keyword)

    def sid(self) -> str | None:
        """Return the sham accession number."""
        return self.meta.get("ShamAccessionNumber")

    @property
    def image_base_fn(self) -> str:
        """
        Return ``sham accession-series-instance`` with four-digit numbers.

        A missing number is four digits of its UID. Raises InvalidItem when that is missing too.
        """
        series = self._number("SeriesNumber", "SeriesInstanceUID")
        return f"{self.meta['ShamAccessionNumber']}-{series:04}-{self._number('InstanceNumber', 'SOPInstanceUID'):04}"

    def _number(self, keyword: str, uid_keyword: str) -> int:
        number, uid = self.tags.get(keyword), self.tags.get(uid_keyword)
        if number in (None, "") and uid:
            number = hash_component(uid, 4)
        try:
            return int(str(number))
        except ValueError:
            raise InvalidItem(f"an image name needs {keyword} or {uid_keyword}") from None
