"""ObservableDcmDir: what is announced, when, and under which key."""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from diana.apis.observables import _folder_watch
from diana.apis.observables.dcmdir import ObservableDcmDir
from diana.exceptions import GatewayConnectionError, StateError
from diana.utils.dicom import DicomEventType
from diana.utils.endpoint import Event
from tests.contract import samples
from tests.helpers import wait_for


class Watched:
    """A source that looks as often as asked, and remembers its keys like a journal."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.source = ObservableDcmDir(str(folder), settle=0.05, **options)  # type: ignore[arg-type]
        self.keys: set[str] = set()
        self.asked: list[int] = []
        self.source.resume(None, self.seen)

    def seen(self, keys: Sequence[str]) -> set[str]:
        self.asked.append(len(keys))
        return self.keys & set(keys)

    def take(self) -> list[Event]:
        """Return the events of one look, acknowledged; a scan of everything is due at each."""
        self.source._watch.touch(None)
        page = self.source.changes()
        self.keys |= {event.key for event in page.events}
        self.source.ack(page)
        return list(page.events)

    def wait(self, count: int) -> list[Event]:
        found: list[Event] = []

        def enough() -> bool:
            found.extend(self.take())
            return len(found) >= count

        wait_for(enough, what=f"{count} events")
        return found

    def nothing(self) -> bool:
        """Tell that two more files settle and nothing else is announced."""
        marks = []
        for _ in range(2):
            mark = Path(self.source.path) / f"mark{len(os.listdir(self.source.path))}.dcm"
            mark.write_bytes(samples.file_bytes(samples.dataset(9)))
            marks.append(mark.name)
            found = self.wait(1)
            if [event.data["fn"] for event in found] != marks[-1:]:
                return False
        return True


def drop(folder: Path, name: str = "x.dcm", n: int = 0, cut: int | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(samples.file_bytes(samples.dataset(n))[:cut])
    return path


def test_an_event_tells_name_signature_and_uids(tmp_path: Path) -> None:
    path = drop(tmp_path, "sub/x.dcm")
    watched = Watched(tmp_path)
    (event,) = watched.wait(1)
    there = path.stat()
    assert event.evtype == DicomEventType.FILE_ADDED
    assert event.data == {
        "fn": "sub/x.dcm",
        "size": there.st_size,
        "mtime_ns": there.st_mtime_ns,
        "inode": there.st_ino,
        "SOPInstanceUID": samples.uid(1, 1, 1),
        "StudyInstanceUID": samples.uid(1),
        "SeriesInstanceUID": samples.uid(1, 1),
    }
    assert json.loads(json.dumps(event.data)) == event.data
    assert event.study == samples.uid(1)
    assert len(event.key) == 64
    assert [one.file for one in watched.source.pull(event.ref)] == [path.read_bytes()]


def test_nothing_is_announced_at_the_first_look(tmp_path: Path) -> None:
    drop(tmp_path)
    assert Watched(tmp_path).take() == []


def test_a_file_is_announced_once(tmp_path: Path) -> None:
    drop(tmp_path)
    watched = Watched(tmp_path)
    watched.wait(1)
    assert watched.nothing()


def test_a_cut_file_is_announced_when_it_is_whole(tmp_path: Path) -> None:
    path = drop(tmp_path, cut=-2)
    watched = Watched(tmp_path)
    assert watched.nothing()
    with path.open("ab") as out:
        out.write(samples.file_bytes(samples.dataset())[-2:])
    assert [event.data["fn"] for event in watched.wait(1)] == ["x.dcm"]


@pytest.mark.parametrize(
    "name", ["x.dcm.part", "x.TMP", "x.filepart", "x.crdownload", "x.dcm~", ".x.dcm", ".hidden/x.dcm", "a/.b/x.dcm"]
)
def test_names_of_unfinished_and_hidden_files_are_ignored(tmp_path: Path, name: str) -> None:
    drop(tmp_path, name)
    assert Watched(tmp_path).nothing()


def test_the_ignored_endings_can_be_chosen(tmp_path: Path) -> None:
    drop(tmp_path, "x.tmp")
    drop(tmp_path, "x.bad")
    watched = Watched(tmp_path, ignored=[".bad"])
    assert [event.data["fn"] for event in watched.wait(1)] == ["x.tmp"]
    assert watched.nothing()


def test_links_fifos_and_foreign_files_are_passed_by(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    drop(outside)
    (folder / "link.dcm").symlink_to(outside / "x.dcm")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "fifo.dcm")
    (folder / "note.txt").write_text("a note, long enough to be read as a file of its own" * 9)
    (folder / "empty.dcm").write_bytes(b"")
    with zipfile.ZipFile(folder / "document.docx", "w") as archive:
        archive.writestr("a", b"b")
    assert Watched(folder).nothing()


def test_a_replaced_file_is_announced_again_under_another_key(tmp_path: Path) -> None:
    drop(tmp_path)
    watched = Watched(tmp_path)
    (first,) = watched.wait(1)
    assert watched.source.still_there(first)
    drop(tmp_path, "new.tmp", 1).rename(tmp_path / "x.dcm")
    assert not watched.source.still_there(first)
    (second,) = watched.wait(1)
    assert second.key != first.key
    assert second.data["SOPInstanceUID"] == samples.uid(2, 1, 1)


def test_an_event_of_a_vanished_or_linked_file_is_not_there_any_more(tmp_path: Path) -> None:
    path = drop(tmp_path)
    watched = Watched(tmp_path)
    (event,) = watched.wait(1)
    path.rename(tmp_path / ".kept")
    assert not watched.source.still_there(event)
    path.symlink_to(tmp_path / ".kept")
    assert not watched.source.still_there(event)


def test_a_zip_is_announced_when_its_directory_is_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "whole.part", "w") as archive:
        for n in range(3):
            archive.writestr(f"a/{n}.dcm", samples.file_bytes(samples.dataset(n)))
    data = (tmp_path / "whole.part").read_bytes()
    (tmp_path / "x.zip").write_bytes(data[: len(data) * 2 // 3])
    watched = Watched(tmp_path)
    assert watched.nothing()
    (tmp_path / "x.zip").write_bytes(data)
    (event,) = watched.wait(1)
    assert event.study == ""
    assert len(list(watched.source.pull(event.ref))) == 3


def test_a_folder_that_is_moved_in_is_taken_whole(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    watched = Watched(tmp_path / "in")
    watched.take()
    for n in range(3):
        drop(tmp_path, f"out/deep/{n}.dcm", n)
    (tmp_path / "out").rename(tmp_path / "in" / "new")
    assert sorted(event.data["fn"] for event in watched.wait(3)) == [f"new/deep/{n}.dcm" for n in range(3)]


def test_after_a_restart_only_what_the_journal_does_not_know_is_announced(tmp_path: Path) -> None:
    drop(tmp_path)
    watched = Watched(tmp_path)
    (event,) = watched.wait(1)
    drop(tmp_path, "y.dcm", 1)
    watched.source.resume({"kind": "folder", "version": 1}, watched.seen)
    assert [one.data["fn"] for one in watched.wait(1)] == ["y.dcm"]
    watched.keys.clear()
    watched.source.resume(None, watched.seen)
    assert event.key in {one.key for one in watched.wait(2)}


def test_a_page_that_was_not_acknowledged_comes_again(tmp_path: Path) -> None:
    drop(tmp_path)
    source = ObservableDcmDir(str(tmp_path), settle=0.01)
    source.resume(None, lambda keys: set())
    page = wait_for(lambda: (found := source.changes()).events and found)
    assert page
    assert page.cursor is not None
    assert source.changes() is page
    source.ack(page)
    assert source.changes().events == []
    assert source.changes().cursor is None


def test_a_page_has_500_events_at_most_and_keys_are_asked_for_in_batches(tmp_path: Path) -> None:
    data = samples.file_bytes(samples.dataset())
    for n in range(1100):
        (tmp_path / f"{n}.dcm").write_bytes(data)
    watched = Watched(tmp_path)
    sizes: list[int] = []
    wait_for(lambda: sizes.append(len(watched.take())) or sum(sizes) >= 1100, 30)
    assert sum(sizes) == 1100
    assert max(sizes) <= 500
    assert max(watched.asked) <= 500


def test_more_files_than_may_wait_are_all_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_folder_watch, "PENDING", 20)
    data = samples.file_bytes(samples.dataset())
    for n in range(90):
        (tmp_path / f"{n}.dcm").write_bytes(data)
    source = ObservableDcmDir(str(tmp_path), settle=0.0)
    source.resume(None, lambda keys: set())
    found: set[str] = set()

    def all_there() -> bool:
        page = source.changes()
        found.update(event.data["fn"] for event in page.events)
        source.ack(page)
        assert len(source._watch._pending) <= 20
        return len(found) == 90

    wait_for(all_there)


@pytest.mark.parametrize("cursor", [7, "text", {"last": 3}, {"kind": "orthanc"}])
def test_a_foreign_cursor_is_a_state_error(tmp_path: Path, cursor: object) -> None:
    with pytest.raises(StateError):
        ObservableDcmDir(str(tmp_path)).resume(cursor, lambda keys: set())


def test_a_folder_that_is_gone_raises_and_is_taken_up_again(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    watched = Watched(folder)
    watched.take()
    folder.rename(tmp_path / "away")
    with pytest.raises(GatewayConnectionError):
        watched.source.changes()
    drop(folder)
    assert [event.data["fn"] for event in watched.wait(1)] == ["x.dcm"]


def test_an_object_that_may_go_on_is_given_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diana.apis.observables.dcmdir.DOUBT", 0.3)
    ds = samples.dataset()
    del ds.PixelData
    path = tmp_path / "x.dcm"
    path.write_bytes(samples.file_bytes(ds))
    watched = Watched(tmp_path)
    assert watched.take() == []
    whole = samples.file_bytes(samples.dataset())
    path.write_bytes(whole)
    (event,) = watched.wait(1)
    assert event.data["size"] == len(whole)
    (tmp_path / "y.dcm").write_bytes(samples.file_bytes(ds))
    assert [one.data["fn"] for one in watched.wait(1)] == ["y.dcm"]


def test_notifications_wake_and_stop(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    source = ObservableDcmDir(str(tmp_path), settle=0.01)
    source.resume(None, lambda keys: set())
    woken = threading.Event()
    source.listen(woken.set)
    source.ack(source.changes())
    drop(tmp_path, "deep/new/x.dcm")
    assert woken.wait(5)
    page = wait_for(lambda: (found := source.changes()).events and found, 5)
    assert page
    assert [event.data["fn"] for event in page.events] == ["deep/new/x.dcm"]
    source.unlisten()
    source.unlisten()
    assert set(threading.enumerate()) <= before | {
        one for one in threading.enumerate() if "inotify" in type(one).__name__.lower()
    }


def test_a_patient_in_a_file_name_stays_out_of_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    watched = Watched(tmp_path)
    watched.source.listen(lambda: None)
    drop(tmp_path, "PLANTED^NAME.dcm")
    drop(tmp_path, "PLANTED^BROKEN.dcm", cut=200)
    events = watched.wait(1)
    watched.source.unlisten()
    assert "PLANTED" not in caplog.text
    assert "PLANTED" not in repr(events)


def test_a_file_that_is_finished_in_place_is_taken_though_nobody_says_so(tmp_path: Path) -> None:
    whole = samples.file_bytes(samples.dataset())
    path = drop(tmp_path, cut=-100)
    (tmp_path / "y.dcm").write_bytes(bytes(len(whole)))
    source = ObservableDcmDir(str(tmp_path), settle=0.01)
    source.resume(None, lambda keys: set())
    wait_for(lambda: not source.changes().events and len(source._watch._unfinished) == 2)
    for one in (path, tmp_path / "y.dcm"):
        with one.open("r+b") as out:
            out.write(whole)
    found: list[str] = []

    def both() -> bool:
        page = source.changes()
        found.extend(event.data["fn"] for event in page.events)
        source.ack(page)
        return len(found) == 2

    wait_for(both, 5)
    assert sorted(found) == ["x.dcm", "y.dcm"]


def test_it_is_rebuilt_from_its_own_mapping(tmp_path: Path) -> None:
    source = ObservableDcmDir(str(tmp_path), polling_interval=3, ignored=(".bad",), settle=0.5)
    desc = json.loads(source.json())
    assert desc.pop("ctype") == "ObservableDcmDir"
    assert ObservableDcmDir(**desc).json() == source.json()
