"""Processes that share the objects of a batch de-identification."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Final  # contexts and processes of multiprocessing

from attrs import define, evolve, field

from diana.daemons.deid_work import Bench, Done, Task, add_counts, failed
from diana.exceptions import DianaError, InvalidItem
from diana.utils.dicom import read_header

log = logging.getLogger(__name__)

GROUP: Final = 8
AHEAD: Final = 2
LARGEST_FRAME: Final = 8 << 20
_UID: Final = ("SOPInstanceUID",)


def work_all(
    bench: Bench, tasks: Iterable[Task], jobs: int, private: Sequence[int] = ()
) -> Generator[Done, None, None]:
    """
    Yield what became of each task, in any order; with more than one job in as many processes.

    Of tasks with the same SOP Instance UID none begins before those that came before it have ended.

    ``private`` are descriptors that those must not hold on to, such as locks.
    """
    if jobs <= 1:
        worker = bench.worker()
        for task in tasks:
            yield worker(task)
        return
    with closing(Crew(bench, jobs, private)) as crew:
        yield from crew.run(iter(tasks))


@define(eq=False)
class _Hand:
    """One process, and the groups of tasks that it has in hand."""

    process: Any
    pipe: Connection
    groups: deque[list[Task]] = field(factory=deque)

    def holds(self, uid: str) -> bool:
        """Tell whether an object with a SOP Instance UID is in hand."""
        return any(task.uid == uid for group in self.groups for task in group)


class Crew:
    """
    Keep processes busy with groups of tasks.

    A process that dies is replaced, and what it had in hand is tried again one by one; a task that kills a process
    alone is given up, and the others go on. Objects with the same SOP Instance UID are never in two processes at a
    time, so that the first of them wins under any number of jobs.
    """

    def __init__(self, bench: Bench, jobs: int, private: Sequence[int] = ()) -> None:
        self.bench = bench
        self.private = private
        # a process with threads must not be copied
        self._context: Any = get_context("fork" if threading.active_count() == 1 else "spawn")
        self._suspects: deque[Task] = deque()
        self._waiting: deque[Task] = deque(maxlen=1)
        self._hands: list[_Hand] = []
        if self._context.get_start_method() == "fork":
            from diana.deid.engine import prepare

            prepare()
        for _ in range(jobs):
            self._hire()

    def run(self, tasks: Iterator[Task]) -> Iterator[Done]:
        """Yield results as they come."""
        while True:
            for hand in self._hands:
                while not self._suspects and len(hand.groups) < AHEAD and (group := self._group(tasks, hand)):
                    self._give(hand, group)
                if not hand.groups and self._suspects and not self._is_elsewhere(self._suspects[0].uid, hand):
                    self._give(hand, [self._suspects.popleft()])
            busy = [hand for hand in self._hands if hand.groups]
            if not busy:
                return
            ready = wait([hand.pipe for hand in busy])
            for hand in busy:
                if hand.pipe in ready:
                    yield from self._take(hand)

    def close(self) -> None:
        """End the processes and wait for them."""
        for hand in self._hands:
            hand.pipe.close()
        for hand in self._hands:
            hand.process.join(5)
            if hand.process.is_alive():
                hand.process.terminate()
                hand.process.join()

    def _group(self, tasks: Iterator[Task], hand: _Hand) -> list[Task]:
        """Return the next few tasks, one alone when its bytes are many; up to one whose twin another process has."""
        found: list[Task] = []
        size = 0
        while len(found) < GROUP and size < LARGEST_FRAME:
            if not self._waiting:
                self._waiting.extend(map(_with_uid, islice(tasks, 1)))
            if not self._waiting or self._is_elsewhere(self._waiting[0].uid, hand):
                break
            found.append(self._waiting.popleft())
            size += len(found[-1].data or b"")
        return found

    def _is_elsewhere(self, uid: str, hand: _Hand) -> bool:
        return bool(uid) and any(one is not hand and one.holds(uid) for one in self._hands)

    def _hire(self) -> _Hand:
        ours, theirs = self._context.Pipe()
        copied: list[int] = []
        if self._context.get_start_method() == "fork":
            copied = [*self.private, ours.fileno(), *(hand.pipe.fileno() for hand in self._hands)]
        process = self._context.Process(target=_serve, args=(theirs, self.bench, copied), daemon=True)
        process.start()
        theirs.close()
        hand = _Hand(process, ours)
        self._hands.append(hand)
        return hand

    def _give(self, hand: _Hand, group: list[Task]) -> None:
        hand.groups.append(group)
        try:
            hand.pipe.send(group)
        except OSError:
            log.debug("a worker is gone before it was given something")  # ``_take`` finds out

    def _take(self, hand: _Hand) -> Iterator[Done]:
        try:
            found = hand.pipe.recv()
        except (EOFError, OSError):
            yield from self._replace(hand)
            return
        if isinstance(found, DianaError):
            raise found
        hand.groups.popleft()
        yield from found

    def _replace(self, hand: _Hand) -> Iterator[Done]:
        self._hands.remove(hand)
        hand.pipe.close()
        hand.process.join()
        log.warning("a worker process ended (%s); its objects are tried one by one", hand.process.exitcode)
        if len(hand.groups) == 1 and len(hand.groups[0]) == 1:
            yield failed(hand.groups[0][0], "failed", "killed", "the process that worked on it ended")
        else:
            self._suspects.extend(task for group in hand.groups for task in group)
        self._hire()


def _with_uid(task: Task) -> Task:
    """Return a task with the SOP Instance UID that its object says it has."""
    if task.problem:
        return task
    try:
        with task.blob().open() as stream:
            return evolve(task, uid=read_header(stream, _UID).get("SOPInstanceUID", ""))
    except (InvalidItem, OSError):
        return task  # whoever works on it says why


def _serve(pipe: Connection, bench: Bench, copied: Sequence[int]) -> None:
    """Work on groups of tasks until the other end closes."""
    for one in copied:
        os.close(one)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there are as many processes as cores already
    try:
        worker = bench.worker()
    except DianaError as error:
        pipe.send(error)
        return
    # a thread empties the pipe, so that two who send at the same time never wait for each other
    waiting: SimpleQueue[list[Task] | None] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, waiting.put), daemon=True).start()
    while (group := waiting.get()) is not None:
        done = [worker(task) for task in group]
        try:
            pipe.send(_summed(done) if bench.out is not None else done)
        except OSError:
            break
    os._exit(0)


def _summed(group: list[Done]) -> list[Done]:
    """Return results of which the last holds what was done in all; the counts are most of what goes through a pipe."""
    total: dict[str, Counter[str]] = {}
    for one in group:
        add_counts(total, one.actions)
    plain = {path: dict(counts) for path, counts in total.items()}
    return [*(evolve(one, actions={}) for one in group[:-1]), evolve(group[-1], actions=plain)]


def _receive(pipe: Connection, put: Callable[[list[Task] | None], None]) -> None:
    try:
        while True:
            put(pipe.recv())
    except (EOFError, OSError):
        put(None)
