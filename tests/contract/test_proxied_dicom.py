"""ProxiedDicom keeps the endpoint contract, as far as an archive can be read through a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest

from diana.apis import ProxiedDicom
from diana.dixel import Dixel
from diana.utils.endpoint import Endpoint
from diana.utils.gateways import dimse
from tests.contract.suite import EndpointContract
from tests.helpers import free_port
from tests.planted import PASSWORD
from tests.servers import OrthancServer, ServerPool

pytestmark = pytest.mark.live

CACHE = "delete empties the proxy; the archive keeps the item"
Pair = tuple[OrthancServer, OrthancServer]


@pytest.fixture(scope="module")
def pair(server_pool: ServerPool) -> Iterator[Pair]:
    """The proxy and the archive."""
    near, far = server_pool.orthanc(aet="NEAR"), server_pool.orthanc(aet="FAR")
    far.add_modality("NEAR", "NEAR", near.dicom_port)
    near.add_modality("remote", "FAR", far.dicom_port)
    yield near, far
    near.stop()
    far.stop()


class TestProxiedDicom(EndpointContract):
    """Items are stored in the archive; what is read goes through the proxy."""

    deviations: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "test_get_after_delete_raises_item_not_found",
            "test_second_delete_returns_false",
            "test_delete_leaves_the_others",
            "test_delete_of_a_study_removes_its_instances_only",
        ),
        CACHE,
    )

    @pytest.fixture
    def endpoint(self, pair: Pair) -> ProxiedDicom:
        near, far = pair
        near.clear()
        far.clear()
        self.near, self.far = near, far
        return ProxiedDicom({"host": "127.0.0.1", "port": near.http_port, "user": near.user, "password": PASSWORD})

    @pytest.fixture
    def broken(self) -> Iterator[Endpoint]:
        down = ProxiedDicom({"host": "127.0.0.1", "port": free_port()})
        yield down
        down.close()

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        assert isinstance(endpoint, ProxiedDicom)
        self._send(self.far, item)
        item.file = self._as_received(item)
        return str(item.tags["SOPInstanceUID"])

    def _as_received(self, item: Dixel) -> bytes:
        """Return the file with the file meta information of the proxy: C-MOVE sends the data set alone."""
        self._send(self.near, item)
        [oid] = self.near.rest("POST", "/tools/lookup", item.tags["SOPInstanceUID"].encode())
        found: bytes = self.near.rest("GET", f"/instances/{oid['ID']}/file")
        self.near.rest("DELETE", f"/instances/{oid['ID']}")
        return found

    @staticmethod
    def _send(server: OrthancServer, item: Dixel) -> None:
        assert item.blob is not None
        [outcome] = dimse.store([item.blob], "127.0.0.1", server.dicom_port, called_aet=server.aet)
        assert outcome.ok
