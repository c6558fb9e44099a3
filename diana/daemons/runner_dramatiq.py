"""Run the items of a job in workers on any machine: they are sent by Dramatiq, and the ledger tells how they ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from attrs import define, field

from diana.daemons.reconciler import FAST_S, SLOW_S, Reconciler
from diana.daemons.runner import PATIENCE_S, OnItem, Teller
from diana.exceptions import StateUnavailable
from diana.ledger.dispatch import AGAIN_S, Dispatch
from diana.ledger.store import Store
from diana.ledger.work import Work
from diana.utils.gateways.work_queue import WorkQueue

log = logging.getLogger(__name__)


def _work(where: Work | str) -> Work:
    return where if isinstance(where, Work) else Work(Store(where))


def line_name(work: Work) -> str:
    """Return the name under which the messages for a ledger travel, so that several can share a broker."""
    return f"diana-{Dispatch(work).ledger()}"


@define(eq=False)
class Dramatiq:
    """
    Run jobs in the workers (``diana-cli worker``) of a ledger and a broker.

    ``work`` is a ledger that all workers reach, or its URL; ``broker_url`` that of a Redis. Only numbers of rows are
    sent. When ``stop`` is set the job is closed: no worker starts more of it, and ``run`` waits up to ``grace_s``
    seconds for what is in hand; the next ``run`` opens it again. When the caller dies the workers go on by themselves.
    """

    work: Work = field(converter=_work)
    broker_url: str = field(repr=False)
    again_s: float = field(default=AGAIN_S, kw_only=True)
    grace_s: float = field(default=30.0, kw_only=True)

    def run(self, job: str, on_item: OnItem | None = None, stop: threading.Event | None = None) -> dict[str, int]:
        """Run a job, see ``Runner``."""
        stop = stop or threading.Event()
        self.work.job(job)
        self.work.open(job)
        teller = Teller(self.work, job, on_item)
        with self._queue() as queue:
            self._follow(Reconciler(self.work, queue, job, self.again_s), job, teller, stop)
        if stop.is_set():
            self.work.open(job, False)
            self._wait_for_running(job, teller)
        teller.look()
        return self.work.counts(job)

    @contextmanager
    def _queue(self) -> Iterator[WorkQueue]:
        queue = WorkQueue(self.broker_url, line_name(self.work))
        try:
            yield queue
        finally:
            queue.close()

    def _follow(self, reconciler: Reconciler, job: str, teller: Teller, stop: threading.Event) -> None:
        """Keep the line filled until the job has ended, was closed by somebody, or ``stop`` is set."""
        pause, away = FAST_S, 0.0
        while not stop.is_set():
            try:
                sent = reconciler.turn()
                teller.look()
                if self.work.next_start(job) is None or not self.work.job(job).is_open:
                    return
                pause, away = FAST_S if sent else min(SLOW_S, pause * 1.5), 0.0
            except StateUnavailable as error:
                if not away:
                    log.warning("the ledger is away (%s); the job waits for it", type(error).__name__)
                    away = monotonic()
                if monotonic() - away > PATIENCE_S:
                    raise
                pause = SLOW_S
            stop.wait(pause)

    def _wait_for_running(self, job: str, teller: Teller) -> None:
        end = monotonic() + self.grace_s
        nap = threading.Event()
        while monotonic() < end and self.work.counts(job).get("running"):
            teller.look()
            nap.wait(FAST_S)
