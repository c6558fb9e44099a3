"""Keep a registry of files current: woken by the kernel where it tells of changes, else by the clock."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from attrs import define, field

from diana.apis._folder_changes import Changes, FolderChanges
from diana.daemons.file_run import IndexReport, Run
from diana.exceptions import ConfigError, DianaError

log = logging.getLogger(__name__)

QUIET_S: Final = 0.3
LOOK_S: Final = 0.5
SETTLE_S: Final = 2.5
SURE_S: Final = 900.0


def keep_current(
    make: Callable[[], Run], *, pause: float, stop: threading.Event, on_report: Callable[[IndexReport], None] | None
) -> None:
    """
    Look at the tree of the runs that ``make`` makes, then at what changes in it, until ``stop`` is set.

    What was just being written is looked at once more when it has settled, and everything from time to time. Raises
    what ``make`` raises at the start, and errors of the registry that do not heal.
    """
    run = make()
    changes = FolderChanges(run.base, orthanc=run.orthanc)
    keeper = _Keeper(make, changes, stop, on_report)
    try:
        while not stop.is_set():
            began = monotonic()
            if not keeper.turn():
                stop.wait(pause)
            elif changes.notified:
                # whoever writes all the time is followed half of the time
                stop.wait(max(QUIET_S, monotonic() - began))
                keeper.wait()
            else:
                stop.wait(pause)
                changes.everything()
    finally:
        changes.close()


@define(eq=False)
class _Keeper:
    make: Callable[[], Run]
    changes: FolderChanges
    stop: threading.Event
    on_report: Callable[[IndexReport], None] | None
    _again: set[str] = field(factory=set, init=False)
    _again_at: float = field(default=0.0, init=False)
    _sure_at: float = field(default=0.0, init=False)
    _away: bool = field(default=False, init=False)

    def turn(self) -> bool:
        """Look at what changed; False when the folder or the registry is away."""
        found = Changes()
        try:
            if monotonic() >= self._sure_at:
                self.changes.everything()
            found = self.changes.take()
            self._watch(found)
            self._look(found)
        except (OSError, DianaError) as error:
            if isinstance(error, DianaError) and not error.temporary and not isinstance(error, ConfigError):
                raise
            if not self._away:
                log.warning("the folder or its registry is away (%s); it is waited for", type(error).__name__)
            self._away = True
            self.changes.again(found)
            return False
        if self._away:
            log.warning("the folder and its registry are back")
        self._away = False
        return True

    def _watch(self, found: Changes) -> None:
        """Ask to be told of what is new, before it is looked at."""
        if self.changes.notified:
            for tree in sorted(found.trees):
                for _ in self.changes.walk(tree):
                    if self.stop.is_set():
                        return

    def _look(self, found: Changes) -> None:
        run = self.make()
        folders = {name.rpartition("/")[0] for name in found.names}
        if not self.changes.notified or "" in found.trees:
            self._again.clear()
            report = run.everything()
            self._sure_at = monotonic() + SURE_S
        else:
            if self._again and monotonic() >= self._again_at:
                folders |= self._again
                self._again.clear()
            if not folders and not found.trees:
                return
            report = run.some(folders, found.trees)
        if run.unsettled:
            self._again |= {path[len(os.path.join(run.base, "")) :] for path in run.unsettled}
            self._again_at = monotonic() + SETTLE_S
        if self.on_report is not None:
            self.on_report(report)

    def wait(self) -> None:
        """Wait until the kernel has something to say or something is due."""
        handle = self.changes.handle
        if handle is None:
            return
        kernel = select.poll()
        kernel.register(handle, select.POLLIN)
        while not self.stop.is_set():
            due = min(self._sure_at, self._again_at if self._again else self._sure_at)
            left = due - monotonic()
            if left <= 0 or kernel.poll(1000 * min(left, LOOK_S)):
                return
