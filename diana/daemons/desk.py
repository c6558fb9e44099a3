"""The work in hand of one process: leases are kept, suspects worked alone, ends saved."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from attrs import define, field

from diana.daemons.task import TASKS, Later, Outcome, Task, make_task
from diana.daemons.task_shelf import TaskShelf
from diana.exceptions import DianaError, StateUnavailable
from diana.ledger import clock
from diana.ledger.work import OPEN, Work
from diana.ledger.work_rows import Claim
from diana.utils.endpoint import ServiceManager
from diana.utils.endpoint.circuit import Backoff

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

LEASE_S = 60.0
TRIES = 5
LONGEST_S = 6 * 3600.0
SAVE_PAUSE_S = 0.5


@define(eq=False)
class Hold:
    """Keep one claim: ``beat`` tells whether it is still ours, by the clock, else by asking the ledger."""

    work: Work
    claim: Claim
    lease_s: float
    stop: threading.Event
    began: float = field(factory=clock.seconds)
    safe_until: float = 0.0
    lost: bool = False

    def beat(self) -> bool:
        """Tell whether to go on."""
        if self.lost or self.stop.is_set():
            return False
        if clock.seconds() < self.safe_until:
            return True
        try:
            return self.renew()
        except StateUnavailable:
            return False

    def renew(self) -> bool:
        """Lengthen the lease; False when it is lost. Raises StateUnavailable when nobody can say."""
        asked = clock.seconds()
        if self.work.renew(self.claim, self.lease_s):
            # somewhat less than the lease, since clocks do not run alike
            self.safe_until = asked + self.lease_s * 0.9
        else:
            self.lost = True
        return not self.lost


@define(eq=False)
class Gate:
    """Let many in at once, or one alone; whoever waits to be alone goes before those who come later."""

    _changed: threading.Condition = field(factory=threading.Condition, init=False)
    _inside: int = field(default=0, init=False)
    _lonely: int = field(default=0, init=False)
    _closed: bool = field(default=False, init=False)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside with others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed and not self._lonely)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside alone."""
        with self._changed:
            self._lonely += 1
            self._changed.wait_for(lambda: not self._closed and not self._inside)
            self._closed = True
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._lonely -= 1
                self._changed.notify_all()


@define(eq=False)
class Desk:
    """
    Claim and work items in the threads of the caller; use it as a context, which keeps the leases meanwhile.

    ``tries`` bounds the starts of an item that fails with temporary errors. After ``longest_s`` an item's lease is no
    longer renewed. Set ``no_more`` and nothing is started; set ``stop_now`` and every ``beat()`` is False.
    """

    work: Work
    services: ServiceManager = field(factory=ServiceManager)
    tasks: Mapping[str, str] = field(default=TASKS)
    lease_s: float = LEASE_S
    tries: int = TRIES
    longest_s: float = LONGEST_S
    name: str = field(factory=clock.worker_name)
    no_more: threading.Event = field(factory=threading.Event, init=False)
    stop_now: threading.Event = field(factory=threading.Event, init=False)
    _held: dict[int, Hold] = field(factory=dict, init=False)
    _shelf: TaskShelf = field(init=False)
    _gate: Gate = field(factory=Gate, init=False)
    _closed: threading.Event = field(factory=threading.Event, init=False)
    _keeper: threading.Thread | None = field(default=None, init=False)
    _backoff: Backoff = field(factory=Backoff, init=False)

    @_shelf.default
    def _make_shelf(self) -> TaskShelf:
        return TaskShelf(lambda job: make_task(job, self.services, self.work.store, self.tasks))

    def __enter__(self) -> Self:
        self._keeper = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.no_more.set()
        self.give_back()
        self._closed.set()
        if self._keeper is not None:
            self._keeper.join()
        self._shelf.close()

    @property
    def in_hand(self) -> int:
        """Return how many items are being worked."""
        return len(self._held)

    def check(self, job: str) -> None:
        """Raise ConfigError when the task of a job cannot be made here."""
        with self._shelf.task(self.work.job(job)):
            pass

    def work_one(self, job: str | int, *, ids: Sequence[int] | None = None) -> Claim | None:
        """
        Claim an item of a job (among ``ids``) and work it to an end; return its claim, or None when there was none.

        A suspect is claimed only when nothing else is in hand, and nothing else is claimed meanwhile: what dies with it
        is not blamed on others. Raises ConfigError when the task cannot be made here, before anything is claimed, and
        ItemNotFound when there is no such job.
        """
        row = self.work.job(job)
        with self._shelf.task(row) as task:
            with self._gate.shared():
                claim = self._claim_and_work(row.name, task, ids, suspects=False)
            if claim is not None or self.no_more.is_set() or not self.work.has_suspects(row.number, ids):
                return claim
            with self._gate.alone():
                return self._claim_and_work(row.name, task, ids, suspects=True)

    def _claim_and_work(self, job: str, task: Task, ids: Sequence[int] | None, *, suspects: bool) -> Claim | None:
        if self.no_more.is_set():
            return None
        asked = clock.seconds()
        claims = self.work.claim(job, self.name, self.lease_s, ids=ids, suspects=suspects)
        if not claims:
            return None
        hold = Hold(self.work, claims[0], self.lease_s, self.stop_now, safe_until=asked + self.lease_s * 0.9)
        self._held[hold.claim.id] = hold
        try:
            self._save(hold, self._do(task, hold))
        except BaseException:
            # the caller's thread is to end: somebody else shall have the item at once
            self._save(hold, Later(reason="interrupted", spent=False))
            raise
        finally:
            self._held.pop(hold.claim.id, None)
        return hold.claim

    def _do(self, task: Task, hold: Hold) -> Outcome | Later:
        """Work an item; whatever happens becomes a result."""
        try:
            result = task.do(hold.claim, hold.beat)
        except DianaError as error:
            return self._failed(hold, error)
        except Exception as error:  # noqa: BLE001  # a task may raise anything; the others go on
            where = _place(error)
            log.error("item %d: %s in %s", hold.claim.id, type(error).__name__, where)
            return Outcome("failed", {"reason": f"{type(error).__name__} in {where}"})
        if isinstance(result, Later):
            return result
        if not isinstance(result, Outcome) or not result.state or result.state in OPEN:
            return Outcome("failed", {"reason": "the task returned neither an outcome nor a delay"})
        return result

    def _failed(self, hold: Hold, error: DianaError) -> Outcome | Later:
        reason = str(error) or type(error).__name__
        if self.stop_now.is_set():
            return Later(reason="stopped", spent=False)
        if error.temporary and hold.claim.attempt < self.tries:
            wish = getattr(error, "retry_after", None)
            return Later(self._backoff.delay(hold.claim.attempt, wish), reason)
        return Outcome("failed", {"reason": reason, "error": type(error).__name__})

    def _save(self, hold: Hold, result: Outcome | Later) -> None:
        """Save how an item ended; while the ledger is away, try for as long as nobody else can have the item."""
        save = _saver(self.work, hold.claim, result)
        while not hold.lost:
            try:
                hold.lost = not save()
                break
            except StateUnavailable:
                if clock.seconds() > hold.safe_until + 10 * self.lease_s or self._closed.wait(SAVE_PAUSE_S):
                    log.warning("item %d: its end could not be saved; it is worked again", hold.claim.id)
                    return
        if hold.lost:
            log.warning("item %d has gone to another worker; what was done here is not counted", hold.claim.id)

    def _keep(self) -> None:
        """Renew the leases, and find those that have ended, until the desk is closed."""
        while not self._closed.wait(self.lease_s / 4):
            for hold in list(self._held.values()):
                if hold.lost or clock.seconds() - hold.began > self.longest_s:
                    continue
                try:
                    hold.renew()
                except DianaError as error:
                    log.warning("item %d: the lease could not be renewed: %s", hold.claim.id, type(error).__name__)
            with suppress(StateUnavailable):
                self.work.recover()

    def give_back(self) -> None:
        """Release what is still in hand, for others to start; what threads do with it later is not counted."""
        for hold in list(self._held.values()):
            hold.lost = True
            try:
                self.work.release(hold.claim, 0.0, "stopped", spent=False)
            except DianaError as error:
                log.warning("item %d could not be given back: %s", hold.claim.id, type(error).__name__)


def _saver(work: Work, claim: Claim, result: Outcome | Later) -> Callable[[], bool]:
    if isinstance(result, Later):
        return lambda: work.release(claim, result.delay_s, result.reason, spent=result.spent)
    return lambda: work.finish(claim, result.state, result.data)


def _place(error: BaseException) -> str:
    """Return file and line of where an error was raised, which say nothing about patients."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "the task" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
