"""``diana-cli mfind``: a search of reports becomes a worklist."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diana.daemons.worklist import read_text, read_worklist
from tests.contract import samples
from tests.fakes.montage_server import MontageServer
from tests.helpers import REPO


@pytest.fixture
def server() -> Iterator[MontageServer]:
    with MontageServer() as running:
        yield running


def mfind(server: MontageServer, *arguments: str) -> list[dict[str, object]]:
    service = f"reports: {{ctype: Montage, host: 127.0.0.1, port: {server.port}}}\n"
    command = [sys.executable, "-m", "diana_cli", "--json", "-s", service, "mfind", "reports", *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_mfind_prints_a_worklist_and_extracts(server: MontageServer) -> None:
    server.add(samples.study(1), "FINDINGS: a nodule.\nRADCAT 3")
    server.add(samples.study(2), "FINDINGS: none.\nRADCAT 1")
    dates = ("--start_date", "2024-01-01", "--end_date", "2024-01-31")
    rows = mfind(server, "-q", "nodule", *dates, "-e", "radcat")
    assert [(row["AccessionNumber"], row["radcat"]) for row in rows] == [("GEN000001", "3")]
    assert [row.accession for row in read_text("\n".join(map(json.dumps, rows)))] == ["GEN000001"]
    assert "Test" not in json.dumps(rows)
    assert len(mfind(server, "-a", "GEN000001,GEN000002", *dates)) == 2


def test_mfind_takes_filters_words_of_montage_and_writes_a_private_table(server: MontageServer, tmp_path: Path) -> None:
    for number in range(3):
        server.add(samples.study(number), f"FINDINGS: nodule {number}.\nLung-RADS: 4A")
    sheet = tmp_path / "lists" / "list.csv"
    dates = ("--start-date", "2024-01-01", "--end-date", "2024-01-31")
    when = '{"any": [{"Modality": "MR"}, {"AccessionNumber": "*000"}]}'
    rows = mfind(server, "-q", "{q: nodule}", "--when", when, *dates, "--csv", str(sheet), "--meta", "-e", "lungrads")
    assert [row["AccessionNumber"] for row in rows] == ["GEN000000", "GEN000001"]
    assert {row["lungrads"] for row in rows} == {"4A"}
    assert [row.accession for row in read_worklist(sheet)] == ["GEN000000", "GEN000001"]
    assert sheet.stat().st_mode & 0o777 == 0o600
    assert "71020" in sheet.read_text()
    assert "nodule" not in sheet.read_text()


def test_mfind_counts_numbers_without_a_report_and_names_none(server: MontageServer) -> None:
    server.add(samples.study(1))
    service = f"reports: {{ctype: Montage, host: 127.0.0.1, port: {server.port}}}\n"
    command = [sys.executable, "-m", "diana_cli", "--json", "-s", service, "mfind", "reports"]
    done = subprocess.run([*command, "-a", "GEN000001,ABSENT7"], cwd=REPO, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert "1 of 2 accession numbers: place 2" in done.stderr
    assert "ABSENT7" not in done.stderr
    wild = subprocess.run([*command, "-a", "GEN*"], cwd=REPO, capture_output=True, text=True, check=False)
    assert (wild.returncode, "GEN" in wild.stderr) == (2, False)
