"""Studies, series and instances as a search finds them, and references to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar  # Any: tag values may be of any type

from attrs import define, evolve, field, frozen

from diana.exceptions import InvalidItem, ItemNotFound
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import Ref

if TYPE_CHECKING:
    from pydicom import Dataset

Node = TypeVar("Node", "Series", "Instance")


@frozen
class StudyReference:
    """Say which study."""

    study_uid: str

    @property
    def ref(self) -> Ref:
        """Return the address."""
        return Ref(DicomLevel.STUDIES, study=self.study_uid)


@frozen
class SeriesReference:
    """Say which series."""

    study_uid: str
    series_uid: str

    @property
    def ref(self) -> Ref:
        """Return the address."""
        return Ref(DicomLevel.SERIES, study=self.study_uid, series=self.series_uid)


@frozen
class InstanceReference:
    """Say which instance."""

    study_uid: str
    series_uid: str
    instance_uid: str

    @property
    def ref(self) -> Ref:
        """Return the address."""
        return Ref(DicomLevel.INSTANCES, study=self.study_uid, series=self.series_uid, instance=self.instance_uid)


DICOMObjectReference = StudyReference | SeriesReference | InstanceReference


def reference_of(ref: Ref) -> DICOMObjectReference:
    """Return the reference of an address. Raises InvalidItem for a patient's."""
    if ref.level == DicomLevel.STUDIES:
        return StudyReference(ref.study)
    if ref.level == DicomLevel.SERIES:
        return SeriesReference(ref.study, ref.series)
    if ref.level == DicomLevel.INSTANCES:
        return InstanceReference(ref.study, ref.series, ref.instance)
    raise InvalidItem("there are references to studies, series and instances only")


def _as_dict(tags: Mapping[str, Any]) -> dict[str, Any]:
    return dict(tags)


def _as_series(series: Iterable[Series]) -> tuple[Series, ...]:
    return tuple(series)


def _as_instances(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    return tuple(instances)


@define(eq=False)
class DICOMObject:
    """
    Hold what a search returned about one object: ``tags`` by keyword, ``data`` as a pydicom data set.

    Two objects are equal when class, UIDs, tags and children are; the hash is that of the UIDs. No object knows its
    parent, but every one its UIDs.
    """

    uid: str
    tags: dict[str, Any] = field(factory=dict, converter=_as_dict, kw_only=True, repr=False)
    _data: Any = field(init=False, default=None, repr=False)

    @property
    def ref(self) -> Ref:
        """Return the address."""
        raise NotImplementedError

    @property
    def data(self) -> Dataset:
        """Return the tags as a pydicom data set, made when it is first asked for."""
        if self._data is None:
            from diana.apis.trolley_parts.datasets import dataset_of

            self._data = dataset_of(self.tags)
        return self._data  # type: ignore[no-any-return]

    @property
    def children(self) -> tuple[DICOMObject, ...]:
        """Return what is known below."""
        return ()

    def reference(self) -> DICOMObjectReference:
        """Return the reference to this object."""
        return reference_of(self.ref)

    def max_object_depth(self) -> DicomLevel:
        """Return the deepest level at which all of the object is known."""
        return min((child.max_object_depth() for child in self.children), default=self.ref.level)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DICOMObject):
            return NotImplemented
        mine, theirs = (type(self), self.ref, self.tags), (type(other), other.ref, other.tags)
        return mine == theirs and self.children == other.children

    def __hash__(self) -> int:
        return hash((type(self), self.ref))


@define(eq=False)
class Instance(DICOMObject):
    """An image, or another single object."""

    study_uid: str = field(kw_only=True)
    series_uid: str = field(kw_only=True)

    @property
    def ref(self) -> Ref:
        """Return the address."""
        return Ref(DicomLevel.INSTANCES, study=self.study_uid, series=self.series_uid, instance=self.uid)


@define(eq=False)
class Series(DICOMObject):
    """A series; ``instances`` is empty when the search did not go so deep."""

    study_uid: str = field(kw_only=True)
    instances: tuple[Instance, ...] = field(default=(), converter=_as_instances, kw_only=True)

    @property
    def ref(self) -> Ref:
        """Return the address."""
        return Ref(DicomLevel.SERIES, study=self.study_uid, series=self.uid)

    @property
    def children(self) -> tuple[DICOMObject, ...]:
        """Return the instances."""
        return self.instances

    def all_instances(self) -> tuple[Instance, ...]:
        """Return the instances."""
        return self.instances

    def __getitem__(self, uid: str) -> Instance:
        return _child(self.instances, uid)

    def get(self, uid: str) -> Instance:
        """Return the instance of a UID. Raises ItemNotFound (a LookupError)."""
        return _child(self.instances, uid)


@define(eq=False)
class Study(DICOMObject):
    """A study; ``series`` is empty when the search did not go so deep."""

    series: tuple[Series, ...] = field(default=(), converter=_as_series, kw_only=True)

    @property
    def ref(self) -> Ref:
        """Return the address."""
        return Ref(DicomLevel.STUDIES, study=self.uid)

    @property
    def children(self) -> tuple[DICOMObject, ...]:
        """Return the series."""
        return self.series

    def all_series(self) -> tuple[Series, ...]:
        """Return the series."""
        return self.series

    def all_instances(self) -> tuple[Instance, ...]:
        """Return the instances of all series."""
        return tuple(instance for series in self.series for instance in series.instances)

    def __getitem__(self, uid: str) -> Series:
        return _child(self.series, uid)

    def get(self, uid: str) -> Series:
        """Return the series of a UID. Raises ItemNotFound (a LookupError)."""
        return _child(self.series, uid)


DICOMDownloadable = DICOMObject | DICOMObjectReference


def _child(children: Iterable[Node], uid: str) -> Node:
    for child in children:
        if child.uid == uid:
            return child
    raise ItemNotFound("no child of that UID was found")


def studies_of(rows: Iterable[tuple[Mapping[str, Any], DicomLevel]]) -> Iterator[Study]:
    """
    Yield the studies that found tags make, in the order in which they came, each once.

    A row is the tags of an object with the UIDs above it, and its level; the same object twice is one, the later
    values win. What belongs to a level is kept at that level, the rest at the row's. Raises InvalidItem for a row
    that lacks a UID.
    """
    studies: dict[str, dict[str, Any]] = {}
    for tags, level in rows:
        ref = Ref.from_tags(tags, level)
        uids = (ref.study, ref.series, ref.instance)[: level - 1]
        if not all(uids) or level < DicomLevel.STUDIES:
            raise InvalidItem("a row of a search lacks the UIDs that say where it belongs")
        place = studies
        for uid in uids:
            node = place.setdefault(uid, {"tags": {}, "below": {}})
            place = node["below"]
        node["tags"].update(tags)
    for uid, node in studies.items():
        yield _study(uid, node)


def _study(uid: str, node: dict[str, Any]) -> Study:
    series = [
        Series(
            one,
            tags={"StudyInstanceUID": uid, "SeriesInstanceUID": one, **below["tags"]},
            study_uid=uid,
            instances=tuple(
                Instance(leaf, tags=deep["tags"], study_uid=uid, series_uid=one)
                for leaf, deep in below["below"].items()
            ),
        )
        for one, below in node["below"].items()
    ]
    return Study(uid, tags={"StudyInstanceUID": uid, **node["tags"]}, series=tuple(series))


class NonInstanceParameterError(InvalidItem):
    """Say that a downloader needs instances, and what it got does not say which."""


class NonSeriesParameterError(InvalidItem):
    """Say that a downloader needs series, and what it got does not say which."""


def each(objects: Any) -> Iterator[Any]:
    """Yield the members of what is one object or several; a text is one."""
    several = isinstance(objects, Iterable) and not isinstance(objects, str | DICOMObject | Mapping)
    yield from objects if several and not hasattr(objects, "ref") else (objects,)


def references(objects: Any, level: DicomLevel) -> list[Ref]:
    """
    Return the addresses at a level, or deeper, of one or several objects, references, dixels or Refs; each once.

    Raises NonInstanceParameterError or NonSeriesParameterError for one that does not know them.
    """
    found: dict[Ref, None] = {}
    for item in each(objects):
        found.update(dict.fromkeys(_down(item, level)))
    return list(found)


def _down(item: Any, level: DicomLevel) -> Iterator[Ref]:
    ref = item if isinstance(item, Ref) else getattr(item, "ref", None)
    if not isinstance(ref, Ref):
        raise InvalidItem(f"what can be fetched is a DICOM object or a reference, not {type(item).__name__}")
    if ref.level >= level:
        yield evolve(ref, patient=None, id="")
        return
    children = item.children if isinstance(item, DICOMObject) else ()
    if not children:
        kind = NonInstanceParameterError if level == DicomLevel.INSTANCES else NonSeriesParameterError
        raise kind(f"a {ref.level.singular.lower()} does not say which {level} it has")
    for child in children:
        yield from _down(child, level)
