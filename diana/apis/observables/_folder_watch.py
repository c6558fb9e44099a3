"""What is new in a folder: scans are the truth, notifications say where to look first."""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Final

from diana.apis._folder_index import enters, holds_files
from diana.utils.gateways.file_handlers import paths

COARSE: Final = 2_000_000_000  # a file system's clock may tick as slowly as this (ns)
SLICE: Final = 0.5  # seconds of scanning per look
PENDING: Final = 50_000
UNFINISHED: Final = 5_000
TOUCHED: Final = 10_000
SHARE: Final = 150  # a scan that took t seconds is not begun again within SHARE * t
GLANCE: Final = (1.0, 5.0)  # least seconds between two looks at the folders' times: without, with notifications
SCAN: Final = (10.0, 300.0)  # least seconds between two scans of everything: without, with notifications


class FolderWatch:
    """
    Find the files below a folder that are new or changed and have stopped changing.

    A file is known by device, inode, size and time of change. ``look`` advances what there is to scan, ``settled``
    gives the files that were the same over two looks at least ``settle`` seconds apart, and ``judged`` says that a file
    is dealt with until it changes. ``touch`` may be called from another thread; nothing else may.
    """

    def __init__(self, root: str, *, ignored: Sequence[str] = (), settle: float = 0.3, orthanc: bool = False) -> None:
        self.notified = False
        self._root = root
        self._ignored = tuple(one.lower() for one in ignored)
        self._settle = settle
        self._orthanc = orthanc
        self._known: dict[str, dict[str, bytes]] = {}
        self._stamps: dict[str, int] = {}
        self._pending: dict[str, tuple[bytes, float]] = {}
        self._held: dict[str, tuple[bytes, float]] = {}
        self._waited: dict[str, bytes] = {}
        self._unfinished: dict[str, bytes] = {}
        self._short: set[str] = set()
        self._work: deque[Iterator[None]] = deque()
        self._scanning = False
        self._next_glance = 0.0
        self._next_scan = 0.0
        self._lock = Lock()
        self._touched: set[str] = set()
        self._everything = False

    @property
    def busy(self) -> bool:
        """Tell whether there is something to do at once."""
        if self._work and len(self._pending) < PENDING:
            return True
        now = time.monotonic()
        first = next(iter(self._pending.values()), None)
        if first is not None and now - first[1] >= self._settle:
            return True
        return any(now >= due for _, due in self._held.values())

    def touch(self, relative: str | None) -> None:
        """Note that a file or folder may have changed; None: anything may have."""
        with self._lock:
            if relative is None or len(self._touched) >= TOUCHED:
                self._everything = True
                self._touched.clear()
            elif not self._everything:
                self._touched.add(relative)

    def look(self) -> None:
        """Look where something may be new, for about half a second at most. Raises OSError when the root is gone."""
        with self._lock:
            touched, self._touched = self._touched, set()
            everything, self._everything = self._everything, False
        for relative in touched:
            self._look_at(relative)
        now = time.monotonic()
        if self._scanning:
            if everything:
                self.touch(None)
        elif everything or (not self._work and now >= self._next_scan):
            self._scanning = True
            self._work.append(self._scan_everything())
        elif not self._work and self._short and len(self._pending) < PENDING // 2:
            self._work.append(self._scan_folders([*self._short]))
        elif not self._work and now >= self._next_glance:
            self._glance(now)
        end = now + SLICE
        while self._work and time.monotonic() < end and len(self._pending) < PENDING:
            try:
                next(self._work[0])
            except StopIteration:
                self._work.popleft()

    def settled(self, limit: int) -> list[tuple[str, bytes]]:
        """Return up to ``limit`` files, with their signatures, that are the same as ``settle`` seconds ago."""
        now = time.monotonic()
        ready = [(name, known) for name, (known, due) in self._held.items() if now >= due][:limit]
        for name, (known, since) in self._pending.items():
            if now - since < self._settle or len(ready) >= limit:
                break
            ready.append((name, known))
        found = []
        for name, known in ready:
            self._pending.pop(name, None)
            self._held.pop(name, None)
            current = self._now(name)
            if current == known:
                found.append((name, known))
            elif current is not None:
                self._consider(name, current)
        return found

    def judged(self, relative: str, known: bytes, *, final: bool = True) -> None:
        """Take note that a file with this signature is dealt with; unless ``final`` it is likely to change."""
        folder, _, base = relative.rpartition("/")
        self._known.setdefault(folder, {})[base] = known
        if not final:
            self._unfinished[relative] = known
            if len(self._unfinished) > UNFINISHED:
                del self._unfinished[next(iter(self._unfinished))]

    def waited(self, relative: str, known: bytes) -> bool:
        """Tell whether a file was held before with this signature."""
        return self._waited.pop(relative, None) == known

    def hold(self, relative: str, known: bytes, seconds: float) -> None:
        """Give a file back later, when it is still the same then."""
        self._held[relative] = (known, time.monotonic() + seconds)
        if seconds:
            self._waited[relative] = known

    def _now(self, relative: str) -> bytes | None:
        """Return the signature of a file; None when it is no regular file now."""
        try:
            found = os.stat(os.path.join(self._root, relative), follow_symlinks=False)
        except OSError:
            return None
        return paths.signature(found) if stat.S_ISREG(found.st_mode) else None

    def _is_ignored(self, base: str) -> bool:
        return base.startswith(".") or base.lower().endswith(self._ignored)

    def _is_outside(self, relative: str) -> bool:
        """Tell whether a path lies in a folder that is not entered."""
        parts = relative.split("/")[:-1]
        return not all(enters("/".join(parts[: at + 1]), self._orthanc) for at in range(len(parts)))

    def _consider(self, relative: str, known: bytes) -> None:
        """Begin to wait for a file to settle, unless that has begun."""
        held, pending = self._held.get(relative), self._pending.get(relative)
        if (held is not None and held[0] == known) or (pending is not None and pending[0] == known):
            return
        for waiting in (self._held, self._pending, self._waited, self._unfinished):
            waiting.pop(relative, None)
        self._pending[relative] = (known, time.monotonic())

    def _look_at(self, relative: str) -> None:
        """Look at one path that a notification named."""
        if self._is_outside(relative):
            return
        folder, _, base = relative.rpartition("/")
        try:
            found = os.stat(os.path.join(self._root, relative), follow_symlinks=False)
        except OSError:
            self._forget(relative)
            return
        if stat.S_ISDIR(found.st_mode):
            if enters(relative, self._orthanc):
                self._work.append(self._scan_folders([relative]))
        elif not stat.S_ISREG(found.st_mode):
            self._forget(relative)
        elif not self._is_ignored(base) and holds_files(folder, self._orthanc):
            known = paths.signature(found)
            if self._known.get(folder, {}).get(base) != known:
                self._consider(relative, known)

    def _forget(self, relative: str) -> None:
        """Forget a file or a folder, with what is below it."""
        folder, _, base = relative.rpartition("/")
        self._known.get(folder, {}).pop(base, None)
        self._pending.pop(relative, None)
        if relative in self._known:
            for one in [name for name in self._known if name == relative or name.startswith(f"{relative}/")]:
                del self._known[one]
                self._stamps.pop(one, None)
                self._short.discard(one)

    def _scan_everything(self) -> Iterator[None]:
        """Look at every file of every folder."""
        spent = 0.0
        visited = set()
        todo = [""]
        try:
            while todo:
                begin = time.monotonic()
                relative = todo.pop()
                folders = self._scan(relative, full=True)
                if folders is not None:
                    visited.add(relative)
                    todo.extend(folders)
                spent += time.monotonic() - begin
                yield
        finally:
            self._scanning = False
        for gone in self._stamps.keys() - visited:
            self._forget(gone)
        now = time.monotonic()
        self._next_scan = now + max(SCAN[self.notified], SHARE * spent)
        self._next_glance = now + max(GLANCE[self.notified], SHARE * spent / 10)

    def _scan_folders(self, todo: list[str]) -> Iterator[None]:
        """Look at the new files in some folders, and in those below them that are not known yet."""
        while todo:
            relative = todo.pop()
            known = set(self._stamps)
            todo.extend(one for one in self._scan(relative, full=False) or () if one not in known)
            yield

    def _glance(self, now: float) -> None:
        """Look at the files that were not complete, and for new files in the folders whose time has changed."""
        for relative, known in list(self._unfinished.items()):
            current = self._now(relative)
            if current is None:
                del self._unfinished[relative]
            elif current != known:
                self._consider(relative, current)
        changed = []
        for relative, stamp in list(self._stamps.items()):
            try:
                found = os.stat(os.path.join(self._root, relative), follow_symlinks=not relative)
            except OSError:
                self._forget(relative)
                continue
            if found.st_mtime_ns != stamp:
                changed.append(relative)
        if changed:
            self._work.append(self._scan_folders(changed))
        self._next_glance = now + max(GLANCE[self.notified], SHARE * (time.monotonic() - now))

    def _scan(self, relative: str, *, full: bool) -> list[str] | None:
        """
        List one folder and consider its files; return the folders in it, None when it cannot be listed.

        Unless ``full``, a name that has its old inode is taken for unchanged.
        """
        begin = time.monotonic()
        path = os.path.join(self._root, relative)
        self._short.discard(relative)
        try:
            there = os.stat(path, follow_symlinks=not relative)
            with os.scandir(path) as entries:
                if not stat.S_ISDIR(there.st_mode):
                    return None
                before = self._known.get(relative, {})
                after: dict[str, bytes] = {}
                folders = [
                    below
                    for entry in entries
                    if (below := self._sort(relative, entry, before, after, full)) is not None
                ]
        except OSError:
            if not relative:
                raise
            self._forget(relative)
            return None
        self._known[relative] = after
        fresh = time.time_ns() - there.st_mtime_ns < COARSE or relative in self._short
        self._stamps[relative] = 0 if fresh else there.st_mtime_ns
        if not full:
            self._next_glance = max(self._next_glance, begin + SHARE * (time.monotonic() - begin))
        return folders

    def _sort(
        self, relative: str, entry: os.DirEntry[str], before: dict[str, bytes], after: dict[str, bytes], full: bool
    ) -> str | None:
        """Return the path of a folder to enter; keep a known file in ``after``, and consider any other."""
        base = entry.name
        name = f"{relative}/{base}" if relative else base
        if entry.is_dir(follow_symlinks=False):
            return name if enters(name, self._orthanc) else None
        if self._is_ignored(base) or not holds_files(relative, self._orthanc):
            return None
        known = before.get(base)
        if known is not None and not full and int.from_bytes(known[8:16], "little") == entry.inode():
            after[base] = known
            return None
        if not entry.is_file(follow_symlinks=False):
            return None
        if len(self._pending) >= PENDING and known is None:
            self._short.add(relative)
            return None
        try:
            current = paths.signature(entry.stat(follow_symlinks=False))
        except OSError:
            return None
        if current == known:
            after[base] = known
        else:
            self._consider(name, current)
        return None
