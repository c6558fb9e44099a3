"""Other people's clients fetch byte-identical files from ``diana.server``."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from diana.apis import DcmDir, Memory
from diana.server import HttpFace
from diana.server.scp import DicomFace
from tests.contract.samples import dataset, uid
from tests.fakes.make import instance

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

STUDY = "1.2.840.99.1"
SERIES = f"{STUDY}.1"


@pytest.fixture(params=["memory", "dcmdir"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Two studies: one of two series with three instances each, one of a single instance."""
    found = Memory() if request.param == "memory" else DcmDir(str(tmp_path))
    for series in (1, 2):
        for number in (1, 2, 3):
            found.put(instance(number, study=STUDY, series=series, size=32))
    found.put(instance(1, study="1.2.840.99.2", PatientName="Other^Generated", Modality="CT", StudyDate="20230506"))
    return found


@pytest.fixture
def face(archive: Any) -> Iterator[HttpFace]:
    with HttpFace(archive) as found:
        yield found


def digests(archive: Any, study: str = STUDY) -> dict[str, str]:
    """Return the MD5 of each stored file by SOP Instance UID."""
    found = archive.pull(study_ref(study))
    return {one.tags["SOPInstanceUID"]: md5(one.file) for one in found}


def study_ref(study: str) -> Any:
    from diana.utils.dicom import DicomLevel, Ref

    return Ref(DicomLevel.STUDIES, study=study)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestDicomwebClient:
    """dicomweb-client searches, retrieves and stores."""

    @pytest.fixture
    def client(self, face: HttpFace) -> Any:
        api = pytest.importorskip("dicomweb_client.api", reason="dicomweb-client is not installed")
        return api.DICOMwebClient(f"{face.url}/dicom-web")

    def test_searches_at_every_level(self, client: Any) -> None:
        (study,) = client.search_for_studies(search_filters={"PatientName": "test*"})
        assert study["0020000D"]["Value"] == [STUDY]
        assert study["00201208"]["Value"] == [6]
        assert study["00080061"]["Value"] == ["OT"]
        assert len(client.search_for_series(STUDY)) == 2
        assert len(client.search_for_instances(STUDY, SERIES)) == 3
        assert len(client.search_for_instances(STUDY)) == 6
        assert len(client.search_for_studies(limit=1, offset=1)) == 1
        assert client.search_for_studies(search_filters={"StudyDate": "20230101-20231231"})[0]["0020000D"]["Value"] == [
            "1.2.840.99.2"
        ]

    def test_retrieves_every_instance_of_a_study(self, client: Any, archive: Any) -> None:
        found = client.retrieve_study(STUDY)
        assert sorted(one.SOPInstanceUID for one in found) == sorted(digests(archive))

    def test_retrieves_metadata_frames_pictures_and_bulk_data(self, client: Any) -> None:
        one = (STUDY, SERIES, f"{SERIES}.2")
        metadata = client.retrieve_instance_metadata(*one)
        assert metadata["00280010"]["Value"] == [32]
        assert client.retrieve_instance_frames(*one, [1]) == [bytes([2]) * 1024]
        assert client.retrieve_instance_rendered(*one, media_types=("image/png",)).startswith(b"\x89PNG")
        assert client.retrieve_bulkdata(metadata["7FE00010"]["BulkDataURI"]) == [bytes([2]) * 1024]
        assert len(client.retrieve_study_metadata(STUDY)) == 6

    def test_stores_and_finds_again(self, client: Any) -> None:
        items = [dataset(7, 0, number) for number in range(3)]
        for one in items:
            one.preamble = bytes(128)
        answer = client.store_instances(items)
        assert len(answer.ReferencedSOPSequence) == 3
        assert len(client.retrieve_study(uid(8))) == 3


# its MINT parser gives numbers to pydicom as texts
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:A value of type 'str':UserWarning")
class TestDicomtrolley:
    """dicomtrolley finds and downloads over every protocol that it has."""

    @pytest.fixture(scope="class")
    def parts(self) -> Any:
        return pytest.importorskip("dicomtrolley.core", reason="dicomtrolley is not installed")

    @pytest.mark.parametrize("level", ["STUDY", "SERIES", "INSTANCE"])
    def test_mint_search_at_every_level(self, parts: Any, face: HttpFace, level: str) -> None:
        from dicomtrolley.mint import Mint, MintQuery

        query = MintQuery(
            PatientName="Test*", query_level=level, include_fields=["StudyDescription", "PatientBirthDate"]
        )
        (study,) = Mint(requests.Session(), f"{face.url}/mint").find_studies(query)
        assert study.uid == STUDY
        assert str(study.data.PatientName) == "Test^Generated"
        assert len(study.series) == (0 if level == "STUDY" else 2)
        assert [len(one.instances) for one in study.series] == (
            [3, 3] if level == "INSTANCE" else [0, 0][: len(study.series)]
        )

    @pytest.mark.parametrize("level", ["STUDY", "SERIES", "INSTANCE"])
    def test_qido_search_at_every_level(self, parts: Any, face: HttpFace, level: str) -> None:
        from dicomtrolley.qido_rs import HierarchicalQuery, QidoRS

        uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES if level == "INSTANCE" else ""}
        query = HierarchicalQuery(query_level=level, include_fields=["Modality"], **uids)
        (study,) = QidoRS(requests.Session(), f"{face.url}/dicom-web").find_studies(query)
        assert study.uid == STUDY

    def test_dicom_qr_search(self, parts: Any, archive: Any) -> None:
        from dicomtrolley.dicom_qr import DICOMQR, DICOMQuery

        with DicomFace(archive, port=0) as dicom:
            searcher = DICOMQR("127.0.0.1", dicom.port, aet="OTHER", aec="DIANA")
            (study,) = searcher.find_studies(DICOMQuery(PatientName="Test*", include_fields=["StudyDescription"]))
            assert study.uid == STUDY
            deep = searcher.find_study(DICOMQuery(StudyInstanceUID=STUDY, query_level="INSTANCE"))
            assert {one.uid for one in deep.all_instances()} == set(digests(archive))

    @pytest.mark.parametrize("kind", ["wado_uri", "wado_rs", "rad69", "rad69 as one"])
    def test_download_is_byte_identical(
        self, parts: Any, face: HttpFace, archive: Any, tmp_path: Path, kind: str
    ) -> None:
        from dicomtrolley.mint import Mint
        from dicomtrolley.rad69 import Rad69
        from dicomtrolley.trolley import Trolley
        from dicomtrolley.wado_rs import WadoRS
        from dicomtrolley.wado_uri import WadoURI

        session = requests.Session()
        downloader = {
            "wado_uri": lambda: WadoURI(session, f"{face.url}/wado"),
            "wado_rs": lambda: WadoRS(session, f"{face.url}/dicom-web"),
            "rad69": lambda: Rad69(session, f"{face.url}/rad69"),
            "rad69 as one": lambda: Rad69(session, f"{face.url}/rad69", request_per_series=False),
        }[kind]()
        trolley = Trolley(searcher=Mint(session, f"{face.url}/mint"), downloader=downloader)
        wanted = digests(archive)
        got = {str(one.SOPInstanceUID): one for one in trolley.fetch_all_datasets([parts_reference(STUDY)])}
        assert set(got) == set(wanted)
        for one in got.values():
            one.save_as(tmp_path / "out.dcm")
            assert md5((tmp_path / "out.dcm").read_bytes()) == wanted[one.SOPInstanceUID]

    def test_missing_document_is_reported(self, parts: Any, face: HttpFace) -> None:
        from dicomtrolley.core import InstanceReference
        from dicomtrolley.rad69 import Rad69, XDSMissingDocumentError

        gone = InstanceReference(study_uid=STUDY, series_uid=SERIES, instance_uid="1.2.3.4")
        with pytest.raises(XDSMissingDocumentError):
            list(Rad69(requests.Session(), f"{face.url}/rad69").datasets([gone]))


def parts_reference(study: str) -> Any:
    from dicomtrolley.core import StudyReference

    return StudyReference(study_uid=study)


def test_curl_gets_a_file_and_uploads_one(face: HttpFace, archive: Any, tmp_path: Path) -> None:
    curl = shutil.which("curl") or pytest.skip("curl is not installed")
    uid_of, wanted = next(iter(digests(archive).items()))
    series = uid_of.rpartition(".")[0]
    path = f"{face.url}/dicom-web/studies/{STUDY}/series/{series}/instances/{uid_of}"
    out = tmp_path / "got"
    subprocess.run([curl, "-sfH", "Accept: application/dicom", path, "-o", str(out)], check=True, timeout=30)
    assert md5(out.read_bytes()) == wanted
    new = instance(9, study=STUDY)
    (tmp_path / "new").write_bytes(new.file or b"")
    command = [curl, "-sf", "-H", "Content-Type: application/dicom", "--data-binary", f"@{tmp_path / 'new'}"]
    answer = subprocess.run([*command, f"{face.url}/dicom-web/studies"], check=True, timeout=30, capture_output=True)
    assert b"00081199" in answer.stdout
    assert digests(archive)[f"{STUDY}.1.9"] == md5(new.file or b"")
