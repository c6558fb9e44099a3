"""A DICOM node that takes every association and then does what a test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from diana.exceptions import DianaError
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dicom_qr import encode_identifier
from diana.utils.gateways.dimse_get import send_message
from diana.utils.gateways.dimse_wire import Wire

ROOM = 16 << 10


class Talk:
    """One association of the node: read requests, send answers or anything else."""

    def __init__(self, wire: Wire, request: p.AssociateRequest, contexts: Mapping[int, str]) -> None:
        self.wire, self.request, self.contexts = wire, request, contexts
        self.asked: dict[int, bytes] = {}
        self.data = b""
        self.context = 0

    def read(self) -> int:
        """Read a message; return its operation, 0 when the peer is done."""
        command, data_too = bytearray(), True
        self.data = b""
        while True:
            kind, body = self.wire.read_pdu(5)
            if kind != p.P_DATA:
                if kind == p.RELEASE_RQ:
                    self.wire.send(p.RELEASE_ANSWER)
                return 0
            for context, is_command, is_last, piece in p.fragments(body):
                if is_command:
                    self.context = context
                    command += piece
                    if is_last:
                        self.asked = p.decode_command(command)
                        data_too = p.number(self.asked, p.DATA_SET_TYPE) != p.NO_DATA_SET
                else:
                    self.data += piece
                if is_last and (not is_command or not data_too):
                    return p.number(self.asked, p.COMMAND_FIELD)

    def answer(self, status: int, data: bytes = b"", **counts: int) -> None:
        """Answer the last request."""
        names = {"completed": p.COMPLETED, "failed": p.FAILED, "warnings": p.WARNINGS}
        elements: dict[int, int | str] = {
            p.COMMAND_FIELD: p.number(self.asked, p.COMMAND_FIELD) | p.RESPONSE,
            p.RESPONDED_ID: p.number(self.asked, p.MESSAGE_ID),
            p.STATUS: status,
            **{names[name]: count for name, count in counts.items()},
        }
        send_message(self.wire, ROOM, self.context, elements, data)

    def identifier(self, **keys: str) -> bytes:
        """Return a data set in the syntax of the last request."""
        return encode_identifier(keys, self.contexts[self.context])

    def store(self, sop_class: str, uid: str, data: bytes, *, whole: bool = True) -> None:
        """Send an instance to the requester (C-GET), or the beginning of one."""
        context = next(c.id for c in self.request.contexts if c.abstract == sop_class)
        elements: dict[int, int | str] = {
            p.AFFECTED_CLASS: sop_class,
            p.COMMAND_FIELD: p.C_STORE,
            p.MESSAGE_ID: 9,
            p.PRIORITY: 0,
            p.AFFECTED_INSTANCE: uid,
        }
        if not whole:
            command = p.encode_command({**elements, p.DATA_SET_TYPE: 1})
            self.wire.send(p.data_pdu(context, command, command=True, last=True))
            self.wire.send(p.data_pdu(context, data, command=False, last=False))
            return
        asked, place = self.asked, self.context
        send_message(self.wire, ROOM, context, elements, data)
        self.read()
        self.asked, self.context = asked, place


Script = Callable[[Talk], None]


@contextmanager
def dicom_node(script: Script, *, syntax: str = "", raw: bytes | None = None) -> Iterator[int]:
    """
    Run a node and give its port; ``script`` speaks in each association.

    ``syntax`` is what it answers to every context instead of the one proposed; ``raw`` what it sends instead of an
    answer to the request.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    wires: list[Wire] = []
    threads: list[threading.Thread] = []

    def serve(wire: Wire) -> None:
        with suppress(DianaError, OSError):
            _, body = wire.read_pdu(5)
            request = p.decode_request(body)
            if raw is not None:
                wire.send(raw)
            else:
                results = {c.id: (p.ACCEPTED, syntax or c.transfers[0]) for c in request.contexts}
                wire.send(p.encode_answer(request, results, p.DEFAULT_MAX_PDU))
                script(Talk(wire, request, {id_: chosen for id_, (_, chosen) in results.items()}))
        wire.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                wires.append(Wire(listener.accept()[0], 5))
                threads.append(threading.Thread(target=serve, args=(wires[-1],), daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for wire in wires:
            wire.hang_up()
        for thread in threads:
            thread.join()
