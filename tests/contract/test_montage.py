"""Montage keeps the endpoint contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from diana.apis import Montage
from diana.dixel import Dixel
from diana.utils.endpoint import Endpoint
from tests.contract import samples
from tests.contract.suite import EndpointContract
from tests.fakes.montage_server import MontageServer
from tests.helpers import free_port
from tests.planted import PASSWORD, PLANTED_USER

NO_UID = "a report tells an accession number, no UID"


class TestMontage(EndpointContract):
    """An archive of reports; a study is known by its accession number."""

    has_files = False
    by_uid = False
    deviations: ClassVar[Mapping[str, str]] = {
        "test_find_returns_dixels_of_the_level_asked_for": NO_UID,
        "test_find_matches_wildcards_and_lists": NO_UID,
        "test_get_tags_returns_the_tags": NO_UID,
        "test_exists_of_an_accession_that_is_the_start_of_another_is_false": NO_UID,
    }

    @pytest.fixture
    def endpoint(self) -> Iterator[Montage]:
        with MontageServer() as server:
            self.server = server
            yield Montage(host="127.0.0.1", port=server.port, user=PLANTED_USER, password=PASSWORD)

    @pytest.fixture
    def broken(self) -> Endpoint:
        return Montage(host="127.0.0.1", port=free_port(), user=PLANTED_USER, password=PASSWORD)

    def make_item(self, n: int = 0) -> Dixel:
        item = samples.study(n)
        del item.tags["StudyInstanceUID"]
        return item

    def store(self, endpoint: Endpoint, item: Dixel) -> str:
        self.server.add(item)
        return str(item.tags["AccessionNumber"])

    def query_for(self, item: Dixel) -> dict[str, Any]:
        return {"AccessionNumber": item.tags["AccessionNumber"]}

    def nothing_query(self) -> dict[str, Any]:
        return {"AccessionNumber": "NONE"}

    def test_wildcards_and_lists_of_accession_numbers(self, endpoint: Endpoint) -> None:
        for n in range(3):
            self.store(endpoint, self.make_item(n))
        for wanted, count in (("GEN*", 3), ("*001", 1), (["GEN000000", "GEN000002"], 2), ("GEN000000\\GEN000001", 2)):
            assert len(endpoint.find({"AccessionNumber": wanted})) == count

    def test_get_returns_the_report(self, endpoint: Endpoint) -> None:
        found = endpoint.get(self.store(endpoint, self.make_item()))
        assert found.tags["AccessionNumber"] == found.ref.id == "GEN000000"
        assert found.report is not None
        assert found.report.text == "FINDINGS: none."
        assert not endpoint.exists("GEN00000")
