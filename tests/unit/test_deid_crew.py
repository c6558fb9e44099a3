"""The processes of a batch: a process that dies costs nothing but the object that killed it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from diana.daemons.deid_crew import work_all
from diana.daemons.deid_work import Bench, Task, add_counts
from diana.deid.key import Key
from diana.deid.recipe import Recipe
from diana.deid.result import Result
from diana.deid.setup import Setup
from diana.exceptions import ConfigError
from diana.utils.blob import Blob
from tests.contract import samples
from tests.fakes.deid_files import CT


class Deadly:
    """An engine that kills its process for some objects and breaks for others; the rest go through as they are."""

    def apply(self, blob: Blob) -> Result:
        data = blob.read()
        if data.startswith(b"kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if data.startswith(b"fault"):
            raise NameError("the name of a patient")
        return Result("done", Blob(samples.file_bytes(samples.dataset())), sop_uid=f"1.2.{data.decode()}")


class DeadlySetup(Setup):
    """A setup that makes such engines."""

    def engine(self, recipe: Recipe | None = None, key: object = None) -> Deadly:
        return Deadly()


class Hopeless(Setup):
    """A setup that makes nothing."""


def bench(folder: Path, setup: Setup) -> Bench:
    return Bench(setup, Recipe(), None, folder / "out", folder / "quarantine")


def tasks(*contents: str) -> list[Task]:
    return [Task(f"item{at}", data=one.encode()) for at, one in enumerate(contents)]


def test_an_object_that_kills_its_process_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    contents = ["kill" if at in (3, 40) else str(at) for at in range(60)]
    found = {one.item: one for one in work_all(bench(tmp_path, DeadlySetup()), tasks(*contents), 2)}
    assert len(found) == 60
    assert {name for name, one in found.items() if one.state == "failed"} == {"item3", "item40"}
    assert found["item3"].reason == "killed"
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 58


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fault_of_the_engine_is_one_failure_without_its_text(tmp_path: Path, jobs: int) -> None:
    found = list(work_all(bench(tmp_path, DeadlySetup()), tasks("1", "fault", "2"), jobs))
    assert sorted(one.state for one in found) == ["done", "done", "failed"]
    (failed,) = [one for one in found if one.state == "failed"]
    assert (failed.reason, "patient" in failed.text) == ("fault", False)


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_no_worker_can_begin_with_is_said_once(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(ConfigError):
        list(work_all(bench(tmp_path, Hopeless(key=str(tmp_path / "absent"))), tasks("1", "2"), jobs))


def test_large_objects_pass_through_the_pipes(tmp_path: Path) -> None:
    large = [Task(f"item{at}", data=str(at).encode().rjust(3_000_000, b"0")) for at in range(12)]
    endpoint_bench = Bench(DeadlySetup(), Recipe(), None, None, tmp_path / "quarantine")
    found = list(work_all(endpoint_bench, large, 2))
    assert len(found) == 12
    assert all(one.blob is not None or one.state == "failed" for one in found)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_counts_of_all_processes_add_up(tmp_path: Path, jobs: int) -> None:
    Key.make().save(tmp_path / "k")
    given = [
        Task(f"item{at}", data=samples.file_bytes(samples.dataset(0, 0, at, SOPClassUID=CT, ConversionType=None)))
        for at in range(30)
    ]
    total: dict[str, Counter[str]] = {}
    setup = Setup(key=str(tmp_path / "k"))
    for one in work_all(Bench(setup, Recipe(), setup.load_key(), tmp_path / "out", tmp_path / "q"), given, jobs):
        assert one.state == "done", one.text
        add_counts(total, one.actions)
    assert total["00100020"] == {"subject": 30}
    assert total["00080050"] == {"empty": 30}


def test_nothing_to_do_ends_at_once(tmp_path: Path) -> None:
    assert list(work_all(bench(tmp_path, DeadlySetup()), [], 3)) == []
