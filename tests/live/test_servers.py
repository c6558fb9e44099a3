"""The servers of the test bed start, answer, fail loudly and leave no process behind."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from tests.conftest import ProxyFactory
from tests.helpers import REPO, accepts, free_port, process_exists, wait_for
from tests.servers import (
    DcmqrscpServer,
    OrthancServer,
    PostgresServer,
    RedisServer,
    RestError,
    ServerPool,
    ServerProcess,
    StorescpServer,
)

pytestmark = pytest.mark.live


def instance(number: int = 1) -> bytes:
    """Make a small secondary capture without pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    data = Dataset()
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = f"1.2.826.0.1.3680043.10.1.{number}"
    data.SeriesInstanceUID = "1.2.826.0.1.3680043.10.2"
    data.StudyInstanceUID = "1.2.826.0.1.3680043.10.3"
    data.PatientID, data.PatientName, data.Modality = "BED", "Bed^Test", "OT"
    data.StudyDate, data.StudyTime, data.AccessionNumber = "20200101", "120000", "BED1"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def dcmsend(program: Callable[[str, str], str], tmp_path: Path) -> Callable[..., None]:
    """Send one instance with dcmtk's storescu."""
    storescu = program("storescu", "dcmtk")

    def send(server: OrthancServer | DcmqrscpServer | StorescpServer, number: int = 1) -> None:
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(instance(number))
        port = server.dicom_port if isinstance(server, OrthancServer) else server.port
        subprocess.run([storescu, "-aec", server.aet, "127.0.0.1", str(port), str(path)], check=True, timeout=30)

    return send


@pytest.mark.parametrize("kind", ["orthanc", "dcmqrscp", "storescp", "redis", "postgres"])
def test_server_answers_restarts_and_leaves_nothing(servers: ServerPool, kind: str) -> None:
    server: ServerProcess = getattr(servers, kind)()
    first = server.pid
    assert server.answers()

    server.stop()
    assert not process_exists(first)
    assert not server.running
    assert not server.answers()

    server.start()
    second = server.pid
    assert second != first
    assert server.answers()

    server.kill()
    server.kill()
    assert not process_exists(second)

    server.start()
    third = server.pid
    servers.close()
    assert not process_exists(third)
    assert {path.name for path in server.folder.iterdir()} == {"server.log"}


def test_failed_start_shows_the_log(tmp_path: Path) -> None:
    broken = OrthancServer(
        tmp_path / "broken", config={"StorageDirectory": "/proc/none", "IndexDirectory": "/proc/none"}
    )
    with pytest.raises(AssertionError, match=r"Orthanc ended by itself\n--- end of .*server\.log\n[^$]*none"):
        broken.start()
    assert not broken.running


def test_paused_server_is_silent_and_resumes(redis_factory: Callable[..., RedisServer]) -> None:
    import redis

    server = redis_factory()
    with server.client(timeout=0.2) as client:
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        assert server.running
        server.resume()
        assert client.ping()


def test_paused_server_can_be_stopped(redis_factory: Callable[..., RedisServer]) -> None:
    server = redis_factory()
    pid = server.pid
    server.pause()
    begin = time.monotonic()
    server.stop()
    assert time.monotonic() - begin < 10
    assert not process_exists(pid)


def test_orthanc_keeps_content_over_a_kill(orthanc_factory: Callable[..., OrthancServer]) -> None:
    server = orthanc_factory(aet="KEEPER")
    port = server.http_port
    assert server.upload(instance())["Status"] == "Success"
    server.kill()
    server.start()
    assert server.http_port == port
    assert server.count() == 1
    assert server.upload(instance())["Status"] == "AlreadyStored"
    assert server.rest("GET", "/system")["DicomAet"] == "KEEPER"


def test_orthanc_wants_the_password(orthanc: OrthancServer) -> None:
    right, orthanc.password = orthanc.password, "wrong"
    try:
        with pytest.raises(RestError) as caught:
            orthanc.rest("GET", "/system")
    finally:
        orthanc.password = right
    assert caught.value.status == 401


def test_clean_orthanc_is_empty(clean_orthanc: OrthancServer) -> None:
    clean_orthanc.upload(instance())
    clean_orthanc.add_modality("x", "X", 104)
    clean_orthanc.add_peer("y", "http://127.0.0.1:1/")
    assert clean_orthanc.count("studies") == 1
    assert len(clean_orthanc.ids()) == 1
    assert clean_orthanc.rest("GET", "/changes")["Changes"]

    clean_orthanc.reset()
    assert clean_orthanc.count("patients") == 0
    assert clean_orthanc.rest("GET", "/changes")["Changes"] == []
    assert clean_orthanc.rest("GET", "/modalities") == []
    assert clean_orthanc.rest("GET", "/peers") == []


def test_orthanc_speaks_dicomweb_and_keeps_user_metadata(clean_orthanc: OrthancServer) -> None:
    oid = clean_orthanc.upload(instance())["ID"]
    studies = clean_orthanc.rest("GET", "/dicom-web/studies")
    assert [study["0020000D"]["Value"] for study in studies] == [["1.2.826.0.1.3680043.10.3"]]
    clean_orthanc.rest("PUT", f"/instances/{oid}/metadata/Source", b"here")
    assert clean_orthanc.rest("GET", f"/instances/{oid}/metadata/Source") == b"here"


def test_orthanc_sends_to_peer_and_modality(
    orthanc_factory: Callable[..., OrthancServer], storescp_factory: Callable[..., StorescpServer]
) -> None:
    receiver = storescp_factory(aet="RECEIVER")
    far = orthanc_factory(aet="FAR")
    near = orthanc_factory(peers={"far": (far.url, far.user, far.password)})
    near.add_modality("receiver", receiver.aet, receiver.port)
    oid = near.upload(instance())["ID"]

    near.rest("POST", "/peers/far/store", oid.encode())
    near.rest("POST", "/modalities/receiver/store", oid.encode())

    assert far.ids() == {oid}
    wait_for(receiver.files, what="file at the receiver")
    assert b"Bed^Test" in receiver.files()[0].read_bytes()


def test_dcmqrscp_stores_finds_and_moves(
    dcmqrscp_factory: Callable[..., DcmqrscpServer],
    orthanc_factory: Callable[..., OrthancServer],
    dcmsend: Callable[..., None],
) -> None:
    near = orthanc_factory(aet="NEAR")
    archive = dcmqrscp_factory(peers={"NEAR": ("127.0.0.1", near.dicom_port)})
    near.add_modality("archive", archive.aet, archive.port)
    dcmsend(archive)
    assert len(archive.files()) == 1

    question = near.rest("POST", "/modalities/archive/query", {"Level": "Study", "Query": {"AccessionNumber": "BED1"}})
    answers = near.rest("GET", f"/queries/{question['ID']}/answers")
    assert answers == ["0"]
    near.rest("POST", f"/queries/{question['ID']}/retrieve", {"TargetAet": "NEAR", "Synchronous": True})
    assert near.count() == 1


def test_dcmqrscp_learns_a_peer_and_keeps_content(
    dcmqrscp_factory: Callable[..., DcmqrscpServer], dcmsend: Callable[..., None]
) -> None:
    archive = dcmqrscp_factory()
    dcmsend(archive)
    archive.add_peer("LATER", free_port())
    assert archive.answers()
    assert len(archive.files()) == 1


def test_storescp_writes_each_instance(
    storescp_factory: Callable[..., StorescpServer], dcmsend: Callable[..., None]
) -> None:
    receiver = storescp_factory()
    dcmsend(receiver, 1)
    dcmsend(receiver, 2)
    wait_for(lambda: len(receiver.files()) == 2, what="two files")


def test_redis_is_flushed_and_wants_the_password(clean_redis: RedisServer) -> None:
    import redis

    with clean_redis.client() as client:
        assert client.keys("*") == []
        client.set("a", "b")
    clean_redis.flush()
    with redis.Redis.from_url(clean_redis.url) as client:
        assert client.dbsize() == 0
    with (
        redis.Redis(host=clean_redis.host, port=clean_redis.port) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_durable_redis_survives_a_kill(redis_factory: Callable[..., RedisServer]) -> None:
    server = redis_factory(durable=True)
    with server.client() as client:
        client.set("a", "b")
    server.kill()
    server.start()
    with server.client() as client:
        assert client.get("a") == b"b"


def test_postgres_gives_empty_databases(postgres_url: str, postgres_server: PostgresServer) -> None:
    from sqlalchemy import create_engine, inspect, text

    engine = create_engine(postgres_url)
    try:
        assert inspect(engine).get_table_names() == []
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE t (n int)"))
    finally:
        engine.dispose()
    assert postgres_server.create_database() != postgres_url


def test_flaky_proxy_breaks_on_purpose(clean_orthanc: OrthancServer, flaky_proxy: ProxyFactory) -> None:
    import requests

    proxy = flaky_proxy(
        ("127.0.0.1", clean_orthanc.http_port),
        rules=[{"match": {"nth": [1]}, "fault": {"kind": "status", "status": 503}}],
    )
    login = (clean_orthanc.user, clean_orthanc.password)
    codes = [requests.get(f"{proxy.url}/system", auth=login, timeout=5).status_code for _ in range(2)]
    assert codes == [503, 200]


def test_free_port_is_free() -> None:
    assert not accepts(free_port())


class ExampleOrthanc(OrthancServer):
    """An Orthanc that runs the example of `conf`, moved to free ports and another folder."""

    def command(self) -> list[str]:
        text = (REPO / "conf/orthanc.json").read_text()
        for old, new in (("8042", self.http_port), ("4242", self.dicom_port), ("/var/lib/orthanc", self.folder)):
            assert old in text
            text = text.replace(old, str(new))
        path = self.folder / "orthanc.json"
        path.write_text(text)
        return [self.binary, str(path)]

    def environment(self) -> dict[str, str]:
        return {"ORTHANC_PASSWORD": self.password, "ORTHANC_PLUGINS": str(Path(self.plugin).parent)}


def test_example_configuration_starts(tmp_path: Path) -> None:
    with ExampleOrthanc(tmp_path / "example", name="diana", user="diana", plugins=True) as server:
        assert server.rest("GET", "/modalities") == ["diana"]
        assert "dicom-web" in server.rest("GET", "/plugins")
        oid = server.upload(instance())["ID"]
        server.rest("PUT", f"/instances/{oid}/metadata/Source", b"here")
