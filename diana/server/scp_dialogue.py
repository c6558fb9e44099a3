"""What is said inside one association of the DIMSE face: what a storage SCP says, C-FIND, C-MOVE and C-GET."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Final, cast  # Any: iterators that may be closed

from attrs import define, field

from diana.dixel import Dixel
from diana.exceptions import (
    ConfigError,
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayRefused,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.server import attributes as a
from diana.server.archive import MODALITIES
from diana.server.scp_identifier import Identifier, answer_of, failed_list, operation_of, read_identifier
from diana.server.scp_send import ArchiveTrouble, Cancelled, Route, Sender, SubOperations, Tally, archive_work
from diana.utils.dicom import Ref
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dimse_get import send_message
from diana.utils.gateways.dimse_scu import Outgoing, outgoing
from diana.utils.gateways.dimse_service import CLASS_NOT_SUPPORTED, SUCCESS, Conversation

if TYPE_CHECKING:
    from diana.server.scp import DicomFace

log = logging.getLogger(__name__)

PENDING: Final = 0xFF00
PENDING_UNMATCHED: Final = 0xFF01
CANCELLED: Final = 0xFE00
OUT_OF_RESOURCES: Final = 0xA700
CANNOT_COUNT: Final = 0xA701
NO_DESTINATION: Final = 0xA801
MISMATCH: Final = 0xA900
UNABLE: Final = 0xC000
MAX_IDENTIFIER: Final = 1 << 20


class _Asked:
    """Gather an identifier, as if it were an instance that is stored."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, piece: memoryview) -> None:
        """Append encoded bytes. Raises GatewayAnswerError for too many."""
        self.data += piece
        if len(self.data) > MAX_IDENTIFIER:
            raise GatewayAnswerError("the identifier is too large")

    def finish(self) -> int:
        """Say that it is whole."""
        return SUCCESS

    def abandon(self) -> None:
        """Leave nothing behind."""
        self.data.clear()


@define(eq=False)
class Dialogue(Conversation):
    """Answer searches and retrievals from an endpoint, besides what is stored."""

    face: DicomFace = field(kw_only=True, repr=False)
    _asked: tuple[dict[int, bytes], bytes, int] | None = field(init=False, default=None, repr=False)
    _aside: bytearray = field(init=False, factory=bytearray, repr=False)
    _room: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        most = self.request.max_pdu or p.DEFAULT_MAX_PDU
        self._room = min(most, p.DEFAULT_MAX_PDU) - p.PDV_HEADER & ~1

    def _serve_pdu(self) -> bool:
        if self._room < 128:
            raise GatewayAnswerError("the peer allows no PDU of useful size")
        going = Conversation._serve_pdu(self)
        asked, self._asked = self._asked, None
        if going and asked is not None:
            # only now, because the wire is read while it is answered
            self._serve_request(*asked)
        return going

    def _begin(self, operation: int, command: dict[int, bytes], has_data: bool) -> int:
        if operation not in (p.C_FIND, p.C_MOVE, p.C_GET):
            return Conversation._begin(self, operation, command, has_data)
        if operation_of(self._abstract()) != operation:
            return CLASS_NOT_SUPPORTED
        if not has_data:
            return MISMATCH
        self._reception = _Asked()
        return SUCCESS

    def _abstract(self) -> str:
        return next((one.abstract for one in self.request.contexts if one.id == self._context), "")

    def _end_of_data_set(self) -> None:
        if not isinstance(self._reception, _Asked) or self._current is None or self._status != SUCCESS:
            Conversation._end_of_data_set(self)
            return
        if self._asked is not None:
            raise GatewayAnswerError("two requests at once were not agreed")
        self._asked = self._current, bytes(self._reception.data), self._context
        self._current = self._reception = None

    def _serve_request(self, command: dict[int, bytes], data: bytes, context: int) -> None:
        operation = p.number(command, p.COMMAND_FIELD)
        abstract = next(one.abstract for one in self.request.contexts if one.id == context)
        status, comment, also, names = UNABLE, "", cast("dict[int, int | str]", {}), b""
        self._aside.clear()
        try:
            asked = read_identifier(data, self.contexts[context], abstract[:-1])
            if operation == p.C_FIND:
                status = self._find(command, context, asked)
            else:
                tally = Tally()
                status = self._retrieve(command, context, asked, tally)
                also = tally.elements(last=True)
                if status == CANCELLED:
                    also = tally.elements()
                names = failed_list(tally.failed, self.contexts[context])
        except Cancelled:
            status = CANCELLED
        except ItemNotFound:
            status = SUCCESS
        except (ArchiveTrouble, InvalidItem) as error:
            status, comment = self._trouble(operation, error)
        if comment:
            also[p.ERROR_COMMENT] = comment
        self._reply(command, context, status, names, also)

    @staticmethod
    def _trouble(operation: int, error: DianaError) -> tuple[int, str]:
        """Return status and comment for an error; the comment holds nothing of the error's text."""
        error = error.error if isinstance(error, ArchiveTrouble) else error
        log.warning("a request was not answered (%s)", type(error).__name__)
        if isinstance(error, InvalidItem | ConfigError):
            return MISMATCH, "the identifier does not fit"
        if isinstance(error, Unsupported):
            return UNABLE, "a key or level cannot be honoured"
        if error.temporary:
            return (OUT_OF_RESOURCES if operation == p.C_FIND else CANNOT_COUNT), "try again later"
        return UNABLE, "the archive refuses"

    def _reply(
        self,
        command: Mapping[int, bytes],
        context: int,
        status: int,
        data: bytes = b"",
        also: Mapping[int, int | str] | None = None,
    ) -> None:
        elements: dict[int, int | str] = {
            p.AFFECTED_CLASS: p.text(command, p.AFFECTED_CLASS),
            p.COMMAND_FIELD: p.number(command, p.COMMAND_FIELD) | p.RESPONSE,
            p.RESPONDED_ID: p.number(command, p.MESSAGE_ID),
            p.STATUS: status,
            **(also or {}),
        }
        send_message(self.wire, self._room, context, elements, data)

    # searches

    def _find(self, command: Mapping[int, bytes], context: int, asked: Identifier) -> int:
        most = self.face.limits.results
        with archive_work():
            wanted = a.asked_of(asked.level, asked.keys)
            plain = {key: value for key, value in asked.match.items() if key not in a.COUNTS or key == MODALITIES}
            asked.ignored |= len(plain) < len(asked.match)
            found = self.face.archive.search(asked.level, plain, wanted=wanted, limit=most + 1)
            if a.COUNTS.intersection(asked.keys):
                a.count(self.face.archive, found, asked.level)
        status = PENDING_UNMATCHED if asked.ignored else PENDING
        for one in found[:most]:
            self._listen(command)
            data = answer_of(one, asked, self.face.aet, self.contexts[context])
            self._reply(command, context, status, data)
        return OUT_OF_RESOURCES if len(found) > most else SUCCESS

    def _listen(self, command: Mapping[int, bytes]) -> None:
        """Raise Cancelled when the peer has said so, GatewayConnectionError when it has left."""
        if self.stopping():
            raise GatewayConnectionError("the server ends")
        while self.wire.readable():
            kind, body = self.wire.read_pdu(self.timeout)
            if kind != p.P_DATA:
                raise GatewayConnectionError("the peer ended the association in the middle of an answer")
            for _, is_command, is_last, piece in p.fragments(body):
                self._aside += piece
                if not is_command or len(self._aside) > p.MAX_COMMAND:
                    raise GatewayAnswerError("two requests at once were not agreed")
                if is_last:
                    found = p.decode_command(self._aside)
                    self._aside.clear()
                    if p.number(found, p.COMMAND_FIELD) != p.C_CANCEL:
                        raise GatewayAnswerError("two requests at once were not agreed")
                    if p.number(found, p.RESPONDED_ID) == p.number(command, p.MESSAGE_ID):
                        raise Cancelled("the peer cancelled its request")

    # retrievals

    def _retrieve(self, command: Mapping[int, bytes], context: int, asked: Identifier, tally: Tally) -> int:
        refs = asked.refs()
        with ExitStack() as stack:
            if p.number(command, p.COMMAND_FIELD) == p.C_GET:
                send = self._back(command)
            else:
                called = p.text(command, p.MOVE_DESTINATION)
                target = self.face.peers.get(called)
                if target is None:
                    return NO_DESTINATION
                also: dict[int, int | str] = {
                    p.ORIGINATOR: self.request.calling,
                    p.ORIGINATOR_ID: p.number(command, p.MESSAGE_ID),
                }
                send = Route(target, called, self.face.aet, also, self.timeout, stack).send
            expected = self._expected(refs)
            tally.remaining = len(expected)
            try:
                for item in self._instances(refs):
                    self._listen(command)
                    self._one(item, send, tally, expected)
                    self._reply(command, context, PENDING, also=tally.elements())
            except Cancelled:
                return CANCELLED
            except ArchiveTrouble as error:
                log.warning("a retrieval was broken off: %s", error)
                if not expected and not tally.completed:
                    return UNABLE
            tally.failed += expected
            tally.remaining = 0
        return tally.status()

    def _expected(self, refs: Sequence[Ref]) -> dict[str, None]:
        """Return the instances that are to be sent, as far as the endpoint can list them."""
        found: dict[str, None] = {}
        with archive_work():
            for ref in refs:
                found |= dict.fromkeys(uid for uid in self.face.archive.listing(ref) or () if uid)
        return found

    def _instances(self, refs: Sequence[Ref]) -> Iterator[Dixel]:
        seen: set[str] = set()
        for ref in refs:
            with archive_work():
                found = self.face.archive.instances(ref)
            with closing(cast(Any, found)):
                while True:
                    try:
                        with archive_work():
                            one = next(found, None)
                    except ItemNotFound:
                        break
                    if one is None:
                        break
                    uid = str(one.tags.get("SOPInstanceUID") or "")
                    if uid in seen:
                        _drop(one)
                        continue
                    seen.add(uid)
                    yield one

    def _one(self, item: Dixel, send: Sender, tally: Tally, expected: dict[str, None]) -> None:
        uid = str(item.tags.get("SOPInstanceUID") or "")
        try:
            status = send(outgoing(item.blob)) if item.blob is not None else None
        except (InvalidItem, GatewayRefused) as error:
            log.warning("an instance was not sent (%s)", type(error).__name__)
            status = None
        finally:
            _drop(item)
        expected.pop(uid, None)
        tally.add(uid, status)

    def _back(self, command: Mapping[int, bytes]) -> Sender:
        """Return how to send over this association, in the contexts for which the peer is the SCP."""
        accepted = {
            (one.abstract, self.contexts[one.id]): one.id
            for one in self.request.contexts
            if one.id in self.contexts and one.abstract in self.request.provides
        }
        over = SubOperations(self.address, 0, (), timeout=self.timeout)
        over.adopt(self.wire, self._room, accepted)

        def send(item: Outgoing) -> int:
            if over.cancelled:
                raise Cancelled("the peer cancelled its request")
            return over.store(item)

        return send


def _drop(item: Dixel) -> None:
    if item.blob is not None:
        item.blob.close()
