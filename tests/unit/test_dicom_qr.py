"""C-FIND: answers of every kind give the right result, or an error of the right kind."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from diana.exceptions import (
    ConfigError,
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayRefused,
    Unsupported,
)
from diana.trolley import DICOMQR, DICOMQuery, Query
from diana.utils.dicom import DicomLevel
from diana.utils.gateways import dimse_pdu as p
from diana.utils.gateways.dicom_qr import FindAssociation, decode_identifier
from tests.fakes.find_server import DONE, FindServer, Say, row
from tests.helpers import free_port
from tests.planted import find_planted

ONE = row(StudyInstanceUID="1.2", PatientID="A", PatientName="B^C", StudyDate="20200101")
TWO = row(StudyInstanceUID="1.3", PatientID="A", PatientName="B^C", StudyDate="20200101")
Asked = Callable[..., tuple[DICOMQR, FindServer]]


@pytest.fixture
def asked() -> Iterator[Asked]:
    """Return an endpoint and the server that answers it by scripts."""
    servers: list[FindServer] = []

    def make(*scripts: Sequence[Say], **options: object) -> tuple[DICOMQR, FindServer]:
        servers.append(FindServer(scripts, **options).__enter__())  # type: ignore[arg-type]
        return DICOMQR("127.0.0.1", str(servers[-1].port), "AET", "AEC", timeout=(2, 2)), servers[-1]  # type: ignore[arg-type]

    yield make
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("syntax", [p.EXPLICIT_LITTLE, p.IMPLICIT_LITTLE])
def test_good_answers_give_the_studies(asked: Asked, syntax: str) -> None:
    qr, _ = asked([ONE, TWO, DONE], syntax=syntax)
    assert [one.uid for one in qr.find_studies(Query(PatientID="A"))] == ["1.2", "1.3"]
    assert str(qr.find_studies(Query())[0].data.PatientName) == "B^C"


def test_nothing_found_is_an_empty_list(asked: Asked) -> None:
    qr, _ = asked([DONE])
    assert qr.find_studies(Query(PatientName="nobody")) == []
    assert qr.exists({"PatientName": "nobody"}) is False


def test_the_same_answer_twice_is_one(asked: Asked) -> None:
    qr, _ = asked([ONE, ONE, Say(0xFF01, ONE.keys), DONE])
    assert len(qr.find({})) == 1


BAD: dict[str, tuple[list[Say], type[DianaError], int | None]] = {
    "out of resources": ([Say(0xA700)], GatewayConnectionError, 0xA700),
    "identifier does not match": ([Say(0xA900)], GatewayRefused, 0xA900),
    "unable to process": ([Say(0xC001)], GatewayRefused, 0xC001),
    "not authorized": ([Say(0x0124)], GatewayRefused, 0x0124),
    "class not supported": ([Say(0x0122)], GatewayRefused, 0x0122),
    "cancelled by the server": ([ONE, Say(0xFE00)], GatewayConnectionError, 0xFE00),
    "failure after answers": ([ONE, TWO, Say(0xC000)], GatewayRefused, 0xC000),
    "an unknown status": ([ONE, Say(0x1234)], GatewayRefused, 0x1234),
    "abort": ([Say(0xFF00, ONE.keys, "abort")], GatewayConnectionError, None),
    "connection closed": ([Say(0xFF00, ONE.keys, "close")], GatewayConnectionError, None),
    "silence": ([Say(0xFF00, ONE.keys, "silence")], GatewayConnectionError, None),
    "no pdu": ([Say(0xFF00, ONE.keys, "garbage")], GatewayAnswerError, None),
    "pending without identifier": ([Say(0xFF00)], GatewayAnswerError, None),
    "an empty identifier": ([Say(0xFF00, b"")], GatewayAnswerError, None),
    "a damaged identifier": ([Say(0xFF00, b"\x10\x00\x20\x00LO\xff\x0fabc")], GatewayAnswerError, None),
    "no study uid": ([row(PatientID="A"), DONE], GatewayAnswerError, None),
    "a study uid that is none": ([row(StudyInstanceUID="../x"), DONE], GatewayAnswerError, None),
    "another message": ([Say(0, message=99)], GatewayAnswerError, None),
    "another operation": ([Say(0, command=p.C_ECHO | p.RESPONSE)], GatewayAnswerError, None),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_raises_the_right_kind(asked: Asked, name: str) -> None:
    script, kind, status = BAD[name]
    qr, _ = asked(script)
    with pytest.raises(kind) as caught:
        qr.find_studies(Query())
    assert getattr(caught.value, "status", None) == status
    with pytest.raises(kind):
        qr.exists({"StudyInstanceUID": "9.9"})


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"reject": (1, 1, 7)}, GatewayRefused),
        ({"reject": (2, 3, 2)}, GatewayConnectionError),
        ({"deaf": True}, GatewayRefused),
    ],
)
def test_a_refused_association_raises(asked: Asked, options: dict[str, object], kind: type[DianaError]) -> None:
    qr, _ = asked([DONE], **options)
    with pytest.raises(kind):
        qr.find({})


def test_nobody_there_raises() -> None:
    with pytest.raises(GatewayConnectionError):
        DICOMQR("127.0.0.1", free_port()).find({})


def test_the_values_of_a_query_never_show(asked: Asked) -> None:
    qr, _ = asked([Say(0xC000)])
    with pytest.raises(DianaError) as caught:
        qr.find({"PatientName": "Zyxwv^Planted", "PatientID": "PLANTEDPID4711"})
    assert not find_planted(str(caught.value))


def test_a_key_that_the_node_does_not_answer_is_refused(asked: Asked) -> None:
    qr, _ = asked([row(StudyInstanceUID="1.2", PatientID="A"), DONE])
    with pytest.raises(Unsupported, match="ReferringPhysicianName"):
        qr.find({"ReferringPhysicianName": "X*"})


def test_uids_and_dates_hold_even_if_the_node_ignores_them(asked: Asked) -> None:
    qr, _ = asked([ONE, TWO, DONE])
    assert [one.meta["ID"] for one in qr.find({"StudyInstanceUID": "1.3"})] == ["1.3"]
    assert qr.find({"StudyDate": "20210101-"}) == []


def test_keys_are_sent_at_their_level(asked: Asked) -> None:
    series = [row(SeriesInstanceUID="1.2.3", Modality="CT"), DONE]
    images = [row(SOPInstanceUID="1.2.3.4", InstanceNumber="1"), DONE]
    qr, server = asked([ONE, DONE], series, images)
    query = DICOMQuery(PatientName="B*", Modality="CT", query_level="INSTANCE", include_fields=["InstanceNumber"])
    (study,) = qr.find_studies(query)
    assert study.series[0].instances[0].uid == "1.2.3.4"
    names = ("PatientName", "Modality", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "QueryRetrieveLevel")
    sent = [decode_identifier(one, p.EXPLICIT_LITTLE, names) for one in server.asked]
    assert [one["QueryRetrieveLevel"] for one in sent] == ["STUDY", "SERIES", "IMAGE"]
    assert [one.get("PatientName") for one in sent] == ["B*", None, None]
    assert [one.get("Modality") for one in sent] == [None, "CT", None]
    assert sent[2]["StudyInstanceUID"] == "1.2"
    assert sent[2]["SeriesInstanceUID"] == "1.2.3"
    assert sent[2]["InstanceNumber"] == ""


def test_open_ended_dates_are_sent_as_such(asked: Asked) -> None:
    qr, server = asked([DONE])
    qr.find_studies(DICOMQuery(min_study_date=dt.datetime(2015, 3, 1)))
    qr.find_studies(DICOMQuery(max_study_date=dt.date(2015, 4, 1)))
    sent = [decode_identifier(one, p.EXPLICIT_LITTLE, ("StudyDate",))["StudyDate"] for one in server.asked]
    assert sent == ["20150301-", "-20150401"]


def test_a_study_is_found_by_what_is_below_it(asked: Asked) -> None:
    qr, server = asked([ONE, TWO, DONE], [row(SeriesInstanceUID="1.2.3", Modality="MR"), DONE], [DONE])
    assert [one.meta["ID"] for one in qr.find({"Modality": "MR"})] == ["1.2"]
    assert len(server.asked) == 3


def test_a_limit_cancels_the_search(asked: Asked) -> None:
    qr, server = asked([ONE, TWO])
    assert len(qr.find({}, limit=1)) == 1
    assert server.cancels == 1


def test_a_server_that_does_not_heed_a_cancel_is_left(asked: Asked) -> None:
    qr, server = asked([ONE, TWO], after_cancel=0xFF00)
    assert len(qr.find({}, limit=1)) == 1
    assert server.cancels == 1


def test_one_association_serves_one_search_at_a_time(asked: Asked) -> None:
    _, server = asked([ONE, TWO, DONE])
    with FindAssociation("127.0.0.1", server.port, timeout=2) as association:
        rows = association.find(DicomLevel.STUDIES, {"StudyInstanceUID": ""})
        next(rows)
        with pytest.raises(GatewayRefused):
            next(association.find(DicomLevel.STUDIES, {"StudyInstanceUID": ""}))
        assert len(list(rows)) == 1
        assert len(list(association.find(DicomLevel.STUDIES, {"StudyInstanceUID": ""}, limit=1))) == 1


@pytest.mark.parametrize("text", ["", "x" * 17, "a\\b", "ä"])
def test_an_ae_title_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        DICOMQR("127.0.0.1", 104, text, "AEC")


def test_check_echoes(asked: Asked) -> None:
    qr, _ = asked([DONE], syntax=p.IMPLICIT_LITTLE)
    assert qr.check() is True
    assert DICOMQR("127.0.0.1", free_port()).check() is False


def test_names_in_any_script_come_back(asked: Asked) -> None:
    qr, server = asked([row(StudyInstanceUID="1.2", PatientName="Jörg^山田", SpecificCharacterSet="ISO_IR 192"), DONE])
    assert qr.find({"PatientName": "Jör*"})[0].tags["PatientName"] == "Jörg^山田"
    assert "Jör*".encode() in server.asked[0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate for 127.0.0.1 with its key, signed by itself."""
    import subprocess

    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = path.with_name("key.pem")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(path),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


def test_tls_is_spoken_and_checked(asked: Asked, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    _, server = asked([ONE, DONE], tls=context)
    place = ("127.0.0.1", server.port)
    assert len(DICOMQR(*place, tls=True, verify=str(certificate)).find({})) == 1
    assert len(DICOMQR(*place, tls=True, verify=False).find({})) == 1
    with pytest.raises(GatewayRefused, match="trusted"):
        DICOMQR(*place, tls=True).find({})
    with pytest.raises(ConfigError):
        DICOMQR(*place, tls=True, cert="/nowhere.pem").find({})
