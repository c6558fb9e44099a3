"""Write an instance's file anew under its sham identity."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final  # element values may be of any type

from diana.dixel import convert
from diana.dixel.dixel import Dixel
from diana.dixel.sham_dixel import ShamDixel
from diana.exceptions import InvalidItem
from diana.utils.blob import Blob
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.strings import dicom_date, dicom_time, parse_dicom_datetime
from diana.utils.dicom.structure import check_whole
from diana.utils.lazy import parent_first

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement

SHORT_STRING: Final = 16
WELL_KNOWN: Final = "1.2.840.10008."
EMPTIED: Final = ("ReferringPhysicianName", "StudyID")
REMOVED: Final = frozenset(
    [
        "AdditionalPatientHistory",
        "AdmissionID",
        "AdmittingDiagnosesDescription",
        "BranchOfService",
        "CountryOfResidence",
        "CurrentPatientLocation",
        "DeviceSerialNumber",
        "DigitalSignaturesSequence",
        "EncryptedAttributesSequence",
        "EthnicGroup",
        "FillerOrderNumberImagingServiceRequest",
        "IconImageSequence",
        "ImageComments",
        "InstitutionAddress",
        "InstitutionCodeSequence",
        "InstitutionName",
        "InstitutionalDepartmentName",
        "IssuerOfAccessionNumberSequence",
        "IssuerOfAdmissionID",
        "IssuerOfPatientID",
        "IssuerOfPatientIDQualifiersSequence",
        "MACParametersSequence",
        "MedicalAlerts",
        "MedicalRecordLocator",
        "MilitaryRank",
        "Occupation",
        "OperatorIdentificationSequence",
        "OriginalAttributesSequence",
        "OtherPatientIDs",
        "OtherPatientIDsSequence",
        "PatientAddress",
        "PatientComments",
        "PatientInstitutionResidence",
        "PatientInsurancePlanCodeSequence",
        "PatientReligiousPreference",
        "PatientTelecomInformation",
        "PatientTelephoneNumbers",
        "PerformedProcedureStepID",
        "PersonAddress",
        "PersonTelephoneNumbers",
        "PersonIdentificationCodeSequence",
        "PhysiciansOfRecordIdentificationSequence",
        "PlacerOrderNumberImagingServiceRequest",
        "ReferencedPatientSequence",
        "ReferringPhysicianAddress",
        "ReferringPhysicianIdentificationSequence",
        "ReferringPhysicianTelephoneNumbers",
        "RegionOfResidence",
        "RequestAttributesSequence",
        "RequestedProcedureComments",
        "RequestedProcedureID",
        "ResponsibleOrganization",
        "ScheduledProcedureStepID",
        "ServiceEpisodeDescription",
        "ServiceEpisodeID",
        "StationName",
        "StudyComments",
        "VisitComments",
    ]
)
META_REMOVED: Final = (
    "PrivateInformation",
    "PrivateInformationCreatorUID",
    "ReceivingApplicationEntityTitle",
    "SendingApplicationEntityTitle",
    "SourceApplicationEntityTitle",
)


def sham_file(dixel: Dixel, salt: str | None = None) -> Dixel:
    """
    Return an instance with a new file and new tags under the sham identity (see ``ShamDixel``); the given one stays.

    This is a pseudonymization for routing and demonstrations, not a full de-identification profile (PS3.15 E): pixels,
    overlays, descriptions and free text are not looked at, and without a secret ``salt`` the identity can be guessed.
    Replaced are name, id, birth date, accession number (its first 16 digits, as a Short String allows), every UID
    that is not of the standard, and every date, moved by one offset. Removed are private elements, all other names of
    persons at any depth, and the usual identifying elements. A reference to an instance of another series fits only
    where the series stands beside it. The same instance gives the same bytes. Raises InvalidItem for what is no whole
    instance with a file.
    """
    if dixel.level != DicomLevel.INSTANCES or dixel.blob is None:
        raise InvalidItem("a sham file is made of an instance with its file")
    ds = _read(dixel.blob)
    try:
        sham = ShamDixel.from_dixel(
            Dixel(dixel.meta, convert.element_values(ds), DicomLevel.INSTANCES), salt, wide=True
        )
        replaced = sham.orthanc_sham_map()["Replace"]
        series = str(ds.SeriesInstanceUID)
        ds.remove_private_tags()
        _clean(ds, sham, series, tuple(replaced))
        for keyword, value in replaced.items():
            _replace(ds, keyword, value)
        for keyword in EMPTIED:
            setattr(ds, keyword, "")
        ds.DeidentificationMethod = "DIANA sham identity"
        out = io.BytesIO()
        _write(ds, out)
    except InvalidItem:
        raise
    except Exception as error:  # noqa: BLE001  # pydicom raises any type for values that it cannot read or encode
        raise InvalidItem(f"the instance cannot be rewritten ({type(error).__name__})") from None
    return convert.from_pydicom(ds, file=Blob(out.getvalue()))


def _read(blob: Blob) -> Dataset:
    from pydicom import dcmread

    with blob.open() as stream:
        whole = check_whole(stream)
        if not whole.ok:
            raise InvalidItem(f"the file is not whole: {whole.reason}")
        stream.seek(0)
        try:
            return dcmread(stream, force=True)
        except Exception as error:  # noqa: BLE001  # pydicom raises any type for damaged files
            raise InvalidItem(f"the file cannot be read ({type(error).__name__})") from None


def _write(ds: Dataset, out: io.BytesIO) -> None:
    parent_first("pydicom")
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    meta = getattr(ds, "file_meta", None)
    if meta is None:
        ds.file_meta = meta = FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        implicit, little = ds.original_encoding
        plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
    for keyword in META_REMOVED:
        if keyword in meta:
            delattr(meta, keyword)
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.preamble = bytes(128)
    ds.save_as(out, enforce_file_format=True)


def _replace(ds: Dataset, keyword: str, value: Any) -> None:
    if value is None:
        if keyword in ds:
            setattr(ds, keyword, "")
        return
    setattr(ds, keyword, str(value)[:SHORT_STRING] if keyword == "AccessionNumber" else value)


def _clean(ds: Dataset, sham: ShamDixel, series: str, kept: tuple[str, ...] = ()) -> None:
    """Clean a data set and its sequences, but for the top-level elements that are replaced by name."""
    series = str(ds.get("SeriesInstanceUID") or series)
    for element in list(_elements(ds, "DA")):
        if element.keyword not in kept:
            _move_date(ds, element, sham.sham_info["TimeOffset"])
    for element in list(_elements(ds)):
        keyword = element.keyword
        if keyword in kept:
            continue
        if keyword in REMOVED or element.VR == "PN" or _identifies_patient(keyword):
            del ds[element.tag]
        elif element.VR == "SQ":
            for item in element.value or ():
                _clean(item, sham, series)
        elif element.VR == "UI":
            _replace_uids(element, sham, series)
        elif element.VR == "DT":
            _move_moment(ds, element, sham.sham_info["TimeOffset"])
        elif element.VR == "TM" and keyword.replace("Time", "Date") not in ds:
            element.value = None


def _elements(ds: Dataset, vr: str = "") -> Iterator[DataElement]:
    for tag in list(ds.keys()):
        element = ds[tag]
        if not vr or vr == element.VR:
            yield element


def _identifies_patient(keyword: str) -> bool:
    return keyword in ("PatientID", "PatientBirthDate", "PatientBirthTime", "AccessionNumber")


def _replace_uids(element: DataElement, sham: ShamDixel, series: str) -> None:
    parent_first("pydicom")
    from pydicom.multival import MultiValue

    def other(uid: str) -> str:
        if not uid or uid.startswith(WELL_KNOWN):
            return uid
        identity = (sham.meta["ShamID"], sham.meta["ShamAccessionNumber"])
        if element.keyword == "StudyInstanceUID" and uid == sham.tags.get("StudyInstanceUID"):
            return sham.ShamStudyUID()
        if element.keyword == "ReferencedSOPInstanceUID":
            return sham.ShamUID.wide_uid(*identity, series, uid)
        return sham.ShamUID.wide_uid(*identity, uid)

    value = element.value
    if isinstance(value, MultiValue | list | tuple):
        element.value = [other(str(one)) for one in value]
    elif value:
        element.value = other(str(value))


def _move_date(ds: Dataset, element: DataElement, offset: timedelta) -> None:
    """Move a date, with the time of the same name when there is one; empty both when they cannot be read."""
    partner = element.keyword.replace("Date", "Time")
    time = ds.get(partner) if partner != element.keyword and partner in ds else None
    try:
        found = parse_dicom_datetime(str(element.value or ""), str(time or "") or None)
        moved = None if found is None else found + offset
    except (ValueError, OverflowError):
        moved = None
    element.value = None if moved is None else dicom_date(moved)
    if time:
        ds[partner].value = None if moved is None else dicom_time(moved)


def _move_moment(ds: Dataset, element: DataElement, offset: timedelta) -> None:
    try:
        found = parse_dicom_datetime(str(element.value or ""))
        moved: datetime | None = None if found is None else found + offset
    except (ValueError, OverflowError):
        moved = None
    element.value = None if moved is None else moved.strftime("%Y%m%d%H%M%S")
