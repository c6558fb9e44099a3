"""The DICOMweb endpoints keep the endpoint contract, against the plugin of a real Orthanc."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from diana.apis import DicomWeb, QidoRS, StowRS, WadoRS, WadoRSMetadata, WadoURI
from diana.dixel import Dixel, DixelView
from diana.utils.endpoint import Endpoint
from tests.contract.suite import EndpointContract
from tests.helpers import free_port
from tests.planted import PASSWORD, PLANTED_USER
from tests.servers import OrthancServer

pytestmark = pytest.mark.live

ROOT = "dicom-web"


class WebContract(EndpointContract):
    """Items are stored through Orthanc's own interface where the endpoint cannot put."""

    cls: ClassVar[type[Any]]
    path: ClassVar[str] = ROOT

    @pytest.fixture
    def endpoint(self, clean_orthanc: OrthancServer) -> Endpoint:
        self.server = clean_orthanc
        made: Endpoint = self.cls(url=f"{clean_orthanc.url}/{self.path}", user=PLANTED_USER, password=PASSWORD)
        return made

    @pytest.fixture
    def broken(self) -> Iterator[Endpoint]:
        down = self.cls(url=f"http://127.0.0.1:{free_port()}/{self.path}", name="broken")
        yield down
        down.close()

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        if endpoint.can("put"):
            return endpoint.put(item)
        assert item.blob is not None
        self.server.upload(item.blob.read())
        tags = item.tags
        return f"{tags['StudyInstanceUID']}/{tags['SeriesInstanceUID']}/{tags['SOPInstanceUID']}"


class TestDicomWeb(WebContract):
    """Put, get, find, pull."""

    cls = DicomWeb


class TestQidoRS(WebContract):
    """Find, and get of what a search tells."""

    cls = QidoRS


class TestWadoRS(WebContract):
    """Pull and get."""

    cls = WadoRS


class TestWadoRSMetadata(WebContract):
    """Get of tags."""

    cls = WadoRSMetadata


class TestWadoURI(WebContract):
    """Pull and get of single instances."""

    cls = WadoURI
    path = "wado"
    deviations: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "test_get_tags_of_a_study_or_series",
            "test_pull_of_a_study_yields_every_instance_with_its_file",
            "test_pull_of_a_series_yields_only_its_instances",
            "test_what_is_pulled_carries_its_uids",
            "test_pull_of_an_absent_item_raises_item_not_found",
            "test_pull_may_be_left_early",
        ),
        "WADO-URI fetches single instances",
    )


class TestStowRS(WebContract):
    """Put alone."""

    cls = StowRS
    deviations: ClassVar[Mapping[str, str]] = {
        "test_put_of_other_bytes_raises_conflict": "STOW-RS cannot read back what is stored; DicomWeb can"
    }

    @staticmethod
    def _any_view(endpoint: Endpoint) -> DixelView:
        return DixelView.TAGS
