"""What ``diana.utils.gateways.dimse`` asks of real DICOM nodes, and what it says of their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diana.apis import DicomListener
from diana.exceptions import GatewayConnectionError, GatewayRefused
from diana.utils.blob import Blob
from diana.utils.gateways import dimse
from diana.utils.gateways.dimse_pdu import file_head
from tests.contract import samples
from tests.live.test_listener import data_set, sample
from tests.servers import OrthancServer, StorescpServer

pytestmark = pytest.mark.live


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[DicomListener]:
    found = DicomListener(port=0, path=tmp_path / "spool")
    found.listen(lambda: None)
    yield found
    found.unlisten()


def test_orthanc_and_dcmtk_answer_an_echo(
    orthanc_factory: Callable[..., OrthancServer], storescp_factory: Callable[..., StorescpServer]
) -> None:
    dimse.echo("127.0.0.1", orthanc_factory().dicom_port, called_aet="ORTHANC")
    dimse.echo("127.0.0.1", storescp_factory().port)


def test_orthanc_takes_what_is_sent(orthanc_factory: Callable[..., OrthancServer]) -> None:
    orthanc = orthanc_factory()
    files = [sample(number) for number in range(20)]
    outcomes = dimse.store(files, "127.0.0.1", orthanc.dicom_port, called_aet=orthanc.aet)
    assert all(outcome.ok for outcome in outcomes)
    assert orthanc.count() == 20
    [oid] = orthanc.rest("POST", "/tools/lookup", outcomes[3].sop_instance.encode())
    assert data_set(orthanc.rest("GET", f"/instances/{oid['ID']}/file")) == data_set(sample(3))


def test_pynetdicom_takes_what_is_sent() -> None:
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import Verification

    received: list[bytes] = []

    def take(event: Any) -> int:
        received.append(event.encoded_dataset(include_meta=False))
        return 0xB000

    entity = AE(ae_title="OTHER")
    entity.add_supported_context(samples.SECONDARY_CAPTURE, "1.2.840.10008.1.2.1")
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    try:
        port = server.server_address[1]
        dimse.echo("127.0.0.1", port)
        [outcome] = dimse.store([sample()], "127.0.0.1", port)
    finally:
        server.shutdown()
    assert outcome.ok
    assert outcome.status == 0xB000
    assert received == [data_set(sample())]


def test_what_is_sent_is_told_by_instance(storescp_factory: Callable[..., StorescpServer], tmp_path: Path) -> None:
    server = storescp_factory(aet="RECEIVER")
    path = tmp_path / "one.dcm"
    path.write_bytes(sample(1))
    items: list[Any] = [sample(0), path, Blob(sample(2)), b"no file", tmp_path / "absent"]
    outcomes = dimse.store(items, server.host, server.port, called_aet="RECEIVER")
    assert [outcome.ok for outcome in outcomes] == [True, True, True, False, False]
    assert [outcome.sop_instance for outcome in outcomes[:3]] == [samples.uid(1, 1, n) for n in (1, 2, 3)]
    assert not any(outcome.temporary for outcome in outcomes)
    assert sorted(data_set(file.read_bytes()) for file in server.files()) == sorted(
        data_set(sample(n)) for n in range(3)
    )


def test_a_class_that_is_not_accepted_does_not_stop_the_others(listener: DicomListener) -> None:
    question = file_head("1.2.840.10008.5.1.4.1.2.2.1", "1.2.3.4.1", "1.2.840.10008.1.2.1") + data_set(sample())
    bad, good = dimse.store([question, sample()], "127.0.0.1", listener.port, called_aet="DIANA")
    assert isinstance(bad.error, GatewayRefused)
    assert good.ok


def test_a_receiver_that_hangs_up_is_said_for_each_instance(storescp_factory: Callable[..., StorescpServer]) -> None:
    server = storescp_factory(args=["--abort-after"])
    outcomes = dimse.store([sample(0), sample(1)], server.host, server.port)
    assert [outcome.ok for outcome in outcomes] == [False, False]
    assert all(outcome.temporary for outcome in outcomes)


def test_echo_of_a_closed_port_raises() -> None:
    with pytest.raises(GatewayConnectionError):
        dimse.echo("127.0.0.1", 1, timeout=2)
