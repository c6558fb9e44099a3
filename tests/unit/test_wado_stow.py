"""WADO-RS, WADO-URI and STOW-RS against a server that misbehaves on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from diana.apis import DicomWeb, StowRS, WadoRS, WadoRSMetadata, WadoURI
from diana.dixel import Dixel, DixelView
from diana.exceptions import (
    Conflict,
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
)
from diana.utils.dicom import DicomLevel, Ref
from tests.contract import samples
from tests.fakes.http_server import Reply, ScriptedServer, gzip_reply, html_reply, json_reply

DICOM = "application/dicom"
MULTI = {"Content-Type": f'multipart/related; type="{DICOM}"; boundary=xyz'}
FILES = [item.file or b"" for item in samples.instances(1, 1, 3)]
UIDS = [samples.uid(1, 1, number) for number in (1, 2, 3)]
STUDY, SERIES = samples.uid(1), samples.uid(1, 1)
NO_LIST = Reply(404, b"{}", {"Content-Type": "application/json"})


def related(*files: bytes, kind: str = DICOM, end: bool = True) -> bytes:
    parts = [b"--xyz\r\nContent-Type: %s\r\n\r\n%s\r\n" % (kind.encode(), one) for one in files]
    return b"".join(parts) + (b"--xyz--\r\n" if end else b"")


def multi(*files: bytes, **options: Any) -> Reply:
    return Reply(body=related(*files), **{"headers": MULTI, **options})


def listed(*uids: str) -> Reply:
    return json_reply([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids])


Make = Callable[..., Any]


@pytest.fixture(params=["own client", "session"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Make an endpoint of a class over a server that gives replies; ``server`` is the last one."""
    made: list[Any] = []

    def start(cls: type[Any], *replies: Reply, **options: Any) -> Any:
        server = ScriptedServer(list(replies)).__enter__()
        session = requests.Session() if request.param == "session" else None
        options = {"timeout": (1.0, 0.3), "folder": str(tmp_path), **options}
        if cls is WadoRS:
            options = {"request_per_series": False, "list_first": False, **options}
        endpoint = cls(session, f"{server.url}/web", **options)
        made.extend((endpoint, server, session))
        start.server = server  # type: ignore[attr-defined]
        return endpoint

    yield start
    for one in made:
        if isinstance(one, ScriptedServer):
            one.__exit__(None, None, None)
        elif one is not None:
            one.close()
    assert list(tmp_path.iterdir()) == []


def study() -> Ref:
    return Ref(DicomLevel.STUDIES, study=STUDY)


def one(number: int = 0) -> Ref:
    return Ref(DicomLevel.INSTANCES, study=STUDY, series=SERIES, instance=UIDS[number])


def test_a_study_is_pulled_as_it_is_stored(make: Make) -> None:
    found = list(make(WadoRS, multi(*FILES)).pull(study()))
    assert [item.file for item in found] == FILES
    assert [item.tags["SOPInstanceUID"] for item in found] == UIDS
    sent = make.server.requests[0]  # type: ignore[attr-defined]
    assert sent.target == f"/web/studies/{STUDY}"
    assert sent.headers["accept"] == f'multipart/related; type="{DICOM}"; transfer-syntax=*'
    assert sent.headers["accept-encoding"] == "identity"


def test_transfer_syntaxes_can_be_chosen(make: Make) -> None:
    list(make(WadoRS, multi(*FILES), transfer_syntax=["1.2.840.10008.1.2.4.70", ""]).pull(study()))
    assert make.server.requests[0].headers["accept"] == (  # type: ignore[attr-defined]
        f'multipart/related; type="{DICOM}"; transfer-syntax=1.2.840.10008.1.2.4.70, multipart/related; type="{DICOM}"'
    )
    with pytest.raises(InvalidItem):
        WadoRS(url="http://h", transfer_syntax="jpeg\r\nX: y")


@pytest.mark.parametrize("where", [0.3, 0.5, 0.9, 0.999])
def test_an_early_end_says_what_came_and_what_is_missing(make: Make, where: float) -> None:
    body = related(*FILES)
    for framing in ({}, {"bare": True}):
        reply = Reply(body=body, headers=MULTI, cut=int(len(body) * where), **framing)
        came: list[str] = []
        with pytest.raises(IncompleteTransfer) as caught:
            came += [
                str(item.tags["SOPInstanceUID"])
                for item in make(DicomWeb, NO_LIST, listed(*UIDS), listed(), reply).pull(study())
            ]
        assert sorted(caught.value.received + caught.value.missing) == UIDS or where == 0.999
        assert caught.value.temporary


def test_a_body_without_closing_boundary_is_incomplete(make: Make) -> None:
    reply = Reply(body=related(*FILES, end=False), headers=MULTI)
    with pytest.raises(IncompleteTransfer) as caught:
        list(make(WadoRS, reply, Reply(500)).pull(study()))
    assert (caught.value.missing, caught.value.received) == ([], UIDS[:2])


def test_what_is_missing_is_asked_for_afterwards(make: Make) -> None:
    cut = Reply(body=related(*FILES[:2], end=False), headers=MULTI)
    with pytest.raises(IncompleteTransfer) as caught:
        list(make(WadoRS, cut, listed(*UIDS), listed()).pull(study()))
    assert caught.value.missing == UIDS[1:]


def test_fewer_instances_than_the_list_has_is_incomplete(make: Make) -> None:
    web = make(DicomWeb, NO_LIST, listed(*UIDS), listed(), multi(*FILES[:2]))
    with pytest.raises(IncompleteTransfer) as caught:
        list(web.pull(study()))
    assert caught.value.missing == UIDS[2:]


def test_a_partial_content_is_incomplete(make: Make) -> None:
    with pytest.raises(IncompleteTransfer) as caught:
        list(make(WadoRS, multi(*FILES[:1], status=206), listed(*UIDS), listed()).pull(study()))
    assert caught.value.missing == UIDS[1:]


def test_a_damaged_instance_does_not_stop_the_others(make: Make) -> None:
    web = make(DicomWeb, NO_LIST, listed(*UIDS), listed(), multi(FILES[0], FILES[1][:-5], FILES[2]))
    came: list[Any] = []
    with pytest.raises(IncompleteTransfer) as caught:
        came.extend(item.file for item in web.pull(study()))
    assert caught.value.missing == [UIDS[1]]
    assert caught.value.received == [UIDS[0], UIDS[2]]


def test_series_are_fetched_side_by_side_and_counted(make: Make) -> None:
    items = list(samples.instances(1, 2, 2))
    series = [samples.uid(1, 1), samples.uid(1, 2)]
    rows = [{"0020000E": {"vr": "UI", "Value": [uid]}, "00201209": {"vr": "IS", "Value": [2]}} for uid in series]
    files = [item.file or b"" for item in items]
    good = make(
        WadoRS,
        json_reply(rows),
        json_reply([]),
        multi(*files[:2]),
        multi(*files[2:]),
        request_per_series=True,
        workers=1,
    )
    assert [item.file for item in good.pull(study())] == files
    few = make(
        WadoRS,
        json_reply(rows),
        json_reply([]),
        multi(*files[:2]),
        multi(*files[2:3]),
        Reply(500),
        request_per_series=True,
        workers=1,
    )
    with pytest.raises(IncompleteTransfer) as caught:
        list(few.pull(study()))
    assert len(caught.value.received) == 3


def test_duplicates_come_once(make: Make) -> None:
    assert len(list(make(WadoRS, multi(FILES[0], FILES[0])).pull(study()))) == 1


def large(number: int) -> bytes:
    ds = samples.dataset(0, 0, number, Rows=1000, Columns=1000)
    ds.PixelData = bytes(2_000_000)
    return samples.file_bytes(ds)


def test_large_instances_are_files_until_they_are_closed(make: Make, tmp_path: Path) -> None:
    files = [large(0), large(1), FILES[2]]
    found = list(make(WadoRS, multi(*files), spill=1 << 20).pull(study()))
    assert [item.file for item in found] == files
    assert len(list(tmp_path.iterdir())) == 2
    for item in found:
        assert item.blob is not None
        item.blob.close()


def test_leaving_early_leaves_no_files(make: Make) -> None:
    pull = make(WadoRS, multi(large(0), large(1)), spill=1 << 20).pull(study())
    next(pull).blob.close()
    pull.close()


BAD: Mapping[str, tuple[Reply, type[DianaError]]] = {
    "another study": (multi(samples.instance(5).file or b""), GatewayAnswerError),
    "no DICOM": (multi(b"x" * 500), GatewayAnswerError),
    "another kind of part": (Reply(body=related(b"x", kind="text/html"), headers=MULTI), GatewayAnswerError),
    "html": (html_reply(), GatewayAnswerError),
    "json": (json_reply({}), GatewayAnswerError),
    "no boundary": (Reply(body=related(FILES[0]), headers={"Content-Type": "multipart/related"}), GatewayAnswerError),
    "no type": (Reply(body=related(FILES[0])), GatewayAnswerError),
    "empty": (Reply(headers=MULTI), GatewayConnectionError),
    "no parts": (Reply(body=b"--xyz--\r\n", headers=MULTI), GatewayAnswerError),
    "compressed": (gzip_reply(related(FILES[0])), GatewayAnswerError),
    "elsewhere": (Reply(302, headers={"Location": "http://elsewhere.example/"}), GatewayRefused),
    "silent": (Reply(silent=True), GatewayConnectionError),
    "reset": (Reply(reset=True), GatewayConnectionError),
    "no content": (Reply(204), ItemNotFound),
    "not found": (json_reply({"Details": "no"}, status=404), ItemNotFound),
    "gone": (Reply(410), ItemNotFound),
    "not found, says a web page": (html_reply(404), GatewayError),
    "not acceptable": (Reply(406), GatewayRefused),
    "no rights": (Reply(403), GatewayRefused),
    "busy": (Reply(503), GatewayConnectionError),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_answers_of_wado_rs_raise(make: Make, name: str) -> None:
    reply, error = BAD[name]
    with pytest.raises(error):
        list(make(WadoRS, reply).pull(study()))


@pytest.mark.parametrize("name", sorted(set(BAD) - {"no parts", "no boundary", "another kind of part", "no type"}))
def test_bad_answers_of_wado_uri_raise(make: Make, name: str) -> None:
    reply, error = BAD[name]
    with pytest.raises(GatewayError if issubclass(error, GatewayError) else error):
        list(make(WadoURI, reply).pull(one()))


def test_wado_uri_sends_its_parameters_raw(make: Make) -> None:
    uri = make(WadoURI, Reply(body=FILES[0], headers={"Content-Type": DICOM}), transfer_syntax="1.2.840.10008.1.2.1")
    (found,) = uri.pull(one())
    assert found.file == FILES[0]
    assert make.server.requests[0].target == (  # type: ignore[attr-defined]
        f"/web?requestType=WADO&studyUID={STUDY}&seriesUID={SERIES}&objectUID={UIDS[0]}"
        "&contentType=application/dicom&transferSyntax=1.2.840.10008.1.2.1"
    )


@pytest.mark.parametrize("data", [FILES[0][:-4], FILES[1], b"", FILES[0] + b"more"])
def test_wado_uri_takes_no_other_or_cut_file(make: Make, data: bytes) -> None:
    with pytest.raises(GatewayError):
        list(make(WadoURI, Reply(body=data, headers={"Content-Type": DICOM})).pull(one()))


def test_wado_uri_fetches_many_in_order_and_says_what_is_missing(make: Make) -> None:
    replies = [Reply(body=data, headers={"Content-Type": DICOM}) for data in FILES]
    uri = make(WadoURI, replies[0], Reply(404), replies[2])
    with pytest.raises(IncompleteTransfer) as caught:
        list(uri.pull_many([one(0), one(1), one(2)]))
    assert (caught.value.missing, caught.value.received) == ([UIDS[1]], [UIDS[0], UIDS[2]])


METADATA = [samples.dataset(0, 0, number).to_json_dict() for number in range(2)]


def test_metadata_of_a_study_are_what_its_instances_share(make: Make) -> None:
    found = make(WadoRSMetadata, Reply(body=json.dumps(METADATA).encode())).get(study())
    assert found.tags["StudyDescription"] == "GENERATED STUDY 0"
    assert "InstanceNumber" not in found.tags


@pytest.mark.parametrize(
    "reply",
    [
        html_reply(),
        json_reply([]),
        json_reply({}),
        json_reply([3]),
        json_reply([{"00080018": {"vr": "UI", "Value": [{"x": 1}]}}]),
        Reply(204),
        Reply(401),
        Reply(404),
        Reply(body=json.dumps(METADATA).encode(), length=90_000),
        Reply(206, json.dumps(METADATA).encode()),
    ],
)
def test_bad_metadata_raise(make: Make, reply: Reply) -> None:
    with pytest.raises((GatewayError, ItemNotFound, IncompleteTransfer)):
        make(WadoRSMetadata, reply).get(study())


OCTETS = {"Content-Type": 'multipart/related; type="application/octet-stream"; boundary=xyz'}


def test_bulk_data_come_from_the_same_server_only(make: Make) -> None:
    web = make(WadoRS, Reply(body=related(b"bytes", kind="application/octet-stream"), headers=OCTETS))
    server = make.server  # type: ignore[attr-defined]
    assert web.bulkdata(f"{server.url}/elsewhere/bulk/1").read() == b"bytes"
    assert server.requests[0].target == "/elsewhere/bulk/1"
    for uri in ("http://evil.example/bulk", "//evil.example/bulk", "file:///etc/passwd"):
        with pytest.raises(GatewayAnswerError):
            web.bulkdata(uri)
    assert len(server.requests) == 1


def test_frames_and_pictures(make: Make) -> None:
    frames = Reply(body=related(b"f1", b"f2", kind="application/octet-stream"), headers=OCTETS)
    picture = Reply(body=b"jpeg", headers={"Content-Type": "image/jpeg"})
    web = make(WadoRS, frames, picture, frames, html_reply())
    assert [blob.read() for blob in web.frames(one(), [1, 2])] == [b"f1", b"f2"]
    assert web.rendered(one(), frame=1, window="40,400,LINEAR").read() == b"jpeg"
    assert make.server.requests[1].target.endswith("/frames/1/rendered?window=40,400,LINEAR")  # type: ignore[attr-defined]
    with pytest.raises(GatewayAnswerError):
        list(web.frames(one(), [1]))
    with pytest.raises(GatewayAnswerError):
        web.rendered(one())
    with pytest.raises(InvalidItem):
        list(web.frames(one(), [0]))


def test_the_pixels_of_an_instance_are_an_array(make: Make) -> None:
    found = make(WadoRS, multi(FILES[0])).get(one(), view=DixelView.PIXELS)
    assert found.pixels is not None
    assert found.blob is None


def report(good: tuple[str, ...] = (), bad: Mapping[str, int] | None = None) -> dict[str, Any]:
    def item(uid: str, **codes: int) -> dict[str, Any]:
        found: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
        return found | {tag[1:]: {"vr": "US", "Value": [code]} for tag, code in codes.items()}

    found: dict[str, Any] = {"00081190": {"vr": "UR", "Value": ["http://h"]}}
    if good:
        found["00081199"] = {"vr": "SQ", "Value": [item(uid) for uid in good]}
    if bad:
        found["00081198"] = {"vr": "SQ", "Value": [item(uid, _00081197=code) for uid, code in bad.items()]}
    return found


def test_an_instance_is_stored_when_the_server_names_it(make: Make) -> None:
    stow = make(StowRS, json_reply(report((UIDS[0],))))
    assert stow.put(samples.instance()) == f"{STUDY}/{SERIES}/{UIDS[0]}"
    sent = make.server.requests[0]  # type: ignore[attr-defined]
    assert (sent.method, sent.target) == ("POST", "/web/studies")
    assert FILES[0] in sent.body
    assert int(sent.headers["content-length"]) == len(sent.body)


XML = (
    '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDicom"><DicomAttribute tag="00081199" vr="SQ">'
    '<Item number="1"><DicomAttribute tag="00081155" vr="UI"><Value number="1">%s</Value></DicomAttribute></Item>'
    "</DicomAttribute></NativeDicomModel>"
)


def xml(text: str) -> Reply:
    return Reply(body=text.encode(), headers={"Content-Type": "application/dicom+xml"})


def test_a_report_in_xml_counts_too(make: Make) -> None:
    assert make(StowRS, xml(XML % UIDS[0])).put(samples.instance())


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (json_reply(report()), GatewayAnswerError),
        (json_reply(report((UIDS[1],))), GatewayAnswerError),
        (json_reply(report(bad={UIDS[0]: 0xC000}), status=202), GatewayRefused),
        (json_reply(report((UIDS[0],), {UIDS[0]: 0xA900})), GatewayRefused),
        (json_reply(report(bad={UIDS[0]: 0xA700})), GatewayConnectionError),
        (json_reply(report(bad={UIDS[0]: 0x0111})), Conflict),
        (json_reply(report(bad={UIDS[0]: 0xC000}), status=409), GatewayRefused),
        (json_reply(report(bad={UIDS[0]: 0xA700}), status=409), GatewayConnectionError),
        (Reply(409, b"no JSON"), GatewayRefused),
        (Reply(200), GatewayAnswerError),
        (Reply(204), GatewayAnswerError),
        (html_reply(), GatewayAnswerError),
        (json_reply([]), GatewayAnswerError),
        (json_reply({"ok": True}), GatewayAnswerError),
        (json_reply({"00081199": {"vr": "SQ", "Value": ["x"]}}), GatewayAnswerError),
        (xml("<x"), GatewayAnswerError),
        (xml('<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'), GatewayAnswerError),
        (xml(XML % "1.2.3"), GatewayAnswerError),
        (Reply(503), GatewayConnectionError),
        (Reply(415), GatewayRefused),
    ],
)
def test_what_the_server_does_not_say_to_be_stored_is_not(make: Make, reply: Reply, error: type[Exception]) -> None:
    with pytest.raises(error):
        make(StowRS, reply).put(samples.instance())


def test_a_batch_has_an_outcome_for_each(make: Make) -> None:
    stow = make(StowRS, json_reply(report((UIDS[0],), {UIDS[2]: 0xA900}), status=202))
    items = [*samples.instances(1, 1, 3), Dixel(tags={}, level=DicomLevel.INSTANCES)]
    found = list(stow.put_batch(items))
    assert [type(outcome.error) for outcome in found] == [type(None), GatewayAnswerError, GatewayRefused, InvalidItem]
    assert [outcome.item for outcome in found] == items
    assert [bool(outcome.id) for outcome in found] == [True, False, False, False]
