"""Notifications of a file system, by watchdog."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from typing import Any  # watchdog's observer and events

log = logging.getLogger(__name__)


class WatchdogEventReceiver:
    """Take watchdog's events and tell a source, which has a method ``changed(path)``, of the paths in them."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def dispatch(self, wd_event: Any) -> None:
        """Take an event from an observer."""
        self.on_any_event(wd_event)

    def on_any_event(self, wd_event: Any) -> None:
        """Tell of the path of an event, and of where it was moved to."""
        for path in (wd_event.src_path, wd_event.dest_path):
            if path:
                self._source.changed(os.fsdecode(path))


class Notifier:
    """
    Call a function with each path, relative to the root, that the file system says has changed.

    Where it cannot (no inotify watches left, a network mount), ``start`` returns False and nothing is called.
    """

    def __init__(self, root: str, touched: Callable[[str | None], None]) -> None:
        self._root = os.path.abspath(root)
        self._touched = touched
        self._observer: Any = None

    @property
    def alive(self) -> bool:
        """Tell whether notifications still come."""
        observer = self._observer
        if observer is None or not observer.is_alive():
            return False
        # newer watchdogs read for all emitters in one thread, whose end shows nowhere else
        readers = (getattr(one, "_inotify_fd", one) for one in observer.emitters)
        return all(one.is_alive() for one in (*observer.emitters, *readers) if hasattr(one, "is_alive"))

    def start(self) -> bool:
        """Start the threads; False when the system cannot notify."""
        from watchdog import events
        from watchdog.observers import Observer

        wanted = [
            events.FileCreatedEvent,
            events.FileModifiedEvent,
            events.FileMovedEvent,
            events.FileClosedEvent,
            events.FileDeletedEvent,
            events.DirCreatedEvent,
            events.DirMovedEvent,
            events.DirDeletedEvent,
        ]
        self.stop()
        _keep_names_out_of_logs()
        observer = Observer()
        receiver: Any = WatchdogEventReceiver(self)
        try:
            observer.schedule(receiver, self._root, recursive=True, event_filter=wanted)
            observer.start()
        except (OSError, RuntimeError) as error:
            log.debug("no notifications: %s", type(error).__name__)
            _end(observer)
            return False
        self._observer = observer
        return True

    def stop(self) -> None:
        """Stop the threads; twice does no harm."""
        observer, self._observer = self._observer, None
        if observer is not None:
            _end(observer)

    def changed(self, path: str) -> None:
        """Tell of one changed path, the root itself as None; paths outside do not count."""
        if path == self._root:
            self._touched(None)
        elif path.startswith(self._root.rstrip("/") + "/"):
            self._touched(path[len(self._root.rstrip("/")) + 1 :])


def _keep_names_out_of_logs() -> None:
    """
    Stop watchdog from logging each event at DEBUG, and from warning with lists of paths when a folder appears just
    while it is adding it: names of files can hold names of patients.
    """
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.")
    logger = logging.getLogger("watchdog")
    if logger.level < logging.INFO:
        logger.setLevel(logging.INFO)


def _end(observer: Any) -> None:
    observer.unschedule_all()
    observer.stop()
    if observer.ident is not None:
        observer.join(timeout=5)
