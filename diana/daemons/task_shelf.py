"""The tasks that a process has made, kept for as long as they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from attrs import define, field

from diana.daemons.task import Task
from diana.ledger.work_rows import Job

MAX_TASKS = 8


@define(eq=False)
class _Kept:
    job: Job
    task: Task
    users: int = 0
    retired: bool = False


@define(eq=False)
class TaskShelf:
    """Make a task for each job and spec once; beyond ``MAX_TASKS`` the oldest are closed when out of use."""

    make: Callable[[Job], Task]
    _kept: dict[int, _Kept] = field(factory=dict, init=False)
    _lock: Lock = field(factory=Lock, init=False)

    @contextmanager
    def task(self, job: Job) -> Iterator[Task]:
        """Give the task of a job; when the job's spec has changed, a new one. Raises what ``make`` raises."""
        with self._lock:
            kept = self._kept.get(job.number)
            if kept is None or kept.job.spec != job.spec:
                made = _Kept(job, self.make(job))
                if kept is not None:
                    self._retire(kept)
                kept = self._kept[job.number] = made
                self._make_room()
            kept.users += 1
        try:
            yield kept.task
        finally:
            with self._lock:
                kept.users -= 1
                if kept.retired and not kept.users:
                    _close(kept.task)

    def close(self) -> None:
        """Close every task, those that are still used too."""
        with self._lock:
            for kept in self._kept.values():
                _close(kept.task)
            self._kept.clear()

    def _make_room(self) -> None:
        *earlier, _newest = self._kept.values()
        for kept in earlier[: max(0, len(self._kept) - MAX_TASKS)]:
            del self._kept[kept.job.number]
            self._retire(kept)

    @staticmethod
    def _retire(kept: _Kept) -> None:
        kept.retired = True
        if not kept.users:
            _close(kept.task)


def _close(task: Task) -> None:
    close = getattr(task, "close", None)
    if close is not None:
        close()
