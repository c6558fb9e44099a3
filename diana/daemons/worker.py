"""A worker: takes items of any job from the line, works them, and leaves cleanly; a group of them is kept alive."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any  # descriptions of services are JSON

from attrs import define, field, frozen

from diana.daemons.desk import LEASE_S, TRIES, Desk
from diana.daemons.reconciler import Reconciler
from diana.daemons.runner_dramatiq import line_name
from diana.daemons.task import TASKS
from diana.exceptions import ConfigError, GatewayConnectionError, ItemNotFound, StateUnavailable
from diana.ledger.dispatch import AGAIN_S
from diana.ledger.store import Store
from diana.ledger.work import MAX_KILLS, OPEN, Work
from diana.utils.endpoint import ServiceManager
from diana.utils.gateways.work_queue import HEARTBEAT_MS, WorkQueue

log = logging.getLogger(__name__)

LOOK_S = 0.2
HEALTHY_S = 60.0
LONGEST_PAUSE_S = 30.0


@frozen
class WorkerPlan:
    """
    Say what a worker works for: plain values, so that it can be handed to another process.

    ``ledger`` is a path or a URL, ``broker_url`` that of a Redis; both may hold passwords. ``services`` holds
    descriptions as in a services file.
    """

    ledger: str = field(repr=False)
    broker_url: str = field(repr=False)
    threads: int = 4
    services: Mapping[str, Any] = field(factory=dict, repr=False)
    origin: str = "services"
    tasks: Mapping[str, str] = field(factory=lambda: dict(TASKS))
    lease_s: float = LEASE_S
    tries: int = TRIES
    max_kills: int = MAX_KILLS
    grace_s: float = 30.0
    again_s: float = AGAIN_S
    heartbeat_s: float = HEARTBEAT_MS / 1000

    def work(self) -> Work:
        """Open the ledger."""
        return Work(Store(self.ledger), max_kills=self.max_kills)

    def queue(self, work: Work) -> WorkQueue:
        """Return the line of the ledger. Raises GatewayRefused when the broker does not let us in."""
        queue = WorkQueue(self.broker_url, line_name(work), heartbeat_ms=int(self.heartbeat_s * 1000))
        try:
            queue.check()
        except GatewayConnectionError as error:
            log.warning("%s; waiting for it", error)
        return queue


@define(eq=False)
class Worker:
    """Work items in ``plan.threads`` threads of this process until told to stop."""

    plan: WorkerPlan
    _unable: set[int] = field(factory=set, init=False)

    def run(self, stop: threading.Event) -> None:
        """
        Work until ``stop`` is set; then start nothing more.

        What is in hand may end within ``plan.grace_s`` seconds, what does not is given back. Raises StateError or a
        GatewayError for a ledger or broker that cannot be used at the start.
        """
        work = self.plan.work()
        queue = self.plan.queue(work)
        services = ServiceManager(self.plan.services, self.plan.origin)
        try:
            with Desk(work, services, self.plan.tasks, self.plan.lease_s, self.plan.tries) as desk:
                serving = queue.serve(lambda job, item: self._handle(desk, job, item), self.plan.threads)
                log.info("worker %s is ready with %d threads", desk.name, self.plan.threads)
                stop.wait()
                late = threading.Timer(self.plan.grace_s * 0.8, desk.stop_now.set)
                late.daemon = True
                late.start()
                serving.stop(self.plan.grace_s)
                late.cancel()
        finally:
            queue.close()
            services.close()
            work.store.close()

    def _handle(self, desk: Desk, job: int, item: int) -> None:
        try:
            desk.work_one(job, ids=[item])
        except ConfigError as error:
            if job not in self._unable:
                log.error("job %d cannot be worked here: %s", job, error)
            self._unable.add(job)
        except ItemNotFound:
            log.info("job %d is not in the ledger any more", job)
        except StateUnavailable as error:
            log.warning("item %d waits, the ledger is away: %s", item, type(error).__name__)


def is_idle(work: Work) -> bool:
    """Tell whether no open job has anything left to do."""
    return not any(set(work.counts(job.number)) & set(OPEN) for job in work.jobs() if job.is_open)


@define(eq=False)
class Child:
    """Keep one process of a group: what it is, since when, and how long to wait before the next."""

    process: BaseProcess
    began: float = field(factory=monotonic)
    pause: float = 0.0
    ended: float = 0.0


@define(eq=False)
class WorkerGroup:
    """
    Keep ``count`` worker processes alive, and the line in step with the ledger, until told to stop.

    ``start`` starts a process that runs a ``Worker`` and ends cleanly at SIGTERM. One that dies is replaced, at once at
    first and then after pauses of up to half a minute.
    """

    plan: WorkerPlan
    start: Callable[[], BaseProcess]
    count: int = 1
    reconcile: bool = True

    def run(self, stop: threading.Event, *, until_idle: bool = False) -> None:
        """Work until ``stop`` is set, or with ``until_idle`` until no open job has anything left."""
        work = self.plan.work()
        queue = self.plan.queue(work)
        over = threading.Event()
        reconciler = Reconciler(work, queue, again_s=self.plan.again_s)
        thread = threading.Thread(target=reconciler.run, args=(over,), name="reconciler", daemon=True)
        if self.reconcile:
            thread.start()
        crew = [Child(self.start()) for _ in range(self.count)]
        try:
            while not stop.wait(LOOK_S):
                self._replace_dead(crew)
                if until_idle and _idle(work):
                    break
        finally:
            over.set()
            self._end(crew)
            if self.reconcile:
                thread.join()
            queue.close()
            work.store.close()

    def _replace_dead(self, crew: list[Child]) -> None:
        now = monotonic()
        for at, child in enumerate(crew):
            if child.process.is_alive():
                continue
            if not child.ended:
                child.ended = now
                child.pause = 0.1 if now - child.began > HEALTHY_S else min(LONGEST_PAUSE_S, child.pause * 2 or 0.1)
                log.warning("a worker process has ended (%s); another takes its place", child.process.exitcode)
            if now - child.ended >= child.pause:
                child.process.join()
                crew[at] = Child(self.start(), pause=child.pause)

    def _end(self, crew: list[Child]) -> None:
        for child in crew:
            if child.process.is_alive():
                child.process.terminate()
        end = monotonic() + self.plan.grace_s + 5.0
        for child in crew:
            child.process.join(max(0.1, end - monotonic()))
            if child.process.is_alive():
                child.process.kill()
                child.process.join()


def _idle(work: Work) -> bool:
    try:
        return is_idle(work)
    except StateUnavailable:
        return False
