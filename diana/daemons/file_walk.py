"""
Look at folders: which files they hold, and what tells whether one has changed.

Only the standard library is imported, and little of it: helpers that look ahead are this file run as a program, which
starts in a few milliseconds.
"""

from __future__ import annotations

import os
import sys
from hashlib import blake2b
from itertools import starmap
from marshal import dumps, loads
from operator import attrgetter
from struct import Struct
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO, Final

    Fits = tuple[bytes, Callable[[bytes], object] | None]

STAMP: Final = Struct("<QQqq")
FACTS: Final = attrgetter("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
ANY: Final[Fits] = (b"", None)
SIZE: Final = Struct("<I")
TELL_S: Final = 0.004
DOT: Final = ord(".")


def stamp_of(found: os.stat_result) -> bytes:
    """Return what tells whether a file has changed: inode, size, times of change of contents and of inode."""
    return STAMP.pack(*FACTS(found))


def fits_of(pattern: str) -> Fits:
    """Return how the names of files that fit a pattern end, and what else they must match, if anything."""
    end = pattern[1:]
    if pattern.startswith("*") and not set(end) & set("*?["):
        return os.fsencode(end), None
    import fnmatch
    import re

    return b"", re.compile(os.fsencode(fnmatch.translate(pattern))).match


def look(path: bytes, fits: Fits = ANY, *, files: bool = True) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """
    Return the names of the files of a folder, the stamp of each, and the names of its folders.

    Hidden ones are passed by, links are neither. Without ``files`` there are no files. Raises OSError.
    """
    # this is what a run without news costs, so each loop does one thing, and names are looked up from the folder
    ending, match = fits
    with os.scandir(path) as found:
        entries = list(found)
    regular = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    folders: list[bytes] = []
    if len(regular) < len(entries):
        folders = [one.name for one in entries if one.is_dir(follow_symlinks=False) and one.name[0] != DOT]
    names = [name for name in regular if name.endswith(ending) and name[0] != DOT] if files else []
    if match is not None:
        names = [name for name in names if match(name)]
    if not names:
        return [], [], folders
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        stat = os.stat
        try:
            stats = [stat(name, dir_fd=handle, follow_symlinks=False) for name in names]
        except FileNotFoundError:
            names, stats = _those_there(names, handle)
    finally:
        os.close(handle)
    return names, list(starmap(STAMP.pack, map(FACTS, stats))), folders


def _those_there(names: list[bytes], handle: int) -> tuple[list[bytes], list[os.stat_result]]:
    """Return those of the files that are still there, and how they look."""
    there, stats = [], []
    for name in names:
        try:
            stats.append(os.stat(name, dir_fd=handle, follow_symlinks=False))
        except FileNotFoundError:
            continue
        there.append(name)
    return there, stats


def digest_of(names: list[bytes], stamps: list[bytes]) -> bytes:
    """Return what tells whether a folder looks as before."""
    return blake2b(b"\0".join(names) + b"\0\0" + b"".join(stamps), digest_size=16).digest()


def send(out: BinaryIO | Any, value: Any) -> None:
    """Write one value; ``receive`` reads it."""
    data = dumps(value)
    out.write(SIZE.pack(len(data)) + data)
    out.flush()


def receive(stream: BinaryIO | Any) -> Any:
    """Return the next value. Raises EOFError at the end."""
    head = stream.read(SIZE.size)
    if len(head) < SIZE.size:
        raise EOFError
    return loads(stream.read(SIZE.unpack(head)[0]))  # noqa: S302  # between this program and its own child


def serve() -> None:
    """Look at the folders named on standard input and tell, every few milliseconds, how they look."""
    pattern, asked = receive(sys.stdin.buffer)
    fits, told, began = fits_of(pattern), {}, perf_counter()
    for path, files in asked:
        try:
            names, stamps, folders = look(path, fits, files=files)
        except OSError:
            continue
        told[path] = (digest_of(names, stamps), len(names), folders)
        if perf_counter() - began > TELL_S:
            send(sys.stdout.buffer, told)
            told, began = {}, perf_counter()
    send(sys.stdout.buffer, told)


if __name__ == "__main__":
    serve()
