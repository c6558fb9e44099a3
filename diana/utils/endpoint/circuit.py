"""When to try again: delays with jitter, and a breaker for each party that may be down."""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import define, field, frozen


@frozen
class Backoff:
    """
    Draw delays in seconds: full jitter over ``base * attempt**2``, at most ``cap``; a server's own wish is honoured.

    A square, since a party that is down is the circuit's matter: what fails beside others that succeed is soon right.
    """

    base: float = 0.5
    cap: float = 300.0

    def delay(self, attempt: int, wish: float | None = None) -> float:
        """Return the pause before the start that follows ``attempt`` (1 is the first)."""
        most = min(self.cap, self.base * attempt**2)
        drawn = random.uniform(0.1, 1.0) * most  # noqa: S311  # spreads load, keeps no secret
        return min(self.cap, max(drawn, wish or 0.0))


@define
class Circuit:
    """
    Keep work away from a party that is down.

    After ``limit`` failures in a row it opens: nothing is started but one probe after each pause; the pause doubles
    from ``first`` to ``longest`` seconds. One success closes it. ``clock`` is monotonic.
    """

    clock: Callable[[], float]
    limit: int = 5
    first: float = 0.25
    longest: float = 30.0
    failures: int = field(init=False, default=0)
    pause: float = field(init=False, default=0.0)
    next_probe: float = field(init=False, default=0.0)
    probing: bool = field(init=False, default=False)

    @property
    def is_open(self) -> bool:
        """Tell whether the party counts as down."""
        return self.failures >= self.limit

    def room(self, slots: int) -> int:
        """Return how many of ``slots`` may be started now; for an open circuit at most one probe."""
        if not self.is_open:
            return slots
        return min(slots, 1) if not self.probing and self.clock() >= self.next_probe else 0

    def started(self) -> None:
        """Note a start; while open it is the probe."""
        self.probing = self.is_open

    def succeeded(self) -> bool:
        """Note a success; True when this closed the circuit."""
        was_open = self.is_open
        self.failures, self.pause, self.probing = 0, 0.0, False
        return was_open

    def failed(self) -> bool:
        """Note a failure; True when this opened the circuit."""
        was_open = self.is_open
        self.failures += 1
        if self.is_open and (not was_open or self.probing):
            self.pause = min(self.longest, self.pause * 2 or self.first)
            self.next_probe = self.clock() + self.pause * random.uniform(0.7, 1.0)  # noqa: S311  # spreads load
        self.probing = False
        return self.is_open and not was_open
