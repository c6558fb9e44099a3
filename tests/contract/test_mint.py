"""Mint keeps the endpoint contract, in both dialects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diana.apis import Mint
from diana.dixel import Dixel
from diana.utils.endpoint import Endpoint
from tests.contract.suite import EndpointContract
from tests.fakes.mint_server import MintServer
from tests.helpers import free_port


class TestMint(EndpointContract):
    """A search as Vitrea Connection answers it."""

    reference = False

    @pytest.fixture
    def server(self) -> Iterator[MintServer]:
        with MintServer(reference=self.reference) as running:
            yield running

    @pytest.fixture
    def endpoint(self, server: MintServer) -> Mint:
        self.server = server
        return Mint(url=server.url, dialect="reference" if self.reference else "vitrea")

    @pytest.fixture
    def broken(self) -> Endpoint:
        return Mint(url=f"http://127.0.0.1:{free_port()}/mint")

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        self.server.add(item)
        return str(item.tags["SOPInstanceUID"])


class TestMintReference(TestMint):
    """The reference server of MINT 1.0."""

    reference = True
