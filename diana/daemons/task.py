"""What a task of a job is, and where the tasks of each kind of job are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol  # specs and outcomes are JSON

from attrs import field, frozen

from diana.exceptions import ConfigError, DianaError
from diana.ledger.store import Store
from diana.ledger.work_rows import Claim, Job
from diana.utils.endpoint import ServiceManager


@frozen
class Outcome:
    """Say in which final state an item ended; ``data`` is JSON, its ``reason`` holds no patient data."""

    state: str
    data: Mapping[str, Any] = field(factory=dict, repr=False)


@frozen
class Later:
    """Ask that an item is started again; ``spent`` False when it was not at fault, so that the start does not count."""

    delay_s: float = 0.0
    reason: str = ""
    spent: bool = True


Beat = Callable[[], bool]


class Task(Protocol):
    """
    Work the items of one job, from several threads at once. A method ``close()`` is called at the end, if there.
    """

    kind: str

    def do(self, claim: Claim, beat: Beat) -> Outcome | Later:
        """
        Work one item; what it does may be done again, so each effect is idempotent.

        Ask ``beat()`` between steps, and right before each effect: False means that the item has gone to somebody else
        or that the process shall end, so return ``Later()`` at once. The lease is renewed meanwhile, nothing need be
        done for it. A temporary ``DianaError`` is tried again with back-off, any other error is the end: *failed*.
        """


# a task is made from the spec of its job, the services of the machine it runs on, and the ledger that holds the job
TaskMaker = Callable[[Mapping[str, Any], ServiceManager, Store], Task]

# what a job may name, and the maker that stands for it; a job's data never names a module
TASKS: Mapping[str, str] = MappingProxyType(
    {
        "collect": "diana.daemons.collect_task:make_task",
        "index": "diana.daemons.file_indexer_task:make_task",
    }
)


def make_task(job: Job, services: ServiceManager, store: Store, tasks: Mapping[str, str] = TASKS) -> Task:
    """Return the task of a job. Raises ConfigError when its kind is not known here or its task cannot be made."""
    if job.kind not in tasks:
        raise ConfigError(f"no task here does work of the kind {job.kind!r}")
    module, _, name = tasks[job.kind].partition(":")
    try:
        maker: TaskMaker = getattr(import_module(module), name)
        return maker(job.spec, services, store)
    except DianaError:
        raise
    except Exception as error:  # a maker may raise anything, and its text may hold anything
        raise ConfigError(f"the task of the kind {job.kind!r} cannot be made: {type(error).__name__}") from error
