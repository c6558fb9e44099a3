"""Names that stay inside a folder, files that are what they were, and errors of a disk."""

from __future__ import annotations

import errno
import os
import re
import stat
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import BinaryIO

from diana.exceptions import DianaError, GatewayConnectionError, GatewayRefused, IncompleteTransfer, InvalidItem
from diana.utils.blob import Blob
from diana.utils.dicom.ref import is_uid

MAX_PART = 255
MAX_NAME = 1024
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_NONBLOCK
ENTER = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z", re.IGNORECASE)
SIGNATURE = Struct("<QQQq")
FULL = (errno.ENOSPC, errno.EDQUOT)
BAD_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def checked(fn: str | os.PathLike[str]) -> str:
    """
    Return a relative name with slashes. Raises InvalidItem for one that could leave the folder or hang a reader.

    Refused are absolute names, ``..``, empty parts, control characters, backslashes, names of devices (CON, NUL, COM1
    and the like, which some systems know in every folder), and names that are too long.
    """
    text = os.fspath(fn)
    parts = text.split("/") if isinstance(text, str) else [""]
    if not all(_part_is_safe(part) for part in parts) or len(os.fsencode(text)) > MAX_NAME:
        raise InvalidItem("not a usable file name: it must be relative, short, and stay inside the folder")
    return text


def _part_is_safe(part: str) -> bool:
    if part in ("", ".", "..") or UNSAFE.search(part) or DEVICE.match(part):
        return False
    try:
        return len(os.fsencode(part)) <= MAX_PART
    except UnicodeEncodeError:
        return False


def is_safe(fn: object) -> bool:
    """Tell whether a name can be given to a new file: usable (see ``checked``), printable, hidden in no part."""
    if not isinstance(fn, str) or not fn.isprintable() or any(part.startswith(".") for part in fn.split("/")):
        return False
    try:
        checked(fn)
    except InvalidItem:
        return False
    return True


def safe_part(text: str) -> str:
    """Return a text that may be one part of a file name: itself where it is plain, else its SHA-256 (32 digits)."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text) and not DEVICE.match(text) and not text.endswith("."):
        return text
    return sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def uid_name(uid: str, otherwise: str) -> str:
    """Return ``<uid>.dcm`` for a proper UID, else ``<otherwise>.dcm``."""
    return f"{uid if is_uid(uid) else otherwise}.dcm"


def segments(base: str, width: int, depth: int) -> list[str]:
    """
    Return the sub-folders for a base name: its characters, ``width`` at a time, ``depth`` times.

    Where the name is too short, or the characters make no folder of their own (``.``, ``..``), underscores stand in.
    """
    found = [base[at * width : (at + 1) * width] for at in range(depth)]
    return [one if one.strip(".") else "_" * max(1, len(one)) for one in found]


def layout(fn: str, width: int, depth: int) -> str:
    """Return where a name lies below the folder. Raises InvalidItem."""
    folder, _, base = checked(fn).rpartition("/")
    parts = [*([folder] if folder else []), *segments(base, width, depth), base]
    return checked("/".join(parts)) if depth else fn


def name_at(relative: str, width: int, depth: int) -> str:
    """Return the name whose layout is this path, or the path itself."""
    parts = relative.split("/")
    if depth and len(parts) > depth and parts[-depth - 1 : -1] == segments(parts[-1], width, depth):
        return "/".join([*parts[: -depth - 1], parts[-1]])
    return relative


def signature(found: os.stat_result) -> bytes:
    """Return device, inode, size and time of change as 32 bytes: what tells a file from another under its name."""
    mask = (1 << 64) - 1
    return SIGNATURE.pack(found.st_dev & mask, found.st_ino & mask, found.st_size, found.st_mtime_ns)


def open_inside(root: str | os.PathLike[str], relative: str) -> int:
    """
    Open a regular file below a folder for reading, following no link on the way, and return its descriptor.

    The folder itself may be a link. Raises OSError; InvalidItem when it is no regular file.
    """
    *folders, base = relative.split("/")
    at = os.open(root, ENTER & ~os.O_NOFOLLOW)
    try:
        for folder in folders:
            below = os.open(folder, ENTER, dir_fd=at)
            os.close(at)
            at = below
        return open_regular(base, at)
    finally:
        os.close(at)


def open_regular(base: str, folder: int) -> int:
    """Open a regular file in an open folder; a FIFO does not block. Raises OSError, InvalidItem for other things."""
    handle = os.open(base, READ, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InvalidItem("not a regular file")
    return handle


class FileBlob(Blob):
    """
    Hold a file in a folder that others write to.

    ``open`` follows no link at the end of the path, and raises IncompleteTransfer when the file is no longer the one
    that was looked at: replaced, changed, or gone. Read it by ``open``, ``read``, ``pieces`` or ``copy_to``.
    """

    __slots__ = ("signature",)

    def __init__(self, path: str | os.PathLike[str], known: bytes | None = None) -> None:
        super().__init__(path)
        self.signature = known if known is not None else signature(os.stat(path, follow_symlinks=False))
        self._size = SIGNATURE.unpack(self.signature)[2]

    def open(self) -> BinaryIO:
        """Return a new binary reader at the start."""
        handle = -1
        try:
            handle = os.open(str(self.path), READ)
            if signature(os.fstat(handle)) == self.signature:
                return os.fdopen(handle, "rb")
        except OSError:
            if handle >= 0:
                os.close(handle)
            raise IncompleteTransfer("the file was moved or removed before it was read") from None
        os.close(handle)
        raise IncompleteTransfer("the file was changed before it was read")

    def read(self) -> bytes:
        """Return all bytes."""
        with self.open() as stream:
            return stream.read()


def inside(root: Path, target: Path) -> None:
    """Raise InvalidItem when links lead the folder of a target out of the root."""
    if target.parent == root:
        return
    home, folder = os.path.realpath(root), os.path.realpath(target.parent)
    if folder != home and not folder.startswith(home.rstrip("/") + "/"):
        raise InvalidItem("not a usable file name: it leads out of the folder")


def disk_error(name: str, error: OSError) -> DianaError:
    """Return the error of the tree for trouble with a disk; the message has no path."""
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    if error.errno in FULL:
        return GatewayConnectionError(f"{name}: the disk is full")
    if error.errno in BAD_NAME:
        return InvalidItem(f"{name}: not a usable file name ({reason})")
    if error.errno in FORBIDDEN:
        return GatewayRefused(f"{name}: not allowed ({reason})")
    return GatewayConnectionError(f"{name}: the folder does not work ({reason})")


def check_root(name: str, root: Path) -> bool:
    """
    Tell whether a folder is there; False for one not made yet, whose own folder is there.

    Raises GatewayConnectionError when that is missing too, or not a folder: a disk that is not mounted is not empty.
    """
    try:
        if stat.S_ISDIR(os.stat(root).st_mode):
            return True
        raise GatewayConnectionError(f"{name}: the path is not a folder")
    except FileNotFoundError:
        if root.is_symlink() or not root.absolute().parent.is_dir():
            raise GatewayConnectionError(f"{name}: the folder does not exist") from None
        return False
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "unknown"
        raise GatewayConnectionError(f"{name}: the folder cannot be reached ({reason})") from None
