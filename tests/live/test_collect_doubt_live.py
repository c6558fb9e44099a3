"""Archives over real protocols that list what they do not give are never called verified."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diana.apis import DicomNode, DicomQR, Memory, Orthanc, ProxiedDicom, QidoRS, Trolley, WadoRS
from diana.daemons.collect_report import CollectReport
from diana.daemons.collector import Collector
from diana.daemons.worklist import rows_of
from diana.ledger import Item
from diana.utils.endpoint import Endpoint, ServiceManager
from diana.utils.gateways import dimse
from tests.contract import samples
from tests.helpers import free_port
from tests.live.test_collect_killed import CT
from tests.planted import PASSWORD, PLANTED_USER
from tests.servers import DcmqrscpServer, OrthancServer

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

LOST = samples.uid(1, 1, 2)
ALL = {samples.uid(1, 1, at) for at in (1, 2, 3)}
FILES = [samples.instance(0, 0, at, **CT).file or b"" for at in range(3)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diana.daemons.collect_task.Backoff.delay", lambda *_: 0.001)


def collected(source: Endpoint) -> tuple[Item, set[str]]:
    """Plan and run a study of three instances; return how it ended and what arrived."""
    dest, services, collector = Memory(name="dest"), ServiceManager(), Collector()
    services.hold("source", source)
    services.hold("dest", dest)
    plan = collector.plan("p", source, dest, rows_of(["GEN000000"]), tries=2)
    assert (plan.counts(), plan.instances) == ({"ready": 1}, 3)
    collector.execute(plan, services)
    outcomes = collector.outcomes("p")
    (item,) = outcomes.values()
    assert all(uid in CollectReport(plan, outcomes).html() for uid in item.outcome["missing"])
    collector.close()
    source.close()
    return item, {one.ref.instance for one in dest.find({}, "instances")}


def lose_from(folder: Path, uids: set[str]) -> None:
    """Remove files of an archive that goes on listing them."""
    for uid in uids:
        whole = re.compile(re.escape(uid.encode()) + b"[^.0-9]")
        (path,) = [
            one for one in folder.rglob("*") if one.is_file() and _is_dicom(one) and whole.search(one.read_bytes())
        ]
        path.unlink()


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


@pytest.fixture
def server(orthanc_factory: Callable[..., OrthancServer]) -> OrthancServer:
    """An Orthanc with three files, whose folder is at hand."""
    server = orthanc_factory(plugins=True)
    for data in FILES:
        server.upload(data)
    return server


def rest(server: OrthancServer) -> Orthanc:
    return Orthanc(url=server.url, user=server.user, password=server.password)


def web(cls: Any, server: OrthancServer) -> Any:
    return cls(url=f"{server.url}/dicom-web", user=PLANTED_USER, password=PASSWORD)


def node(server: OrthancServer) -> DicomNode:
    return DicomNode("127.0.0.1", server.dicom_port, aec=server.aet)


def qr(server: OrthancServer) -> DicomQR:
    return DicomQR("127.0.0.1", server.dicom_port, aec=server.aet)


@pytest.mark.parametrize("lost", [{LOST}, {samples.uid(1, 1, 1)}, ALL], ids=["one", "the first", "all"])
def test_files_that_an_orthanc_lists_and_has_lost_are_missed(server: OrthancServer, lost: set[str]) -> None:
    server.kill()  # it keeps in memory too what it stored
    lose_from(server.folder, lost)
    server.start()
    item, arrived = collected(rest(server))
    assert item.state in (("incomplete",) if len(lost) == 1 else ("incomplete", "failed"))
    assert {*item.outcome["missing"], *item.outcome["rejected"]} == lost
    assert arrived == ALL - lost
    assert item.reason


TROLLEYS: dict[str, Callable[[OrthancServer, OrthancServer], Endpoint]] = {
    "QIDO-RS and WADO-RS": lambda lists, gives: Trolley(web(QidoRS, lists), web(WadoRS, gives)),
    "C-FIND and REST": lambda lists, gives: Trolley(qr(lists), rest(gives)),
    "C-FIND and WADO-RS": lambda lists, gives: Trolley(qr(lists), web(WadoRS, gives)),
    "REST and C-GET": lambda lists, gives: Trolley(rest(lists), node(gives)),
}


@pytest.mark.parametrize("make", TROLLEYS.values(), ids=TROLLEYS)
@pytest.mark.parametrize("lost", [{LOST}, ALL], ids=["one", "all"])
def test_what_one_server_lists_and_the_other_does_not_give_is_missed(
    server: OrthancServer,
    clean_orthanc: OrthancServer,
    make: Callable[[OrthancServer, OrthancServer], Endpoint],
    lost: set[str],
) -> None:
    for at, data in enumerate(FILES, 1):
        if samples.uid(1, 1, at) not in lost:
            clean_orthanc.upload(data)
    item, arrived = collected(make(server, clean_orthanc))
    assert item.state in (("incomplete",) if len(lost) == 1 else ("incomplete", "failed"))
    assert {*item.outcome["missing"], *item.outcome["rejected"]} == lost
    assert arrived == ALL - lost
    assert item.reason


def filled(archive: DcmqrscpServer) -> DcmqrscpServer:
    assert all(one.ok for one in dimse.store(FILES, "127.0.0.1", archive.port, called_aet=archive.aet))
    return archive


@pytest.mark.parametrize("lost", [{LOST}, ALL], ids=["one", "all"])
@pytest.mark.parametrize("way", ["get", "move"])
def test_files_that_a_dicom_archive_lists_and_has_lost_are_missed(
    dcmqrscp_factory: Callable[..., DcmqrscpServer], way: str, lost: set[str]
) -> None:
    port = free_port()
    archive = filled(dcmqrscp_factory(peers={"DIANA": ("127.0.0.1", port)}))
    lose_from(archive.folder, lost)
    options = {"move_port": port} if way == "move" else {}
    item, arrived = collected(DicomNode("127.0.0.1", archive.port, aec=archive.aet, retrieve=way, **options))
    assert item.state in (("incomplete",) if len(lost) == 1 else ("incomplete", "failed"))
    assert (set(item.outcome["missing"]), arrived) == (lost, ALL - lost)


@pytest.mark.parametrize("way", ["proxied", "node"])
def test_a_move_that_succeeds_and_ends_elsewhere_is_not_believed(
    orthanc_factory: Callable[..., OrthancServer], dcmqrscp_factory: Callable[..., DcmqrscpServer], way: str
) -> None:
    near, elsewhere, port = orthanc_factory(aet="NEAR"), orthanc_factory(aet="ELSEWHERE"), free_port()
    away = ("127.0.0.1", elsewhere.dicom_port)
    far = filled(dcmqrscp_factory(peers={"NEAR": away, "DIANA": away}))
    near.add_modality("archive", far.aet, far.port)
    source: Endpoint = ProxiedDicom.through(rest(near), "archive")
    if way == "node":
        source = DicomNode("127.0.0.1", far.port, aec=far.aet, retrieve="move", move_port=port)
    item, arrived = collected(source)
    assert elsewhere.count() == 3
    assert item.state in ("incomplete", "failed")
    assert (set(item.outcome["missing"]), arrived) == (ALL, set())
    assert item.reason
