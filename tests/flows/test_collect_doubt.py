"""What an archive does not count, does not list or does not give is never called verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from diana.apis import DcmDir, Memory, Mint, Rad69, Trolley
from diana.daemons.collect_plan import Plan
from diana.daemons.collect_report import CollectReport
from diana.daemons.collector import Collector
from diana.daemons.worklist import rows_of
from diana.exceptions import GatewayRefused, Unsupported
from diana.ledger import Item
from diana.utils.dicom import DicomLevel
from diana.utils.endpoint import Endpoint, ServiceManager
from tests.contract import samples
from tests.fakes.mint_server import MintServer
from tests.fakes.rad69_server import Rad69Server
from tests.fakes.trolley_archive import KINDS, Archive, filled, trolley_of

LOST = samples.uid(1, 2, 2)
ALL = {samples.uid(1, series, n) for series in (1, 2) for n in (1, 2, 3)}


def collected(source: Endpoint, change: Callable[[], Any] = bool, **options: Any) -> tuple[Plan, Item, set[str], str]:
    """Plan, let ``change`` happen, run; return the plan, how the study ended, what arrived, and the report."""
    dest, services = Memory(name="dest"), ServiceManager()
    services.hold("source", source)
    services.hold("dest", dest)
    with Collector_() as collector:
        plan = collector.plan("p", source, dest, rows_of(["GEN000000"]), tries=2, **options)
        change()
        collector.execute(plan, services)
        outcomes = collector.outcomes("p")
        page = CollectReport(plan, outcomes).html()
    return plan, next(iter(outcomes.values())), {one.ref.instance for one in dest.find({}, "instances")}, page


@contextmanager
def Collector_() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diana.daemons.collect_task.Backoff.delay", lambda *_: 0.001)


@contextmanager
def trolley(kind: type[Archive], lost: set[str], **options: Any) -> Iterator[Endpoint]:
    archive = filled(kind)
    archive.lacking = lost
    yield trolley_of(archive, **options)


@contextmanager
def rad69(lost: set[str]) -> Iterator[Endpoint]:
    with MintServer() as finds, Rad69Server() as fetches:
        for one in samples.instances(1, 2, 3):
            finds.add(one)
            if one.ref.instance not in lost:
                fetches.add(one)
        yield Trolley(Mint(url=finds.url), Rad69(url=fetches.url))


SOURCES: dict[str, Callable[[set[str]], Any]] = {
    **{f"trolley of {kind.__name__}": lambda lost, kind=kind: trolley(kind, lost) for kind in KINDS},
    **{
        f"trolley of {kind.__name__} without a list": lambda lost, kind=kind: trolley(kind, lost, list_first=False)
        for kind in KINDS
    },
    "MINT and RAD-69": rad69,
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_what_a_source_keeps_back_is_listed_and_the_rest_is_there(make: Callable[[set[str]], Any]) -> None:
    with make({LOST}) as source:
        _, item, arrived, page = collected(source)
    assert (item.state, item.outcome["missing"], arrived) == ("incomplete", [LOST], ALL - {LOST})
    assert item.outcome["expected"] == 6
    assert LOST in page


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_a_source_that_gives_nothing_of_what_it_lists_is_not_verified(make: Callable[[set[str]], Any]) -> None:
    with make(ALL) as source:
        _, item, arrived, _ = collected(source)
    assert item.state in ("incomplete", "failed")
    assert (set(item.outcome["missing"]), arrived) == (ALL, set())
    assert item.reason


def folder(path: Path, **options: Any) -> DcmDir:
    made = DcmDir(path=str(path), durable=False, **options)
    for one in samples.instances(1, 2, 3):
        made.put(one)
    return made


def test_a_file_that_is_gone_after_the_plan_is_missed(tmp_path: Path) -> None:
    source = folder(tmp_path / "in")
    lost = source.find({"SOPInstanceUID": LOST}, "instances")[0]
    _, item, arrived, _ = collected(source, lambda: source.delete(lost))
    assert (item.state, arrived) == ("incomplete", ALL - {LOST})
    assert item.reason == "the source counts 6 instances and lists 5"


def test_a_file_that_is_cut_is_rejected_and_named(tmp_path: Path) -> None:
    source = folder(tmp_path / "in")
    (path,) = [one for one in (tmp_path / "in").rglob("*") if one.is_file() and LOST.encode() in one.read_bytes()]
    path.write_bytes(path.read_bytes()[:-40])
    _, item, arrived, page = collected(source)
    assert (item.state, list(item.outcome["rejected"]), arrived) == ("incomplete", [LOST], ALL - {LOST})
    assert LOST in page
    assert "<b>1</b>instances held back" in page


@define(eq=False)
class Shy(Archive):
    """An archive that answers no question about instances: ``how`` it does so."""

    how: str = ""
    count: str = ""

    def _find(self, query: Any) -> Any:
        if query.level == DicomLevel.INSTANCES:
            if self.how == "unsupported":
                raise Unsupported("no image level")
            if self.how == "refused":
                raise GatewayRefused("status A900")
            return
        for one in super()._find(query):
            one.tags.pop("NumberOfStudyRelatedInstances", None)
            if self.count:
                one.tags["NumberOfStudyRelatedInstances"] = self.count
            yield one


def shy(how: str, count: str = "") -> Shy:
    archive = Shy(how=how, count=count)
    for one in samples.instances(1, 2, 3):
        archive.put(one)
    return archive


@pytest.mark.parametrize("how", ["unsupported", "refused", "nothing"])
@pytest.mark.parametrize("count", ["", "none", "6"])
def test_an_archive_that_lists_nothing_ends_unverifiable_with_the_reason(how: str, count: str) -> None:
    plan, item, arrived, page = collected(shy(how, count))
    assert plan.counts() == {"ready": 1}
    assert plan.uncounted == (count != "6")
    assert (item.state, arrived) == ("unverifiable", ALL)
    assert "list" in item.reason
    assert "unverifiable" in page


@pytest.mark.parametrize("how", ["unsupported", "refused", "nothing"])
def test_an_archive_that_counts_more_than_it_gives_ends_incomplete_though_it_lists_nothing(how: str) -> None:
    _, item, arrived, _ = collected(shy(how, "8"))
    assert (item.state, arrived) == ("incomplete", ALL)
    assert item.reason == "the source counts 8 instances and gave 6"


def test_a_study_that_became_another_patients_is_not_verified_with_nothing() -> None:
    source = filled()

    def change() -> None:
        for one in source.find({"StudyInstanceUID": samples.uid(1)}, "instances"):
            source.delete(one)
        for n in range(3):
            source.put(samples.instance(0, 0, n, PatientID="OTHER"))

    _, item, arrived, _ = collected(source, change)
    assert (item.state, arrived) == ("failed", set())
