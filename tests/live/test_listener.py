"""DicomListener receives from real senders, keeps what it promised, and announces it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diana.apis import DicomListener
from diana.exceptions import ConfigError, GatewayConnectionError, GatewayRefused, StateError
from diana.utils.blob import Blob
from diana.utils.dicom import DicomEventType
from diana.utils.gateways import dimse
from diana.utils.gateways.dimse_pdu import file_head
from tests.contract import samples
from tests.helpers import REPO, wait_for
from tests.planted import assert_nothing_planted
from tests.servers import OrthancServer

J2K = "1.2.840.10008.1.2.4.90"
MakeListener = Callable[..., DicomListener]


@pytest.fixture
def make_listener(tmp_path: Path) -> Iterator[MakeListener]:
    """Make listeners on free ports; they listen unless told otherwise, and are stopped at the end."""
    made: list[DicomListener] = []

    def make(*, listen: bool = True, **options: Any) -> DicomListener:
        listener = DicomListener(**{"port": 0, "path": tmp_path / "spool", **options})
        made.append(listener)
        if listen:
            listener.listen(lambda: None)
        return listener

    yield make
    for listener in made:
        listener.unlisten()


@pytest.fixture
def listener(make_listener: MakeListener) -> DicomListener:
    return make_listener()


def sample(number: int = 0, **tags: Any) -> bytes:
    found = samples.instance(0, 0, number, **tags).file
    assert found is not None
    return found


def data_set(file: bytes) -> bytes:
    return file[dimse.outgoing(Blob(file)).offset :]


def send(listener: DicomListener, *files: bytes, called_aet: str = "DIANA", **options: Any) -> list[int | None]:
    outcomes = dimse.store(files, "127.0.0.1", listener.port, called_aet=called_aet, **options)
    return [outcome.status for outcome in outcomes]


def spooled(listener: DicomListener) -> list[Path]:
    """Return everything in the spool but its lock."""
    return sorted(path for path in listener.path.iterdir() if path.name != ".lock")


def none_seen(keys: Any) -> set[str]:
    return set()


def test_port_0_takes_a_free_port_that_can_be_read_back(listener: DicomListener) -> None:
    assert listener.port > 0
    assert listener.check()


def test_listening_again_takes_the_same_port(listener: DicomListener) -> None:
    port = listener.port
    listener.unlisten()
    listener.unlisten()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dicom-scp")]
    listener.listen(lambda: None)
    assert listener.port == port
    assert send(listener, sample()) == [0]


def test_dcmtk_stores_and_the_data_set_stays_unparsed(
    listener: DicomListener, program: Callable[[str, str], str], tmp_path: Path
) -> None:
    (tmp_path / "one.dcm").write_bytes(sample())
    storescu = program("storescu", "dcmtk")
    subprocess.run(
        [storescu, "-aec", "DIANA", "127.0.0.1", str(listener.port), str(tmp_path / "one.dcm")], check=True, timeout=30
    )
    [path] = spooled(listener)
    received = path.read_bytes()
    assert received[:132] == bytes(128) + b"DICM"
    assert data_set(received) == data_set(sample())


def test_what_dcmtk_proposes_as_implicit_is_taken_as_explicit(
    listener: DicomListener, program: Callable[[str, str], str], tmp_path: Path
) -> None:
    (tmp_path / "one.dcm").write_bytes(sample())
    dcmsend = program("dcmsend", "dcmtk")
    subprocess.run(
        [dcmsend, "-aec", "DIANA", "127.0.0.1", str(listener.port), str(tmp_path / "one.dcm")], check=True, timeout=30
    )
    [path] = spooled(listener)
    assert dimse.outgoing(Blob(path)).transfer_syntax == "1.2.840.10008.1.2.1"


def test_orthanc_stores(listener: DicomListener, orthanc_factory: Callable[..., OrthancServer]) -> None:
    orthanc = orthanc_factory(modalities={"listener": ("DIANA", "127.0.0.1", listener.port)})
    oid = orthanc.upload(sample())["ID"]
    orthanc.rest("POST", "/modalities/listener/echo")
    orthanc.rest("POST", "/modalities/listener/store", oid.encode())
    [path] = spooled(listener)
    assert data_set(path.read_bytes()) == data_set(sample())


def test_pynetdicom_stores_and_verifies(listener: DicomListener, tmp_path: Path) -> None:
    from pydicom import dcmread
    from pynetdicom import AE
    from pynetdicom.sop_class import Verification

    (tmp_path / "one.dcm").write_bytes(sample())
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(Verification)
    entity.add_requested_context(samples.SECONDARY_CAPTURE, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", listener.port, ae_title="DIANA")
    assert association.is_established
    assert association.send_c_echo().Status == 0
    assert association.send_c_store(dcmread(tmp_path / "one.dcm")).Status == 0
    association.release()
    assert len(spooled(listener)) == 1


@pytest.mark.parametrize("sop_class", ["1.2.3.4.5.6", "1.2.840.10008.5.1.4.1.1.999.1", "1.2.840.10008.5.1.4.1.1.2"])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", J2K, "1.2.3.4.5.7"])
def test_every_storage_class_and_transfer_syntax_is_taken_as_it_is(
    listener: DicomListener, sop_class: str, syntax: str
) -> None:
    plain = sample(SOPClassUID=sop_class)
    if syntax == "1.2.840.10008.1.2":
        ds = samples.dataset(SOPClassUID=sop_class)
        ds.file_meta.TransferSyntaxUID, ds.file_meta.MediaStorageSOPClassUID = syntax, sop_class
        plain = samples.file_bytes(ds)
    sent = file_head(sop_class, samples.uid(1, 1, 1), syntax) + data_set(plain)
    assert send(listener, sent) == [0]
    [path] = spooled(listener)
    assert path.read_bytes() == sent


def test_find_and_print_classes_are_not_accepted(listener: DicomListener) -> None:
    for abstract in ("1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.1.9", "1.2.840.10008.1.20.1"):
        contexts = [(abstract, ["1.2.840.10008.1.2"])]
        with dimse.Association("127.0.0.1", listener.port, contexts, called_aet="DIANA") as association:
            assert not association.accepted


def test_more_classes_than_one_association_can_take_arrive(listener: DicomListener) -> None:
    files = [
        file_head(f"1.2.3.{n}", samples.uid(1, 1, 1), "1.2.840.10008.1.2.1")
        + data_set(sample(SOPClassUID=f"1.2.3.{n}"))
        for n in range(1, 200)
    ]
    assert send(listener, *files) == [0] * 199
    assert len(spooled(listener)) == 199


def test_the_same_instance_twice_is_announced_twice_and_handled_once_each(listener: DicomListener) -> None:
    assert send(listener, sample(), sample()) == [0, 0]
    first, second = listener.changes().events
    assert first.key != second.key
    assert listener.digest(first.ref) == listener.digest(second.ref)
    listener.done(first)
    assert listener.exists(second.ref)
    assert not listener.exists(first.ref)
    listener.done(first)


def test_events_tell_uids_and_no_more(listener: DicomListener) -> None:
    send(listener, sample(3))
    [event] = listener.changes().events
    assert event.evtype is DicomEventType.INSTANCE_ADDED
    assert dict(event.data) == {
        "fn": event.key,
        "StudyInstanceUID": samples.uid(1),
        "SeriesInstanceUID": samples.uid(1, 1),
        "SOPInstanceUID": samples.uid(1, 1, 4),
    }
    assert event.study == samples.uid(1)
    [pulled] = listener.pull(event.ref)
    assert pulled.file == (listener.path / event.key).read_bytes()
    assert listener.get(event.ref).tags["PatientID"] == "GENPID0000"


def test_changes_are_told_until_they_are_acknowledged(listener: DicomListener) -> None:
    send(listener, sample(0), sample(1))
    page = listener.changes()
    assert [event.key for event in listener.changes().events] == [event.key for event in page.events]
    send(listener, sample(2))
    listener.ack(page)
    assert [event.ref.instance for event in listener.changes().events] == [samples.uid(1, 1, 3)]


def test_a_page_is_bounded_and_asks_for_the_next(listener: DicomListener) -> None:
    send(listener, *[sample(n) for n in range(510)])
    page = listener.changes()
    assert (len(page.events), page.more) == (500, True)
    listener.ack(page)
    page = listener.changes()
    assert (len(page.events), page.more) == (10, False)


def test_each_reception_wakes_the_watcher(make_listener: MakeListener) -> None:
    listener = make_listener(listen=False)
    woken = threading.Event()
    listener.listen(woken.set)
    send(listener, sample())
    assert woken.wait(5)


def test_after_a_restart_what_the_journal_does_not_know_is_announced(make_listener: MakeListener) -> None:
    first = make_listener()
    send(first, sample(0), sample(1), sample(2))
    page = first.changes()
    known = page.events[0].key
    first.unlisten()

    again = make_listener()
    again.resume(page.cursor, lambda keys: {known} & set(keys))
    assert [event.key for event in again.changes().events] == [event.key for event in page.events[1:]]


def test_nothing_is_announced_twice_when_receptions_come_before_resume(listener: DicomListener) -> None:
    send(listener, sample(0), sample(1))
    listener.resume(None, none_seen)
    assert len(listener.changes().events) == 2


def test_foreign_files_are_left_alone(listener: DicomListener) -> None:
    (listener.path / "notes.txt").write_text("mine")
    (listener.path / "0000000000000000-0000000000000000.dcm").symlink_to("/etc/hostname")
    listener.resume(None, none_seen)
    assert not listener.changes().events
    assert not listener.exists("notes.txt")
    assert not listener.exists("../spool/notes.txt")
    assert not listener.delete("notes.txt")


def test_parts_of_a_killed_receiver_are_removed(make_listener: MakeListener) -> None:
    listener = make_listener(listen=False)
    listener.path.mkdir()
    (listener.path / ".0123456789abcdef.part").write_bytes(b"half")
    listener.listen(lambda: None)
    assert spooled(listener) == []


def test_a_foreign_cursor_is_refused(listener: DicomListener) -> None:
    with pytest.raises(StateError):
        listener.resume({"last": 17}, none_seen)


def test_a_spool_has_one_owner(listener: DicomListener, make_listener: MakeListener) -> None:
    other = make_listener(listen=False, path=listener.path)
    with pytest.raises(StateError):
        other.listen(lambda: None)
    assert other.check()


def test_a_taken_port_is_said_and_the_spool_given_up(listener: DicomListener, make_listener: MakeListener) -> None:
    other = make_listener(listen=False, port=listener.port, path=listener.path.parent / "other")
    with pytest.raises(GatewayConnectionError, match=str(listener.port)):
        other.listen(lambda: None)
    other.port = 0
    other.listen(lambda: None)


def test_another_called_title_is_rejected(listener: DicomListener) -> None:
    with pytest.raises(GatewayRefused, match="called AE title"):
        send(listener, sample(), called_aet="ELSE")
    with pytest.raises(GatewayRefused):
        dimse.echo("127.0.0.1", listener.port, called_aet="ELSE")


def test_calling_titles_can_be_restricted(make_listener: MakeListener) -> None:
    listener = make_listener(calling_aets=["CT1"])
    with pytest.raises(GatewayRefused, match="our AE title"):
        send(listener, sample(), aet="CT2")
    assert send(listener, sample(), aet="CT1") == [0]
    assert listener.check()


def test_other_addresses_are_not_let_in(make_listener: MakeListener) -> None:
    listener = make_listener(addresses=["192.0.2.0/24"])
    with pytest.raises(GatewayConnectionError):
        send(listener, sample())
    assert listener.check()


@pytest.mark.parametrize(
    "options",
    [
        {"aet": ""},
        {"aet": "SEVENTEEN_LETTERS"},
        {"aet": "A\\B"},
        {"calling_aets": ["\n"]},
        {"addresses": []},
        {"addresses": ["loopback"]},
        {"max_pdu": 10},
        {"timeout": 0},
        {"max_associations": 0},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(make_listener: MakeListener, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_listener(listen=False, **options)


def test_uid_of_command_and_data_set_must_agree(listener: DicomListener) -> None:
    other = file_head(samples.SECONDARY_CAPTURE, "1.2.3", "1.2.840.10008.1.2.1") + data_set(sample())
    other_class = file_head("1.2.840.10008.5.1.4.1.1.2", samples.uid(1, 1, 1), "1.2.840.10008.1.2.1") + data_set(
        sample()
    )
    assert send(listener, other, sample(), other_class) == [0xA900, 0, 0xA900]
    assert len(spooled(listener)) == 1


def test_what_is_no_data_set_is_refused(listener: DicomListener) -> None:
    junk = file_head(samples.SECONDARY_CAPTURE, "1.2.3", "1.2.840.10008.1.2.1") + b"\xff" * 5000
    assert send(listener, junk, sample()) == [0xC000, 0]
    assert len(spooled(listener)) == 1


@pytest.mark.parametrize("uid", ["../../../etc/x", "1.2.3/4", "1..2", "-", "1.2." + "3" * 62])
def test_a_uid_that_is_none_is_refused(listener: DicomListener, uid: str) -> None:
    assert send(listener, file_head(samples.SECONDARY_CAPTURE, uid, "1.2.840.10008.1.2.1") + data_set(sample())) == [
        0x117
    ]
    assert spooled(listener) == []


def test_a_listener_with_a_full_disk_says_so_and_goes_on_when_there_is_room(shared_dir: Path) -> None:
    script = """
import os, sys
sys.path.insert(0, os.environ["REPO"])
from pathlib import Path
from diana.apis import DicomListener
from tests.live.test_listener import sample, send, spooled
listener = DicomListener(port=0, path=Path(os.environ["SMALL_DISK"]) / "spool", reserve=0)
listener.listen(lambda: None)
big = sample(ImageComments="x" * 60000)
statuses = []
while not statuses or statuses[-1] == 0:
    statuses += send(listener, big)
kept = len(spooled(listener))
assert statuses[-1] == 0xA700, statuses
assert kept == len(statuses) - 1 > 5
page = listener.changes()
listener.done(page.events[0])
assert send(listener, big) == [0]
small = DicomListener(port=0, path=listener.path.parent / "second")
assert not small.check()
listener.unlisten()
print("fine")
"""
    done = subprocess.run(
        [sys.executable, str(shared_dir / "tools" / "small_disk.py"), "--mib", "1", "--", sys.executable, "-c", script],
        env={"REPO": str(REPO), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode == 77:
        pytest.skip("no small disk possible here")
    assert done.stdout == "fine\n", done.stderr


def test_success_comes_after_file_and_folder_are_on_disk(program: Callable[[str, str], str], tmp_path: Path) -> None:
    strace = program("strace", "strace")
    script = """
import sys
from diana.apis import DicomListener
listener = DicomListener(port=0, path=sys.argv[1])
listener.listen(lambda: None)
print(listener.port, flush=True)
sys.stdin.read()
listener.unlisten()
"""
    trace = tmp_path / "trace"
    child = subprocess.Popen(
        [
            strace,
            "-f",
            "-e",
            "trace=fsync,rename,sendto",
            "-o",
            str(trace),
            sys.executable,
            "-c",
            script,
            str(tmp_path / "s"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPO,
        text=True,
    )
    with child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            pytest.skip("strace cannot trace here")
        [outcome] = dimse.store([sample()], "127.0.0.1", int(line), called_aet="DIANA")
        assert outcome.ok
        child.communicate(timeout=20)
    calls = [line.split(None, 1)[1].partition("(")[0] for line in trace.read_text().splitlines() if "(" in line]
    at = calls.index("rename")
    assert calls[at - 1 : at + 3] == ["fsync", "rename", "fsync", "sendto"]


def test_a_killed_listener_loses_nothing_it_promised(tmp_path: Path) -> None:
    script = """
import sys
from diana.apis import DicomListener
listener = DicomListener(port=0, path=sys.argv[1])
listener.listen(lambda: None)
print(listener.port, flush=True)
sys.stdin.read()
"""
    promised: set[str] = set()
    for life in range(3):
        before = len(list((tmp_path / "spool").glob("*.dcm")))
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "spool")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO, text=True,
        )  # fmt: skip
        with child:
            assert child.stdout is not None
            port = int(child.stdout.readline())
            done: list[dimse.StoreOutcome] = []
            sender = threading.Thread(
                target=lambda port=port, life=life, done=done: done.extend(
                    dimse.store([sample(life * 1000 + n) for n in range(1000)], "127.0.0.1", port, called_aet="DIANA")
                )
            )
            sender.start()
            wait_for(lambda before=before: len(list((tmp_path / "spool").glob("*.dcm"))) > before + 20)
            child.kill()
            sender.join()
            promised |= {outcome.sop_instance for outcome in done if outcome.ok}
    listener = DicomListener(port=0, path=tmp_path / "spool")
    listener.resume(None, none_seen)
    told: set[str] = set()
    while (page := listener.changes()).events:
        told |= {event.ref.instance for event in page.events}
        listener.ack(page)
    assert promised
    assert promised <= told


def test_logs_hold_no_patient(listener: DicomListener, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        send(listener, sample(PatientName="Zyxwv^Planted", PatientID="PLANTEDPID4711"))
        wait_for(lambda: "instances=1" in caplog.text)
    assert_nothing_planted(caplog.text + repr(listener) + repr(listener.changes()))
