"""Work on many items: a bad one is named and counted, the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from attrs import define, field

from diana.exceptions import DianaError
from diana_cli.app import WITH_FAILURES, say
from diana_cli.items import Item

Out = TypeVar("Out")


@define
class Batch:
    """Count what failed."""

    failures: int = field(default=0, init=False)

    @contextmanager
    def guard(self, label: str) -> Iterator[None]:
        """Say and count the failure of one item, and go on after the block."""
        try:
            yield
        except DianaError as error:
            self.failed(label, str(error) or type(error).__name__)
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failed(label, error.strerror or type(error).__name__)

    def each(self, items: Iterable[Item], work: Callable[[Item], Out]) -> Iterator[Out]:
        """Yield the result of every item that went well."""
        for item in items:
            with self.guard(item.label):
                yield work(item.checked())

    def failed(self, label: str, reason: str) -> None:
        """Say and count one failure."""
        self.failures += 1
        say(f"{label}: {reason}")

    @property
    def code(self) -> int:
        """Return the exit code: 0, or 3 when something failed."""
        return WITH_FAILURES if self.failures else 0
