"""A Storage SCP as a source: what scanners send is spooled, announced, and gone when it is handled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Final  # Any: a cursor is JSON

from attrs import define, evolve, field

from diana.apis.observables.listener_spool import Spool
from diana.dixel import Dixel, DixelView
from diana.exceptions import ConfigError, GatewayError, GatewayRefused, InvalidItem, ItemNotFound, StateError
from diana.utils.dicom import DicomEventType, DicomLevel, Ref
from diana.utils.dicom.header import DEFAULT_TAGS
from diana.utils.endpoint import Endpoint, Event, Observable, Page
from diana.utils.endpoint.observable import Seen
from diana.utils.endpoint.serializable import whole_number
from diana.utils.gateways import dimse
from diana.utils.gateways.dimse_pdu import DEFAULT_MAX_PDU, check_ae_title

log = logging.getLogger(__name__)

PAGE: Final = 500
ASK_AT_ONCE: Final = 1000
CURSOR: Final = {"spool": 1}


def _titles(titles: Iterable[str]) -> list[str]:
    return [check_ae_title(title) for title in ([titles] if isinstance(titles, str) else titles)]


def _texts(texts: Iterable[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else [str(text) for text in texts]


@define(eq=False)
class DicomListener(Endpoint, Observable):
    """
    Receive instances by C-STORE into the folder ``path`` and announce each one.

    Success is answered when the instance is durable. Callers must name our ``aet``, come from ``addresses`` (networks;
    loopback only by default) and, when ``calling_aets`` are given, have one of these titles. ``port`` 0 takes a free
    one and holds it after ``listen``. Every storage class and transfer syntax is taken, and written unparsed. Each
    reception is announced, also of an object that came before. ``done`` removes the file. Ids are file names.
    ``timeout`` (seconds) ends what stops half-way, ``idle_timeout`` idle associations; ``reserve`` is how many bytes
    of the disk stay free (5 % if that is less).
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.TAGS | DixelView.FILE

    aet: str = field(default="DIANA", converter=check_ae_title)
    host: str = "127.0.0.1"
    port: int = field(default=11112, converter=whole_number)
    path: Path = field(default=Path("dicom-spool"), converter=Path)
    calling_aets: list[str] = field(factory=list, converter=_titles)
    addresses: list[str] = field(factory=lambda: list(dimse.LOOPBACK), converter=_texts)
    max_associations: int = 32
    max_per_address: int = 16
    timeout: float = 30.0
    idle_timeout: float = 120.0
    max_pdu: int = DEFAULT_MAX_PDU
    reserve: int = 1 << 30
    polling_interval: float = 1.0
    name: str = field(default="DicomListener", kw_only=True)

    _spool: Spool = field(init=False, repr=False)
    _scp: dimse.StorageScp | None = field(init=False, default=None, repr=False)
    _lock: Any = field(init=False, factory=Lock, repr=False)
    _pending: dict[str, None] = field(init=False, factory=dict, repr=False)
    _wake: Callable[[], None] | None = field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        dimse.networks(self.addresses)
        if min(self.max_associations, self.max_per_address) < 1 or min(self.timeout, self.idle_timeout) <= 0:
            raise ConfigError(f"{self.name}: limits and timeouts must be greater than 0")
        if not 4096 <= self.max_pdu <= 16 << 20:
            raise ConfigError(f"{self.name}: max_pdu must lie between 4096 and 16777216")
        self._spool = Spool(self.path, self.reserve, self._added)

    def listen(self, wake: Callable[[], None]) -> None:
        """Open the port. Raises GatewayError when port or folder cannot be had, StateError when it is another's."""
        if self._scp is not None:
            return
        self._wake = wake
        scp = dimse.StorageScp(
            self._spool.receive,
            self.aet,
            self.host,
            self.port,
            calling_aets=frozenset(self.calling_aets),
            addresses=dimse.networks(self.addresses),
            max_associations=self.max_associations,
            max_per_address=self.max_per_address,
            timeout=self.timeout,
            idle_timeout=self.idle_timeout,
            max_pdu=self.max_pdu,
        )
        self._spool.open()
        try:
            scp.start()
        except GatewayError:
            self._spool.close()
            raise
        self._scp, self.port = scp, scp.port

    def unlisten(self) -> None:
        """Close the port; what is arriving is still taken."""
        scp, self._scp = self._scp, None
        if scp is not None:
            scp.stop()
            self._spool.close()

    def close(self) -> None:
        """Close the port."""
        self.unlisten()

    def _added(self, name: str) -> None:
        with self._lock:
            self._pending[name] = None
        if self._wake is not None:
            self._wake()

    def resume(self, cursor: Any, seen: Seen) -> None:
        """Announce what a former life received and the journal does not know. Raises StateError."""
        if cursor is not None and cursor != CURSOR:
            raise StateError(f"{self.name}: the saved position is not one of a listener")
        names = iter(self._spool.names())
        while some := list(islice(names, ASK_AT_ONCE)):
            known = seen(some)
            with self._lock:
                self._pending.update(dict.fromkeys(name for name in some if name not in known))

    def changes(self) -> Page:
        """Return the oldest receptions that were not acknowledged."""
        with self._lock:
            names = list(islice(self._pending, PAGE))
            more = len(self._pending) > PAGE
        events = []
        for name in names:
            try:
                events.append(self._event(name))
            except ItemNotFound:
                self._forget([name])
        return Page(events, CURSOR if events else None, more)

    def ack(self, page: Page) -> None:
        """Take note that the page is in the journal."""
        self._forget(event.key for event in page.events)

    def _forget(self, names: Iterable[str]) -> None:
        with self._lock:
            for name in names:
                self._pending.pop(name, None)

    def done(self, event: Event) -> None:
        """Remove the file of an event."""
        try:
            self._spool.remove(str(event.data.get("fn") or event.key))
        except GatewayError as error:
            log.warning("%s: a handled file stays in the spool: %s", self.name, error)

    def _event(self, name: str) -> Event:
        data = {"fn": name}
        try:
            header = self._spool.header(name)
        except InvalidItem:
            return Event(DicomEventType.INSTANCE_ADDED, data, name, self.source_id)
        uids = {"StudyInstanceUID": header.study, "SeriesInstanceUID": header.series, "SOPInstanceUID": header.instance}
        return Event(DicomEventType.INSTANCE_ADDED, {**data, **uids}, name, self.source_id, study=header.study)

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        names = self._named(ref)
        if ref.level != DicomLevel.INSTANCES and not ref.id:
            if DixelView.FILE in view:
                raise InvalidItem(f"{self.name}: files belong to instances; pull a {ref.level.singular.lower()}")
            return self._above(self._dixel(names[0]), ref.level)
        found = self._tagged(names[0]) if DixelView.TAGS in view else self._dixel(names[0])
        if DixelView.FILE not in view:
            found.blob = None
        return found

    def _dixel(self, name: str, tags: Iterable[str] = DEFAULT_TAGS) -> Dixel:
        found = Dixel.from_header(self._spool.header(name, tags), name, self._spool.blob(name))
        found.meta["ID"] = name
        return found

    def _tagged(self, name: str) -> Dixel:
        """Return an instance with every tag; those of the header when pydicom makes no instance of it."""
        from pydicom import dcmread

        found = self._dixel(name)
        try:
            with found.blob.open() as stream:  # type: ignore[union-attr]  # from_header was given it
                full = Dixel.from_pydicom(dcmread(stream, stop_before_pixels=True), name)
        except Exception:  # noqa: BLE001  # pydicom raises any type for a damaged file; the header has been read
            return found
        return found.merged(full)

    @staticmethod
    def _above(instance: Dixel, level: DicomLevel) -> Dixel:
        """Return what an instance tells about the study or series it belongs to."""
        lower = {"SOPInstanceUID", "SOPClassUID", "InstanceNumber", "ImageType", "NumberOfFrames", "Rows", "Columns"}
        if level < DicomLevel.SERIES:
            lower |= {key for key in instance.tags if key.startswith("Series")} | {"Modality", "BodyPartExamined"}
        return Dixel(tags={key: value for key, value in instance.tags.items() if key not in lower}, level=level)

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        return (self._dixel(name) for name in self._named(ref))

    def _exists(self, ref: Ref) -> bool:
        return bool(self._matching(ref))

    def _delete(self, ref: Ref) -> bool:
        names = self._matching(ref)
        self._forget(names)
        return sum(self._spool.remove(name) for name in names) > 0

    def _digest(self, ref: Ref) -> str:
        return self._spool.blob(self._named(ref)[0]).digest()

    def _check(self) -> None:
        scp = self._scp
        if scp is None:
            try:
                self._spool.check_writable()
            except OSError as error:
                raise GatewayRefused(f"the spool cannot be written: {error.strerror or error}") from None
        elif scp.is_welcome("127.0.0.1"):
            host = "127.0.0.1" if self.host in ("", "0.0.0.0") else "::1" if self.host == "::" else self.host  # noqa: S104
            caller = self.calling_aets[0] if self.calling_aets else self.aet
            dimse.echo(host, self.port, caller, self.aet, timeout=min(self.timeout, 10.0))

    def _matching(self, ref: Ref) -> list[str]:
        if ref.id:
            return [ref.id] if self._spool.has(ref.id) else []
        wanted = evolve(ref, id="").tags()
        if ref.level.uid_keyword not in wanted:
            raise InvalidItem(f"{self.name}: the ref does not name a {ref.level.singular.lower()}")
        return [
            name
            for name in self._spool.names()
            if all(self._spool.header(name).get(key) == value for key, value in wanted.items())
        ]

    def _named(self, ref: Ref) -> list[str]:
        names = self._matching(ref)
        if not names:
            raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
        return names
