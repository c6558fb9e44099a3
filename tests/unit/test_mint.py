"""MINT: answers of every kind give the right result, or an error of the right kind."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

import pytest
import requests

from diana.exceptions import (
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayRefused,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.trolley import Mint, MintQuery, Query, QueryLevels
from diana.utils.dicom import Query as Question
from tests.contract import samples
from tests.fakes.http_server import Reply, ScriptedServer, html_reply
from tests.fakes.mint_server import MintServer
from tests.planted import find_planted

NS = 'xmlns="http://medical.nema.org/mint"'
STUDY_UID = '<attr tag="0020000d" vr="UI" val="1.2"/>'
SERIES_UID = '<attr tag="0020000e" vr="UI" val="1.2.3"/>'
INSTANCE_UID = '<attr tag="00080018" vr="UI" val="1.2.3.4"/>'


def results(inner: str, *, level: str = "STUDY", head: str = "<?xml version='1.0' encoding='UTF-8'?>") -> bytes:
    return f'{head}<studySearchResults {NS} QueryLevel="{level}">{inner}</studySearchResults>'.encode()


def study(inner: str = STUDY_UID, attributes: str = 'studyUUID="u" version="3" lastModified="x"') -> str:
    return f"<study {attributes}>{inner}</study>"


def xml(body: bytes, kind: str = "text/xml", status: int = 200, **options: object) -> Reply:
    return Reply(status, body, {"Content-Type": kind}, **options)  # type: ignore[arg-type]


@pytest.fixture
def asked() -> Iterator[Callable[..., Mint]]:
    """Return a Mint that gets one scripted answer."""
    servers: list[ScriptedServer] = []

    def make(*replies: Reply, **options: object) -> Mint:
        servers.append(ScriptedServer(list(replies)).__enter__())
        return Mint(url=f"{servers[-1].url}/mint", timeout=(2, 2), **options)  # type: ignore[arg-type]

    yield make
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def archive() -> Iterator[MintServer]:
    with MintServer() as running:
        for item in samples.instances(3, 2, 2):
            running.add(item)
        yield running


GOOD = {
    "no studies": (results(""), []),
    "one": (results(study()), ["1.2"]),
    "no val is empty": (results(study(STUDY_UID + '<attr tag="00100010" vr="PN"/>')), ["1.2"]),
    "no vr": (results(study('<attr tag="0020000d" val="1.2"/>')), ["1.2"]),
    "no uuid": (results(study(attributes="")), ["1.2"]),
    "unknown elements": (results("<note/>" + study("<thumb/>" + STUDY_UID)), ["1.2"]),
    "upper case tag": (results(study('<attr tag="0020000D" vr="UI" val="1.2"/>')), ["1.2"]),
    "private tag": (results(study(STUDY_UID + '<attr tag="00091010" vr="LO" val="x"/>')), ["1.2"]),
    "twice the same": (results(study() + study()), ["1.2"]),
    "no namespace": (results(study()).replace(NS.encode(), b""), ["1.2"]),
    "comments": (results("<!-- a -->" + study()), ["1.2"]),
    "no declaration": (results(study(), head=""), ["1.2"]),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_answer_gives_the_studies(asked: Callable[..., Mint], name: str) -> None:
    body, uids = GOOD[name]
    mint = asked(xml(body))
    assert [one.uid for one in mint.find_studies(Query())] == uids
    assert [one.tags["StudyInstanceUID"] for one in mint.find({})] == uids


BAD: dict[str, tuple[Reply, type[DianaError]]] = {
    "html 401": (html_reply(401), GatewayRefused),
    "html 403": (html_reply(403), GatewayRefused),
    "html 404": (html_reply(404), GatewayRefused),
    "html 500": (html_reply(500), GatewayConnectionError),
    "html 503": (html_reply(503), GatewayConnectionError),
    "html with 200": (html_reply(200), GatewayAnswerError),
    "html served as xml": (xml(b"<html><body>log in</body></html>"), GatewayAnswerError),
    "redirect": (Reply(302, b"", {"Location": "http://127.0.0.1:1/"}), GatewayRefused),
    "empty body": (xml(b""), GatewayAnswerError),
    "no content": (Reply(204), GatewayAnswerError),
    "not xml": (xml(b"everything is fine"), GatewayAnswerError),
    "json": (Reply(200, b"[]", {"Content-Type": "application/json"}), GatewayAnswerError),
    "other xml": (xml(b"<studies/>"), GatewayAnswerError),
    "xml that ends early": (xml(results(study())[:-30]), GatewayAnswerError),
    "body shorter than announced": (xml(results(study()), cut=120), GatewayConnectionError),
    "document type": (xml(b"<!DOCTYPE r [<!ENTITY a 'b'>]>" + results(study(), head="")), GatewayAnswerError),
    "entity": (xml(results(study("&a;" + STUDY_UID))), GatewayAnswerError),
    "too deep": (xml(results("<a>" * 300 + "</a>" * 300)), GatewayAnswerError),
    "study without uid": (
        xml(results(study('<attr tag="00100010" vr="PN" val="Zyxwv^Planted"/>'))),
        GatewayAnswerError,
    ),
    "empty study": (xml(results(study(""))), GatewayAnswerError),
    "uid that is none": (xml(results(study('<attr tag="0020000d" vr="UI" val="../x"/>'))), GatewayAnswerError),
    "attr without tag": (xml(results(study(STUDY_UID + '<attr vr="PN" val="a"/>'))), GatewayAnswerError),
    "attr with an odd tag": (xml(results(study(STUDY_UID + '<attr tag="xyz" val="a"/>'))), GatewayAnswerError),
    "gzip": (Reply(200, b"x", {"Content-Encoding": "gzip", "Content-Type": "text/xml"}), GatewayAnswerError),
    "silence": (Reply(silent=True), GatewayConnectionError),
    "reset": (Reply(reset=True), GatewayConnectionError),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_raises_and_tells_nothing_of_patients(asked: Callable[..., Mint], name: str) -> None:
    reply, kind = BAD[name]
    mint = asked(reply)
    with pytest.raises(kind) as caught:
        mint.find_studies(Query(PatientName="Zyxwv^Planted"))
    assert not find_planted(str(caught.value))


@pytest.mark.parametrize("name", ["html 401", "html with 200", "xml that ends early", "reset"])
def test_a_bad_answer_never_looks_like_an_empty_one(asked: Callable[..., Mint], name: str) -> None:
    mint = asked(BAD[name][0])
    with pytest.raises(DianaError):
        mint.find({"PatientID": "x"})
    with pytest.raises(DianaError):
        mint.exists({"PatientID": "x"})
    assert mint.check() is False


def test_nested_elements_may_come_before_or_after_the_attributes(asked: Callable[..., Mint]) -> None:
    before = f"<series><instance>{INSTANCE_UID}</instance>{SERIES_UID}</series>{STUDY_UID}"
    after = f"{STUDY_UID}<series>{SERIES_UID}<instance>{INSTANCE_UID}</instance></series>"
    for inner in (before, after):
        mint = asked(xml(results(study(inner), level="INSTANCE")))
        (found,) = mint.find_studies(Query(query_level=QueryLevels.INSTANCE))
        assert found.series[0].instances[0].uid == "1.2.3.4"
        assert found.series[0].instances[0].study_uid == "1.2"


@pytest.mark.parametrize("inner", [f"{STUDY_UID}<series/>", f"{STUDY_UID}<series>{SERIES_UID}<instance/></series>"])
def test_a_series_or_instance_without_uid_raises(asked: Callable[..., Mint], inner: str) -> None:
    with pytest.raises(GatewayAnswerError):
        asked(xml(results(study(inner), level="INSTANCE"))).find_studies(Query(query_level="INSTANCE"))


def test_an_answer_of_another_level_raises(asked: Callable[..., Mint]) -> None:
    with pytest.raises(GatewayAnswerError, match="level"):
        asked(xml(results(study(), level="STUDY"))).find_studies(Query(query_level="INSTANCE"))


def test_sequences_are_read(asked: Callable[..., Mint]) -> None:
    item = '<item><attr tag="00080100" vr="SH" val="A"/></item>'
    nested = '<item><attributes><attr tag="00080100" vr="SH" val="B"/></attributes></item>'
    sequence = f'<attr tag="00081032" vr="SQ">{item}{nested}</attr>'
    (found,) = asked(xml(results(study(STUDY_UID + sequence)))).find_studies(Query())
    assert [one["CodeValue"] for one in found.tags["ProcedureCodeSequence"]] == ["A", "B"]
    assert [one.CodeValue for one in found.data.ProcedureCodeSequence] == ["A", "B"]


@pytest.mark.parametrize(
    ("charset", "coding", "head"),
    [
        ("text/xml", "utf-8", ""),
        ("text/xml", "utf-8", "<?xml version='1.0' encoding='UTF-8'?>"),
        ("text/xml; charset=iso-8859-1", "latin-1", ""),
        ("text/xml; charset=iso-8859-1", "utf-8", "<?xml version='1.0' encoding='UTF-8'?>"),
        ("application/xml", "latin-1", "<?xml version='1.0' encoding='ISO-8859-1'?>"),
    ],
)
def test_names_keep_their_letters(asked: Callable[..., Mint], charset: str, coding: str, head: str) -> None:
    inner = STUDY_UID + '<attr tag="00100010" vr="PN" val="Jörg^Ünï"/>'
    body = results(study(inner), head=head).decode().encode(coding)
    (found,) = asked(xml(body, charset)).find_studies(Query())
    assert str(found.data.PatientName) == "Jörg^Ünï"


def test_several_values_become_a_list(asked: Callable[..., Mint]) -> None:
    inner = STUDY_UID + '<attr tag="00080061" vr="CS" val="CT\\MR"/><attr tag="00081030" vr="LO" val="a\\b"/>'
    (found,) = asked(xml(results(study(inner)))).find({})
    assert found.tags["ModalitiesInStudy"] == ["CT", "MR"]
    assert found.tags["StudyDescription"] == "a\\b"


def test_what_is_asked_for_is_on_the_wire(archive: MintServer) -> None:
    mint = Mint(url=archive.url)
    mint.find_studies(MintQuery(PatientName="G*/x,", include_fields=["PatientID", "StudyDate"], limit=2))
    assert (
        archive.paths[-1]
        == "/mint/studies?PatientName=G*/x,&QueryLevel=STUDY&IncludeFields=PatientID,StudyDate&limit=2"
    )


def test_the_examples_of_the_trolley_run(archive: MintServer) -> None:
    mint = Mint(requests.Session(), archive.url)
    studies = mint.find_studies(
        Query(
            PatientName="Gen*",
            min_study_date=dt.datetime(year=2015, month=3, day=1),
            max_study_date=dt.datetime(year=2020, month=3, day=1),
            include_fields=["PatientBirthDate", "SOPClassesInStudy"],
            query_level="INSTANCE",
        )
    )
    assert len(studies) == 2
    assert len(studies[0].series[0].instances[:3]) == 2
    assert mint.find_study(MintQuery(PatientID="GENPID0001", limit=5)).tags["AccessionNumber"] == "GEN000001"
    assert mint.find_study_by_id(samples.uid(1)).mint_uuid
    with pytest.raises(ItemNotFound):
        mint.find_study(Query(PatientID="nobody"))
    with pytest.raises(InvalidItem):
        mint.find_study(Query(PatientName="Gen*"))


@pytest.mark.parametrize("keys", [("minStudyDate", "maxStudyDate"), ("min_study_date", "max_study_date")])
def test_dates_hold_whatever_the_server_calls_them(keys: tuple[str, str]) -> None:
    with MintServer(date_keys=keys) as server:
        for item in samples.instances(12):
            server.add(item)
        query = {"StudyDate": "20200301-20200630"}
        for mint in (Mint(url=server.url), Mint(url=server.url, date_keys=keys)):
            assert len(mint.find(query)) == 4
            assert len(mint.find(query, limit=3)) == 3
            between = MintQuery(min_study_date=dt.date(2020, 3, 1), max_study_date=dt.date(2020, 6, 30), limit=3)
            assert len(mint.find_studies(between)) == 3


def test_uids_hold_even_if_the_server_ignores_them(archive: MintServer) -> None:
    archive.ignored = {"StudyInstanceUID", "SeriesInstanceUID"}
    mint = Mint(url=archive.url)
    assert [one.uid for one in mint.find_studies(Query(StudyInstanceUID=samples.uid(2)))] == [samples.uid(2)]
    query = Query(StudyInstanceUID=samples.uid(2), SeriesInstanceUID=samples.uid(2, 1), query_level="INSTANCE")
    (found,) = mint.find_studies(query)
    assert [one.uid for one in found.series] == [samples.uid(2, 1)]


@pytest.mark.parametrize("key", ["ImageComments", "PixelData", "ProcedureCodeSequence"])
def test_a_key_that_mint_does_not_know_is_refused(archive: MintServer, key: str) -> None:
    with pytest.raises(Unsupported):
        Mint(url=archive.url).find({key: "x"})
    assert archive.requests == 0


def test_fields_are_checked_by_level(archive: MintServer) -> None:
    for level, field in (("STUDY", "InstanceNumber"), ("STUDY", "Modality"), ("SERIES", "Rows")):
        with pytest.raises(InvalidItem):
            MintQuery(query_level=level, include_fields=[field])
        with pytest.raises(Unsupported):
            Mint(url=archive.url).find(Question({}, level, fields=(field,)))
    MintQuery(query_level="INSTANCE", include_fields=["InstanceNumber", "Modality", "PatientID"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_study_date": dt.date(2020, 1, 1)},
        {"limit": -1},
        {"include_fields": ["NoKeyword"]},
        {"include_fields": "PatientID"},
        {"PatientName": 5},
        {"query_level": "PATIENT"},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DianaError):
        MintQuery(**wrong)  # type: ignore[arg-type]


def test_a_query_never_shows_its_values() -> None:
    query = MintQuery(PatientName="Zyxwv^Planted", PatientID="PLANTEDPID4711")
    assert not find_planted(repr(query) + query.to_short_string())


def test_a_field_that_a_searcher_lacks_is_refused(archive: MintServer) -> None:
    from diana.trolley import DICOMQuery

    with pytest.raises(Unsupported, match="ProtocolName"):
        Mint(url=archive.url).find_studies(DICOMQuery(ProtocolName="x"))


def test_the_metadata_of_the_reference_server_is_a_whole_study() -> None:
    with MintServer(reference=True) as server:
        for item in samples.instances(1, 2, 2):
            server.add(item)
        mint = Mint(url=server.url, dialect="reference")
        (found,) = mint.find_studies(Query(AccessionNumber="GEN000000"))
        assert [len(one.instances) for one in found.series] == [2, 2]
        assert found.series[0].instances[0].tags["Rows"] == "8"
        assert mint.metadata(found.mint_uuid).uid == found.uid
        with mint.binary_item(found.mint_uuid, 1).open() as stream:
            assert stream.read() == b"pixels1"
        with pytest.raises(ItemNotFound):
            mint.metadata("id-9.9.9")


def test_the_reference_server_is_searched_page_by_page() -> None:
    with MintServer(reference=True) as server:
        for item in samples.instances(120):
            server.add(item)
        assert len(Mint(url=server.url, dialect="reference").find({})) == 120


def test_the_reference_dialect_is_recognized_by_its_error(asked: Callable[..., Mint]) -> None:
    with pytest.raises(GatewayAnswerError, match="reference dialect"):
        asked(xml(results('<study studyInstanceUid="u" version="1"/>'))).find({})


@pytest.mark.parametrize("name", ["../../x", "..", "a/b", "", "a?b"])
def test_an_id_never_leads_elsewhere(asked: Callable[..., Mint], name: str) -> None:
    with pytest.raises(GatewayAnswerError):
        asked(xml(b"<study/>")).metadata(name)


def test_objects_are_equal_and_hashable(archive: MintServer) -> None:
    mint = Mint(url=archive.url)
    first, second = (mint.find_studies(Query(query_level="INSTANCE")) for _ in range(2))
    assert first == second
    assert len({*first, *second}) == 3
    assert first[0] != first[1]
    assert first[0].get(samples.uid(1, 1)).get(samples.uid(1, 1, 1)).data.SOPInstanceUID == samples.uid(1, 1, 1)
    assert '"series"' in first[0].dump_content()
