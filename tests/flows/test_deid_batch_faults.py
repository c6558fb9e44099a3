"""What goes wrong around a batch de-identification is said with its reason, and the same under any number of jobs."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from diana.daemons import deid_work
from diana.daemons.deid_crew import work_all
from diana.daemons.deid_work import Bench, Task
from diana.deid.key import Key
from diana.deid.recipe import Recipe
from diana.deid.registry import Registry
from diana.deid.result import Quarantined, Result
from diana.deid.setup import Setup
from diana.utils.blob import Blob
from tests.contract import samples
from tests.flows.test_deid_cli import Deid, ct, deid, files, site
from tests.planted import PLANTED_IDS

__all__ = ["deid", "site"]


@pytest.mark.parametrize("out", ["in/out", "in", "in/a/b/../c", "link/out", "down", "path:in/out"])
def test_an_output_inside_the_input_is_a_usage_error(site: Path, deid: Deid, out: str) -> None:
    (site / "link").symlink_to("in")
    (site / "in" / "held").mkdir()
    (site / "down").symlink_to("in/held")
    before = sorted(files(site))
    for source in ("in", str(site / "in"), "link", "in/../link"):
        code, _, err = deid(source, out, "--key", "k")
        assert code == 2
        assert "input" in err
    assert sorted(files(site)) == before


@pytest.mark.parametrize("out", ["loop", "loop/out", "nowhere", "k", "k/out"])
def test_an_output_that_can_be_no_folder_is_a_usage_error(site: Path, deid: Deid, out: str) -> None:
    (site / "loop").symlink_to("loop")
    (site / "nowhere").symlink_to("absent")
    code, _, err = deid("in", out, "--key", "k")
    assert code == 2
    assert "no folder" in err


def test_loops_and_links_to_folders_are_each_one_line(site: Path, deid: Deid) -> None:
    folder = site / "in" / PLANTED_IDS[0]
    (folder / "up").symlink_to("..")
    (folder / "self").symlink_to("self")
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    (site / "elsewhere").mkdir()
    (folder / "away").symlink_to(site / "elsewhere")
    code, told, err = deid("in", "out", "--key", "k")
    assert (code, told["done"]) == (3, 6)
    assert told["reasons"] == {"refused: unreadable": 5}
    assert len([line for line in err.splitlines() if ": item " in line]) == 5


def twins(folder: Path, count: int) -> dict[str, bytes]:
    """Write pairs of different objects with one UID, the second of a pair far behind; return the first ones."""
    firsts = {}
    for number in range(count):
        for pair in range(2):
            tags: dict[str, Any] = {"Rows": 8} if pair else {"PixelData": bytes(128)}
            data = ct(number, 0, 0, InstanceNumber=pair + 1, **tags)
            (folder / f"{pair}-{number:02}.dcm").write_bytes(data)
            if not pair:
                firsts[f"{number:02}"] = data
    return firsts


@pytest.mark.parametrize("count", [3, 5, 20])
def test_the_first_path_wins_under_any_number_of_jobs(site: Path, deid: Deid, count: int) -> None:
    (site / "twins").mkdir()
    firsts = twins(site / "twins", count)
    found = {}
    for jobs in ("1", "2", "4"):
        custody = f"c{jobs}"
        code, told, _ = deid("twins", f"out{jobs}", "--key", "k", "--jobs", jobs, "--custody", custody)
        assert (code, told["done"], told["reasons"]) == (3, count, {"quarantined: conflict": count})
        kept = files(site / custody / "quarantine" / "conflict").values()
        assert not set(kept) & set(firsts.values())
        found[jobs] = files(site / f"out{jobs}")
    assert found["1"] == found["2"] == found["4"]


class Same:
    """An engine that gives every object one UID."""

    def apply(self, blob: Blob) -> Result:
        return Result("done", Blob(blob.read()), study_uid="1.2", series_uid="1.3", sop_uid="1.4")


class SameSetup(Setup):
    """A setup that makes such engines."""

    def engine(self, recipe: Recipe | None = None, key: object = None) -> Same:
        return Same()


def test_objects_of_one_uid_are_worked_on_in_their_order(tmp_path: Path) -> None:
    data = samples.file_bytes(samples.dataset())
    (tmp_path / "0.dcm").write_bytes(data)
    bench = Bench(SameSetup(), Recipe(), None, tmp_path / "out", tmp_path / "q", False)
    tasks = [Task(f"item{at:02}", path=str(tmp_path / "0.dcm")) for at in range(40)]
    order = [one.item for one in work_all(bench, tasks, 3)]
    assert order == sorted(order)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["_write", "_copy"])
def test_a_full_disk_is_said_to_be_full(site: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = deid_work.whole_file

    def written(path: Path, **options: Any) -> Any:
        is_out = "quarantine" not in path.parts
        return full() if is_out == (name == "_write") else whole(path, **options)

    monkeypatch.setattr(deid_work, "whole_file", written)
    (site / "in" / "other.dcm").write_bytes(ct(0, 0, 0, InstanceNumber=99))
    code, told, err = deid("in", "out", "--key", "k")
    assert code == 3
    assert told["reasons"] == {"failed: unwritable": 7 if name == "_write" else 1}
    assert f"unwritable: {os.strerror(errno.ENOSPC)}" in err


def test_a_folder_that_takes_nothing_is_unwritable_not_unreadable(site: Path, deid: Deid) -> None:
    (site / "out").mkdir()
    deid("in", "out", "--key", "k")
    for study in (site / "out").iterdir():
        for one in sorted(study.rglob("*"), reverse=True):
            one.rmdir() if one.is_dir() else one.unlink()
        study.rmdir()
        study.write_text("a file where a folder belongs")
    code, told, err = deid("in", "out", "--key", "k")
    assert (code, told["reasons"]) == (3, {"failed: unwritable": 6})
    assert os.strerror(errno.ENOTDIR) in err or os.strerror(errno.EEXIST) in err


@pytest.mark.parametrize("mode", ["mint", "quarantine"])
def test_the_registry_says_why_in_a_sentence(tmp_path: Path, mode: str) -> None:
    with Registry(tmp_path / "r.sqlite", Key.ephemeral(), mode=mode) as registry:
        asked = "PID-1"
        if mode == "mint":
            asked = registry.subject("", "PID-1").pseudonym
        with pytest.raises(Quarantined) as caught:
            registry.subject("", asked)
        told = [caught.value]
        if mode == "mint":
            registry.subject("", "PID-2")
            for pair in ((("", "PID-2"), ("", "PID-1")), (("", "PID-3"), ("", "PID-4"))):
                with pytest.raises(Quarantined) as caught:
                    registry.alias(*pair)
                told.append(caught.value)
    for error in told:
        assert len(str(error).split()) > 4
        assert str(error) != error.reason
        assert "PID" not in str(error)
