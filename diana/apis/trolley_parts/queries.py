"""
The trolley's own queries: plain keywords instead of a mapping.

Each says what it can ask for; a searcher that cannot honour one of its fields refuses it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, ClassVar, TypeVar  # Any: values of attributes

import attrs
from attrs import field, frozen

from diana.exceptions import ConfigError, InvalidItem, Unsupported
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.query import Query as Question

Q = TypeVar("Q", bound="Query")


class QueryLevels(str, Enum):
    """How deep a search looks. ``IMAGE`` is what DIMSE calls the instances."""

    STUDY = "STUDY"
    SERIES = "SERIES"
    INSTANCE = "INSTANCE"

    @property
    def level(self) -> DicomLevel:
        """Return the level of the house."""
        return DicomLevel.from_label(self.value)

    @classmethod
    def from_level(cls, level: DicomLevel) -> QueryLevels:
        """Return the name of a level. Raises Unsupported for patients."""
        if level < DicomLevel.STUDIES:
            raise Unsupported("a trolley finds studies, series and instances")
        return cls(level.singular.upper())


def _as_levels(label: QueryLevels | DicomLevel | str) -> QueryLevels:
    return label if isinstance(label, QueryLevels) else QueryLevels.from_level(DicomLevel.from_label(label))


def _as_text(value: str | None) -> str:
    if value is not None and not isinstance(value, str):
        raise InvalidItem("a query's value is a text")
    return value or ""


def _as_fields(names: Iterable[str] | None) -> tuple[str, ...]:
    if isinstance(names, str):
        raise InvalidItem("include_fields is a list of keywords")
    return tuple(names or ())


def _text() -> Any:
    return field(default="", converter=_as_text, metadata={"match": True}, repr=False)


def _day(value: dt.date) -> str:
    return value.strftime("%Y%m%d")


@frozen(kw_only=True)
class Query:
    """
    Ask for studies, with their series and instances when ``query_level`` says so.

    Texts go to the server as they are, ``*`` included. The dates are whole days, both within. ``include_fields`` are
    keywords to return. Raises InvalidItem (a ValueError) for what is no keyword or no date.
    """

    StudyInstanceUID: str = _text()
    AccessionNumber: str = _text()
    PatientName: str = _text()
    PatientID: str = _text()
    ModalitiesInStudy: str = _text()
    SeriesInstanceUID: str = _text()
    query_level: QueryLevels = field(default=QueryLevels.STUDY, converter=_as_levels)
    max_study_date: dt.date | None = field(default=None, repr=False)
    min_study_date: dt.date | None = field(default=None, repr=False)
    include_fields: tuple[str, ...] = field(default=(), converter=_as_fields)

    both_dates: ClassVar[bool] = False

    def __attrs_post_init__(self) -> None:
        first, last = self.min_study_date, self.max_study_date
        if any(day is not None and not isinstance(day, dt.date) for day in (first, last)):
            raise InvalidItem("min_study_date and max_study_date are dates")
        if self.both_dates and (first is None) != (last is None):
            raise InvalidItem("give both min_study_date and max_study_date, or none of them")
        try:
            Question(fields=self.include_fields).check_keywords()
        except ConfigError as error:
            raise InvalidItem(f"include_fields: {error}") from None
        self._check()

    def _check(self) -> None:
        """Check what a subclass adds."""

    @property
    def level(self) -> DicomLevel:
        """Return the level of the house."""
        return self.query_level.level

    def match(self) -> dict[str, Any]:
        """Return the keys that are not empty, dates as a range of ``StudyDate``."""
        found: dict[str, Any] = {}
        for one in attrs.fields(type(self)):
            value = getattr(self, one.name)
            if one.metadata.get("match") and value not in ("", None):
                found[one.name] = _day(value) if isinstance(value, dt.date) else value
        if self.min_study_date or self.max_study_date:
            ends = (self.min_study_date, self.max_study_date)
            found["StudyDate"] = "-".join("" if day is None else _day(day) for day in ends)
        return found

    def query(self) -> dict[str, Any]:
        """Return the keys, so that every endpoint takes this for a query."""
        return {**self.match(), **{name: "" for name in self.include_fields if name not in self.match()}}

    def question(self) -> Question:
        """Return the same as a query of the house."""
        limit = getattr(self, "limit", 0)
        return Question(self.match(), self.level, limit=limit or None, fields=self.include_fields)

    @classmethod
    def init_from_query(cls: type[Q], query: Query) -> Q:
        """Return a query of this class that asks the same. Raises Unsupported for a field that the class lacks."""
        if type(query) is cls:
            return query
        known = {one.name for one in attrs.fields(cls)}
        given = dict(query.given())
        if lacking := sorted(given.keys() - known):
            raise Unsupported(f"{cls.__name__} cannot ask for {', '.join(lacking)}")
        return cls(**given)

    def given(self) -> Iterator[tuple[str, Any]]:
        """Yield the fields that are not empty, with their values."""
        for one in attrs.fields(type(self)):
            value = getattr(self, one.name)
            if value not in ("", None, (), 0):
                yield one.name, value

    def to_short_string(self) -> str:
        """Return which fields are set, without their values, for a log."""
        return f"{type(self).__name__}({', '.join(name for name, _ in self.given())})"


@frozen(kw_only=True)
class ExtendedQuery(Query):
    """Ask by more about patient, study and series."""

    InstitutionName: str = _text()
    PatientSex: str = _text()
    StudyDescription: str = _text()
    SeriesDescription: str = _text()
    InstitutionalDepartmentName: str = _text()
    PatientBirthDate: dt.date | None = field(default=None, metadata={"match": True}, repr=False)


def _whole(instance: object, attribute: attrs.Attribute[int], value: object) -> None:
    if type(value) is not int or value < 0:
        raise InvalidItem(f"{attribute.name} is a whole number from 0")


@frozen(kw_only=True)
class MintQuery(ExtendedQuery):
    """Ask a MINT server; ``limit`` is the largest number of studies, 0 for all. Both dates, or none."""

    both_dates: ClassVar[bool] = True

    limit: int = field(default=0, validator=_whole)

    def _check(self) -> None:
        from diana.utils.gateways.mint import check_fields

        try:
            check_fields(self.include_fields, self.query_level.value)
        except Unsupported as error:
            raise InvalidItem(str(error)) from None


@frozen(kw_only=True)
class DICOMQuery(ExtendedQuery):
    """Ask a DICOM node (C-FIND)."""

    Modality: str = _text()
    ProtocolName: str = _text()
    StudyID: str = _text()
