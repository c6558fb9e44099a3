"""Read the keys of files for the registry, in this process or in a pool of processes."""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

from diana.daemons.file_registry import FileRow
from diana.exceptions import InvalidItem
from diana.utils.dicom.header import read_header

log = logging.getLogger(__name__)

TAGS: Final = ("AccessionNumber", "StudyInstanceUID")
FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MAX_KEY: Final = 1024
STAMP: Final = Struct("<QQqq")
HEX: Final = re.compile(rb"[0-9a-f]{2}")
UNSURE: Final = b"?"
UNSETTLED: Final = (b"", UNSURE)
SECOND: Final = 1_000_000_000
TICK: Final = SECOND // 10


def stamp_of(found: os.stat_result) -> bytes:
    """Return what tells whether a file has changed: inode, size, times of change of contents and of inode."""
    return STAMP.pack(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_files(folder: str, names: list[str]) -> list[tuple[str, FileRow | None]]:
    """Return what the registry keeps of each file of a folder; None for one that is gone."""
    return [(name, read_file(os.path.join(folder, name))) for name in names]


def read_file(path: str) -> FileRow | None:
    """
    Return what the registry keeps of one file, None when there is none.

    The key is the accession number, or the Study Instance UID where that is empty. A file without either has a reason.
    """
    try:
        handle = os.open(path, FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:
        return FileRow(b"", "", f"cannot be opened ({error.strerror})")
    try:
        now, found = time.time_ns(), os.fstat(handle)
        stamp = stamp_of(found) if _is_settled(found, now) else UNSURE
        if not stat.S_ISREG(found.st_mode):
            return FileRow(stamp, "", "is no regular file")
        header = read_header(handle, TAGS)
        key = header.accession.strip() or header.study.strip()
        if not key:
            return FileRow(stamp, "", "has neither an accession number nor a Study Instance UID")
        if len(key) > MAX_KEY or "\0" in key:
            return FileRow(stamp, "", "has an accession number that cannot be one")
        return FileRow(stamp, key)
    except InvalidItem:
        return FileRow(stamp, "", "is not DICOM")
    except OSError as error:
        return FileRow(b"", "", f"cannot be read ({error.strerror})")
    finally:
        os.close(handle)


def _is_settled(found: os.stat_result, now: int) -> bool:
    """Tell whether a later change would show in the times; some file systems count in whole or double seconds."""
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    return now - changed > (TICK if changed % SECOND else 2 * SECOND)


class Seen(NamedTuple):
    """Hold how a folder looks: the name and the stamp of each of its files, one after the other, sorted."""

    rows: list[bytes]

    def digest(self) -> bytes:
        """Return what tells whether the folder looks as before."""
        return blake2b(b"\0".join(self.rows), digest_size=16).digest()

    def stamps(self) -> dict[str, bytes]:
        """Return the stamp of each file."""
        return {os.fsdecode(row[: -STAMP.size]): row[-STAMP.size :] for row in self.rows}


def walk(base: str, pattern: str, orthanc: bool) -> Iterator[tuple[str, Seen | None]]:
    """Yield each folder with its files that fit the pattern; None for one that cannot be read."""
    fits = None if pattern == "*" else re.compile(os.fsencode(fnmatch.translate(pattern))).match
    waiting = [(os.fsencode(base), 0)]
    while waiting:
        path, depth = waiting.pop()
        try:
            with os.scandir(path) as entries:
                rows, folders = _look(entries, fits, files=not orthanc or depth == 2)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("a folder cannot be read (%s); it is left as it was", error.strerror)
            yield os.fsdecode(path), None
            continue
        waiting += [
            (os.path.join(path, name), depth + 1)
            for name in folders
            if not orthanc or (depth < 2 and HEX.fullmatch(name) is not None)
        ]
        yield os.fsdecode(path), Seen(sorted(rows))


def _look(
    entries: Iterator[os.DirEntry[bytes]], fits: Callable[[bytes], object] | None, *, files: bool
) -> tuple[list[bytes], list[bytes]]:
    """Return the rows of the files of a folder, and the names of its folders. This is what a run without news costs."""
    rows: list[bytes] = []
    folders: list[bytes] = []
    pack, dot = STAMP.pack, ord(".")
    for entry in entries:
        name = entry.name
        if name[0] == dot:
            continue
        if entry.is_dir(follow_symlinks=False):
            folders.append(name)
        elif files and (fits is None or fits(name)) and entry.is_file(follow_symlinks=False):
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            rows.append(name + pack(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return rows, folders
