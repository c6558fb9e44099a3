"""Several streams read side by side, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class _Channel(Generic[T]):
    """Hand over items between threads, at most ``room`` waiting."""

    def __init__(self, room: int, writers: int) -> None:
        self._items: deque[T] = deque()
        self._room = room
        self._writers = writers
        self._open = True
        self._changed = threading.Condition()
        self.error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Wait for room and add an item; False when nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._room or not self._open)
            if self._open:
                self._items.append(item)
                self._changed.notify_all()
            return self._open

    def done(self, error: BaseException | None = None) -> None:
        """Say that a writer has ended."""
        with self._changed:
            self._writers -= 1
            self.error = self.error or error
            self._changed.notify_all()

    def close(self) -> list[T]:
        """Let the writers end; return what nobody took."""
        with self._changed:
            self._open = False
            left = list(self._items)
            self._items.clear()
            self._changed.notify_all()
            return left

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or not self._writers or self.error)
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    @property
    def wanted(self) -> bool:
        """Tell whether somebody still reads."""
        return self._open


def side_by_side(
    streams: Sequence[Callable[[], Iterable[T]]], *, workers: int, room: int, drop: Callable[[T], None]
) -> Iterator[T]:
    """
    Yield the items of several streams as they come, ``workers`` streams at a time; at most ``room`` items wait.

    The first error of a stream ends all, after what came before it. ``drop`` is called with each item that nobody
    took.
    """
    waiting, lock = deque(streams), threading.Lock()
    count = min(workers, len(waiting))
    channel: _Channel[T] = _Channel(room, count)

    def work() -> None:
        error: BaseException | None = None
        try:
            while channel.wanted and channel.error is None:
                with lock:
                    if not waiting:
                        break
                    stream = waiting.popleft()
                _feed(stream, channel, drop)
        except BaseException as caught:  # noqa: BLE001  # raised again where the results are read
            error = caught
        channel.done(error)

    threads = [threading.Thread(target=work, name=f"stream-{number}", daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield from channel
        if channel.error is not None:
            raise channel.error
    finally:
        for item in channel.close():
            drop(item)
        for thread in threads:
            thread.join()


def _feed(stream: Callable[[], Iterable[T]], channel: _Channel[T], drop: Callable[[T], None]) -> None:
    source = iter(stream())
    try:
        for item in source:
            if not channel.put(item):
                drop(item)
                return
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()
