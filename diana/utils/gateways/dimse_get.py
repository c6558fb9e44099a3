"""C-GET and C-MOVE as a requester (PS3.4 C.4.2 and C.4.3): what comes goes to memory or temporary files."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Final

from attrs import define, field, frozen

from diana.exceptions import (
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayRefused,
    IncompleteTransfer,
)
from diana.utils.blob import Blob
from diana.utils.dicom.levels import DicomLevel
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dicom_qr import STUDY_ROOT, FindAssociation, encode_identifier
from diana.utils.gateways.dimse_wire import Wire
from diana.utils.gateways.multipart_sink import Sink

__all__ = ["Counts", "NodeAssociation", "error_of_retrieve", "node_contexts", "retrieve_contexts"]

STUDY_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
MAX_IDENTIFIER: Final = 16 << 20
UNCOMPRESSED: Final = (p.EXPLICIT_LITTLE, p.IMPLICIT_LITTLE)
# in the order in which archives are likely to hold them
SYNTAXES: Final = (
    *UNCOMPRESSED,
    *(f"1.2.840.10008.1.2.4.{tail}" for tail in (70, 90, 91, 80, 81, 50, 51, 57, 100, 101, 102, 103, 201, 202, 203)),
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.1.99",
    p.EXPLICIT_BIG,
)
# for nodes that do not say which classes they hold (PS3.4 B.5)
USUAL_CLASSES: Final = tuple(
    f"1.2.840.10008.5.1.4.1.1.{tail}"
    for tail in (
        "2", "2.1", "4", "4.1", "7", "7.1", "7.2", "7.3", "7.4", "1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "6.1",
        "6.2", "3.1", "12.1", "12.2", "20", "128", "130", "13.1.3", "66", "66.4", "11.1", "88.11", "88.22", "88.33",
        "88.59", "88.67", "104.1", "481.1", "481.2", "481.3", "481.5", "77.1.1", "77.1.4", "9.1.1",
    )
)  # fmt: skip
Contexts = list[tuple[str, Sequence[str]]]

_WORDS: Final = {
    0xA701: "it cannot count the matches",
    0xA702: "it cannot send the instances",
    0xA801: "it does not know the destination",
    0xA900: "the identifier does not match the SOP class",
    0xFE00: "cancelled by the server",
    0x0122: "the SOP class is not supported",
    0x0124: "not authorized",
    0x0211: "the operation is not known there",
}
_TEMPORARY: Final = frozenset((0xA700, 0xA701, 0xA702, 0xFE00, 0x0110))
PENDING: Final = (0xFF00, 0xFF01)
# there is one for each sub-operation, or one for each few seconds
MOST_PENDING: Final = 1_000_000
WARNING: Final = 0xB000


def error_of_retrieve(status: int, where: str) -> DianaError:
    """Return the error for a final status of C-GET or C-MOVE that is not success (PS3.4 C.4.2.1.5)."""
    words = _WORDS.get(status, "unable to process" if status & 0xF000 == 0xC000 else "an unexpected status")
    kind = GatewayConnectionError if status in _TEMPORARY else GatewayRefused
    return kind(f"{where} failed the retrieval: {words} ({status:#06x})", status=status)


def node_contexts(pairs: Iterable[tuple[str, str]] = (), *, operations: Iterable[str] = ()) -> Contexts:
    """Return contexts to search with, for some operations, and to send classes in their transfer syntaxes."""
    asked = (STUDY_ROOT, *operations)
    found: Contexts = [(one, (syntax,)) for one in asked for syntax in UNCOMPRESSED]
    return [*found, *((abstract, (syntax,)) for abstract, syntax in dict.fromkeys(pairs))]


def retrieve_contexts(classes: Iterable[str]) -> tuple[Contexts, dict[str, bool]]:
    """
    Return contexts for a C-GET and the roles that go with them; without classes the usual ones.

    Each transfer syntax has a context of its own as far as there is room, so that nothing needs to be transcoded.
    """
    head: Contexts = [(STUDY_GET, (syntax,)) for syntax in UNCOMPRESSED]
    room = p.MAX_CONTEXTS - len(head)
    known = list(dict.fromkeys(one for one in classes if is_uid(one)))[:room] or list(USUAL_CLASSES)
    alone = min(room // len(known), len(SYNTAXES)) - 1
    for one in known:
        head += [(one, (syntax,)) for syntax in SYNTAXES[:alone]]
        head.append((one, SYNTAXES[alone:]))
    return head, dict.fromkeys(known, False)


@frozen
class Counts:
    """Say how the sub-operations of a retrieval went, as the peer counts; ``failed_uids`` when it names them."""

    completed: int = 0
    failed: int = 0
    warnings: int = 0
    failed_uids: tuple[str, ...] = ()


@frozen
class _Message:
    context: int
    command: Mapping[int, bytes]
    data: bytes | Blob | None


@define(eq=False)
class NodeAssociation(FindAssociation):
    """
    Keep one association open for searches, stores and retrievals, as the ``contexts`` allow.

    Instances larger than ``spill`` bytes go to temporary files in ``folder``.
    """

    spill: int = field(default=4 << 20, kw_only=True)
    folder: str | None = field(default=None, kw_only=True)
    _pieces: Iterator[tuple[int, bool, bool, memoryview]] | None = field(init=False, default=None, repr=False)

    def get(self, level: DicomLevel, keys: Mapping[str, str]) -> Generator[Blob, None, None]:
        """
        Yield the files of what ``keys`` name (C-GET), over this association; leaving early aborts it.

        Raises GatewayError, and IncompleteTransfer when the peer says that it could not send everything.
        """
        context, message = self._retrieve(STUDY_GET, p.C_GET, level, keys)
        syntaxes = {id_: syntax for (_, syntax), id_ in self.accepted.items()}
        pending = 0
        try:
            while True:
                got = self._receive(syntaxes)
                if p.number(got.command, p.COMMAND_FIELD) == p.C_STORE:
                    blob = got.data if isinstance(got.data, Blob) else Blob(got.data or b"")
                    self._confirm(got, blob)
                    pending = 0
                    yield blob
                elif self._final(got, context, message, p.C_GET) is not None:
                    return
                else:
                    pending = _one_more(pending)
        except BaseException:
            self.close(abort=True)
            raise

    def move(
        self, level: DicomLevel, keys: Mapping[str, str], dest_aet: str, *, alive: Callable[[], float] = lambda: 0.0
    ) -> Counts:
        """
        Have the node send what ``keys`` name to another (C-MOVE); return how it went.

        ``alive`` tells when something was last seen of it elsewhere (``time.monotonic``), which puts off the timeout.
        Raises as ``get``.
        """
        also = {p.MOVE_DESTINATION: p.check_ae_title(dest_aet)}
        context, message = self._retrieve(STUDY_MOVE, p.C_MOVE, level, keys, also)
        pending = 0
        while True:
            self._wait(alive)
            found = self._final(self._receive({}), context, message, p.C_MOVE)
            if found is not None:
                return found
            pending = _one_more(pending)

    def hang_up(self) -> None:
        """End what another thread does with this association."""
        if self._wire is not None:
            self._wire.hang_up()

    def _wait(self, alive: Callable[[], float]) -> None:
        """Wait until there is something to read, or nothing was heard for the timeout."""
        wire, start = self._connected(), time.monotonic()
        while not wire.readable(0.5):
            if time.monotonic() - max(start, alive()) > self.timeout:
                raise GatewayConnectionError("the DICOM peer fell silent")

    def _retrieve(
        self,
        abstract: str,
        operation: int,
        level: DicomLevel,
        keys: Mapping[str, str],
        also: Mapping[int, int | str] | None = None,
    ) -> tuple[int, int]:
        """Send the request; return its context and message id."""
        syntax = next((one for one in UNCOMPRESSED if (abstract, one) in self.accepted), None)
        if syntax is None:
            verb = "C-GET" if operation == p.C_GET else "C-MOVE"
            raise GatewayRefused(f"{self.host} port {self.port} does not offer {verb}")
        context = self.accepted[abstract, syntax]
        wanted = {"QueryRetrieveLevel": "IMAGE" if level == DicomLevel.INSTANCES else level.singular.upper(), **keys}
        self._message = self._message % 0xFFFF + 1
        command: dict[int, int | str] = {
            p.AFFECTED_CLASS: abstract,
            p.COMMAND_FIELD: operation,
            p.MESSAGE_ID: self._message,
            p.PRIORITY: 0,
            **(also or {}),
        }
        self._pieces = self._fragments(self._connected())
        self._send(context, command, encode_identifier(wanted, syntax))
        return context, self._message

    def _send(self, context: int, command: Mapping[int, int | str], data: bytes = b"") -> None:
        send_message(self._connected(), self._room, context, command, data)

    def _confirm(self, got: _Message, blob: Blob) -> None:
        """Answer that an instance has come; when that fails its file is given up."""
        try:
            answer: dict[int, int | str] = {
                p.AFFECTED_CLASS: p.text(got.command, p.AFFECTED_CLASS),
                p.COMMAND_FIELD: p.C_STORE | p.RESPONSE,
                p.RESPONDED_ID: p.number(got.command, p.MESSAGE_ID),
                p.STATUS: 0,
                p.AFFECTED_INSTANCE: p.text(got.command, p.AFFECTED_INSTANCE),
            }
            self._send(got.context, answer)
        except BaseException:
            blob.close()
            raise

    def _final(self, got: _Message, context: int, message: int, operation: int) -> Counts | None:
        """Return the counts of the last answer, None for one that is not the last. Raises for a failure."""
        command = got.command
        if p.number(command, p.COMMAND_FIELD) != operation | p.RESPONSE or got.context != context:
            raise GatewayAnswerError("the peer answered with another operation")
        if p.number(command, p.RESPONDED_ID) != message:
            raise GatewayAnswerError("the peer answered to another message")
        status = p.number(command, p.STATUS)
        if status in PENDING:
            return None
        where = f"{self.host} port {self.port}"
        counts = _counts(got)
        if status == WARNING or (status == 0xA702 and counts.failed) or (not status and counts.failed):
            text = f"{where} could not send {counts.failed or 'some'} of the instances"
            raise IncompleteTransfer(text, counts.failed_uids)
        if status:
            raise error_of_retrieve(status, where)
        return counts

    def _fragments(self, wire: Wire) -> Iterator[tuple[int, bool, bool, memoryview]]:
        while True:
            kind, body = wire.read_pdu(self.timeout)
            if kind != p.P_DATA:
                raise GatewayConnectionError("the peer ended the association in the middle of a retrieval")
            yield from p.fragments(body)

    def _receive(self, syntaxes: Mapping[int, str]) -> _Message:
        """Receive one message; the data set of a C-STORE becomes a file."""
        pieces = self._pieces
        if pieces is None:
            raise GatewayConnectionError("the association is not open")
        body, context = bytearray(), 0
        for place, is_command, is_last, piece in pieces:
            body, context = body + piece, place
            if not is_command or len(body) > p.MAX_COMMAND:
                raise GatewayAnswerError("a message of the peer does not begin with a command set")
            if is_last:
                break
        command = p.decode_command(body)
        if p.number(command, p.DATA_SET_TYPE) == p.NO_DATA_SET:
            return _Message(context, command, None)
        if p.number(command, p.COMMAND_FIELD) != p.C_STORE:
            return _Message(context, command, self._data(context, Sink(MAX_IDENTIFIER), MAX_IDENTIFIER))
        sop_class, instance = p.text(command, p.AFFECTED_CLASS), p.text(command, p.AFFECTED_INSTANCE)
        if context not in syntaxes or not is_uid(instance) or not is_uid(sop_class):
            raise GatewayAnswerError("the peer sends an instance in a way that was not agreed")
        sink = Sink(self.spill, self.folder, f"{self.host} port {self.port}")
        sink.write(p.file_head(sop_class, instance, syntaxes[context]))
        return _Message(context, command, self._data(context, sink))

    def _data(self, context: int, sink: Sink, most: int | None = None) -> bytes | Blob:
        try:
            for place, is_command, is_last, piece in self._pieces or ():
                if is_command or place != context:
                    raise GatewayAnswerError("a data set of the peer is broken by another message")
                sink.write(piece)
                if most is not None and len(sink) > most:
                    raise GatewayAnswerError("an answer of the peer is too large")
                if is_last:
                    break
            return sink.finish()
        except BaseException:
            sink.discard()
            raise


def _one_more(pending: int) -> int:
    """Count answers that say nothing new. Raises GatewayAnswerError for too many."""
    if pending >= MOST_PENDING:
        raise GatewayAnswerError("the peer says without end that the retrieval goes on")
    return pending + 1


def send_message(wire: Wire, room: int, context: int, command: Mapping[int, int | str], data: bytes = b"") -> None:
    """Send a command with its data set, if it has one, the first PDUs together; ``room`` is that of a fragment."""
    elements = {**command, p.DATA_SET_TYPE: 1 if data else p.NO_DATA_SET}
    out = p.data_pdu(context, p.encode_command(elements), command=True, last=True)
    for at in range(0, len(data), room):
        piece = data[at : at + room]
        out += p.data_pdu(context, piece, command=False, last=at + len(piece) == len(data))
    wire.send(out)


def _counts(got: _Message) -> Counts:
    def number(element: int) -> int:
        value = got.command.get(element, b"")
        return int.from_bytes(value, "little") if len(value) == 2 else 0

    failed = _failed_uids(got.data) if isinstance(got.data, bytes) else ()
    return Counts(number(p.COMPLETED), number(p.FAILED), number(p.WARNINGS), failed)


def _failed_uids(data: bytes) -> tuple[str, ...]:
    """Return the Failed SOP Instance UID List (0008,0058), the only element of its data set, explicit or not."""
    if data[:4] != b"\x08\x00\x58\x00":
        return ()
    explicit = data[4:6] == b"UI"
    size = int.from_bytes(data[6:8] if explicit else data[4:8], "little")
    texts = data[8 : 8 + size].decode("ascii", "replace").split("\\")
    return tuple(uid for text in texts if is_uid(uid := text.strip(" \0")))
