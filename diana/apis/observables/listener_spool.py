"""The folder of a listener: what was received and waits to be handled."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from attrs import define, field

from diana.exceptions import GatewayConnectionError, GatewayRefused, InvalidItem, ItemNotFound, StateError
from diana.utils.blob import Blob
from diana.utils.dicom.header import Header, read_header
from diana.utils.dicom.structure import check_whole
from diana.utils.files import PART, make_private, remove_parts, sync_folder
from diana.utils.gateways import dimse_pdu
from diana.utils.gateways.dimse import CANNOT_UNDERSTAND, DOES_NOT_MATCH, SUCCESS, StoreRequest

log = logging.getLogger(__name__)

NAME: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.dcm\Z")
UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID")
LOCK: Final = ".lock"
CHECK_ROOM_EVERY: Final = 64 << 20


class NoRoom(OSError):
    """Say that the disk is, but for the reserve, full."""


@contextmanager
def _told() -> Iterator[None]:
    """Say in our own words that a file is not there or cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise ItemNotFound("no such file in the spool") from None
    except OSError as error:
        raise GatewayConnectionError(f"the spool cannot be read: {error.strerror}") from None


@define(eq=False)
class Spool:
    """
    Keep received instances as ``<time>-<random>.dcm``, in the order in which they came.

    Each reception is a file of its own, even of an object that was received before. ``reserve`` bytes, or 5 % of the
    disk if that is less, are left free. ``added`` is called with the name of each new file once it is durable.
    """

    path: Path
    reserve: int
    added: Callable[[str], None] = field(repr=False)
    _lock: int | None = field(init=False, default=None, repr=False)

    def open(self) -> None:
        """
        Make the folder, own it, and remove what a killed receiver left half-written.

        Raises StateError when another process receives into it, GatewayError when it cannot be written.
        """
        if self._lock is not None:
            return
        try:
            make_private(self.path)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise StateError(f"another process receives into {self.path}") from None
        except OSError as error:
            self.close()
            raise GatewayRefused(f"the spool {self.path} cannot be written: {error.strerror}") from None
        remove_parts(self.path)

    def close(self) -> None:
        """Give the folder up; twice does no harm."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def names(self) -> list[str]:
        """Return the names of the files, oldest first; foreign files are not ours."""
        with _told():
            try:
                return sorted(name for name in os.listdir(self.path) if NAME.match(name))
            except FileNotFoundError:
                return []

    def has(self, name: str) -> bool:
        """Tell whether a file is there."""
        with _told():
            try:
                return NAME.match(name) is not None and stat.S_ISREG(os.lstat(self.path / name).st_mode)
            except FileNotFoundError:
                return False

    def blob(self, name: str) -> Blob:
        """Return the bytes of a file. Raises ItemNotFound."""
        with _told():
            return Blob(self._file(name))

    def header(self, name: str, tags: Iterable[str] = UIDS) -> Header:
        """Return the header of a file. Raises ItemNotFound, and InvalidItem for a file that was damaged here."""
        with _told():
            return read_header(self._file(name), tuple(tags))

    def remove(self, name: str) -> bool:
        """Remove a file; False when it was not there."""
        with _told():
            try:
                self._file(name).unlink()
            except (FileNotFoundError, ItemNotFound):
                return False
        return True

    def _file(self, name: str) -> Path:
        if not self.has(name):
            raise ItemNotFound("no such file in the spool")
        return self.path / name

    def check_writable(self) -> None:
        """Raise OSError when the folder cannot be made or written, or has no room."""
        make_private(self.path)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self.check_room()

    def check_room(self) -> None:
        """Raise NoRoom when the reserve is reached, and other OSErrors when the folder cannot be asked."""
        disk = os.statvfs(self.path)
        if disk.f_bavail * disk.f_frsize < min(self.reserve, disk.f_blocks * disk.f_frsize // 20):
            raise NoRoom(errno.ENOSPC, "the disk is full up to the reserve")

    def receive(self, request: StoreRequest) -> SpoolReception:
        """Begin a reception. Raises OSError."""
        self.check_room()
        return SpoolReception(self, request)


class SpoolReception:
    """Write one data set as it comes; it gets its name when it is whole, durable and what it claims to be."""

    def __init__(self, spool: Spool, request: StoreRequest) -> None:
        self._spool, self._request = spool, request
        self._part = spool.path / f".{secrets.token_hex(8)}{PART}"
        handle = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._out: BinaryIO = os.fdopen(handle, "w+b")
        self._unchecked = 0
        try:
            self._out.write(dimse_pdu.file_head(request.sop_class, request.sop_instance, request.transfer_syntax))
        except OSError:
            self.abandon()
            raise

    def write(self, piece: memoryview) -> None:
        """Append encoded bytes. Raises OSError."""
        self._out.write(piece)
        self._unchecked += len(piece)
        if self._unchecked >= CHECK_ROOM_EVERY:
            self._unchecked = 0
            self._spool.check_room()

    def finish(self) -> int:
        """Make the file durable under its name; return the status of PS3.4 B.2.3. Raises OSError."""
        self._out.flush()
        status = self._verdict()
        if status != SUCCESS:
            self.abandon()
            return status
        os.fsync(self._out.fileno())
        self._out.close()
        name = f"{time.time_ns():016x}-{secrets.token_hex(8)}.dcm"
        os.rename(self._part, self._spool.path / name)
        sync_folder(self._spool.path)
        self._spool.added(name)
        return SUCCESS

    def _verdict(self) -> int:
        """Compare what the command said with what the data set says, which must be whole."""
        try:
            whole = check_whole(self._out.fileno())
        except InvalidItem:
            return CANNOT_UNDERSTAND
        header = whole.header
        if header is None:
            log.warning("refused an instance from %s: %s", self._request.address, whole.reason)
            return CANNOT_UNDERSTAND
        if header.instance != self._request.sop_instance:
            return DOES_NOT_MATCH
        if header.get("SOPClassUID", self._request.sop_class) != self._request.sop_class:
            return DOES_NOT_MATCH
        return SUCCESS

    def abandon(self) -> None:
        """Remove what was written; twice does no harm."""
        with suppress(OSError):
            self._out.close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)
