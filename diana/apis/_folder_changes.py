"""Which files below a folder may have changed since somebody last asked."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from typing import Final

from attrs import define, field

from diana.apis import _folder_inotify as inotify
from diana.apis._folder_index import enters, holds_files, listing

SHARE: Final = 10  # without notifications a walk that took t seconds is not begun again within SHARE * t
LONGEST: Final = 60.0


@define
class Changes:
    """
    Hold what to look at: files, and folders with everything below them, relative to the root.

    A ``tree`` of ``""`` is the whole folder; a file or tree may be gone by now.
    """

    names: set[str] = field(factory=set)
    trees: set[str] = field(factory=set)

    def __bool__(self) -> bool:
        return bool(self.names or self.trees)


class FolderChanges:
    """
    Tell what may have changed below a folder; begins with everything.

    On a local file system of Linux nothing is missed: the kernel's queue is read at each ``take``. Elsewhere, or where
    the kernel has no watches left, everything is looked at again, but not before ten times as long as the last look
    took (a minute at most). Whoever takes changes must ``walk`` their trees, which also sets the watches. Not for
    several threads at once.
    """

    def __init__(self, root: str, *, orthanc: bool = False, notify: bool = True) -> None:
        self._root = root
        self._orthanc = orthanc
        self._notify = notify
        self._kernel: inotify.Inotify | None = None
        self._paths: dict[int, str] = {}
        self._watches: dict[str, int] = {}
        self._identity: tuple[int, int] | None = None
        self._walked = -LONGEST
        self._took = 0.0
        self._waiting = Changes()

    @property
    def notified(self) -> bool:
        """Tell whether the kernel says what changes."""
        return self._kernel is not None

    @property
    def handle(self) -> int | None:
        """Return what can be read from when the kernel has something to say; None when it does not say."""
        return None if self._kernel is None else self._kernel.handle

    def close(self) -> None:
        """End the watches; the next ``take`` begins with everything again."""
        if self._kernel is not None:
            os.close(self._kernel.handle)
        self._kernel = None
        self._identity = None
        self._paths.clear()
        self._watches.clear()
        self._waiting = Changes()

    def touch(self, name: str) -> None:
        """Note that a file has changed."""
        self._waiting.names.add(name)

    def again(self, changes: Changes) -> None:
        """Give changes back that could not be worked on."""
        self._waiting.names |= changes.names
        self._waiting.trees |= changes.trees

    def everything(self) -> None:
        """Note that nothing is known."""
        self._waiting.trees.add("")

    def take(self) -> Changes:
        """Return what may have changed since the last call. Raises OSError when the root cannot be reached."""
        found, self._waiting = self._waiting, Changes()
        there = os.stat(self._root)
        if self._identity != (there.st_dev, there.st_ino):
            self.close()
            self._begin()
            self._identity = (there.st_dev, there.st_ino)
            found.trees.add("")
        elif self._kernel is not None:
            for event in self._kernel.read():
                self._heard(event, found)
        elif time.monotonic() - self._walked >= min(LONGEST, SHARE * self._took):
            found.trees.add("")
        if "" in found.trees:
            return Changes(set(), {""})
        return found

    def walk(self, tree: str) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
        """Yield each folder of a tree with its files, watching it before it is listed; nothing when it is gone."""
        begin = time.monotonic()
        visited: set[str] = set()
        todo = [tree]
        while todo:
            relative = todo.pop()
            try:
                self._watch(relative)
                folders, files = listing(self._root, relative, self._orthanc)
            except OSError:
                if not relative:
                    raise
                continue
            visited.add(relative)
            todo.extend(sorted(folders, reverse=True))
            yield relative, files
        below = f"{tree}/" if tree else ""
        for gone in [one for one in self._watches if (one == tree or one.startswith(below)) and one not in visited]:
            self._unwatch(gone)
        if not tree:
            self._walked = time.monotonic()
            self._took = self._walked - begin

    def _begin(self) -> None:
        if self._notify and inotify.is_local(self._root):
            try:
                self._kernel = inotify.Inotify()
            except OSError:
                self._kernel = None

    def _watch(self, relative: str) -> None:
        """Watch a folder; without room for it, or on another disk, give up the notifications. Raises OSError."""
        kernel = self._kernel
        if kernel is None:
            return
        path = os.path.join(self._root, relative)
        try:
            watch = kernel.add(path, follow=not relative)
            if self._identity is not None and os.stat(path).st_dev != self._identity[0]:
                raise OSError(errno.ENOSPC, "another disk")
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._notify = False
            os.close(kernel.handle)
            self._kernel = None
            self._paths.clear()
            self._watches.clear()
            return
        self._paths[watch] = relative
        self._watches[relative] = watch

    def _unwatch(self, relative: str) -> None:
        watch = self._watches.pop(relative)
        if self._paths.get(watch) == relative:  # else the folder was moved, and is watched under its new name
            del self._paths[watch]
            if self._kernel is not None:
                self._kernel.remove(watch)

    def _heard(self, event: inotify.Event, found: Changes) -> None:
        if event.mask & inotify.OVERFLOW:
            found.trees.add("")
            return
        folder = self._paths.get(event.watch)
        if folder is None:
            return
        if event.mask & inotify.ENDED:
            del self._paths[event.watch]
            if self._watches.get(folder) == event.watch:
                del self._watches[folder]
        if event.mask & (inotify.ENDED | inotify.MOVED | inotify.UNMOUNTED):
            found.trees.add(folder)
        elif event.name:
            name = f"{folder}/{event.name}" if folder else event.name
            if event.mask & inotify.IS_FOLDER:
                if enters(name, self._orthanc):
                    found.trees.add(name)
            elif not event.name.startswith(".") and holds_files(folder, self._orthanc):
                found.names.add(name)
        elif event.mask & inotify.IS_FOLDER and event.mask & inotify.ACCESS:
            found.trees.add(folder)
