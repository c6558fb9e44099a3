"""DicomQR against Orthanc and dcmtk: keys that real nodes ignore, answer or cancel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from diana.exceptions import GatewayRefused
from diana.trolley import DICOMQR, DICOMQuery
from diana.utils.gateways import dimse
from tests.contract import samples
from tests.servers import DcmqrscpServer, OrthancServer

pytestmark = pytest.mark.live

Node = tuple[int, str]


def fill(node: Node, studies: int = 4) -> None:
    blobs = [item.blob for item in samples.instances(studies, 2, 2) if item.blob is not None]
    assert all(one.ok for one in dimse.store(blobs, "127.0.0.1", node[0], called_aet=node[1]))


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def node(request: pytest.FixtureRequest) -> Node:
    if request.param == "orthanc":
        server: OrthancServer = request.getfixturevalue("clean_orthanc")
        found = server.dicom_port, server.aet
    else:
        factory: Callable[..., DcmqrscpServer] = request.getfixturevalue("dcmqrscp_factory")
        archive = factory()
        found = archive.port, archive.aet
    fill(found)
    return found


def of(node: Node, **options: bool) -> DICOMQR:
    return DICOMQR("127.0.0.1", node[0], aec=node[1], **options)


def test_a_patient_is_asked_for_at_every_level(node: Node) -> None:
    for level, count in (("STUDY", 1), ("SERIES", 2), ("INSTANCE", 4)):
        assert len(of(node).find({"PatientID": "GENPID0002"}, level=level)) == count


def test_patients_are_found(node: Node) -> None:
    assert len(of(node).find({"PatientName": "Gen*"}, level="patients")) == 4


def test_studies_are_found_by_a_modality(node: Node) -> None:
    found = of(node).find_studies(DICOMQuery(Modality="CT"))
    assert sorted(one.uid for one in found) == [samples.uid(1), samples.uid(4)]


def test_a_list_of_names_is_several_searches(node: Node) -> None:
    names = ["Generated^Patient1", "Generated^Patient3"]
    assert len(of(node).find({"PatientName": names})) == 2


def test_a_limit_ends_the_search_and_the_node_goes_on(node: Node) -> None:
    qr = of(node)
    for _ in range(3):
        assert len(qr.find({}, level="INSTANCE", limit=3)) == 3
    assert len(qr.find({})) == 4
    assert qr.check() is True


def test_the_wrong_ae_title_is_refused_by_dcmtk(dcmqrscp_factory: Callable[..., DcmqrscpServer]) -> None:
    archive = dcmqrscp_factory()
    with pytest.raises(GatewayRefused):
        DICOMQR("127.0.0.1", archive.port, aec="SOMEBODY").find({})
