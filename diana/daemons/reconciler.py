"""Keep the line of messages in step with the ledger: what can be claimed is sent, what was lost is sent again."""

from __future__ import annotations

import logging
import threading
from time import monotonic

from attrs import define, field

from diana.exceptions import DianaError, GatewayError
from diana.ledger.dispatch import AGAIN_S, Dispatch
from diana.ledger.work import Work
from diana.utils.gateways.work_queue import WorkQueue

log = logging.getLogger(__name__)

LEAST_AHEAD = 64
MOST_AHEAD = 4096
FAST_S, SLOW_S = 0.1, 1.0
AWAY_S = 2.0


@define(eq=False)
class Reconciler:
    """
    Send what can be claimed of one job, or of all open jobs, never far ahead of the workers.

    A line that the workers nearly empty between two looks is made longer, one that hardly moves shorter: what comes
    back from a dead worker waits behind it.

    Any number of them may run, on any machine: the ledger knows what was sent. Leases of dead processes of this machine
    are ended, and items that killed their workers too often are buried. A broker that is away is waited for.
    """

    work: Work
    queue: WorkQueue
    job: str | None = None
    again_s: float = AGAIN_S
    _dispatch: Dispatch = field(init=False)
    _ahead: int = field(default=LEAST_AHEAD, init=False)
    _filled: bool = field(default=False, init=False)
    _away: bool = field(default=False, init=False)
    _not_before: float = field(default=0.0, init=False)

    @_dispatch.default
    def _make_dispatch(self) -> Dispatch:
        return Dispatch(self.work, again_s=self.again_s)

    def turn(self) -> int:
        """Look once; return how many messages were sent. Raises StateError when the ledger cannot be used."""
        self.work.recover(self.job)
        if monotonic() < self._not_before:
            return 0
        under_way = self._dispatch.under_way(self.job)
        if self._filled and under_way < self._ahead // 4:
            self._ahead = min(MOST_AHEAD, self._ahead * 2)
        elif under_way > self._ahead * 3 // 4:
            self._ahead = max(LEAST_AHEAD, self._ahead * 9 // 10)
        room = max(self._ahead - under_way, LEAST_AHEAD // 4)
        picked = self._dispatch.pick(room, self.job)
        self._filled = len(picked) == room
        return self._send(picked)

    def _send(self, picked: list[tuple[int, int]]) -> int:
        for at, (job, item) in enumerate(picked):
            try:
                self.queue.send(job, item)
            except GatewayError as error:
                self._dispatch.take_back([one for _, one in picked[at:]])
                if not self._away:
                    log.warning("%s; work waits for it", error)
                self._away, self._not_before = True, monotonic() + AWAY_S
                return at
        if picked and self._away:
            log.warning("the broker is back")
            self._away = False
        return len(picked)

    def run(self, stop: threading.Event) -> None:
        """Look again and again until told to stop; a ledger that is away is waited for."""
        pause, away = FAST_S, False
        while not stop.wait(pause):
            try:
                pause = FAST_S if self.turn() else min(SLOW_S, pause * 1.5)
                away = False
            except DianaError as error:
                if not away:
                    log.warning("the ledger is away (%s); work waits for it", type(error).__name__)
                pause, away = AWAY_S, True
