"""Servers that lie: bounded time and memory, an error of the tree, and the other sources go on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diana.apis import Memory, ObservableOrthanc, Orthanc
from diana.daemons.rules import Route
from diana.daemons.transfer import transfer
from diana.dixel import DixelView
from diana.exceptions import DianaError, GatewayConnectionError, GatewayError
from diana.ledger import Journal, Store
from diana.utils.dicom import DicomEventType, DicomLevel, Ref
from diana.utils.endpoint import Event, Trigger, Watcher
from tests.contract import samples
from tests.fakes.hostile import TEXTS, peak_mib, run_apart
from tests.fakes.http_server import Reply, ScriptedServer, gzip_reply, html_reply, json_reply
from tests.fakes.make import instance
from tests.fakes.memory_source import ObservableMemory
from tests.helpers import wait_for

OID = "0123abcd-0123abcd-0123abcd-0123abcd-0123abcd"
OTHER = "fedc9876-fedc9876-fedc9876-fedc9876-fedc9876"
JSON = {"Content-Type": "application/json"}


def changes(first: int, count: int = 1, *, done: bool = True, last: int | None = None, oid: str = OID) -> Reply:
    rows = [{"Seq": n, "ChangeType": "NewInstance", "ID": oid} for n in range(first, first + count)]
    return json_reply({"Changes": rows, "Last": first + count - 1 if last is None else last, "Done": done})


LIES: dict[str, Reply] = {
    "page": html_reply(),
    "page that claims to be json": Reply(200, b"<html>", JSON),
    "empty": Reply(200, b"", JSON),
    "no body": Reply(204),
    "null": json_reply(None),
    "list": json_reply([1, 2]),
    "text": json_reply("x"),
    "number": json_reply(7),
    "deep": Reply(200, b"[" * 200_000, JSON),
    "deep closed": Reply(200, b"[" * 5000 + b"]" * 5000, JSON),
    "deep mapping": Reply(200, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, JSON),
    "long number": Reply(200, b'{"Last":' + b"9" * 100_000 + b"}", JSON),
    "nan": Reply(200, b'{"Changes": [], "Last": NaN, "Done": true}', JSON),
    "not utf-8": Reply(200, b'{"a": "\xff\xfe"}', JSON),
    "surrogates": json_reply({"ID": "\ud800", "Status": "Success", "Changes": [], "Last": "\ud800"}),
    "gzip": gzip_reply(b"{}"),
    "gzip bomb": gzip_reply(b" " * (50 << 20)),
    "length too short": Reply(200, b'{"Last": 1}', JSON, length=5),
    "length too long": Reply(200, b'{"Last": 1}', JSON, length=5000),
    "length huge": Reply(200, b"{}", JSON, length=1 << 62),
    "length negative": Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: -5\r\n\r\n{}"),
    "two lengths": Reply(
        raw=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}"
    ),
    "chunks of minus one": Reply(
        raw=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n"
    ),
    "chunk of all": Reply(
        raw=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"fffffffffffffff0\r\n{}\r\n"
    ),
    "redirect elsewhere": Reply(302, b"", {"Location": "http://169.254.169.254/latest"}),
    "redirect to a file": Reply(301, b"", {"Location": "file:///etc/passwd"}),
    "redirect to itself": Reply(307, b"", {"Location": "/system"}),
    "come back in years": Reply(503, b"", {"Retry-After": "99999999"}),
    "come back in the past": Reply(503, b"", {"Retry-After": "-5"}),
    "not http": Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n" * 50),
    "many headers": Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000),
    "one long header": Reply(raw=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000),
    "interim for ever": Reply(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
    "status 999": Reply(999),
    "status 600": Reply(600, b"{}", JSON),
    "unauthorized": Reply(401),
    "teapot": Reply(418),
    "reset": Reply(reset=True),
    "silence": Reply(silent=True),
    "hangs up": Reply(200, b"{", JSON, cut=0),
    "error with a bomb": Reply(500, b"[" * 60_000, JSON),
    "error with another status": Reply(500, b'{"OrthancStatus": {"a": 1}}', JSON),
    "ids that are none": json_reply(["../../etc", "\u0000", {"a": 1}, None, 5]),
}

VERBS: dict[str, Callable[[Orthanc], Any]] = {
    "put": lambda one: one.put(samples.instance()),
    "get tags": lambda one: one.get(OID, "instances"),
    "get all": lambda one: one.get(OID, "studies", DixelView.META | DixelView.METAKV | DixelView.TAGS | DixelView.FILE),
    "get pixels": lambda one: one.get(OID, "instances", DixelView.PIXELS),
    "find": lambda one: one.find({"PatientID": "GENPID"}),
    "find instances": lambda one: one.find({"PatientID": "G*", "Modality": ["CT", "MR"]}, "instances"),
    "pull": lambda one: list(one.pull(OID, "studies")),
    "pull one": lambda one: list(one.pull(OID, "instances")),
    "exists": lambda one: one.exists(OID, "studies"),
    "exists by uid": lambda one: one.exists(Ref(DicomLevel.STUDIES, study="1.2.3")),
    "update": lambda one: one.update(OID, {"1024": "x"}, "studies"),
    "digest": lambda one: one.digest(OID),
    "anonymize": lambda one: one.anonymize(OID, "studies", {"Replace": {}}),
    "modify one": lambda one: one.modify(OID, "instances", {"Replace": {}}),
    "psend": lambda one: one.psend(OID, "peer", "studies"),
    "statistics": lambda one: one.info(),
    "inventory": lambda one: one.instances(),
    "rfind": lambda one: one.rfind({"PatientID": "x"}, "pacs"),
    "clear": lambda one: one.clear(confirm=True),
}


def told(verb: Callable[[], Any]) -> Any:
    """Return what a verb returns, None for a short error of the tree whose wait is bounded."""
    error: DianaError
    try:
        return verb()
    except DianaError as caught:
        error = caught
    assert 0 < len(str(error)) < 500
    wait = getattr(error, "retry_after", None)
    assert wait is None or 0 <= wait <= 3600
    return None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_an_error_of_the_tree_in_bounded_time(lie: str) -> None:
    with ScriptedServer([LIES[lie]]) as server:
        orthanc = Orthanc(url=server.url, timeout=(1, 0.15))
        for name, verb in VERBS.items():
            if name in ("find", "find instances", "exists by uid", "rfind") and lie == "silence":
                continue  # a search may take minutes before its first byte
            begin = time.monotonic()
            found = told(lambda verb=verb: verb(orthanc))
            assert time.monotonic() - begin < 5, name
            if name != "exists":  # any mapping says that a resource is there
                assert found is not True, name
        assert orthanc.check() is False
        orthanc.close()
    assert all(request.target.startswith("/") for request in server.requests)


@pytest.mark.parametrize("status", ["Success", "AlreadyStored"])
def test_an_id_of_something_else_is_no_proof_of_a_put(status: str) -> None:
    replies = [json_reply({"ID": OTHER, "Status": status}), Reply(200, b'"' + b"0" * 32 + b'"')]
    with ScriptedServer(replies) as server:
        orthanc = Orthanc(url=server.url, timeout=(1, 1))
        with pytest.raises(DianaError):
            orthanc.put(samples.instance())
        orthanc.close()


def test_a_transfer_to_a_liar_is_not_verified() -> None:
    source = Memory()
    source.put(samples.instance())
    for replies in (
        [json_reply({"ID": OID, "Status": "Success"}), Reply(404, b"", JSON)],
        [json_reply({"ID": OID, "Status": "Success"}), Reply(200, b"0" * 32)],
        [json_reply({"ID": OID, "Status": "Success"}), html_reply()],
        [json_reply({"ID": OTHER, "Status": "AlreadyStored"}), json_reply({})],
    ):
        with ScriptedServer(replies) as server:
            orthanc = Orthanc(url=server.url, timeout=(1, 1))
            assert transfer(source, orthanc, samples.instance()).state != "verified"
            orthanc.close()


@pytest.fixture
def observed() -> Iterator[Callable[..., tuple[ObservableOrthanc, ScriptedServer]]]:
    """Start an observable before a script; `resume` was called."""
    running: list[tuple[ObservableOrthanc, ScriptedServer]] = []

    def start(*replies: Reply) -> tuple[ObservableOrthanc, ScriptedServer]:
        server = ScriptedServer(list(replies)).__enter__()
        source = ObservableOrthanc(url=server.url, timeout=(1, 0.3))
        source.resume(None, lambda keys: set())
        running.append((source, server))
        return source, server

    yield start
    for source, server in running:
        source.close()
        server.__exit__(None, None, None)


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie not in ("silence",)])
def test_a_log_of_changes_that_is_none_moves_nothing(
    observed: Callable[..., tuple[ObservableOrthanc, ScriptedServer]], lie: str
) -> None:
    source, _ = observed(LIES[lie])
    for _ in range(3):
        try:
            page = source.changes()
        except GatewayError:
            continue
        assert page.events == []
        assert page.cursor is None or page.cursor["last"] == 0
        assert not page.more


@pytest.mark.parametrize(
    "rows",
    [
        [{"Seq": 5, "ChangeType": "NewInstance", "ID": OID}, {"Seq": 4, "ChangeType": "NewInstance", "ID": OID}],
        [{"Seq": 5, "ChangeType": "NewInstance", "ID": OID}] * 2,
        [{"Seq": 0, "ChangeType": "NewInstance", "ID": OID}],
        [{"Seq": -1, "ChangeType": "NewInstance", "ID": OID}],
        [{"Seq": "5", "ChangeType": "NewInstance", "ID": OID}],
        [{"Seq": 5.5, "ChangeType": "NewInstance", "ID": OID}],
        [{"Seq": True, "ChangeType": "NewInstance", "ID": OID}],
        [{"ChangeType": "NewInstance", "ID": OID}],
        [{"Seq": 5, "ChangeType": "NewInstance"}],
        [{"Seq": 5, "ChangeType": "NewInstance", "ID": 7}],
        [{"Seq": 5, "ChangeType": "NewInstance", "ID": {"a": 1}}],
        [{"Seq": 10**30, "ChangeType": "NewInstance", "ID": OID}],
        [{"Seq": 10**4000, "ChangeType": "NewInstance", "ID": OID}],
        [None],
        [[]],
        ["x"],
        [{"Seq": n, "ChangeType": "NewInstance", "ID": OID} for n in range(1, 3000)],
        *([{"Seq": 5, "ChangeType": "NewInstance", "ID": text}] for text in TEXTS.values()),
        [{"Seq": 5, "ChangeType": "NewInstance", "ID": "\ud800"}],
        [{"Seq": 5, "ChangeType": "StableStudy", "ID": "x" * 1_000_000}],
    ],
    ids=lambda rows: "",
)
def test_rows_that_are_no_changes_are_refused(
    observed: Callable[..., tuple[ObservableOrthanc, ScriptedServer]], rows: list[Any]
) -> None:
    source, _ = observed(json_reply({"Changes": rows, "Last": 3000, "Done": True}))
    with pytest.raises(GatewayError):
        source.changes()


def test_a_log_that_goes_back_and_forth_is_not_asked_without_a_pause(
    observed: Callable[..., tuple[ObservableOrthanc, ScriptedServer]],
) -> None:
    empty = json_reply({"Changes": [], "Last": 0, "Done": True})
    source, server = observed(*[changes(5, 2), empty] * 200)
    told = 0
    for _ in range(50):
        page = source.changes()
        source.ack(page)
        told += len(page.events)
    assert len(server.requests) < 110
    assert told <= 60


def test_a_log_that_never_ends_keeps_no_other_source_waiting() -> None:
    endless = [changes(1 + 1000 * n, 1000, done=False) for n in range(30)]
    journal = Journal(Store())
    seen: list[str] = []
    good = ObservableMemory()
    with ScriptedServer(endless) as server:
        liar = ObservableOrthanc(url=server.url, timeout=(1, 1), name="liar")
        watcher = Watcher(0.02, journal=journal)
        watcher.add_trigger(Trigger(DicomEventType.INSTANCE_ADDED, liar, lambda data: time.sleep(0.01), name="a"))
        watcher.add_trigger(Trigger(DicomEventType.INSTANCE_ADDED, good, lambda data: seen.append("x"), name="b"))
        thread = threading.Thread(target=watcher.run)
        thread.start()
        try:
            good.announce(DicomEventType.INSTANCE_ADDED, "1")
            wait_for(lambda: seen, 10, "the other source")
            wait_for(lambda: len(server.requests) >= 5, 10, "the liar")
            asked = len(server.requests)
            assert asked <= 12
        finally:
            watcher.stop()
            thread.join(20)
            liar.close()
    assert not thread.is_alive()


@pytest.mark.parametrize("lie", ["page", "silence", "deep", "not http", "surrogates", "many headers", "reset"])
def test_a_lying_source_does_not_stop_the_others(lie: str, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(Store())
    dest = Memory()
    good = ObservableMemory()
    good.put(instance(1))
    with ScriptedServer([LIES[lie]]) as server:
        liar = ObservableOrthanc(url=server.url, timeout=(1, 0.3), name="liar")
        watcher = Watcher(0.02, journal=journal)
        for source in (liar, good):
            route = Route(f"from {source.name}", source, DicomEventType.INSTANCE_ADDED, [dest])
            for trigger in route.triggers(journal.receipts):
                watcher.add_trigger(trigger)
        thread = threading.Thread(target=watcher.run)
        thread.start()
        try:
            wait_for(lambda: "liar cannot be watched" in caplog.text, 10, "the warning")
            good.put(instance(2))
            wait_for(lambda: len(dest.find({"PatientID": ""}, "instances")) == 2, 10, "the good ones")
        finally:
            watcher.stop()
            thread.join(20)
            liar.close()
    assert not thread.is_alive()
    assert caplog.text.count("liar cannot be watched") == 1


def test_values_that_no_database_takes_stop_no_watcher() -> None:
    journal = Journal(Store())
    source, dest = ObservableMemory(), Memory()
    for number in range(1, 5):
        item = instance(number)
        if number in (2, 3):
            item.tags["StudyInstanceUID"] = "1.2\ud800" if number == 2 else "1.2\0"
            item.tags["PatientID"] = "\udfff\0"
        source.put(item)
    watcher = Watcher(0.02, journal=journal, until_idle=True, max_attempts=1)
    for trigger in Route("r", source, DicomEventType.INSTANCE_ADDED, [dest]).triggers(journal.receipts):
        watcher.add_trigger(trigger)
    watcher.run()
    found = {one.tags["SOPInstanceUID"] for one in dest.find({"PatientID": ""}, "instances")}
    assert {"1.2.3.1.1", "1.2.3.1.4"} <= found


def test_an_event_with_hostile_data_stops_no_watcher() -> None:
    journal = Journal(Store())
    source = ObservableMemory()
    worked: list[Any] = []
    for text in TEXTS.values():
        source.announce(DicomEventType.INSTANCE_ADDED, text, text)
    source.told.append(
        Event(DicomEventType.INSTANCE_ADDED, {"oid": "x"}, "k\ud800", source.source_id, study="\ud800\0")
    )
    watcher = Watcher(0.02, journal=journal, until_idle=True)
    watcher.add_trigger(Trigger(DicomEventType.INSTANCE_ADDED, source, worked.append, name="a"))
    watcher.run()
    assert len(worked) == len(TEXTS) + 1


def test_a_negative_interval_does_not_spin() -> None:
    source = ObservableMemory(polling_interval=-1.0)
    watcher = Watcher(0.02, journal=Journal(Store()))
    watcher.add_trigger(Trigger(DicomEventType.INSTANCE_ADDED, source, print, name="a"))
    thread = threading.Thread(target=watcher.run)
    thread.start()
    begin = time.monotonic()
    wait_for(lambda: source.looks > 5, 5, "some looks")
    looks, spent = source.looks, time.monotonic() - begin
    watcher.stop()
    thread.join(10)
    assert looks < 20 + spent * 300


@pytest.mark.timeout(40)
@pytest.mark.parametrize("what", ["head", "body"])
def test_a_drip_of_bytes_ends_in_bounded_time(what: str) -> None:
    slow = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n"
    slow += b"X: y\r\n" * 200 if what == "head" else b"\r\n"
    stop = threading.Event()
    with Dripping(slow if what == "head" else slow + b"[", b"X" if what == "head" else b" ", stop) as url:
        orthanc = Orthanc(url=url, timeout=(1, 0.3))
        begin = time.monotonic()
        with pytest.raises(GatewayConnectionError):
            orthanc.gateway.changes()
        assert time.monotonic() - begin < 6
        orthanc.close()


class Dripping:
    """Answer with a start at once, and then with one byte every tenth of a second for ten seconds."""

    def __init__(self, start: bytes, drop: bytes, stop: threading.Event) -> None:
        import socket

        self.start, self.drop, self.stop = start, drop, stop
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        try:
            sock, _ = self.listener.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(self.start)
                for _ in range(100):
                    if self.stop.wait(0.1):
                        return
                    sock.sendall(self.drop)
        except OSError:
            return

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.listener.close()
        self.thread.join(5)


HEAVY = """
import socket, threading
from diana.apis import ObservableOrthanc
from diana.exceptions import DianaError
listener = socket.create_server(("127.0.0.1", 0))
kind, size = sys.argv[1], int(sys.argv[2]) << 20
def serve():
    while True:
        sock, _ = listener.accept()
        try:
            sock.recv(65536)
            head = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\n"
            if kind == "announced":
                sock.sendall(head + b"Content-Length: %d\\r\\n\\r\\n" % size)
            else:
                sock.sendall(head + b"\\r\\n")
            unit = b"[]," if kind != "endless" else b"       "
            sock.sendall(b'{"Changes": [')
            for _ in range(size // (len(unit) << 18) + 1):
                sock.sendall(unit * (1 << 18))
        except OSError:
            pass
        sock.close()
threading.Thread(target=serve, daemon=True).start()
source = ObservableOrthanc(url="http://127.0.0.1:%d" % listener.getsockname()[1], timeout=(1, 5))
source.resume(None, lambda keys: set())
try:
    source.changes()
    raise SystemExit("taken")
except DianaError as error:
    print(error)
"""


@pytest.mark.parametrize(("kind", "size"), [("announced", 100), ("until the end", 100), ("endless", 300)])
def test_a_heavy_log_of_changes_takes_little_memory(kind: str, size: int) -> None:
    assert peak_mib(run_apart(HEAVY, kind, str(size))) < 100


class TestPositionFile:
    """The file of a position is believed only when it is whole and of this kind."""

    DAMAGE = (
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"\xff\xfe",
        b"[" * 4000,
        b"{" * 5000,
        b'{"position": 5, "sha256": 5}',
        b'{"position": "{}", "sha256": ""}',
        json.dumps({"position": "{}", "sha256": "0" * 64}).encode(),
        bytes(5000),
    )

    @pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
    def test_damage_is_a_state_error(self, tmp_path: Path, damage: bytes) -> None:
        path = tmp_path / "position.json"
        path.write_bytes(damage)
        source = ObservableOrthanc(url="http://127.0.0.1:1", persist_file=path, timeout=(0.1, 0.1))
        with pytest.raises(DianaError, match="damaged"):
            source.resume(None, lambda keys: set())
        assert path.read_bytes() == damage

    def test_a_folder_in_its_place_is_a_state_error(self, tmp_path: Path) -> None:
        source = ObservableOrthanc(url="http://127.0.0.1:1", persist_file=tmp_path)
        with pytest.raises(DianaError):
            source.resume(None, lambda keys: set())

    @pytest.mark.parametrize(
        "cursor",
        [
            {},
            [],
            "x",
            5,
            {"last": -1, "generation": 1, "anchor": ""},
            {"last": "1", "generation": 1, "anchor": ""},
            {"last": True, "generation": 1, "anchor": ""},
            {"last": 1.5, "generation": 1, "anchor": ""},
            {"kind": "folder", "version": 1},
            {"spool": 1},
        ],
        ids=range(10),
    )
    def test_a_cursor_of_another_source_is_a_state_error(self, cursor: Any) -> None:
        source = ObservableOrthanc(url="http://127.0.0.1:1")
        with pytest.raises(DianaError):
            source.resume(cursor, lambda keys: set())
