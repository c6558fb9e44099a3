"""The routing daemon: sources are polled, events journalled, triggers worked, until it is told to stop."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any  # actions return what they like

from attrs import evolve

from diana.exceptions import ConfigError, DianaError
from diana.ledger.journal import Journal
from diana.ledger.receipts import Receipt
from diana.ledger.rows import Delivery, EventRow, Result
from diana.ledger.store import Store
from diana.utils.dicom.events import DicomEventType
from diana.utils.dicom.levels import DicomLevel
from diana.utils.endpoint.circuit import Backoff, Circuit
from diana.utils.endpoint.observable import Event, Observable
from diana.utils.endpoint.poller import Poller
from diana.utils.endpoint.trigger import Trigger
from diana.utils.files import whole_file

log = logging.getLogger(__name__)

__all__ = ["Trigger", "Watcher"]

UNKNOWN_ERROR_TRIES = 5
AHEAD = 4
BEAT_S = 10.0
INSTANCE = int(DicomLevel.INSTANCES)


class Watcher:
    """
    Watch sources and work their events by triggers, at least once each, over restarts and outages.

    Without a ``journal`` the memory ends with the process. ``action_interval`` is the longest time in seconds between
    two looks at the own state. After ``max_attempts`` failures that might heal, or one that cannot, a delivery is dead
    with its reason; failures of a party that is down (its circuit is open) do not count. ``grace`` is the time in
    seconds that running work gets after ``stop``.
    """

    def __init__(
        self,
        action_interval: float = 1.0,
        *,
        journal: Journal | None = None,
        max_attempts: int = 25,
        grace: float = 30.0,
        backoff: Backoff | None = None,
        until_idle: bool = False,
    ) -> None:
        self.action_interval = max(0.01, action_interval)
        self.journal = journal or Journal(Store())
        self.max_attempts = max_attempts
        self.grace = grace
        self.backoff = backoff or Backoff()
        self.until_idle = until_idle
        self.triggers: dict[str, Trigger] = {}
        self.circuits: dict[str, Circuit] = {}
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._fresh = False
        self._results: deque[tuple[Delivery, Result]] = deque()
        self._in_hand: dict[int, Delivery] = {}
        self._lonely: Delivery | None = None
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._next_due: float | None = 0.0
        self._next_beat = 0.0

    def add_trigger(self, trigger: Trigger) -> None:
        """Add a trigger; a source is watched once whatever its triggers. Raises ConfigError for a name used twice."""
        if trigger.name in self.triggers:
            raise ConfigError(f"two triggers have the name {trigger.name!r}")
        self.triggers[trigger.name] = trigger

    def fire(self, event: Event) -> None:
        """Call the action of every trigger for the event's source and type, here and now, without the journal."""
        for trigger in list(self.triggers.values()):
            if trigger.evtype == event.evtype and trigger.source.source_id == event.source_id:
                trigger.action(event.data)

    def stop(self) -> None:
        """Ask ``run`` to end: nothing new is started, running work is finished within the grace."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Watch and work until ``stop``; with ``until_idle`` until every source is quiet and the work is done."""
        self.journal.store.own()
        back, dead = self.journal.recover()
        if back or dead:
            log.warning("the last run ended with %d deliveries in hand; %d of them are dead now", back, dead)
        pollers = self._make_pollers()
        for name, trigger in self.triggers.items():
            self._pools[name] = ThreadPoolExecutor(trigger.workers, thread_name_prefix=f"work-{name}")
        try:
            self._close_finished(pollers, None)
            for poller in pollers.values():
                poller.start()
            self._work(pollers)
        finally:
            for poller in pollers.values():
                poller.stop()
            self._end_work()
            self.journal.store.close()

    def status(self) -> dict[str, Any]:
        """Return what a monitor wants to know: counts by trigger and state, open circuits, oldest unfinished work."""
        oldest = self.journal.oldest_open()
        return {
            "time": time.time(),
            "pid": os.getpid(),
            "deliveries": self.journal.counts(),
            "down": sorted(name for name, circuit in self.circuits.items() if circuit.is_open),
            "oldest_s": None if oldest is None else max(0.0, time.time() - oldest),
        }

    def _beat(self) -> None:
        """Write ``status.json`` beside the ledger now and then, for whoever watches the watcher."""
        folder = self.journal.store.path and self.journal.store.path.parent
        if folder is None or time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + BEAT_S
        try:
            with whole_file(folder / "status.json", durable=False) as out:
                out.write(json.dumps(self.status()).encode())
        except OSError as error:
            log.debug("status.json cannot be written: %s", error.strerror)

    def _make_pollers(self) -> dict[str, Poller]:
        sources: dict[str, Observable] = {}
        wanted: dict[str, dict[int, list[str]]] = {}
        for trigger in self.triggers.values():
            source_id = trigger.source.source_id
            sources.setdefault(source_id, trigger.source)
            wanted.setdefault(source_id, {}).setdefault(int(trigger.evtype), []).append(trigger.name)
        return {
            source_id: Poller(source, wanted[source_id], self.journal, self._arrived, self._backlog)
            for source_id, source in sources.items()
        }

    def _arrived(self) -> None:
        self._fresh = True
        self._wake.set()

    def _backlog(self, triggers: list[str]) -> int:
        counts = self.journal.counts()
        return min((counts.get(name, {}).get("new", 0) for name in triggers), default=0)

    def _work(self, pollers: dict[str, Poller]) -> None:
        deadline: float | None = None
        self._fresh = True
        while True:
            self._wake.clear()
            if self._stop.is_set() and deadline is None:
                deadline = time.monotonic() + self.grace
                for poller in pollers.values():
                    poller.ask_to_stop()
            results = self._drain()
            self._fresh, fresh = False, self._fresh
            stopping = deadline is not None
            if results or fresh or self._is_due():
                self._turn(results, stopping, pollers)
            if stopping and not self._results and (not self._in_hand or time.monotonic() > (deadline or 0.0)):
                return
            if self.until_idle and not stopping and self._is_idle(pollers):
                self.stop()
                continue
            self._beat()
            self._wake.wait(self._pause(stopping))

    def _turn(self, results: list[tuple[Delivery, Result]], stopping: bool, pollers: dict[str, Poller]) -> None:
        wanted = {} if stopping else self._room()
        ordered = frozenset(name for name, trigger in self.triggers.items() if trigger.ordered)
        try:
            turn = self.journal.turn(
                [result for _, result in results],
                wanted,
                owner=self._owner,
                ordered=ordered,
                longest_wait=self.backoff.cap,
            )
        except DianaError as error:
            log.warning("the ledger cannot be written: %s", error)
            self._results.extendleft(reversed(results))
            self._stop.wait(1.0)
            self._fresh = True
            return
        self._next_due = turn.next_due
        done = [delivery for delivery, result in results if result.state == "done"]
        if done:
            self._close_finished(pollers, done)
        self._fresh = self._fresh or len(turn.started) > 0
        self._hand_out(turn.started)

    def _room(self) -> dict[str, int]:
        """Return how many deliveries of each trigger may be started now: a few for each worker, one for a probe."""
        if self._lonely is not None:
            return {}
        busy: dict[str, int] = {}
        for delivery in self._in_hand.values():
            busy[delivery.trigger] = busy.get(delivery.trigger, 0) + 1
        found: dict[str, int] = {}
        for name, trigger in self.triggers.items():
            room = trigger.workers * AHEAD - busy.get(name, 0)
            for party in trigger.parties:
                room = min(room, self._circuit(party).room(room))
            if room > 0:
                found[name] = room
        return found

    def _hand_out(self, started: list[Delivery]) -> None:
        alone = [delivery for delivery in started if delivery.alone]
        if alone:
            self._lonely = alone[0]
            if alone[1:]:
                self.journal.put_back([delivery.id for delivery in alone[1:]])
        for delivery in started:
            if not delivery.alone:
                self._submit(delivery)
        self._submit_lonely()

    def _submit_lonely(self) -> None:
        if self._lonely is not None and not self._in_hand:
            self._submit(self._lonely)

    def _submit(self, delivery: Delivery) -> None:
        self._in_hand[delivery.id] = delivery
        for party in self.triggers[delivery.trigger].parties:
            self._circuit(party).started()
        self._pools[delivery.trigger].submit(self._run_one, delivery)

    def _run_one(self, delivery: Delivery) -> None:
        """Work one delivery in a thread of its trigger; whatever happens becomes a result."""
        trigger = self.triggers[delivery.trigger]
        try:
            event = _event(delivery.event)
            if trigger.source.still_there(event):
                result = self._judge(delivery, trigger, trigger.handle(event, delivery))
            else:
                result = Result(delivery.id, "done", "gone or changed before its turn")
        except DianaError as error:
            result = self._failed(delivery, trigger, error, str(error))
        except Exception as error:  # noqa: BLE001 - an action may raise anything; the loop must go on (R6)
            result = self._failed(delivery, trigger, error, f"{type(error).__name__} in {_place(error)}")
        for party in trigger.parties:
            self._circuit(party).probing = False
        self._results.append((delivery, result))
        self._wake.set()

    def _judge(self, delivery: Delivery, trigger: Trigger, outcome: Any) -> Result:
        if not isinstance(outcome, Receipt):
            self._note_success(trigger.parties)
            return Result(delivery.id, "done", outcome[:200] if isinstance(outcome, str) else "")
        receipt = evolve(outcome, id=delivery.receipt) if delivery.receipt and outcome.level < INSTANCE else outcome
        if receipt.state in ("verified", "unverifiable"):
            self._note_success(trigger.parties)
            return Result(delivery.id, "done", receipt.state, receipt=receipt)
        if receipt.temporary:
            return self._later(delivery, trigger, receipt.reason, receipt.blame, receipt=receipt)
        self._note_success(trigger.parties)
        log.warning("%s: delivery %d is dead: %s", trigger.name, delivery.id, receipt.reason or receipt.state)
        return Result(delivery.id, "dead", receipt.reason or receipt.state, receipt=receipt)

    def _failed(self, delivery: Delivery, trigger: Trigger, error: Exception, note: str) -> Result:
        may_heal = error.temporary if isinstance(error, DianaError) else delivery.attempt < UNKNOWN_ERROR_TRIES
        if not may_heal:
            self._note_success(trigger.parties)
            log.warning("%s: delivery %d is dead: %s", trigger.name, delivery.id, note)
            return Result(delivery.id, "dead", note)
        wish = getattr(error, "retry_after", None)
        return self._later(delivery, trigger, note, "", wish=wish)

    def _later(
        self,
        delivery: Delivery,
        trigger: Trigger,
        note: str,
        blame: str,
        *,
        wish: float | None = None,
        receipt: Receipt | None = None,
    ) -> Result:
        """Return the result of a failure that may heal; it counts only while the blamed party is not down."""
        party = {"source": trigger.source.source_id, "dest": trigger.dest}.get(blame) or trigger.name
        circuit = self._circuit(party)
        was_open = circuit.is_open
        if circuit.failed():
            log.warning("%s is down: %s; its work waits and is tried again", party, note)
        if delivery.attempt >= self.max_attempts and not was_open:
            log.warning(
                "%s: delivery %d is dead after %d attempts: %s", trigger.name, delivery.id, delivery.attempt, note
            )
            return Result(delivery.id, "dead", note, receipt=receipt)
        due = time.time() + (0.0 if was_open else self.backoff.delay(delivery.attempt, wish))
        kept = receipt if receipt is not None and (receipt.level < INSTANCE or receipt.study) else None
        return Result(delivery.id, "waiting", note, due=due, spent=not was_open, receipt=kept)

    def _note_success(self, parties: tuple[str, ...]) -> None:
        for party in parties:
            if self._circuit(party).succeeded():
                log.warning("%s is back", party)

    def _circuit(self, party: str) -> Circuit:
        return self.circuits.setdefault(party, Circuit(time.monotonic))

    def _drain(self) -> list[tuple[Delivery, Result]]:
        found = []
        while self._results:
            delivery, result = self._results.popleft()
            self._in_hand.pop(delivery.id, None)
            if self._lonely is not None and self._lonely.id == delivery.id:
                self._lonely = None
            found.append((delivery, result))
        self._submit_lonely()
        return found

    def _close_finished(self, pollers: dict[str, Poller], done: list[Delivery] | None) -> None:
        """Tell the sources that want to know which events are done with: all open ones, or those just worked."""
        for source_id, poller in pollers.items():
            if not poller.wants_done:
                continue
            ids = None if done is None else [one.event.id for one in done if one.event.source == source_id]
            if ids == []:
                continue
            finished = self.journal.finished_events(source_id, ids)
            for row in finished:
                poller.source.done(_event(row))
            if finished:
                self.journal.close_events([row.id for row in finished])

    def _is_due(self) -> bool:
        """Tell whether a waiting delivery or a probe may be due; asked after each pause."""
        now = time.monotonic()
        if any(one.is_open and not one.probing and now >= one.next_probe for one in self.circuits.values()):
            return True
        wall = time.time()
        return self._next_due is not None and (self._next_due <= wall or self._next_due > wall + self.backoff.cap)

    def _pause(self, stopping: bool) -> float:
        if stopping:
            return 0.1
        waits = [one.next_probe - time.monotonic() for one in self.circuits.values() if one.is_open and not one.probing]
        if self._next_due is not None:
            waits.append(self._next_due - time.time())
        least = 0.25 if any(one.is_open for one in self.circuits.values()) else 0.02
        return max(least, min([self.action_interval, *waits]))

    def _is_idle(self, pollers: dict[str, Poller]) -> bool:
        if self._in_hand or self._results or self._fresh or not all(one.is_quiet for one in pollers.values()):
            return False
        return not any(set(states) & {"new", "busy", "waiting"} for states in self.journal.counts().values())

    def _end_work(self) -> None:
        """Save what ended, give back what was not begun, and let the threads go."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        results = self._drain()
        self.journal.turn([result for _, result in results], {}, owner=self._owner)
        if self._in_hand:
            log.warning(
                "%d deliveries did not end within the grace; they are begun again next time", len(self._in_hand)
            )
            self.journal.put_back(list(self._in_hand))
        self._in_hand.clear()
        self._pools.clear()


def _place(error: BaseException) -> str:
    """Return file and line of where an error was raised, which say nothing about patients."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "the action" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _event(row: EventRow) -> Event:
    return Event(
        DicomEventType(row.evtype), row.data, key=row.key, source_id=row.source, study=row.study, timestamp=row.at
    )
