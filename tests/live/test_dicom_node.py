"""``DicomNode`` with real archives, and with nodes that lie."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diana.apis import DicomNode, Memory
from diana.dixel import Dixel
from diana.exceptions import Conflict, GatewayConnectionError, GatewayRefused, IncompleteTransfer, InvalidItem
from diana.server.scp import DicomFace
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, Ref, read_header
from diana.utils.gateways import dimse
from tests.contract import samples
from tests.helpers import free_port
from tests.servers import DcmqrscpServer, OrthancServer, StorescpServer

pytestmark = pytest.mark.live

STUDY = samples.uid(1)
RLE = "1.2.840.10008.1.2.5"
FIND, MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"
Making = Callable[..., DicomNode]


def data_set(file: bytes | None) -> bytes:
    """Return a file without its file meta information."""
    assert file is not None
    return file[dimse.outgoing(Blob(file)).offset :]


def compressed(number: int) -> Dixel:
    """Return an instance in RLE."""
    ds = samples.dataset(3, 0, number)
    ds.compress(RLE, generate_instance_uid=False)
    data = samples.file_bytes(ds)
    return Dixel.from_header(read_header(data), file=data)


@pytest.fixture
def dest(storescp_factory: Callable[..., StorescpServer]) -> StorescpServer:
    return storescp_factory(aet="DEST")


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def make(
    request: pytest.FixtureRequest,
    orthanc_factory: Callable[..., OrthancServer],
    dcmqrscp_factory: Callable[..., DcmqrscpServer],
    dest: StorescpServer,
) -> Making:
    """Make a node over a new archive, which knows us and a storescp named DEST."""
    port = free_port()
    peers = {"DIANA": ("127.0.0.1", port), "DEST": ("127.0.0.1", dest.port)}

    def build(**options: Any) -> DicomNode:
        if request.param == "orthanc":
            server = orthanc_factory(peers={})
            for aet, (host, place) in peers.items():
                server.rest("PUT", f"/modalities/{aet}", f'["{aet}", "{host}", {place}]'.encode())
            return DicomNode("127.0.0.1", server.dicom_port, aec=server.aet, move_port=port, **options)
        archive = dcmqrscp_factory(peers=peers)
        return DicomNode("127.0.0.1", archive.port, aec=archive.aet, move_port=port, **options)

    return build


@pytest.mark.parametrize("way", ["get", "move"])
def test_a_study_is_fetched_as_it_was_stored(make: Making, way: str) -> None:
    node = make(retrieve=way)
    items = list(samples.instances(1, 2, 4))
    outcomes = list(node.put_many([*items, samples.instance(1)], workers=1))
    assert [outcome.error for outcome in outcomes] == [None] * 9
    got = sorted(data_set(one.file) for one in node.pull(STUDY))
    assert got == sorted(data_set(one.file) for one in items)
    assert len(list(node.pull(Ref(DicomLevel.SERIES, study=STUDY, series=samples.uid(1, 2))))) == 4
    assert len(list(node.pull(Ref(DicomLevel.PATIENTS, patient="GENPID0000")))) == 8
    node.close()


def test_compressed_instances_stay_so(orthanc_factory: Callable[..., OrthancServer]) -> None:
    server = orthanc_factory()
    node = DicomNode("127.0.0.1", server.dicom_port, aec=server.aet)
    node.put(compressed(0))
    [found] = node.pull(samples.uid(4))
    assert found.meta["TransferSyntaxUID"] == RLE
    assert data_set(found.file) == data_set(compressed(0).file)


def test_put_many_tells_of_each_instance(make: Making) -> None:
    node = make()
    node.put(samples.instance(0))
    bad = Dixel(tags={"SOPInstanceUID": "1.2"}, level=DicomLevel.INSTANCES)
    bad.file = b"no file"
    items = [samples.instance(0), samples.instance(0, ImageComments="other"), bad, samples.instance(1)]
    first, second, third, fourth = node.put_many(items, workers=1)
    assert first.error is None
    assert isinstance(second.error, Conflict)
    assert isinstance(third.error, InvalidItem)
    assert fourth.error is None
    assert node.exists(fourth.id, "instances")


def test_move_sends_to_another_node(make: Making, dest: StorescpServer) -> None:
    node = make()
    for number in range(3):
        node.put(samples.instance(0, 0, number))
    counts = node.move(STUDY, "DEST")
    assert counts.failed == 0
    assert len(dest.files()) == 3


def test_a_destination_that_the_node_does_not_know_is_refused(make: Making) -> None:
    node = make()
    node.put(samples.instance(0))
    with pytest.raises((GatewayRefused, GatewayConnectionError, IncompleteTransfer)):
        node.move(STUDY, "STRANGER")


@contextmanager
def lying_node(handlers: list[Any]) -> Iterator[int]:
    """Run a node of pynetdicom that takes everything."""
    from pynetdicom import AE

    entity = AE(ae_title="LIAR")
    for abstract in (FIND, MOVE, samples.SECONDARY_CAPTURE):
        entity.add_supported_context(abstract, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def listing(event: Any) -> Iterator[Any]:
    """Answer any search with one instance."""
    asked = event.identifier
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if keyword in asked:
            setattr(asked, keyword, getattr(samples.dataset(), keyword))
    yield 0xFF00, asked


def test_a_move_that_delivers_nothing_is_incomplete() -> None:
    from pynetdicom import evt

    def move(event: Any) -> Iterator[Any]:
        yield "127.0.0.1", free_port()
        yield 0

    with lying_node([(evt.EVT_C_FIND, listing), (evt.EVT_C_MOVE, move)]) as port:
        node = DicomNode("127.0.0.1", port, aec="LIAR", retrieve="move", timeout=(2, 5))
        with pytest.raises(IncompleteTransfer) as caught:
            list(node.pull(STUDY))
        assert caught.value.missing == [samples.uid(1, 1, 1)]
        with pytest.raises(IncompleteTransfer) as caught:
            node.move(STUDY, "DEST", dest=Memory())
        assert caught.value.missing == [samples.uid(1, 1, 1)]
        node.close()


def test_a_store_that_keeps_nothing_is_incomplete() -> None:
    from pynetdicom import evt

    def nothing(event: Any) -> Iterator[Any]:
        yield from ()

    with lying_node([(evt.EVT_C_STORE, lambda event: 0), (evt.EVT_C_FIND, nothing)]) as port:
        node = DicomNode("127.0.0.1", port, aec="LIAR", settle=0.2)
        with pytest.raises(IncompleteTransfer):
            node.put(samples.instance())


def test_a_refused_store_says_so() -> None:
    from pynetdicom import evt

    def nothing(event: Any) -> Iterator[Any]:
        yield from ()

    with lying_node([(evt.EVT_C_STORE, lambda event: 0xA700), (evt.EVT_C_FIND, nothing)]) as port:
        with pytest.raises(GatewayConnectionError) as caught:
            DicomNode("127.0.0.1", port, aec="LIAR").put(samples.instance())
        assert caught.value.status == 0xA700


def test_a_pull_that_is_left_early_leaves_nothing(make: Making, tmp_path: Path) -> None:
    node = make(retrieve="move", spill=0, folder=str(tmp_path))
    assert all(one.error is None for one in node.put_many(samples.instances(1, 1, 12), workers=1))
    found = node.pull(STUDY)
    first = next(found)
    assert first.blob is not None
    first.blob.close()
    found.close()
    node.close()
    assert list(tmp_path.iterdir()) == []


def test_everything_goes_over_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with DicomFace(Memory(), port=0, tls=context) as face:
        node = DicomNode("127.0.0.1", face.port, aec="DIANA", tls=True, verify=str(cert))
        assert all(one.error is None for one in node.put_many(samples.instances(1, 1, 3)))
        assert len(list(node.pull(STUDY))) == 3
        assert not DicomNode("127.0.0.1", face.port, aec="DIANA", tls=True).check()
        assert not DicomNode("127.0.0.1", face.port, aec="DIANA", timeout=(1, 1)).check()
