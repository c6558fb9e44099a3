"""DicomQR keeps the endpoint contract with Orthanc, with dcmqrscp, and in one request each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import pytest

from diana.apis import DicomQR
from diana.dixel import Dixel
from diana.utils.endpoint import Endpoint
from diana.utils.gateways import dimse
from tests.contract.suite import EndpointContract
from tests.helpers import free_port
from tests.servers import DcmqrscpServer, OrthancServer

pytestmark = pytest.mark.live


class TestDicomQR(EndpointContract):
    """Hierarchical searches in Orthanc."""

    options: ClassVar[Mapping[str, bool]] = {}

    @pytest.fixture
    def endpoint(self, clean_orthanc: OrthancServer) -> DicomQR:
        self.place, self.aec = clean_orthanc.dicom_port, clean_orthanc.aet
        return DicomQR("127.0.0.1", self.place, aec=self.aec, **self.options)

    @pytest.fixture
    def broken(self) -> Endpoint:
        return DicomQR("127.0.0.1", free_port())

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        assert item.blob is not None
        [outcome] = dimse.store([item.blob], "127.0.0.1", self.place, called_aet=self.aec)
        assert outcome.ok
        return str(item.tags["SOPInstanceUID"])


class TestDicomQRRelational(TestDicomQR):
    """Orthanc takes every key at every level."""

    options: ClassVar[Mapping[str, bool]] = {"relational": True}


class TestDicomQRDcmtk(TestDicomQR):
    """Hierarchical searches in dcmtk's archive, which ignores keys of other levels."""

    @pytest.fixture
    def endpoint(self, dcmqrscp_factory: Callable[..., DcmqrscpServer]) -> DicomQR:
        archive = dcmqrscp_factory()
        self.place, self.aec = archive.port, archive.aet
        return DicomQR("127.0.0.1", self.place, aec=self.aec)
