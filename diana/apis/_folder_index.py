"""Which instance lies in which file of a folder, kept in memory and looked over again only where something changed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from threading import RLock
from typing import Final, NamedTuple

from diana.exceptions import InvalidItem
from diana.utils.dicom.header import read_header
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import orthanc_id
from diana.utils.gateways.file_handlers import paths

IDS: Final = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
HEX: Final = re.compile(r"[0-9a-f]{2}\Z")
OWN_FOLDER: Final = ".diana"  # of the index in SQLite; hidden, so never entered
COARSE: Final = 2_000_000_000  # a file system's clock may tick as slowly as this (ns)


class Row(NamedTuple):
    """Hold the keys of one file."""

    patient: str
    study: str
    series: str
    instance: str

    def oid(self, level: DicomLevel) -> str:
        """Return the Orthanc id at a level."""
        return orthanc_id(*self[:level])


class Entry(NamedTuple):
    """Hold what was seen of a file: its inode, its keys, and the whole signature when it was no instance."""

    inode: int
    row: Row | None
    seen: bytes


class Folder(NamedTuple):
    """Hold what was seen of one folder; ``changed`` is 0 when it may have changed since without a later time."""

    changed: int
    folders: tuple[str, ...]
    files: dict[str, Entry]


def enters(relative: str, orthanc: bool) -> bool:
    """Tell whether a folder belongs to the tree: none that is hidden; in Orthanc's style only ``hh`` and ``hh/hh``."""
    base = relative.rpartition("/")[2]
    if orthanc:
        return relative.count("/") < 2 and HEX.match(base) is not None
    return not base.startswith(".")


def holds_files(relative: str, orthanc: bool) -> bool:
    """Tell whether files directly in a folder count: in Orthanc's style only those of ``hh/hh``."""
    return not orthanc or relative.count("/") == 1


def listing(root: str, relative: str, orthanc: bool) -> tuple[list[str], list[os.DirEntry[str]]]:
    """Return the folders to enter (relative to the root) and the regular files in a folder; links are neither."""
    folders: list[str] = []
    files: list[os.DirEntry[str]] = []
    with os.scandir(os.path.join(root, relative)) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below = f"{relative}/{entry.name}" if relative else entry.name
                if enters(below, orthanc):
                    folders.append(below)
            elif (
                not entry.name.startswith(".")
                and holds_files(relative, orthanc)
                and entry.is_file(follow_symlinks=False)
            ):
                files.append(entry)
    return folders, files


def walk(root: str, orthanc: bool = False) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield each folder below the root, itself included, with its regular files; what cannot be read is passed by."""
    todo = [""]
    while todo:
        relative = todo.pop()
        try:
            folders, files = listing(root, relative, orthanc)
        except OSError:
            if not relative:
                raise
            continue
        todo.extend(sorted(folders, reverse=True))
        yield relative, files


class FolderIndex:
    """
    Find files by the ids in them.

    A folder is listed again when its time of change is another, and a file is read again when its inode is; a file that
    is rewritten in place with other ids is noticed by whoever opens it and compares.
    """

    def __init__(self, root: str, *, orthanc: bool = False) -> None:
        self._root = root
        self._orthanc = orthanc
        self._folders: dict[str, Folder] = {}
        self._by_instance: dict[str, set[str]] = {}
        self._texts: dict[str, str] = {}
        self._lock = RLock()

    def files(self, level: DicomLevel, wanted: Mapping[str, str] | None = None, oid: str = "") -> list[str]:
        """Return the files, relative and sorted, with the ids wanted, or with this Orthanc id at the level."""
        keys = [(IDS.index(keyword), value) for keyword, value in (wanted or {}).items()]
        rows: Iterable[tuple[str, Row]]
        with self._lock:
            self.refresh()
            if not oid and wanted and "SOPInstanceUID" in wanted:
                some = self._by_instance.get(wanted["SOPInstanceUID"], ())
                rows = ((name, self._row(name)) for name in some)
            else:
                rows = self._rows()
            if oid:
                return sorted(name for name, row in rows if row.oid(level) == oid)
            return sorted(name for name, row in rows if all(row[at] == value for at, value in keys))

    def rows(self) -> list[tuple[str, Row]]:
        """Return every file with its keys."""
        with self._lock:
            self.refresh()
            return list(self._rows())

    def refresh(self) -> None:
        """Look where something changed. Raises OSError when the root cannot be read."""
        with self._lock:
            found: dict[str, Folder] = {}
            todo = [""]
            while todo:
                relative = todo.pop()
                try:
                    folder = self._looked(relative, self._folders.get(relative))
                except OSError:
                    if not relative:
                        raise
                    continue
                found[relative] = folder
                todo.extend(folder.folders)
            for relative, before in self._folders.items():
                self._replace(relative, before.files, found[relative].files if relative in found else {})
            for relative in found.keys() - self._folders.keys():
                self._replace(relative, {}, found[relative].files)
            self._folders = found

    def _rows(self) -> Iterator[tuple[str, Row]]:
        for relative, folder in self._folders.items():
            for base, entry in folder.files.items():
                if entry.row is not None:
                    yield (f"{relative}/{base}" if relative else base), entry.row

    def _row(self, name: str) -> Row:
        relative, _, base = name.rpartition("/")
        row = self._folders[relative].files[base].row
        if row is None:
            raise LookupError("an indexed file has no keys")
        return row

    def _looked(self, relative: str, before: Folder | None) -> Folder:
        path = os.path.join(self._root, relative)
        stamp = os.stat(path, follow_symlinks=not relative).st_mtime_ns
        retry = before is not None and any(entry.row is None for entry in before.files.values())
        if before is not None and before.changed == stamp and not retry:
            return before
        changed = stamp if time.time_ns() - stamp > COARSE else 0
        folders, entries = listing(self._root, relative, self._orthanc)
        known = before.files if before is not None else {}
        files = {}
        for entry in entries:
            found = self._entry(path, entry, known.get(entry.name))
            if found is not None:
                files[entry.name] = found
        return Folder(changed, tuple(folders), files)

    def _entry(self, folder: str, entry: os.DirEntry[str], known: Entry | None) -> Entry | None:
        if known is not None and known.inode == entry.inode() and known.row is not None:
            return known
        try:
            seen = paths.signature(entry.stat(follow_symlinks=False))
            if known is not None and known.seen == seen:
                return known
            handle = os.open(os.path.join(folder, entry.name), paths.READ)
        except OSError:
            return None
        try:
            header = read_header(handle, IDS)
        except (InvalidItem, OSError):
            return Entry(entry.inode(), None, seen)
        finally:
            os.close(handle)
        if not header.instance:
            return Entry(entry.inode(), None, seen)
        patient, study, series = (self._one(header.get(key, "")) for key in IDS[:3])
        return Entry(entry.inode(), Row(patient, study, series, header.instance), b"")

    def _one(self, text: str) -> str:
        """Return the same object for the same text: patients, studies and series repeat."""
        return self._texts.setdefault(text, text)

    def _replace(self, relative: str, before: Mapping[str, Entry], after: Mapping[str, Entry]) -> None:
        if before is after:
            return
        for base, entry in before.items():
            if entry.row is not None and after.get(base) is not entry:
                name = f"{relative}/{base}" if relative else base
                names = self._by_instance.get(entry.row.instance, set())
                names.discard(name)
                if not names:
                    self._by_instance.pop(entry.row.instance, None)
        for base, entry in after.items():
            if entry.row is not None and before.get(base) is not entry:
                name = f"{relative}/{base}" if relative else base
                self._by_instance.setdefault(entry.row.instance, set()).add(name)
