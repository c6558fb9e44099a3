"""How deep in the DICOM hierarchy a thing is."""

from __future__ import annotations

from enum import IntEnum

from diana.exceptions import InvalidItem


class DicomLevel(IntEnum):
    """
    Order the levels from general to specific (PS3.4 C.6).

    ``str()`` is the lower-case plural name, which is also Orthanc's path for the level.
    """

    PATIENTS = 1
    STUDIES = 2
    SERIES = 3
    INSTANCES = 4

    def __str__(self) -> str:
        return self.name.lower()

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @property
    def singular(self) -> str:
        """Return the DICOM word for a Query/Retrieve Level in title case: Patient, Study, Series, Instance."""
        return ("Patient", "Study", "Series", "Instance")[self.value - 1]

    @property
    def uid_keyword(self) -> str:
        """Return the unique key of the level: PatientID, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID."""
        return ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")[self.value - 1]

    @classmethod
    def from_label(cls, label: DicomLevel | int | str) -> DicomLevel:
        """
        Return the level of a member, a number, or a word in any case, singular or plural ("study", "STUDIES", "image").

        Raises InvalidItem for anything else.
        """
        if isinstance(label, str):
            word = label.strip().lower()
            for level in cls:
                if word in (str(level), level.singular.lower()):
                    return level
            if word in ("image", "images"):
                return cls.INSTANCES
        elif isinstance(label, int) and not isinstance(label, bool) and label in cls._value2member_map_:
            return cls(label)
        raise InvalidItem("no DICOM level of that name; use patients, studies, series or instances")


def as_level(label: DicomLevel | int | str) -> DicomLevel:
    """Return the level of a member, a number or a word; the converter of attrs fields."""
    return DicomLevel.from_label(label)
