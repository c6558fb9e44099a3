"""The registry of files agrees with the folder, whatever happens to the folder or to the indexer."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diana.apis import Memory, Redis
from diana.daemons.file_indexer import FileIndexer, SqliteRegistry, index_file, put_inst
from diana.daemons.file_registry import as_registry
from diana.daemons.file_run import Run
from diana.daemons.file_tree import walk
from diana.exceptions import ConfigError, InvalidItem, ItemNotFound, StateError
from tests.fakes.make import instance
from tests.helpers import REPO, wait_for


def fill(folder: Path, studies: int = 3, instances: int = 2) -> Path:
    for number in range(1, studies + 1):
        where = folder / f"s{number}"
        where.mkdir(parents=True, exist_ok=True)
        for at in range(1, instances + 1):
            made = instance(at, study=f"1.2.{number}", AccessionNumber=f"A{number}", size=4)
            (where / f"{at}.dcm").write_bytes(made.file or b"")
    age(folder)
    return folder


def age(folder: Path) -> None:
    """Wait until a later change of any file would show in its times."""
    newest = max(one.stat().st_ctime_ns for one in folder.rglob("*"))
    wait_for(lambda: time.time_ns() - newest > 200_000_000, timeout=5, what="the clock of the files")


@pytest.fixture(name="registry", params=["sqlite", "redis"])
def made_registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "sqlite":
        found: Any = SqliteRegistry(tmp_path / "registry" / "files.sqlite")
    else:
        server = request.getfixturevalue("redis_server")
        found = Redis(host=server.host, port=server.port, password=server.password)
        found.clear(confirm=True)
    yield found
    found.close()


def contents(folder: Path, registry: Any) -> dict[str, set[str]]:
    found = registry.files if hasattr(registry, "files") and not hasattr(registry, "folders") else registry
    prefix = FileIndexer.prefix_for_path(folder)
    return {key: found.collected_items(prefix, key) for key in FileIndexer.items_on_path(folder, registry)}


def truth(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.dcm"):
        found.setdefault(index_file(path), set()).add(str(path))
    return found


@pytest.mark.parametrize("pool", [0, 2])
def test_a_tree_is_registered_and_the_next_run_reads_nothing(tmp_path: Path, registry: Any, pool: int) -> None:
    folder, indexer = fill(tmp_path / "tree"), FileIndexer(pool)
    first = indexer.index_path(folder, registry)
    assert first.asdict() == {"checked": 6, "registered": 6, "unchanged": 0, "removed": 0, "bad": 0}
    assert contents(folder, registry) == truth(folder)
    second = indexer.index_path(folder, registry)
    assert (second.unchanged, second.registered) == (6, 0)
    indexer.close()


def test_what_was_changed_moved_or_removed_is_followed(tmp_path: Path, registry: Any) -> None:
    folder, indexer = fill(tmp_path / "tree"), FileIndexer()
    indexer.index_path(folder, registry)
    (folder / "s1" / "1.dcm").rename(folder / "s2" / "moved.dcm")
    (folder / "s3" / "1.dcm").write_bytes(instance(1, study="1.2.3", AccessionNumber="OTHER", size=4).file or b"")
    (folder / "s3" / "2.dcm").unlink()
    report = indexer.index_path(folder, registry)
    assert contents(folder, registry) == truth(folder)
    assert (report.registered, report.removed) == (2, 2)
    for path in (folder / "s2").iterdir():
        path.unlink()
    (folder / "s2").rmdir()
    indexer.index_path(folder, registry)
    assert contents(folder, registry) == truth(folder)


def test_a_file_just_written_is_read_again_the_next_time(tmp_path: Path) -> None:
    folder, indexer, registry = fill(tmp_path / "tree", 1, 1), FileIndexer(), SqliteRegistry(tmp_path / "f.sqlite")
    (folder / "s1" / "1.dcm").write_bytes(instance(1, AccessionNumber="AA", size=4).file or b"")
    indexer.index_path(folder, registry)
    (folder / "s1" / "1.dcm").write_bytes(instance(1, AccessionNumber="BB", size=4).file or b"")
    indexer.index_path(folder, registry)
    assert FileIndexer.items_on_path(folder, registry) == ["BB"]
    registry.close()


def test_a_file_from_the_future_is_read_once(tmp_path: Path, registry: Any) -> None:
    folder, indexer = fill(tmp_path / "tree"), FileIndexer()
    os.utime(folder / "s1" / "1.dcm", (4e9, 4e9))
    age(folder)
    indexer.index_path(folder, registry)
    assert indexer.index_path(folder, registry).unchanged == 6


def test_bad_files_are_named_and_cost_nothing(tmp_path: Path, registry: Any) -> None:
    folder, indexer = fill(tmp_path / "tree"), FileIndexer()
    whole = (folder / "s1" / "1.dcm").read_bytes()
    bad = {"text.dcm": b"text", "empty.dcm": b"", "cut.dcm": whole[:200]}
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "fifo.dcm")
    (folder / "link.dcm").symlink_to(folder / "s1" / "1.dcm")
    age(folder)
    report = indexer.index_path(folder, registry)
    assert {Path(name).name for name in report.bad} == set(bad)
    assert report.registered == 6
    again = indexer.index_path(folder, registry)
    assert (again.unchanged, again.bad_count) == (9, 0)


def test_the_storage_of_an_orthanc_is_entered_two_levels_deep(tmp_path: Path, registry: Any) -> None:
    data = instance(1, AccessionNumber="A1", size=4).file or b""
    for place in ("ab/cd/one", "ab/cd/ef/two", "ab/three", "zz/cd/four"):
        path = tmp_path / "tree" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    FileIndexer().index_path(tmp_path / "tree", registry, "*", "ORTHANC")
    assert contents(tmp_path / "tree", registry) == {"A1": {str(tmp_path / "tree/ab/cd/one")}}


def test_collections_are_uploaded_and_read_back(tmp_path: Path, registry: Any) -> None:
    folder, indexer, dest = fill(tmp_path / "tree"), FileIndexer(), Memory(name="dest")
    indexer.index_path(folder, registry)
    assert indexer.upload_collection("A2", folder, registry, dest).uploaded == 2
    assert [one.tags["AccessionNumber"] for one in dest.find({}, "studies")] == ["A2"]
    (folder / "s3" / "1.dcm").unlink()
    report = indexer.upload_path(folder, registry, dest)
    assert (report.uploaded, len(report.failed)) == (5, 1)
    assert "gone" in next(iter(report.failed.values()))


def test_single_files_are_indexed_and_put(tmp_path: Path, registry: Any) -> None:
    folder = fill(tmp_path / "tree", 1, 1)
    assert index_file("s1/1.dcm", folder, registry) == "A1"
    assert FileIndexer.items_on_path(folder, registry) == ["A1"]
    assert put_inst(folder / "s1" / "1.dcm", Memory())
    (folder / "x.dcm").write_text("no")
    with pytest.raises(InvalidItem):
        index_file(folder / "x.dcm")
    for verb in (index_file, lambda path: put_inst(path, Memory())):
        with pytest.raises(ItemNotFound):
            verb(folder / "none.dcm")


def test_prefixes_are_those_that_other_programs_expect() -> None:
    assert FileIndexer.prefix_for_path("/data") == FileIndexer.prefix_for_path("/data/") == "4caa-"


def test_a_wrong_folder_style_or_registry_is_refused(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "f.sqlite")
    with pytest.raises(ConfigError):
        FileIndexer().index_path(tmp_path / "none", registry)
    with pytest.raises(ConfigError):
        FileIndexer().index_path(tmp_path, registry, recurse_style="TREE")
    with pytest.raises(ConfigError):
        FileIndexer().index_path(tmp_path, object())
    (tmp_path / "other.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(StateError):
        FileIndexer().index_path(tmp_path, SqliteRegistry(tmp_path / "other.sqlite"))


def test_a_file_replaced_in_place_is_seen_though_size_and_time_are_those_of_before(
    tmp_path: Path, registry: Any
) -> None:
    folder, indexer = fill(tmp_path / "tree"), FileIndexer()
    indexer.index_path(folder, registry)
    path = folder / "s2" / "1.dcm"
    before = path.stat()
    with path.open("r+b") as out:
        out.write(instance(1, study="1.2.2", AccessionNumber="X2", size=4).file or b"")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert indexer.index_path(folder, registry).registered == 1
    assert contents(folder, registry) == truth(folder)


def test_what_helpers_tell_of_folders_is_what_they_are(tmp_path: Path, registry: Any) -> None:
    folder, indexer = fill(tmp_path / "tree", 150, 1), FileIndexer()
    indexer.index_path(folder, registry)
    known = {path: seen.digest for path, seen in walk(str(folder), "*.dcm") if seen is not None}
    for number in (1, 75, 150):
        (folder / f"s{number}" / "1.dcm").write_bytes(instance(1, AccessionNumber=f"N{number}", size=4).file or b"")
        (folder / f"s{number}" / "new.dcm").write_bytes(instance(2, AccessionNumber=f"N{number}", size=4).file or b"")
    for helpers in (0, 1, 3):
        found = {path: seen for path, seen in walk(str(folder), "*.dcm", known=known, helpers=helpers) if seen}
        assert {path for path in found if found[path].digest != known[path]} == {
            str(folder / f"s{number}") for number in (1, 75, 150)
        }
        assert sum(one.number for one in found.values()) == 153
    report = indexer.index_path(folder, registry)
    assert (report.checked, report.registered, report.unchanged) == (153, 6, 147)
    assert contents(folder, registry) == truth(folder)


def test_trees_with_the_same_prefix_leave_each_other_alone(tmp_path: Path, registry: Any) -> None:
    one, other = fill(tmp_path / "one", 2), fill(tmp_path / "other", 3)
    prefix = FileIndexer.prefix_for_path(one)
    Run(as_registry(registry), prefix, str(one)).everything()
    report = Run(as_registry(registry), prefix, str(other)).everything()
    assert report.removed == 0
    assert len(as_registry(registry).collected_items(prefix, "A1")) == 4


def test_relative_paths_name_the_tree_where_they_are(
    tmp_path: Path, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "tree")
    monkeypatch.chdir(tmp_path)
    FileIndexer().index_path("tree", registry)
    assert FileIndexer.items_on_path(folder, registry) == FileIndexer.items_on_path("tree", registry) != []


def cli(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    services = folder / "services.yml"
    command = [sys.executable, "-m", "diana_cli", "--json", "--state", str(folder / "state")]
    command += [*(["-s", str(services)] if services.exists() else []), "index", *arguments]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(run: subprocess.Popen[str]) -> tuple[int, list[Any]]:
    out, _ = run.communicate(timeout=120)
    return run.returncode, [json.loads(line) for line in out.splitlines()]


def test_an_indexer_that_is_killed_again_and_again_ends_as_a_clean_run(tmp_path: Path, registry: Any) -> None:
    folder, chance = fill(tmp_path / "tree", 60, 25), random.Random(2)
    options = [str(folder), "--jobs", "1"]
    if isinstance(registry, Redis):
        place = f"host: {registry.host}, port: {registry.port}, password: {registry.password}"
        (tmp_path / "services.yml").write_text(f"files: {{ctype: Redis, {place}}}")
        options += ["-R", "files"]
    for _ in range(4):
        run = cli(tmp_path, *options)
        time.sleep(0.3 + chance.random() * 0.4)
        run.kill()
        run.communicate()
    code, (told,) = ended(cli(tmp_path, *options))
    assert (code, told["checked"]) == (0, 1500)
    state = tmp_path / "state" / "files.sqlite"
    killed = registry if isinstance(registry, Redis) else SqliteRegistry(state)
    clean = SqliteRegistry(tmp_path / "clean.sqlite")
    FileIndexer().index_path(folder, clean, "*")
    assert contents(folder, killed) == contents(folder, clean)
    assert as_registry(killed).folders(FileIndexer.prefix_for_path(folder)) == clean.folders(
        FileIndexer.prefix_for_path(folder)
    )
    killed.close()
    clean.close()


def test_cli_lists_and_uploads(tmp_path: Path) -> None:
    folder = fill(tmp_path / "tree")
    (folder / "bad.dcm").write_text("no")
    assert ended(cli(tmp_path, str(folder), "--jobs", "0"))[0] == 3
    assert ended(cli(tmp_path, "get", str(folder)))[1] == [{"collection": f"A{n}"} for n in (1, 2, 3)]
    assert ended(cli(tmp_path, "get", str(folder), "A2"))[1][0] == {"file": str(folder / "s2" / "1.dcm")}
    assert ended(cli(tmp_path, "upload", str(folder), f"path:{tmp_path / 'out'}", "A1", "A2")) == (
        0,
        [{"uploaded": 4, "failed": 0}],
    )


def test_nothing_of_a_folder_that_cannot_be_read_is_forgotten(
    tmp_path: Path, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, indexer = fill(tmp_path / "tree"), FileIndexer()
    indexer.index_path(folder, registry)
    real: Callable[..., Any] = os.scandir

    def refuse(path: Any) -> Any:
        if os.fsdecode(path).endswith("s2"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("diana.daemons.file_walk.os.scandir", refuse)
    indexer.index_path(folder, registry)
    monkeypatch.undo()
    assert "A2" in FileIndexer.items_on_path(folder, registry)
