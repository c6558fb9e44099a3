"""The Orthanc endpoint and gateway against a real server: views, copies, metadata, sending, hard cases."""

from __future__ import annotations

import io
import json
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from diana.apis import osimis_extras
from diana.apis.orthanc import Orthanc
from diana.dixel import Dixel, DixelView, ShamDixel
from diana.exceptions import (
    Conflict,
    DianaError,
    GatewayConnectionError,
    GatewayError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.gateways import Orthanc as Gateway
from tests.contract import samples
from tests.helpers import free_port
from tests.planted import PASSWORD, PLANTED_USER
from tests.servers import OrthancServer

pytestmark = pytest.mark.live

STUDIES, INSTANCES = DicomLevel.STUDIES, DicomLevel.INSTANCES


@pytest.fixture
def there(clean_orthanc: OrthancServer) -> Iterator[Orthanc]:
    """An empty Orthanc."""
    found = Orthanc(url=clean_orthanc.url, user=clean_orthanc.user, password=clean_orthanc.password)
    yield found
    found.close()


@pytest.fixture
def study(there: Orthanc) -> str:
    """The id of a stored study of two series with two instances each."""
    items = list(samples.instances(1, 2, 2))
    for item in items:
        there.put(item)
    return items[0].parent_oid(STUDIES)


def test_all_views_come_together(there: Orthanc, study: str) -> None:
    item = samples.instance()
    there.putm(item, key="Source", value="scanner")
    view = DixelView.META | DixelView.METAKV | DixelView.TAGS | DixelView.FILE | DixelView.PIXELS
    found = there.get(item.oid(), INSTANCES, view)
    assert found.meta["Type"] == "Instance"
    assert (found.meta["Source"], found.meta["Origin"], found.meta["ID"]) == ("scanner", "RestApi", item.oid())
    assert found.tags["PatientID"] == item.tags["PatientID"]
    assert found.file == item.file
    assert found.get_pixels().shape == (8, 8)


def test_meta_keys_limit_metakv(clean_orthanc: OrthancServer, there: Orthanc, study: str) -> None:
    few = Orthanc(url=clean_orthanc.url, user=clean_orthanc.user, password=PASSWORD, meta_keys=["Origin", "Nothing"])
    assert few.get(samples.instance().oid(), INSTANCES, "metakv").meta.keys() == {"Origin", "ID"}


def test_the_file_of_a_study_is_a_zip_on_disk_that_closing_removes(there: Orthanc, study: str) -> None:
    found = there.get(study, view=DixelView.TAGS_FILE)
    assert found.blob is not None
    path = found.blob.path
    assert path is not None
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 4
    assert found.tags["AccessionNumber"] == "GEN000000"
    found.blob.close()
    assert not path.exists()


def test_pixels_alone_bring_what_their_values_need(there: Orthanc) -> None:
    item = samples.instance(0, RescaleSlope="2", RescaleIntercept="-10")
    found = there.get(there.put(item), INSTANCES, "pixels")
    assert found.blob is None
    assert int(found.get_pixels().min()) == -10


def test_pixels_of_a_study_are_refused(there: Orthanc, study: str) -> None:
    with pytest.raises(InvalidItem):
        there.get(study, STUDIES, "pixels")


def test_put_takes_a_file_from_disk(there: Orthanc, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(samples.instance().file or b"")
    item = Dixel(level=INSTANCES)
    item.blob = Blob(tmp_path / "a.dcm")
    assert there.put(item) == samples.instance().oid()
    assert there.digest(samples.instance()) == item.blob.digest()


def test_put_of_no_dicom_is_refused_for_good(there: Orthanc) -> None:
    item = Dixel(level=INSTANCES)
    item.file = b"no DICOM" * 100
    with pytest.raises(GatewayRefused) as caught:
        there.put(item)
    assert caught.value.temporary is False


def test_put_whose_tags_are_not_those_of_the_file_is_checked_by_its_bytes(there: Orthanc) -> None:
    item = samples.instance()
    item.tags["PatientID"] = "another"
    assert there.put(item) == samples.instance().oid()


def test_put_of_a_study_is_refused(there: Orthanc) -> None:
    with pytest.raises(InvalidItem):
        there.put(Dixel(tags={"StudyInstanceUID": "1.2"}))


@pytest.mark.parametrize("patient_id", samples.ODD_PATIENT_IDS, ids=repr)
def test_the_ids_of_odd_patients_are_foretold(there: Orthanc, patient_id: str) -> None:
    ds = samples.dataset(0, PatientID=patient_id)
    item = Dixel(tags={**samples.instance().tags, "PatientID": patient_id}, level=INSTANCES)
    item.file = samples.file_bytes(ds)
    assert there.put(item) == item.parent_oid(INSTANCES)
    assert there.exists(item) is True


def test_an_id_that_is_none_of_orthanc_s_is_absent_without_asking(there: Orthanc) -> None:
    for odd in ("../../system", "a?b", "nothing", "%2e%2e"):
        assert there.exists(odd) is False
        with pytest.raises(ItemNotFound):
            there.get(odd)


def test_a_uid_that_two_patients_share_is_not_guessed(there: Orthanc) -> None:
    there.put(samples.instance(0))
    there.put(samples.instance(0, PatientID="SOMEONE"))
    with pytest.raises(InvalidItem):
        there.get(Ref(STUDIES, study=samples.uid(1)))


def test_pull_of_a_patient_yields_all_instances(there: Orthanc, study: str) -> None:
    ref = Ref(DicomLevel.PATIENTS, patient="GENPID0000")
    assert len(list(there.pull(ref))) == 4


def test_an_instance_that_vanishes_while_it_is_pulled_is_named(there: Orthanc) -> None:
    items = list(samples.instances(1, 1, 30))
    for item in items:
        there.put(item)
    pull = there.pull(samples.above(items[0], STUDIES))
    first = next(pull)
    there.delete(items[-1])
    with pytest.raises(IncompleteTransfer) as caught:
        list(pull)
    assert caught.value.missing == [items[-1].tags["SOPInstanceUID"]]
    assert first.tags["SOPInstanceUID"] in caught.value.received
    assert len(caught.value.received) == 29


def test_a_pull_that_is_left_early_leaves_no_files(
    clean_orthanc: OrthancServer, there: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for item in samples.instances(1, 1, 20):
        there.put(item)
    there.gateway.http.spill = 10
    pull = there.pull(samples.above(samples.instance(), STUDIES))
    blob = next(pull).blob
    assert blob is not None
    pull.close()  # type: ignore[attr-defined]
    blob.close()
    assert list(tmp_path.iterdir()) == []


def test_anonymize_returns_the_id_of_a_new_study(there: Orthanc, study: str) -> None:
    asked = {"Replace": {"PatientID": "ANON1", "PatientName": "Anon"}, "Force": True}
    oid = there.anonymize(study, STUDIES, asked)
    assert isinstance(oid, str)
    assert oid != study
    assert there.get(oid).tags["PatientID"] == "ANON1"
    assert len(list(there.pull(oid))) == 4


def test_anonymize_by_default_makes_the_sham_study(there: Orthanc, study: str) -> None:
    tags = there.get(study)
    oid = there.anonymize(tags, use_default_map=True)
    assert oid == ShamDixel.from_dixel(tags).sham_oid()
    assert there.anonymize(study, use_default_map=True) == oid


def test_anonymize_of_an_instance_returns_its_file(there: Orthanc, study: str) -> None:
    found = there.anonymize(samples.instance(), replacement_map={"Replace": {"PatientName": "Anon"}})
    assert isinstance(found, Dixel)
    assert found.tags["PatientName"] == "Anon"
    assert there.statistics()["CountInstances"] == 4


def test_anonymize_without_a_map_is_refused(there: Orthanc, study: str) -> None:
    with pytest.raises(InvalidItem):
        there.anonymize(study)


@pytest.mark.parametrize("how", ["anonymize", "modify"])
def test_copies_of_what_is_absent_raise_item_not_found(there: Orthanc, how: str) -> None:
    with pytest.raises(ItemNotFound):
        getattr(there, how)(samples.instance(900), replacement_map={"Replace": {}})


def test_an_unknown_tag_in_a_map_is_refused_for_good(there: Orthanc, study: str) -> None:
    with pytest.raises(GatewayRefused):
        there.anonymize(study, STUDIES, {"Replace": {"NoSuchTag": "x"}})


def test_modify_returns_the_id_of_a_new_study(there: Orthanc, study: str) -> None:
    oid = there.modify(study, STUDIES, {"Replace": {"StudyDescription": "CHANGED"}})
    assert isinstance(oid, str)
    assert there.get(oid).tags["StudyDescription"] == "CHANGED"


def test_metadata_is_kept(there: Orthanc, study: str) -> None:
    there.putm(study, STUDIES, "Signature", "Ünï token")
    assert there.getm(study, STUDIES, "Signature") == "Ünï token"
    assert there.get(study, view="metakv").meta["Signature"] == "Ünï token"


def test_absent_metadata_raises_item_not_found(there: Orthanc, study: str) -> None:
    for key in ("Provenance", "NotConfigured"):
        with pytest.raises(ItemNotFound):
            there.getm(study, STUDIES, key)


@pytest.mark.parametrize("key", ["NotConfigured", "LastUpdate"])
def test_metadata_that_cannot_be_set_is_unsupported(there: Orthanc, study: str, key: str) -> None:
    with pytest.raises(Unsupported, match=key):
        there.update(study, {key: "x"})


def test_inventories_and_statistics(there: Orthanc, study: str) -> None:
    counts = [len(call()) for call in (there.patients, there.studies, there.series, there.instances)]
    assert counts == [1, 1, 2, 4]
    assert (there.statistics()["CountSeries"], there.info()["Version"][:2]) == (2, "1.")
    assert len(there.changes(0, 3)["Changes"]) == 3


def test_clear_needs_to_be_confirmed(there: Orthanc, study: str) -> None:
    with pytest.raises(InvalidItem):
        there.clear()
    assert there.studies() == [study]
    assert there.clear(confirm=True) == 1
    assert there.studies() == []


def test_psend_sends_to_a_peer(there: Orthanc, study: str, clean_orthanc: OrthancServer, servers: Any) -> None:
    other = servers.orthanc()
    clean_orthanc.add_peer("other", other.url, other.user, other.password)
    dest = Orthanc(url=other.url, user=other.user, password=other.password, peername="other")
    there.psend(study, dest)
    assert dest.exists(study) is True
    with pytest.raises(ItemNotFound):
        there.psend(study, "nobody")
    with pytest.raises(ItemNotFound):
        there.psend(samples.instance(900), dest)
    other.kill()
    with pytest.raises(GatewayConnectionError):
        there.psend(study, dest)


def test_rfind_and_retrieve_through_a_modality(
    there: Orthanc, study: str, clean_orthanc: OrthancServer, servers: Any
) -> None:
    other = servers.orthanc(aet="OTHER")
    other.upload(samples.instance(4).file)
    other.add_modality("back", clean_orthanc.aet, clean_orthanc.dicom_port)
    clean_orthanc.add_modality("pacs", "OTHER", other.dicom_port)
    there.gateway.recho("pacs")
    (found,) = there.rfind({"AccessionNumber": "GEN000004", "StudyInstanceUID": ""}, "pacs", "studies")
    assert found.tags["StudyInstanceUID"] == samples.uid(5)
    assert there.exists(samples.instance(4)) is False
    there.rfind({"StudyInstanceUID": samples.uid(5)}, "pacs", "studies", retrieve=True)
    assert there.exists(samples.instance(4)) is True
    assert there.rfind({"AccessionNumber": "NOTHING"}, "pacs") == []
    with pytest.raises(ItemNotFound):
        there.rfind({"AccessionNumber": "X"}, "nobody")
    other.kill()
    for call in (lambda: there.rfind({"AccessionNumber": "X"}, "pacs"), lambda: there.gateway.recho("pacs")):
        with pytest.raises(GatewayConnectionError):
            call()


def test_wrong_credentials_are_refused_and_do_not_say_absent(clean_orthanc: OrthancServer) -> None:
    wrong = Orthanc(url=clean_orthanc.url, user=PLANTED_USER, password="wrong")
    for call in (lambda: wrong.exists(samples.instance()), lambda: wrong.put(samples.instance())):
        with pytest.raises(GatewayRefused) as caught:
            call()
        assert caught.value.status == 401
    assert wrong.check() is False


def test_the_gateway_is_usable_alone(clean_orthanc: OrthancServer) -> None:
    alone = Gateway(host="127.0.0.1", port=clean_orthanc.http_port, user=clean_orthanc.user, password=PASSWORD)
    data = samples.instance().file or b""
    oid = alone.put(data)["ID"]
    assert alone.get(oid, INSTANCES, "file").read() == data
    assert alone.get(oid, INSTANCES)["PatientID"] == "GENPID0000"
    assert alone.find({"Level": "Instance", "Query": {"PatientID": "GENPID0000"}}) == [oid]
    assert alone.inventory(INSTANCES) == [oid]
    assert alone.changes(0, 1)["Last"] > 0
    alone.delete(oid, INSTANCES)
    with pytest.raises(ItemNotFound):
        alone.delete(oid, INSTANCES)
    assert alone.reset() == 0
    assert PASSWORD not in repr(alone)
    alone.close()


@pytest.mark.parametrize("url", [True, False])
def test_credentials_in_the_address_never_show(clean_orthanc: OrthancServer, url: bool) -> None:
    place = clean_orthanc.url.replace("http://", f"http://{PLANTED_USER}:{PASSWORD}@")
    found = Orthanc(url=place)
    assert found.check() is True
    assert PASSWORD not in repr(found) + found.json() + str(found.asdict())


def test_annotations_of_the_osimis_viewer(orthanc_factory: Callable[..., OrthancServer]) -> None:
    server = orthanc_factory(config={"UserContentType": {"annotations": 9999}})
    there = Orthanc(url=server.url, user=server.user, password=server.password)
    item = samples.instance(ImagePositionPatient=["1", "2", "3"])
    there.put(item)
    study = there.get(item.parent_oid(STUDIES))
    assert there.get_annotation(study) is None
    ellipse = {"handles": {"start": {"x": 1, "y": 2}, "end": {"x": 3.5, "y": 4}}, "imageResolution": {"width": 8}}
    content = json.dumps({f"{item.oid()}:0": {"ellipticalRoi": {"data": [ellipse]}}, "x:0": {"length": {}}}).encode()
    server.rest("PUT", f"/studies/{study.oid()}/attachments/9999", content)
    found = osimis_extras.get_annotation(there, study)
    assert found is not None
    assert found["AccessionNumber"] == "GEN000000"
    (one,) = found["Annotations"]
    assert (one["start"], one["end"]) == ({"x": 1, "y": 2}, {"x": 3.5, "y": 4})
    assert one["SOPInstanceUID"] == item.tags["SOPInstanceUID"]
    assert there.get_annotation(study.oid()) == found
    server.rest("PUT", f"/studies/{study.oid()}/attachments/9999", b'{"a": [')
    with pytest.raises(DianaError):
        there.get_annotation(study)


class TestTrouble:
    """The server between calls, and a network that breaks."""

    @pytest.fixture
    def shaky(self, clean_orthanc: OrthancServer, flaky_proxy: Any) -> Iterator[tuple[Orthanc, Any]]:
        proxy = flaky_proxy(("127.0.0.1", clean_orthanc.http_port))
        found = Orthanc(url=proxy.url, user=clean_orthanc.user, password=PASSWORD, timeout=(1, 1))
        yield found, proxy
        found.close()

    FAULTS = (
        *({"kind": "status", "status": status} for status in (204, 302, 400, 401, 403, 404, 429, 500, 502, 503, 504)),
        {"kind": "html_200"},
        {"kind": "refuse"},
        {"kind": "reset", "dir": "down", "after_bytes": 20},
        {"kind": "truncate", "dir": "down", "after_bytes": 20},
        {"kind": "truncate", "dir": "down", "after_bytes": 400},
        {"kind": "close_before_response"},
        {"kind": "close_after_request"},
        {"kind": "wrong_length", "extra": 10},
        {"kind": "blackhole", "s": 3},
        {"kind": "redirect", "location": "http://127.0.0.1:1/"},
    )

    @pytest.mark.parametrize("fault", FAULTS, ids=str)
    def test_trouble_never_says_absent(self, shaky: tuple[Orthanc, Any], fault: dict[str, Any]) -> None:
        there, proxy = shaky
        item = samples.instance()
        there.put(item)
        proxy.set_rules([{"fault": fault}])
        calls: list[Callable[[], Any]] = [
            lambda: there.exists(item),
            lambda: there.digest(item),
            lambda: there.get(item, view="tags"),
            lambda: list(there.pull(samples.above(item, STUDIES))),
            lambda: there.find({"PatientID": "GENPID0000"}),
            lambda: there.delete(item),
        ]
        for call in calls:
            with suppress(GatewayError, IncompleteTransfer):
                answer = call()
                assert answer is not False
                assert answer != []
            if fault["kind"] == "blackhole":
                break

    def test_a_put_whose_answer_was_lost_can_be_repeated(self, shaky: tuple[Orthanc, Any]) -> None:
        there, proxy = shaky
        proxy.set_rules([{"match": {"method": "POST", "times": 1}, "fault": {"kind": "close_before_response"}}])
        with pytest.raises(GatewayConnectionError):
            there.put(samples.instance())
        assert there.put(samples.instance()) == samples.instance().oid()
        with pytest.raises(Conflict):
            there.put(samples.instance(ImageComments="other"))

    def test_a_busy_server_says_for_how_long(self, shaky: tuple[Orthanc, Any]) -> None:
        there, proxy = shaky
        proxy.set_rules([{"fault": {"kind": "status", "status": 503, "retry_after": "+2"}}])
        with pytest.raises(GatewayConnectionError) as caught:
            there.put(samples.instance())
        assert 0 < (caught.value.retry_after or 0) <= 2

    def test_a_cut_archive_is_noticed(self, shaky: tuple[Orthanc, Any]) -> None:
        there, proxy = shaky
        there.put(samples.instance())
        proxy.set_rules([{"fault": {"kind": "truncate", "dir": "down", "after_bytes": 300}}])
        with pytest.raises(GatewayConnectionError):
            there.get(samples.above(samples.instance(), STUDIES), view="file")

    def test_a_restarted_server_is_used_again(self, clean_orthanc: OrthancServer, there: Orthanc) -> None:
        there.put(samples.instance())
        clean_orthanc.kill()
        with pytest.raises(GatewayConnectionError):
            there.exists(samples.instance())
        clean_orthanc.start()
        assert there.exists(samples.instance()) is True

    def test_a_frozen_server_does_not_hold_check_for_long(self, clean_orthanc: OrthancServer) -> None:
        there = Orthanc(url=clean_orthanc.url, user=clean_orthanc.user, password=PASSWORD)
        clean_orthanc.pause()
        done = threading.Event()
        thread = threading.Thread(target=lambda: (there.check(), done.set()))
        thread.start()
        assert done.wait(10)
        thread.join()
        clean_orthanc.resume()

    def test_a_thing_that_is_no_orthanc_fails_the_check(self) -> None:
        assert Orthanc(host="127.0.0.1", port=free_port()).check() is False


def test_a_file_written_by_a_real_server_is_whole(there: Orthanc) -> None:
    big = samples.instance(ImageComments="x" * 9000)
    there.put(big)
    (found,) = there.pull(big)
    assert io.BytesIO(found.file or b"").getvalue() == big.file
