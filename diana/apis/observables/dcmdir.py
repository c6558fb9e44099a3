"""A folder of DICOM files that tells what is new."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, ClassVar, Final  # a cursor is JSON

from attrs import define, field

from diana.apis.dcmdir import DcmDir
from diana.apis.observables._folder_file import State, judge
from diana.apis.observables._folder_notify import Notifier, WatchdogEventReceiver
from diana.apis.observables._folder_watch import FolderWatch
from diana.exceptions import GatewayConnectionError, StateError
from diana.utils.dicom import DicomEventType
from diana.utils.endpoint import Event, Observable, Page
from diana.utils.endpoint.observable import Seen
from diana.utils.gateways.file_handlers import paths

log = logging.getLogger(__name__)

IGNORED: Final = (".part", ".tmp", ".filepart", ".crdownload", "~")
CURSOR: Final = {"kind": "folder", "version": 1}
PAGE: Final = 500
DOUBT: Final = 5.0
RETRY: Final = 60.0
SECONDS: Final = 1.0


def _nothing(keys: Sequence[str]) -> set[str]:
    return set()


@define(eq=False, slots=False)
class ObservableDcmDir(DcmDir, Observable):
    """
    Tell of each file that is new or changed, once it is complete.

    A file is announced (FILE_ADDED) when device, inode, size and time of change were the same over two looks at least
    ``settle`` seconds apart, and it parses to its end: a DICOM object, or a ZIP archive with its directory. A cut or
    foreign file is looked at again when it changes. Names with an ``ignored`` ending, hidden files and folders, and
    links are passed by. The data of an event are ``fn`` (relative to ``path``), ``size``, ``mtime_ns``, ``inode``,
    and the UIDs of a single object. Notifications of the system, where it has them, wake the scan; without them the
    pauses between scans grow with what a scan costs. ``polling_interval`` (seconds) is its longest pause.
    """

    shortest_pause: ClassVar[float | None] = 0.25
    WatchdogEventReceiver: ClassVar[type[WatchdogEventReceiver]] = WatchdogEventReceiver

    polling_interval: float = 1.0
    name: str = field(default="ObsDcmDir", kw_only=True)
    ignored: tuple[str, ...] = field(default=IGNORED, converter=tuple, kw_only=True)
    settle: float = field(default=0.3, kw_only=True)
    _watch: FolderWatch = field(init=False, repr=False)
    _notifier: Notifier = field(init=False, repr=False)
    _seen: Seen = field(init=False, repr=False, default=_nothing)
    _page: Page | None = field(init=False, repr=False, default=None)
    _wake: Callable[[], None] | None = field(init=False, repr=False, default=None)
    _root_id: tuple[int, int] | None = field(init=False, repr=False, default=None)
    _next_listen: float = field(init=False, repr=False, default=0.0)

    @_watch.default
    def _make_watch(self) -> FolderWatch:
        return FolderWatch(self.path, ignored=self.ignored, settle=self.settle, orthanc=self._orthanc)

    @_notifier.default
    def _make_notifier(self) -> Notifier:
        return Notifier(self.path, self._touched)

    def resume(self, cursor: Any, seen: Seen) -> None:
        """Begin with a scan; what ``seen`` knows is not announced again. Raises StateError for a foreign cursor."""
        if cursor is not None and (not isinstance(cursor, Mapping) or cursor.get("kind") != CURSOR["kind"]):
            raise StateError(f"{self.name}: the saved position is not one of a folder")
        self._seen = seen
        self._page = None
        self._watch = self._make_watch()
        self._watch.notified = self._notifier.alive

    def changes(self) -> Page:
        """Return up to 500 files that are new and complete. Raises GatewayConnectionError when the folder is gone."""
        if self._page is not None:
            return self._page
        try:
            self._look_at_root()
            self._keep_listening()
            self._watch.look()
        except OSError as error:
            raise GatewayConnectionError(f"{self.name}: the folder is gone ({os.strerror(error.errno or 0)})") from None
        events = self._announced(self._watch.settled(PAGE))
        page = Page(events, dict(CURSOR) if events else None, self._watch.busy)
        if events:
            self._page = page
        return page

    def poll_events(self) -> Sequence[Event]:
        """Return what is new, once, for use without a Watcher: what was returned is not told again."""
        page = self.changes()
        self.ack(page)
        return page.events

    def changed(self, path: str) -> None:
        """Look at an absolute path at the next scan."""
        self._notifier.changed(os.path.abspath(path))

    def ack(self, page: Page) -> None:
        """Take note that the events are durable; until then ``changes`` returns them again."""
        if page is self._page:
            self._page = None

    def still_there(self, event: Event) -> bool:
        """Tell whether the file of an event still is the one that was complete."""
        fn = event.data.get("fn")
        try:
            handle = paths.open_inside(self.path, paths.checked(str(fn)))
        except (OSError, ValueError):
            return False
        try:
            return _key(str(fn), paths.signature(os.fstat(handle))) == event.key
        finally:
            os.close(handle)

    def listen(self, wake: Callable[[], None]) -> None:
        """Start the notifications of the system; without them ``changes`` scans more often."""
        self._wake = wake
        self._next_listen = 0.0
        self._keep_listening()

    def unlisten(self) -> None:
        """Stop the notifications and their threads."""
        self._wake = None
        self._notifier.stop()
        self._watch.notified = False

    def close(self) -> None:
        """Stop the notifications, and close the index if there is one."""
        self.unlisten()
        super().close()
        super().close()

    def _look_at_root(self) -> None:
        """Begin anew when the folder is another one than before, as after a mount. Raises OSError."""
        found = os.stat(self.path)
        before, self._root_id = self._root_id, (found.st_dev, found.st_ino)
        if before not in (None, self._root_id):
            self._notifier.stop()
            self._next_listen = 0.0
            self._watch.touch(None)

    def _keep_listening(self) -> None:
        """Start notifications again where they ended, at most once a minute; then everything is looked at again."""
        if self._wake is None or self._notifier.alive or time.monotonic() < self._next_listen:
            return
        self._next_listen = time.monotonic() + RETRY
        before = self._watch.notified
        self._watch.notified = self._notifier.start()
        if self._watch.notified:
            self._watch.touch(None)
        if before and not self._watch.notified:
            log.warning("%s: no notifications any more; the folder is polled", self.name)

    def _touched(self, relative: str | None) -> None:
        self._watch.touch(relative)
        wake = self._wake
        if wake is not None:
            wake()

    def _announced(self, settled: list[tuple[str, bytes]]) -> list[Event]:
        """Return the events for the settled files that are complete and were not announced before."""
        keys = [_key(relative, known) for relative, known in settled]
        seen = self._seen(keys) if keys else set()
        events = []
        end = time.monotonic() + SECONDS
        for key, (relative, known) in zip(keys, settled, strict=True):
            if key in seen:
                self._watch.judged(relative, known)
            elif time.monotonic() > end:
                self._watch.hold(relative, known, 0)
            else:
                event = self._judged(relative, known, key)
                if event is not None:
                    events.append(event)
        return events

    def _judged(self, relative: str, known: bytes, key: str) -> Event | None:
        try:
            found = judge(self.path, relative, known)
        except OSError as error:
            log.warning("%s: a file cannot be read (%s)", self.name, os.strerror(error.errno or 0))
            self._watch.hold(relative, known, RETRY)
            return None
        if found.state is State.CHANGED:
            self._watch.touch(relative)
            return None
        if found.state is State.DOUBTFUL and not self._watch.waited(relative, known):
            self._watch.hold(relative, known, DOUBT)
            return None
        taken = found.state in (State.WHOLE, State.DOUBTFUL)
        self._watch.judged(relative, known, final=taken)
        if found.state is State.BROKEN:
            log.warning("%s: a DICOM file is damaged and stays where it is: %s", self.name, found.reason)
        if not taken:
            return None
        study = str(found.data.get("StudyInstanceUID") or "")
        return Event(DicomEventType.FILE_ADDED, found.data, key, self.source_id, study)


def _key(relative: str, known: bytes) -> str:
    """Return the key of an event: the same for the same file, and another when it is replaced or changed."""
    return sha256(os.fsencode(relative) + b"\0" + known).hexdigest()
