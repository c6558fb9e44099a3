"""The DICOMweb endpoints against the plugin of a real Orthanc: kills, large studies, odd values, bulk data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from diana.apis import DicomWeb, QidoRS, WadoRS, WadoURI
from diana.dixel import Dixel, DixelView
from diana.exceptions import GatewayRefused, IncompleteTransfer, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, Ref
from tests.contract import samples
from tests.planted import PASSWORD, PLANTED_USER
from tests.servers import OrthancServer, ServerPool

pytestmark = pytest.mark.live

WHO: dict[str, Any] = {"user": PLANTED_USER, "password": PASSWORD}
PIXELS = bytes(range(256)) * 1024


@pytest.fixture
def web(clean_orthanc: OrthancServer) -> Iterator[DicomWeb]:
    """An empty server."""
    found = DicomWeb(url=f"{clean_orthanc.url}/dicom-web", **WHO)
    yield found
    found.close()


def large(number: int, series: int = 0) -> Dixel:
    """Return an instance of 256 KiB."""
    ds = samples.dataset(0, series, number, Rows=512, Columns=256)
    ds.PixelData = PIXELS
    return Dixel.from_pydicom(ds, f"{number}.dcm", samples.file_bytes(ds))


def filled(server: OrthancServer, count: int, series: int = 4) -> dict[str, bytes]:
    items = [large(number, number % series) for number in range(count)]
    for item in items:
        server.upload(item.file or b"")
    return {str(item.tags["SOPInstanceUID"]): item.file or b"" for item in items}


def study(number: int = 0) -> Ref:
    return Ref(DicomLevel.STUDIES, study=samples.uid(number + 1))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("per_series", [True, False])
def test_a_killed_server_leaves_the_list_of_what_is_missing(
    servers: ServerPool, workers: int, per_series: bool
) -> None:
    server = servers.orthanc(plugins=True)
    files = filled(server, 120)
    web = DicomWeb(url=f"{server.url}/dicom-web", workers=workers, request_per_series=per_series, **WHO)
    came: dict[str, bytes] = {}

    def take(items: Iterator[Dixel], kill_at: int) -> None:
        for item in items:
            came[str(item.tags["SOPInstanceUID"])] = item.file or b""
            if len(came) == kill_at:
                server.kill()

    with pytest.raises(IncompleteTransfer) as caught:
        take(web.pull(study()), 20)
    assert set(caught.value.received) == set(came)
    assert set(caught.value.missing) == set(files) - set(came)
    assert 20 <= len(came) < 120
    server.start()
    rest = [str(item.tags["SOPInstanceUID"]) for item in web.pull_rest(study(), came)]
    assert set(rest) == set(files) - set(came)
    assert len(rest) == len(set(rest))
    web.close()


@pytest.mark.parametrize("session", [False, True])
def test_a_study_comes_as_it_is_stored(clean_orthanc: OrthancServer, session: bool) -> None:
    files = filled(clean_orthanc, 12, 3)
    owned = requests.Session() if session else None
    if owned is not None:
        owned.auth = (PLANTED_USER, PASSWORD)
    for workers in (1, 3):
        web = WadoRS(owned, f"{clean_orthanc.url}/dicom-web", workers=workers, **({} if session else WHO))
        found = {str(item.tags["SOPInstanceUID"]): item.file for item in web.pull(study())}
        assert found == files
        web.close()
    if owned is not None:
        owned.close()


def test_a_whole_study_is_stored_in_one_request(web: DicomWeb) -> None:
    items = [large(number) for number in range(5)]
    outcomes = list(web.put_batch(items))
    assert [outcome.error for outcome in outcomes] == [None] * 5
    assert [web.digest(item) for item in items] == [item.blob.digest() for item in items if item.blob]


def test_a_file_on_disk_is_stored_without_reading_it_whole(web: DicomWeb, tmp_path: Path) -> None:
    item = large(1)
    (tmp_path / "one.dcm").write_bytes(item.file or b"")
    data = item.file
    item.file = str(tmp_path / "one.dcm")  # type: ignore[assignment]  # the setter takes a path
    oid = web.put(item)
    assert web.get(oid, "instances", "file").file == data


def test_what_is_no_dicom_is_not_stored(web: DicomWeb) -> None:
    item = samples.instance()
    assert item.file is not None
    item.file = item.file[:200] + b"x" * 300
    with pytest.raises((GatewayRefused, ValueError)):
        web.put(item)


@pytest.mark.parametrize("name", ["Generated^Odd", "Ünïcode^Größe", "A B^C", "Pl+us^An%d", "Comma,Slash/Star^X"])
def test_names_are_found_as_they_are_written(web: DicomWeb, name: str) -> None:
    web.put(samples.instance(0, PatientName=name))
    web.put(samples.instance(1, PatientName="Zzz^Other"))
    (found,) = web.find({"PatientName": name})
    assert found.tags["PatientName"] == name
    assert len(web.find({"PatientName": f"{name[:2]}*"})) == 1


def test_times_and_dates_are_found_in_every_notation(web: DicomWeb) -> None:
    web.put(samples.instance(0))
    for wanted in (
        {"StudyTime": "1015"},
        {"StudyTime": "10:15:00"},
        {"StudyDate": "2020-01-11"},
        {"StudyTime": "10-11"},
    ):
        assert len(web.find(wanted)) == 1
    assert web.find({"StudyTime": "1016"}) == []


def test_keys_that_orthanc_passes_over_are_never_honoured_silently(web: DicomWeb) -> None:
    web.put(samples.instance(0))
    with pytest.raises(Unsupported):
        web.find({"InterpretationAuthor": "NOBODY"})


def test_many_rows_come_once_with_the_uids_above_them(clean_orthanc: OrthancServer) -> None:
    for item in samples.instances(3, 2, 4):
        clean_orthanc.upload(item.file or b"")
    qido = QidoRS(url=f"{clean_orthanc.url}/dicom-web", **WHO)
    found = qido.find({}, level="instances")
    assert len({item.tags["SOPInstanceUID"] for item in found}) == len(found) == 24
    assert all(item.ref.study and item.ref.series for item in found)
    (series,) = qido.find({"StudyInstanceUID": samples.uid(1), "SeriesNumber": 2}, level="series")
    assert series.tags["SeriesInstanceUID"] == samples.uid(1, 2)
    qido.close()


def test_tags_name_bulk_data_that_can_be_fetched(web: DicomWeb) -> None:
    item = large(0)
    oid = web.put(item)
    (row,) = web.metadata(item)
    assert row["StudyDescription"] == "GENERATED STUDY 0"
    assert web.bulkdata(row.bulk()["PixelData"]).read() == PIXELS
    (frame,) = web.frames(item, [1])
    assert frame.read() == PIXELS
    assert web.rendered(item).read()[:2] == b"\xff\xd8"
    assert web.get(oid, "instances", DixelView.PIXELS).pixels is not None


def test_a_transfer_syntax_can_be_asked_for(clean_orthanc: OrthancServer) -> None:
    clean_orthanc.upload(large(0).file or b"")
    web = WadoRS(url=f"{clean_orthanc.url}/dicom-web", transfer_syntax="1.2.840.10008.1.2.4.70", **WHO)
    (found,) = web.pull(study())
    assert found.meta["TransferSyntaxUID"] == "1.2.840.10008.1.2.4.70"
    web.close()


@pytest.mark.parametrize("use_async", [False, True])
def test_wado_uri_fetches_many(clean_orthanc: OrthancServer, use_async: bool) -> None:
    files = filled(clean_orthanc, 10, 2)
    items = [large(number, number % 2) for number in range(10)]
    uri = WadoURI(None, f"{clean_orthanc.url}/wado", use_async, 3, **WHO)
    assert {str(item.tags["SOPInstanceUID"]): item.file for item in uri.pull_many(items)} == files
    with pytest.raises(IncompleteTransfer) as caught:
        list(uri.pull_many([*items, large(99)]))
    assert caught.value.missing == [large(99).tags["SOPInstanceUID"]]
    uri.close()


def test_what_is_not_there_is_not_found(web: DicomWeb) -> None:
    for call in (lambda: list(web.pull(study(7))), lambda: web.metadata(study(7)), lambda: web.rendered(large(3))):
        with pytest.raises(ItemNotFound):
            call()


def test_wrong_credentials_are_refused(clean_orthanc: OrthancServer) -> None:
    web = DicomWeb(url=f"{clean_orthanc.url}/dicom-web", user="nobody", password="wrong")
    with pytest.raises(GatewayRefused):
        web.find({})
    assert web.check() is False
    web.close()
