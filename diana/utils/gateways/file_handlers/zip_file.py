"""ZIP archives, read with limits and written in pieces."""

from __future__ import annotations

import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from attrs import define, field, frozen

from diana.exceptions import InvalidItem
from diana.utils.blob import PIECE, Blob
from diana.utils.gateways.file_handlers._handler import FileHandler
from diana.utils.gateways.file_handlers.paths import disk_error

MAX_MEMBERS: Final = 100_000
MAX_MEMBER: Final = 256 << 20
MAX_ARCHIVE: Final = 512 << 20
MAX_RATIO: Final = 200
SMALL: Final = 4 << 20
MAX_DIRECTORY: Final = 64 << 20
END: Final = 22
LONG_END: Final = 56 + 20
ENTRY: Final = 46
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
FIXED_TIME: Final = (1980, 1, 1, 0, 0, 0)
DAMAGED: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)


@frozen
class Member:
    """
    Hold one member of an archive: its place in the directory, its name as written there, and its bytes.

    A member that could not be read has ``blob`` None and the reason in ``problem``. Close the blob when done: large
    ones are temporary files. The name comes from a stranger; never use it as a path.
    """

    index: int
    name: str = field(repr=False)
    blob: Blob | None = None
    problem: str = ""


@define(eq=False, slots=False)
class ZipFileHandler(FileHandler):
    """
    Read and write ZIP archives below one folder.

    Limits: 100,000 members, 256 MiB for one, 512 MiB for all, unpacked to at most 200 times the packed size. Archives
    in archives are not opened; folders, links and encrypted members are not unpacked.
    """

    name: str = "ZipFileHandler"

    def zip(self, fn: str, items: Iterable[tuple[str, Blob | bytes]]) -> str:
        """
        Write an archive of named blobs, one in memory at a time; return its path below the folder.

        Members have no time and no owner. Raises InvalidItem, GatewayError.
        """
        return self.write(fn, lambda out: _fill(out, items))

    def unzip(self, fn: str) -> Iterator[Member]:
        """
        Yield the members one at a time, unpacked.

        Raises ItemNotFound; InvalidItem when the archive as a whole cannot be read or passes a limit; a single bad
        member is yielded with its problem.
        """
        with self.open(fn) as stream:
            yield from members(stream)


def _fill(out: BinaryIO, items: Iterable[tuple[str, Blob | bytes]]) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in items:
            info = zipfile.ZipInfo(name, FIXED_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o600 << 16
            with archive.open(info, "w", force_zip64=True) as target:
                for piece in (data if isinstance(data, Blob) else Blob(data)).pieces():
                    target.write(piece)


def members(stream: BinaryIO) -> Iterator[Member]:
    """Yield the members of an open archive one at a time; see ``ZipFileHandler.unzip``."""
    with opened(stream) as archive:
        left = MAX_ARCHIVE
        for index, info in enumerate(archive.infolist(), 1):
            if info.is_dir():
                continue
            problem = _problem(info)
            if problem:
                yield Member(index, info.filename, problem=problem)
                continue
            member = _unpacked(archive, info, index, left)
            left -= len(member.blob) if member.blob is not None else 0
            if left < 0 or (member.blob is None and member.problem == "too large in all"):
                raise InvalidItem(f"the archive unpacks to more than {MAX_ARCHIVE} bytes")
            yield member


@contextmanager
def opened(stream: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose directory can be read. Raises InvalidItem for damage, and for more than 100,000 members."""
    try:
        _check_directory(stream)
        archive = zipfile.ZipFile(stream)
    except InvalidItem:
        raise
    except DAMAGED as error:
        raise InvalidItem(f"not a ZIP archive, or its end is missing ({type(error).__name__})") from None
    with archive:
        if len(archive.filelist) > MAX_MEMBERS:
            raise InvalidItem(f"the archive has more than {MAX_MEMBERS} members")
        yield archive


def is_whole(stream: BinaryIO) -> bool:
    """Tell whether an open file is a ZIP archive with its directory, which is written last."""
    try:
        with opened(stream):
            return True
    except InvalidItem:
        return False


def _check_directory(stream: BinaryIO) -> None:
    """Raise InvalidItem for a directory too large to hold, by either of its end records, or of too many entries."""
    size = stream.seek(0, os.SEEK_END)
    begin = max(0, size - (1 << 16) - END - LONG_END)
    stream.seek(begin)
    tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + END:
        raise zipfile.BadZipFile("no end record")
    end, length = begin + at, int.from_bytes(tail[at + 12 : at + 16], "little")
    # zipfile takes the long record, where there is one, whatever the short one says
    large = tail.rfind(b"PK\x06\x06", 0, at)
    if large >= 0:
        end, length = begin + large, max(length, int.from_bytes(tail[large + 40 : large + 48], "little"))
    if length > MAX_DIRECTORY:
        raise InvalidItem(f"the directory of the archive is larger than {MAX_DIRECTORY} bytes")
    stream.seek(max(0, end - length))
    if _entries(stream.read(length)) > MAX_MEMBERS:
        raise InvalidItem(f"the archive has more than {MAX_MEMBERS} members")
    stream.seek(0)


def _entries(directory: bytes) -> int:
    """Return how many entries a directory holds, up to one more than allowed."""
    count = at = 0
    while count <= MAX_MEMBERS and directory[at : at + 4] == b"PK\x01\x02" and at + ENTRY <= len(directory):
        name, extra, comment = struct.unpack_from("<3H", directory, at + 28)
        at += ENTRY + name + extra + comment
        count += 1
    return count


def _problem(info: zipfile.ZipInfo) -> str:
    """Return why a member is not unpacked; empty when it may be."""
    if info.flag_bits & 1:
        return "encrypted"
    if (info.external_attr >> 28) == 0o12:
        return "a link"
    if info.compress_type not in METHODS:
        # the announced dictionary of LZMA is allocated, and its errors are not of zipfile
        return "packed by a method other than deflate"
    if info.file_size > MAX_MEMBER:
        return "too large"
    if info.file_size > SMALL and info.file_size > MAX_RATIO * max(1, info.compress_size):
        return "unpacks to more than 200 times its size"
    return ""


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, index: int, left: int) -> Member:
    """Unpack one member to memory, or to a temporary file when it is large. The announced size is not trusted."""
    limit = min(MAX_MEMBER, max(SMALL, MAX_RATIO * max(1, info.compress_size)), left)
    found = bytearray()
    spill: tuple[BinaryIO, str] | None = None
    done = False
    try:
        with archive.open(info) as source:
            total = 0
            while piece := source.read(PIECE):
                total += len(piece)
                if total > limit:
                    return Member(index, info.filename, problem="too large in all" if limit == left else "too large")
                if spill is None and total > SMALL:
                    handle, name = tempfile.mkstemp(prefix="diana-", suffix=".member")
                    spill = os.fdopen(handle, "wb"), name
                    spill[0].write(found)
                if spill is None:
                    found += piece
                else:
                    spill[0].write(piece)
        done = True
    except DAMAGED as error:
        return Member(index, info.filename, problem=f"damaged ({type(error).__name__})")
    except OSError as error:
        raise disk_error("unpacking", error) from None
    finally:
        if spill is not None:
            spill[0].close()
            if not done:
                os.unlink(spill[1])
    return Member(index, info.filename, Blob(bytes(found)) if spill is None else Blob(spill[1], owned=True))
