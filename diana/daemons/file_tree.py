"""Go through a tree of folders, with helpers that look ahead at those that are known."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

from diana.daemons import file_walk
from diana.daemons.file_walk import digest_of, fits_of, look, receive, send

if TYPE_CHECKING:
    from diana.daemons.file_walk import Fits

log = logging.getLogger(__name__)

HEX: Final = re.compile(rb"[0-9a-f]{2}")
HEAD_START_S: Final = 0.008
LEAST: Final = 8
MANY: Final = 64


class Seen(NamedTuple):
    """Hold how a folder looks; a helper tells of no names, but only when the digest is the known one."""

    digest: bytes
    number: int
    names: Sequence[bytes] = ()
    stamps: Sequence[bytes] = ()

    def files(self) -> dict[str, bytes]:
        """Return the stamp of each file."""
        return dict(zip(map(os.fsdecode, self.names), self.stamps, strict=True))


def seen_at(path: bytes, fits: Fits, *, files: bool = True) -> tuple[Seen, list[bytes]]:
    """Return how a folder looks, and the names of its folders. Raises OSError."""
    names, stamps, folders = look(path, fits, files=files)
    return Seen(digest_of(names, stamps), len(names), names, stamps), folders


Walk = Generator[tuple[str, Seen | None], None, None]


def walk(
    base: str,
    pattern: str,
    orthanc: bool = False,
    *,
    depth: int = 0,
    known: Mapping[str, bytes] | None = None,
    helpers: int = 0,
) -> Walk:
    """
    Yield each folder with its files that fit the pattern; None for one that cannot be read.

    With ``orthanc`` only the folders of an Orthanc's storage are entered; ``depth`` is how deep in it ``base`` lies.
    When there are many, or it takes longer than a moment, ``helpers`` processes look at the folders for which a digest
    is ``known``, beginning with the last. The caller closes the iterator.
    """
    fits, known = fits_of(pattern), known or {}
    began, ahead = perf_counter(), None if helpers < 1 or len(known) < LEAST else Ahead(helpers)
    waiting = [(os.fsencode(base), depth)]
    try:
        while waiting:
            path, level = waiting.pop()
            name = os.fsdecode(path)
            told = None if ahead is None else ahead.told.get(path)
            if told is not None and known.get(name) == told[0]:
                seen, folders = Seen(told[0], told[1]), told[2]
            else:
                try:
                    seen, folders = seen_at(path, fits, files=not orthanc or level == 2)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    log.warning("a folder cannot be read (%s); it is left as it was", error.strerror)
                    yield name, None
                    continue
            folders.sort(reverse=True)
            waiting += [(os.path.join(path, one), level + 1) for one in folders if not orthanc or _enters(one, level)]
            yield name, seen
            if ahead is not None and not ahead.begun and (len(known) >= MANY or perf_counter() - began > HEAD_START_S):
                ahead.begin(pattern, _rest(base, known, path, depth, orthanc))
    finally:
        if ahead is not None:
            ahead.close()


def _enters(name: bytes, level: int) -> bool:
    return level < 2 and HEX.fullmatch(name) is not None


def _rest(base: str, known: Mapping[str, bytes], done: bytes, depth: int, orthanc: bool) -> list[tuple[bytes, bool]]:
    """Return the known folders that come later, the last first, each with whether its files count."""
    root = os.path.join(os.fsencode(base), b"")
    rest = [path for path in map(os.fsencode, known) if path > done and path.startswith(root)]
    rest.sort(reverse=True)
    return [(path, not orthanc or depth + path.count(b"/", len(root)) == 1) for path in rest]


class Ahead:
    """
    Look at folders in other processes; ``told`` grows with digest, number of files, and folders of each.

    A folder that no helper tells of is the caller's to look at, so that helpers may end at any time.
    """

    def __init__(self, count: int) -> None:
        self.told: dict[bytes, tuple[bytes, int, list[bytes]]] = {}
        self.begun = False
        self._count = count
        self._helpers: list[tuple[subprocess.Popen[bytes], Thread]] = []

    def begin(self, pattern: str, folders: list[tuple[bytes, bool]]) -> None:
        """Start the helpers."""
        self.begun = True
        count = min(self._count, len(folders) // LEAST)
        for at in range(count):
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", file_walk.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                log.info("no helper looks ahead (%s)", error.strerror)
                return
            thread = Thread(target=self._take, args=(process, pattern, folders[at::count]), name="ahead", daemon=True)
            thread.start()
            self._helpers.append((process, thread))

    def _take(self, process: subprocess.Popen[bytes], pattern: str, folders: list[tuple[bytes, bool]]) -> None:
        if process.stdin is None or process.stdout is None:
            return
        try:
            send(process.stdin, (pattern, folders))
            while True:
                self.told.update(receive(process.stdout))
        except (OSError, EOFError, ValueError, TypeError):
            return  # it has ended, or was ended

    def close(self) -> None:
        """End the helpers."""
        for process, thread in self._helpers:
            process.kill()
            thread.join()
            for pipe in (process.stdin, process.stdout):
                try:
                    if pipe is not None:
                        pipe.close()
                except OSError:
                    continue
            process.wait()
        self._helpers.clear()
