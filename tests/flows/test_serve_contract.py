"""Our own clients keep the endpoint contract against our own server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from diana.apis import DicomWeb, Memory, Mint, QidoRS, Rad69, WadoRS, WadoRSMetadata, WadoURI
from diana.dixel import Dixel
from diana.server import HttpFace
from diana.utils.endpoint import Endpoint
from tests.contract.suite import EndpointContract
from tests.contract.test_dicomweb import TestWadoURI as WadoURIBefore
from tests.contract.test_rad69 import TestRad69 as Rad69Before
from tests.helpers import free_port


@pytest.fixture(scope="module")
def face() -> Iterator[HttpFace]:
    """One server for all, emptied before each test."""
    with HttpFace(Memory()) as found:
        yield found


class ServedContract(EndpointContract):
    """Items are stored in the endpoint that is served where the client cannot put."""

    cls: ClassVar[type[Any]]
    path: ClassVar[str] = "dicom-web"
    options: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    def endpoint(self, face: HttpFace) -> Iterator[Endpoint]:
        self.served = face.endpoint
        for one in self.served.find({}, level="instances"):
            self.served.delete(one)
        made: Endpoint = self.cls(url=f"{face.url}/{self.path}", **self.options)
        yield made
        made.close()

    @pytest.fixture
    def broken(self) -> Iterator[Endpoint]:
        down = self.cls(url=f"http://127.0.0.1:{free_port()}/{self.path}", name="broken")
        yield down
        down.close()

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        if endpoint.can("put"):
            return endpoint.put(item)
        self.served.put(item)
        tags = item.tags
        return f"{tags['StudyInstanceUID']}/{tags['SeriesInstanceUID']}/{tags['SOPInstanceUID']}"


class TestDicomWeb(ServedContract):
    """Put, get, find, pull."""

    cls = DicomWeb


class TestQidoRS(ServedContract):
    """Find, and get of what a search tells."""

    cls = QidoRS


class TestWadoRS(ServedContract):
    """Pull and get."""

    cls = WadoRS


class TestWadoRSMetadata(ServedContract):
    """Get of tags."""

    cls = WadoRSMetadata


class TestWadoURI(ServedContract):
    """Pull and get of single instances."""

    cls = WadoURI
    path = "wado"
    deviations: ClassVar[Mapping[str, str]] = WadoURIBefore.deviations


class TestRad69(ServedContract):
    """Instances by SOAP."""

    cls = Rad69
    path = "rad69"
    deviations: ClassVar[Mapping[str, str]] = Rad69Before.deviations


class TestMint(ServedContract):
    """Searches as Vitrea Connection answers them."""

    cls = Mint
    path = "mint"

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        self.served.put(item)
        return str(item.tags["SOPInstanceUID"])


class TestMintReference(TestMint):
    """Searches and metadata as the reference server answers them."""

    options: ClassVar[Mapping[str, str]] = {"dialect": "reference"}
