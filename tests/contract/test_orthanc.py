"""Orthanc keeps the endpoint contract, against a real server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from diana.apis.orthanc import Orthanc
from tests.contract.suite import EndpointContract
from tests.helpers import free_port
from tests.servers import OrthancServer

pytestmark = pytest.mark.live


class TestOrthanc(EndpointContract):
    """User metadata stand for updates."""

    update_data: ClassVar[Mapping[str, Any]] = {"Source": "seen"}

    @pytest.fixture
    def endpoint(self, clean_orthanc: OrthancServer) -> Orthanc:
        server = clean_orthanc
        return Orthanc(port=server.http_port, host="127.0.0.1", user=server.user, password=server.password)

    @pytest.fixture
    def broken(self) -> Orthanc:
        return Orthanc(port=free_port(), host="127.0.0.1", name="broken")
