"""An index of a folder in SQLite that follows what happens to the folder."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from threading import RLock
from typing import Final, TypeVar

from diana.apis._folder_changes import FolderChanges
from diana.apis._folder_facts import HEAD, IDS, SOUGHT, Facts, Kind, facts_of, words_of
from diana.apis._folder_index import enters, holds_files
from diana.apis._folder_sql import FolderDatabase, Replaced, Unusable
from diana.apis._folder_tables import HEADS, SCHEMA, UNITS, VERSION, Writer, compare, tidy
from diana.exceptions import InvalidItem
from diana.utils.dicom.levels import DicomLevel
from diana.utils.gateways.file_handlers import paths

log = logging.getLogger(__name__)

BATCH: Final = 1000
COARSE: Final = 2_000_000_000  # a file system's clock may tick as slowly as this (ns)
STAMP: Final = Struct("<QQqq")
TRIES: Final = 3
ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
OWN_TROUBLE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

Out = TypeVar("Out")


def stamp_of(found: os.stat_result) -> bytes:
    """Return what tells whether a file has changed: inode, size, times of change of contents and of inode."""
    mask = (1 << 64) - 1
    return STAMP.pack(found.st_ino & mask, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class FolderRegistry:
    """
    Keep what the headers of all files below a folder say in an SQLite file, and bring it up to date before each use.

    What is true when a call begins is what it answers: each call first takes in what has changed, by the rules of
    ``FolderChanges``, and files are read, and their rows written, while no other process writes, so that processes that
    share the file agree. A file is read again when inode, size or one of its times differ, and also when it was changed
    less than two seconds before it was read. Whatever befalls the SQLite file, it is made anew; ``Unusable`` is raised
    where that cannot be. For threads, and for processes after a fork.
    """

    def __init__(
        self, root: str, path: Path, *, label: str = "folder", orthanc: bool = False, notify: bool = True
    ) -> None:
        self._root = root
        self._label = label
        self._orthanc = orthanc
        self._database = FolderDatabase(path, SCHEMA, VERSION)
        self._changes = FolderChanges(root, orthanc=orthanc, notify=notify)
        self._unreadable: set[str] = set()
        self._problems = 0
        self._lock = RLock()
        self._process = os.getpid()
        self._inherited: list[sqlite3.Connection] = []
        self._stopped = False
        weakref.finalize(self, _close, self._database, self._changes, os.getpid())

    @property
    def notified(self) -> bool:
        """Tell whether the kernel says what changes, so that a refresh without changes costs nothing."""
        return self._changes.notified

    def close(self) -> None:
        """Close files and watches, ending a refresh that is under way in another thread; may be used again."""
        self._stopped = True
        with self._lock:
            self._stopped = False
            _close(self._database, self._changes, self._process)

    def touched(self, name: str) -> None:
        """Note that a file was written or removed by this process."""
        folder, _, _ = name.rpartition("/")
        parts = folder.split("/") if folder else []
        inside = all(enters("/".join(parts[: at + 1]), self._orthanc) for at in range(len(parts)))
        if inside and holds_files(folder, self._orthanc):
            with self._lock:
                self._changes.touch(name)

    def use(self, work: Callable[[sqlite3.Connection], Out], *, fresh: bool = True) -> Out:
        """Call a function with a connection that sees one state, which is that of the folder now when ``fresh``."""
        for _ in range(TRIES):
            try:
                if fresh:
                    self.refresh()
                with self._database.read() as connection:
                    return work(connection)
            except Replaced:
                with self._lock:
                    self._changes.everything()
                if not fresh:
                    raise Unusable("replaced meanwhile") from None
        raise Unusable("damaged again and again")

    def refresh(self) -> None:
        """Take in what has changed in the folder. Raises OSError when it cannot be read, Unusable."""
        with self._lock:
            self._after_fork()
            for _ in range(TRIES):
                try:
                    self._refresh()
                    return
                except Replaced:
                    self._changes.everything()
            raise Unusable("damaged again and again")

    def files(self, level: DicomLevel, wanted: Mapping[str, str] | None = None, oid: str = "") -> list[str]:
        """Return the files, relative and sorted, with the ids wanted, or with this Orthanc id at the level."""
        if oid:
            return self.use(lambda connection: sorted(_by_oid(connection, level, oid)))
        return self.use(lambda connection: sorted(_by_ids(connection, wanted or {})))

    def _after_fork(self) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            self._changes.close()
            self._inherited += self._database.forget()

    def _refresh(self) -> None:
        self._database.check()
        changes = self._changes.take()
        changes.names.update(name for name in self._unreadable if os.access(os.path.join(self._root, name), os.R_OK))
        if not changes:
            return
        self._problems = 0
        try:
            for tree in sorted(changes.trees):
                self._scan(tree)
            self._settle(sorted(changes.names))
            with self._database.write() as connection:
                compare(connection)
                if changes.trees:
                    tidy(connection)
        except BaseException:
            self._changes.again(changes)
            raise
        if self._problems:
            log.warning("%s: %d files could not be read as DICOM", self._label, self._problems)

    def _scan(self, tree: str) -> None:
        """Look at every file of a tree, and settle those that differ from what is known."""
        waiting: list[str] = []
        visited = {""} if tree else set()
        for relative, entries in self._changes.walk(tree):
            visited.add(relative)
            known = self._known_in(relative)
            for entry in entries:
                before = known.pop(os.fsencode(entry.name), None)
                if before is None or not _same(entry, before):
                    waiting.append(f"{relative}/{entry.name}" if relative else entry.name)
            waiting += [joined(os.fsencode(relative), name) for name in known]
            if len(waiting) >= BATCH:
                self._settle(waiting)
                waiting = []
        self._settle(waiting)
        for relative in self._folders(tree) - visited:
            self._settle([joined(os.fsencode(relative), name) for name in self._known_in(relative)])

    def _folders(self, tree: str) -> set[str]:
        """Return the folders of a tree that have files in the index."""
        path = os.fsencode(tree)
        asked = "SELECT path FROM folders WHERE path = ? OR (path > ? AND path < ?)"
        with self._database.read() as connection:
            rows = (
                connection.execute(asked, (path, path + b"/", path + b"0"))
                if tree
                else connection.execute("SELECT path FROM folders")
            )
            return {os.fsdecode(name) for (name,) in rows}

    def _known_in(self, relative: str) -> dict[bytes, tuple[bytes, int]]:
        asked = "SELECT base, stamp, sure FROM files WHERE folder = (SELECT id FROM folders WHERE path = ?)"
        with self._database.read() as connection:
            rows = connection.execute(asked, (os.fsencode(relative),))
            return {base: (stamp, sure) for base, stamp, sure in rows}

    def _settle(self, names: Sequence[str]) -> None:
        """Make the index agree with some files, a batch in each transaction."""
        for at in range(0, len(names), BATCH):
            if self._stopped:
                raise Unusable("closed")
            with self._database.write() as connection:
                writer = Writer(connection)
                for relative, bases in _by_folder(names[at : at + BATCH]):
                    self._settle_in(writer, relative, bases)
                writer.finish()

    def _settle_in(self, writer: Writer, relative: str, bases: Iterable[str]) -> None:
        number = writer.folder(relative)
        folder = _opened(self._root, relative)
        try:
            for base in bases:
                self._settle_one(writer, number, folder, relative, base)
        finally:
            if folder is not None:
                os.close(folder)

    def _settle_one(self, writer: Writer, number: int, folder: int | None, relative: str, base: str) -> None:
        before = writer.known(number, base)
        name = f"{relative}/{base}" if relative else base
        self._unreadable.discard(name)
        try:
            handle = None if folder is None else paths.open_regular(base, folder)
        except InvalidItem:  # no regular file
            handle = None
        except OSError as error:
            handle = None
            if not _is_absent(error):
                self._unreadable.add(name)
        if handle is None:
            if before is not None:
                writer.drop(before)
            return
        try:
            now = time.time_ns()
            found = os.fstat(handle)
            stamp = stamp_of(found)
            sure = now - max(found.st_mtime_ns, found.st_ctime_ns) > COARSE
            if before is None or before.stamp != stamp or not before.sure:
                writer.put(number, base, stamp, sure, self._facts(handle, name), before)
        finally:
            os.close(handle)

    def _facts(self, handle: int, name: str) -> Facts:
        try:
            found = facts_of(handle)
        except OSError:
            self._unreadable.add(name)
            return Facts(Kind.NOTHING)
        self._problems += found.problem
        return found


def _close(database: FolderDatabase, changes: FolderChanges, process: int) -> None:
    if process == os.getpid():
        changes.close()
        database.close()


def _same(entry: os.DirEntry[str], known: tuple[bytes, int]) -> bool:
    try:
        return bool(known[1]) and stamp_of(entry.stat(follow_symlinks=False)) == known[0]
    except OSError:
        return False


def _by_folder(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        found.setdefault(folder, []).append(base)
    yield from found.items()


def _is_absent(error: OSError) -> bool:
    """Tell whether there is no such file, or none of ours to read. Raises the error when it is this process's own."""
    if error.errno in OWN_TROUBLE:
        raise error
    return error.errno in ABSENT


def _opened(root: str, relative: str) -> int | None:
    """Open a folder below the root, following no link; None when it is none, or cannot be entered. Raises OSError."""
    at = os.open(root, paths.ENTER & ~os.O_NOFOLLOW)
    for part in relative.split("/") if relative else ():
        try:
            below = os.open(part, paths.ENTER, dir_fd=at)
        except OSError as error:
            os.close(at)
            _is_absent(error)
            return None
        os.close(at)
        at = below
    return at


def joined(folder: bytes, base: bytes) -> str:
    """Return the path of a file relative to the root."""
    return os.fsdecode(folder + b"/" + base if folder else base)


def _by_oid(connection: sqlite3.Connection, level: DicomLevel, oid: str) -> Iterator[str]:
    asked = "SELECT path, base FROM files JOIN folders ON folders.id = folder WHERE "
    if level == DicomLevel.INSTANCES:
        asked += "oid = ? AND head IS NOT NULL"
        key: object = bytes.fromhex(oid.replace("-", ""))
    else:
        unit = UNITS[level - 1]
        asked += f"head IN (SELECT heads.id FROM heads JOIN items ON items.id = {unit} WHERE items.oid = ?)"  # noqa: S608
        key = oid
    for folder, base in connection.execute(asked, (key,)):
        yield joined(folder, base)


def _by_ids(connection: sqlite3.Connection, wanted: Mapping[str, str]) -> Iterator[str]:
    """Yield the files whose ids are exactly these texts."""
    with suppress(UnicodeEncodeError):
        "".join(wanted.values()).encode()
        clauses, values = ["head IS NOT NULL"], list[object]()
        for key, text in wanted.items():
            if key == IDS[3]:
                clauses.append("o0 = ?")
                values.append(text)
                continue
            clauses.append(f"coalesce({HEADS[HEAD.index(key)]}, '') = ?")
            values.append(text)
            for word in words_of(key, text):
                clauses.append("head IN (SELECT head FROM words WHERE tag = ? AND text = ?)")
                values += [SOUGHT.index(key), word]
        asked = f"""SELECT path, base FROM files JOIN heads ON heads.id = head JOIN folders ON folders.id = folder
            WHERE {" AND ".join(clauses)}"""  # noqa: S608  # the names of columns are ours, the values are bound
        for folder, base in connection.execute(asked, values):
            yield joined(folder, base)
