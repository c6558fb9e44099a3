"""Run the items of a job: what a runner is, and the one that uses threads of this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Protocol

from attrs import define, field

from diana.daemons.desk import LEASE_S, TRIES, Desk
from diana.daemons.task import TASKS, Beat, Later, Outcome, Task, TaskMaker
from diana.exceptions import StateUnavailable
from diana.ledger.work import OPEN, Work
from diana.ledger.work_rows import Item
from diana.utils.endpoint import ServiceManager

__all__ = ["TASKS", "Beat", "Later", "OnItem", "Outcome", "Runner", "Task", "TaskMaker", "Teller", "Threads"]

log = logging.getLogger(__name__)

OnItem = Callable[[Item], None]
SHORTEST_NAP_S, LONGEST_NAP_S = 0.02, 1.0
PATIENCE_S = 600.0
OVERLAP_S = 5.0


class Runner(Protocol):
    """Run a job to its end, here or elsewhere."""

    def run(self, job: str, on_item: OnItem | None = None, stop: threading.Event | None = None) -> dict[str, int]:
        """
        Work until every item of a job has ended or ``stop`` is set; return state to number of items.

        ``on_item`` hears, in the caller's thread, of each item that ends during this call. Raises ConfigError when the
        job's task cannot be made, StateError when the ledger cannot be used.
        """


@define(eq=False)
class Threads:
    """
    Run a job in ``pool_size`` threads of this process; 0: in the caller's thread.

    ``tries`` bounds the starts of an item that fails with temporary errors. When ``stop`` is set nothing more is
    started, and what is in hand may end within ``grace_s`` seconds; then it is given back.
    """

    work: Work
    pool_size: int = 0
    services: ServiceManager = field(factory=ServiceManager, kw_only=True)
    tasks: Mapping[str, str] = field(default=TASKS, kw_only=True)
    lease_s: float = field(default=LEASE_S, kw_only=True)
    tries: int = field(default=TRIES, kw_only=True)
    grace_s: float = field(default=30.0, kw_only=True)

    def run(self, job: str, on_item: OnItem | None = None, stop: threading.Event | None = None) -> dict[str, int]:
        """Run a job, see ``Runner``."""
        stop = stop or threading.Event()
        self.work.recover(job)
        self.work.open(job)
        teller = Teller(self.work, job, on_item)
        with Desk(self.work, self.services, self.tasks, self.lease_s, self.tries) as desk:
            desk.check(job)
            if self.pool_size < 1:
                self._crew(desk, job, stop, teller.tell)
            else:
                self._run_pool(desk, job, stop, teller)
        teller.look()
        return self.work.counts(job)

    def _crew(self, desk: Desk, job: str, stop: threading.Event, tell: Callable[[int], None]) -> None:
        """Work items until there are none or ``stop`` is set, and report each; a ledger that is away is waited for."""
        since, nap = 0.0, SHORTEST_NAP_S
        while not stop.is_set():
            try:
                claim = desk.work_one(job)
                if claim is not None:
                    tell(claim.id)
                    nap = SHORTEST_NAP_S
                elif self._wait(job, stop, nap):
                    nap = min(LONGEST_NAP_S, nap * 1.5)
                else:
                    return
                since = 0.0
            except StateUnavailable as error:
                if not since:
                    log.warning("the ledger is away (%s); work waits for it", type(error).__name__)
                    since = monotonic()
                if monotonic() - since > PATIENCE_S:
                    raise
                stop.wait(LONGEST_NAP_S)

    def _run_pool(self, desk: Desk, job: str, stop: threading.Event, teller: Teller) -> None:
        ended: SimpleQueue[int | BaseException | None] = SimpleQueue()
        over = desk.no_more

        def work() -> None:
            trouble: BaseException | None = None
            try:
                self._crew(desk, job, over, ended.put)
            except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
                trouble = error
            ended.put(trouble)

        crew = [threading.Thread(target=work, name=f"runner-{at}", daemon=True) for at in range(self.pool_size)]
        if stop.is_set():
            return
        for one in crew:
            one.start()
        left, trouble, began = len(crew), None, 0.0
        while left:
            if stop.is_set() or over.is_set():
                over.set()
                began = began or monotonic()
                if monotonic() - began >= self.grace_s * 0.8:
                    desk.stop_now.set()
                if monotonic() - began >= self.grace_s:
                    break
            try:
                said = ended.get(timeout=0.1)
            except Empty:
                continue
            if isinstance(said, int):
                teller.tell(said)
                continue
            left -= 1
            if said is not None:
                trouble = trouble or said
                over.set()
        if trouble is not None:
            raise trouble

    def _wait(self, job: str, stop: threading.Event, nap: float) -> bool:
        """Wait until something may be claimed, ``nap`` at most; False when the job has ended or somebody closed it."""
        left = self.work.next_start(job)
        if left is None or not self.work.job(job).is_open:
            return False
        stop.wait(min(max(left, SHORTEST_NAP_S), nap))
        return True


@define(eq=False)
class Teller:
    """Tell a caller of each item of a job that ended since this was made, once."""

    work: Work
    job: str
    on_item: OnItem | None
    _since: float = field(init=False)
    _told: set[int] = field(factory=set, init=False)

    @_since.default
    def _begin(self) -> float:
        return 0.0 if self.on_item is None else self.work.leases.date()

    def tell(self, item: int) -> None:
        """Tell of an item, if it has ended."""
        if self.on_item is not None:
            self._tell(self.work.by_id(item))

    def look(self) -> None:
        """Tell of what ended meanwhile, wherever it was worked."""
        if self.on_item is None:
            return
        now = self.work.leases.date()
        for item in self.work.items(self.job, since=self._since):
            self._tell(item)
        # what ended before now may be committed a little after it
        self._since = max(self._since, now - OVERLAP_S)

    def _tell(self, item: Item) -> None:
        if self.on_item is not None and item.state not in OPEN and item.id not in self._told:
            self._told.add(item.id)
            self.on_item(item)
