"""Montage: pages, windows, look-ups, and servers that lie."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from diana.apis import Montage
from diana.exceptions import (
    ConfigError,
    Conflict,
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayError,
    InvalidItem,
    Unsupported,
)
from diana.utils.gateways.montage import Cache
from diana.utils.gateways.montage import Montage as Gateway
from tests.contract import samples
from tests.fakes.http_server import Reply, ScriptedServer, gzip_reply, html_reply
from tests.fakes.montage_server import MontageServer


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


def test_query_texts_do_not_show_in_errors(montage: Montage, server: MontageServer) -> None:
    server.lie = 1
    with pytest.raises(DianaError) as caught:
        montage.find({"q": "SECRETNAME"})
    assert "SECRETNAME" not in str(caught.value)


def filled(server: MontageServer, count: int) -> None:
    for number in range(count):
        server.add(samples.study(number))


def test_shorter_pages_than_asked_for_are_all_read(server: MontageServer, gateway: Gateway) -> None:
    filled(server, 25)
    server.largest = 7
    assert len(gateway.find({})) == 25
    assert [one["offset"] for one in server.searches] == ["0", "7", "14", "21"]


def test_leaving_a_search_early_asks_for_no_more_pages(server: MontageServer, montage: Montage) -> None:
    filled(server, 25)
    server.largest = 5
    assert len(montage.find({}, limit=3)) == 3
    assert len(server.searches) == 1


def test_a_server_that_ignores_the_offset_is_an_error(server: MontageServer, gateway: Gateway) -> None:
    filled(server, 25)
    server.largest = 10
    first = list(server.rows.values())[:10]
    server.change = lambda data, _: {**data, "objects": first}
    with pytest.raises(GatewayAnswerError, match="earlier page"):
        gateway.find({})


def test_results_that_go_away_meanwhile_are_an_error(server: MontageServer, gateway: Gateway) -> None:
    filled(server, 25)
    server.largest = 10
    search = gateway.iter_find({})
    next(search)
    del server.rows["GEN000000"]
    with pytest.raises(GatewayAnswerError, match="lost results"):
        list(search)


def test_results_that_come_meanwhile_are_found_and_none_twice(server: MontageServer, gateway: Gateway) -> None:
    filled(server, 25)
    server.largest = 10
    search = gateway.iter_find({})
    found = [next(search)]
    rows = dict(server.rows)
    server.rows.clear()
    server.add(samples.study(99))
    server.rows.update(rows)
    found += search
    numbers = [one["accession_number"] for one in found]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) >= set(rows)


def test_more_results_than_announced_is_an_error(server: MontageServer, gateway: Gateway) -> None:
    filled(server, 3)
    server.lie = -1
    with pytest.raises(GatewayAnswerError):
        gateway.find({})


def test_beyond_a_million_results_nothing_is_left_out_silently(
    server: MontageServer, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diana.utils.gateways.montage.MAX_RESULTS", 20)
    filled(server, 25)
    server.largest = 10
    with pytest.raises(Unsupported, match="shorter times"):
        gateway.find({})


@pytest.mark.parametrize("reply", [Reply(body=b'{"meta": {"total', cut=5, length=900), Reply(reset=True)], ids=str)
def test_an_answer_that_is_cut_is_temporary_trouble(reply: Reply) -> None:
    with ScriptedServer([reply]) as cut:
        montage = Montage(host="127.0.0.1", port=int(cut.url.rpartition(":")[2]))
        with pytest.raises(DianaError) as caught:
            montage.find({"q": "SECRETNAME"})
        assert caught.value.temporary
        assert "SECRETNAME" not in str(caught.value)
        assert montage.check() is False


@pytest.mark.parametrize("reply", [html_reply(), html_reply(404), Reply(404), Reply(302), gzip_reply(b"{}")], ids=str)
def test_what_is_not_montage_is_never_an_empty_result(reply: Reply) -> None:
    with ScriptedServer([reply]) as other:
        montage = Montage(host="127.0.0.1", port=int(other.url.rpartition(":")[2]))
        for ask in (lambda: montage.find({"q": "x"}), lambda: montage.exists("A1"), lambda: montage.get("A1")):
            with pytest.raises(GatewayError):
                ask()
        assert montage.check() is False


def test_a_server_that_says_nothing_ends_in_time(server: MontageServer) -> None:
    server.wait = threading.Event()
    montage = Montage(host="127.0.0.1", port=server.port, timeout=(5, 0.2))
    with pytest.raises(GatewayConnectionError):
        montage.find({"q": "x"})
    server.wait.set()


def test_a_search_of_an_unknown_index_is_refused(montage: Montage) -> None:
    with pytest.raises(GatewayError):
        montage.find({}, index="path")
    with pytest.raises(InvalidItem):
        montage.find({}, index="../users")


def test_a_search_cannot_set_its_own_paging(montage: Montage) -> None:
    for word in ("offset", "limit", "format"):
        with pytest.raises((Unsupported, TypeError)):
            montage.find({word: 5})


def test_groups_and_comparisons_are_checked_here(server: MontageServer, montage: Montage) -> None:
    filled(server, 4)
    by_number = {"any": [{"AccessionNumber": "GEN000001"}, {"AccessionNumber": "*003"}]}
    assert {one.tags["AccessionNumber"] for one in montage.find(by_number)} == {"GEN000001", "GEN000003"}
    assert len(montage.find({"not": by_number})) == 2
    assert len(montage.find({"all": [{"PatientAge": ">50"}, {"Organization": "Exam*"}]})) == 4
    assert montage.find({"PatientAge": "<50"}) == []
    assert not any(key in words for words in server.searches for key in ("any", "not", "all"))


@pytest.mark.parametrize(
    "query",
    [
        {"any": [{"PatientBirthDate": "1970*"}]},
        {"any": "x"},
        {"not": {"StudyInstanceUID": "1.2"}},
        {"Organisation": "x"},
    ],
)
def test_groups_with_what_a_report_does_not_tell_are_refused(montage: Montage, query: dict[str, Any]) -> None:
    with pytest.raises((Unsupported, ConfigError)):
        montage.find(query)


def test_many_accession_numbers_are_one_search_each(server: MontageServer, montage: Montage) -> None:
    filled(server, 30)
    found = montage.find({"AccessionNumber": ["GEN000003", "GEN000007", "GEN000003", "NONE"], "StudyDate": "2024*"})
    assert [one.tags["AccessionNumber"] for one in found] == ["GEN000003", "GEN000007"]
    assert [one["q"] for one in server.searches] == ['"GEN000003"', '"GEN000007"', '"NONE"']


def test_a_report_that_names_another_number_is_not_taken_for_it(server: MontageServer, montage: Montage) -> None:
    server.add(samples.study(1), "Compared with GEN000002.")
    server.add(samples.study(2), "FINDINGS: none.")
    assert [one.tags["AccessionNumber"] for one in montage.find({"AccessionNumber": ["GEN000001", "GEN000002"]})] == [
        "GEN000001",
        "GEN000002",
    ]
    report = montage.get("GEN000002").report
    assert report is not None
    assert "none" in report.text


def test_reports_of_two_patients_under_one_number_are_a_conflict(server: MontageServer, montage: Montage) -> None:
    server.add(samples.study(1))
    server.rows["other"] = {**server.rows["GEN000001"], "patient_mrn": "OTHER1"}
    assert montage.exists("GEN000001")
    with pytest.raises(Conflict) as caught:
        montage.get("GEN000001")
    assert "OTHER1" not in str(caught.value)


@pytest.mark.parametrize("day", ["20240102", "2024-01-02", "20240101-20240103", dt.date(2024, 1, 2)], ids=str)
def test_dates_are_sent_with_a_day_to_spare_and_checked_here(
    server: MontageServer, montage: Montage, day: str | dt.date
) -> None:
    server.add(samples.study())
    assert len(montage.find({"StudyDate": day})) == 1
    (words,) = server.searches
    assert words["start_date"] in ("2024-01-01", "2023-12-31")
    assert words["end_date"] in ("2024-01-03", "2024-01-04")


def test_windows_keep_keywords_and_refuse_less_than_a_day(server: MontageServer, montage: Montage) -> None:
    filled(server, 3)
    start, stop = dt.datetime(2024, 1, 1, 13), dt.datetime(2024, 1, 20)
    found = list(montage.iter_query_by_date({"AccessionNumber": "*001"}, start, stop, dt.timedelta(days=10)))
    assert [one.tags["AccessionNumber"] for one in found] == ["GEN000001"]
    assert [(one["start_date"], one["end_date"]) for one in server.searches] == [
        ("2024-01-01", "2024-01-10"),
        ("2024-01-11", "2024-01-19"),
    ]
    with pytest.raises(InvalidItem):
        list(montage.iter_query_by_date({}, start, stop, dt.timedelta(hours=3)))
    assert list(montage.iter_query_by_date({}, stop, start)) == []


def test_a_circle_of_body_parts_ends(server: MontageServer, gateway: Gateway) -> None:
    def ring(data: Any, _: Mapping[str, str]) -> Any:
        return {"code": "1", "anatomies": ["/api/v1/anatomy/5/"]} if "code" in data else data

    server.change = ring
    assert gateway.lookup_body_part(["7"]) == ["RING"]


@pytest.mark.parametrize(
    "answer", [[], {}, {"code": None, "anatomies": []}, {"code": "1", "anatomies": [{"id": "../x"}]}]
)
def test_codes_that_are_none_raise_and_are_asked_again(server: MontageServer, gateway: Gateway, answer: Any) -> None:
    server.change = lambda data, _: answer
    with pytest.raises(GatewayAnswerError):
        gateway.lookup_cpts(["7"])
    server.change = None
    assert gateway.lookup_cpts(["7"]) == ["71020"]


def test_a_cache_forgets_the_oldest_and_what_is_too_old() -> None:
    asked: list[str] = []

    def ask(key: str) -> Callable[[], str]:
        def answer() -> str:
            asked.append(key)
            return key

        return answer

    small: Cache[str] = Cache(2, 60)
    for key in "abacab":
        assert small.get(key, ask(key)) == key
    assert asked == ["a", "b", "c", "b"]
    old: Cache[str] = Cache(2, 0)
    for key in "xx":
        old.get(key, ask(key))
    assert asked[4:] == ["x", "x"]
