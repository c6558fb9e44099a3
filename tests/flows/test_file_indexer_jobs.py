"""A tree that is indexed and uploaded in items of a job is what one process makes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from diana.apis import Memory
from diana.daemons.file_indexer import FileIndexer
from diana.daemons.file_indexer_task import IndexJobs, make_task
from diana.daemons.runner import Later, Outcome, Threads
from diana.exceptions import ConfigError
from diana.ledger import Claim, Store, Work
from diana.utils.endpoint import ServiceManager
from tests.fakes.make import instance
from tests.flows.test_file_indexer import age, contents, fill, made_registry  # noqa: F401  # a fixture


@pytest.fixture
def jobs(registry: Any) -> Iterator[IndexJobs]:
    """Index and upload by threads of this process, as workers do."""
    store, services = Store(), ServiceManager()
    services.hold("registry", registry)
    services.hold("dest", Memory(name="dest"))
    yield IndexJobs(Work(store), Threads(Work(store), 2, services=services), services)
    store.close()


def test_a_job_makes_what_one_process_makes(tmp_path: Path, registry: Any, jobs: IndexJobs) -> None:
    folder = fill(tmp_path / "tree")
    (folder / "bad.dcm").write_text("no")
    age(folder)
    assert jobs.index_path(folder, "registry").asdict() == {
        "checked": 7,
        "registered": 6,
        "unchanged": 0,
        "removed": 0,
        "bad": 1,
    }
    assert contents(folder, registry) == {
        f"A{n}": {str(folder / f"s{n}" / f"{k}.dcm") for k in (1, 2)} for n in (1, 2, 3)
    }
    assert FileIndexer().index_path(folder, registry).unchanged == 7
    (folder / "s1" / "1.dcm").unlink()
    (folder / "s2" / "new.dcm").write_bytes(instance(1, AccessionNumber="NEW", size=4).file or b"")
    age(folder)
    report = jobs.index_path(folder, "registry")
    assert (report.registered, report.removed, report.unchanged) == (1, 1, 6)
    assert [job.name for job in jobs.work.jobs()] == []


def test_a_job_uploads_and_names_what_is_gone(tmp_path: Path, registry: Any, jobs: IndexJobs) -> None:
    folder = fill(tmp_path / "tree")
    jobs.index_path(folder, "registry")
    assert jobs.upload_path(folder, "registry", "dest", ["A2"]).uploaded == 2
    (folder / "s3" / "1.dcm").unlink()
    report = jobs.upload_path(folder, "registry", "dest")
    assert (report.uploaded, list(report.failed)) == (5, [str(folder / "s3" / "1.dcm")])


def test_an_upload_that_was_stopped_does_the_rest(tmp_path: Path, registry: Any, jobs: IndexJobs) -> None:
    folder, stop = fill(tmp_path / "tree", 4, 60), threading.Event()
    jobs.index_path(folder, "registry")
    stop.set()
    assert jobs.upload_path(folder, "registry", "dest", stop=stop).uploaded == 0
    (job,) = jobs.work.jobs()
    (claim,) = jobs.work.claim(job.name, "another")
    assert jobs.work.finish(claim, "done", {"uploaded": len(claim.payload["files"]), "failed": {}})
    assert jobs.upload_path(folder, "registry", "dest").uploaded == 240
    there = jobs.services.get("dest")
    assert sum(1 for _ in there.find({}, "instances")) == 240 - len(claim.payload["files"])
    assert jobs.work.jobs() == []


def test_a_worker_without_the_folder_takes_nothing_out(tmp_path: Path, registry: Any, jobs: IndexJobs) -> None:
    folder = fill(tmp_path / "tree")
    jobs.index_path(folder, "registry")
    before = contents(folder, registry)
    spec = {"base": str(folder), "registry": "registry", "prefix": FileIndexer.prefix_for_path(folder), "pattern": "*"}
    folder.rename(tmp_path / "away")
    task = make_task(spec, jobs.services, jobs.work.store)
    claim = Claim(1, "job", "key", {"folders": ["s1", "s2"]}, 1, 1)
    assert isinstance(task.do(claim, lambda: True), Later)
    last = task.do(evolve(claim, attempt=99), lambda: True)
    assert isinstance(last, Outcome)
    assert last.state == "failed"
    folder.mkdir()
    assert isinstance(task.do(claim, lambda: True), Outcome)
    assert contents(folder, registry) == before


def test_a_worker_that_has_lost_its_item_saves_nothing(tmp_path: Path, registry: Any, jobs: IndexJobs) -> None:
    folder = fill(tmp_path / "tree")
    spec = {"base": str(folder), "registry": "registry", "prefix": FileIndexer.prefix_for_path(folder), "pattern": "*"}
    task = make_task(spec, jobs.services, jobs.work.store)
    assert isinstance(task.do(Claim(1, "job", "key", {"folders": ["s1"]}, 1, 1), lambda: False), Later)
    assert contents(folder, registry) == {}


@pytest.mark.parametrize("spec", [{}, {"base": "/", "registry": "none"}, {"base": "/", "registry": "dest"}])
def test_a_job_that_names_no_registry_is_refused(spec: dict[str, str], jobs: IndexJobs) -> None:
    with pytest.raises(ConfigError):
        make_task(spec, jobs.services, jobs.work.store)
