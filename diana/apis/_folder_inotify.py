"""The kernel's word on what changed in folders, read when somebody asks (inotify(7), Linux)."""

from __future__ import annotations

import ctypes
import errno
import os
from struct import Struct
from typing import Final, NamedTuple

ACCESS: Final = 0x00000002 | 0x00000004 | 0x00000008  # modified, attributes, closed after writing
NAMES: Final = 0x00000040 | 0x00000080 | 0x00000100 | 0x00000200  # moved from, moved to, created, deleted
MOVED: Final = 0x00000400 | 0x00000800  # the watched folder itself was deleted or moved
UNMOUNTED: Final = 0x00002000
OVERFLOW: Final = 0x00004000
ENDED: Final = 0x00008000
ONLY_FOLDERS: Final = 0x01000000 | 0x04000000  # a folder only, and nothing of files that have no name any more
NO_LINK: Final = 0x02000000
IS_FOLDER: Final = 0x40000000

HEAD: Final = Struct("iIII")
READ: Final = 256 << 10
LOCAL: Final = frozenset(
    "ext2 ext3 ext4 xfs btrfs zfs f2fs jfs reiserfs bcachefs tmpfs ramfs overlay hfs hfsplus".split()  # noqa: SIM905
)


class Event(NamedTuple):
    """Hold one event: the number of the watch, what happened, and the name in the folder, if any."""

    watch: int
    mask: int
    name: str


class Inotify:
    """
    Watch folders.

    What any process of this machine does to a file is in the queue before the call that does it returns, so that
    ``read`` knows of everything that ended before. Raises OSError where the system has no inotify, or no room.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        try:
            self._add, self._remove = library.inotify_add_watch, library.inotify_rm_watch
            begin = library.inotify_init1
        except AttributeError:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
        self._add.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
        self._remove.argtypes = (ctypes.c_int, ctypes.c_int)
        self.handle: int = _checked(begin(os.O_NONBLOCK | os.O_CLOEXEC))

    def add(self, path: str, *, follow: bool = False) -> int:
        """Watch a folder and return the number of the watch; a folder watched already keeps its number."""
        mask = ACCESS | NAMES | MOVED | ONLY_FOLDERS | (0 if follow else NO_LINK)
        return _checked(self._add(self.handle, os.fsencode(path), mask))

    def remove(self, watch: int) -> None:
        """End a watch; one that ended by itself does no harm."""
        self._remove(self.handle, watch)

    def read(self) -> list[Event]:
        """Return what happened since the last call."""
        found: list[Event] = []
        while True:
            try:
                data = os.read(self.handle, READ)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                watch, mask, _, size = HEAD.unpack_from(data, at)
                at += HEAD.size + size
                found.append(Event(watch, mask, os.fsdecode(data[at - size : at].rstrip(b"\0"))))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def is_local(path: str) -> bool:
    """Tell whether a folder lies on a disk of this machine; False where only a part of its changes may be heard of."""
    place = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields, _, rest = line.partition(" - ")
                point = fields.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
                if len(point) >= len(best) and (place == point or place.startswith(point.rstrip("/") + "/")):
                    best, kind = point, rest.split(" ", 1)[0]
    except (OSError, IndexError, UnicodeError):
        return False
    return kind in LOCAL
