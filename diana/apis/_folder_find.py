"""Find by header in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final  # tag values may be of any type

from diana.apis._folder_index import IDS, FolderIndex, walk
from diana.dixel import Dixel
from diana.exceptions import InvalidItem, Unsupported
from diana.utils.dicom import DicomLevel, Query
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
        self._level = level
        self._tags: dict[str, Any] | None = None
        self._oid = ""
        self._count = 0

    def add(self, one: Dixel) -> None:
        """Count an instance in."""
        self._count += 1
        if self._tags is None:
            self._tags = dict(one.tags)
            self._oid = one.parent_oid(self._level)
        else:
            self._tags = {key: value for key, value in self._tags.items() if one.tags.get(key) == value}

    def dixel(self) -> Dixel:
        """Return the dixel."""
        return Dixel(meta={"ID": self._oid, "Instances": self._count}, tags=self._tags or {}, level=self._level)


def find(
    root: str, query: Query, index: FolderIndex, name_of: Callable[[str], str], label: str, *, orthanc: bool
) -> Iterator[Dixel]:
    """Yield what a query describes, at its level; files that are not DICOM are counted in one warning."""
    _check(query, label)
    found = _instances(root, query, index, name_of, label, orthanc)
    if query.level == DicomLevel.INSTANCES:
        yield from found
        return
    groups: dict[str, Group] = {}
    for one in found:
        try:
            oid = one.parent_oid(query.level)
        except InvalidItem:  # a file without the UIDs of the level belongs to none
            continue
        groups.setdefault(oid, Group(query.level)).add(one)
    for group in groups.values():
        yield group.dixel()


def _check(query: Query, label: str) -> None:
    from pydicom.datadict import dictionary_VR

    for key in sorted(query.keywords()):
        wanted = query.match.get(key)
        if (key in COUNTED or dictionary_VR(key) == "SQ") and not is_blank(wanted):
            raise Unsupported(f"{label}: cannot search by {key}")


def _instances(
    root: str, query: Query, index: FolderIndex, name_of: Callable[[str], str], label: str, orthanc: bool
) -> Iterator[Dixel]:
    constrained = any(not is_blank(wanted) for wanted in query.match.values())
    keys = tuple(sorted(query.keywords() - set(DEFAULT_TAGS) - COUNTED))
    first = tuple(dict.fromkeys((*IDS, *sorted(query.keywords() - COUNTED)))) if constrained else (*DEFAULT_TAGS, *keys)
    bad = 0
    for relative in _candidates(root, query, index, label, orthanc):
        try:
            one = _read(root, relative, query, first, (*DEFAULT_TAGS, *keys) if constrained else ())
        except (InvalidItem, OSError):
            bad += 1
            continue
        if one is not None:
            one.meta["FileName"] = name_of(relative)
            yield one
    if bad:
        log.warning("%s: %d files could not be read as DICOM", label, bad)


def _candidates(root: str, query: Query, index: FolderIndex, label: str, orthanc: bool) -> Iterator[str]:
    """Yield the files to read: those with the wanted UIDs, when a query names some, else all."""
    wanted = {key: query.match[key] for key in IDS if not is_blank(query.match.get(key))}
    try:
        if wanted:
            narrow = Query(wanted)
            rows = index.rows()
            yield from sorted(name for name, row in rows if narrow.matches(dict(zip(IDS, row, strict=True))))
            return
        for relative, entries in walk(root, orthanc):
            for base in sorted(entry.name for entry in entries):
                yield f"{relative}/{base}" if relative else base
    except OSError as error:
        raise disk_error(label, error) from None


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
