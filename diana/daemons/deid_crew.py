"""Processes that share the objects of a batch de-identification."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Final  # contexts and processes of multiprocessing

from attrs import define, evolve, field

from diana.daemons.deid_work import Bench, Done, Task, add_counts, failed
from diana.exceptions import DianaError

log = logging.getLogger(__name__)

GROUP: Final = 8
AHEAD: Final = 2
LARGEST_FRAME: Final = 8 << 20


def work_all(
    bench: Bench, tasks: Iterable[Task], jobs: int, private: Sequence[int] = ()
) -> Generator[Done, None, None]:
    """
    Yield what became of each task, in any order; with more than one job in as many processes.

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


class Crew:
    """
    Keep processes busy with groups of tasks.

    A process that dies is replaced, and what it had in hand is tried again one by one; a task that kills a process
    alone is given up, and the others go on.
    """

    def __init__(self, bench: Bench, jobs: int, private: Sequence[int] = ()) -> None:
        self.bench = bench
        self.private = private
        # a process with threads must not be copied
        self._context: Any = get_context("fork" if threading.active_count() == 1 else "spawn")
        self._suspects: deque[Task] = deque()
        self._hands: list[_Hand] = []
        if self._context.get_start_method() == "fork":
            from diana.deid.engine import prepare

            prepare()
        for _ in range(jobs):
            self._hire()

    def run(self, tasks: Iterator[Task]) -> Iterator[Done]:
        """Yield results as they come."""
        more = True
        while True:
            for hand in self._hands:
                while more and not self._suspects and len(hand.groups) < AHEAD:
                    group = _group(tasks)
                    more = bool(group)
                    if group:
                        self._give(hand, group)
                if not hand.groups and self._suspects:
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


def _group(tasks: Iterator[Task]) -> list[Task]:
    """Return the next few tasks; one alone when its bytes are many."""
    found: list[Task] = []
    size = 0
    for task in tasks:
        found.append(task)
        size += len(task.data or b"")
        if len(found) >= GROUP or size >= LARGEST_FRAME:
            break
    return found


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
