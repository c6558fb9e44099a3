"""What DICOM nodes do to us, and callers to our face, ends in a clear error, and in time."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from diana.apis import DicomListener, DicomNode, Memory
from diana.exceptions import (
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayRefused,
    IncompleteTransfer,
)
from diana.server.scp import DicomFace
from diana.utils.blob import Blob
from diana.utils.gateways import dimse
from diana.utils.gateways import dimse_pdu as p
from tests.contract import samples
from tests.fakes.dicom_node import Script, Talk, dicom_node
from tests.helpers import free_port, wait_for

STUDY = samples.uid(1)
UIDS = [samples.uid(1, 1, number) for number in (1, 2, 3)]


def data_set(number: int) -> bytes:
    file = samples.instance(0, 0, number).file
    assert file is not None
    return file[dimse.outgoing(Blob(file)).offset :]


def node(port: int, **options: Any) -> DicomNode:
    return DicomNode("127.0.0.1", port, aec="ANY", timeout=(2, 1), **options)


def archive(retrieve: Script) -> Script:
    """Return a script that lists three instances to any search and leaves retrievals to another."""

    def script(talk: Talk) -> None:
        while (operation := talk.read()) != 0:
            if operation != p.C_FIND:
                retrieve(talk)
                continue
            for uid in UIDS:
                keys = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": samples.uid(1, 1), "SOPInstanceUID": uid}
                talk.answer(0xFF00, talk.identifier(SOPClassUID=samples.SECONDARY_CAPTURE, **keys))
            talk.answer(0)

    return script


def pulled(script: Script, **options: Any) -> tuple[list[str], DianaError]:
    """Pull the study; return what came and the error."""
    came: list[str] = []
    with (
        dicom_node(archive(script)) as port,
        closing(node(port, **options)) as one,
        pytest.raises(DianaError) as caught,
    ):
        came.extend(found.tags["SOPInstanceUID"] for found in one.pull(STUDY))
    return came, caught.value


def send(talk: Talk, number: int, data: bytes | None = None, **options: Any) -> None:
    talk.store(samples.SECONDARY_CAPTURE, UIDS[number], data_set(number) if data is None else data, **options)


def dies(talk: Talk) -> None:
    send(talk, 0)
    talk.wire.sock.close()


def dies_inside(talk: Talk) -> None:
    send(talk, 0)
    out = p.data_pdu(1, b"x" * 100, command=True, last=False)
    talk.wire.send(out[:50])
    talk.wire.sock.close()


def aborts(talk: Talk) -> None:
    send(talk, 0)
    talk.wire.send(p.abort())


def falls_silent(talk: Talk) -> None:
    send(talk, 0)
    with suppress(DianaError):
        talk.wire.read_pdu(5)


def says_success(talk: Talk) -> None:
    send(talk, 0)
    talk.answer(0, completed=3, failed=0)


def says_warning(talk: Talk) -> None:
    send(talk, 0)
    names = talk.identifier(FailedSOPInstanceUIDList="\\".join(UIDS[1:]))
    talk.answer(0xB000, names, completed=1, failed=2)


def says_failure(talk: Talk) -> None:
    send(talk, 0)
    talk.answer(0xC001)


def sends_lengths_that_lie(talk: Talk) -> None:
    send(talk, 0)
    talk.wire.send(p.pdu(p.P_DATA, (5000).to_bytes(4, "big") + bytes((1, 2)) + b"x" * 20))


def sends_nothing_without_end(talk: Talk) -> None:
    send(talk, 0)
    with suppress(DianaError):
        while True:
            talk.wire.send(p.data_pdu(talk.context, b"", command=True, last=False))


def sends_one_without_end(talk: Talk) -> None:
    with suppress(DianaError):
        while True:
            send(talk, 0)


@pytest.mark.parametrize(
    "script",
    [
        dies,
        dies_inside,
        aborts,
        falls_silent,
        says_success,
        says_warning,
        says_failure,
        sends_lengths_that_lie,
        sends_nothing_without_end,
        sends_one_without_end,
    ],
)
def test_a_get_that_fails_tells_what_came_and_what_is_missing(script: Script) -> None:
    came, error = pulled(script)
    assert isinstance(error, IncompleteTransfer)
    assert came == error.received == UIDS[:1]
    assert error.missing == UIDS[1:]


def test_an_instance_cut_in_its_pixels_is_missing() -> None:
    def cuts(talk: Talk) -> None:
        for number in range(3):
            send(talk, number, data_set(number)[: -20 if number else None])
        talk.answer(0, completed=3)

    came, error = pulled(cuts)
    assert isinstance(error, IncompleteTransfer)
    assert (came, error.missing) == (UIDS[:1], UIDS[1:])


def test_a_large_instance_that_breaks_leaves_no_file(tmp_path: Path) -> None:
    def breaks(talk: Talk) -> None:
        send(talk, 0)
        send(talk, 1, whole=False)
        talk.wire.sock.close()

    with dicom_node(archive(breaks)) as port:
        found = node(port, spill=100, folder=str(tmp_path)).pull(STUDY)
        first = next(found)
        assert first.blob is not None
        assert first.blob.path is not None
        first.blob.close()
        with pytest.raises(IncompleteTransfer):
            next(found)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [0, 0xB000, 0xA702])
def test_a_move_that_delivers_nothing_names_what_is_missing(status: int) -> None:
    def lies(talk: Talk) -> None:
        talk.answer(0xFF00, completed=1, failed=0)
        talk.answer(status, completed=3, failed=3 if status else 0)

    came, error = pulled(lies, retrieve="move")
    assert isinstance(error, IncompleteTransfer)
    assert (came, error.missing) == ([], UIDS)


def test_a_second_retrieval_over_the_move_port_is_told_to_wait() -> None:
    def slow(talk: Talk) -> None:
        talk.answer(0xFF00)
        outcome = dimse.store([samples.instance(0, 0, 0).file or b""], "127.0.0.1", port_of_ours, called_aet="DIANA")
        assert outcome[0].ok
        with suppress(DianaError):
            talk.wire.read_pdu(5)

    port_of_ours = free_port()
    with dicom_node(archive(slow)) as port:
        one = node(port, retrieve="move", move_port=port_of_ours)
        first = one.pull(STUDY)
        assert next(first).tags["SOPInstanceUID"] == UIDS[0]
        with pytest.raises(IncompleteTransfer, match="has not ended"):
            next(one.pull(STUDY))
        first.close()  # type: ignore[attr-defined]  # a generator
        one.close()


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"\x02\x00\xff\xff\xff\xff" + bytes(100), GatewayAnswerError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", GatewayAnswerError),
        (p.pdu(p.ASSOCIATE_AC, bytes(10)), GatewayAnswerError),
        (p.pdu(p.ASSOCIATE_AC, bytes(68) + b"\x21\x00\xff\xff"), GatewayAnswerError),
        (p.pdu(p.ASSOCIATE_AC, bytes(68) + b"\x21\x00\x00\x01\x00"), GatewayAnswerError),
        (p.abort(), GatewayConnectionError),
        (p.reject(2, 3, 2), GatewayConnectionError),
        (p.reject(1, 1, 7), GatewayRefused),
        (b"\x02", GatewayConnectionError),
        (b"", GatewayConnectionError),
    ],
)
def test_an_answer_that_is_none_is_an_error(raw: bytes, kind: type[DianaError]) -> None:
    def nothing(talk: Talk) -> None:
        """Never called: the node sends raw bytes."""

    with dicom_node(nothing, raw=raw) as port, pytest.raises(kind):
        node(port).put(samples.instance())


def test_a_transfer_syntax_that_was_not_proposed_is_not_used() -> None:
    with dicom_node(archive(dies), syntax="1.2.840.10008.1.2.4.50") as port, pytest.raises(GatewayRefused):
        node(port).put(samples.instance())


def test_a_release_that_is_answered_with_data_without_end_ends() -> None:
    def chatter(talk: Talk) -> None:
        assert talk.read() == p.C_ECHO
        talk.answer(0)
        with suppress(DianaError):
            while True:
                talk.wire.send(p.data_pdu(talk.context, b"xx", command=True, last=False))

    with dicom_node(chatter) as port:
        dimse.echo("127.0.0.1", port, timeout=0.5)


def test_a_store_with_a_warning_is_stored_and_said(caplog: pytest.LogCaptureFixture) -> None:
    stored: list[int] = []

    def script(talk: Talk) -> None:
        while (operation := talk.read()) != 0:
            if operation == p.C_STORE:
                stored.append(operation)
                talk.answer(0xB000)
            elif stored:
                keys = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": samples.uid(1, 1), "SOPInstanceUID": UIDS[0]}
                talk.answer(0xFF00, talk.identifier(**keys))
                talk.answer(0)
            else:
                talk.answer(0)

    with dicom_node(script) as port:
        node(port).put(samples.instance(0, 0, 0))
    assert "0xb000" in caplog.text


class TestFace:
    """Callers of our own face."""

    def test_a_dead_destination_is_tried_once(self) -> None:
        filled = Memory()
        for item in samples.instances(1, 1, 6):
            filled.put(item)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            calls: list[socket.socket] = []

            def take() -> None:
                with suppress(OSError):
                    while True:
                        calls.append(silent.accept()[0])

            thread = threading.Thread(target=take, daemon=True)
            thread.start()
            peers = {"SILENT": ("127.0.0.1", silent.getsockname()[1])}
            with (
                DicomFace(filled, port=0, peers=peers, timeout=0.5) as face,
                pytest.raises(IncompleteTransfer) as caught,
            ):
                DicomNode("127.0.0.1", face.port, aec="DIANA").move(STUDY, "SILENT")
            silent.shutdown(socket.SHUT_RDWR)
            thread.join()
            for call in calls:
                call.close()
        assert len(caught.value.missing) == 6
        assert len(calls) == 1

    def test_half_open_tls_peers_are_bounded_and_stop_at_once(self, tmp_path: Path) -> None:
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)

        def busy() -> int:
            return sum(1 for one in threading.enumerate() if one.name.startswith("dicom-scp-"))

        # a timeout beyond that of the test: what ends here was hung up
        with DicomFace(Memory(), port=0, tls=context, max_associations=2, timeout=600) as face:
            idle = [socket.create_connection(("127.0.0.1", face.port)) for _ in range(30)]
            assert wait_for(lambda: busy() <= 4)
            one = DicomNode("127.0.0.1", face.port, aec="DIANA", tls=True, verify=str(cert))
            assert wait_for(one.check)
        for sock in idle:
            sock.close()
        assert busy() == 0


@pytest.mark.parametrize("cut", [20, 100])
def test_a_listener_refuses_a_data_set_that_is_cut_in_its_pixels(tmp_path: Path, cut: int) -> None:
    listener = DicomListener(port=0, path=tmp_path / "spool")
    listener.listen(lambda: None)
    try:
        whole = samples.instance(0, 0, 0).file or b""
        refused, taken = dimse.store([whole[:-cut], whole], "127.0.0.1", listener.port, called_aet="DIANA")
        assert refused.status == dimse.CANNOT_UNDERSTAND
        assert taken.ok
        assert len(list((tmp_path / "spool").glob("*.dcm"))) == 1
    finally:
        listener.unlisten()
