"""
DIMSE: talk to DICOM nodes, and be one.

``echo`` and ``store`` ask others, ``StorageScp`` answers them; ``Association`` is what both requests stand on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from attrs import frozen

from diana.exceptions import DianaError, GatewayConnectionError, GatewayRefused, InvalidItem
from diana.utils.blob import Blob
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dimse_scp import LOOPBACK, StorageScp, networks
from diana.utils.gateways.dimse_scu import Association, Outgoing, outgoing
from diana.utils.gateways.dimse_service import (
    CANNOT_UNDERSTAND,
    DOES_NOT_MATCH,
    OUT_OF_RESOURCES,
    SUCCESS,
    Receiver,
    Reception,
    StoreRequest,
)

__all__ = [
    "CANNOT_UNDERSTAND",
    "DOES_NOT_MATCH",
    "LOOPBACK",
    "OUT_OF_RESOURCES",
    "SUCCESS",
    "Association",
    "Outgoing",
    "Receiver",
    "Reception",
    "StorageScp",
    "StoreOutcome",
    "StoreRequest",
    "echo",
    "networks",
    "outgoing",
    "store",
]

Source = Blob | bytes | str | os.PathLike[str]

WARNING: Final = 0xB000


@frozen
class StoreOutcome:
    """
    Say what became of one instance, in the order in which they were given.

    ``status`` is that of the peer (PS3.4 B.2.3), None when it gave none; ``error`` says why then.
    """

    sop_instance: str
    status: int | None = None
    error: DianaError | None = None

    @property
    def ok(self) -> bool:
        """Tell whether the peer says that it stored the instance, with a warning or without."""
        return self.status is not None and (self.status == SUCCESS or self.status & 0xF000 == WARNING)

    @property
    def temporary(self) -> bool:
        """Tell whether sending it again may help: the peer is out of resources, or the wire broke."""
        if self.status is not None:
            return self.status & 0xFF00 == OUT_OF_RESOURCES
        return self.error is not None and self.error.temporary


def echo(host: str, port: int, aet: str = "DIANA", called_aet: str = "ANY-SCP", *, timeout: float = 10.0) -> None:
    """
    Verify that a DICOM node answers (C-ECHO).

    Raises GatewayConnectionError when it does not, GatewayRefused when it does not want us.
    """
    contexts = [(p.VERIFICATION, (p.IMPLICIT_LITTLE,))]
    with Association(host, port, contexts, aet=aet, called_aet=called_aet, timeout=timeout) as association:
        status = association.echo()
    if status != SUCCESS:
        raise GatewayRefused(f"{host} port {port} answered the echo with status {status:#06x}", status=status)


def store(
    items: Iterable[Source],
    host: str,
    port: int,
    aet: str = "DIANA",
    called_aet: str = "ANY-SCP",
    *,
    timeout: float = 30.0,
) -> list[StoreOutcome]:
    """
    Send instances as they are, one after the other (C-STORE); return what became of each.

    Their own transfer syntaxes are proposed. Raises GatewayError when no association comes about at all; what goes
    wrong later is in the outcomes, and nothing is sent twice.
    """
    outcomes: list[StoreOutcome] = []
    for group, contexts in _groups(_opened(items)):
        try:
            with Association(host, port, contexts, aet=aet, called_aet=called_aet, timeout=timeout) as association:
                outcomes.extend(_store_all(association, group))
        except DianaError as error:
            if not outcomes:
                raise
            outcomes.extend(StoreOutcome(_uid(one), error=error) for one in group)
    return outcomes


def _opened(items: Iterable[Source]) -> Iterator[Outgoing | InvalidItem]:
    for item in items:
        try:
            yield outgoing(item if isinstance(item, Blob) else Blob(item))
        except InvalidItem as error:
            yield error
        except OSError as error:
            yield InvalidItem(f"the file cannot be read ({type(error).__name__})")


def _uid(item: Outgoing | InvalidItem) -> str:
    return item.sop_instance if isinstance(item, Outgoing) else ""


Contexts = list[tuple[str, Sequence[str]]]


def _groups(
    items: Iterator[Outgoing | InvalidItem], at_once: int = 1000
) -> Iterator[tuple[list[Outgoing | InvalidItem], Contexts]]:
    """Yield items that one association can take, with the contexts to propose for them."""
    while group := list(islice(items, at_once)):
        pairs: dict[tuple[str, str], None] = {}
        start = 0
        for at, item in enumerate(group):
            pair = (item.sop_class, item.transfer_syntax) if isinstance(item, Outgoing) else None
            if pair and pair not in pairs and len(pairs) == p.MAX_CONTEXTS:
                yield group[start:at], _contexts(pairs)
                start, pairs = at, {}
            if pair:
                pairs[pair] = None
        yield group[start:], _contexts(pairs)


def _contexts(pairs: Iterable[tuple[str, str]]) -> Contexts:
    return [(abstract, (transfer,)) for abstract, transfer in pairs] or [(p.VERIFICATION, (p.IMPLICIT_LITTLE,))]


def _store_all(association: Association, items: Iterable[Outgoing | InvalidItem]) -> Iterator[StoreOutcome]:
    broken: DianaError | None = None
    for item in items:
        if isinstance(item, InvalidItem):
            yield StoreOutcome("", error=item)
        elif broken is not None:
            yield StoreOutcome(item.sop_instance, error=broken)
        else:
            try:
                yield StoreOutcome(item.sop_instance, association.store(item))
            except GatewayRefused as error:
                yield StoreOutcome(item.sop_instance, error=error)
            except DianaError as error:
                association.close(abort=True)
                broken = GatewayConnectionError("the association broke before this instance was sent")
                yield StoreOutcome(item.sop_instance, error=error)
