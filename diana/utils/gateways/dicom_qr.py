"""C-FIND as a requester (PS3.4 C.4.1), in plain values: texts by keyword in, texts by keyword out."""

from __future__ import annotations

import io
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from struct import pack
from types import TracebackType
from typing import Any, Final  # Any: texts, and sequences as lists of mappings

from attrs import define, field

from diana.exceptions import (
    ConfigError,
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayRefused,
    InvalidItem,
    Unsupported,
)
from diana.utils.dicom.dictionary import tag_of, vr_of
from diana.utils.dicom.levels import DicomLevel
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dimse_scu import Association
from diana.utils.gateways.dimse_wire import Wire
from diana.utils.gateways.key_levels import EVERYWHERE

__all__ = ["FindAssociation", "Row", "error_of_status", "tls_context"]

Row = dict[str, Any]

PATIENT_ROOT: Final = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT: Final = "1.2.840.10008.5.1.4.1.2.2.1"
C_FIND: Final = 0x0020
CANCELLED: Final = 0xFE00
PENDING: Final = (0xFF00, 0xFF01)
MEDIUM: Final = 0
MAX_IDENTIFIER: Final = 16 << 20
MAX_DEPTH: Final = 16
MAX_ANSWERS: Final = 5_000_000
AFTER_CANCEL: Final = 10_000
UTF8: Final = "ISO_IR 192"

_WORDS: Final = {
    0x0110: "processing failure",
    0x0122: "the SOP class is not supported",
    0x0124: "not authorized",
    0x0210: "duplicate invocation",
    0x0211: "the operation is not known there",
    0x0212: "mistyped argument",
    0xA700: "out of resources",
    0xA900: "the identifier does not match the SOP class",
    CANCELLED: "cancelled by the server",
}
_TEMPORARY: Final = frozenset((0x0110, 0xA700, CANCELLED))


def error_of_status(status: int, where: str) -> DianaError:
    """Return the error for a final status of C-FIND that is not success (PS3.4 C.4.1.1.4, PS3.7 C)."""
    words = _WORDS.get(status, "unable to process" if status & 0xF000 == 0xC000 else "an unexpected status")
    kind: type[GatewayConnectionError | GatewayRefused] = GatewayRefused
    if status in _TEMPORARY or status & 0xFF00 == 0xA700:
        kind = GatewayConnectionError
    return kind(f"{where} failed the search: {words} ({status:#06x})", status=status)


def tls_context(
    *, verify: bool | str = True, cert: str | tuple[str, str] | None = None, check_hostname: bool = True
) -> ssl.SSLContext:
    """Return a TLS context for a node; ``verify`` may be the file of a private CA. Raises ConfigError."""
    try:
        context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
        if cert is not None:
            context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    except (OSError, ValueError):
        raise ConfigError("the CA or client certificate cannot be read") from None
    context.check_hostname = check_hostname and verify is not False
    if verify is False:
        context.verify_mode = ssl.CERT_NONE
    return context


def _contexts() -> list[tuple[str, Sequence[str]]]:
    # one transfer syntax each, so that the answer leaves no doubt
    roots, syntaxes = (STUDY_ROOT, PATIENT_ROOT), (p.EXPLICIT_LITTLE, p.IMPLICIT_LITTLE)
    finds = [(root, (syntax,)) for root in roots for syntax in syntaxes]
    return [*finds, (p.VERIFICATION, (p.IMPLICIT_LITTLE,))]


@define(eq=False)
class FindAssociation(Association):
    """
    Keep one association open for searches, as a context manager; over TLS when ``tls`` is given.

    ``timeout`` in seconds holds for connecting and for each answer, not for a whole search.
    """

    contexts: Sequence[tuple[str, Sequence[str]]] = field(factory=_contexts)
    tls: ssl.SSLContext | None = field(default=None, kw_only=True, repr=False)
    timeout: float = field(default=60.0, kw_only=True)
    connect_timeout: float = field(default=10.0, kw_only=True)
    _busy: bool = field(init=False, default=False)

    def open(self) -> None:
        """Connect and negotiate. Raises GatewayConnectionError, GatewayRefused."""
        self._wire = Wire(self._socket(), self.timeout, self.max_pdu)
        try:
            self._negotiate(self._wire)
        except BaseException:
            self.close(abort=True)
            raise

    def _socket(self) -> socket.socket:
        place = f"{self.host} port {self.port}"
        sock: socket.socket | None = None
        try:
            sock = socket.create_connection((self.host, self.port), timeout=self.connect_timeout)
            return sock if self.tls is None else self.tls.wrap_socket(sock, server_hostname=self.host)
        except ssl.SSLCertVerificationError:
            self._shut(sock)
            raise GatewayRefused(f"{place}: the server's certificate is not trusted") from None
        except (OSError, OverflowError, ValueError) as error:
            self._shut(sock)
            why = getattr(error, "strerror", None) or type(error).__name__
            raise GatewayConnectionError(f"cannot reach {place}: {why}") from None

    @staticmethod
    def _shut(sock: socket.socket | None) -> None:
        if sock is not None:
            sock.close()

    def find(self, level: DicomLevel, keys: Mapping[str, str], *, limit: int | None = None) -> Iterator[Row]:
        """
        Yield what the node answers, by keyword; a key that it does not support is absent from the row.

        ``keys`` are the texts to match, empty for those to return. Leaving early, or at ``limit`` answers, cancels the
        search. Raises GatewayConnectionError, GatewayRefused, GatewayAnswerError; a search that the server ends with a
        failure raises after the answers that came.
        """
        if self._busy:
            raise GatewayRefused("one search at a time over one association")
        root = PATIENT_ROOT if level == DicomLevel.PATIENTS else STUDY_ROOT
        context, syntax = self._find_context(root)
        wanted = {"QueryRetrieveLevel": "IMAGE" if level == DicomLevel.INSTANCES else level.singular.upper(), **keys}
        body = encode_identifier(wanted, syntax)
        self._busy = True
        try:
            self._ask(context, root, body)
            yield from self._rows(context, syntax, tuple(wanted), limit)
            self._busy = False
        except GeneratorExit:
            self._cancel(context)
            raise

    def _find_context(self, root: str) -> tuple[int, str]:
        for syntax in (p.EXPLICIT_LITTLE, p.IMPLICIT_LITTLE):
            if (root, syntax) in self.accepted:
                return self.accepted[root, syntax], syntax
        raise GatewayRefused(f"{self.host} port {self.port} does not offer searches at this level (C-FIND)")

    def _ask(self, context: int, root: str, body: bytes) -> None:
        wire = self._connected()
        self._message = self._message % 0xFFFF + 1
        command = p.encode_command(
            {
                p.AFFECTED_CLASS: root,
                p.COMMAND_FIELD: C_FIND,
                p.MESSAGE_ID: self._message,
                p.PRIORITY: MEDIUM,
                p.DATA_SET_TYPE: 1,
            }
        )
        out = p.data_pdu(context, command, command=True, last=True)
        for at in range(0, len(body), self._room):
            piece = body[at : at + self._room]
            wire.send(out + p.data_pdu(context, piece, command=False, last=at + len(piece) == len(body)))
            out = b""

    def _rows(self, context: int, syntax: str, keywords: tuple[str, ...], limit: int | None) -> Iterator[Row]:
        for count, identifier in enumerate(self._identifiers(context), 1):
            if count > MAX_ANSWERS:
                self.close(abort=True)
                raise GatewayAnswerError(f"more than {MAX_ANSWERS} answers to one search")
            yield decode_identifier(identifier, syntax, keywords)
            if count == limit:
                self._cancel(context)
                return

    def _identifiers(self, context: int) -> Iterator[bytes]:
        """Yield the identifiers of the pending answers, until the final one says success. Raises for any other."""
        while True:
            status, identifier = self._message_of(context)
            if status == 0:
                return
            if status not in PENDING:
                raise error_of_status(status, f"{self.host} port {self.port}")
            if identifier is None:
                raise GatewayAnswerError("the peer sent an answer without its identifier")
            yield identifier

    def _message_of(self, context: int) -> tuple[int, bytes | None]:
        """Receive one answer: its status, and its identifier if it has one."""
        wire = self._connected()
        command, data = bytearray(), bytearray()
        status: int | None = None
        while True:
            kind, body = wire.read_pdu(self.timeout)
            if kind != p.P_DATA:
                self.close(abort=True)
                raise GatewayConnectionError("the peer ended the association in the middle of a search")
            for place, is_command, is_last, piece in p.fragments(body):
                if place != context or is_command != (status is None):
                    raise GatewayAnswerError("the answers of the peer are out of order")
                target, most = (command, p.MAX_COMMAND) if is_command else (data, MAX_IDENTIFIER)
                target += piece
                if len(target) > most:
                    raise GatewayAnswerError("an answer of the peer is too large")
                if is_command and is_last:
                    found = self._checked(p.decode_command(command))
                    if p.number(found, p.COMMAND_FIELD) != C_FIND | p.RESPONSE:
                        raise GatewayAnswerError("the peer answered with another operation")
                    status = p.number(found, p.STATUS)
                    if p.number(found, p.DATA_SET_TYPE) == p.NO_DATA_SET:
                        return status, None
                elif is_last:
                    return status or 0, bytes(data)

    def _cancel(self, context: int) -> None:
        """End a search early: C-CANCEL, then read what is still on its way; abort when that does not help."""
        body = p.encode_command(
            {p.COMMAND_FIELD: p.C_CANCEL, p.RESPONDED_ID: self._message, p.DATA_SET_TYPE: p.NO_DATA_SET}
        )
        try:
            self._connected().send(p.data_pdu(context, body, command=True, last=True))
            for _ in range(AFTER_CANCEL):
                if self._message_of(context)[0] not in PENDING:
                    self._busy = False
                    return
        except DianaError:
            pass
        self.close(abort=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # who leaves a search early has cancelled it, and parts in peace
        self.close(abort=kind is not None and (kind is not GeneratorExit or self._busy))

    def close(self, *, abort: bool = False) -> None:
        """Release the association, or abort it; twice does no harm."""
        with suppress(OSError):
            super().close(abort=abort)


def encode_identifier(keys: Mapping[str, str], syntax: str) -> bytes:
    """Return an identifier as the data set to send, in ascending order of tags. Raises Unsupported, InvalidItem."""
    explicit = syntax == p.EXPLICIT_LITTLE
    texts = dict(keys)
    if not all(text.isascii() for text in texts.values()):
        texts["SpecificCharacterSet"] = UTF8
    found = []
    for keyword, text in texts.items():
        tag, vr = _entry(keyword)
        found.append((tag, _element(tag, vr, text, explicit=explicit)))
    return b"".join(data for _, data in sorted(found))


def _entry(keyword: str) -> tuple[int, str]:
    tag = tag_of(keyword)
    if tag is None:
        raise Unsupported(f"{keyword!r} is no DICOM keyword")
    return tag, vr_of(tag)


_LONG: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_BINARY: Final = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "FL": "<f", "FD": "<d"}


def _value(vr: str, text: str) -> bytes:
    if vr in _BINARY and text:
        try:
            numbers = [float(one) if vr in ("FL", "FD") else int(one) for one in text.split("\\")]
            return b"".join(pack(_BINARY[vr], one) for one in numbers)
        except (ValueError, OverflowError, struct.error):
            raise InvalidItem("a key of the search must be a number") from None
    if text and (vr == "SQ" or vr.startswith("O") or vr in ("UN", "AT")):
        raise Unsupported(f"a key of type {vr} cannot be matched")
    data = text.encode()
    return data + (b"\0" if vr == "UI" else b" ") * (len(data) % 2)


def _element(tag: int, vr: str, text: str, *, explicit: bool) -> bytes:
    value = _value(vr, text)
    head = pack("<HH", tag >> 16, tag & 0xFFFF)
    if not explicit:
        return head + pack("<I", len(value)) + value
    if vr in _LONG:
        return head + vr.encode() + pack("<HI", 0, len(value)) + value
    if len(value) > 0xFFFE:
        raise InvalidItem("a key of the search is too long")
    return head + vr.encode() + pack("<H", len(value)) + value


def decode_identifier(data: bytes, syntax: str, keywords: Sequence[str]) -> Row:
    """
    Return the values of an identifier for some keywords, without those that it lacks: texts, and lists of mappings.

    Raises GatewayAnswerError for what is no data set.
    """
    from diana.utils.dicom.header import read_header

    if not data:
        raise GatewayAnswerError("an answer to the search is empty")
    whole = p.file_head(STUDY_ROOT, "1.2", syntax) + data
    try:
        header = read_header(io.BytesIO(whole), tuple(dict.fromkeys((*keywords, *EVERYWHERE))))
        found = header.as_dict()
    except InvalidItem:
        raise GatewayAnswerError("an answer to the search cannot be read as a data set") from None
    row: Row = {keyword: found[keyword] for keyword in keywords if keyword in found}
    sequences = [keyword for keyword in keywords if _entry(keyword)[1] == "SQ"]
    return {**row, **_sequences(whole, sequences)} if sequences else row


def _sequences(whole: bytes, keywords: Sequence[str]) -> Row:
    from pydicom import dcmread

    try:
        ds = dcmread(io.BytesIO(whole))
        return {keyword: _items(ds[keyword].value) for keyword in keywords if keyword in ds}
    except Exception:  # noqa: BLE001  # pydicom fails in many ways on hostile bytes, each meaning the same here
        raise GatewayAnswerError("a sequence in an answer to the search cannot be read") from None


def _items(items: Any, depth: int = 0) -> list[Row]:
    if depth > MAX_DEPTH:
        raise RecursionError
    return [
        {
            one.keyword: _items(one.value, depth + 1) if one.VR == "SQ" else str(one.value or "")
            for one in item
            if one.keyword
        }
        for item in items or ()
    ]
