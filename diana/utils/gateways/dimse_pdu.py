"""The bytes of DICOM associations: PDUs (PS3.8 9.3) and DIMSE command sets (PS3.7 6.3 and E)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from struct import pack
from typing import Final

from attrs import field, frozen

from diana.exceptions import ConfigError, GatewayAnswerError

ASSOCIATE_RQ: Final = 1
ASSOCIATE_AC: Final = 2
ASSOCIATE_RJ: Final = 3
P_DATA: Final = 4
RELEASE_RQ: Final = 5
RELEASE_RP: Final = 6
ABORT: Final = 7

HEADER: Final = 6
PDV_HEADER: Final = 6
MAX_CONTEXTS: Final = 128
MAX_COMMAND: Final = 64 << 10
DEFAULT_MAX_PDU: Final = 128 << 10

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
VERIFICATION: Final = "1.2.840.10008.1.1"
IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"

# Constant over versions, so that the same object received twice is the same file.
IMPLEMENTATION_UID: Final = "1.2.826.0.1.3680043.10.43.1"
IMPLEMENTATION_NAME: Final = "DIANA"

# results of a presentation context (PS3.8 9.3.3.2)
ACCEPTED: Final = 0
ABSTRACT_SYNTAX_UNSUPPORTED: Final = 3
TRANSFER_SYNTAXES_UNSUPPORTED: Final = 4

# elements of group 0000
AFFECTED_CLASS: Final = 0x0002
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
RESPONDED_ID: Final = 0x0120
MOVE_DESTINATION: Final = 0x0600
PRIORITY: Final = 0x0700
DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
ERROR_COMMENT: Final = 0x0902
AFFECTED_INSTANCE: Final = 0x1000
REMAINING: Final = 0x1020
COMPLETED: Final = 0x1021
FAILED: Final = 0x1022
WARNINGS: Final = 0x1023
ORIGINATOR: Final = 0x1030
ORIGINATOR_ID: Final = 0x1031

C_STORE: Final = 0x0001
C_GET: Final = 0x0010
C_FIND: Final = 0x0020
C_MOVE: Final = 0x0021
C_ECHO: Final = 0x0030
C_CANCEL: Final = 0x0FFF
RESPONSE: Final = 0x8000
NO_DATA_SET: Final = 0x0101

Command = Mapping[int, bytes]


@frozen
class Context:
    """Propose one abstract syntax with the transfer syntaxes in which it may come."""

    id: int
    abstract: str
    transfers: tuple[str, ...]


@frozen
class AssociateRequest:
    """
    Say what an association request asks for. ``max_pdu`` is what the requester can take, 0 for anything.

    For the abstract syntaxes in ``provides`` the requester offers to be the SCP (PS3.7 D.3.3.4); the value says whether
    it wants to stay SCU as well.
    """

    called: str
    calling: str
    contexts: tuple[Context, ...]
    max_pdu: int = DEFAULT_MAX_PDU
    application_context: str = APPLICATION_CONTEXT
    version: int = 1
    provides: Mapping[str, bool] = field(factory=dict)


@frozen
class AssociateAnswer:
    """Say what was accepted: the transfer syntax of each context id, and how large a PDU may be (0: any size)."""

    accepted: Mapping[int, str]
    max_pdu: int


def check_ae_title(title: str) -> str:
    """Return an AE title as it is sent (PS3.5 6.2), without padding. Raises ConfigError."""
    text = title.strip(" ")
    if not 1 <= len(text) <= 16 or "\\" in text or not text.isascii() or not text.isprintable():
        raise ConfigError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return text


def pdu(kind: int, body: bytes) -> bytes:
    """Return a whole PDU."""
    return pack(">BxI", kind, len(body)) + body


RELEASE_REQUEST: Final = pdu(RELEASE_RQ, bytes(4))
RELEASE_ANSWER: Final = pdu(RELEASE_RP, bytes(4))


def abort(*, reason: int = 0, provider: bool = True) -> bytes:
    """Return an A-ABORT (PS3.8 9.3.8); reason 2 is an unexpected PDU, 6 an invalid parameter."""
    return pdu(ABORT, bytes((0, 0, 2 if provider else 0, reason)))


def reject(result: int, source: int, reason: int) -> bytes:
    """Return an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return pdu(ASSOCIATE_RJ, bytes((0, result, source, reason)))


def _item(kind: int, body: bytes) -> bytes:
    return pack(">BxH", kind, len(body)) + body


def _role(abstract: str, also_scu: bool) -> bytes:
    return _item(0x54, pack(">H", len(abstract)) + abstract.encode("ascii", "replace") + bytes((also_scu, 1)))


def _user_information(max_pdu: int, provides: Mapping[str, bool]) -> bytes:
    return _item(
        0x50,
        _item(0x51, pack(">I", max_pdu))
        + _item(0x52, IMPLEMENTATION_UID.encode())
        + b"".join(_role(*one) for one in sorted(provides.items()))
        + _item(0x55, IMPLEMENTATION_NAME.encode()),
    )


def _association_head(called: str, calling: str) -> bytes:
    titles = b"".join(title.encode("ascii", "replace").ljust(16)[:16] for title in (called, calling))
    return pack(">HH", 1, 0) + titles + bytes(32) + _item(0x10, APPLICATION_CONTEXT.encode())


def encode_request(request: AssociateRequest) -> bytes:
    """Return an A-ASSOCIATE-RQ."""
    contexts = b"".join(
        _item(
            0x20,
            bytes((context.id, 0, 0, 0))
            + _item(0x30, context.abstract.encode())
            + b"".join(_item(0x40, transfer.encode()) for transfer in context.transfers),
        )
        for context in request.contexts
    )
    head = _association_head(request.called, request.calling)
    return pdu(ASSOCIATE_RQ, head + contexts + _user_information(request.max_pdu, request.provides))


def encode_answer(request: AssociateRequest, results: Mapping[int, tuple[int, str]], max_pdu: int) -> bytes:
    """Return an A-ASSOCIATE-AC with result and transfer syntax of each context id; offered roles are taken."""
    contexts = b"".join(
        _item(0x21, bytes((id_, 0, result, 0)) + _item(0x40, transfer.encode("ascii", "replace")))
        for id_, (result, transfer) in results.items()
    )
    head = _association_head(request.called, request.calling)
    return pdu(ASSOCIATE_AC, head + contexts + _user_information(max_pdu, request.provides))


def _items(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 > len(data) or end > len(data):
            raise GatewayAnswerError("an item of the association ends outside its PDU")
        yield data[at], data[at + 4 : end]
        at = end


def _text(data: memoryview | bytes) -> str:
    return bytes(data).decode("ascii", "replace").strip(" \0")


def _user_max_pdu(data: memoryview) -> int:
    for kind, body in _items(data):
        if kind == 0x51 and len(body) == 4:
            return int.from_bytes(body, "big")
    return 0


def _offered_roles(data: memoryview) -> dict[str, bool]:
    """Return the abstract syntaxes for which the requester offers to be the SCP."""
    found: dict[str, bool] = {}
    for kind, body in _items(data):
        size = int.from_bytes(body[:2], "big")
        if kind == 0x54 and len(body) == size + 4 and body[size + 3] == 1:
            found[_text(body[2 : size + 2])] = body[size + 2] == 1
    return found


def decode_request(body: memoryview) -> AssociateRequest:
    """Return what an A-ASSOCIATE-RQ asks for. Raises GatewayAnswerError when it is malformed."""
    if len(body) < 68:
        raise GatewayAnswerError("the association request is too short")
    contexts: dict[int, Context] = {}
    application, max_pdu = "", 0
    provides: dict[str, bool] = {}
    for kind, item in _items(body[68:]):
        if kind == 0x10:
            application = _text(item)
        elif kind == 0x20:
            context = _decode_context(item)
            contexts[context.id] = context
        elif kind == 0x50:
            max_pdu, provides = _user_max_pdu(item), _offered_roles(item)
    if len(contexts) > MAX_CONTEXTS:
        raise GatewayAnswerError("the association request has too many presentation contexts")
    return AssociateRequest(
        _text(body[4:20]), _text(body[20:36]), tuple(contexts.values()), max_pdu, application,
        int.from_bytes(body[:2], "big"), provides,
    )  # fmt: skip


def _decode_context(item: memoryview) -> Context:
    if len(item) < 4:
        raise GatewayAnswerError("a presentation context is too short")
    parts = list(_items(item[4:]))
    abstract = next((_text(body) for kind, body in parts if kind == 0x30), "")
    return Context(item[0], abstract, tuple(_text(body) for kind, body in parts if kind == 0x40))


def decode_answer(body: memoryview) -> AssociateAnswer:
    """Return what an A-ASSOCIATE-AC grants. Raises GatewayAnswerError when it is malformed."""
    if len(body) < 68:
        raise GatewayAnswerError("the answer to the association request is too short")
    accepted: dict[int, str] = {}
    max_pdu = 0
    for kind, item in _items(body[68:]):
        if kind == 0x21:
            if len(item) < 4:
                raise GatewayAnswerError("a presentation context is too short")
            if item[2] == ACCEPTED:
                accepted[item[0]] = next((_text(part) for sub, part in _items(item[4:]) if sub == 0x40), "")
        elif kind == 0x50:
            max_pdu = _user_max_pdu(item)
    return AssociateAnswer(accepted, max_pdu)


def fragments(body: memoryview) -> Iterator[tuple[int, bool, bool, memoryview]]:
    """
    Yield context id, is-command, is-last and bytes of each fragment of a P-DATA-TF (PS3.8 9.3.5).

    Raises GatewayAnswerError for a length that points outside the PDU, and for a fragment that brings nothing: peers
    that send such ones without end would never be done.
    """
    at = 0
    if not body:
        raise GatewayAnswerError("a PDU without fragments")
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        end = at + 4 + size
        if at + PDV_HEADER > len(body) or size < 2 or end > len(body):
            raise GatewayAnswerError("a fragment ends outside its PDU")
        control = body[at + 5]
        if size == 2 and not control & 2:
            raise GatewayAnswerError("an empty fragment that is not the last")
        yield body[at + 4], bool(control & 1), bool(control & 2), body[at + PDV_HEADER : end]
        at = end


def data_pdu(context: int, piece: bytes | memoryview, *, command: bool, last: bool) -> bytes:
    """Return a P-DATA-TF with one fragment."""
    head = pack(">BxIIBB", P_DATA, len(piece) + PDV_HEADER, len(piece) + 2, context, command | last << 1)
    return head + piece


def encode_command(elements: Mapping[int, int | str]) -> bytes:
    """Return a command set in implicit VR little endian: numbers as US, texts as UI."""
    parts = []
    for element, value in sorted(elements.items()):
        data = pack("<H", value) if isinstance(value, int) else value.encode("ascii", "replace")
        data += b"\0" * (len(data) % 2)
        parts.append(pack("<HHI", 0, element, len(data)) + data)
    body = b"".join(parts)
    return pack("<HHII", 0, 0, 4, len(body)) + body


def decode_command(data: bytes | bytearray) -> dict[int, bytes]:
    """Return the elements of a command set, undecoded. Raises GatewayAnswerError when it is malformed."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        group, element = int.from_bytes(data[at : at + 2], "little"), int.from_bytes(data[at + 2 : at + 4], "little")
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 > len(data) or end > len(data) or group:
            raise GatewayAnswerError("the command set is malformed")
        found[element] = bytes(data[at + 8 : end])
        at = end
    return found


def number(command: Command, element: int) -> int:
    """Return an unsigned short of a command. Raises GatewayAnswerError when it is absent."""
    value = command.get(element, b"")
    if len(value) != 2:
        raise GatewayAnswerError("the command lacks a number that it needs")
    return int.from_bytes(value, "little")


def text(command: Command, element: int) -> str:
    """Return a UID or text of a command, empty when it is absent."""
    return _text(command.get(element, b""))


def file_head(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """
    Return preamble and file meta information (PS3.10 7.1) for a data set that follows unchanged.

    The same object gives the same bytes, whoever sent it.
    """
    elements: Iterable[tuple[int, bytes, bytes]] = (
        (0x02, b"UI", sop_class.encode()),
        (0x03, b"UI", sop_instance.encode()),
        (0x10, b"UI", transfer_syntax.encode()),
        (0x12, b"UI", IMPLEMENTATION_UID.encode()),
        (0x13, b"SH", IMPLEMENTATION_NAME.encode()),
    )
    body = pack("<HH2sxxI2s", 2, 1, b"OB", 2, b"\0\1")
    for element, vr, value in elements:
        value += (b" " if vr == b"SH" else b"\0") * (len(value) % 2)
        body += pack("<HH2sH", 2, element, vr, len(value)) + value
    return bytes(128) + b"DICM" + pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body
