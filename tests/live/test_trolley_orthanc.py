"""The trolley over a real Orthanc: every pair of searcher and downloader, and a server that is killed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from diana.apis import Orthanc
from diana.dixel import Dixel
from diana.exceptions import DianaError, IncompleteTransfer
from diana.trolley import (
    DICOMQR,
    CachedSearcher,
    QidoRS,
    Query,
    QueryLevels,
    SeriesReference,
    StorageDir,
    StudyReference,
    Trolley,
    WadoRS,
    WadoURI,
)
from diana.utils.dicom import DicomLevel
from diana.utils.endpoint import Endpoint
from tests.contract import samples
from tests.planted import PASSWORD
from tests.servers import OrthancServer

pytestmark = pytest.mark.live

STUDIES, SERIES, EACH = 2, 3, 4
SEARCHERS = ("qido", "dicom_qr", "dicom_qr_relational", "rest", "cached_qido")
DOWNLOADERS = ("wado_rs", "wado_rs_one_request", "wado_uri", "wado_uri_async", "rest", "session")


@pytest.fixture(scope="module")
def archive(orthanc: OrthancServer) -> OrthancServer:
    orthanc.resume()
    orthanc.start()
    orthanc.reset()
    rest = rest_of(orthanc)
    for item in samples.instances(STUDIES, SERIES, EACH):
        rest.put(item)
    return orthanc


def rest_of(server: OrthancServer) -> Orthanc:
    return Orthanc("http", "127.0.0.1", server.http_port, user=server.user, password=PASSWORD)


def part(name: str, server: OrthancServer) -> Endpoint:
    web = {"url": f"{server.url}/dicom-web", "user": server.user, "password": PASSWORD}
    uri = {**web, "url": f"{server.url}/wado"}
    session = requests.Session()
    session.auth = (server.user, PASSWORD)
    makers: dict[str, Callable[[], Endpoint]] = {
        "qido": lambda: QidoRS(**web),
        "cached_qido": lambda: CachedSearcher(QidoRS(**web)),
        "dicom_qr": lambda: DICOMQR("127.0.0.1", server.dicom_port, aec=server.aet),
        "dicom_qr_relational": lambda: DICOMQR("127.0.0.1", server.dicom_port, aec=server.aet, relational=True),
        "rest": lambda: rest_of(server),
        "wado_rs": lambda: WadoRS(**web),
        "wado_rs_one_request": lambda: WadoRS(**web, request_per_series=False),
        "wado_uri": lambda: WadoURI(**uri),
        "wado_uri_async": lambda: WadoURI(**uri, use_async=True, max_workers=3),
        "session": lambda: WadoRS(session, f"{server.url}/dicom-web"),
    }
    return makers[name]()


@pytest.fixture
def trolley(archive: OrthancServer) -> Iterator[Callable[[str, str], Trolley]]:
    made: list[Trolley] = []

    def make(searcher: str, downloader: str) -> Trolley:
        made.append(Trolley(part(searcher, archive), part(downloader, archive)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def files(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in folder.rglob("*.dcm")}


def wanted(study: int, *series: int) -> dict[str, bytes]:
    found = {}
    for m in series or range(SERIES):
        for k in range(EACH):
            found[samples.uid(study + 1, m + 1, k + 1)] = samples.instance(study, m, k).file or b""
    return found


@pytest.mark.parametrize("downloader", DOWNLOADERS)
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_every_pair_fetches_exactly_the_stored_files(
    trolley: Callable[[str, str], Trolley], searcher: str, downloader: str, tmp_path: Path
) -> None:
    pair = trolley(searcher, downloader)
    pair.download(StudyReference(samples.uid(1)), tmp_path / "study")
    assert files(tmp_path / "study") == wanted(0)
    pair.download(SeriesReference(samples.uid(2), samples.uid(2, 2)), tmp_path / "series", use_async=True)
    assert files(tmp_path / "series") == wanted(1, 1)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_every_searcher_finds_the_same_tree(trolley: Callable[[str, str], Trolley], searcher: str) -> None:
    pair = trolley(searcher, "wado_rs")
    query: dict[str, Any] = {"PatientName": "Gen*", "AccessionNumber": "GEN000001"}
    (study,) = pair.find_studies(Query(**query, query_level=QueryLevels.INSTANCE))
    assert study.uid == samples.uid(2)
    assert sorted(one.uid for one in study.series) == [samples.uid(2, m + 1) for m in range(SERIES)]
    assert len(study.all_instances()) == SERIES * EACH
    assert pair.find_studies(Query(PatientName="Nobody*")) == []
    assert len(pair.find_studies(Query(PatientName="Gen*"))) == STUDIES
    (series,) = pair.find_studies(Query(**query, query_level="SERIES"))
    assert series.max_object_depth() == DicomLevel.SERIES


def test_found_objects_are_fetched_without_another_search(
    trolley: Callable[[str, str], Trolley], tmp_path: Path
) -> None:
    pair = trolley("qido", "wado_uri")
    studies = pair.find_studies(Query(PatientName="Gen*", query_level=QueryLevels.INSTANCE))
    pair.searcher = None
    pair.download(studies[0].series[0].instances[:3], tmp_path)
    assert len(files(tmp_path)) == 3


class Killer(StorageDir):
    """Kill the server when the first file is stored; what is on its way by then is less than the rest."""

    def __init__(self, server: OrthancServer) -> None:
        super().__init__()
        self.server: OrthancServer | None = server

    def keep(self, dixel: Dixel, folder: Path) -> Path:
        """Store the file."""
        path = super().keep(dixel, folder)
        if self.server is not None:
            self.server.kill()
            self.server = None
        return path


@pytest.mark.parametrize("downloader", ["wado_rs", "wado_rs_one_request", "wado_uri", "rest"])
def test_a_server_that_is_killed_leaves_a_list_and_the_second_run_fetches_the_rest(
    orthanc_factory: Callable[..., OrthancServer], tmp_path: Path, downloader: str
) -> None:
    server = orthanc_factory(plugins=True)
    rest = rest_of(server)
    text = "x" * 400_000
    for k in range(60):
        rest.put(samples.instance(0, k % 3, k, TextValue=text))
    uids = {samples.uid(1, k % 3 + 1, k + 1) for k in range(60)}
    pair = Trolley(part("qido", server), part(downloader, server), Killer(server))
    with pytest.raises(IncompleteTransfer) as caught:
        pair.download(StudyReference(samples.uid(1)), tmp_path)
    there = set(files(tmp_path))
    assert set(caught.value.missing) == uids - there
    assert set(caught.value.received) == there
    with pytest.raises(DianaError):
        pair.download(StudyReference(samples.uid(1)), tmp_path)
    server.start()
    done = pair.download(StudyReference(samples.uid(1)), tmp_path)
    assert set(done.kept) == there
    assert set(done.stored) == uids - there
    assert set(files(tmp_path)) == uids
    pair.close()
