"""Dirty worklists: each row has one verdict that is true, and the run does what the plan says."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from diana.apis import Memory
from diana.daemons.collect_report import CollectReport
from diana.daemons.collector import Collector, Plan
from diana.daemons.worklist import read_worklist
from diana.utils.endpoint import ServiceManager
from tests.fakes.dirty_list import Dirt, Form, Line, archive, instances
from tests.fakes.make import instance

GERMAN = ("Acc#", "StudyInstanceUID", "Patient-ID", "StudyDate", "Bemerkung (Größe)")
FORMS = [
    Form(),
    Form(";", "utf-8-sig", "\r\n", GERMAN, before=("sep=;",)),
    Form("\t", "utf-16", "\n", ("accession_number", "study_uid", "patient_id", "exam date", "x")),
    Form("|", "cp1252", "\r", ("ACCESSION NO.", "SIUID", "PID", "Date", "Größe"), before=("# by hand",)),
    Form(
        ",", "latin-1", "\n", ('"Accession"', '" Study Instance UID "', '"mrn"', '"study date"', '"ö"'), between="# x"
    ),
    Form(";", "utf-16-le", "\r\n"),
    Form(",", "utf-32", "\n", before=("# exported, by, hand", "  # twice")),
]


@define(eq=False)
class Pacs(Memory):
    """A Memory that notes which studies are read."""

    pulled: list[str] = field(init=False, factory=list)

    def _pull(self, ref: Any) -> Any:
        self.pulled.append(ref.study)
        return super()._pull(ref)

    def _get(self, ref: Any, view: Any) -> Any:
        self.pulled.append(ref.study)
        return super()._get(ref, view)


def planned_and_run(lines: list[Line], path: Path, source: Pacs) -> tuple[Plan, dict[int, str], Memory]:
    """Return the plan of a list, what the report says of each row after the run, and the destination."""
    dest, collector, services = Memory(name="dest"), Collector(2), ServiceManager()
    services.hold("source", source)
    services.hold("dest", dest)
    plan = collector.plan("p", source, dest, read_worklist(path))
    assert source.pulled == []
    assert dest.find({}) == []
    wanted = {uid for line in lines if line.state in ("ready", "duplicate") for uid in line.studies}
    assert collector.execute(plan, services) == {"verified": len(wanted)}
    report = {one.row: one.state for one in CollectReport(plan, collector.outcomes("p")).rows()}
    collector.close()
    return plan, report, dest


def check(lines: list[Line], plan: Plan, report: dict[int, str], owner: dict[str, Line]) -> None:
    """Compare each row's verdict, and what became of it, with the truth."""
    verdicts = {one.row: one for one in plan.rows}
    assert Counter(one.row for one in plan.rows) == Counter(line.number for line in lines)
    for line in lines:
        verdict = verdicts[line.number]
        said = (verdict.state, set(verdict.studies) if line.studies else set())
        assert said == (line.state, set(line.studies)), (line, verdict.reason)
        if line.state == "duplicate":
            assert verdict.same_as in {owner[uid].number for uid in line.studies}
        elif line.state != "ready":
            assert verdict.reason
            values = {value for value in line.cells.values() if len(value) > 3}
            assert not any(value.strip() in verdict.reason for value in values)
        is_taken = line.state in ("ready", "duplicate")
        assert report[line.number] == ("verified" if is_taken else line.state)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.encoding}{form.newline.encode().hex()}")
def test_a_list_is_read_planned_and_run_row_by_row(form: Form, tmp_path: Path) -> None:
    is_long = form is FORMS[0]
    chance = random.Random(f"{form.encoding}{form.delimiter}")
    studies, source = archive(242 if is_long else 48), Pacs()
    for one in instances(studies, instance):
        source.put(one)
    dirt = Dirt(studies, chance)
    lines = dirt.lines(726 if is_long else 200)
    (tmp_path / "list.csv").write_bytes(form.write(lines, chance))
    plan, report, dest = planned_and_run(lines, tmp_path / "list.csv", source)
    check(lines, plan, report, dirt.owner)
    assert sorted(source.pulled) == sorted(dirt.owner)
    assert {one.ref.uid for one in dest.find({}, "studies")} == set(dirt.owner)
