"""Bounded work in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def bounded_map(work: Callable[[In], Out], items: Iterable[In], *, workers: int = 4, ahead: int = 2) -> Iterator[Out]:
    """
    Yield ``work(item)`` in the order of the items, done by ``workers`` threads.

    At most ``workers * ahead`` items are taken before their results are consumed, so an endless source is safe. The
    first error is raised where its result would have been, and an error of ``items`` after the results of what came
    before it; nothing further is started then.
    """
    if workers <= 1:
        for item in items:
            yield work(item)
        return
    waiting: deque[Future[Out]] = deque()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="bounded-map")
    try:
        source, trouble = iter(items), None
        while True:
            try:
                item = next(source)
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001 - raised below, after what was begun before it
                trouble = error
                break
            waiting.append(executor.submit(work, item))
            if len(waiting) >= workers * ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if trouble is not None:
            raise trouble
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
