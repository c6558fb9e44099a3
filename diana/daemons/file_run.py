"""One run over a tree: compare folder by folder with the registry, read what differs, save in batches."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from time import monotonic
from typing import TYPE_CHECKING, Final

from attrs import define, field

from diana.daemons.file_reader import UNSETTLED, read_files
from diana.daemons.file_registry import FileRegistry, FileRow, FolderChange
from diana.daemons.file_tree import Seen, Walk, seen_at, walk
from diana.daemons.file_walk import fits_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from diana.daemons.file_readers import Readers, Rows

CHUNK: Final = 400
BATCH: Final = 4000
SAVE_S: Final = 0.5
AHEAD: Final = 4
LISTED: Final = 1000


@define
class IndexReport:
    """
    Say how a run over a tree went.

    ``checked`` files were looked at, ``registered`` read and found good, ``unchanged`` known already, ``removed`` gone
    since. ``bad`` maps a path to the reason why it is in no collection, for the first thousand.
    """

    checked: int = 0
    registered: int = 0
    unchanged: int = 0
    removed: int = 0
    bad_count: int = 0
    bad: dict[str, str] = field(factory=dict, repr=False)

    def note_bad(self, path: str, reason: str) -> None:
        """Count a file that is in no collection."""
        self.bad_count += 1
        if len(self.bad) < LISTED:
            self.bad[path] = reason

    def asdict(self) -> dict[str, int]:
        """Return the numbers."""
        return {
            "checked": self.checked,
            "registered": self.registered,
            "unchanged": self.unchanged,
            "removed": self.removed,
            "bad": self.bad_count,
        }


def ignore(_: int) -> None:
    """Nobody listens."""


def no_pool() -> None:
    """Read in this process."""


@define(eq=False)
class Run:
    """
    Make a registry say what is in a tree, or in some of its folders, now.

    ``helpers`` processes may look ahead, those of ``create_pool`` read headers. ``unsettled`` holds the folders in
    which something was written right now: a later change might not show in the times of the files.
    """

    registry: FileRegistry
    prefix: str
    base: str
    pattern: str = "*"
    orthanc: bool = False
    create_pool: Callable[[], Readers | None] = no_pool
    on_files: Callable[[int], None] = ignore
    stop: threading.Event = field(factory=threading.Event)
    helpers: int = 0
    report: IndexReport = field(factory=IndexReport, init=False)
    unsettled: set[str] = field(factory=set, init=False)
    _waiting: deque[tuple[_Folder, Future[Rows] | None, list[str]]] = field(factory=deque, init=False)
    _changes: list[FolderChange] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)
    _saved: float = field(factory=monotonic, init=False)

    def known(self, below: str | None = None) -> dict[str, bytes]:
        """Return the digest of each folder of the tree, or of a part of it, as it was last finished."""
        top = self.base if below is None else below
        inside = os.path.join(top, "")
        found = self.registry.folders(self.prefix).items()
        return {path: digest for path, digest in found if path == top or path.startswith(inside)}

    def everything(self) -> IndexReport:
        """Look at the whole tree."""
        self._tree(self.base, 0)
        return self._end()

    def some(self, folders: Iterable[str], trees: Iterable[str]) -> IndexReport:
        """Look at some folders, and at some with everything below them, named relative to the tree."""
        tops = set(trees)
        for tree in sorted(tops):
            if not any(tree.startswith(one + "/") for one in tops if one):
                self._tree(os.path.join(self.base, tree) if tree else self.base, len(tree.split("/")) if tree else 0)
        for folder in sorted(set(folders) - tops):
            self._one(os.path.join(self.base, folder) if folder else self.base)
        return self._end()

    def differing(self) -> Iterator[tuple[str, int]]:
        """Yield each folder, relative to the tree, that does not look as it did, and its number of files."""
        known, root = self.known(), len(os.path.join(self.base, ""))
        with closing(self._walk(self.base, 0, known)) as found:
            for path, seen in found:
                if self.stop.is_set():
                    return
                if seen is not None and known.get(path) != seen.digest:
                    yield path[root:], seen.number

    def _walk(self, top: str, depth: int, known: Mapping[str, bytes]) -> Walk:
        return walk(top, self.pattern, self.orthanc, depth=depth, known=known, helpers=self.helpers)

    def _tree(self, top: str, depth: int) -> None:
        known = self.known(top)
        with closing(self._walk(top, depth, dict(known))) as found:
            for path, seen in found:
                if self.stop.is_set():
                    return
                if seen is None:
                    below = os.path.join(path, "")
                    known = {one: was for one, was in known.items() if one != path and not one.startswith(below)}
                else:
                    self._seen(path, seen, known.pop(path, None))
        self._drain()
        if not self.stop.is_set():
            for path in known:
                self._forget(path)

    def _one(self, path: str) -> None:
        try:
            seen, _ = seen_at(os.fsencode(path), fits_of(self.pattern))
        except FileNotFoundError:
            self._forget(path)
        except OSError:
            return
        else:
            self._seen(path, seen, None)

    def _seen(self, path: str, seen: Seen, before: bytes | None) -> None:
        self.report.checked += seen.number
        self.on_files(seen.number)
        if before == seen.digest:
            self.report.unchanged += seen.number
        else:
            self._compare(path, seen.digest, seen.files())

    def _compare(self, path: str, digest: bytes, entries: dict[str, bytes]) -> None:
        before = self.registry.files(self.prefix, path)
        folder = _Folder(path, digest, before)
        gone = [name for name in before if name not in entries]
        fresh = [name for name, stamp in entries.items() if name not in before or before[name].stamp != stamp]
        self.report.unchanged += len(entries) - len(fresh)
        folder.rows.update(dict.fromkeys(gone))
        self.report.removed += len(gone)
        chunks = [fresh[at : at + CHUNK] for at in range(0, len(fresh), CHUNK)] or [[]]
        folder.left = len(chunks)
        for chunk in chunks:
            pool = self.create_pool() if chunk else None
            self._waiting.append((folder, pool.submit(path, chunk) if pool else None, chunk))
            if pool is None or len(self._waiting) > AHEAD * pool.count:
                self._take()

    def _take(self) -> None:
        """Take in the next chunk that was read."""
        folder, future, chunk = self._waiting.popleft()
        rows = read_files(folder.path, chunk) if future is None else future.result()
        for name, row in rows:
            folder.rows[name] = row
            if row is None or row.stamp in UNSETTLED:
                folder.is_settled = False
                if row is None or row.stamp:
                    self.unsettled.add(folder.path)
            if row is not None and row.key:
                self.report.registered += 1
            elif row is not None:
                self.report.note_bad(os.path.join(folder.path, name), row.reason)
        folder.left -= 1
        # a folder counts as finished when all of it was read, and nothing moved meanwhile
        digest = folder.digest if folder.left == 0 and folder.is_settled else b""
        taken, folder.rows = folder.rows, {}
        before = {name: folder.before[name] for name in taken if name in folder.before}
        self._changes.append(FolderChange(folder.path, digest, taken, before))
        self._size += len(taken)
        if self._size >= BATCH or monotonic() - self._saved > SAVE_S:
            self._save()

    def _forget(self, path: str) -> None:
        """Take out a folder that is gone."""
        before = self.registry.files(self.prefix, path)
        self.report.removed += len(before)
        self._changes.append(FolderChange(path, None, dict.fromkeys(before), before))

    def _drain(self) -> None:
        while self._waiting:
            self._take()

    def _end(self) -> IndexReport:
        self._drain()
        self._save()
        return self.report

    def _save(self) -> None:
        if self._changes:
            self.registry.save(self.prefix, self._changes)
        self._changes, self._size, self._saved = [], 0, monotonic()


@define(eq=False)
class _Folder:
    path: str
    digest: bytes
    before: dict[str, FileRow]
    rows: dict[str, FileRow | None] = field(factory=dict)
    left: int = 0
    is_settled: bool = True
