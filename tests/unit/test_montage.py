"""Montage: pages, windows, look-ups, and servers that lie."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from diana.apis import Montage
from diana.daemons.worklist import read_text
from diana.exceptions import DianaError, GatewayAnswerError, InvalidItem, Unsupported
from diana.utils.gateways.montage import Montage as Gateway
from tests.contract import samples
from tests.fakes.montage_server import MontageServer
from tests.helpers import REPO


@pytest.fixture
def server() -> Iterator[MontageServer]:
    with MontageServer() as running:
        yield running


@pytest.fixture
def montage(server: MontageServer) -> Montage:
    return Montage(host="127.0.0.1", port=server.port)


@pytest.fixture
def gateway(server: MontageServer) -> Gateway:
    return Gateway(host="127.0.0.1", port=server.port)


def test_all_pages_are_read(server: MontageServer, gateway: Gateway) -> None:
    for number in range(450):
        server.add(samples.study(number))
    assert len(gateway.find({"q": ""})) == 450
    assert server.requests == 3


def test_fewer_results_than_announced_is_an_error(server: MontageServer, gateway: Gateway) -> None:
    server.add(samples.study())
    server.lie = 5
    with pytest.raises(GatewayAnswerError, match="6 results were announced and 1 came"):
        gateway.find({})


@pytest.mark.parametrize("answer", [b"[]", b'{"meta": {}}', b'{"meta": {"total_count": -1}}', b"{", b"<html>"])
def test_an_answer_that_is_no_result_is_an_error(
    server: MontageServer, gateway: Gateway, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "respond", lambda *_: (200, "application/json", answer))
    with pytest.raises(GatewayAnswerError):
        gateway.find({})


def test_codes_and_body_parts_are_looked_up_once(server: MontageServer, gateway: Gateway) -> None:
    for _ in range(3):
        assert gateway.lookup_cpts(["7", "8", "9"]) == ["71020", "74177"]
        assert gateway.lookup_body_part(["7", "8"]) == ["LUNG", "CHEST", "BODY"]
    assert server.requests == 3 + 3


@pytest.mark.parametrize("code", ["../users", "a/b", "..", "", "x" * 65])
def test_a_code_that_would_change_the_address_is_refused(gateway: Gateway, code: str) -> None:
    with pytest.raises(InvalidItem):
        gateway.lookup_cpts([code])


def test_a_report_is_found_with_text_codes_and_body_parts(server: MontageServer, montage: Montage) -> None:
    server.add(samples.study(1), "FINDINGS: a nodule.")
    (found,) = montage.find({"q": "nodule"}, get_meta=True)
    assert found.report is not None
    assert "nodule" in found.report.text
    assert (found.meta["CPTCodes"], found.meta["BodyParts"]) == (["71020"], ["LUNG", "CHEST", "BODY"])


def test_dates_are_asked_for_in_windows(server: MontageServer, montage: Montage) -> None:
    server.add(samples.study())
    found = list(montage.iter_query_by_date({"q": ""}, dt.date(2023, 12, 25), dt.date(2024, 1, 10)))
    assert len(found) == 1
    assert server.requests == 3
    assert [len(montage.find({"StudyDate": day})) for day in ("20240102", "20240103", "-20240102", "20240101-")] == [
        1,
        0,
        1,
        1,
    ]


def test_results_that_are_no_studies_are_left_out_or_raised(server: MontageServer, montage: Montage) -> None:
    server.add(samples.study())
    server.junk = 2
    assert len(montage.find({"q": ""})) == 1
    with pytest.raises(InvalidItem):
        list(montage.reports({"q": ""}, ignore_errs=False))


@pytest.mark.parametrize("query", [{"PatientBirthDate": "19700101"}, {"StudyDate": "yesterday"}])
def test_what_a_report_does_not_tell_cannot_be_asked_for(montage: Montage, query: dict[str, str]) -> None:
    with pytest.raises((Unsupported, InvalidItem)):
        montage.find(query)


def test_series_are_unsupported(montage: Montage) -> None:
    with pytest.raises(Unsupported):
        montage.find({}, level="series")


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


def test_query_texts_do_not_show_in_errors(montage: Montage, server: MontageServer) -> None:
    server.lie = 1
    with pytest.raises(DianaError) as caught:
        montage.find({"q": "SECRETNAME"})
    assert "SECRETNAME" not in str(caught.value)
