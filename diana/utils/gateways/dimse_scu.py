"""Ask other DICOM nodes: an association as requester, with C-ECHO and C-STORE (PS3.7 9.1)."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final

from attrs import define, field, frozen

from diana.exceptions import GatewayAnswerError, GatewayConnectionError, GatewayRefused, InvalidItem
from diana.utils.blob import Blob
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dimse_wire import Wire

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_FILE_META: Final = 64 << 10
# seconds that a peer has for its answer to a release; by then everything is said
PARTING: Final = 10.0
LONG_VRS: Final = (b"OB", b"OW", b"UN", b"UT", b"SQ")
REJECTIONS: Final = {
    (1, 1): "no reason given",
    (1, 2): "application context not supported",
    (1, 3): "our AE title is not known there",
    (1, 7): "the called AE title is not that of the server",
    (2, 2): "protocol version not supported",
    (3, 1): "the server is busy",
    (3, 2): "too many associations",
}


@frozen
class Outgoing:
    """Hold an instance to send: its identity, and where the data set starts in the file."""

    blob: Blob = field(repr=False)
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    offset: int


def outgoing(blob: Blob) -> Outgoing:
    """Return what the file meta information says. Raises InvalidItem for a file without it (PS3.10 7.1)."""
    with blob.open() as stream:
        if stream.read(132)[128:] != b"DICM":
            raise InvalidItem("the file has no DICOM preamble")
        found: dict[int, str] = {}
        while (element := _meta_element(stream)) is not None:
            found[element[0]] = element[1]
        offset = stream.tell()
    needed = ((0x02, "SOP class"), (0x03, "SOP instance"), (0x10, "transfer syntax"))
    missing = [name for tag, name in needed if not found.get(tag)]
    if missing:
        raise InvalidItem(f"the file meta information lacks {', '.join(missing)}")
    return Outgoing(blob, found[0x02], found[0x03], found[0x10], offset)


def _meta_element(stream: BinaryIO) -> tuple[int, str] | None:
    """Return the next element of group 0002, or None with the stream at the data set."""
    head = stream.read(8)
    if len(head) < 8 or head[:2] != b"\2\0":
        stream.seek(-len(head), 1)
        return None
    size = int.from_bytes(head[6:8], "little")
    if head[4:6] in LONG_VRS:
        size = int.from_bytes(stream.read(4), "little")
    if size > MAX_FILE_META or stream.tell() > MAX_FILE_META:
        raise InvalidItem("the file meta information is too large")
    return int.from_bytes(head[2:4], "little"), stream.read(size).decode("ascii", "replace").strip(" \0")


@define(eq=False)
class Association:
    """
    Keep one association open, as a context manager.

    ``contexts`` are pairs of abstract syntax and the transfer syntaxes it may come in, at most 128; of those in
    ``provides`` we offer to be the SCP. ``timeout`` in seconds holds for connecting and for each answer. For one
    thread.
    """

    host: str
    port: int
    contexts: Sequence[tuple[str, Sequence[str]]]
    aet: str = field(default="DIANA", converter=p.check_ae_title, kw_only=True)
    called_aet: str = field(default="ANY-SCP", converter=p.check_ae_title, kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    max_pdu: int = field(default=p.DEFAULT_MAX_PDU, kw_only=True)
    provides: Mapping[str, bool] = field(factory=dict, kw_only=True)

    accepted: dict[tuple[str, str], int] = field(init=False, factory=dict)
    _wire: Wire | None = field(init=False, default=None, repr=False)
    _room: int = field(init=False, default=0)
    _message: int = field(init=False, default=0)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(abort=kind is not None)

    def open(self) -> None:
        """
        Connect and negotiate.

        Raises GatewayConnectionError when nobody answers or the peer is busy, GatewayRefused when it does not want us.
        """
        try:
            sock = socket.create_connection((self.host, self.port), timeout=self.timeout)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise GatewayConnectionError(f"cannot reach {self.host} port {self.port}: {why}") from None
        self._wire = Wire(sock, self.timeout, self.max_pdu)
        try:
            self._negotiate(self._wire)
        except BaseException:
            self.close(abort=True)
            raise

    def _negotiate(self, wire: Wire) -> None:
        asked = tuple(p.Context(2 * n + 1, abstract, tuple(ts)) for n, (abstract, ts) in enumerate(self.contexts))
        wanted = p.AssociateRequest(self.called_aet, self.aet, asked, self.max_pdu, provides=self.provides)
        wire.send(p.encode_request(wanted))
        kind, body = wire.read_pdu(self.timeout)
        if kind == p.ASSOCIATE_RJ and len(body) == 4:
            raise self._rejection(body[1], body[2], body[3])
        if kind != p.ASSOCIATE_AC:
            raise GatewayConnectionError(f"{self.host} port {self.port} did not accept the association")
        answer = p.decode_answer(body)
        known = {context.id: context for context in asked}
        self.accepted = {
            (known[id_].abstract, ts): id_
            for id_, ts in answer.accepted.items()
            if id_ in known and ts in known[id_].transfers
        }
        self._room = min(answer.max_pdu or p.DEFAULT_MAX_PDU, p.DEFAULT_MAX_PDU) - p.PDV_HEADER & ~1
        if self._room < 128:
            raise GatewayAnswerError("the peer allows no PDU of useful size")

    def _rejection(self, result: int, source: int, reason: int) -> GatewayConnectionError | GatewayRefused:
        kind = GatewayConnectionError if result == 2 else GatewayRefused
        why = REJECTIONS.get((source, reason), f"source {source}, reason {reason}")
        return kind(f"{self.host} port {self.port} rejected the association: {why}")

    def close(self, *, abort: bool = False) -> None:
        """Release the association, or abort it; twice does no harm."""
        wire, self._wire = self._wire, None
        if wire is None:
            return
        with suppress(GatewayConnectionError, GatewayAnswerError):
            wire.send(p.abort(provider=False) if abort else p.RELEASE_REQUEST)
            end = time.monotonic() + min(self.timeout, PARTING)
            while not abort and (left := end - time.monotonic()) > 0:
                if wire.read_pdu(left, within=left)[0] != p.P_DATA:
                    break
        wire.close()

    def echo(self) -> int:
        """Return the status of a C-ECHO, 0 for success."""
        context = self._context(p.VERIFICATION, p.IMPLICIT_LITTLE)
        return self._status(self._request(context, {p.AFFECTED_CLASS: p.VERIFICATION, p.COMMAND_FIELD: p.C_ECHO}))

    def store(self, item: Outgoing, also: Mapping[int, int | str] | None = None) -> int:
        """
        Send one instance as it is; return the status. ``also`` are further elements of the command.

        Raises GatewayRefused when its class is not accepted in its transfer syntax; after any other error the
        association is of no more use.
        """
        context = self._context(item.sop_class, item.transfer_syntax)
        command: dict[int, int | str] = {
            p.AFFECTED_CLASS: item.sop_class,
            p.COMMAND_FIELD: p.C_STORE,
            p.PRIORITY: 0,
            p.AFFECTED_INSTANCE: item.sop_instance,
            **(also or {}),
        }
        try:
            with item.blob.open() as stream:
                stream.seek(item.offset)
                size = len(item.blob) - item.offset
                return self._status(self._request(context, command, stream, size))
        except OSError as error:
            raise InvalidItem(f"the file cannot be read ({type(error).__name__})") from None

    def _context(self, abstract: str, transfer: str) -> int:
        try:
            return self.accepted[abstract, transfer]
        except KeyError:
            raise GatewayRefused(f"{self.host} port {self.port} does not take {abstract} in {transfer}") from None

    def _connected(self) -> Wire:
        if self._wire is None:
            raise GatewayConnectionError("the association is not open")
        return self._wire

    def _request(
        self, context: int, command: dict[int, int | str], data: BinaryIO | None = None, size: int = 0
    ) -> dict[int, bytes]:
        """Send a command with its data set, if any, and return the answer."""
        wire = self._connected()
        self._message = self._message % 0xFFFF + 1
        body = p.encode_command(
            {**command, p.MESSAGE_ID: self._message, p.DATA_SET_TYPE: p.NO_DATA_SET if data is None else 1}
        )
        out = p.data_pdu(context, body, command=True, last=True)
        if data is None:
            wire.send(out)
        while data is not None:
            piece = data.read(min(self._room, size))
            size -= len(piece)
            if size and not piece:
                raise InvalidItem("the file was cut while it was sent")
            wire.send(out + p.data_pdu(context, piece, command=False, last=not size))
            out = b""
            if not size:
                break
        return self._answer(wire)

    def _answer(self, wire: Wire) -> dict[int, bytes]:
        command = bytearray()
        while True:
            kind, body = wire.read_pdu(self.timeout)
            if kind != p.P_DATA:
                raise GatewayConnectionError("the peer ended the association")
            for _, is_command, is_last, piece in p.fragments(body):
                command += piece
                if not is_command or len(command) > p.MAX_COMMAND:
                    raise GatewayAnswerError("the answer is no command set of acceptable size")
                if is_last:
                    return self._checked(p.decode_command(command))

    def _checked(self, answer: dict[int, bytes]) -> dict[int, bytes]:
        if p.number(answer, p.RESPONDED_ID) != self._message:
            raise GatewayAnswerError("the peer answered to another message")
        return answer

    @staticmethod
    def _status(answer: dict[int, bytes]) -> int:
        return p.number(answer, p.STATUS)
