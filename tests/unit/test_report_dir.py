"""ReportDir: names and texts."""

from __future__ import annotations

from hashlib import md5
from pathlib import Path

import pytest

from diana.apis.report_dir import ReportDir
from diana.dixel import Dixel, RadiologyReport
from diana.exceptions import InvalidItem
from tests.contract import samples


def study(text: str = "FINDINGS: none", **tags: str) -> Dixel:
    item = samples.study(0, **tags)
    item.report = RadiologyReport(text)
    return item


def test_the_text_comes_back_by_dixel_name_and_accession_number(tmp_path: Path) -> None:
    reports = ReportDir(str(tmp_path))
    assert reports.put(study()) == "GEN000000.txt"
    assert (tmp_path / "GEN000000.txt").read_text() == "FINDINGS: none"
    for item in (samples.study(0), "GEN000000.txt", "GEN000000"):
        report = reports.get(item, view="meta").report
        assert report is not None
        assert report.text == "FINDINGS: none"


def test_a_newer_report_replaces_the_old(tmp_path: Path) -> None:
    reports = ReportDir(str(tmp_path))
    reports.put(study())
    reports.put(study("ADDENDUM"))
    assert (tmp_path / "GEN000000.txt").read_text() == "ADDENDUM"


@pytest.mark.parametrize("accession", ["../../up", "/etc/x", "A/B", "NUL", "x" * 300])
def test_an_odd_accession_number_stays_inside(tmp_path: Path, accession: str) -> None:
    (tmp_path / "in").mkdir()
    reports = ReportDir(str(tmp_path / "in"))
    item = study(AccessionNumber=accession)
    fn = reports.put(item)
    assert [one.name for one in (tmp_path / "in").iterdir()] == [fn]
    assert reports.exists(item)
    assert reports.exists(accession) is True


def test_the_sham_preset_hashes_the_name_and_clears_the_text(tmp_path: Path) -> None:
    reports = ReportDir(str(tmp_path), anonymizing=True, deid="sham")
    item = study("Patient: Planted Name\nMs. Planted has no fracture.", PatientName="Planted^Name")
    fn = reports.put(item)
    assert fn == md5(b"GEN000000").hexdigest() + ".txt"
    text = (tmp_path / fn).read_text()
    assert "planted" not in text.lower()
    assert "no fracture" in text
    assert reports.exists(item)


def test_without_report_or_accession_number_it_is_refused(tmp_path: Path) -> None:
    reports = ReportDir(str(tmp_path))
    nameless = study()
    del nameless.tags["AccessionNumber"]
    for item in (samples.study(0), nameless):
        with pytest.raises(InvalidItem):
            reports.put(item)
