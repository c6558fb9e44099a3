"""RAD-69: answers of every kind give the right result, or an error of the right kind."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import requests
from pydicom import Dataset

from diana.dixel import Dixel
from diana.exceptions import (
    ConfigError,
    DianaError,
    GatewayAnswerError,
    GatewayConnectionError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
)
from diana.trolley import (
    InstanceReference,
    NonInstanceParameterError,
    Rad69,
    Rad69ServerError,
    StudyReference,
    XDSMissingDocumentError,
)
from tests.contract import samples
from tests.fakes.http_server import Reply, ScriptedServer, html_reply
from tests.fakes.rad69_server import (
    MULTIPART,
    Rad69Server,
    error,
    fault,
    message,
    multipart,
    multipart_reply,
    soap_reply,
)
from tests.planted import PLANTED_NAMES, find_planted

ITEMS = list(samples.instances(1, 1, 3))
UIDS = [str(item.tags["SOPInstanceUID"]) for item in ITEMS]
FILES = {uid: item.file or b"" for uid, item in zip(UIDS, ITEMS, strict=True)}
REFS = [InstanceReference(samples.uid(1), samples.uid(1, 1), uid) for uid in UIDS]
OTHER = samples.instance(5)
OTHER_UID = str(OTHER.tags["SOPInstanceUID"])


@pytest.fixture
def asked() -> Iterator[Callable[..., Rad69]]:
    """Return a Rad69 that gets scripted answers."""
    servers: list[ScriptedServer] = []

    def make(*replies: Reply, **options: object) -> Rad69:
        servers.append(ScriptedServer(list(replies)).__enter__())
        return Rad69(url=f"{servers[-1].url}/rids", timeout=(2, 2), **options)  # type: ignore[arg-type]

    yield make
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def archive() -> Iterator[Rad69Server]:
    with Rad69Server() as running:
        for item in samples.instances(2, 2, 3):
            running.add(item)
        yield running


def refs(*numbers: tuple[int, int, int]) -> list[InstanceReference]:
    return [
        InstanceReference(samples.uid(a + 1), samples.uid(a + 1, b + 1), samples.uid(a + 1, b + 1, c + 1))
        for a, b, c in numbers
    ]


ALL = refs(*((a, b, c) for a in range(2) for b in range(2) for c in range(3)))

INLINE = {uid: b64encode(data).decode() for uid, data in FILES.items()}

GOOD = {
    "mtom": multipart_reply(message(uids=UIDS), FILES),
    "documents in another order": multipart_reply(message(uids=UIDS), dict(reversed(FILES.items()))),
    "message last": multipart_reply(message(uids=UIDS), FILES, root_last=True),
    "base64 in plain soap": soap_reply(message(uids=UIDS, inline=INLINE)),
    "a warning": multipart_reply(message(uids=UIDS, errors=[error("Odd", severity="Warning")]), FILES),
    "end told by the connection": multipart_reply(message(uids=UIDS), FILES, bare=True),
    "in small pieces": multipart_reply(message(uids=UIDS), FILES, drip=100),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_answer_gives_every_file_as_it_is(asked: Callable[..., Rad69], name: str) -> None:
    found = list(asked(GOOD[name]).pull_many(ref.ref for ref in REFS))
    assert {str(one.tags["SOPInstanceUID"]): one.file for one in found} == FILES


def soap(text: bytes, status: int = 200) -> Reply:
    return soap_reply(text, status)


def swapped() -> dict[str, bytes]:
    return {UIDS[0]: FILES[UIDS[1]], UIDS[1]: FILES[UIDS[0]], UIDS[2]: FILES[UIDS[2]]}


CUT_FILE = {**FILES, UIDS[2]: FILES[UIDS[2]][:-20]}
GONE = [error(uid=uid) for uid in UIDS]
PERSONAL = error("XDSRepositoryError", context="of Zyxwv^Planted PLANTEDPID4711")

BAD: dict[str, tuple[Reply, type[DianaError]]] = {
    "all missing, plain": (soap(message("Failure", errors=GONE)), XDSMissingDocumentError),
    "all missing, in parts": (multipart_reply(message("Failure", errors=GONE), {}), XDSMissingDocumentError),
    "all missing, called partial": (soap(message("PartialSuccess", errors=GONE)), XDSMissingDocumentError),
    "some missing": (
        multipart_reply(message("PartialSuccess", UIDS[:2], GONE[2:]), dict(list(FILES.items())[:2])),
        IncompleteTransfer,
    ),
    "some missing, called success": (
        multipart_reply(message("Success", UIDS[:2], GONE[2:]), dict(list(FILES.items())[:2])),
        IncompleteTransfer,
    ),
    "some missing without a word": (
        multipart_reply(message("Success", UIDS[:2]), dict(list(FILES.items())[:2])),
        IncompleteTransfer,
    ),
    "a listed document does not come": (
        multipart_reply(message(uids=UIDS), dict(list(FILES.items())[:2])),
        IncompleteTransfer,
    ),
    "success without documents": (soap(message("Success")), IncompleteTransfer),
    "repository error": (soap(message("Failure", errors=[PERSONAL])), Rad69ServerError),
    "mixed errors": (soap(message("Failure", errors=[GONE[0], PERSONAL])), Rad69ServerError),
    "failure without reason": (soap(message("Failure")), Rad69ServerError),
    "busy": (soap(message("Failure", errors=[error("XDSRepositoryBusy")])), Rad69ServerError),
    "transfer syntax not possible": (
        soap(message("Failure", errors=[error("urn:dicom:wado:0007", UIDS[0])])),
        Rad69ServerError,
    ),
    "failure with documents": (multipart_reply(message("Failure", UIDS), FILES), Rad69ServerError),
    "soap fault with 200": (soap(fault()), Rad69ServerError),
    "soap fault with 500": (soap(fault(), 500), GatewayConnectionError),
    "soap fault of the sender with 500": (soap(fault("Sender"), 500), GatewayRefused),
    "fault in parts": (multipart_reply(fault(), {}), Rad69ServerError),
    "html with 200": (html_reply(200), GatewayAnswerError),
    "html 401": (html_reply(401), GatewayRefused),
    "html 500": (html_reply(500), GatewayConnectionError),
    "not xml": (soap(b"no"), GatewayAnswerError),
    "empty": (soap(b""), GatewayAnswerError),
    "other xml": (soap(b"<a/>"), GatewayAnswerError),
    "soap without content": (
        soap(b'<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope"><e:Body/></e:Envelope>'),
        GatewayAnswerError,
    ),
    "unknown status": (soap(message("Perhaps")), GatewayAnswerError),
    "entities": (soap(b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + message()), GatewayAnswerError),
    "no content type": (Reply(200, message("Failure")), GatewayAnswerError),
    "no boundary": (Reply(200, multipart(message(), FILES), {"Content-Type": "multipart/related"}), GatewayAnswerError),
    "no closing boundary": (multipart_reply(message(uids=UIDS), FILES, closing=False), IncompleteTransfer),
    "no closing boundary, end told by the connection": (
        multipart_reply(message(uids=UIDS), FILES, closing=False, bare=True),
        IncompleteTransfer,
    ),
    "cut in a document": (multipart_reply(message(uids=UIDS), FILES, cut=2500), IncompleteTransfer),
    "cut in the message": (multipart_reply(message(uids=UIDS), FILES, cut=200), IncompleteTransfer),
    "no message": (multipart_reply(None, FILES), GatewayAnswerError),
    "a file cut inside its pixels": (multipart_reply(message(uids=UIDS), CUT_FILE), IncompleteTransfer),
    "swapped documents": (multipart_reply(message(uids=UIDS), swapped()), GatewayAnswerError),
    "a document twice": (
        multipart_reply(message(uids=UIDS), {**FILES, "again": FILES[UIDS[0]]}),
        GatewayAnswerError,
    ),
    "a document nobody asked for": (
        multipart_reply(message(uids=[*UIDS, OTHER_UID]), {OTHER_UID: OTHER.file or b"", **FILES}),
        GatewayAnswerError,
    ),
    "a part that is no dicom": (multipart_reply(message(uids=UIDS), {UIDS[0]: b"<html/>"}), GatewayAnswerError),
    "a document elsewhere": (
        soap(message(uids=UIDS).replace(b"cid:", b"http://169.254.169.254/")),
        GatewayAnswerError,
    ),
    "broken base64": (soap(message(uids=UIDS, inline=dict.fromkeys(UIDS, "%%%"))), GatewayAnswerError),
    "silence": (Reply(silent=True), GatewayConnectionError),
    "reset": (Reply(reset=True), GatewayConnectionError),
    "redirect": (Reply(307, b"", {"Location": "http://127.0.0.1:1/"}), GatewayRefused),
    "gzip": (Reply(200, b"x", {"Content-Encoding": "gzip", "Content-Type": MULTIPART}), GatewayAnswerError),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_raises_the_right_kind(asked: Callable[..., Rad69], name: str) -> None:
    reply, kind = BAD[name]
    with pytest.raises(kind) as caught:
        list(asked(reply).pull_many(ref.ref for ref in REFS))
    assert not find_planted(str(caught.value))
    if isinstance(caught.value, IncompleteTransfer):
        missing, received = set(caught.value.missing), set(caught.value.received)
        assert not missing & received
        assert missing | received == set(UIDS)


def _closed(found: Dixel) -> None:
    assert found.blob is not None
    found.blob.close()


@pytest.mark.parametrize("name", BAD)
def test_no_temporary_file_is_left(asked: Callable[..., Rad69], name: str, tmp_path: Path) -> None:
    rad69 = asked(BAD[name][0], folder=str(tmp_path), spill=100)
    with pytest.raises(DianaError):
        list(map(_closed, rad69.pull_many(ref.ref for ref in REFS)))
    assert list(tmp_path.iterdir()) == []


def test_what_is_absent_is_an_item_not_found(asked: Callable[..., Rad69]) -> None:
    rad69 = asked(soap(message("Failure", errors=[error(uid=UIDS[0])])))
    with pytest.raises(ItemNotFound):
        rad69.get(REFS[0].ref, view="file")


@pytest.mark.parametrize(
    ("name", "temporary"), [("busy", True), ("repository error", False), ("soap fault with 200", True)]
)
def test_temporary_tells_what_may_be_tried_again(asked: Callable[..., Rad69], name: str, temporary: bool) -> None:
    with pytest.raises(DianaError) as caught:
        list(asked(BAD[name][0]).pull_many(ref.ref for ref in REFS))
    assert caught.value.temporary is temporary


def test_errors_to_ignore_are_passed_over(asked: Callable[..., Rad69]) -> None:
    for name, count in (("all missing, plain", 0), ("all missing, in parts", 0), ("some missing", 2)):
        rad69 = asked(BAD[name][0], errors_to_ignore=[XDSMissingDocumentError])
        assert len(list(rad69.datasets(REFS))) == count
    with pytest.raises(Rad69ServerError):
        list(asked(BAD["mixed errors"][0], errors_to_ignore=[XDSMissingDocumentError]).datasets(REFS))
    rad69 = asked(BAD["some missing without a word"][0], errors_to_ignore=[XDSMissingDocumentError])
    with pytest.raises(IncompleteTransfer):
        list(rad69.datasets(REFS))


def test_errors_to_ignore_are_classes() -> None:
    with pytest.raises(ConfigError):
        Rad69(url="http://127.0.0.1/rids", errors_to_ignore=["XDSMissingDocument"])  # type: ignore[list-item]


def test_the_request_names_each_study_once_and_escapes_what_it_says(archive: Rad69Server) -> None:
    rad69 = Rad69(url=archive.url, request_per_series=False, home='<"&', repository="1.2.3")
    envelope = ET.fromstring(rad69.create_instances_request(ALL))
    (request,) = envelope.iter("{urn:ihe:rad:xdsi-b:2009}RetrieveImagingDocumentSetRequest")
    studies = [one.get("studyInstanceUID") for one in request][:-1]
    assert studies == [samples.uid(1), samples.uid(2)]
    assert len(list(request.iter("{urn:ihe:iti:xds-b:2007}DocumentUniqueId"))) == 12
    assert next(request.iter("{urn:ihe:iti:xds-b:2007}HomeCommunityId")).text == '<"&'
    (action,) = envelope.iter("{http://www.w3.org/2005/08/addressing}Action")
    assert action.text == "urn:ihe:rad:2009:RetrieveImagingDocumentSet"
    assert rad69.create_instance_request(ALL[0]).count("DocumentRequest>") == 2


def test_ids_that_are_none_never_reach_the_server(archive: Rad69Server) -> None:
    rad69 = Rad69(url=archive.url)
    for uid in ("1.2<evil/>", "../x", ""):
        with pytest.raises((InvalidItem, ItemNotFound)):
            rad69.get_dataset(InstanceReference("1.2", "1.3", uid))
    assert archive.requests == 0


@pytest.mark.parametrize(("per_series", "count"), [(True, 4), (False, 1)])
def test_request_per_series_decides_how_many_requests(archive: Rad69Server, per_series: bool, count: int) -> None:
    rad69 = Rad69(requests.Session(), archive.url, request_per_series=per_series)
    found = list(rad69.datasets(ALL))
    assert len(found) == 12
    assert all(isinstance(one, Dataset) for one in found)
    assert archive.requests == count


@pytest.mark.parametrize("workers", [1, 3, 4, 50])
def test_async_fetches_everything_once(archive: Rad69Server, workers: int) -> None:
    rad69 = Rad69(url=archive.url, use_async=True, max_workers=workers)
    assert sorted(one.SOPInstanceUID for one in rad69.datasets(ALL)) == sorted(one.instance_uid for one in ALL)
    assert sorted(uid for uids in archive.asked for uid in uids) == sorted(one.instance_uid for one in ALL)
    assert [one.SOPInstanceUID for one in rad69.datasets_async(ALL[:1], 8)] == [ALL[0].instance_uid]


def test_one_bad_request_does_not_stop_the_others(archive: Rad69Server) -> None:
    gone = refs((0, 0, 7), (0, 0, 8))
    rad69 = Rad69(url=archive.url)
    found = []
    with pytest.raises(IncompleteTransfer) as caught:
        found.extend(one.tags["SOPInstanceUID"] for one in rad69.pull_many(ref.ref for ref in [*gone, *ALL[6:]]))
    assert caught.value.missing == [one.instance_uid for one in gone]
    assert caught.value.received == found == [one.instance_uid for one in ALL[6:]]


def test_nothing_to_fetch_is_no_request(archive: Rad69Server) -> None:
    rad69 = Rad69(url=archive.url, use_async=True)
    assert list(rad69.datasets([])) == []
    assert archive.requests == 0


def test_what_does_not_say_its_instances_is_refused(archive: Rad69Server) -> None:
    rad69 = Rad69(url=archive.url)
    for call in (rad69.datasets, rad69.datasets_single_thread, rad69.datasets_async, rad69.get_dataset):
        with pytest.raises(NonInstanceParameterError):
            call(StudyReference("1.2"))


def test_single_data_sets_and_series(archive: Rad69Server) -> None:
    rad69 = Rad69(url=archive.url)
    assert rad69.get_dataset(ALL[0]).PixelData == samples.dataset(0, 0, 0).PixelData
    assert len(list(rad69.download_iterator(ALL[:3]))) == 3
    assert len(list(rad69.series_download_iterator(ALL[:3], 1))) == 3
    with pytest.raises(XDSMissingDocumentError):
        rad69.get_dataset(refs((7, 0, 0))[0])


def test_split_instances_makes_even_piles() -> None:
    assert Rad69.split_instances([1, 2, 3, 4, 5], 2) == [[1, 2, 3], [4, 5]]
    assert Rad69.split_instances([1], 4) == [[1]]
    assert Rad69.split_instances([], 4) == []


@pytest.mark.parametrize("stream", [True, False])
def test_responses_of_requests_are_read(archive: Rad69Server, stream: bool) -> None:
    rad69 = Rad69(url=archive.url)
    text = rad69.create_instances_request(ALL[:3])
    with requests.post(archive.url, data=text, timeout=5, stream=stream) as response:
        rad69.verify_response(response)
        assert len(list(rad69.parse_rad69_response(response))) == 3


def test_responses_of_requests_that_are_errors_raise(archive: Rad69Server, asked: Callable[..., Rad69]) -> None:
    rad69 = Rad69(url=archive.url)
    text = rad69.create_instances_request(refs((7, 0, 0)))
    response = requests.post(archive.url, data=text, timeout=5)
    with pytest.raises(XDSMissingDocumentError):
        rad69.check_for_response_errors(response)
    Rad69(url=archive.url, errors_to_ignore=[Rad69ServerError]).verify_response(response)
    with pytest.raises(GatewayAnswerError):
        Rad69.parse_rad69_soap_error_response(
            requests.post(archive.url, data=rad69.create_instances_request(ALL), timeout=5)
        )
    archive.refuse = 503
    with pytest.raises(GatewayConnectionError):
        rad69.check_for_response_errors(requests.post(archive.url, data=text, timeout=5))


def test_large_documents_go_to_the_folder_and_leave_it(archive: Rad69Server, tmp_path: Path) -> None:
    archive.add(samples.instance(0, 0, 0, TextValue="x" * (3 << 20)))
    rad69 = Rad69(url=archive.url, folder=str(tmp_path), spill=100)
    pull = rad69.pull_many(ref.ref for ref in ALL)
    first = next(pull)
    assert first.blob is not None
    assert first.blob.path is not None
    assert first.blob.path.parent == tmp_path
    first.blob.close()
    pull.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_planted_names_are_what_the_tests_look_for() -> None:
    assert any(name in fault().decode() for name in PLANTED_NAMES)
