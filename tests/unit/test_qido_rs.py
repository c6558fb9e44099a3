"""QIDO-RS: the two kinds of queries, paging, and answers that are not what they should be."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from diana.apis import QidoRS
from diana.apis.qido_rs import HierarchicalQuery, RelationalQuery
from diana.dixel import Dixel
from diana.exceptions import (
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayError,
    GatewayRefused,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.utils.dicom import Query
from tests.fakes.http_server import Reply, ScriptedServer, gzip_reply, html_reply, json_reply
from tests.planted import PLANTED_NAMES, assert_nothing_planted

KIND = {"Content-Type": "application/dicom+json"}
Bench = Callable[..., tuple[QidoRS, ScriptedServer]]


def study(number: int, **more: Any) -> dict[str, Any]:
    keys = {
        "StudyInstanceUID": ("0020000D", "UI"),
        "AccessionNumber": ("00080050", "SH"),
        "PatientName": ("00100010", "PN"),
        "StudyDate": ("00080020", "DA"),
        "SeriesInstanceUID": ("0020000E", "UI"),
        "SOPInstanceUID": ("00080018", "UI"),
        "ModalitiesInStudy": ("00080061", "CS"),
    }
    values = {"StudyInstanceUID": f"1.2.{number}", **more}
    return {
        keys[word][0]: {"vr": keys[word][1], "Value": value if isinstance(value, list) else [value]}
        for word, value in values.items()
        if value is not None
    }


def rows(*numbers: int, **more: Any) -> Reply:
    return json_reply([study(number, **more) for number in numbers])


NONE = json_reply([])
EMPTY = Reply(204)


@pytest.fixture(params=["own client", "session"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made: list[Any] = []

    def make(*replies: Reply) -> tuple[QidoRS, ScriptedServer]:
        server = ScriptedServer(list(replies)).__enter__()
        session = requests.Session() if request.param == "session" else None
        endpoint = QidoRS(session, f"{server.url}/qido", timeout=(1.0, 0.5))
        made.extend((endpoint, server, session))
        return endpoint, server

    yield make
    for one in made:
        if isinstance(one, ScriptedServer):
            one.__exit__(None, None, None)
        elif one is not None:
            one.close()


class Levels(str, Enum):
    """As the trolley has it."""

    STUDY = "STUDY"
    SERIES = "SERIES"


@pytest.mark.parametrize(
    ("query", "path"),
    [
        (HierarchicalQuery(), "/studies"),
        (HierarchicalQuery(StudyInstanceUID="1.2", query_level="SERIES"), "/studies/1.2/series"),
        (HierarchicalQuery(StudyInstanceUID="1.2", query_level=Levels.SERIES), "/studies/1.2/series"),
        (
            HierarchicalQuery(StudyInstanceUID="1.2", SeriesInstanceUID="3.4", query_level="instance"),
            "/studies/1.2/series/3.4/instances",
        ),
        (RelationalQuery(query_level="SERIES"), "/series"),
        (RelationalQuery(query_level="INSTANCE"), "/instances"),
        (RelationalQuery(query_level="INSTANCE", StudyInstanceUID="1.2"), "/studies/1.2/instances"),
    ],
)
def test_uri_base_is_the_path_of_the_standard(query: HierarchicalQuery | RelationalQuery, path: str) -> None:
    assert query.uri_base() == path


def test_uri_search_params_hold_what_is_not_empty() -> None:
    asked = HierarchicalQuery(
        PatientName="B*",
        min_study_date=dt.datetime(2015, 3, 1, 12),
        max_study_date=dt.date(2020, 3, 1),
        include_fields=["PatientBirthDate", "SOPClassesInStudy"],
        limit=5,
        offset=10,
    )
    assert asked.uri_search_params() == {
        "PatientName": "B*",
        "StudyDate": "20150301-20200301",
        "includefield": ["PatientBirthDate", "SOPClassesInStudy"],
        "limit": "5",
        "offset": "10",
    }


def test_uids_in_the_path_are_not_repeated_by_hierarchical_queries_only() -> None:
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "3.4", "query_level": "INSTANCE"}
    assert HierarchicalQuery(**uids).uri_search_params() == {}
    assert RelationalQuery(**uids).uri_search_params() == {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "3.4"}


def test_a_day_stays_a_range_of_one_day() -> None:
    day = dt.date(2000, 10, 12)
    assert HierarchicalQuery.date_to_str(day) == "20001012"
    assert HierarchicalQuery.date_range_to_str(day, day) == "20001012-20001012"
    assert HierarchicalQuery.date_range_to_str(None, None) == ""


@pytest.mark.parametrize(
    "make",
    [
        lambda: HierarchicalQuery(SeriesInstanceUID="1.2"),
        lambda: HierarchicalQuery(query_level="SERIES"),
        lambda: HierarchicalQuery(query_level="INSTANCE", StudyInstanceUID="1.2"),
        lambda: HierarchicalQuery(min_study_date=dt.date(2020, 1, 1)),
        lambda: HierarchicalQuery(include_fields=["NoKeyword"]),
        lambda: HierarchicalQuery(frobnicate=1),
        lambda: HierarchicalQuery(limit=-1),
        lambda: HierarchicalQuery(limit="5"),
        lambda: HierarchicalQuery(query_level="PATIENT"),
        lambda: HierarchicalQuery(PatientID=5),
        lambda: HierarchicalQuery(StudyInstanceUID="1/../2", query_level="SERIES").uri_base(),
        RelationalQuery,
        lambda: RelationalQuery(query_level="STUDY"),
    ],
)
def test_what_cannot_be_asked_raises_a_value_error_of_the_tree(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the point is the class
        make()
    assert isinstance(caught.value, DianaError)


def test_any_query_is_made_one_of_the_two_kinds() -> None:
    kept = RelationalQuery(query_level="SERIES")
    assert QidoRS.ensure_query_type(kept) is kept
    plain = SimpleNamespace(PatientName="B*", query_level=Levels.STUDY, include_fields=None, min_study_date=None)
    assert QidoRS.ensure_query_type(plain) == HierarchicalQuery(PatientName="B*")
    assert isinstance(QidoRS.ensure_query_type({"query_level": "INSTANCE"}), RelationalQuery)
    own = Query({"PatientID": "7", "StudyDate": "20200101-20200202", "StudyDescription": ""}, "studies", limit=3)
    assert QidoRS.ensure_query_type(own).uri_search_params() == {
        "PatientID": "7",
        "StudyDate": "20200101-20200202",
        "includefield": ["StudyDescription"],
        "limit": "3",
    }
    with pytest.raises(Unsupported):
        QidoRS.ensure_query_type({"InstitutionName": "x"})


def test_a_study_query_is_refused_for_its_own_reason() -> None:
    with pytest.raises(InvalidItem, match="both"):
        QidoRS.ensure_query_type({"min_study_date": dt.date(2020, 1, 1)})


def test_wildcards_and_slashes_go_raw_and_others_are_encoded(bench: Bench) -> None:
    qido, server = bench(NONE)
    assert qido.find({"PatientName": "Bäk^A*", "StudyDate": "20200101-20200102", "PatientID": "a/b,c&d"}) == []
    target = server.requests[0].target
    assert target.startswith("/qido/studies?")
    assert "PatientName=B%C3%A4k%5EA*&StudyDate=20200101-20200102&PatientID=a/b,c%26d" in target


def test_nothing_found_is_asked_again_without_what_must_be_decoded(bench: Bench) -> None:
    qido, server = bench(NONE, rows(1, PatientName=[{"Alphabetic": "A^B"}]), NONE)
    assert len(qido.find({"PatientName": "A^B"})) == 1
    assert "PatientName=A*B" in server.requests[1].target


@pytest.mark.parametrize("nothing", [NONE, EMPTY])
def test_nothing_is_an_empty_list(bench: Bench, nothing: Reply) -> None:
    qido, _ = bench(nothing)
    assert qido.find({}) == []


def test_pages_are_read_until_the_server_has_no_more(bench: Bench) -> None:
    qido, server = bench(rows(1, 2), rows(3), rows(4, 5), rows(6), EMPTY)
    assert [one.tags["StudyInstanceUID"] for one in qido.find({})] == [f"1.2.{n}" for n in range(1, 7)]
    assert ["offset=2" in one.target for one in server.requests[:2]] == [False, True]


def test_a_server_that_does_not_know_offset_is_not_asked_for_ever(bench: Bench) -> None:
    qido, server = bench(rows(1, 2))
    assert len(qido.find({})) == 2
    assert len(server.requests) == 2


def test_a_warning_is_said_and_the_rest_is_fetched(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    first = rows(1, 2)
    warned = Reply(body=first.body, headers={**KIND, "Warning": '299 pacs: "There are 1 additional results"'})
    qido, _ = bench(warned, rows(3), NONE)
    with caplog.at_level(logging.WARNING):
        assert len(qido.find({})) == 3
    assert "299" in caplog.text


def test_an_answer_that_is_cut_short_for_good_raises(bench: Bench) -> None:
    qido, _ = bench(Reply(body=rows(1, 2).body, headers={**KIND, "Warning": "299 pacs: more"}))
    with pytest.raises(GatewayAnswerError):
        qido.find({})


def test_a_limit_ends_the_search(bench: Bench) -> None:
    qido, server = bench(rows(1, 2, 3))
    assert len(qido.find({}, limit=2)) == 2
    assert "limit=2" in server.requests[0].target
    assert len(server.requests) == 1


def test_duplicates_come_once(bench: Bench) -> None:
    qido, _ = bench(rows(1, 1, 2), NONE)
    assert len(qido.find({})) == 2


def test_what_does_not_match_is_left_out(bench: Bench) -> None:
    answer = json_reply([study(1, AccessionNumber="A1"), study(2, AccessionNumber="B1"), study(3)])
    qido, _ = bench(answer, NONE)
    assert [one.tags["AccessionNumber"] for one in qido.find({"AccessionNumber": "A*"})] == ["A1"]


def test_a_key_that_the_server_passes_over_raises_unsupported(bench: Bench) -> None:
    qido, _ = bench(rows(1, 2), NONE)
    with pytest.raises(Unsupported, match="InstitutionName"):
        qido.find({"InstitutionName": "North"})


@pytest.mark.parametrize("query", [{"SOPInstanceUID": "1.2"}, {"SeriesNumber": 3}, {"any": [{"Modality": "CT"}]}])
def test_what_the_protocol_cannot_ask_raises_unsupported(bench: Bench, query: dict[str, Any]) -> None:
    qido, server = bench(NONE)
    with pytest.raises(Unsupported):
        qido.find(query)
    assert server.requests == []


def test_the_uids_of_the_path_are_filled_in(bench: Bench) -> None:
    answer = json_reply([study(0, StudyInstanceUID=None, SOPInstanceUID="5.6")])
    qido, server = bench(answer, NONE)
    asked = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "3.4"}
    (found,) = qido.find(asked, level="instances")
    assert found.tags == {**asked, "SOPInstanceUID": "5.6"}
    assert server.requests[0].target.startswith("/qido/studies/1.2/series/3.4/instances")


def test_the_modality_of_a_study_is_one_of_its_modalities(bench: Bench) -> None:
    qido, server = bench(json_reply([study(1, ModalitiesInStudy=["CT", "SR"])]), NONE)
    assert len(qido.find({"Modality": "CT"})) == 1
    assert "ModalitiesInStudy=CT" in server.requests[0].target


def test_several_values_are_requests_of_their_own(bench: Bench) -> None:
    qido, server = bench(rows(1), rows(2), NONE)
    assert len(qido.find({"StudyInstanceUID": ["1.2.1", "1.2.2"]})) == 2
    assert len(server.requests) == 2


def test_names_are_utf_8_whatever_the_server_says(bench: Bench) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=True))
    body = json_reply([study(1, PatientName=[groups])]).body
    qido, _ = bench(Reply(body=body, headers={"Content-Type": "application/json; charset=iso-8859-1"}), NONE)
    assert qido.find({})[0].tags["PatientName"] == name


BAD = {
    "html": html_reply(),
    "login page that redirects": Reply(302, headers={"Location": "http://elsewhere.example/login"}),
    "compressed": gzip_reply(b"[]"),
    "no JSON": Reply(body=b"[{", headers=KIND),
    "empty": Reply(body=b"", headers=KIND),
    "an object": json_reply({"error": "no"}),
    "a list of texts": json_reply(["x"]),
    "no UID": json_reply([{"00080050": {"vr": "SH", "Value": ["A"]}}]),
    "another model": json_reply([{"StudyInstanceUID": "1.2"}]),
    "a value that is no list": json_reply([{"0020000D": {"vr": "UI", "Value": "1.2"}}]),
    "xml": Reply(body=b"<x/>", headers={"Content-Type": "application/dicom+xml"}),
    "cut": Reply(body=rows(1).body, headers=KIND, length=4000),
    "latin-1": Reply(body=b'[{"00100010": "\xe4"}]', headers=KIND),
    "nested without end": Reply(body=b"[" * 200_000, headers=KIND),
    "reset": Reply(reset=True),
    "silent": Reply(silent=True),
    "400": Reply(400),
    "401": html_reply(401),
    "404": json_reply({}, status=404),
    "413": Reply(413),
    "500": html_reply(500),
    "503": Reply(503),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_answers_raise_gateway_errors(bench: Bench, name: str) -> None:
    qido, _ = bench(BAD[name])
    with pytest.raises(GatewayError) as caught:
        qido.find({"PatientName": PLANTED_NAMES[0]})
    assert_nothing_planted(str(caught.value))


def test_refusals_and_troubles_are_told_apart(bench: Bench) -> None:
    for reply, kind in ((Reply(401), GatewayRefused), (Reply(503), GatewayConnectionError)):
        qido, _ = bench(reply)
        with pytest.raises(kind):
            qido.find({})


def test_a_study_that_is_not_there_has_no_series(bench: Bench) -> None:
    qido, _ = bench(json_reply({"Details": "no"}, status=404))
    assert qido.find({"StudyInstanceUID": "1.2"}, level="series") == []


def test_get_and_exists_ask_for_one_item(bench: Bench) -> None:
    qido, server = bench(rows(7), NONE)
    assert qido.get("1.2.7").tags["StudyInstanceUID"] == "1.2.7"
    assert qido.exists(Dixel(tags={"StudyInstanceUID": "1.2.8"})) is False
    assert len(server.requests) == 2
    with pytest.raises(ItemNotFound):
        qido.get("../7")


def test_trolley_queries_give_rows(bench: Bench) -> None:
    qido, server = bench(rows(1, 2, 3))
    found = qido.rows(HierarchicalQuery(PatientName="*", limit=2, offset=4))
    assert [row["StudyInstanceUID"] for row in found] == ["1.2.1", "1.2.2"]
    assert "limit=2&offset=4" in server.requests[0].target


def test_decoded_answers_are_parsed() -> None:
    (row,) = QidoRS.parse_qido_response([study(1)])
    assert row["StudyInstanceUID"] == "1.2.1"
    with pytest.raises(GatewayAnswerError):
        QidoRS.parse_qido_response({"error": 1})


@pytest.mark.parametrize(
    ("status", "error"),
    [(204, ItemNotFound), (400, GatewayRefused), (503, GatewayConnectionError), (302, GatewayRefused)],
)
def test_responses_are_judged_by_their_status(status: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        QidoRS.check_for_response_errors(SimpleNamespace(status_code=status))
    QidoRS.check_for_response_errors(SimpleNamespace(status_code=200))
