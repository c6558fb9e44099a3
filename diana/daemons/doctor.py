"""Try services and say in one line each what is wrong and what to do about it; never hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue

from diana.daemons.doctor_probes import Finding, probes
from diana.exceptions import DianaError
from diana.utils.endpoint import Endpoint

__all__ = ["Finding", "answering", "examine"]

WORKERS = 16


def answering(endpoints: Mapping[str, Endpoint], *, timeout: float = 10.0) -> dict[str, bool]:
    """Return for each service whether it says within ``timeout`` seconds that it is well; all are asked at once."""
    ready = dict.fromkeys(endpoints, False)

    def ask(name: str) -> None:
        ready[name] = endpoints[name].check()

    _run_all({name: _later(ask, name) for name in endpoints}, timeout)
    return dict(ready)


def examine(endpoints: Mapping[str, Endpoint], *, timeout: float = 15.0) -> list[Finding]:
    """
    Try everything that can be tried on services, all at once, and return what was found, in the order of the services.

    What has not answered after ``timeout`` seconds is a finding, too.
    """
    found: dict[str, list[Finding]] = {name: [] for name in endpoints}

    def look(name: str) -> None:
        try:
            for one in probes(name, endpoints[name], timeout):
                found[name].append(one)
        except DianaError as error:
            found[name].append(Finding(name, "answer", "wrong", str(error), "look at its own log"))
        except Exception as error:  # noqa: BLE001  # one sick service must not hide the others
            found[name].append(Finding(name, "answer", "wrong", type(error).__name__, "report this as a bug"))

    unfinished = _run_all({name: _later(look, name) for name in endpoints}, timeout)
    for name in unfinished:
        text = f"no answer within {timeout:g} s"
        found[name].append(Finding(name, "answer", "wrong", text, "is it overloaded, stopped, or behind a firewall?"))
    return [one for name in endpoints for one in list(found[name])]


def _later(work: Callable[[str], None], name: str) -> Callable[[], None]:
    return lambda: work(name)


def _run_all(jobs: Mapping[str, Callable[[], None]], timeout: float) -> list[str]:
    """
    Run jobs in at most ``WORKERS`` threads; return the names of those that did not end in time.

    A job that hangs is left behind in a thread that does not keep the process alive.
    """
    waiting: SimpleQueue[str] = SimpleQueue()
    ended: SimpleQueue[str] = SimpleQueue()
    for name in jobs:
        waiting.put(name)

    def work() -> None:
        for name in iter(lambda: _next(waiting), None):
            try:
                jobs[name]()
            finally:
                ended.put(name)

    workers = min(WORKERS, len(jobs))
    for number in range(workers):
        threading.Thread(target=work, name=f"doctor-{number}", daemon=True).start()
    rounds = -(-len(jobs) // workers) if workers else 0
    left = set(jobs)
    for name in _until(ended, time.monotonic() + timeout * rounds, len(jobs)):
        left.discard(name)
    return [name for name in jobs if name in left]


def _next(waiting: SimpleQueue[str]) -> str | None:
    try:
        return waiting.get_nowait()
    except Empty:
        return None


def _until(ended: SimpleQueue[str], deadline: float, count: int) -> Iterator[str]:
    for _ in range(count):
        try:
            yield ended.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            return
