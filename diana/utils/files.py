"""Files that are whole or absent."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PART = ".part"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_private(folder: Path) -> None:
    """Create a folder, and those above it, that only this user can enter; leave an existing one as it is."""
    absent = []
    while not folder.exists():
        absent.append(folder)
        folder = folder.parent
    for one in reversed(absent):
        one.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def whole_file(target: Path, *, durable: bool = True, replace: bool = True) -> Iterator[BinaryIO]:
    """
    Give a writer whose bytes appear under ``target`` all at once, when the block ends well.

    The bytes go to a new hidden file (mode 0600) in the same folder, are flushed to disk, and renamed; the folder is
    flushed too. After an error nothing is left. With ``replace=False`` an existing target raises FileExistsError.
    """
    make_private(target.parent)
    part = target.parent / f".{secrets.token_hex(8)}{PART}"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            if durable:
                os.fsync(out.fileno())
        if replace:
            os.replace(part, target)
        else:
            os.link(part, target)
            part.unlink()
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(target.parent)


def remove_parts(folder: Path) -> int:
    """Remove what a killed writer left in a folder of ours; return how many files."""
    count = 0
    for part in folder.glob(f".*{PART}"):
        with suppress(OSError):
            part.unlink()
            count += 1
    return count
