"""The two kinds of QIDO-RS queries (PS3.18 8.3.4, 10.6), by the names of the trolley."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any  # Any: a query of another class is looked at by name

import attrs
from attrs import define, field

from diana.exceptions import InvalidItem, Unsupported
from diana.utils.dicom.dictionary import keywords
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.matching import wire_text
from diana.utils.dicom.query import Query
from diana.utils.dicom.ref import is_uid

__all__ = ["HierarchicalQuery", "QidoRSQueryBase", "RelationalQuery", "UnsupportedParameter", "ensure_query_type"]

PARAMETERS = (
    "StudyInstanceUID",
    "AccessionNumber",
    "PatientName",
    "PatientID",
    "ModalitiesInStudy",
    "SeriesInstanceUID",
)
LEVELS = ("STUDY", "SERIES", "INSTANCE")


class UnsupportedParameter(Unsupported, InvalidItem):
    """Say that a kind of query has no such parameter; nothing is left out silently."""


def _as_level(label: Any) -> str:
    """Return STUDY, SERIES or INSTANCE for a word in any case, a DicomLevel, or a member of another enumeration."""
    if isinstance(label, Enum) and not isinstance(label, int):
        label = label.value
    level = DicomLevel.from_label(label)
    if level == DicomLevel.PATIENTS:
        raise InvalidItem("QIDO-RS has no patient level; use STUDY, SERIES or INSTANCE")
    return LEVELS[level - 2]


def _as_fields(names: Iterable[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


def _as_day(value: dt.date | str | None) -> dt.date | None:
    if value in (None, ""):
        return None
    if isinstance(value, str):
        from diana.utils.dicom.strings import parse_dicom_datetime

        value = parse_dicom_datetime(value)
    if not isinstance(value, dt.date):
        raise InvalidItem("a study date is a date or a datetime")
    return value


@define(init=False)
class QidoRSQueryBase:
    """
    Ask a QIDO-RS server.

    Texts may hold wildcards and pass untouched; empty ones are not sent. Dates come both or not at all. Unknown
    parameters and fields raise InvalidItem, which is a ValueError.
    """

    StudyInstanceUID: str = field(default="", repr=False)
    AccessionNumber: str = field(default="", repr=False)
    PatientName: str = field(default="", repr=False)
    PatientID: str = field(default="", repr=False)
    ModalitiesInStudy: str = ""
    SeriesInstanceUID: str = field(default="", repr=False)
    query_level: str = field(default="STUDY", converter=_as_level)
    min_study_date: dt.date | None = field(default=None, converter=_as_day)
    max_study_date: dt.date | None = field(default=None, converter=_as_day)
    include_fields: list[str] = field(factory=list, converter=_as_fields)
    limit: int = 0
    offset: int = 0

    def __init__(self, **parameters: Any) -> None:
        known = {one.name for one in attrs.fields(type(self))}
        unknown = sorted(set(parameters) - known)
        if unknown:
            raise UnsupportedParameter(f"a {type(self).__name__} has no parameter {', '.join(unknown)}")
        self.__attrs_init__(**parameters)

    def __attrs_post_init__(self) -> None:
        for name in PARAMETERS:
            if not isinstance(getattr(self, name), str):
                raise InvalidItem(f"{name} is a text")
        for name in ("limit", "offset"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise InvalidItem(f"{name} is a whole number from 0")
        self.min_max_study_date_xor()
        self._check_fields()
        self._check()

    def min_max_study_date_xor(self) -> None:
        """Raise InvalidItem when only one of the two dates is given."""
        if (self.min_study_date is None) != (self.max_study_date is None):
            raise InvalidItem("min_study_date and max_study_date must both be given, or neither")

    def _check_fields(self) -> None:
        unknown = [name for name in self.include_fields if not isinstance(name, str) or name not in keywords()]
        if unknown:
            raise InvalidItem(f"include_fields holds what is no DICOM keyword: {', '.join(map(str, unknown))}")

    def _check(self) -> None:
        """Refuse what the kind of query cannot ask."""

    def _uid(self, keyword: str) -> str:
        """Return a UID as a part of a path."""
        value = str(getattr(self, keyword)).strip()
        if not is_uid(value):
            raise InvalidItem(f"{keyword} must be a UID to stand in a path")
        return value

    @property
    def level(self) -> DicomLevel:
        """Return the level as DicomLevel."""
        return DicomLevel(LEVELS.index(self.query_level) + 2)

    @staticmethod
    def date_to_str(date_in: dt.date | None) -> str:
        """Return a date as YYYYMMDD, nothing for None."""
        return "" if date_in is None else date_in.strftime("%Y%m%d")

    @staticmethod
    def date_range_to_str(min_date: dt.date | None, max_date: dt.date | None) -> str:
        """Return a range of dates (PS3.4 C.2.2.2.5); a single day stays a range of one day."""
        first, last = QidoRSQueryBase.date_to_str(min_date), QidoRSQueryBase.date_to_str(max_date)
        return f"{first}-{last}" if first or last else ""

    def uri_base(self) -> str:
        """Return the path, with a slash in front (PS3.18 table 10.6.1-2)."""
        raise NotImplementedError

    def uri_search_params(self) -> dict[str, str | list[str]]:
        """Return the parameters that are not empty; a list means that the parameter is repeated."""
        found: dict[str, str | list[str]] = {
            name: value for name in PARAMETERS if (value := getattr(self, name)) and name not in self._in_path()
        }
        days = self.date_range_to_str(self.min_study_date, self.max_study_date)
        if days:
            found["StudyDate"] = days
        if self.include_fields:
            found["includefield"] = list(self.include_fields)
        for name in ("limit", "offset"):
            if getattr(self, name):
                found[name] = str(getattr(self, name))
        return found

    def _in_path(self) -> tuple[str, ...]:
        return ()


@define(init=False)
class HierarchicalQuery(QidoRSQueryBase):
    """Ask for studies, the series of a study, or the instances of a series."""

    def _check(self) -> None:
        self.uids_should_be_hierarchical()
        self.uids_should_match_query_level()

    def uids_should_be_hierarchical(self) -> None:
        """Raise InvalidItem for a series whose study is not said."""
        if self.SeriesInstanceUID and not self.StudyInstanceUID:
            raise InvalidItem("SeriesInstanceUID needs StudyInstanceUID in a hierarchical query")

    def uids_should_match_query_level(self) -> None:
        """Raise InvalidItem when a UID above the level is not said."""
        wanted = {"STUDY": (), "SERIES": ("StudyInstanceUID",), "INSTANCE": ("StudyInstanceUID", "SeriesInstanceUID")}
        missing = [name for name in wanted[self.query_level] if not getattr(self, name)]
        if missing:
            raise InvalidItem(f"a hierarchical query at {self.query_level} level needs {', '.join(missing)}")

    def uri_base(self) -> str:
        """Return the path, with a slash in front."""
        if self.query_level == "STUDY":
            return "/studies"
        if self.query_level == "SERIES":
            return f"/studies/{self._uid('StudyInstanceUID')}/series"
        return f"/studies/{self._uid('StudyInstanceUID')}/series/{self._uid('SeriesInstanceUID')}/instances"

    def _in_path(self) -> tuple[str, ...]:
        level = self.level
        return tuple(one.uid_keyword for one in (DicomLevel.STUDIES, DicomLevel.SERIES) if one < level)


@define(init=False)
class RelationalQuery(QidoRSQueryBase):
    """Ask for series anywhere, the instances of a study, or instances anywhere; slower on most servers."""

    def _check(self) -> None:
        self.query_level_should_be_series_or_instance()

    def query_level_should_be_series_or_instance(self) -> None:
        """Raise InvalidItem at STUDY level, which is hierarchical."""
        if self.query_level == "STUDY":
            raise InvalidItem("a relational query is for series or instances; ask for studies with HierarchicalQuery")

    def uri_base(self) -> str:
        """Return the path, with a slash in front."""
        if self.query_level == "SERIES":
            return "/series"
        return f"/studies/{self._uid('StudyInstanceUID')}/instances" if self.StudyInstanceUID else "/instances"


def ensure_query_type(query: Any) -> HierarchicalQuery | RelationalQuery:
    """
    Return a query as one of the two kinds, hierarchical when that can be.

    ``query`` is one of them, a ``Query`` of the project, a mapping of keywords, or an object with attributes of the
    same names (a query of the trolley). Raises UnsupportedParameter for a parameter that QIDO-RS queries have not,
    InvalidItem when neither kind can ask it: with the reason of the kind that fits its level.
    """
    if isinstance(query, HierarchicalQuery | RelationalQuery):
        return query
    parameters = _parameters(query)
    try:
        return HierarchicalQuery(**parameters)
    except UnsupportedParameter:
        raise
    except InvalidItem as refusal:
        if _as_level(parameters.get("query_level", "STUDY")) == "STUDY":
            raise
        try:
            return RelationalQuery(**parameters)
        except InvalidItem:
            raise refusal from None


def _parameters(query: Any) -> dict[str, Any]:
    """Return what a query of any class asks for, without what is empty."""
    if isinstance(query, Query):
        return _of_own(query)
    if isinstance(query, Mapping):
        found = dict(query)
    elif attrs.has(type(query)):
        found = {one.name: getattr(query, one.name) for one in attrs.fields(type(query)) if one.init}
    else:
        names = getattr(type(query), "model_fields", None)
        found = {name: getattr(query, name) for name in (vars(query) if names is None else names)}
    return {name: value for name, value in found.items() if value not in (None, "", [], (), 0)}


def _of_own(query: Query) -> dict[str, Any]:
    found: dict[str, Any] = {"query_level": query.level, "limit": query.limit or 0}
    fields = list(query.fields)
    for keyword, wanted in query.match.items():
        text = wire_text(wanted)
        if keyword == "StudyDate" and text:
            first, dash, last = text.partition("-")
            found["min_study_date"], found["max_study_date"] = first, last if dash else first
        elif text:
            found[keyword] = text
        else:
            fields.append(keyword)
    return {**found, "include_fields": fields}
