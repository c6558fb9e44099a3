"""At which level of the hierarchy an attribute is kept, as far as searches are concerned (PS3.4 C.6.2)."""

from __future__ import annotations

from typing import Final

from diana.utils.dicom.levels import DicomLevel


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PATIENT: Final = _words(
    "PatientID PatientName PatientBirthDate PatientBirthTime PatientSex IssuerOfPatientID OtherPatientIDs "
    "OtherPatientIDsSequence OtherPatientNames IssuerOfPatientIDQualifiersSequence EthnicGroup PatientComments"
)
STUDY: Final = _words(
    "AccessionNumber ConfidentialityCode CurrentPatientLocation InstitutionName InstitutionalDepartmentName "
    "IssuerOfAccessionNumberSequence ModalitiesInStudy NumberOfStudyRelatedInstances NumberOfStudyRelatedSeries "
    "NumberOfPatientRelatedStudies NumberOfPatientRelatedSeries NumberOfPatientRelatedInstances "
    "ProcedureCodeSequence ReasonForPerformedProcedureCodeSequence ReferringPhysicianName RequestedProcedureID "
    "RequestedProcedureDescription RequestingPhysician SOPClassesInStudy StudyDate StudyDescription StudyID "
    "StudyInstanceUID StudyStatusID StudyTime PatientAge PatientSize PatientWeight AdmittingDiagnosesDescription "
    "NameOfPhysiciansReadingStudy AdditionalPatientHistory Occupation"
)
SERIES: Final = _words(
    "AnatomicRegionSequence BodyPartExamined FrameOfReferenceUID Laterality Modality NumberOfSeriesRelatedInstances "
    "OperatorsName PerformedProcedureStepDescription PerformedProcedureStepID PerformedProcedureStepStartDate "
    "PerformedProcedureStepStartTime PerformedProcedureStepStatus PerformingPhysicianName PresentationIntentType "
    "ProtocolName RequestAttributesSequence SeriesDate SeriesDescription SeriesInstanceUID SeriesNumber SeriesTime "
    "SeriesType SmallestPixelValueInSeries LargestPixelValueInSeries SpatialResolution CorrectedImage "
    "DateOfLastCalibration DeviceSerialNumber InstitutionAddress Manufacturer ManufacturerModelName "
    "SoftwareVersions StationName TimeOfLastCalibration"
)
EVERYWHERE: Final = _words(
    "SpecificCharacterSet QueryRetrieveLevel RetrieveAETitle RetrieveURL InstanceAvailability TimezoneOffsetFromUTC "
    "StorageMediaFileSetID StorageMediaFileSetUID SourceApplicationEntityTitle"
)


def level_of(keyword: str) -> DicomLevel:
    """Return the level at which an attribute is kept; what is not known belongs to the instances."""
    if keyword in PATIENT:
        return DicomLevel.PATIENTS
    if keyword in STUDY:
        return DicomLevel.STUDIES
    return DicomLevel.SERIES if keyword in SERIES else DicomLevel.INSTANCES
