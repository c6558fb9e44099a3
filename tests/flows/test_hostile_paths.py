"""Values with paths, controls and tricks in them never name a file outside the folder, a URL or a key of others."""

from __future__ import annotations

import csv
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from diana.apis import CsvFile, DcmDir, DicomListener, ImageDir, Memory, ObservableDcmDir, Orthanc, Redis, ReportDir
from diana.daemons.rules import Route
from diana.daemons.steps import Pseudonymize
from diana.daemons.transfer import transfer
from diana.dixel import Dixel, DixelView, RadiologyReport
from diana.exceptions import DianaError, GatewayAnswerError, InvalidItem
from diana.ledger import Journal, Store
from diana.utils.dicom import DicomEventType, DicomLevel, Ref, read_header
from diana.utils.endpoint import Endpoint, Watcher
from diana.utils.gateways import dimse_pdu as p
from tests.contract import samples
from tests.fakes.hostile import FILE_TEXTS, TEXTS, files_below, nasty_dixel, nasty_file, nothing_outside
from tests.fakes.http_server import ScriptedServer, json_reply
from tests.servers import RedisServer

# pydicom warns about each odd value
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PLACES = ("sop", "study", "series", "patient", "accession", "fn")
CASES = [pytest.param(place, text, id=f"{place}-{name}") for place in PLACES for name, text in TEXTS.items()]
OIDS = "0123abcd-" * 4 + "0123abcd"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A folder with two floors above it that must stay as they are."""
    folder = tmp_path / "above" / "target"
    folder.mkdir(parents=True)
    with nothing_outside(folder):
        yield folder


def attempt(work: Callable[[], Any]) -> Any:
    """Return what a verb returns, or the error of the tree that it raises; anything else fails the test."""
    try:
        return work()
    except DianaError as error:
        return error


def try_everything(endpoint: Endpoint, item: Dixel, text: str) -> None:
    """Call every verb with an item and with a text as its id."""
    view = next(one for one in DixelView if one in endpoint.views)
    for given in (item, text, *(Ref(level, id=text) for level in DicomLevel)):
        attempt(lambda given=given: endpoint.exists(given))
        attempt(lambda given=given: endpoint.get(given, view=view))
        attempt(lambda given=given: list(endpoint.pull(given)))
        attempt(lambda given=given: endpoint.digest(given))
        attempt(lambda given=given: endpoint.update(given, item))
        attempt(lambda given=given: endpoint.delete(given))


@pytest.mark.parametrize(("place", "text"), CASES)
def test_a_folder_keeps_an_instance_inside_and_gives_it_back(target: Path, place: str, text: str) -> None:
    item = nasty_dixel(**{place: text})
    folder = DcmDir(str(target), 2, 2 if place in ("sop", "fn") else 0)
    if place == "sop" and not text.strip():
        with pytest.raises(InvalidItem):
            folder.put(item)
        return
    name = folder.put(item)
    assert folder.put(item) == name
    [file] = files_below(target)
    assert file.read_bytes() == item.file
    assert file.name.isprintable()
    assert len(file.name) <= 255
    assert folder.get(name, view=DixelView.FILE).file == item.file
    assert [one.file for one in folder.pull(name)] == [item.file]
    assert folder.delete(name) is True
    assert files_below(target) == []


@pytest.mark.parametrize(("place", "text"), CASES)
def test_no_verb_of_a_folder_leaves_it(target: Path, place: str, text: str) -> None:
    item = nasty_dixel(**{place: text})
    item.report = RadiologyReport("nothing to see")
    for endpoint in (DcmDir(str(target)), ImageDir(str(target)), ReportDir(str(target))):
        attempt(lambda endpoint=endpoint: endpoint.put(item))
        try_everything(endpoint, item, text)
    folder = DcmDir(str(target))
    attempt(lambda: folder.put_zipped(text, [item]))
    attempt(lambda: folder.get_zipped(text))
    files_below(target)


@pytest.mark.parametrize(("place", "text"), CASES)
def test_transfer_puts_inside_and_says_how_it_went(target: Path, place: str, text: str) -> None:
    source = Memory()
    item = nasty_dixel(**{place: text})
    with suppress(DianaError):
        source.put(item)
    receipt = transfer(source, DcmDir(str(target)), item)
    files = files_below(target)
    if receipt.state == "verified":
        assert [path.read_bytes() for path in files] == [item.file]
    else:
        assert receipt.reason
        assert text == " " or text not in receipt.reason or len(text) < 3


def test_two_hostile_uids_do_not_share_a_file(target: Path) -> None:
    folder = DcmDir(str(target))
    texts = [text for text in FILE_TEXTS.values() if text.strip() and len(text) < 60]
    assert len({folder.put(nasty_dixel(sop=text)) for text in texts}) == len(texts)


def test_links_on_the_way_are_not_followed(target: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("other")
    (outside / "secret.dcm").write_bytes(nasty_file("1.2.99"))
    (target / "link").symlink_to(outside)
    (target / "secret2.dcm").symlink_to(outside / "secret.dcm")
    folder = DcmDir(str(target))
    for name in ("link/secret.dcm", "secret2.dcm", "link/new.dcm"):
        assert isinstance(attempt(lambda name=name: folder.get(name)), DianaError)
        assert attempt(lambda name=name: folder.delete(name)) is not True
        attempt(lambda name=name: folder.put(nasty_dixel("1.2.98", fn=name)))
    assert folder.find({"SOPInstanceUID": "1.2.99"}, "instances") == []
    assert [path.name for path in outside.iterdir()] == ["secret.dcm"]


def test_a_watched_folder_is_routed_inside_under_pseudonyms(
    target: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    inbox = tmp_path_factory.mktemp("inbox")
    count = 0
    for place in ("sop", "study", "series", "patient", "accession"):
        for text in FILE_TEXTS.values():
            (inbox / f"{count}.dcm").write_bytes(nasty_file(**{"sop": f"1.2.3.{count}", place: text}))
            count += 1
    source = ObservableDcmDir(str(inbox), polling_interval=0.05, settle=0.01)
    journal = Journal(Store())
    watcher = Watcher(0.02, journal=journal, until_idle=True)
    route = Route("r", source, DicomEventType.FILE_ADDED, [DcmDir(str(target), durable=False)], steps=[Pseudonymize()])
    for trigger in route.triggers(journal.receipts):
        watcher.add_trigger(trigger)
    counts: dict[str, dict[str, int]] = {}
    end = watcher.journal.store.close
    watcher.journal.store.close = lambda: (counts.update(journal.counts()), end())[1]  # type: ignore[method-assign]
    watcher.run()
    assert sum(sum(states.values()) for states in counts.values()) > count // 2
    assert all(set(states) <= {"done", "dead"} for states in counts.values())
    for path in files_below(target):
        uid = read_header(path).instance
        assert path.name == f"{uid}.dcm"


def store_with(sock: socket.socket, uid: bytes, data: bytes) -> int | None:
    """Send one C-STORE by hand; return the status, None when the peer ended the association."""
    command = p.encode_command(
        {
            p.AFFECTED_CLASS: samples.SECONDARY_CAPTURE,
            p.COMMAND_FIELD: p.C_STORE,
            p.MESSAGE_ID: 1,
            p.PRIORITY: 0,
            p.DATA_SET_TYPE: 1,
            p.AFFECTED_INSTANCE: "9" * (len(uid) + len(uid) % 2),
        }
    ).replace(b"9" * (len(uid) + len(uid) % 2), uid + b"\0" * (len(uid) % 2))
    sock.sendall(p.data_pdu(1, command, command=True, last=True) + p.data_pdu(1, data, command=False, last=True))
    answer = sock.recv(4096)
    if not answer or answer[0] != p.P_DATA:
        return None
    [(_, _, _, piece)] = p.fragments(memoryview(answer)[6:])
    return p.number(p.decode_command(bytes(piece)), p.STATUS)


@pytest.fixture
def listener(target: Path) -> Iterator[DicomListener]:
    found = DicomListener(port=0, path=target, timeout=5)
    found.listen(lambda: None)
    yield found
    found.unlisten()


def associate(listener: DicomListener) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", listener.port), timeout=10)
    context = p.Context(1, samples.SECONDARY_CAPTURE, (p.EXPLICIT_LITTLE,))
    sock.sendall(p.encode_request(p.AssociateRequest("DIANA", "PEER", (context,))))
    assert sock.recv(4096)[0] == p.ASSOCIATE_AC
    return sock


def test_a_listener_spools_hostile_objects_under_its_own_names(listener: DicomListener, target: Path) -> None:
    archive = target / "archive"
    statuses = set()
    for place in ("sop", "study", "series", "patient", "accession"):
        for text in (one for one in TEXTS.values() if len(one) < 1000):
            item = nasty_file(**{"sop": "1.2.3.4", place: text})
            data = item[item.index(b"\x08\0\x05\0CS") :]
            uid = text.encode() if place == "sop" else b"1.2.3.4"
            with associate(listener) as sock:
                statuses.add(store_with(sock, uid, data))
    assert 0 in statuses
    names = listener._spool.names()
    for name in names:
        receipt = transfer(listener, DcmDir(str(archive), durable=False), Ref(DicomLevel.INSTANCES, id=name))
        assert receipt.state in ("verified", "failed", "incomplete"), receipt.reason
    assert {path.parent for path in files_below(target)} <= {target, archive}
    assert all(path.name in {*names, ".lock"} for path in target.iterdir() if path.is_file())


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_text_reaches_the_path_of_a_request(text: str) -> None:
    with ScriptedServer([json_reply({"ID": "x"})]) as server:
        orthanc = Orthanc(url=f"{server.url}/orthanc", timeout=(2, 2))
        item = nasty_dixel(patient=text, study=text, sop=text)
        attempt(lambda: orthanc.put(item))
        try_everything(orthanc, item, text)
        for view in (DixelView.META, DixelView.METAKV, DixelView.FILE):
            attempt(lambda view=view: orthanc.get(text, "studies", view))
        attempt(lambda: orthanc.getm(OIDS, "studies", text))
        attempt(lambda: orthanc.gateway.put_metadata(OIDS, DicomLevel.STUDIES, text, "1"))
        attempt(lambda: orthanc.psend(OIDS, text, "studies"))
        attempt(lambda: orthanc.rfind({"PatientID": text}, text))
        attempt(lambda: orthanc.gateway.attachment(OIDS, DicomLevel.INSTANCES, text))
        attempt(lambda: orthanc.gateway.answers(text))
        attempt(lambda: orthanc.gateway.wait_job(text))
        orthanc.close()
    for request in server.requests:
        parts = request.target.partition("?")[0].split("/")
        assert parts[:2] == ["", "orthanc"]
        assert ".." not in parts
        assert "." not in parts
        assert len(parts) <= 8
        assert set(request.headers) <= {
            "host",
            "accept-encoding",
            "user-agent",
            "authorization",
            "content-length",
            "content-type",
            "expect",
        }
        hidden = [part for part in parts if text in unquote(part) and text not in part]
        assert all("%" in part for part in hidden)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_cell_of_a_table_is_a_formula_and_every_value_comes_back(target: Path, text: str) -> None:
    table = CsvFile(target / "table.csv", level="instances")
    item = Dixel(tags={"SOPInstanceUID": "1.2.3", "PatientID": text, "StudyDescription": text}, level="instances")
    if "\0" in text:
        with pytest.raises(InvalidItem):
            table.put(item)
        return
    table.put(item)
    raw = (target / "table.csv").read_bytes().decode()
    cells = [cell for row in csv.reader(raw.splitlines(keepends=True)) for cell in row]
    numbers = ("+1", "-1")
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r")) and cell not in numbers]
    again = CsvFile(target / "table.csv", level="instances").get("1.2.3", "instances")
    assert again.tags["PatientID"] == text


@pytest.mark.live
def test_redis_keys_and_patterns_from_values_stay_with_their_prefix(clean_redis: RedisServer) -> None:
    redis = Redis("127.0.0.1", clean_redis.port, password=clean_redis.password)
    redis.gateway.put("other", "mine")
    redis.gateway.add_members([("zz-other", "member")])
    for text in TEXTS.values():
        item = nasty_dixel(accession=text, fn=text)
        key = attempt(lambda item=item: redis.add_to_collection(item, prefix="acc-", path="/data"))
        assert isinstance(key, DianaError) or key.startswith("acc-")
        attempt(lambda text=text: redis.collections(text))
        attempt(lambda text=text: redis.count_collected(text))
        attempt(lambda text=text: redis.delete(text))
    assert redis.collections("acc-*") == [""]
    assert redis.collections("?cc-") == []
    assert set(redis.gateway.keys("", "set")) == {"zz-other"} | {f"acc-{one}" for one in redis.collections("acc-")}
    assert redis.gateway.get("other") == "mine"
    redis.close()


@pytest.mark.parametrize(
    "value", [float("inf"), float("nan"), 10**400, "9" * 5000, -1, True, [1], {"a": 1}, b"1", None]
)
def test_numbers_that_are_none_make_no_picture_name(target: Path, value: Any) -> None:
    item = nasty_dixel()
    item.tags["SeriesNumber"] = value
    name = attempt(lambda: ImageDir(str(target)).put(item))
    assert isinstance(name, DianaError) or len(name) < 255


def test_an_answer_that_names_a_hostile_id_is_an_answer_error() -> None:
    for text in TEXTS.values():
        replies = [json_reply({"ID": text, "Status": "Success"})]
        with ScriptedServer(replies) as server:
            orthanc = Orthanc(url=server.url, timeout=(2, 2))
            found = attempt(lambda orthanc=orthanc: orthanc.put(samples.instance()))
            orthanc.close()
        assert isinstance(found, DianaError)
        assert isinstance(found, GatewayAnswerError) or not found.temporary, type(found)
        assert all(request.target.startswith(("/instances", "/tools")) for request in server.requests)
