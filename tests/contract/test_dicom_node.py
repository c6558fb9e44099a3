"""DicomNode keeps the endpoint contract with dcmtk's archive and with Orthanc, by C-GET and by C-MOVE."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest

from diana.apis import DicomNode
from diana.dixel import Dixel
from diana.utils.blob import Blob
from diana.utils.endpoint import Endpoint
from diana.utils.gateways import dimse
from diana.utils.gateways.dimse_pdu import file_head
from tests.contract.suite import EndpointContract
from tests.helpers import free_port
from tests.servers import DcmqrscpServer, OrthancServer

pytestmark = pytest.mark.live


class TestDicomNode(EndpointContract):
    """C-STORE, C-FIND and C-GET in dcmtk's archive, which loses entries of its index when several store at once."""

    threads: ClassVar[int] = 1

    @pytest.fixture
    def endpoint(self, dcmqrscp_factory: Callable[..., DcmqrscpServer]) -> DicomNode:
        archive = dcmqrscp_factory()
        return DicomNode("127.0.0.1", archive.port, aec=archive.aet)

    @pytest.fixture
    def broken(self) -> Endpoint:
        return DicomNode("127.0.0.1", free_port())

    def make_item(self, n: int = 0) -> Dixel:
        return self._as_fetched(super().make_item(n))

    @staticmethod
    def _as_fetched(item: Dixel) -> Dixel:
        """Give an item the file meta information of the receiver: C-STORE sends the data set alone."""
        assert item.file is not None
        sent = dimse.outgoing(Blob(item.file))
        item.file = file_head(sent.sop_class, sent.sop_instance, sent.transfer_syntax) + item.file[sent.offset :]
        return item

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        return endpoint.put(self._as_fetched(item))


class TestDicomNodeMove(TestDicomNode):
    """C-MOVE to a port of ours."""

    @pytest.fixture
    def endpoint(self, dcmqrscp_factory: Callable[..., DcmqrscpServer]) -> DicomNode:
        port = free_port()
        archive = dcmqrscp_factory(peers={"DIANA": ("127.0.0.1", port)})
        return DicomNode("127.0.0.1", archive.port, aec=archive.aet, retrieve="move", move_port=port)


class TestDicomNodeOrthanc(TestDicomNode):
    """The same in Orthanc, by several at once."""

    threads: ClassVar[int] = 8

    @pytest.fixture
    def endpoint(self, clean_orthanc: OrthancServer) -> DicomNode:
        return DicomNode("127.0.0.1", clean_orthanc.dicom_port, aec=clean_orthanc.aet)
