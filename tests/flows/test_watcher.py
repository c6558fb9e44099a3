"""The Watcher works every event at least once, whatever fails, and stops when told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from diana.apis import Memory
from diana.daemons.rules import Route, backtest
from diana.daemons.steps import make_step
from diana.dixel import Dixel
from diana.exceptions import ConfigError, GatewayConnectionError, GatewayRefused
from diana.ledger import Journal, Store
from diana.utils.dicom import DicomEventType, Query
from diana.utils.endpoint import Event, Trigger, Watcher
from diana.utils.endpoint.circuit import Backoff
from tests.fakes.make import instance
from tests.fakes.memory_source import ObservableMemory
from tests.helpers import REPO, wait_for

QUICK = Backoff(base=0.01, cap=0.05)


@define(eq=False)
class Moody(Memory):
    """A Memory whose puts fail as long as ``trouble`` says, and are counted."""

    name: str = field(default="moody", kw_only=True)
    trouble: Callable[[Dixel], Exception | None] = field(default=lambda dixel: None, repr=False)
    tries: int = field(init=False, default=0)

    def _put(self, dixel: Dixel) -> str:
        self.tries += 1
        error = self.trouble(dixel)
        if error is not None:
            raise error
        return super()._put(dixel)


def away(_: Dixel) -> Exception:
    return GatewayConnectionError("moody: away")


@pytest.fixture
def source() -> ObservableMemory:
    return ObservableMemory()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(Store(tmp_path / "state"))


def route(
    source: ObservableMemory, *to: Memory, event: DicomEventType = DicomEventType.INSTANCE_ADDED, **kw: Any
) -> Route:
    return Route("r", source, event, list(to), **kw)


def watcher(journal: Journal, *routes: Route, **options: Any) -> Watcher:
    made = Watcher(0.05, journal=journal, backoff=QUICK, **options)
    for one in routes:
        for trigger in one.triggers(journal.receipts):
            made.add_trigger(trigger)
    return made


def run_until_idle(journal: Journal, *routes: Route, **options: Any) -> Journal:
    """Run to the end of the work, and open the ledger again."""
    path = journal.store.path
    watcher(journal, *routes, until_idle=True, **options).run()
    return Journal(Store(path))


@pytest.fixture
def in_thread() -> Iterator[Callable[[Watcher], Watcher]]:
    started: list[tuple[Watcher, threading.Thread]] = []

    def start(made: Watcher) -> Watcher:
        thread = threading.Thread(target=made.run)
        thread.start()
        started.append((made, thread))
        return made

    yield start
    for made, thread in started:
        made.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_everything_that_appears_arrives_with_a_receipt(source: ObservableMemory, journal: Journal) -> None:
    dest = Memory(name="dest")
    for number in range(30):
        source.put(instance(number, study=f"1.2.{number % 3}"))
    after = run_until_idle(journal, route(source, dest))
    assert len(dest.find({}, "instances")) == 30
    assert sorted(one["verified"] for one in after.receipts.list()) == [10, 10, 10]
    assert {one["state"] for one in after.receipts.list()} == {"verified"}


def test_a_status_file_tells_that_the_watcher_lives(source: ObservableMemory, journal: Journal) -> None:
    source.put(instance(1))
    path = journal.store.path
    run_until_idle(journal, route(source, Memory(name="dest")))
    assert path is not None
    told = json.loads((path.parent / "status.json").read_text())
    assert told["pid"] == os.getpid()
    assert told["down"] == []


def test_a_restart_does_only_the_rest(source: ObservableMemory, journal: Journal) -> None:
    dest = Moody()
    source.put(instance(1))
    after = run_until_idle(journal, route(source, dest))
    source.put(instance(2))
    run_until_idle(after, route(source, dest))
    assert dest.tries == 2


def test_one_bad_item_is_dead_with_its_reason_and_the_others_go_on(source: ObservableMemory, journal: Journal) -> None:
    def refuse_two(dixel: Dixel) -> Exception | None:
        return GatewayRefused("moody: not wanted", 409) if dixel.tags["InstanceNumber"] == "2" else None

    dest = Moody(trouble=refuse_two)
    for number in range(5):
        source.put(instance(number))
    after = run_until_idle(journal, route(source, dest))
    assert len(dest.find({}, "instances")) == 4
    assert [one["note"] for one in after.dead()] == ["GatewayRefused: moody: not wanted"]
    assert dest.tries == 5
    receipt = after.receipts.list()[0]
    assert (receipt["state"], list(receipt["rejected"])) == ("incomplete", ["1.2.3.1.2"])


def test_a_moment_of_trouble_is_tried_again(source: ObservableMemory, journal: Journal) -> None:
    failures = iter(range(3))
    dest = Moody(
        trouble=lambda dixel: GatewayConnectionError("moody: busy", 503) if next(failures, None) is not None else None
    )
    source.put(instance(1))
    after = run_until_idle(journal, route(source, dest))
    assert after.counts() == {"r:moody": {"done": 1}}


def test_a_destination_that_is_down_costs_no_attempts_and_few_probes(
    source: ObservableMemory, journal: Journal, in_thread: Callable[[Watcher], Watcher]
) -> None:
    dest, well = Moody(trouble=away), Memory(name="well")
    made = watcher(journal, route(source, dest, well), max_attempts=6)
    for number in range(60):
        source.put(instance(number))
    in_thread(made)
    wait_for(lambda: len(well.find({}, "instances")) == 60, what="the destination that is up")
    wait_for(lambda: "moody" in made.status()["down"], what="the circuit to open")
    before, start = dest.tries, time.monotonic()
    wait_for(lambda: time.monotonic() - start > 1.5, what="probes")
    assert dest.tries - before <= 6
    assert made.status()["deliveries"]["r:moody"].get("dead") is None
    dest.trouble = lambda dixel: None
    wait_for(lambda: len(dest.find({}, "instances")) == 60, what="the backlog")
    assert made.status()["down"] == []


def test_a_source_that_cannot_be_asked_is_asked_again(source: ObservableMemory, journal: Journal) -> None:
    source.trouble = [GatewayConnectionError("source: away"), RuntimeError("a bug")]
    source.put(instance(1))
    after = run_until_idle(journal, route(source, Memory(name="dest")))
    assert after.counts() == {"r:dest": {"done": 1}}


def test_an_action_that_raises_anything_ends_dead_and_nothing_else_stops(
    source: ObservableMemory, journal: Journal
) -> None:
    def action(data: object) -> None:
        raise ZeroDivisionError

    path = journal.store.path
    made = watcher(journal, route(source, Memory(name="dest")), until_idle=True)
    made.add_trigger(Trigger(DicomEventType.INSTANCE_ADDED, source, action, name="bad"))
    source.put(instance(1))
    made.run()
    after = Journal(Store(path))
    assert after.counts() == {"r:dest": {"done": 1}, "bad": {"dead": 1}}
    assert after.dead()[0]["note"].startswith("ZeroDivisionError in test_watcher.py:")


def test_fire_calls_matching_actions_with_the_data_only(source: ObservableMemory) -> None:
    seen: list[Any] = []
    made = Watcher()
    made.add_trigger(Trigger(DicomEventType.STUDY_ADDED, source, seen.append, name="a"))
    made.add_trigger(Trigger(DicomEventType.SERIES_ADDED, source, seen.append, name="b"))
    made.fire(Event(DicomEventType.STUDY_ADDED, {"oid": "x"}, source_id=source.source_id))
    made.fire(Event(DicomEventType.STUDY_ADDED, {"oid": "y"}, source_id="another"))
    assert seen == [{"oid": "x"}]


def test_two_triggers_of_one_name_are_refused(source: ObservableMemory) -> None:
    made = Watcher()
    made.add_trigger(Trigger(DicomEventType.STUDY_ADDED, source, print, name="a"))
    with pytest.raises(ConfigError):
        made.add_trigger(Trigger(DicomEventType.STUDY_ADDED, source, print, name="a"))


def test_a_study_is_sent_whole_and_late_instances_make_a_delta_receipt(
    source: ObservableMemory, journal: Journal
) -> None:
    dest = Moody()
    for number in range(4):
        source.put(instance(number))
    oid = source.find({}, "studies")[0].oid()
    source.announce(DicomEventType.STUDY_ADDED, oid, "1.2.3")
    studies = route(source, dest, event=DicomEventType.STUDY_ADDED)
    after = run_until_idle(journal, studies)
    first = after.receipts.list()[0]
    assert (first["state"], first["verified"], first["expected"]) == ("verified", 4, 4)
    source.put(instance(9))
    source.announce(DicomEventType.STUDY_ADDED, oid, "1.2.3")
    source.announce(DicomEventType.STUDY_ADDED, oid, "1.2.3")
    after = run_until_idle(after, studies)
    late = after.receipts.list()[0]
    assert (late["follows"], late["verified"], late["expected"]) == (first["id"], 1, 1)
    assert dest.tries == 5
    assert len(after.receipts.list()) == 2


def test_when_and_filter_decide_by_tags(source: ObservableMemory, journal: Journal) -> None:
    dest = Memory(name="dest")
    source.put(instance(1, Modality="CT"))
    source.put(instance(2, Modality="MR"))
    source.put(instance(3, Modality="CT", SeriesDescription="Scout"))
    rule = route(
        source,
        dest,
        when=Query({"Modality": "CT"}),
        steps=[make_step({"filter": {"not": {"SeriesDescription": "Sc*"}}})],
    )
    after = run_until_idle(journal, rule)
    assert [one.tags["InstanceNumber"] for one in dest.find({}, "instances")] == ["1"]
    assert after.counts() == {"r:dest": {"done": 3}}
    tested = list(backtest(rule, after))
    assert [one.matched for one in tested] == [True, False, True]
    assert [str(one) for one in rule.explain({"Modality": "MR"})] == ["Modality: does not match"]
    assert [str(one) for one in rule.explain({})] == ["Modality: the object has no such value"]


def test_the_source_is_cleared_only_after_a_verified_receipt(source: ObservableMemory, journal: Journal) -> None:
    dest = Moody(trouble=lambda dixel: GatewayRefused("no") if dixel.tags["InstanceNumber"] == "2" else None)
    source.put(instance(1))
    source.put(instance(2))
    run_until_idle(journal, route(source, dest, remove_source=True))
    assert [one.tags["InstanceNumber"] for one in source.find({}, "instances")] == ["2"]


def test_stop_ends_run_and_gives_back_what_was_not_begun(
    source: ObservableMemory, journal: Journal, in_thread: Callable[[Watcher], Watcher]
) -> None:
    gate, path = threading.Event(), journal.store.path
    made = Watcher(0.05, journal=journal, grace=0.3)
    made.add_trigger(Trigger(DicomEventType.INSTANCE_ADDED, source, lambda data: gate.wait(10), name="slow", workers=2))
    for number in range(20):
        source.put(instance(number))
    in_thread(made)
    wait_for(lambda: made.journal.counts().get("slow", {}).get("busy"), what="work to begin")
    made.stop()
    wait_for(
        lambda: not [one for one in threading.enumerate() if one.name.startswith("poll-")], what="the pollers to end"
    )
    gate.set()
    wait_for(lambda: Journal(Store(path)).counts()["slow"].get("busy") is None, what="nothing left in hand")


@pytest.mark.parametrize("moment", ["fetched", "stored", "handled", "put"])
def test_killed_anywhere_nothing_is_lost(tmp_path: Path, moment: str) -> None:
    """Kill the process from inside at each step (R1); the runs after it do the rest."""
    command = [sys.executable, "-m", "tests.fakes.killed_router", str(tmp_path), moment]
    environ = {**os.environ, "PYTHONPATH": str(REPO)}
    assert subprocess.run(command, env=environ, cwd=REPO, check=False).returncode == -signal.SIGKILL
    assert subprocess.run([*command[:-1], "never"], env=environ, cwd=REPO, check=False).returncode == 0
    assert len(list((tmp_path / "dest").glob("[0-9]*"))) == 20
    journal = Journal(Store(tmp_path / "state"))
    assert journal.counts() == {"copy": {"done": 20}}


def test_an_item_that_fails_beside_others_waits_for_seconds_not_for_minutes() -> None:
    for attempt in range(1, 7):
        assert 0 < Backoff().delay(attempt) <= 20
    assert Backoff().delay(1000) <= 300
    assert Backoff().delay(1, wish=7) >= 7
