"""A collection: planned row by row, run, killed, doubted where the archive cannot be trusted, and reported."""

from __future__ import annotations

import datetime as dt
import json
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from diana.apis import DcmDir, Memory
from diana.daemons.collect_report import CollectReport
from diana.daemons.collector import Collector, Plan
from diana.daemons.manners import Budget, Hours
from diana.daemons.worklist import read_text, rows_of
from diana.deid.key import Key
from diana.dixel import Dixel
from diana.exceptions import ConfigError, GatewayConnectionError, Unsupported
from diana.ledger import Store
from diana.utils.dicom import DicomLevel, Query
from diana.utils.endpoint import ServiceManager
from tests.contract import samples
from tests.fakes.make import instance
from tests.helpers import REPO


@define(eq=False)
class Pacs(Memory):
    """A Memory that counts what is asked of it and misbehaves on purpose."""

    name: str = field(default="pacs", kw_only=True)
    dropped: set[str] = field(factory=set)
    silent: bool = False
    refusals: int = 0
    pulled: list[str] = field(init=False, factory=list)
    _seen: Any = field(init=False, factory=threading.Lock, repr=False)

    def _find(self, query: Query) -> Any:
        if self.silent and query.level == DicomLevel.INSTANCES:
            raise Unsupported("pacs: no instance level")
        return super()._find(query)

    def _pull(self, ref: Any) -> Iterator[Dixel]:
        with self._seen:
            self.pulled.append(ref.study or ref.id)
            if self.refusals:
                self.refusals -= 1
                raise GatewayConnectionError("pacs: too many associations")
        for one in super()._pull(ref):
            if str(one.tags["SOPInstanceUID"]) not in self.dropped:
                yield one


def uid(number: int) -> str:
    return f"1.2.840.{number}"


def filled(studies: int, instances: int = 2, **options: Any) -> Pacs:
    pacs = Pacs(**options)
    for number in range(1, studies + 1):
        for at in range(1, instances + 1):
            pacs.put(instance(at, study=uid(number), AccessionNumber=f"A{number}", PatientID=f"P{number % 50}", size=4))
    return pacs


def services(source: Memory, dest: Memory | DcmDir) -> ServiceManager:
    made = ServiceManager()
    made.hold("source", source)
    made.hold("dest", dest)
    return made


def collect(source: Memory, dest: Memory | DcmDir, text: str, **options: Any) -> tuple[Collector, Plan, dict[str, int]]:
    collector = Collector(2)
    plan = collector.plan("p", source, dest, read_text(text), **options)
    return collector, plan, collector.execute(plan, services(source, dest))


def dirty_list(chance: random.Random, studies: int = 242, rows: int = 726) -> tuple[str, list[tuple[str, str]]]:
    """Return a table with every kind of dirt, and for each row the state and the study that are true of it."""
    lines, truth, seen = ["Accession Number;MRN;Study Date"], [], set()

    def add(line: str, state: str, study: str = "") -> None:
        lines.append(line)
        truth.append((state, study))

    for number in range(1, studies + 1):
        seen.add(number)
        add(f"A{number};;", "ready", uid(number))
    while len(truth) < rows:
        number = chance.randint(1, studies)
        kind = chance.randrange(9)
        if kind == 0:
            add(f" A{number} ;;", "duplicate", uid(number))
        elif kind == 1:
            add(f"A{number};P{number % 50};", "duplicate", uid(number))
        elif kind == 2:
            add(f'="A{number}";;2024-01-02', "duplicate", uid(number))
        elif kind == 3:
            add(f"A{number}*;;", "wildcard")
        elif kind == 4:
            add(";;", "blank")
        elif kind == 5:
            add(f"X{number};;", "missing")
        elif kind == 6:
            add(f"A{number};P{number % 50 + 1};", "conflict")
        elif kind == 7:
            add(f"A{number};;03/04/2024", "invalid")
        else:
            add(f"A{number};;2023-05-06", "conflict")
    return "\ufeff" + "\r\n".join(lines), truth


def test_plan_and_run_agree_with_the_truth_row_by_row() -> None:
    text, truth = dirty_list(random.Random(5))
    source, dest = filled(242), Memory(name="dest")
    collector, plan, counts = collect(source, dest, text)
    assert [one.state for one in plan.rows] == [state for state, _ in truth]
    assert [one.studies[:1] for one in plan.rows if one.state in ("ready", "duplicate")] == [
        (study,) for state, study in truth if study
    ]
    assert (len(plan.studies), plan.instances, plan.uncounted) == (242, 484, 0)
    assert counts == {"verified": 242}
    assert len(source.pulled) == 242
    rows = list(CollectReport(plan, collector.outcomes("p")).rows())
    assert [one.state for one in rows] == ["verified" if study else state for state, study in truth]


def test_the_plan_moves_nothing() -> None:
    source, dest = filled(3), Memory(name="dest")
    Collector().plan("p", source, dest, read_text("A1\nA2\n"))
    assert source.pulled == []
    assert dest.find({}) == []


def test_several_studies_of_one_number_are_taken_or_refused() -> None:
    source = filled(1)
    source.put(instance(1, study="1.2.9", AccessionNumber="A1", PatientID="P1"))
    several = Collector().plan("p", source, Memory(), read_text("A1\n"))
    assert sorted(several.rows[0].studies) == ["1.2.840.1", "1.2.9"]
    single = Collector().plan("p", source, Memory(), read_text("A1\n"), several=False)
    assert (single.rows[0].state, single.studies) == ("ambiguous", [])
    source.put(instance(1, study="1.2.10", AccessionNumber="A1", PatientID="OTHER"))
    assert Collector().plan("p", source, Memory(), read_text("A1\n")).rows[0].state == "ambiguous"


def test_a_filter_keeps_studies_out_of_the_plan_and_instances_out_of_the_run() -> None:
    source, dest = filled(1), Memory(name="dest")
    source.put(instance(9, study=uid(1), series=2, AccessionNumber="A1", PatientID="P1", Modality="SR"))
    _, _, counts = collect(source, dest, "A1\n", match={"Modality": "OT"})
    assert counts == {"verified": 1}
    assert len(dest.find({}, "instances")) == 2
    assert Collector().plan("p", source, dest, read_text("A1\n"), match={"Modality": "MR"}).rows[0].state == "filtered"


def test_a_second_run_pulls_nothing_again_and_a_longer_list_only_what_is_new() -> None:
    source, dest, collector = filled(4), Memory(name="dest"), Collector()
    for text, pulls in (("A1\nA2\n", 2), ("A1\nA2\n", 2), ("A1\nA2\nA3\n", 3)):
        plan = collector.plan("p", source, dest, read_text(text))
        collector.execute(plan, services(source, dest))
        assert len(source.pulled) == pulls
    assert [one.state for one in plan.rows] == ["delivered", "delivered", "ready"]


def test_a_source_that_drops_images_ends_incomplete_with_the_list() -> None:
    source, dest = filled(1, 3, dropped={f"{uid(1)}.1.2"}), Memory(name="dest")
    collector, plan, counts = collect(source, dest, "A1\n", tries=2)
    (item,) = collector.outcomes("p").values()
    assert counts == {"incomplete": 1}
    assert item.outcome["missing"] == [f"{uid(1)}.1.2"]
    source.dropped.clear()
    assert collector.execute(plan, services(source, dest), again=True) == {"verified": 1}
    assert source.pulled.count(uid(1)) <= 4


def test_a_source_that_does_not_count_ends_unverifiable_with_the_reason() -> None:
    collector, plan, counts = collect(filled(1, silent=True), Memory(name="dest"), "A1\n")
    (item,) = collector.outcomes("p").values()
    assert (counts, plan.uncounted) == ({"unverifiable": 1}, 1)
    assert "instances" in item.reason


def test_a_source_that_counts_more_than_it_lists_is_not_believed() -> None:
    source, dest, collector = filled(1), Memory(name="dest"), Collector()
    plan = collector.plan("p", source, dest, read_text("A1\n"), tries=1)
    plan.studies = [type(plan.studies[0])(uid(1), (1,), 5)]
    assert collector.execute(plan, services(source, dest)) == {"incomplete": 1}


def test_an_archive_that_refuses_gets_less_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diana.daemons.collect_task.Backoff.delay", lambda *_: 0.01)
    source, dest = filled(20, refusals=6), Memory(name="dest")
    _, _, counts = collect(source, dest, "".join(f"A{n}\n" for n in range(1, 21)), budget=4, tries=10)
    assert counts == {"verified": 20}


def test_a_budget_shrinks_on_refusal_and_grows_again() -> None:
    budget = Budget(4)
    with budget.slot(lambda: True), budget.slot(lambda: True):
        budget.refused()
    assert budget.room == 1
    with budget.slot(lambda: True) as first, budget.slot(lambda: False) as second:
        assert (first, second) == (True, False)
    for _ in range(40):
        budget.succeeded()
    assert budget.room == 4


@pytest.mark.parametrize(
    ("text", "clock", "minutes"),
    [
        ("", "12:00", 0),
        ("22:00-06:00", "23:00", 0),
        ("22:00-06:00", "05:59", 0),
        ("22:00-06:00", "06:00", 960),
        ("22:00-06:00", "12:00", 600),
        ("12:00-13:00, 18:00-19:00", "14:00", 240),
    ],
)
def test_hours_say_how_long_to_wait(text: str, clock: str, minutes: int) -> None:
    now = dt.datetime.fromisoformat(f"2024-01-02T{clock}")
    assert Hours.parse(text).wait(now) == minutes * 60


def test_hours_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="22:00-06:00"):
        Hours.parse("at night")


def test_a_plan_is_private_and_comes_back(tmp_path: Path) -> None:
    plan = Collector().plan("p", filled(2), Memory(), read_text("A1\nA*\n"))
    plan.save(tmp_path / "plan.json")
    assert stat.S_IMODE((tmp_path / "plan.json").stat().st_mode) == 0o600
    assert Plan.load(tmp_path / "plan.json").rows == plan.rows
    for damaged in ("", "[]", '{"version": 9}', '{"version": 1, "rows": [{"x": 1}], "studies": []}'):
        (tmp_path / "bad.json").write_text(damaged)
        with pytest.raises(ConfigError):
            Plan.load(tmp_path / "bad.json")


def test_the_report_holds_the_picture_and_no_value_of_the_list(tmp_path: Path) -> None:
    collector, plan, _ = collect(filled(3), Memory(name="dest"), "A1\nA2\nA9\n")
    report = CollectReport(plan, collector.outcomes("p"))
    page = report.html()
    assert page.count("<title>study ") == 2
    assert "1 rows missing" in page
    assert "missing" in page
    for word in ("A1", "A9", "P1", "Test^Generated"):
        assert word not in page
    assert report.csv().splitlines()[1].startswith("1,verified,ready")
    assert report.summary()["instances"] == 4


def test_the_ledger_of_another_destination_is_not_continued() -> None:
    source, dest, collector = filled(1), Memory(name="dest"), Collector()
    plan = collector.plan("p", source, dest, rows_of(["A1"]))
    collector.execute(plan, services(source, dest))
    plan.dest = "elsewhere"
    with pytest.raises(ConfigError, match="another name"):
        collector.execute(plan, services(source, dest))


def test_the_verbs_of_the_public_api_collect_into_a_folder(tmp_path: Path) -> None:
    source, dest = filled(3), DcmDir(path=str(tmp_path / "out"), durable=False)
    (tmp_path / "trial.studies.txt").write_text("A1\nA3\nA7\n")
    assert Collector().run("trial", tmp_path, source, "", dest) == {"verified": 2}
    key = tmp_path / "trial.key.csv"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().splitlines() == ["AccessionNumber,StudyInstanceUID", "A1,1.2.840.1", "A3,1.2.840.3"]
    assert len(list((tmp_path / "out").rglob("*"))) >= 4
    before = len(source.pulled)
    assert Collector().run("trial", tmp_path, source, "", dest) == {"verified": 2}
    assert len(source.pulled) == before
    found = Collector().make_key(["A1", "A2"], source, "")
    assert {one.tags["AccessionNumber"] for one in found} == {"A1", "A2"}
    assert Collector().handle_worklist(found, source, "", Memory(name="dest"), anonymize=False) == {"verified": 2}


def patients(dest: Memory | DcmDir) -> dict[str, set[str]]:
    """Return patient id to birth dates of what is stored, as a sign of what was done to it."""
    found: dict[str, set[str]] = {}
    for one in dest.find({}, "instances"):
        tags = dest.get(one, view="tags").tags
        found.setdefault(str(tags["PatientID"]), set()).add(str(tags.get("AccessionNumber") or ""))
    return found


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    Key.make().save(tmp_path / "k")
    monkeypatch.setenv("DIANA_DEID_KEY", str(tmp_path / "k"))
    return str(tmp_path / "k")


def clinic(rows: dict[str, str], **options: Any) -> Pacs:
    """Return an archive of CT studies: accession number to patient."""
    pacs = Pacs(**options)
    for number, (accession, patient) in enumerate(rows.items(), 1):
        for at in (0, 1):
            tags: dict[str, Any] = {**CT, "AccessionNumber": accession, "PatientID": patient}
            pacs.put(samples.instance(number, 0, at, **tags))
    return pacs


CT: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "ConversionType": None,
    "PatientName": "Planted^Name",
    "Modality": "CT",
}


@pytest.mark.usefixtures("key")
def test_anonymize_means_it_and_the_key_holds_the_pseudonyms(tmp_path: Path) -> None:
    source, dest = clinic({"A1": "P1", "A2": "P1", "A3": "P2"}), Memory(name="dest")
    (tmp_path / "trial.studies.txt").write_text("A1\nA2\nA3\n")
    assert Collector(2).run("trial", tmp_path, source, "", dest, anonymize=True) == {"verified": 3}
    given = patients(dest)
    assert len(given) == 2
    assert not {"P1", "P2", ""} & set(given)
    assert set.union(*given.values()) == {""}
    path = tmp_path / "trial.key.csv"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    head, *lines = path.read_text().splitlines()
    assert head == "AccessionNumber,StudyInstanceUID,Pseudonym"
    names = [line.split(",")[2] for line in lines]
    assert names[0] == names[1] != names[2]
    assert set(names) == set(given)
    before = len(source.pulled)
    assert Collector(2).run("trial", tmp_path, source, "", dest, anonymize=True) == {"verified": 3}
    assert (len(source.pulled), path.read_text().splitlines()) == (before, [head, *lines])
    with pytest.raises(ConfigError, match="other steps"):
        Collector().run("trial", tmp_path, source, "", dest, anonymize=False)


def test_without_anonymize_nothing_is_changed(tmp_path: Path) -> None:
    source, dest = clinic({"A1": "P1"}), Memory(name="dest")
    plan_text = "accession,pseudonym\nA1,S1\n"
    _, plan, counts = collect(source, dest, plan_text)
    assert (counts, plan.studies[0].pseudonym) == ({"verified": 1}, "")
    assert patients(dest) == {"P1": {"A1"}}


@pytest.mark.usefixtures("key")
def test_pseudonyms_of_the_list_are_given_to_all_studies_of_the_patient() -> None:
    source, dest = clinic({"A1": "P1", "A2": "P1", "A3": "P2"}), Memory(name="dest")
    _, _, counts = collect(source, dest, "accession,subject\nA1,\nA2,S-01\nA3,S-02\n", steps=["deid"])
    assert counts == {"verified": 3}
    assert set(patients(dest)) == {"S-01", "S-02"}


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize(
    "rows", ["A1,S1\nA2,S2\nA3,S3\n", "A1,S1\nA2,S1\nA3,S1\n"], ids=["two names of one patient", "one name of two"]
)
def test_rows_that_do_not_agree_on_pseudonyms_are_conflicts(rows: str) -> None:
    source = clinic({"A1": "P1", "A2": "P1", "A3": "P2"})
    plan = Collector().plan("p", source, Memory(), read_text(f"accession,subject\n{rows}"), steps=["deid"])
    states = [one.state for one in plan.rows]
    assert states == (["conflict", "conflict", "ready"] if "S3" in rows else ["conflict"] * 3)


@pytest.mark.usefixtures("key")
def test_a_pseudonym_against_the_registry_fails_the_study_with_the_reason() -> None:
    source, dest, collector = clinic({"A1": "P1", "A2": "P1", "A3": "P2"}), Memory(name="dest"), Collector()
    ends = services(source, dest)
    first = collector.plan("p", source, dest, read_text("accession,subject\nA1,S1\n"), steps=["deid"])
    assert collector.execute(first, ends) == {"verified": 1}
    other = collector.plan("p", source, dest, read_text("accession,subject\nA2,S2\nA3,S1\n"), steps=["deid"])
    assert collector.execute(other, ends) == {"failed": 2, "verified": 1}
    items = collector.outcomes("p")
    assert {item.state: item.reason.count("conflict") > 0 for item in items.values()} == {
        "verified": False,
        "failed": True,
    }
    assert set(patients(dest)) == {"S1"}
    again = collector.plan("p", source, dest, read_text("accession,subject\nA1,S9\n"), steps=["deid"])
    assert again.rows[0].state == "conflict"


@pytest.mark.usefixtures("key")
def test_deid_doubts_a_short_list_too() -> None:
    source, dest, collector = clinic({"A1": "P1"}), Memory(name="dest"), Collector()
    plan = collector.plan("p", source, dest, rows_of(["A1"]), tries=1, steps=["deid"])
    plan.studies = [type(plan.studies[0])(plan.studies[0].study, (1,), 5)]
    assert collector.execute(plan, services(source, dest)) == {"incomplete": 1}


def test_deid_without_a_key_is_refused_before_anything_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIANA_DEID_KEY", raising=False)
    source = clinic({"A1": "P1"})
    with pytest.raises(ConfigError, match="needs a key"):
        Collector().handle_worklist(["A1"], source, "", Memory(name="dest"), anonymize=True)
    assert source.pulled == []


def test_what_is_new_in_the_list_is_collected_besides_the_key(tmp_path: Path) -> None:
    source, dest = filled(3), Memory(name="dest")
    listed = tmp_path / "trial.studies.txt"
    listed.write_text("A1\n")
    assert Collector().run("trial", tmp_path, source, "", dest) == {"verified": 1}
    listed.write_text("A1\nA3\n")
    assert Collector().run("trial", tmp_path, source, "", dest) == {"verified": 2}
    listed.unlink()
    assert Collector().run("trial", tmp_path, source, "", dest) == {"verified": 2}


def test_a_source_that_is_down_is_soon_asked_once_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diana.daemons.collect_plan.Backoff.delay", lambda *_: 0.001)
    source, asked = filled(1), []

    def down(query: Query) -> Any:
        asked.append(query)
        raise GatewayConnectionError("pacs: down")

    monkeypatch.setattr(source, "_find", down)
    plan = Collector().plan("p", source, Memory(), rows_of([f"A{number}" for number in range(100)]))
    assert plan.counts() == {"unreachable": 100}
    assert len(asked) < 200


@define(eq=False)
class Watched(Pacs):
    """A Pacs that notes how many studies are fetched at once."""

    most: int = 0
    _busy: int = field(init=False, default=0)

    def _pull(self, ref: Any) -> Iterator[Dixel]:
        with self._seen:
            self._busy += 1
            self.most = max(self.most, self._busy)
        try:
            threading.Event().wait(0.05)
            yield from Memory._pull(self, ref)
        finally:
            with self._seen:
                self._busy -= 1


def test_the_budget_holds_over_all_processes_of_a_ledger(tmp_path: Path) -> None:
    source, dest = Watched(), Memory(name="dest")
    for number in range(1, 13):
        source.put(instance(1, study=uid(number), AccessionNumber=f"A{number}"))
    collectors = [Collector(3, store=Store(tmp_path / "ledger.sqlite")) for _ in range(3)]
    listed = rows_of([f"A{number}" for number in range(1, 13)])
    plan = collectors[0].plan("p", source, dest, listed, budget=2)
    ended: list[dict[str, int]] = []

    def run(collector: Collector) -> None:
        ended.append(collector.execute(plan, services(source, dest)))

    crew = [threading.Thread(target=run, args=(one,)) for one in collectors]
    for one in crew:
        one.start()
    for one in crew:
        one.join(60)
    assert ended == [{"verified": 12}] * 3
    assert source.most == 2
    for collector in collectors:
        collector.close()


def test_two_destinations_of_one_list_both_get_it() -> None:
    source, collector = filled(2), Collector(store=Store())
    for dest in (Memory(name="dest"), Memory(name="dest")):
        assert collector.handle_worklist(["A1", "A2"], source, "", dest, anonymize=False) == {"verified": 2}
        assert len(dest.find({}, "instances")) == 4
    before = len(source.pulled)
    assert collector.handle_worklist(["A1", "A2"], source, "", dest, anonymize=False) == {"verified": 2}
    assert len(source.pulled) == before
    collector.close()


def test_a_row_that_could_not_be_asked_about_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diana.daemons.collect_plan.Backoff.delay", lambda *_: 0.01)
    source, dest = filled(2), Memory(name="dest")
    find = source._find

    def half(query: Query) -> Any:
        if query.match.get("AccessionNumber") == "A2":
            raise GatewayConnectionError("pacs: down")
        return find(query)

    monkeypatch.setattr(source, "_find", half)
    (tmp_path / "trial.studies.txt").write_text("A1\nA2\n")
    with pytest.raises(GatewayConnectionError, match="1 rows"):
        Collector().run("trial", tmp_path, source, "", dest)
    monkeypatch.undo()
    assert Collector().run("trial", tmp_path, source, "", dest) == {"verified": 2}


def run_cli(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diana_cli", *arguments]
    return subprocess.run(command, cwd=REPO, check=False, capture_output=True, text=True)


def test_cli_plans_runs_and_reports(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    source = DcmDir(path=str(folder), durable=False)
    for number in (1, 2):
        source.put(instance(1, study=uid(number), AccessionNumber=f"A{number}"))
    (tmp_path / "list.csv").write_text("Accession\nA1\nA2\nA2\nA*\n")
    common = ["--json", "--state", str(tmp_path / "state"), "collect"]
    plan = str(tmp_path / "p.json")
    ends = ["-S", f"path:{folder}", "-D", f"path:{tmp_path / 'dest'}", "-P", "trial", "--to", plan]
    planned = run_cli([*common, "plan", str(tmp_path / "list.csv"), *ends])
    assert [json.loads(line)["state"] for line in planned.stdout.splitlines()] == [
        "ready",
        "ready",
        "duplicate",
        "wildcard",
    ]
    assert run_cli([*common, "report", plan]).returncode == 3
    ran = run_cli([*common, "run", plan])
    assert json.loads(ran.stdout) == {"project": "trial", "verified": 2}
    reported = run_cli([*common, "report", plan, "--html", str(tmp_path / "r.html"), "--csv", str(tmp_path / "r.csv")])
    assert [json.loads(line)["state"] for line in reported.stdout.splitlines()] == [
        "verified",
        "verified",
        "verified",
        "wildcard",
    ]
    assert "<svg" in (tmp_path / "r.html").read_text()
