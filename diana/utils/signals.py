"""Ending well when the system asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signal(stop: threading.Event | None = None, *, insist: bool = False) -> Iterator[threading.Event]:
    """
    Give an event (``stop``, if there is one) that SIGTERM and SIGINT set; the old handlers come back at the end.

    With ``insist`` a second signal raises SystemExit at once.
    """
    stopped = threading.Event() if stop is None else stop

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if insist and stopped.is_set():
            raise SystemExit(128 + number)
        stopped.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
