"""What is said inside one association of a Storage SCP: C-ECHO and C-STORE (PS3.7 9.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from attrs import define, field, frozen

from diana.exceptions import GatewayAnswerError
from diana.utils.dicom.ref import is_uid
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dimse_wire import PeerClosed, Wire

log = logging.getLogger(__name__)

# statuses of PS3.4 B.2.3 and PS3.7 C
SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
INVALID_INSTANCE: Final = 0x0117
CLASS_NOT_SUPPORTED: Final = 0x0122
UNRECOGNIZED_OPERATION: Final = 0x0211
OUT_OF_RESOURCES: Final = 0xA700
DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

# how much of a refused data set is waited for, so that the association may go on
MAX_WASTED: Final = 1 << 30


@frozen
class StoreRequest:
    """Say what a C-STORE request announces, and who sends it in which transfer syntax."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    calling_aet: str
    address: str


class Reception(Protocol):
    """
    Take the encoded data set of one instance, unparsed, in pieces that are only valid during the call.

    An OSError of ``write`` or ``finish`` is answered with 0xA700, any other error with 0x0110; ``abandon`` is called
    then, and when the association ends before the data set.
    """

    def write(self, piece: memoryview) -> None:
        """Take the next bytes."""

    def finish(self) -> int:
        """Return the status to answer; 0 promises that the instance is durably stored."""

    def abandon(self) -> None:
        """Leave nothing behind."""


Receiver = Callable[[StoreRequest], Reception]


@define(eq=False)
class Conversation:
    """Answer the requests of one association until it is released, aborted or broken."""

    wire: Wire
    request: p.AssociateRequest
    contexts: Mapping[int, str]
    address: str
    receiver: Receiver
    timeout: float
    idle_timeout: float
    stopping: Callable[[], bool] = lambda: False

    _command: bytearray = field(init=False, factory=bytearray)
    _current: dict[int, bytes] | None = field(init=False, default=None)
    _context: int = field(init=False, default=0)
    _reception: Reception | None = field(init=False, default=None)
    _status: int = field(init=False, default=SUCCESS)
    _wasted: int = field(init=False, default=0)
    _stored: int = field(init=False, default=0)
    _refused: int = field(init=False, default=0)

    def run(self) -> None:
        """Serve the association. Raises GatewayError when it ends other than by release or abort."""
        try:
            while self._serve_pdu():
                pass
        finally:
            self._abandon()
            if self._stored or self._refused:
                log.info("received from=%s instances=%d refused=%d", self.address, self._stored, self._refused)

    def _serve_pdu(self) -> bool:
        inside = self._current is not None or bool(self._command)
        if self.stopping() and not inside:
            self.wire.send(p.abort())
            return False
        try:
            kind, body = self.wire.read_pdu(self.timeout if inside else self.idle_timeout)
        except PeerClosed:
            if inside:
                raise
            return False
        if kind == p.P_DATA:
            for fragment in p.fragments(body):
                self._on_fragment(*fragment)
            return True
        if kind == p.RELEASE_RQ:
            self.wire.send(p.RELEASE_ANSWER)
        elif kind != p.ABORT:
            self.wire.send(p.abort(reason=2))
        return False

    def _on_fragment(self, context: int, is_command: bool, is_last: bool, piece: memoryview) -> None:
        if context not in self.contexts:
            raise GatewayAnswerError("a fragment names a presentation context that was not accepted")
        if is_command:
            self._on_command(context, is_last, piece)
        elif self._current is None or context != self._context:
            raise GatewayAnswerError("a data set came without its command")
        else:
            self._write(piece)
            if is_last:
                self._end_of_data_set()

    def _on_command(self, context: int, is_last: bool, piece: memoryview) -> None:
        if self._current is not None or (self._command and context != self._context):
            raise GatewayAnswerError("a command came before the data set of the last one")
        if len(self._command) + len(piece) > p.MAX_COMMAND:
            raise GatewayAnswerError("the command set is too large")
        self._context = context
        self._command += piece
        if not is_last:
            return
        command = p.decode_command(self._command)
        self._command.clear()
        operation = p.number(command, p.COMMAND_FIELD)
        has_data = p.number(command, p.DATA_SET_TYPE) != p.NO_DATA_SET
        if operation & p.RESPONSE or operation == p.C_CANCEL:
            return
        p.number(command, p.MESSAGE_ID)
        self._status = self._begin(operation, command, has_data)
        if has_data:
            self._current, self._wasted = command, 0
        else:
            self._answer(command)

    def _begin(self, operation: int, command: dict[int, bytes], has_data: bool) -> int:
        if operation == p.C_ECHO:
            return SUCCESS
        if operation != p.C_STORE:
            return UNRECOGNIZED_OPERATION
        if not has_data:
            return CANNOT_UNDERSTAND
        sop_class, sop_instance = p.text(command, p.AFFECTED_CLASS), p.text(command, p.AFFECTED_INSTANCE)
        if not is_uid(sop_instance):
            return INVALID_INSTANCE
        if not is_uid(sop_class):
            return CLASS_NOT_SUPPORTED
        transfer = self.contexts[self._context]
        wanted = StoreRequest(sop_class, sop_instance, transfer, self.request.calling, self.address)
        return self._try(lambda: self._open(wanted))

    def _open(self, wanted: StoreRequest) -> int:
        self._reception = self.receiver(wanted)
        return SUCCESS

    def _write(self, piece: memoryview) -> None:
        reception = self._reception
        if reception is None:
            self._wasted += len(piece)
            if self._wasted > MAX_WASTED:
                raise GatewayAnswerError("a data set that is refused does not end")
            return

        def write() -> int:
            reception.write(piece)
            return SUCCESS

        self._status = self._try(write)

    def _end_of_data_set(self) -> None:
        reception, command = self._reception, self._current
        self._current = None
        if reception is not None:
            self._status = self._try(reception.finish)
            self._reception = None
        if command is not None:
            self._answer(command)

    def _try(self, step: Callable[[], int]) -> int:
        """Return the status of a step of the reception; after a failure the rest of the data set is thrown away."""
        try:
            return step()
        except OSError as error:
            log.warning("cannot store what %s sends: %s", self.address, error.strerror or type(error).__name__)
            self._abandon()
            return OUT_OF_RESOURCES
        except Exception as error:  # noqa: BLE001  # whatever fails in a receiver is the answer to this one request
            log.warning("cannot store what %s sends: %s", self.address, type(error).__name__)
            self._abandon()
            return PROCESSING_FAILURE

    def _abandon(self) -> None:
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.abandon()

    def _answer(self, command: dict[int, bytes]) -> None:
        operation = p.number(command, p.COMMAND_FIELD)
        if operation == p.C_STORE:
            self._stored += self._status == SUCCESS
            self._refused += self._status != SUCCESS
        elements: dict[int, int | str] = {
            p.AFFECTED_CLASS: p.text(command, p.AFFECTED_CLASS),
            p.COMMAND_FIELD: operation | p.RESPONSE,
            p.RESPONDED_ID: p.number(command, p.MESSAGE_ID),
            p.DATA_SET_TYPE: p.NO_DATA_SET,
            p.STATUS: self._status,
        }
        if p.AFFECTED_INSTANCE in command:
            elements[p.AFFECTED_INSTANCE] = p.text(command, p.AFFECTED_INSTANCE)
        body = p.encode_command({key: value for key, value in elements.items() if value != ""})
        self.wire.send(p.data_pdu(self._context, body, command=True, last=True))
