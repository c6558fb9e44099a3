"""A folder of report texts."""

from __future__ import annotations

from hashlib import md5
from typing import ClassVar

from attrs import define, field

from diana.apis._deid_folder import DeidFolder
from diana.dixel import Dixel, DixelView, RadiologyReport
from diana.exceptions import InvalidItem, ItemNotFound
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.gateways.file_handlers import paths
from diana.utils.gateways.file_handlers.text_file import TextFileHandler

SUFFIX = ".txt"


@define(eq=False, slots=False)
class ReportDir(DeidFolder):
    """
    Hold the report of each study as ``<accession number>.txt``; that name is the id.

    An accession number that is no plain name is replaced by its hash. With ``anonymizing`` the text is cleaned into the
    pseudonym of its patient, by ``deid`` (see ``diana.deid.setup.Setup``; a key is needed), and the name is a keyed
    hash of the accession number. With its preset *sham* the name is the MD5 of the accession number, and the text what
    ``RadiologyReport.anonymized`` leaves of it. A newer report replaces the old.
    """

    views: ClassVar[DixelView] = DixelView.META

    name: str = field(default="ReportDir", kw_only=True)
    gateway: TextFileHandler = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.gateway = TextFileHandler(self.path, self.subpath_width, self.subpath_depth, self.name)

    def _put(self, dixel: Dixel) -> str:
        if not isinstance(dixel, Dixel):
            raise InvalidItem(f"{self.name}: takes dixels")
        if dixel.report is None:
            raise InvalidItem(f"{self.name}: the study has no report")
        fn, text = self._address(dixel).id, self._text(dixel, dixel.report)
        self._is_there()
        self.gateway.put(fn, text)
        return fn

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        fn = self._fn(ref)
        if not self._is_there():
            raise ItemNotFound(f"{self.name}: no such report")
        found = Dixel(meta={"ID": fn, "FileName": fn}, level=ref.level)
        found.report = RadiologyReport(self.gateway.get(fn))
        return found

    def _exists(self, ref: Ref) -> bool:
        return self._is_there() and self.gateway.exists(self._fn(ref))

    def _delete(self, ref: Ref) -> bool:
        return self._is_there() and self.gateway.delete(self._fn(ref))

    def _address(self, dixel: Dixel) -> Ref:
        accession = dixel.tags.get("AccessionNumber")
        if accession:
            return Ref(DicomLevel.STUDIES, id=self._named(str(accession)))
        known = str(dixel.meta.get("ID") or "")
        if not known.endswith(SUFFIX):
            raise InvalidItem(f"{self.name}: a report is named by its accession number")
        if self.anonymizing and not self._holds(known):
            known = self._named(known.removesuffix(SUFFIX))  # a name that another folder gave
        return Ref(DicomLevel.STUDIES, id=known)

    def _holds(self, fn: str) -> bool:
        return self._is_there() and self.gateway.exists(paths.checked(fn))

    def _named(self, accession: str) -> str:
        if not self.anonymizing:
            return paths.safe_part(accession) + SUFFIX
        if self._key is None:
            return md5(accession.encode("utf-8", "replace"), usedforsecurity=False).hexdigest() + SUFFIX
        from diana.deid.reports import accession_name

        return accession_name(self._key, accession) + SUFFIX

    def _fn(self, ref: Ref) -> str:
        """Return the file name that a ref means: its id, or that of the accession number it is."""
        if not ref.id:
            raise InvalidItem(f"{self.name}: a report is named by its accession number")
        return paths.checked(ref.id if ref.id.endswith(SUFFIX) else self._named(ref.id))

    def _text(self, dixel: Dixel, report: RadiologyReport) -> str:
        if not self.anonymizing:
            return str(report)
        if self._key is not None:
            from diana.deid.reports import released_text

            return released_text(self._deid, dixel)
        keys = ("PatientName", "PatientID", "AccessionNumber", "ReferringPhysicianName", "ReadingPhysiciansName")
        known = (value.get(key) for value in (dixel.tags, dixel.meta) for key in keys)
        return report.anonymized(names=[str(one) for one in known if one])
