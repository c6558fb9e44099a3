"""
A Storage SCP (PS3.4 B) that survives its peers.

It stands on sockets of its own: pynetdicom's server keeps whole data sets in memory, and peers that send half an
association request use up its slots for good.
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from attrs import define, evolve, field

from diana.exceptions import ConfigError, DianaError, GatewayConnectionError
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dimse_service import Conversation, Receiver
from diana.utils.gateways.dimse_wire import Wire

log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network
LOOPBACK: Final = ("127.0.0.0/8", "::1/128")

# A-ASSOCIATE-RJ: result, source, reason (PS3.8 9.3.4)
NO_VERSION: Final = (1, 2, 2)
NO_APPLICATION_CONTEXT: Final = (1, 1, 2)
NO_CALLING_TITLE: Final = (1, 1, 3)
NO_CALLED_TITLE: Final = (1, 1, 7)
LIMIT_EXCEEDED: Final = (2, 3, 2)

STORAGE_PREFIX: Final = "1.2.840.10008.5.1.4.1.1."
# storage classes outside that branch: RT instructions, hanging protocols, palettes, implants, inventories (PS3.6 A)
OTHER_STORAGE: Final = frozenset(
    f"1.2.840.10008.5.1.4.{tail}" for tail in ("34.1", "34.7", "34.10", "38.1", "39.1", "43.1", "44.1", "45.1")
)


def networks(addresses: Iterable[str]) -> list[Network]:
    """Return the networks that texts such as ``10.0.0.0/8`` or ``10.1.2.3`` name. Raises ConfigError."""
    found: list[Network] = []
    problems = []
    for address in addresses:
        try:
            found.append(ip_network(str(address), strict=False))
        except ValueError:
            problems.append(f"addresses: {address!r} is no IP address or network")
    if problems or not found:
        raise ConfigError(problems or "addresses: nobody may call; 0.0.0.0/0 lets everybody in")
    return found


def is_storage(abstract: str) -> bool:
    """Tell whether an abstract syntax is a storage class; every private one counts as such."""
    if not abstract.startswith("1.2.840.10008."):
        return is_uid(abstract)
    return abstract.startswith(STORAGE_PREFIX) or abstract in OTHER_STORAGE


def choose_transfer(abstract: str, proposed: Sequence[str]) -> tuple[int, str]:
    """
    Return the result for a presentation context and the transfer syntax taken.

    Verification and every storage class are taken in the first syntax offered, which may be private too; only an
    uncompressed one gives way to explicit VR little endian, which loses nothing and is quickest to read.
    """
    if abstract != p.VERIFICATION and not is_storage(abstract):
        return p.ABSTRACT_SYNTAX_UNSUPPORTED, p.IMPLICIT_LITTLE
    if not proposed or not is_uid(proposed[0]):
        return p.TRANSFER_SYNTAXES_UNSUPPORTED, p.IMPLICIT_LITTLE
    if proposed[0] in (p.IMPLICIT_LITTLE, p.EXPLICIT_BIG) and p.EXPLICIT_LITTLE in proposed:
        return p.ACCEPTED, p.EXPLICIT_LITTLE
    return p.ACCEPTED, proposed[0]


@define(eq=False)
class StorageScp:
    """
    Listen for C-ECHO and C-STORE; what is received goes to ``receiver``, piece by piece.

    Only callers that name our AE title, come from ``addresses`` and, when ``calling_aets`` is not empty, have one of
    these titles are let in. ``timeout`` (seconds) ends negotiations and PDUs that stop half-way, ``idle_timeout``
    associations without traffic. Connections that have not negotiated yet do not count as associations: when there
    are too many of them, the oldest is closed. With ``tls`` nobody is let in without.
    """

    receiver: Receiver
    aet: str = field(default="DIANA", converter=p.check_ae_title)
    host: str = "127.0.0.1"
    port: int = 11112
    calling_aets: frozenset[str] = field(default=frozenset(), kw_only=True)
    addresses: list[Network] = field(factory=lambda: networks(LOOPBACK), kw_only=True)
    max_associations: int = field(default=32, kw_only=True)
    max_per_address: int = field(default=16, kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    idle_timeout: float = field(default=120.0, kw_only=True)
    max_pdu: int = field(default=p.DEFAULT_MAX_PDU, kw_only=True)
    tls: ssl.SSLContext | None = field(default=None, kw_only=True, repr=False)

    _listener: socket.socket | None = field(init=False, default=None, repr=False)
    _waker: socket.socket | None = field(init=False, default=None, repr=False)
    _acceptor: threading.Thread | None = field(init=False, default=None, repr=False)
    _stopping: threading.Event = field(init=False, factory=threading.Event, repr=False)
    _lock: threading.Lock = field(init=False, factory=threading.Lock, repr=False)
    _pending: dict[Wire, str] = field(init=False, factory=dict, repr=False)
    _open: dict[Wire, str] = field(init=False, factory=dict, repr=False)
    _threads: set[threading.Thread] = field(init=False, factory=set, repr=False)

    @property
    def running(self) -> bool:
        """Tell whether the port is open."""
        return self._acceptor is not None

    def bind(self) -> None:
        """Take the port; ``port`` says which one when it was 0. Raises GatewayConnectionError when it is taken."""
        if self._listener is None:
            try:
                family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
                self._listener = socket.create_server((self.host, self.port), family=family, backlog=128)
            except (OSError, OverflowError) as error:
                why = getattr(error, "strerror", None) or type(error).__name__
                raise GatewayConnectionError(f"cannot listen on {self.host} port {self.port}: {why}") from None
            self.port = self._listener.getsockname()[1]

    def start(self) -> None:
        """Begin to answer. Raises GatewayConnectionError when the port is taken."""
        if self.running:
            return
        self.bind()
        self._stopping.clear()
        ear, self._waker = socket.socketpair()
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._listener, ear), name="dicom-scp", daemon=True
        )
        self._acceptor.start()
        log.info("listening aet=%s host=%s port=%d", self.aet, self.host, self.port)

    def stop(self, grace: float = 5.0) -> None:
        """
        Close the port and every association, and wait for their threads.

        An instance that is arriving has ``grace`` seconds to be answered.
        """
        if self._acceptor is None or self._waker is None:
            if self._listener is not None:
                self._listener.close()
                self._listener = None
            return
        self._stopping.set()
        self._waker.close()
        self._acceptor.join()
        self._acceptor = self._waker = self._listener = None
        end = time.monotonic() + grace
        for how in (socket.SHUT_RD, socket.SHUT_RDWR):
            with self._lock:
                wires, threads = [*self._pending, *self._open], list(self._threads)
            for wire in wires:
                wire.hang_up(how)
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()) if how == socket.SHUT_RD else None)

    def _accept(self, listener: socket.socket, ear: socket.socket) -> None:
        with listener, ear, selectors.DefaultSelector() as selector:
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ)
            selector.register(ear, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                try:
                    sock, address = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    if not self._stopping.is_set():
                        log.warning("cannot take a connection: %s", error.strerror)
                        self._stopping.wait(0.2)
                    continue
                self._admit(sock, str(address[0]))

    def _admit(self, sock: socket.socket, address: str) -> None:
        """Give a new connection its thread; close the oldest half-open one when there are too many."""
        if not self.is_welcome(address):
            log.warning("refused a connection from %s: not in addresses", address)
            sock.close()
            return
        sock.setblocking(True)
        wire = Wire(sock, self.timeout, self.max_pdu)
        thread = threading.Thread(target=self._serve, args=(wire, address), name=f"dicom-scp-{address}", daemon=True)
        with self._lock:
            while len(self._pending) >= 2 * self.max_associations:
                oldest = next(iter(self._pending))
                del self._pending[oldest]
                oldest.hang_up()
            self._pending[wire] = address
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            log.warning("refused a connection from %s: no more threads", address)
            self._forget(wire, thread)

    def is_welcome(self, address: str) -> bool:
        """Tell whether an IP address may call."""
        caller = ip_address(address.partition("%")[0])
        mapped = getattr(caller, "ipv4_mapped", None)
        return any((mapped or caller) in network for network in self.addresses)

    def _serve(self, wire: Wire, address: str) -> None:
        """Run one association; nothing that goes wrong here reaches another one."""
        try:
            self._secure(wire)
            agreed = self._negotiate(wire, address)
            if agreed is not None:
                self._conversation(wire, *agreed, address).run()
        except GatewayConnectionError as error:
            log.info("association ended early from=%s: %s", address, error)
        except DianaError as error:
            log.warning("association aborted from=%s: %s", address, error)
            self._abort(wire, reason=6)
        except Exception as error:  # noqa: BLE001  # one association must not take the others along
            log.error("association failed from=%s: %s", address, type(error).__name__)
            self._abort(wire, reason=0)
        finally:
            self._forget(wire, threading.current_thread())

    def _secure(self, wire: Wire) -> None:
        if self.tls is None:
            return
        try:
            wire.sock.settimeout(self.timeout)
            # the wire has the new socket before the handshake, which then can be hung up
            wire.sock = sock = self.tls.wrap_socket(wire.sock, server_side=True, do_handshake_on_connect=False)
            sock.do_handshake()
        except OSError as error:
            raise GatewayConnectionError(f"no TLS ({type(error).__name__})") from None

    def _conversation(
        self, wire: Wire, request: p.AssociateRequest, contexts: dict[int, str], address: str
    ) -> Conversation:
        """Return who answers the requests of an association."""
        return Conversation(
            wire, request, contexts, address, self.receiver, self.timeout, self.idle_timeout, self._stopping.is_set
        )

    def _choices(self, request: p.AssociateRequest) -> dict[int, tuple[int, str]]:
        """Return result and transfer syntax for each context that is asked for."""
        return {c.id: choose_transfer(c.abstract, c.transfers) for c in request.contexts}

    @staticmethod
    def _abort(wire: Wire, reason: int) -> None:
        with suppress(GatewayConnectionError):
            wire.send(p.abort(reason=reason))

    def _forget(self, wire: Wire, thread: threading.Thread) -> None:
        wire.close()
        with self._lock:
            self._pending.pop(wire, None)
            self._open.pop(wire, None)
            self._threads.discard(thread)

    def _negotiate(self, wire: Wire, address: str) -> tuple[p.AssociateRequest, dict[int, str]] | None:
        """Return the request and the accepted contexts, or None after a rejection."""
        kind, body = wire.read_pdu(self.timeout, within=self.timeout)
        if kind != p.ASSOCIATE_RQ:
            wire.send(p.abort(reason=2))
            return None
        request = p.decode_request(body)
        refusal = self._refusal(request) or self._take_slot(wire, address)
        if refusal is not None:
            log.warning("rejected an association from=%s: %s", address, refusal[1])
            wire.send(p.reject(*refusal[0]))
            return None
        results = self._choices(request)
        wire.send(p.encode_answer(self._granted(request), results, self.max_pdu))
        return request, {id_: syntax for id_, (result, syntax) in results.items() if result == p.ACCEPTED}

    def _granted(self, request: p.AssociateRequest) -> p.AssociateRequest:
        """Return the request with those roles that are accepted: none for a plain receiver."""
        return evolve(request, provides={})

    def _refusal(self, request: p.AssociateRequest) -> tuple[tuple[int, int, int], str] | None:
        if not request.version & 1:
            return NO_VERSION, "protocol version"
        if request.application_context != p.APPLICATION_CONTEXT:
            return NO_APPLICATION_CONTEXT, "application context"
        if request.called != self.aet:
            return NO_CALLED_TITLE, "called AE title"
        if self.calling_aets and request.calling not in self.calling_aets:
            return NO_CALLING_TITLE, "calling AE title"
        return None

    def _take_slot(self, wire: Wire, address: str) -> tuple[tuple[int, int, int], str] | None:
        with self._lock:
            self._pending.pop(wire, None)
            same = sum(1 for other in self._open.values() if other == address)
            if len(self._open) >= self.max_associations or same >= self.max_per_address:
                return LIMIT_EXCEEDED, "too many associations"
            self._open[wire] = address
        return None
