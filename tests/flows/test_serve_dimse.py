"""Other people's DICOM programs talk to ``diana.server.scp``: dcmtk's tools, pynetdicom, and our own node."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diana.apis import DcmDir, DicomListener, DicomNode, Memory
from diana.exceptions import Conflict, GatewayRefused, IncompleteTransfer
from diana.server.scp import DicomFace
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.gateways import dimse
from tests.contract import samples
from tests.helpers import free_port, wait_for
from tests.servers import StorescpServer

pytestmark = pytest.mark.live

STUDY, SERIES = samples.uid(1), samples.uid(1, 1)
FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))


def data_set(file: bytes | None) -> bytes:
    """Return a file without its file meta information."""
    assert file is not None
    return file[dimse.outgoing(Blob(file)).offset :]


@pytest.fixture(params=["memory", "dcmdir"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Two studies: one of two series with three instances each, one of a single instance."""
    found = Memory() if request.param == "memory" else DcmDir(str(tmp_path / "archive"))
    for item in (*samples.instances(1, 2, 3), samples.instance(1)):
        found.put(item)
    return found


@pytest.fixture
def destination(storescp_factory: Callable[..., StorescpServer]) -> StorescpServer:
    return storescp_factory(aet="DEST")


@pytest.fixture
def face(archive: Any, destination: StorescpServer) -> Iterator[DicomFace]:
    peers = {"DEST": ("127.0.0.1", destination.port), "GONE": ("127.0.0.1", free_port())}
    with DicomFace(archive, port=0, peers=peers, timeout=10) as found:
        yield found


@pytest.fixture
def node(face: DicomFace) -> DicomNode:
    return DicomNode("127.0.0.1", face.port, aec="DIANA")


@pytest.fixture
def run(program: Callable[[str, str], str], tmp_path: Path) -> Callable[..., str]:
    """Run a program of dcmtk and return what it says."""

    def call(name: str, *args: object, code: int = 0) -> str:
        command = [program(name, "dcmtk"), "-v", *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return call


def sent_sets(archive: Any, study: str = STUDY) -> list[bytes]:
    return sorted(data_set(one.file) for one in archive.pull(Ref(DicomLevel.STUDIES, study=study)))


def test_echoscu_is_answered(face: DicomFace, run: Callable[..., str]) -> None:
    run("echoscu", "-aec", "DIANA", "127.0.0.1", face.port)


@pytest.mark.parametrize(
    ("level", "keys", "count"),
    [
        ("STUDY", ["StudyInstanceUID", "PatientName=Gen*0"], 1),
        ("STUDY", ["StudyInstanceUID", "StudyDate=20200101-20200131"], 1),
        ("STUDY", ["StudyInstanceUID"], 2),
        ("SERIES", [f"StudyInstanceUID={STUDY}", "SeriesInstanceUID"], 2),
        ("IMAGE", [f"StudyInstanceUID={STUDY}", f"SeriesInstanceUID={SERIES}", "SOPInstanceUID"], 3),
        ("STUDY", [f"StudyInstanceUID={STUDY}\\{samples.uid(2)}"], 2),
        ("STUDY", ["StudyInstanceUID=1.2.3.4"], 0),
    ],
)
@pytest.mark.parametrize("root", ["-S", "-P"])
def test_findscu_finds(
    face: DicomFace, run: Callable[..., str], level: str, keys: list[str], count: int, root: str
) -> None:
    arguments = [word for key in (f"QueryRetrieveLevel={level}", *keys) for word in ("-k", key)]
    said = run("findscu", root, "-aec", "DIANA", "127.0.0.1", face.port, *arguments)
    assert len(re.findall(r"Find Response: \d+ \(Pending\)", said)) == count, said
    assert "Success" in said


def test_findscu_finds_patients(face: DicomFace, run: Callable[..., str]) -> None:
    said = run(
        "findscu", "-P", "-aec", "DIANA", "127.0.0.1", face.port, "-k", "QueryRetrieveLevel=PATIENT", "-k",
        "PatientID=GENPID0001", "-k", "PatientName",
    )  # fmt: skip
    assert said.count("(Pending)") == 1
    assert "Generated^Patient1" in said


def test_findscu_gets_counts_and_modalities(face: DicomFace, run: Callable[..., str]) -> None:
    keys = ["StudyInstanceUID=" + STUDY, "NumberOfStudyRelatedInstances", "ModalitiesInStudy", "PatientComments"]
    arguments = [word for key in ("QueryRetrieveLevel=STUDY", *keys) for word in ("-k", key)]
    said = run("findscu", "-S", "-aec", "DIANA", "127.0.0.1", face.port, *arguments)
    assert re.search(r"\(0020,1208\) IS \[6 ?\]", said), said
    assert re.search(r"\(0008,0061\) CS \[CT ?\]", said), said


def test_an_identifier_without_level_is_refused(face: DicomFace, run: Callable[..., str]) -> None:
    said = run("findscu", "-S", "-aec", "DIANA", "127.0.0.1", face.port, "-k", "StudyInstanceUID")
    assert "DataSetDoesNotMatchSOPClass" in said


def test_getscu_gets_the_same_data_sets(face: DicomFace, archive: Any, run: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "got"
    folder.mkdir()
    run(
        "getscu", "-S", "-aec", "DIANA", "+B", "-od", folder, "127.0.0.1", face.port, "-k", "QueryRetrieveLevel=STUDY",
        "-k", f"StudyInstanceUID={STUDY}",
    )  # fmt: skip
    assert sorted(data_set(path.read_bytes()) for path in folder.iterdir()) == sent_sets(archive)


def test_movescu_moves_the_same_data_sets(
    face: DicomFace, archive: Any, run: Callable[..., str], destination: StorescpServer
) -> None:
    run(
        "movescu", "-S", "-aec", "DIANA", "-aem", "DEST", "127.0.0.1", face.port, "-k", "QueryRetrieveLevel=SERIES",
        "-k", f"StudyInstanceUID={STUDY}", "-k", f"SeriesInstanceUID={SERIES}",
    )  # fmt: skip
    wanted = [data_set(one.file) for one in archive.pull(Ref(DicomLevel.SERIES, study=STUDY, series=SERIES))]
    assert sorted(data_set(path.read_bytes()) for path in destination.files()) == sorted(wanted)


def test_movescu_to_a_stranger_is_refused(face: DicomFace, run: Callable[..., str]) -> None:
    said = run(
        "movescu", "-S", "-aec", "DIANA", "-aem", "STRANGER", "127.0.0.1", face.port, "-k",
        "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}", code=69,
    )  # fmt: skip
    assert "MoveDestinationUnknown" in said, said


def test_storescu_stores_the_same_data_set(
    face: DicomFace, archive: Any, run: Callable[..., str], tmp_path: Path
) -> None:
    item = samples.instance(5)
    assert item.file is not None
    (tmp_path / "one.dcm").write_bytes(item.file)
    run("storescu", "-aec", "DIANA", "127.0.0.1", face.port, "one.dcm")
    [stored] = archive.pull(item.ref)
    assert data_set(stored.file) == data_set(item.file)


class TestPynetdicom:
    """pynetdicom as the client."""

    @pytest.fixture
    def entity(self) -> Any:
        from pynetdicom import AE

        entity = AE(ae_title="OTHER")
        for model in (FIND, MOVE, GET):
            entity.add_requested_context(model)
        entity.add_requested_context(samples.SECONDARY_CAPTURE, "1.2.840.10008.1.2.1")
        return entity

    @staticmethod
    def asked(**keys: str) -> Any:
        from pydicom.dataset import Dataset

        found = Dataset()
        for key, value in keys.items():
            setattr(found, key, value)
        return found

    def test_gets(self, face: DicomFace, archive: Any, entity: Any) -> None:
        from pynetdicom import build_role, evt

        got: list[bytes] = []

        def take(event: Any) -> int:
            got.append(event.encoded_dataset(include_meta=False))
            return 0

        handlers = [(evt.EVT_C_STORE, take)]
        roles = [build_role(samples.SECONDARY_CAPTURE, scp_role=True)]
        link = entity.associate("127.0.0.1", face.port, ae_title="DIANA", ext_neg=roles, evt_handlers=handlers)
        answers = list(link.send_c_get(self.asked(QueryRetrieveLevel="STUDY", StudyInstanceUID=STUDY), GET))
        link.release()
        assert answers[-1][0].Status == 0
        assert answers[-1][0].NumberOfCompletedSuboperations == 6
        assert sorted(got) == sent_sets(archive)

    def test_finds_and_moves(self, face: DicomFace, archive: Any, entity: Any, destination: StorescpServer) -> None:
        link = entity.associate("127.0.0.1", face.port, ae_title="DIANA")
        asked = self.asked(QueryRetrieveLevel="STUDY", PatientName="*", StudyInstanceUID="")
        rows = list(link.send_c_find(asked, FIND))
        assert [status.Status for status, _ in rows] == [0xFF00, 0xFF00, 0]
        assert {row.StudyInstanceUID for _, row in rows[:2]} == {STUDY, samples.uid(2)}
        asked = self.asked(QueryRetrieveLevel="STUDY", StudyInstanceUID=STUDY)
        assert list(link.send_c_move(asked, "DEST", MOVE))[-1][0].Status == 0
        last = list(link.send_c_move(asked, "GONE", MOVE))[-1]
        assert last[0].Status == 0xA702
        assert len(last[1].FailedSOPInstanceUIDList) == 6
        link.release()
        assert sorted(data_set(path.read_bytes()) for path in destination.files()) == sent_sets(archive)

    def test_a_class_that_the_client_does_not_take_is_told(self, face: DicomFace, entity: Any) -> None:
        link = entity.associate("127.0.0.1", face.port, ae_title="DIANA")
        last = list(link.send_c_get(self.asked(QueryRetrieveLevel="STUDY", StudyInstanceUID=STUDY), GET))[-1]
        link.release()
        assert last[0].Status == 0xA702
        assert len(last[1].FailedSOPInstanceUIDList) == 6

    def test_a_search_that_is_cancelled_ends_so(self, entity: Any) -> None:
        archive = Memory()
        for number in range(300):
            archive.put(samples.instance(number))
        with DicomFace(archive, port=0) as face:
            link = entity.associate("127.0.0.1", face.port, ae_title="DIANA")
            statuses = []
            asked = self.asked(QueryRetrieveLevel="STUDY", StudyInstanceUID="")
            for status, _ in link.send_c_find(asked, FIND, msg_id=7):
                statuses.append(status.Status)
                if len(statuses) == 1:
                    link.send_c_cancel(7, query_model=FIND)
            link.release()
        assert statuses[-1] in (0xFE00, 0)


class TestOurNode:
    """``DicomNode`` as the client."""

    def test_pulls_what_is_there(self, node: DicomNode, archive: Any) -> None:
        got = [data_set(one.file) for one in node.pull(STUDY)]
        assert sorted(got) == sent_sets(archive)

    def test_moves_to_another(self, node: DicomNode, archive: Any, destination: StorescpServer) -> None:
        counts = node.move(STUDY, "DEST")
        assert (counts.completed, counts.failed) == (6, 0)
        assert sorted(data_set(path.read_bytes()) for path in destination.files()) == sent_sets(archive)

    def test_move_to_a_dead_node_raises(self, node: DicomNode) -> None:
        with pytest.raises(IncompleteTransfer) as caught:
            node.move(STUDY, "GONE")
        assert len(caught.value.missing) == 6

    def test_move_to_a_stranger_raises(self, node: DicomNode) -> None:
        with pytest.raises(GatewayRefused):
            node.move(STUDY, "STRANGER")

    def test_puts_many(self, node: DicomNode, archive: Any) -> None:
        items = [*samples.instances(1, 2, 5, first=7), samples.instance(0, 0, 0)]
        outcomes = list(node.put_many(items, workers=2))
        assert [outcome.error for outcome in outcomes] == [None] * 11
        assert all(archive.exists(item) for item in items)
        with pytest.raises(Conflict):
            node.put(samples.instance(7, ImageComments="other"))


def test_a_face_without_files_to_give_takes_no_retrieval(tmp_path: Path) -> None:
    class Blind(Memory):
        _pull = Memory.__mro__[1]._pull  # type: ignore[attr-defined]
        _find = Memory.__mro__[1]._find  # type: ignore[attr-defined]

    with DicomFace(Blind(), port=0) as face:
        node = DicomNode("127.0.0.1", face.port, aec="DIANA")
        assert node.check()
        with pytest.raises(GatewayRefused):
            node.find({})


def test_strangers_are_not_let_in() -> None:
    with DicomFace(Memory(), port=0, calling_aets=["FRIEND"]) as face:
        assert DicomNode("127.0.0.1", face.port, "FRIEND", "DIANA").check()
        assert not DicomNode("127.0.0.1", face.port, "OTHER", "DIANA").check()
        assert not DicomNode("127.0.0.1", face.port, "FRIEND", "ELSE").check()


def test_half_open_peers_do_not_stop_the_others() -> None:
    with DicomFace(Memory(), port=0, max_associations=2) as face:
        idle = [socket.create_connection(("127.0.0.1", face.port)) for _ in range(20)]
        try:
            assert wait_for(DicomNode("127.0.0.1", face.port, aec="DIANA").check)
        finally:
            for one in idle:
                one.close()


def test_an_archive_that_breaks_is_told_with_what_is_missing() -> None:
    class Broken(Memory):
        def _pull(self, ref: Ref) -> Iterator[Any]:
            yield from list(Memory._pull(self, ref))[:2]
            raise IncompleteTransfer("the wire broke")

    archive = Broken()
    for item in samples.instances(1, 1, 5):
        archive.put(item)
    with DicomFace(archive, port=0) as face:
        node = DicomNode("127.0.0.1", face.port, aec="DIANA")
        with pytest.raises(IncompleteTransfer) as caught:
            list(node.pull(STUDY))
    assert len(caught.value.missing) == 3
    assert len(caught.value.received) == 2


def test_a_listener_receives_what_is_moved(tmp_path: Path) -> None:
    archive = Memory()
    for item in samples.instances(1, 1, 4):
        archive.put(item)
    listener = DicomListener(port=0, path=tmp_path / "spool")
    listener.listen(lambda: None)
    try:
        peers = {"DIANA": ("127.0.0.1", listener.port)}
        with DicomFace(archive, "ARCHIVE", port=0, peers=peers) as face:
            node = DicomNode("127.0.0.1", face.port, aec="ARCHIVE")
            assert node.move(STUDY, "DIANA").completed == 4
        assert len(list((tmp_path / "spool").glob("*.dcm"))) == 4
    finally:
        listener.unlisten()
