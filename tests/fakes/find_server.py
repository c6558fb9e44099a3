"""A C-FIND provider that answers by a script, mostly wrong."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dicom_qr import C_FIND, encode_identifier
from diana.utils.gateways.dimse_wire import Wire

if TYPE_CHECKING:
    from typing_extensions import Self

PENDING = 0xFF00


@frozen
class Say:
    """
    Say one answer: a status, and an identifier as texts by keyword or as bytes.

    ``then`` is what follows instead of the next answer: ``abort``, ``close``, ``silence`` or ``garbage``.
    """

    status: int = PENDING
    keys: Mapping[str, str] | bytes | None = None
    then: str = ""
    message: int | None = None
    command: int = C_FIND | p.RESPONSE


def row(**keys: str) -> Say:
    """Return a pending answer."""
    return Say(PENDING, keys)


DONE = Say(0)


@define(eq=False)
class FindServer:
    """
    Accept associations and answer every C-FIND with the next script; the last one again and again.

    ``syntax`` is the only transfer syntax it takes; ``reject`` refuses associations, ``deaf`` accepts no context.
    ``cancels`` counts C-CANCELs, after which it answers ``after_cancel``.
    """

    scripts: Sequence[Sequence[Say]]
    syntax: str = p.EXPLICIT_LITTLE
    reject: tuple[int, int, int] | None = None
    deaf: bool = False
    after_cancel: int = 0xFE00
    tls: ssl.SSLContext | None = None
    asked: list[bytes] = field(init=False, factory=list)
    cancels: int = field(init=False, default=0)
    _listener: socket.socket = field(init=False)
    _threads: list[threading.Thread] = field(init=False, factory=list)
    _socks: list[socket.socket] = field(init=False, factory=list)
    _over: threading.Event = field(init=False, factory=threading.Event)

    def __attrs_post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        """Return the port."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for sock in (self._listener, *self._socks):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: Any, *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with suppress(Exception):
            sock = sock if self.tls is None else self.tls.wrap_socket(sock, server_side=True)
            self._socks.append(sock)
            self._converse(Wire(sock, 5))
        sock.close()

    def _converse(self, wire: Wire) -> None:
        request = p.decode_request(wire.read_pdu(5)[1])
        if self.reject is not None:
            wire.send(p.reject(*self.reject))
            return
        results = {
            one.id: (p.ACCEPTED if self.syntax in one.transfers and not self.deaf else 4, one.transfers[0])
            for one in request.contexts
        }
        wire.send(p.encode_answer(request, results, 16384))
        while not self._over.is_set():
            kind, body = wire.read_pdu(5)
            if kind != p.P_DATA:
                if kind == p.RELEASE_RQ:
                    wire.send(p.RELEASE_ANSWER)
                return
            self._request(wire, body)

    def _request(self, wire: Wire, body: memoryview) -> None:
        pieces = [(place, is_command, last, bytes(data)) for place, is_command, last, data in p.fragments(body)]
        context, command = pieces[0][0], p.decode_command(bytearray(pieces[0][3]))
        operation = p.number(command, p.COMMAND_FIELD)
        number = p.number(command, p.RESPONDED_ID if operation == p.C_CANCEL else p.MESSAGE_ID)
        if operation == p.C_CANCEL:
            self.cancels += 1
            if self.scripts[min(len(self.asked), len(self.scripts)) - 1][-1].status != PENDING:
                return
            self._say(wire, context, number, Say(self.after_cancel))
            return
        if operation != C_FIND:
            self._say(wire, context, number, Say(0, command=operation | p.RESPONSE))
            return
        data, over = b"".join(one[3] for one in pieces[1:]), any(one[2] for one in pieces[1:])
        while not over:
            for _, _, last, piece in p.fragments(wire.read_pdu(5)[1]):
                data, over = data + bytes(piece), last
        script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(data)
        for one in script:
            self._say(wire, context, number, one)

    def _say(self, wire: Wire, context: int, number: int, say: Say) -> None:
        elements: dict[int, int | str] = {
            p.COMMAND_FIELD: say.command,
            p.RESPONDED_ID: number if say.message is None else say.message,
            p.DATA_SET_TYPE: p.NO_DATA_SET if say.keys is None else 1,
            p.STATUS: say.status,
        }
        out = p.data_pdu(context, p.encode_command(elements), command=True, last=True)
        if say.keys is not None:
            data = say.keys if isinstance(say.keys, bytes) else encode_identifier(say.keys, self.syntax)
            out += p.data_pdu(context, data, command=False, last=True)
        wire.send(out)
        if say.then == "abort":
            wire.send(p.abort())
        elif say.then == "garbage":
            wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif say.then == "silence":
            self._over.wait(30)
        if say.then:
            wire.hang_up()
