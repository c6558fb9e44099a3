"""Memory keeps the endpoint contract."""

from __future__ import annotations

import pytest

from diana.apis.memory import Memory
from diana.utils.endpoint import Endpoint
from tests.contract.suite import EndpointContract


class TestMemory(EndpointContract):
    """Memory is the reference: no deviations."""

    @pytest.fixture
    def endpoint(self) -> Memory:
        return Memory()

    def reopened(self, endpoint: Endpoint) -> Endpoint | None:
        return None
