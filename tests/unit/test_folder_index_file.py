"""The file of a folder's index: private, shared, and replaced whenever it is not good."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from diana.apis.dcmdir import DcmDir
from diana.apis.observables.dcmdir import ObservableDcmDir
from diana.utils.dicom import DicomLevel, Query, Ref
from tests.contract import samples
from tests.helpers import REPO, open_files, wait_for

COUNT = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "archive"
    shelf = DcmDir(str(found), durable=False)
    for item in samples.instances(4, 2, 3):
        shelf.put(item)
    return found


@pytest.fixture
def indexed(folder: Path) -> Iterator[DcmDir]:
    found = DcmDir(str(folder), index=True)
    yield found
    found.close()


def count(shelf: DcmDir) -> int:
    return len(shelf.find({}, level="instances"))


def file_of(folder: Path) -> Path:
    return folder / ".diana" / "index.sqlite"


class TestPlace:
    """Where it lies, and who sees it."""

    def test_only_the_owner_can_read_it(self, folder: Path, indexed: DcmDir) -> None:
        before = os.umask(0)
        try:
            assert count(indexed) == COUNT
        finally:
            os.umask(before)
        modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in (folder / ".diana").iterdir()}
        assert set(modes.values()) == {0o600}
        assert len(modes) > 1
        assert stat.S_IMODE((folder / ".diana").stat().st_mode) == 0o700

    def test_a_mode_that_lets_others_read_is_mended(self, folder: Path) -> None:
        for _ in range(2):
            shelf = DcmDir(str(folder), index=True)
            assert count(shelf) == COUNT
            shelf.close()
            assert stat.S_IMODE(file_of(folder).stat().st_mode) == 0o600
            file_of(folder).chmod(0o644)

    def test_nothing_is_made_without_index(self, folder: Path) -> None:
        shelf = DcmDir(str(folder))
        assert count(shelf) == COUNT
        shelf.close()
        assert not (folder / ".diana").exists()

    def test_nothing_is_made_before_the_folder_is_there(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path / "new"), index=True)
        assert shelf.find({}) == []
        assert not (tmp_path / "new").exists()
        shelf.put(samples.instance())
        assert count(shelf) == 1
        shelf.close()

    def test_the_folder_does_not_show_it(self, folder: Path, indexed: DcmDir) -> None:
        assert count(indexed) == COUNT
        assert indexed.files("*") == sorted(one.name for one in folder.iterdir() if one.is_file())
        assert list(indexed.subdirs()) == [str(folder)]
        watched = ObservableDcmDir(str(folder), settle=0, index=True)
        names = set()

        def told() -> bool:
            names.update(event.data["fn"] for event in watched.poll_events())
            return len(names) >= COUNT

        wait_for(told, 60)
        assert names == set(indexed.files("*"))
        watched.close()

    def test_it_goes_where_it_is_told_to(self, folder: Path, tmp_path: Path) -> None:
        for name in ("archive", "other"):
            (tmp_path / name).mkdir(exist_ok=True)
            shelf = DcmDir(str(tmp_path / name), index=True, index_folder=str(tmp_path / "kept"))
            assert count(shelf) == (COUNT if name == "archive" else 0)
            shelf.close()
        assert not (folder / ".diana").exists()
        assert len(list((tmp_path / "kept").glob("*.sqlite"))) == 2

    def test_a_link_in_its_place_is_not_followed(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "elsewhere").mkdir()
        (folder / ".diana").symlink_to(tmp_path / "elsewhere")
        shelf = DcmDir(str(folder), index=True)
        assert count(shelf) == COUNT
        shelf.close()
        assert list((tmp_path / "elsewhere").iterdir()) == []
        assert len(list((tmp_path / "cache" / "diana" / "folders").glob("*.sqlite"))) == 1

    def test_where_it_cannot_be_the_folder_is_read(
        self, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        shelf = DcmDir(str(folder), index=True, index_folder=str(tmp_path / "file" / "x"))
        with caplog.at_level(logging.WARNING):
            assert count(shelf) == count(shelf) == COUNT
            assert shelf.exists(samples.uid(1), level="studies")
            assert len(shelf.find({}, offset=3)) == 1
        assert len(caplog.records) == 1
        shelf.close()


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(200_000))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def holes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 3 * 4096):
        data[at : at + 2048] = os.urandom(2048)
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE about (key, value, more)")


def older(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE about SET value = '0' WHERE key = 'version'")
        connection.commit()


def without_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE words")


def leftovers(path: Path) -> None:
    path.with_name(f"{path.name}-wal").write_bytes(os.urandom(70_000))
    path.with_name(f"{path.name}-shm").write_bytes(os.urandom(32_768))


DAMAGE = [garbage, cut, emptied, holes, foreign, older, without_table, leftovers, os.unlink]


class TestDamage:
    """Whatever happened to the file, answers are right."""

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_a_bad_file_is_made_anew(self, folder: Path, damage: Callable[[Path], None]) -> None:
        shelf = DcmDir(str(folder), index=True)
        assert count(shelf) == COUNT
        shelf.close()
        damage(file_of(folder))
        again = DcmDir(str(folder), index=True)
        assert count(again) == COUNT
        assert len(again.find({"PatientID": "GENPID0001"})) == 1
        again.put(samples.instance(9))
        assert count(again) == COUNT + 1
        again.close()
        assert file_of(folder).exists()

    @pytest.mark.parametrize("damage", [without_table, older, os.unlink])
    def test_one_that_goes_bad_while_it_is_used_is_made_anew(
        self, folder: Path, indexed: DcmDir, damage: Callable[[Path], None]
    ) -> None:
        assert count(indexed) == COUNT
        damage(file_of(folder))
        for number in range(3):
            indexed.put(samples.instance(9, 0, number))
            assert count(indexed) == COUNT + number + 1
            assert indexed.exists({"PatientID": "GENPID0009"})

    def test_its_whole_folder_may_be_removed(self, folder: Path, indexed: DcmDir) -> None:
        assert count(indexed) == COUNT
        shutil.rmtree(folder / ".diana")
        assert count(indexed) == COUNT
        assert file_of(folder).exists()


SCRIPT = """
import sys
from diana.apis.dcmdir import DcmDir
shelf = DcmDir(sys.argv[1], index=True)
print("begun", flush=True)
while True:
    assert len(shelf.find({"StudyDate": "2020-"}, level="instances")) == int(sys.argv[2])
    shelf.close()
    if len(sys.argv) > 3:
        break
    import pathlib, shutil
    shutil.rmtree(pathlib.Path(sys.argv[1], ".diana"), ignore_errors=True)
"""


def run(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_kill_at_any_time_costs_nothing(folder: Path) -> None:
    chance = random.Random(7)
    for _ in range(8):
        with run(folder, COUNT) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(chance.random() / 10)
            process.kill()
        shelf = DcmDir(str(folder), index=True)
        assert count(shelf) == COUNT
        assert len(shelf.find({}, level="series")) == 8
        shelf.close()


def test_processes_that_begin_together_agree(folder: Path) -> None:
    running = [run(folder, COUNT, "once") for _ in range(4)]
    for process in running:
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")


def test_a_child_after_a_fork_has_its_own_connections(folder: Path) -> None:
    script = """
import os, sys
from diana.apis.dcmdir import DcmDir
from tests.contract import samples
shelf = DcmDir(sys.argv[1], index=True)
assert len(shelf.find({}, level="instances")) == 24
child = os.fork()
shelf.put(samples.instance(10 + (child == 0)))
assert len(shelf.find({"PatientID": "GENPID0010" if child else "GENPID0011"})) == 1
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert len(shelf.find({}, level="instances")) == 26
shelf.close()
"""
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


class TestSharing:
    """Threads and endpoints use it at the same time."""

    def test_each_writer_sees_at_once_what_any_has_written(self, folder: Path) -> None:
        shelves = [DcmDir(str(folder), index=True, durable=False) for _ in range(3)]

        def work(number: int) -> None:
            item = samples.instance(100 + number // 4, 0, number % 4)
            shelves[number % 3].put(item)
            ref = Ref.from_tags(item.tags, DicomLevel.INSTANCES)
            for shelf in shelves:
                found = shelf.find(Query(ref.tags(), DicomLevel.INSTANCES))
                assert [one.tags["SOPInstanceUID"] for one in found] == [item.tags["SOPInstanceUID"]]
            if number % 2:
                assert shelves[(number + 1) % 3].delete(ref)
                assert not any(shelf.find(Query(ref.tags(), DicomLevel.INSTANCES)) for shelf in shelves)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(60)))
        assert {count(shelf) for shelf in shelves} == {COUNT + 30}
        for shelf in shelves:
            shelf.close()

    def test_closing_gives_everything_back(self, folder: Path) -> None:
        shelf = DcmDir(str(folder), index=True)
        before = open_files(os.getpid())
        for _ in range(3):
            assert count(shelf) == COUNT
            assert open_files(os.getpid()) > before
            shelf.close()
            assert open_files(os.getpid()) == before

    def test_an_endpoint_that_is_forgotten_gives_everything_back(self, folder: Path) -> None:
        before = open_files(os.getpid())
        for _ in range(3):
            assert count(DcmDir(str(folder), index=True)) == COUNT
        assert open_files(os.getpid()) == before

    def test_a_search_that_is_left_half_way_hinders_nobody(self, folder: Path, indexed: DcmDir) -> None:
        found = indexed.iter_find({}, level="instances")
        next(found)
        indexed.put(samples.instance(50))
        assert count(indexed) == COUNT + 1
        assert len([1, *found]) >= COUNT

    def test_use_index_keeps_it_until_close(self, folder: Path) -> None:
        shelf = DcmDir(str(folder))
        shelf.use_index()
        wait_for(file_of(folder).exists, 60)
        assert shelf.index is True
        assert count(shelf) == COUNT
        shelf.close()
        shelf.close()

    def test_it_stays_when_the_folder_moves(self, folder: Path, tmp_path: Path) -> None:
        shelf = DcmDir(str(folder), index=True)
        assert count(shelf) == COUNT
        shelf.close()
        folder.rename(tmp_path / "moved")
        shelf = DcmDir(str(tmp_path / "moved"), index=True)
        assert count(shelf) == COUNT
        shelf.close()

    def test_a_page_reads_few_rows(self, folder: Path, indexed: DcmDir) -> None:
        assert [len(indexed.find({}, level="instances", limit=5, offset=at)) for at in (0, 20, 24)] == [5, 4, 0]
        uids = [
            one.tags["SOPInstanceUID"]
            for at in range(0, COUNT, 5)
            for one in indexed.find({}, level="instances", limit=5, offset=at)
        ]
        assert len(set(uids)) == COUNT
