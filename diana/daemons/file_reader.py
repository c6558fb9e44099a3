"""Read the keys of files for the registry, in this process or in a pool of processes."""

from __future__ import annotations

import os
import stat
import time
from typing import Final

from diana.daemons.file_registry import FileRow
from diana.daemons.file_walk import stamp_of
from diana.exceptions import InvalidItem
from diana.utils.dicom.header import read_header

TAGS: Final = ("AccessionNumber", "StudyInstanceUID")
FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MAX_KEY: Final = 1024
UNSURE: Final = b"?"
UNSETTLED: Final = (b"", UNSURE)
SECOND: Final = 1_000_000_000
TICK: Final = SECOND // 10


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
    changed = found.st_ctime_ns
    if found.st_mtime_ns <= now:
        # one from the future was set by somebody, and says nothing of when
        changed = max(changed, found.st_mtime_ns)
    return now - changed > (TICK if changed % SECOND else 2 * SECOND)
