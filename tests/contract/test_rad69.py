"""Rad69 keeps the endpoint contract, as far as single instances go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest

from diana.apis import Rad69
from diana.dixel import Dixel
from diana.utils.endpoint import Endpoint
from tests.contract.suite import EndpointContract
from tests.fakes.rad69_server import Rad69Server
from tests.helpers import free_port

ONE = "RAD-69 fetches instances; a Trolley knows which a study has"


class TestRad69(EndpointContract):
    """Plain SOAP requests."""

    mtom = False
    deviations: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "test_get_tags_of_a_study_or_series",
            "test_pull_of_a_study_yields_every_instance_with_its_file",
            "test_pull_of_a_series_yields_only_its_instances",
            "test_what_is_pulled_carries_its_uids",
            "test_pull_of_an_absent_item_raises_item_not_found",
            "test_pull_may_be_left_early",
        ),
        ONE,
    )

    @pytest.fixture
    def server(self) -> Iterator[Rad69Server]:
        with Rad69Server() as running:
            yield running

    @pytest.fixture
    def endpoint(self, server: Rad69Server) -> Rad69:
        self.server = server
        return Rad69(url=server.url, mtom=self.mtom)

    @pytest.fixture
    def broken(self) -> Endpoint:
        return Rad69(url=f"http://127.0.0.1:{free_port()}/rids")

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        self.server.add(item)
        return "/".join(str(item.tags[key]) for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))


class TestRad69Mtom(TestRad69):
    """Requests as multipart messages."""

    mtom = True
