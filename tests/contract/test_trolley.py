"""Trolley keeps the endpoint contract: MINT and RAD-69 over fakes, DICOM-QR and REST over Orthanc."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diana.apis import DicomQR, Mint, Orthanc, Rad69, Trolley
from diana.dixel import Dixel
from diana.utils.endpoint import Endpoint
from tests.contract.suite import EndpointContract
from tests.fakes.mint_server import MintServer
from tests.fakes.rad69_server import Rad69Server
from tests.helpers import free_port
from tests.planted import PASSWORD
from tests.servers import OrthancServer


class TestTrolley(EndpointContract):
    """What MINT finds comes over RAD-69."""

    @pytest.fixture
    def finds(self) -> Iterator[MintServer]:
        with MintServer() as running:
            yield running

    @pytest.fixture
    def fetches(self) -> Iterator[Rad69Server]:
        with Rad69Server() as running:
            yield running

    @pytest.fixture
    def endpoint(self, finds: MintServer, fetches: Rad69Server) -> Trolley:
        self.servers = (finds, fetches)
        return Trolley(Mint(url=finds.url), Rad69(url=fetches.url))

    @pytest.fixture
    def broken(self) -> Endpoint:
        nobody = f"http://127.0.0.1:{free_port()}/x"
        return Trolley(Mint(url=nobody), Rad69(url=nobody))

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        for server in self.servers:
            server.add(item)
        return str(item.tags["SOPInstanceUID"])


@pytest.mark.live
class TestTrolleyOrthanc(EndpointContract):
    """What C-FIND finds comes over REST."""

    @pytest.fixture
    def endpoint(self, clean_orthanc: OrthancServer) -> Trolley:
        rest = Orthanc("http", "127.0.0.1", clean_orthanc.http_port, user=clean_orthanc.user, password=PASSWORD)
        self.rest = rest
        return Trolley(
            {"ctype": "DicomQR", "host": "127.0.0.1", "port": clean_orthanc.dicom_port, "aec": clean_orthanc.aet},
            rest,
        )

    @pytest.fixture
    def broken(self) -> Endpoint:
        return Trolley(DicomQR("127.0.0.1", free_port()), Orthanc(port=free_port()))

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        self.rest.put(item)
        return str(item.tags["SOPInstanceUID"])
