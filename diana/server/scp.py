"""The DIMSE face of an endpoint: C-ECHO, C-STORE, C-FIND, C-MOVE and C-GET."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from diana.server.archive import Archive
from diana.server.limits import Limits
from diana.server.scp_dialogue import Dialogue
from diana.server.scp_identifier import operation_of
from diana.server.scp_store import EndpointReception
from diana.utils.endpoint import Endpoint
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dimse_scp import LOOPBACK, StorageScp, choose_transfer, is_storage, networks
from diana.utils.gateways.dimse_service import StoreRequest
from diana.utils.gateways.dimse_wire import Wire

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DicomFace"]


@define(eq=False)
class DicomFace:
    """
    Serve an endpoint as a DICOM node; ``start`` and ``stop`` it, or use it in a ``with``.

    Port 0 takes a free one. Only those are let in who name our AE title, come from ``addresses`` (networks, by default
    this machine alone) and, when ``calling_aets`` are given, have one of these titles. C-MOVE sends to ``peers`` (AE
    title to host and port) and to nobody else. ``timeout`` and ``idle_timeout`` are in seconds. Instances larger than
    4 MiB wait in ``folder`` (default: that of temporary files) until the endpoint has them. With ``tls`` nobody is let
    in without it; what C-MOVE sends goes without.
    """

    endpoint: Endpoint
    aet: str = field(default="DIANA", converter=p.check_ae_title)
    host: str = "127.0.0.1"
    port: int = 11112
    calling_aets: Iterable[str] = field(default=(), kw_only=True)
    addresses: Iterable[str] = field(default=LOOPBACK, kw_only=True)
    peers: Mapping[str, tuple[str, int]] = field(factory=dict, kw_only=True)
    max_associations: int = field(default=32, kw_only=True)
    max_per_address: int = field(default=16, kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    idle_timeout: float = field(default=120.0, kw_only=True)
    limits: Limits = field(factory=Limits, kw_only=True)
    folder: str | None = field(default=None, kw_only=True)
    tls: ssl.SSLContext | None = field(default=None, kw_only=True, repr=False)
    archive: Archive = field(init=False, repr=False)
    _scp: StorageScp | None = field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        self.archive = Archive(self.endpoint)

    def start(self) -> Self:
        """Begin to answer; ``port`` says where. Raises ConfigError, GatewayConnectionError when the port is taken."""
        if self._scp is None:
            scp = _FaceScp(
                self._receive,
                self.aet,
                self.host,
                self.port,
                calling_aets=frozenset(map(p.check_ae_title, self.calling_aets)),
                addresses=networks(self.addresses),
                max_associations=self.max_associations,
                max_per_address=self.max_per_address,
                timeout=self.timeout,
                idle_timeout=self.idle_timeout,
                tls=self.tls,
                face=self,
            )
            scp.start()
            self.port, self._scp = scp.port, scp
        return self

    def stop(self) -> None:
        """End; an instance that is arriving may end within a grace. Twice does no harm."""
        scp, self._scp = self._scp, None
        if scp is not None:
            scp.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def serves(self, operation: int) -> bool:
        """Tell whether the endpoint can do what an operation of a query or retrieve class needs."""
        return self.endpoint.can("find") if operation == p.C_FIND else self.archive.can_read

    def _receive(self, request: StoreRequest) -> EndpointReception:
        return EndpointReception(self.endpoint, request, self.limits.instance, self.folder)


@define(eq=False)
class _FaceScp(StorageScp):
    """A storage SCP that answers searches and retrievals as well."""

    face: DicomFace = field(kw_only=True, repr=False)

    def _choices(self, request: p.AssociateRequest) -> dict[int, tuple[int, str]]:
        return {context.id: self._choice(context, request) for context in request.contexts}

    def _choice(self, context: p.Context, request: p.AssociateRequest) -> tuple[int, str]:
        operation = operation_of(context.abstract)
        if operation is not None and self.face.serves(operation):
            for syntax in (p.EXPLICIT_LITTLE, p.IMPLICIT_LITTLE):
                if syntax in context.transfers:
                    return p.ACCEPTED, syntax
            return p.TRANSFER_SYNTAXES_UNSUPPORTED, p.IMPLICIT_LITTLE
        stores = self.face.endpoint.can("put") or context.abstract in request.provides
        if context.abstract != p.VERIFICATION and not stores:
            return p.ABSTRACT_SYNTAX_UNSUPPORTED, p.IMPLICIT_LITTLE
        return choose_transfer(context.abstract, context.transfers)

    def _granted(self, request: p.AssociateRequest) -> p.AssociateRequest:
        """Let the requester be the SCP of storage classes, which C-GET needs."""
        return evolve(request, provides={key: also for key, also in request.provides.items() if is_storage(key)})

    def _conversation(
        self, wire: Wire, request: p.AssociateRequest, contexts: dict[int, str], address: str
    ) -> Dialogue:
        return Dialogue(
            wire,
            request,
            contexts,
            address,
            self.receiver,
            self.timeout,
            self.idle_timeout,
            self._stopping.is_set,
            face=self.face,
        )
