"""A DICOMweb server on which instances can be stored."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from attrs import define, field

from diana.apis._web import CHECK_SECONDS, Uids, WebEndpoint
from diana.dixel import Dixel
from diana.exceptions import DianaError, InvalidItem
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel
from diana.utils.dicom.ref import is_uid
from diana.utils.endpoint.endpoint import Outcome
from diana.utils.gateways.stow_rs import Stored
from diana.utils.gateways.stow_rs import StowRS as Gateway

log = logging.getLogger(__name__)


@define(eq=False)
class StowRS(WebEndpoint):
    """
    Store on a server by STOW-RS; ``url`` is the DICOMweb root.

    An instance counts as stored only when the server's answer names it. What it stores in place of other bytes under
    the same UID, nobody can tell by this protocol: see ``DicomWeb``.
    """

    name: str = field(default="StowRS", kw_only=True)
    gateway: Gateway = field(init=False, repr=False)

    def _connect(self) -> None:
        self.gateway = new_gateway(self)

    def _put(self, dixel: Dixel) -> str:
        return put_one(self.gateway, dixel)

    def put_batch(self, items: Sequence[Dixel]) -> Iterator[Outcome]:
        """
        Store several instances in one request and yield an outcome for each, in their order.

        Raises when the request as a whole fails.
        """
        return put_together(self.gateway, items)

    def _check(self) -> None:
        self.gateway.check(within=CHECK_SECONDS)

    def close(self) -> None:
        """Close kept connections; the endpoint may be used again."""
        self.gateway.close()


def new_gateway(endpoint: WebEndpoint) -> Gateway:
    """Return the gateway for storing at an endpoint's address."""
    from diana.utils.gateways.stow_rs import judge_store

    return Gateway(endpoint.client(explain=judge_store))


def addressed(name: str, dixel: Dixel) -> tuple[Uids, Blob]:
    """Return the UIDs of an instance as its file says, and the file. Raises InvalidItem."""
    from diana.utils.dicom.header import read_header

    if dixel.level != DicomLevel.INSTANCES:
        raise InvalidItem(f"{name}: takes instances, one at a time")
    blob = dixel.blob
    if blob is None:
        raise InvalidItem(f"{name}: the instance has no file")
    try:
        header = read_header(blob.read() if blob.path is None else blob.path)
    except OSError as error:
        raise InvalidItem(f"{name}: the file cannot be opened ({error.strerror})") from None
    uids = (header.study, header.series, header.instance)
    if not all(map(is_uid, uids)):
        raise InvalidItem(f"{name}: the file lacks a study, series or SOP Instance UID")
    return uids, blob


def put_one(gateway: Gateway, dixel: Dixel) -> str:
    """Store one instance; return its id, the UIDs joined by slashes."""
    uids, blob = addressed(gateway.name, dixel)
    (outcome,) = gateway.store([(uids[2], blob)])
    _note(gateway.name, outcome)
    if outcome.error is not None:
        raise outcome.error
    return "/".join(uids)


def put_together(gateway: Gateway, items: Iterable[Dixel]) -> Iterator[Outcome]:
    """Store several instances in one request; those that are no instances are not sent."""
    outcomes: list[Outcome] = []
    files: list[tuple[str, Blob]] = []
    places: list[int] = []
    for at, item in enumerate(items):
        try:
            uids, blob = addressed(gateway.name, item)
        except DianaError as error:
            outcomes.append(Outcome(item, error=error))
            continue
        outcomes.append(Outcome(item, id="/".join(uids)))
        files.append((uids[2], blob))
        places.append(at)
    for at, stored in zip(places, gateway.store(files) if files else (), strict=True):
        _note(gateway.name, stored)
        if stored.error is not None:
            outcomes[at] = Outcome(outcomes[at].item, error=stored.error)
    yield from outcomes


def _note(name: str, stored: Stored) -> None:
    if stored.warning:
        log.warning("%s: the server stored an instance with changes (reason %04X)", name, stored.warning)
