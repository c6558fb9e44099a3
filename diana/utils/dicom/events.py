"""What can happen at a source."""

from __future__ import annotations

from enum import IntEnum

from diana.utils.dicom.levels import DicomLevel


class DicomEventType(IntEnum):
    """Name what appeared."""

    INSTANCE_ADDED = 1
    SERIES_ADDED = 2
    STUDY_ADDED = 3
    PATIENT_ADDED = 4
    FILE_ADDED = 5

    @property
    def level(self) -> DicomLevel:
        """Return the level of what appeared; a file counts as an instance."""
        return {1: DicomLevel.INSTANCES, 2: DicomLevel.SERIES, 3: DicomLevel.STUDIES, 4: DicomLevel.PATIENTS}.get(
            self.value, DicomLevel.INSTANCES
        )
