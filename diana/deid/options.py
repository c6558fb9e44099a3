"""The options of PS3.15 E.1 that can be asked for, with their columns in Table E.1-1 and codes in CID 7050."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from diana.exceptions import ConfigError


class Option(str, Enum):
    """
    Name an option of the Application Level Confidentiality Profiles (PS3.15 E.3).

    ``CLEAN_PIXEL_DATA`` masks by rule; all others act through the table or the content tree.
    """

    MODIFIED_DATES = "modified-dates"
    FULL_DATES = "full-dates"
    PATIENT_CHARACTERISTICS = "patient-characteristics"
    DEVICE = "device"
    INSTITUTION = "institution"
    UIDS = "uids"
    SAFE_PRIVATE = "safe-private"
    CLEAN_DESCRIPTORS = "clean-descriptors"
    CLEAN_GRAPHICS = "clean-graphics"
    CLEAN_STRUCTURED_CONTENT = "clean-structured-content"
    CLEAN_PIXEL_DATA = "clean-pixel-data"

    @property
    def column(self) -> str:
        """Return the column of Table E.1-1, empty for the option without one."""
        return _COLUMNS.get(self, "")

    @property
    def code(self) -> str:
        """Return the code of CID 7050 that claims the option."""
        return _CODES[self]


BASIC_CODE = "113100"
_COLUMNS = {
    Option.MODIFIED_DATES: "retain_longitudinal_modified_dates",
    Option.FULL_DATES: "retain_longitudinal_full_dates",
    Option.PATIENT_CHARACTERISTICS: "retain_patient_characteristics",
    Option.DEVICE: "retain_device_identity",
    Option.INSTITUTION: "retain_institution_identity",
    Option.UIDS: "retain_uids",
    Option.SAFE_PRIVATE: "retain_safe_private",
    Option.CLEAN_DESCRIPTORS: "clean_descriptors",
    Option.CLEAN_GRAPHICS: "clean_graphics",
    Option.CLEAN_STRUCTURED_CONTENT: "clean_structured_content",
}
_CODES = {
    Option.CLEAN_PIXEL_DATA: "113101",
    Option.CLEAN_GRAPHICS: "113103",
    Option.CLEAN_STRUCTURED_CONTENT: "113104",
    Option.CLEAN_DESCRIPTORS: "113105",
    Option.FULL_DATES: "113106",
    Option.MODIFIED_DATES: "113107",
    Option.PATIENT_CHARACTERISTICS: "113108",
    Option.DEVICE: "113109",
    Option.UIDS: "113110",
    Option.SAFE_PRIVATE: "113111",
    Option.INSTITUTION: "113112",
}


def as_options(names: Iterable[Option | str]) -> frozenset[Option]:
    """
    Return options from their names, whatever the case, with spaces or underscores for hyphens.

    Raises ConfigError that lists every unknown name, and when both date options are asked for (PS3.15 E.3.6).
    """
    found: set[Option] = set()
    problems: list[str] = []
    for name in names:
        try:
            found.add(name if isinstance(name, Option) else Option(_plain(name)))
        except ValueError:
            known = ", ".join(option.value for option in Option)
            problems.append(f"unknown option {str(name)[:40]!r}; known are {known}")
    if {Option.FULL_DATES, Option.MODIFIED_DATES} <= found:
        problems.append("the options full-dates and modified-dates exclude each other")
    if problems:
        raise ConfigError(problems)
    return frozenset(found)


def _plain(name: object) -> str:
    return "-".join(str(name).lower().replace("_", " ").replace("-", " ").split())
