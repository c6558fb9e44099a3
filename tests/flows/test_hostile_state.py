"""Damaged state and full disks: a clear error, nothing half, nothing forgotten, and work that goes on by itself."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diana.apis import DcmDir, ObservableDcmDir
from diana.daemons.rules import Route
from diana.exceptions import StateError
from diana.ledger import Journal, Store
from diana.ledger.rows import EventRow
from diana.utils.dicom import DicomEventType
from diana.utils.endpoint import Watcher
from tests.fakes.hostile import good_dicom, peak_mib, run_apart
from tests.helpers import REPO, wait_for


def filled(folder: Path) -> Path:
    """Make a ledger with a cursor and a hundred events; return its file."""
    store = Store(folder)
    journal = Journal(store)
    rows = [EventRow("s", f"k{n}", 1, {"oid": str(n)}) for n in range(100)]
    journal.take("s", rows, {1: ["t"]}, {"at": 100})
    store.close()
    path = folder / "ledger.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    for more in ("-wal", "-shm"):
        path.with_name(path.name + more).unlink(missing_ok=True)
    return path


def use(where: Path) -> dict[str, dict[str, int]]:
    """Open a ledger, own it, and do what a watcher does first."""
    store = Store(where)
    try:
        store.own()
        journal = Journal(store)
        journal.cursor("s")
        journal.recover()
        journal.take("s", [EventRow("s", "new", 1, {})], {1: ["t"]}, {"at": 101})
        return journal.counts()
    finally:
        store.close()


def test_the_ledger_of_these_tests_is_sound(tmp_path: Path) -> None:
    filled(tmp_path)
    assert use(tmp_path) == {"t": {"new": 101}}


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "cut in the head": lambda data: data[:60],
    "cut in the first page": lambda data: data[:1000],
    "cut after a page": lambda data: data[:4096],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut at the end": lambda data: data[:-4096],
    "zeros": lambda data: bytes(len(data)),
    "zeros in the middle": lambda data: data[:4096] + bytes(len(data) - 8192) + data[-4096:],
    "noise": lambda data: bytes((n * 7 + 3) % 256 for n in range(len(data))),
    "noise after the head": lambda data: data[:100] + bytes((n * 7 + 3) % 256 for n in range(len(data) - 100)),
    "text": lambda data: b"version: 1\n",
    "json": lambda data: b"{}",
    "html": lambda data: b"<html></html>" * 1000,
    "twice": lambda data: data[:100] + data,
    "header of another page size": lambda data: data[:16] + b"\x02\0" + data[18:],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_ledger_is_a_state_error_and_is_not_touched(tmp_path: Path, name: str) -> None:
    path = filled(tmp_path)
    damaged = DAMAGE[name](path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(StateError) as caught:
        use(tmp_path)
    assert len(str(caught.value)) < 300
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("at", range(12))
def test_a_ledger_with_one_spoilt_page_never_counts_as_empty(tmp_path: Path, at: int) -> None:
    path = filled(tmp_path)
    data = bytearray(path.read_bytes())
    if at * 4096 >= len(data):
        return
    data[at * 4096 + 120 : at * 4096 + 1200] = b"\xa5" * 1080
    path.write_bytes(bytes(data))
    try:
        counts = use(tmp_path)
    except StateError:
        return
    assert counts["t"]["new"] >= 100


ABOUT = "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT); INSERT INTO about VALUES ('version', '%s');"
SCHEMAS = {
    "another program": "CREATE TABLE events (a, b); INSERT INTO events VALUES (1, 2);",
    "a newer version": ABOUT % 99,
    "an older version": ABOUT % 0,
    "a view": "CREATE TABLE x (a); CREATE VIEW events AS SELECT a AS id FROM x;",
    "tables without columns": "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT);"
    "INSERT INTO about VALUES ('version', '1'); CREATE TABLE events (id INTEGER PRIMARY KEY); CREATE TABLE cursors (a);"
    "CREATE TABLE deliveries (a); CREATE TABLE receipts (a); CREATE TABLE proofs (a);",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_database_of_something_else_is_a_state_error(tmp_path: Path, name: str) -> None:
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    connection.executescript(SCHEMAS[name])
    connection.close()
    with pytest.raises(StateError):
        use(tmp_path)


@pytest.mark.parametrize("cursor", ["", "{", "\x00", "[" * 100_000, "9" * 10_000, "{'a': 1}"], ids=range(6))
def test_a_damaged_cursor_is_a_state_error(tmp_path: Path, cursor: str) -> None:
    path = filled(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE cursors SET cursor = ?", (cursor,))
    connection.commit()
    connection.close()
    with pytest.raises(StateError):
        use(tmp_path)


def start_all(journal: Journal) -> None:
    """Start every delivery, ten at a time."""
    for _ in range(20):
        journal.turn([], {"t": 10}, owner="o", ordered=frozenset(), longest_wait=300.0)


@pytest.mark.parametrize("data", ["", "{", "[1]", "5", "null", "[" * 100_000], ids=range(6))
def test_a_damaged_event_is_a_state_error(tmp_path: Path, data: str) -> None:
    path = filled(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE events SET data = ? WHERE id = 50", (data,))
    connection.commit()
    connection.close()
    store = Store(tmp_path)
    with pytest.raises(StateError):
        start_all(Journal(store))
    store.close()


@pytest.mark.parametrize("kind", ["folder", "link to nothing", "fifo", "device"])
def test_what_is_no_file_in_the_place_of_a_ledger_is_a_state_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ledger.sqlite"
    if kind == "folder":
        path.mkdir()
    elif kind == "link to nothing":
        path.symlink_to(tmp_path / "nowhere" / "x")
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        os.mkfifo(path)
    for where in (tmp_path, path):
        with pytest.raises(StateError):
            use(where)
    assert kind != "folder" or list(path.iterdir()) == []


def test_a_folder_in_the_place_of_the_lock_is_a_state_error(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "ledger.sqlite.lock").mkdir()
    with pytest.raises(StateError):
        use(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("x")
    with pytest.raises(StateError):
        use(tmp_path / "state" / "ledger.sqlite")


def cli(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPO), "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "diana_cli", *args], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("damage", ["empty", "noise", "cut in the middle"])
def test_the_program_says_what_is_wrong_with_its_ledger_and_leaves_it(tmp_path: Path, damage: str) -> None:
    path = filled(tmp_path / "state")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    before = path.read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "w.yml").write_text(
        "services:\n  in: {ctype: ObservableDcmDir, path: in}\n  out: {ctype: DcmDir, path: out}\n"
        "routes:\n  - {name: r, source: in, event: file, to: [out]}\n"
    )
    for args in (("receipts",), ("watch", "w.yml", "--once")):
        done = cli(tmp_path, "--state", "state", *args)
        assert done.returncode in (1, 2), done.stderr
        assert "ledger" in done.stderr
        assert "Traceback" not in done.stderr
        assert "bug" not in done.stderr
        assert path.read_bytes() == before


@pytest.fixture
def small(shared_dir: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a piece of Python with a tiny disk at SMALL_DISK; skips where that cannot be had."""
    tool = shared_dir / "tools" / "small_disk.py"

    def run(mebibytes: float, code: str, *, inodes: int = 0, fill: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tool), "--mib", str(mebibytes)]
        command += ["--inodes", str(inodes)] * bool(inodes) + ["--fill", str(fill)] * bool(fill)
        done = subprocess.run(
            [*command, "--", sys.executable, "-c", code],
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            timeout=90,
        )
        if done.returncode == 77:
            pytest.skip("no small disk can be made here")
        return done

    return run


FOLDER = """
import os, pathlib
from diana.apis import DcmDir, Memory
from diana.daemons.transfer import transfer
from diana.exceptions import DianaError
from diana.utils.dicom import Ref
from tests.contract import samples
disk = pathlib.Path(os.environ["SMALL_DISK"])
filler = disk / "filler"
source, folder = Memory(), DcmDir(str(disk / "archive"))
big = [samples.instance(0, 0, n, ImageComments="x" * 10000) for n in range(400)]
for one in big:
    source.put(one)
put, error = 0, None
for one in big:
    try:
        folder.put(one)
        put += 1
    except DianaError as caught:
        error = caught
        break
assert error is not None and error.temporary, repr(error)
assert "full" in str(error), error
names = sorted(path.name for path in (disk / "archive").iterdir())
assert len(names) == put and not [name for name in names if name.startswith(".")], names[:3]
by_time = sorted((disk / "archive").iterdir(), key=lambda path: path.stat().st_mtime_ns)
assert all(path.read_bytes() == one.file for path, one in zip(by_time, big))
receipt = transfer(source, folder, Ref("studies", study=big[0].tags["StudyInstanceUID"]))
assert receipt.state == "incomplete" and "full" in receipt.reason, receipt
assert receipt.temporary
if filler.exists():
    filler.unlink()
    receipt = transfer(source, folder, Ref("studies", study=big[0].tags["StudyInstanceUID"]), look_first=True)
    assert receipt.state == "verified", receipt.reason
print("well", put)
"""


def test_a_folder_on_a_full_disk_keeps_what_is_whole(small: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = small(2, FOLDER)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_transfer_goes_on_when_there_is_room_again(small: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = FOLDER.replace('filler = disk / "filler"', 'filler = disk / "filler"; filler.write_bytes(bytes(7 << 20))')
    done = small(8, code + "\nassert not filler.exists()")
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_folder_without_inodes_keeps_what_is_whole(small: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = small(16, FOLDER, inodes=60)
    assert done.returncode == 0, done.stderr[-2000:]


LEDGER = """
import os, pathlib
from diana.exceptions import StateUnavailable
from diana.ledger import Journal, Store
from diana.ledger.rows import EventRow
disk = pathlib.Path(os.environ["SMALL_DISK"])
filler = disk / "filler"
filler.write_bytes(bytes(2 << 20))
journal = Journal(Store(disk / "state"))
taken, error = 0, None
for page in range(400):
    rows = [EventRow("s", f"{page}-{n}", 1, {"oid": "x" * 200}) for n in range(100)]
    try:
        journal.take("s", rows, {1: ["t"]}, {"page": page})
        taken += 1
    except StateUnavailable as caught:
        error = caught
        break
assert error is not None and error.temporary, error
assert journal.cursor("s") == {"page": taken - 1}
assert journal.counts() == {"t": {"new": taken * 100}}, journal.counts()
filler.unlink()
rows = [EventRow("s", f"{taken}-{n}", 1, {"oid": "x" * 200}) for n in range(100)]
journal.take("s", rows, {1: ["t"]}, {"page": taken})
assert journal.counts() == {"t": {"new": (taken + 1) * 100}}
journal.store.close()
journal = Journal(Store(disk / "state"))
assert journal.cursor("s") == {"page": taken}
print("well")
"""


def test_a_ledger_on_a_full_disk_stays_whole_and_goes_on(
    small: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = small(6, LEDGER)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_ledger_that_cannot_begin_for_want_of_room_says_so(
    small: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    code = """
import os, pathlib
from diana.exceptions import StateUnavailable, StateError
from diana.ledger import Store
disk = pathlib.Path(os.environ["SMALL_DISK"])
filler = disk / "filler"
with filler.open("wb", buffering=0) as out:
    try:
        while True:
            out.write(bytes(4096))
    except OSError:
        pass
try:
    Store(disk / "state")
except StateUnavailable as error:
    assert error.temporary
else:
    raise SystemExit("no error")
filler.unlink()
Store(disk / "state").close()
print("well")
"""
    done = small(1, code)
    assert done.returncode == 0, done.stderr[-2000:]


WATCH = """
import os, pathlib, signal, subprocess, sys, time
disk = pathlib.Path(os.environ["SMALL_DISK"])
from tests.fakes.hostile import good_dicom
inbox = disk / "in"
inbox.mkdir()
filler = disk / "filler"
(disk / "w.yml").write_text(
    "services:\\n  in: {ctype: ObservableDcmDir, path: %s/in, polling_interval: 0.2, settle: 0.05}\\n"
    "  out: {ctype: DcmDir, path: %s/out}\\n"
    "routes:\\n  - {name: r, source: in, event: file, to: [out]}\\nstate: %s/state\\n" % (disk, disk, disk)
)
for name, data in good_dicom(5).items():
    (inbox / name).write_bytes(data)
command = [sys.executable, "-m", "diana_cli", "-v", "watch", str(disk / "w.yml")]
process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
def until(condition, what):
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end or process.poll() is not None:
            process.kill()
            print(count(), list(inbox.iterdir()))
            raise SystemExit(what + process.stderr.read()[-1500:])
        time.sleep(0.05)
count = lambda: len([p for p in (disk / "out").glob("*.dcm")]) if (disk / "out").is_dir() else 0
until(lambda: count() == 5, "the first five ")
with filler.open("wb", buffering=0) as out:
    try:
        while True:
            out.write(bytes(4096))
    except OSError:
        pass
# just enough room for the files that arrive
for number, (name, data) in enumerate(list(good_dicom(8).items())[5:]):
    os.truncate(filler, filler.stat().st_size - 8192)
    (inbox / name).write_bytes(data)
time.sleep(1.5)
assert process.poll() is None, process.stderr.read()[-1500:]
filler.unlink()
until(lambda: count() == 8, "the last three ")
process.send_signal(signal.SIGTERM)
_, said = process.communicate(timeout=30)
assert process.returncode == 0, said
print("well")
"""


@pytest.mark.timeout(90)
def test_a_watcher_whose_disk_is_full_goes_on_when_there_is_room(
    small: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = small(8, WATCH)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2500:]


def test_a_device_in_the_place_of_a_table_is_an_error_in_little_memory() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from diana.apis import CsvFile
from diana.exceptions import DianaError
from tests.contract import samples
for name in ("/dev/zero", "/dev/full"):
    try:
        CsvFile(name).put(samples.study())
        raise SystemExit("taken")
    except DianaError:
        pass
"""
    assert peak_mib(run_apart(code)) < 150


@pytest.mark.parametrize("name", ["what?", "a#b", "a%20b", "a b", "\u00e4", "-x", "a;b", "memory:"])
def test_a_ledger_lies_where_its_folder_says(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / name / "ledger.sqlite")
    store.close()
    assert (tmp_path / name / "ledger.sqlite").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_cursor_of_another_kind_stops_that_source_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(Store())
    folders = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file, data in good_dicom(2).items():
            (tmp_path / name / file).write_bytes(data)
        folders.append(ObservableDcmDir(str(tmp_path / name), polling_interval=0.05, settle=0.01, name=name))
    journal.take(folders[0].source_id, [], {}, {"last": 5, "generation": 1, "anchor": ""})
    dest = DcmDir(str(tmp_path / "out"))
    watcher = Watcher(0.02, journal=journal)
    for source in folders:
        for trigger in Route(f"r{source.name}", source, DicomEventType.FILE_ADDED, [dest]).triggers(journal.receipts):
            watcher.add_trigger(trigger)
    import threading

    thread = threading.Thread(target=watcher.run)
    thread.start()
    try:
        wait_for(lambda: len(list((tmp_path / "out").glob("*.dcm"))) == 2, 15, "the files of the other source")
        wait_for(lambda: "a cannot be watched" in caplog.text, 15, "the warning")
    finally:
        watcher.stop()
        thread.join(20)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signals")
def test_a_state_file_is_json_that_nobody_evaluates(tmp_path: Path) -> None:
    path = filled(tmp_path)
    connection = sqlite3.connect(path)
    stored = [row[0] for row in connection.execute("SELECT data FROM events UNION SELECT cursor FROM cursors")]
    connection.close()
    assert all(json.loads(text) is not None for text in stored)
    assert b"cpickle" not in path.read_bytes().lower()
