"""One source and the thread that looks at it for the Watcher."""

from __future__ import annotations

import logging
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from diana.exceptions import DianaError
from diana.ledger.journal import READ_AHEAD, Journal
from diana.ledger.rows import EventRow
from diana.utils.endpoint.observable import Observable, Page

log = logging.getLogger(__name__)

QUIET_SHARE = 0.01
LONGEST_AWAY = 30.0
LEAST_PAUSE = 0.005
RESERVE = 1 << 30


class Poller:
    """
    Look at one source again and again, and put each page into the journal with the source's cursor.

    The pause between two looks is a hundredth of the time since something last happened, between the source's
    ``shortest_pause`` and its ``polling_interval``, so that the delay is small where the traffic is, and a quiet source
    costs next to nothing. A source that cannot be asked is said once, tried less often, and said once when it is back.
    """

    def __init__(
        self,
        source: Observable,
        triggers: Mapping[int, Sequence[str]],
        journal: Journal,
        arrived: Callable[[], None],
        backlog: Callable[[list[str]], int],
    ) -> None:
        self.source = source
        self.wants_done = type(source).done is not Observable.done
        self._triggers = triggers
        self._names = [name for names in triggers.values() for name in names]
        self._journal = journal
        self._arrived = arrived
        self._backlog = backlog
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"poll-{source.name}", daemon=True)
        self._last_event = time.monotonic()
        self._failures = 0
        self._looks_without_news = 0
        self._taken = 0

    @property
    def is_quiet(self) -> bool:
        """Tell whether the last two looks found nothing."""
        return self._looks_without_news >= 2

    def start(self) -> None:
        """Start looking, in a thread of its own."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Ask the thread to end after the look it is at."""
        self._stop.set()
        self._wake.set()

    def stop(self) -> None:
        """End the thread and the source's notifications."""
        self.ask_to_stop()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)
        self.source.unlisten()

    def _run(self) -> None:
        resumed = False
        while not self._stop.is_set():
            try:
                if not resumed:
                    self.source.resume(self._journal.cursor(self.source.source_id), self._seen)
                    self.source.listen(self._wake.set)
                    resumed = True
                pause = self._look()
            except DianaError as error:
                pause = self._away(str(error))
            except Exception as error:  # noqa: BLE001 - a source may raise anything; the others must go on (R6)
                pause = self._away(f"{type(error).__name__} while looking")
            if pause > 0:
                self._wake.wait(pause)
                self._wake.clear()

    def _seen(self, keys: Sequence[str]) -> set[str]:
        return self._journal.seen(self.source.source_id, keys)

    def _look(self) -> float:
        """Look once; return the pause until the next look."""
        if self._must_wait():
            return 1.0
        page = self.source.changes()
        if page.events or page.cursor is not None:
            self._store(page)
        self.source.ack(page)
        if self._failures:
            log.warning("%s is back", self.source.name)
            self._failures = 0
        if page.events:
            self._last_event = time.monotonic()
            self._looks_without_news = 0
            self._arrived()
        elif not page.more:
            self._looks_without_news += 1
        return 0.0 if page.more else self._pause()

    def _store(self, page: Page) -> None:
        source_id = self.source.source_id
        rows = [
            EventRow(source_id, one.key, int(one.evtype), one.data, one.study, one.timestamp) for one in page.events
        ]
        self._taken += len(rows)
        self._journal.take(source_id, rows, self._triggers, page.cursor, wants_done=self.wants_done)

    def _pause(self) -> float:
        shortest = self.source.shortest_pause
        longest = max(self.source.polling_interval, LEAST_PAUSE)
        if shortest is None:
            return longest
        quiet = time.monotonic() - self._last_event
        return min(longest, max(shortest, quiet * QUIET_SHARE))

    def _must_wait(self) -> bool:
        """Tell whether enough is waiting already, or the disk of the ledger is nearly full."""
        if self._taken >= READ_AHEAD:
            self._taken = self._backlog(self._names)
            if self._taken >= READ_AHEAD:
                return True
        path = self._journal.store.path
        if path is not None:
            usage = shutil.disk_usage(path.parent)
            if usage.free < min(RESERVE, usage.total // 20):
                self._away("the disk of the ledger is nearly full; nothing new is taken")
                return True
        return False

    def _away(self, reason: str) -> float:
        self._failures += 1
        self._looks_without_news = 0
        if self._failures == 1:
            log.warning("%s cannot be watched: %s; it is tried again", self.source.name, reason)
        longest = max(self.source.polling_interval, LONGEST_AWAY)
        return random.uniform(0.5, 1.0) * min(longest, 0.25 * 2.0 ** min(self._failures, 12))  # noqa: S311  # spreads load
