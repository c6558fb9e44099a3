"""The sub-operations of C-MOVE and C-GET: instances on their way out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from attrs import define, field

from diana.exceptions import DianaError, GatewayAnswerError, GatewayConnectionError, GatewayRefused, ItemNotFound
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dimse_scu import Association, Outgoing
from diana.utils.gateways.dimse_service import SUCCESS
from diana.utils.gateways.dimse_wire import Wire

log = logging.getLogger(__name__)

WARNING: Final = 0xB000
CANNOT_SEND: Final = 0xA702


class Cancelled(DianaError):
    """Say that the peer wants no more of the present request."""


@define(eq=False)
class SubOperations(Association):
    """Send instances over an association that exists already: that of a C-GET."""

    cancelled: bool = field(init=False, default=False)

    def adopt(self, wire: Wire, room: int, accepted: Mapping[tuple[str, str], int]) -> None:
        """Take over an open connection."""
        self._wire, self._room, self.accepted = wire, room, dict(accepted)

    def _checked(self, answer: dict[int, bytes]) -> dict[int, bytes]:
        if p.number(answer, p.COMMAND_FIELD) == p.C_CANCEL and not self.cancelled:
            self.cancelled = True
            return self._answer(self._connected())
        return Association._checked(self, answer)


@define
class Tally:
    """Count the sub-operations of a retrieval."""

    remaining: int = 0
    completed: int = 0
    warnings: int = 0
    failed: list[str] = field(factory=list)

    def elements(self, *, last: bool = False) -> dict[int, int | str]:
        """Return the counts as elements of a command."""

        def most(number: int) -> int:
            return max(0, min(number, 0xFFFF))

        found: dict[int, int | str] = {} if last else {p.REMAINING: most(self.remaining)}
        counts = {p.COMPLETED: self.completed, p.FAILED: len(self.failed), p.WARNINGS: self.warnings}
        return found | {key: most(number) for key, number in counts.items()}

    def add(self, uid: str, status: int | None) -> None:
        """Count one."""
        self.remaining -= 1
        if status == SUCCESS:
            self.completed += 1
        elif status is not None and status & 0xF000 == WARNING:
            self.warnings += 1
        else:
            self.failed.append(uid)

    def status(self) -> int:
        """Return the final status."""
        if not self.failed:
            return SUCCESS
        return WARNING if self.completed or self.warnings else CANNOT_SEND


Sender = Callable[[Outgoing], int | None]


class ArchiveTrouble(DianaError):
    """Say that the endpoint failed, not the association; ``error`` is what it raised."""

    def __init__(self, error: DianaError) -> None:
        super().__init__(f"the archive failed ({type(error).__name__})")
        self.error = error


@contextmanager
def archive_work() -> Iterator[None]:
    """Mark errors inside the block as those of the endpoint; ItemNotFound passes."""
    try:
        yield
    except (ItemNotFound, ArchiveTrouble):
        raise
    except DianaError as error:
        raise ArchiveTrouble(error) from None
    except Exception as error:  # noqa: BLE001 - whatever the endpoint does, the association goes on
        log.error("an endpoint failed by a bug (%s)", type(error).__name__)
        raise ArchiveTrouble(GatewayRefused("a bug")) from None


@define(eq=False)
class Route:
    """Send to a third node, over an association that fits what is sent; ``also`` goes into each command."""

    target: tuple[str, int]
    called: str
    aet: str
    also: Mapping[int, int | str]
    timeout: float
    stack: ExitStack
    _open: Association | None = field(init=False, default=None)
    _unreachable: bool = field(init=False, default=False)
    _pairs: dict[tuple[str, str], None] = field(init=False, factory=dict)

    def send(self, item: Outgoing) -> int | None:
        """Send one instance; None when the destination cannot be reached, and for all that follow then."""
        if self._unreachable:
            return None
        try:
            return self._association(item).store(item, self.also)
        except (GatewayConnectionError, GatewayAnswerError) as error:
            log.warning("the destination of a C-MOVE fails (%s)", type(error).__name__)
            self._close(abort=True)
            return None

    def _association(self, item: Outgoing) -> Association:
        pair = (item.sop_class, item.transfer_syntax)
        if self._open is not None and pair in self._pairs:
            return self._open
        self._close()
        if len(self._pairs) >= p.MAX_CONTEXTS:
            self._pairs.clear()
        self._pairs[pair] = None
        contexts = [(abstract, (syntax,)) for abstract, syntax in self._pairs]
        host, port = self.target
        found = Association(host, port, contexts, aet=self.aet, called_aet=self.called, timeout=self.timeout)
        self._unreachable = True
        found.open()
        self._unreachable = False
        self._open = found
        self.stack.callback(self._close)
        return found

    def _close(self, *, abort: bool = False) -> None:
        found, self._open = self._open, None
        if found is not None:
            found.close(abort=abort)
