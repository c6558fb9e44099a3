"""What peers do to a DicomListener ends with their association, leaves nothing in the spool and stops nobody else."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from diana.apis import DicomListener
from diana.exceptions import GatewayConnectionError, GatewayRefused
from diana.utils.blob import Blob
from diana.utils.gateways import dimse
from diana.utils.gateways import dimse_pdu as p
from tests.contract import samples
from tests.helpers import wait_for

TIMEOUT = 0.8


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[DicomListener]:
    found = DicomListener(port=0, path=tmp_path / "spool", timeout=TIMEOUT, idle_timeout=2, max_associations=10)
    found.listen(lambda: None)
    yield found
    found.unlisten()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dicom-scp")]


def request_bytes(*, aet: str = "DIANA", contexts: int = 1) -> bytes:
    asked = tuple(p.Context(2 * n + 1, samples.SECONDARY_CAPTURE, (p.EXPLICIT_LITTLE,)) for n in range(contexts))
    return p.encode_request(p.AssociateRequest(aet, "PEER", asked))


def connect(listener: DicomListener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.port), timeout=10)


def associate(listener: DicomListener) -> socket.socket:
    sock = connect(listener)
    sock.sendall(request_bytes())
    assert sock.recv(4096)[0] == p.ASSOCIATE_AC
    return sock


def store_command(uid: str = "1.2.3", data_set: int = 1) -> bytes:
    return p.encode_command(
        {
            p.AFFECTED_CLASS: samples.SECONDARY_CAPTURE,
            p.COMMAND_FIELD: p.C_STORE,
            p.MESSAGE_ID: 1,
            p.PRIORITY: 0,
            p.DATA_SET_TYPE: data_set,
            p.AFFECTED_INSTANCE: uid,
        }
    )


def begin_store(uid: str = "1.2.3") -> bytes:
    return p.data_pdu(1, store_command(uid), command=True, last=True)


def is_closed(sock: socket.socket) -> bool:
    """Wait until the peer aborts or closes; TimeoutError when it does neither."""
    sock.settimeout(10)
    with suppress(ConnectionError):
        while data := sock.recv(4096):
            if data[0] == p.ABORT:
                break
    return True


def spooled(listener: DicomListener) -> list[str]:
    return sorted(path.name for path in listener.path.iterdir() if path.name != ".lock")


def good_store(listener: DicomListener, number: int = 0) -> bool:
    file = samples.instance(0, 0, number).file
    assert file is not None
    [outcome] = dimse.store([file], "127.0.0.1", listener.port, called_aet="DIANA")
    return outcome.ok


def test_half_sent_association_requests_do_not_use_up_the_slots(listener: DicomListener) -> None:
    half = request_bytes()[:40]
    held = [connect(listener) for _ in range(60)]
    for sock in held:
        sock.sendall(half)
    assert good_store(listener)
    assert all(is_closed(sock) for sock in held)
    for sock in held:
        sock.close()


def test_a_silent_connection_is_closed_after_the_timeout(listener: DicomListener) -> None:
    with connect(listener) as sock:
        assert is_closed(sock)


def test_a_drip_of_bytes_does_not_prolong_the_timeout(listener: DicomListener) -> None:
    with connect(listener) as sock:
        stop = threading.Event()

        def drip() -> None:
            for byte in request_bytes():
                try:
                    sock.sendall(bytes((byte,)))
                except OSError:
                    return
                if stop.wait(TIMEOUT / 4):
                    return

        dripper = threading.Thread(target=drip)
        dripper.start()
        assert is_closed(sock)
        stop.set()
        dripper.join()


def test_a_peer_that_stops_in_a_data_set_is_dropped_and_leaves_nothing(listener: DicomListener) -> None:
    with associate(listener) as sock:
        sock.sendall(begin_store() + p.data_pdu(1, b"\x08\0\x05\0" * 100, command=False, last=False))
        wait_for(lambda: spooled(listener), what="the part")
        assert is_closed(sock)
    wait_for(lambda: not spooled(listener), what="the part gone")
    assert good_store(listener)


def test_a_peer_that_hangs_up_in_a_data_set_leaves_nothing(listener: DicomListener) -> None:
    with associate(listener) as sock:
        sock.sendall(begin_store() + p.data_pdu(1, bytes(1000), command=False, last=False)[:-10])
        wait_for(lambda: spooled(listener), what="the part")
    wait_for(lambda: not spooled(listener), what="the part gone")


def test_an_abort_in_a_data_set_leaves_nothing(listener: DicomListener) -> None:
    with associate(listener) as sock:
        sock.sendall(begin_store() + p.data_pdu(1, bytes(1000), command=False, last=False) + p.abort())
        assert is_closed(sock)
    wait_for(lambda: not spooled(listener), what="the part gone")


def test_an_idle_association_is_closed(listener: DicomListener) -> None:
    with associate(listener) as sock:
        assert is_closed(sock)


@pytest.mark.parametrize("length", [0, 1, 3, 1000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_lying_fragment_length_ends_only_that_association(listener: DicomListener, length: int) -> None:
    with associate(listener) as other, associate(listener) as liar:
        body = struct.pack(">IBB", length, 1, 3) + b"ab"
        liar.sendall(p.pdu(p.P_DATA, body))
        assert is_closed(liar)
        other.sendall(p.RELEASE_REQUEST)
        assert other.recv(100)[0] == p.RELEASE_RP
    assert good_store(listener)


@pytest.mark.parametrize("kind", [0, p.ASSOCIATE_RQ, p.P_DATA, p.RELEASE_RQ, 8, 255])
def test_a_huge_pdu_is_not_waited_for(listener: DicomListener, kind: int) -> None:
    with associate(listener) as sock:
        sock.sendall(struct.pack(">BxI", kind, 0xFFFFFFF0))
        assert is_closed(sock)


@pytest.mark.parametrize(
    "message",
    [
        p.pdu(p.P_DATA, b"\0\0\0"),
        p.data_pdu(1, b"", command=False, last=True),
        p.data_pdu(3, store_command(), command=True, last=True),
        p.data_pdu(1, b"\0" * 7, command=True, last=True),
        p.data_pdu(1, b"", command=True, last=True),
        p.data_pdu(1, p.encode_command({p.COMMAND_FIELD: p.C_STORE}), command=True, last=True),
        p.data_pdu(1, b"\x08\0\x18\0\4\0\0\0abcd", command=True, last=True),
        begin_store() + begin_store(),
        p.pdu(p.ASSOCIATE_AC, bytes(68)),
        request_bytes(),
        p.pdu(p.RELEASE_RP, bytes(4)),
    ],
    ids=range(11),
)
def test_what_makes_no_sense_ends_the_association(listener: DicomListener, message: bytes) -> None:
    with associate(listener) as sock:
        sock.sendall(message)
        assert is_closed(sock)
    wait_for(lambda: not spooled(listener), what="an empty spool")


def test_an_endless_command_is_cut_off(listener: DicomListener) -> None:
    with associate(listener) as sock:
        assert _taken(sock, p.data_pdu(1, bytes(60000), command=True, last=False), 64 << 20) < 32 << 20


def _taken(sock: socket.socket, message: bytes, most: int) -> int:
    """Send a message again and again; return how many bytes went out before the peer hung up."""
    sent = 0
    with suppress(OSError):
        while sent < most:
            sock.sendall(message)
            sent += len(message)
    return sent


def test_an_unknown_operation_is_answered_and_its_data_set_thrown_away(listener: DicomListener) -> None:
    command = p.encode_command({p.COMMAND_FIELD: 0x0020, p.MESSAGE_ID: 9, p.DATA_SET_TYPE: 1})
    with associate(listener) as sock:
        sock.sendall(
            p.data_pdu(1, command, command=True, last=True) + p.data_pdu(1, bytes(500), command=False, last=True)
        )
        answer = sock.recv(4096)
        [(_, is_command, _, piece)] = p.fragments(memoryview(answer)[6:])
        assert is_command
        assert p.number(p.decode_command(bytes(piece)), p.STATUS) == 0x0211
    assert not spooled(listener)


def test_a_store_without_data_set_is_refused(listener: DicomListener) -> None:
    with associate(listener) as sock:
        sock.sendall(p.data_pdu(1, store_command(data_set=p.NO_DATA_SET), command=True, last=True))
        [(_, _, _, piece)] = p.fragments(memoryview(sock.recv(4096))[6:])
        assert p.number(p.decode_command(bytes(piece)), p.STATUS) == 0xC000


@pytest.mark.parametrize(
    "request_",
    [
        p.pdu(p.ASSOCIATE_RQ, bytes(10)),
        p.pdu(p.ASSOCIATE_RQ, struct.pack(">HH", 1, 0) + b"DIANA".ljust(16) + bytes(48) + b"\x10\0\xff\xff"),
        p.pdu(p.ASSOCIATE_RQ, struct.pack(">HH", 1, 0) + b"DIANA".ljust(16) + bytes(48) + b"\x20\0\0\1a"),
        p.pdu(p.ASSOCIATE_RQ, b"\0\2" + request_bytes()[8:]),
        request_bytes().replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9"),
        request_bytes(aet="D\xefANA"),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
    ],
    ids=range(8),
)
def test_a_request_that_is_none_is_rejected_or_aborted(listener: DicomListener, request_: bytes) -> None:
    with connect(listener) as sock:
        sock.sendall(request_)
        with suppress(ConnectionError):
            assert sock.recv(4096)[:1] in (b"", bytes((p.ASSOCIATE_RJ,)), bytes((p.ABORT,)))
    assert listener.check()


def test_titles_that_are_not_ascii_are_answered(listener: DicomListener) -> None:
    with connect(listener) as sock:
        sock.sendall(request_bytes().replace(b"PEER", b"\xff\xfe\r\n"))
        assert sock.recv(4096)[0] == p.ASSOCIATE_AC


def test_associations_are_limited_and_come_free_again(tmp_path: Path) -> None:
    found = DicomListener(port=0, path=tmp_path / "spool", max_associations=3, max_per_address=2)
    found.listen(lambda: None)
    first, second = associate(found), associate(found)
    with pytest.raises(GatewayConnectionError, match="too many"):
        good_store(found)
    first.close()
    wait_for(lambda: _stored(found), what="a free slot")
    second.close()
    found.unlisten()


def _stored(listener: DicomListener) -> bool:
    try:
        return good_store(listener)
    except (GatewayConnectionError, GatewayRefused):
        return False


def test_stop_ends_silent_and_half_open_peers_at_once(tmp_path: Path) -> None:
    found = DicomListener(port=0, path=tmp_path / "spool", timeout=60, idle_timeout=60)
    found.listen(lambda: None)
    with connect(found) as half, associate(found) as idle, associate(found) as storing:
        half.sendall(request_bytes()[:20])
        storing.sendall(begin_store() + p.data_pdu(1, bytes(100), command=False, last=False))
        wait_for(lambda: spooled(found), what="the part")
        found.unlisten()
        assert all(is_closed(sock) for sock in (half, idle, storing))
    assert not spooled(found)


def _mutated(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(out))
        action = rng.randrange(3)
        if action == 0:
            out[at] = rng.randrange(256)
        elif action == 1:
            del out[at : at + rng.randrange(1, 40)]
            out += b"\0"
        else:
            out[at:at] = rng.randbytes(rng.randrange(1, 40))
    return bytes(out)


def _conversation() -> bytes:
    file = samples.instance(0, 0, 7).file
    assert file is not None
    sent = dimse.outgoing(Blob(file))
    command = p.data_pdu(1, store_command(sent.sop_instance), command=True, last=True)
    data = file[sent.offset :]
    return request_bytes() + command + p.data_pdu(1, data, command=False, last=True) + p.RELEASE_REQUEST


@pytest.mark.parametrize("seed", range(4))
def test_two_hundred_damaged_conversations_stop_nothing(listener: DicomListener, seed: int) -> None:
    rng = random.Random(seed)
    whole = _conversation()
    for _ in range(50):
        with connect(listener) as sock:
            with suppress(OSError):  # the listener may have hung up on what it read so far
                sock.sendall(_mutated(rng, whole))
                sock.shutdown(socket.SHUT_WR)
            assert is_closed(sock)
    assert good_store(listener, 8)
    listener.unlisten()
    assert not [name for name in spooled(listener) if name.endswith(".part")]
    for event in listener.changes().events:
        assert event.ref.instance


def test_an_error_of_the_receiver_is_answered_and_the_association_goes_on() -> None:
    calls: list[str] = []

    class Broken:
        def write(self, piece: memoryview) -> None:
            raise ValueError("PLANTEDPID4711")

        def finish(self) -> int:
            raise AssertionError

        def abandon(self) -> None:
            calls.append("abandon")

    def receiver(request: dimse.StoreRequest) -> Broken:
        return Broken()

    scp = dimse.StorageScp(receiver, port=0)
    scp.start()
    try:
        files = [item.file for item in samples.instances(1, 1, 2)]
        outcomes = dimse.store([file for file in files if file], "127.0.0.1", scp.port, called_aet="DIANA")
        assert [outcome.status for outcome in outcomes] == [0x0110, 0x0110]
        assert calls == ["abandon", "abandon"]
    finally:
        scp.stop()
