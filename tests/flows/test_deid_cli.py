"""`diana-cli deid` from end to end: what goes out, what stays with the custodian, what a second run does."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from diana.deid.audit import Audit
from diana.deid.key import Key
from diana.utils.dicom.ref import is_uid
from diana_cli.cli import run
from tests.contract import samples
from tests.helpers import wait_for
from tests.planted import PLANTED_ACCESSIONS, PLANTED_IDS, PLANTED_NAMES, assert_nothing_planted

CT = "1.2.840.10008.5.1.4.1.1.2"
PLANTED = {"PatientName": PLANTED_NAMES[0], "PatientID": PLANTED_IDS[0], "AccessionNumber": PLANTED_ACCESSIONS[0]}


def ct(study: int = 0, series: int = 0, instance: int = 0, **tags: Any) -> bytes:
    """Return the file of a CT slice of a planted patient."""
    image = {"SOPClassUID": CT, "Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "ConversionType": None}
    return samples.file_bytes(samples.dataset(study, series, instance, **{**image, **PLANTED, **tags}))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: `in` with two studies of three slices under names that tell who they are, and a key `k`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIANA_DEID_KEY", raising=False)
    folder = tmp_path / "in" / PLANTED_IDS[0]
    folder.mkdir(parents=True)
    for number in range(6):
        name = f"{PLANTED_NAMES[0]} {number}.dcm"
        (folder / name).write_bytes(ct(number // 3, 0, number % 3))
    Key.make().save(tmp_path / "k")
    return tmp_path


@pytest.fixture
def deid(site: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """Run `diana-cli deid ...`; return exit code, the rows that were printed, and standard error."""

    def call(*arguments: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = run(["deid", *arguments])
        done = capsys.readouterr()
        assert_nothing_planted(done.out + done.err, "what was printed")
        rows = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
        return code, rows[0] if len(rows) == 1 else rows, done.err

    return call


def files(folder: Path) -> dict[str, bytes]:
    """Return name and bytes of every file below a folder."""
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


Deid = Callable[..., tuple[int, Any, str]]


class TestRun:
    """One run."""

    def test_outputs_are_named_by_new_uids_and_hold_nothing_of_the_input(self, site: Path, deid: Deid) -> None:
        code, told, _ = deid("in", "out", "--key", "k")
        assert code == 0
        assert told["done"] == 6
        assert "2026" in told["table"]
        found = files(site / "out")
        assert len(found) == 6
        for name, data in found.items():
            study, series, instance = name.removesuffix(".dcm").split("/")
            ds = dcmread(io.BytesIO(data))
            assert (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID) == (study, series, instance)
            assert all(is_uid(one) and not one.startswith(samples.ROOT) for one in (study, series, instance))
            assert ds.PatientIdentityRemoved == "YES"
            assert_nothing_planted(data.decode("latin-1"), "an output")
            assert samples.ROOT.encode() not in data
        assert len({name.split("/")[0] for name in found}) == 2

    def test_processes_give_the_same_files(self, site: Path, deid: Deid) -> None:
        assert deid("in", "one", "--key", "k")[0] == 0
        assert deid("in", "two", "--key", "k", "--jobs", "3")[0] == 0
        assert files(site / "one") == files(site / "two")

    def test_a_second_run_does_only_the_rest(self, site: Path, deid: Deid) -> None:
        deid("in", "out", "--key", "k")
        before = files(site / "out")
        gone = sorted(before)[2]
        (site / "out" / gone).unlink()
        (site / "in" / "new.dcm").write_bytes(ct(0, 0, 7))
        code, told, _ = deid("in", "out", "--key", "k")
        assert (code, told["done"], told["before"]) == (0, 2, 5)
        after = files(site / "out")
        assert len(after) == 7
        assert all(after[name] == data for name, data in before.items())

    def test_a_bad_file_is_one_line_and_the_others_go_on(self, site: Path, deid: Deid) -> None:
        (site / "in" / f"{PLANTED_NAMES[0]}.txt").write_text(PLANTED_NAMES[0])
        (site / "in" / "cut.dcm").write_bytes(ct(3)[:-50])
        (site / "in" / "empty.dcm").touch()
        os.mkfifo(site / "in" / "pipe")
        (site / "in" / "gone").symlink_to("nowhere")
        code, told, err = deid("in", "out", "--key", "k", "--jobs", "2")
        assert code == 3
        assert told["done"] == 6
        assert sum(told["reasons"].values()) == 5
        assert len([line for line in err.splitlines() if ": item " in line]) == 5

    def test_a_zip_counts_as_what_it_holds(self, site: Path, deid: Deid) -> None:
        with zipfile.ZipFile(site / f"{PLANTED_IDS[0]}.zip", "w") as archive:
            for number in range(3):
                archive.writestr(f"{PLANTED_NAMES[0]}/{number}", ct(0, 0, number))
            archive.writestr("readme.txt", "hello")
        code, told, _ = deid(f"{PLANTED_IDS[0]}.zip", "out", "--key", "k", "--jobs", "2")
        assert (code, told["done"], told["refused"]) == (3, 3, 1)
        deid("in", "two", "--key", "k")
        assert files(site / "out").items() <= files(site / "two").items()
        (site / "broken.zip").write_bytes(b"PK\3\4 no archive")
        assert deid("broken.zip", "three", "--key", "k")[0] == 3

    def test_services_are_read_and_written(self, site: Path, deid: Deid) -> None:
        (site / "flat").mkdir()
        for name, data in files(site / "in").items():
            (site / "flat" / Path(name).name).write_bytes(data)
        code, told, _ = deid("path:flat", "path:made", "--key", "k", "--jobs", "2")
        assert (code, told["done"]) == (0, 6)
        deid("in", "out", "--key", "k")
        assert sorted(files(site / "made").values()) == sorted(files(site / "out").values())
        assert deid("path:flat", "path:made", "--key", "k")[1]["before"] == 6

    def test_two_objects_with_one_uid_are_not_written_over_each_other(self, site: Path, deid: Deid) -> None:
        (site / "in" / "again.dcm").write_bytes(ct(0, 0, 0))
        (site / "in" / "other.dcm").write_bytes(ct(0, 0, 0, InstanceNumber=99))
        code, told, _ = deid("in", "out", "--key", "k")
        assert code == 3
        assert (told["done"], told["reasons"]) == (7, {"quarantined: conflict": 1})

    def test_a_killed_run_is_continued(self, site: Path, deid: Deid) -> None:
        for number in range(120):
            (site / "in" / f"more{number:03}.dcm").write_bytes(ct(2 + number // 10, 0, number % 10))
        command = [sys.executable, "-m", "diana_cli", "deid", "in", "out", "--key", "k", "--jobs", "2"]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            wait_for(lambda: process.poll() is not None or len(list((site / "out").rglob("*.dcm"))) > 10, 60)
            process.send_signal(signal.SIGKILL)
        code, told, err = deid("in", "out", "--key", "k")
        assert code == 0, err
        assert told["done"] + told["before"] == 126
        assert deid("in", "clean", "--key", "k")[0] == 0
        assert files(site / "out") == files(site / "clean")
        assert Audit(site / "k.custody" / "audit.jsonl", Key.load(site / "k")).verify().ok


class TestPlaces:
    """What is secret lies outside of what is handed out."""

    @pytest.mark.parametrize(
        "arguments",
        [
            ("in", "out", "--key", "out/k"),
            ("in", "out", "--key", "k", "--registry", "out/r.sqlite"),
            ("in", "out", "--key", "k", "--registry", "sqlite:///out/deep/r.sqlite"),
            ("in", "out", "--key", "k", "--audit", "out/audit.jsonl"),
            ("in", "out", "--key", "k", "--quarantine", "out/../out/q"),
            ("in", "out", "--key", "k", "--custody", "link/c"),
            ("out/in", "out", "--key", "k"),
            ("in", "in", "--key", "k"),
            ("in", ".", "--key", "k"),
            ("in", "out"),
            ("in", "out", "--key", "absent"),
            ("in", "out", "--key", "k", "--preset", "none"),
            ("in", "out", "--key", "k", "--preset", "basic", "--recipe", "r.yml"),
            ("in", "out", "--key", "k", "--recipe", "absent.yml"),
            ("absent", "out", "--key", "k"),
        ],
    )
    def test_wrong_places_and_options_are_usage_errors(
        self, site: Path, deid: Deid, arguments: tuple[str, ...]
    ) -> None:
        (site / "out" / "in").mkdir(parents=True)
        (site / "link").symlink_to(site / "out")
        Key.make().save(site / "out" / "k")
        code, rows, err = deid(*arguments)
        assert (code, rows) == (2, [])
        assert err
        assert sorted(files(site / "out")) == ["k"]

    def test_secrets_in_the_input_folder_are_no_input(self, site: Path, deid: Deid) -> None:
        (site / "k").rename(site / "in" / "k")
        code, told, _ = deid("in", "out", "--key", "in/k", "--registry", "in/r.sqlite")
        assert (code, told["done"]) == (0, 6)
        code, told, _ = deid("in", "out", "--key", "in/k", "--registry", "in/r.sqlite")
        assert (code, told["done"], told["before"]) == (0, 0, 6)

    def test_another_recipe_or_key_needs_another_folder(self, site: Path, deid: Deid) -> None:
        deid("in", "out", "--key", "k")
        code, _, err = deid("in", "out", "--key", "k", "--preset", "research")
        assert code == 2
        assert "name an empty one" in err
        deid("key", "rotate", "k")
        assert deid("in", "out", "--key", "k")[0] == 2
        assert deid("in", "other", "--key", "k")[0] == 0

    def test_two_runs_do_not_share_the_custodians_folder(self, site: Path, deid: Deid) -> None:
        from diana.daemons.deid_custody import Custody, Places

        places = Places.below(site / "k.custody")
        other = Custody(places, Audit(places.audit))
        other.open()
        assert deid("in", "out", "--key", "k")[0] == 1
        other.close()
        assert deid("in", "out", "--key", "k")[0] == 0


class TestCustody:
    """What the custodian gets."""

    def test_the_crosswalk_leads_from_output_to_source(self, site: Path, deid: Deid) -> None:
        deid("in", "out", "--key", "k")
        rows = [json.loads(line) for line in (site / "k.custody" / "crosswalk.jsonl").read_text().splitlines()]
        assert {row["out"] for row in rows} == set(files(site / "out"))
        for row in rows:
            assert Path(row["source"]["path"]).is_file()
            assert row["patient_id"] == PLANTED_IDS[0]
            assert dcmread(row["source"]["path"]).SOPInstanceUID == row["uids"][2]

    def test_its_files_are_private(self, site: Path, deid: Deid) -> None:
        (site / "in" / "other.dcm").write_bytes(ct(0, 0, 0, InstanceNumber=99))
        deid("in", "out", "--key", "k", "--registry", "r.sqlite")
        kept = [*(site / "k.custody").rglob("*"), site / "r.sqlite"]
        assert len(kept) >= 5
        assert [one for one in kept if one.stat().st_mode & 0o077] == []

    def test_the_audit_holds_no_original_value(self, site: Path, deid: Deid) -> None:
        (site / "in" / "bad.dcm").write_text("no DICOM")
        _, told, _ = deid("in", "out", "--key", "k")
        path = site / "k.custody" / "audit.jsonl"
        text = path.read_text()
        assert_nothing_planted(text, "the audit")
        assert samples.ROOT not in text
        assert str(site) not in text
        first, *_, last = (json.loads(line) for line in text.splitlines())
        assert (first["event"], last["event"]) == ("run", "end")
        assert "2026" in first["table"]
        assert last["paths"]
        code, checked, _ = deid("audit", str(path), "--key", "k", "--head", told["audit"])
        assert (code, checked["ok"]) == (0, True)
        path.write_text(text.replace('"refused"', '"done"', 1))
        code, checked, _ = deid("audit", str(path))
        assert code == 1
        assert "was edited" in checked["problem"]

    def test_the_review_list_has_every_retained_text_once(self, site: Path, deid: Deid) -> None:
        deid("in", "out", "--key", "k", "--jobs", "2")
        deid("in", "out", "--key", "k")
        with (site / "k.custody" / "review.csv").open(newline="") as stream:
            rows = [tuple(row) for row in csv.reader(stream)]
        assert rows[0] == ("attribute", "text")
        assert ("ImageType", "ORIGINAL\\PRIMARY\\AXIAL") in rows
        assert len(rows) == len(set(rows))
        assert not any(name in ("PatientID", "PatientName") for name, _ in rows)

    def test_what_is_quarantined_is_kept_for_the_custodian_alone(self, site: Path, deid: Deid) -> None:
        code, told, err = deid("in", "out", "--key", "k", "--registry", "r.sqlite", "--mode", "quarantine")
        assert (code, told["reasons"]) == (3, {"quarantined: unknown-patient": 6})
        assert "unknown-patient" in err
        assert not (site / "out").exists() or files(site / "out") == {}
        kept = files(site / "k.custody" / "quarantine" / "unknown-patient")
        assert sorted(kept.values()) == sorted(files(site / "in").values())


class TestRegistry:
    """Pseudonyms from tables."""

    def test_imported_pseudonyms_are_used(self, site: Path, deid: Deid) -> None:
        (site / "t.csv").write_text(f"Patient ID,Pseudonym\n{PLANTED_IDS[0]},STUDY-001\n")
        arguments = ("--registry", "r.sqlite", "--key", "k")
        assert deid("registry", "import", "t.csv", *arguments)[1] == {"new": 1, "there": 0}
        assert deid("in", "out", *arguments, "--mode", "refuse", "--jobs", "2")[0] == 0
        assert {dcmread(one).PatientID for one in (site / "out").rglob("*.dcm")} == {"STUDY-001"}
        code, row, _ = deid("registry", "lookup", PLANTED_IDS[0], *arguments)
        assert (code, row["pseudonym"]) == (0, "STUDY-001")
        assert deid("registry", "lookup", PLANTED_IDS[1], *arguments)[0] == 1
        assert deid("registry", "export", "all.csv", *arguments)[1] == {"rows": 1}
        assert "STUDY-001" in (site / "all.csv").read_text()

    def test_contradictions_are_usage_errors_that_show_no_value(self, site: Path, deid: Deid) -> None:
        (site / "t.csv").write_text(f"Patient ID,Pseudonym\n{PLANTED_IDS[0]},A\n{PLANTED_IDS[0]},B\n")
        code, _, err = deid("registry", "import", "t.csv", "--registry", "r.sqlite", "--key", "k")
        assert code == 2
        assert "line 3" in err

    def test_reidentification_is_audited(self, site: Path, capsys: pytest.CaptureFixture[str], deid: Deid) -> None:
        arguments = ["--registry", "r.sqlite", "--key", "k"]
        deid("in", "out", *arguments)
        pseudonym = dcmread(next((site / "out").rglob("*.dcm"))).PatientID
        assert run(["deid", "registry", "reidentify", pseudonym, *arguments]) == 2
        capsys.readouterr()
        assert run(["deid", "registry", "reidentify", pseudonym, *arguments, "--reason", "incidental finding"]) == 0
        assert json.loads(capsys.readouterr().out)["patient_id"] == PLANTED_IDS[0]
        last = list(Audit(site / "k.custody" / "audit.jsonl").records())[-1]
        assert (last["event"], last["reason"], last["pseudonym"]) == ("reidentify", "incidental finding", pseudonym)

    def test_a_rotated_key_keeps_the_pseudonyms_of_the_registry(self, site: Path, deid: Deid) -> None:
        arguments = ("--registry", "r.sqlite", "--key", "k")
        deid("in", "one", *arguments)
        before = deid("key", "show-id", "k")[1]["key"]
        assert deid("key", "rotate", "k")[1]["before"] == [before]
        assert deid("in", "two", *arguments)[0] == 0
        one, two = ({dcmread(path).PatientID for path in (site / name).rglob("*.dcm")} for name in ("one", "two"))
        assert one == two
        assert set(files(site / "one")).isdisjoint(files(site / "two"))


class TestLooking:
    """explain, verify, conformance, key."""

    def test_explain_shows_paths_and_rules_but_no_values(self, site: Path, deid: Deid) -> None:
        code, rows, err = deid("explain", str(next((site / "in").rglob("*.dcm"))))
        assert code == 0
        assert "2026" in err
        by_name = {row["path"]: row for row in rows}
        assert by_name["(0008,0050)"]["action"] in ("empty", "remove")
        assert all(row["action"] and row["rule"] for row in rows)
        assert deid("explain", "absent.dcm")[0] == 2

    def test_verify_finds_nothing_in_our_output_and_much_in_the_input(self, site: Path, deid: Deid) -> None:
        deid("in", "out", "--key", "k")
        code, rows, err = deid("verify", "out", "--against", "in")
        assert (code, rows) == (0, []), err
        assert "6 files, 0 with findings" in err
        assert deid("verify", "out", "--custody", "k.custody")[0] == 0
        code, rows, _ = deid("verify", "in", "--against", "in")
        assert code == 3
        assert {"marker", "attribute", "name", "id"} <= {row["kind"] for row in rows}

    def test_the_conformance_statement_names_edition_and_codes(
        self, site: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["deid", "conformance", "--preset", "research"]) == 0
        text = capsys.readouterr().out
        assert all(one in text for one in ("2026d", "113100", "113107", "113108", "113111", "(0010,0010)"))
        assert run(["deid", "conformance", "--preset", "sham"]) == 2

    def test_a_key_is_made_once_and_never_shown(self, site: Path, deid: Deid) -> None:
        code, row, _ = deid("key", "make", "new")
        assert code == 0
        assert (site / "new").stat().st_mode & 0o777 == 0o600
        assert deid("key", "make", "new")[0] == 2
        assert deid("key", "show-id", "new")[1]["key"] == row["key"] == Key.load(site / "new").id
        (site / "new").chmod(0o644)
        assert deid("in", "out", "--key", "new")[0] == 2

    def test_the_sham_preset_warns(self, site: Path, deid: Deid) -> None:
        code, told, err = deid("in", "out", "--key", "k", "--preset", "sham")
        assert (code, told["done"]) == (0, 6)
        assert "can be guessed" in err


def test_real_files_are_all_accounted_for(site: Path, deid: Deid, shared_dir: Path) -> None:
    folder = shared_dir / "data" / "dicom"
    if not folder.is_dir():
        pytest.skip("no real files beside the repository")
    code, told, _ = deid(str(folder), "out", "--key", "k", "--jobs", "2")
    count = sum(1 for one in folder.rglob("*") if one.is_file())
    assert sum(told[state] for state in ("done", "quarantined", "refused", "failed")) == count
    assert told["failed"] == 0
    assert code in (0, 3)
    assert deid("verify", "out", "--custody", "k.custody")[0] == 0
