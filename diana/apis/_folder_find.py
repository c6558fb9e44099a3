"""Find by header in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final  # tag values may be of any type

from attrs import define, field

from diana.apis._folder_index import IDS, FolderIndex, walk
from diana.dixel import Dixel
from diana.exceptions import InvalidItem, Unsupported
from diana.utils.dicom import DicomLevel, Query
from diana.utils.dicom.dictionary import vr_of
from diana.utils.dicom.header import DEFAULT_TAGS, read_header
from diana.utils.dicom.matching import is_blank
from diana.utils.gateways.file_handlers import paths
from diana.utils.gateways.file_handlers.paths import disk_error

log = logging.getLogger(__name__)

COUNTED: Final = frozenset(
    f"NumberOf{one}"
    for one in [
        "PatientRelatedStudies",
        "PatientRelatedSeries",
        "PatientRelatedInstances",
        "StudyRelatedSeries",
        "StudyRelatedInstances",
        "SeriesRelatedInstances",
    ]
) | {"ModalitiesInStudy", "SOPClassesInStudy"}


class Group:
    """Gather the instances of one study, series or patient into one dixel: the tags that all of them share."""

    def __init__(self, level: DicomLevel) -> None:
        self.level = level
        self.oid = ""
        self._tags: dict[str, Any] | None = None
        self._count = 0

    def add(self, one: Dixel) -> None:
        """Count an instance in."""
        self.merge(one.tags, 1, self.oid or one.parent_oid(self.level))

    def merge(self, tags: Mapping[str, Any], count: int, oid: str) -> None:
        """Count instances in that share tags."""
        self._count += count
        if self._tags is None:
            self._tags = dict(tags)
            self.oid = oid
        else:
            self._tags = {key: value for key, value in self._tags.items() if tags.get(key) == value}

    def dixel(self) -> Dixel:
        """Return the dixel."""
        return Dixel(meta={"ID": self.oid, "Instances": self._count}, tags=self._tags or {}, level=self.level)


@define(eq=False)
class FolderLookup:
    """
    Find what lies in a folder by reading it.

    ``name_of`` gives the name of a file for its path below the root, ``label`` is the name of the endpoint.
    """

    root: str
    label: str
    name_of: Callable[[str], str]
    orthanc: bool = field(default=False, kw_only=True)
    _index: FolderIndex = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._index = FolderIndex(self.root, orthanc=self.orthanc)

    def files(self, level: DicomLevel, wanted: Mapping[str, str] | None = None, oid: str = "") -> list[str]:
        """Return the files, relative and sorted, with the ids wanted, or with this Orthanc id at the level."""
        return self._index.files(level, wanted, oid)

    def find(self, query: Query, offset: int = 0) -> Iterator[Dixel]:
        """Yield what a query describes, at its level, but the first ``offset`` of it. Raises Unsupported."""
        check(query, self.label)
        return islice(self.read(query, self._candidates(query)), offset, None)

    def read(self, query: Query, candidates: Iterable[str]) -> Iterator[Dixel]:
        """Yield what matches of some files; those that are not DICOM are counted in one warning."""
        found = self._instances(query, candidates)
        if query.level == DicomLevel.INSTANCES:
            yield from found
            return
        for group in grouped(found, query.level).values():
            yield group.dixel()

    def touched(self, name: str) -> None:
        """Note that a file was written or removed."""

    def close(self) -> None:
        """Give back files and threads."""

    def _instances(self, query: Query, candidates: Iterable[str]) -> Iterator[Dixel]:
        constrained = any(not is_blank(wanted) for wanted in query.match.values())
        keys = tuple(sorted(query.keywords() - set(DEFAULT_TAGS) - COUNTED))
        whole = (*DEFAULT_TAGS, *keys)
        first = tuple(dict.fromkeys((*IDS, *sorted(query.keywords() - COUNTED)))) if constrained else whole
        bad = 0
        for relative in candidates:
            try:
                one = _read(self.root, relative, query, first, whole if constrained else ())
            except (InvalidItem, OSError):
                bad += 1
                continue
            if one is not None:
                one.meta["FileName"] = self.name_of(relative)
                yield one
        if bad:
            log.warning("%s: %d files could not be read as DICOM", self.label, bad)

    def _candidates(self, query: Query) -> Iterator[str]:
        """Yield the files to read: those with the wanted UIDs, when a query names some, else all."""
        wanted = {key: query.match[key] for key in IDS if not is_blank(query.match.get(key))}
        try:
            if wanted:
                narrow = Query(wanted)
                rows = self._index.rows()
                yield from sorted(name for name, row in rows if narrow.matches(dict(zip(IDS, row, strict=True))))
                return
            for relative, entries in walk(self.root, self.orthanc):
                for base in sorted(entry.name for entry in entries):
                    yield f"{relative}/{base}" if relative else base
        except OSError as error:
            raise disk_error(self.label, error) from None


def grouped(found: Iterable[Dixel], level: DicomLevel) -> dict[str, Group]:
    """Return what instances belong to by its Orthanc id; one without the UIDs of the level belongs to nothing."""
    groups: dict[str, Group] = {}
    for one in found:
        try:
            oid = one.parent_oid(level)
        except InvalidItem:
            continue
        groups.setdefault(oid, Group(level)).add(one)
    return groups


def check(query: Query, label: str) -> None:
    """Raise Unsupported for a key by which a folder cannot be searched."""
    for key in sorted(query.keywords()):
        wanted = query.match.get(key)
        if (key in COUNTED or vr_of(key) == "SQ") and not is_blank(wanted):
            raise Unsupported(f"{label}: cannot search by {key}")


def _read(root: str, relative: str, query: Query, first: tuple[str, ...], then: tuple[str, ...]) -> Dixel | None:
    """Return an instance that matches, None for one that does not or is no instance (a DICOMDIR)."""
    handle = paths.open_inside(root, relative)
    try:
        header: Mapping[str, str] = read_header(handle, first)
        if not header.get("SOPInstanceUID") or not query.matches(header):
            return None
        return Dixel.from_header(read_header(handle, then) if then else header)  # type: ignore[arg-type]
    finally:
        os.close(handle)
