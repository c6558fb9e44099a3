"""Redis keeps the endpoint contract, on a real server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from diana.apis.redis import Redis
from diana.exceptions import InvalidItem
from diana.utils.dicom import DicomLevel
from diana.utils.endpoint import Endpoint
from tests.contract.suite import EndpointContract
from tests.helpers import free_port
from tests.planted import PASSWORD
from tests.servers import RedisServer

pytestmark = pytest.mark.live


class TestRedis(EndpointContract):
    """Objects by the hash of their content, so that a changed dixel is another one."""

    has_files = False
    by_uid = False
    deviations: ClassVar[Mapping[str, str]] = {
        "test_get_of_a_dixel_returns_a_new_one_with_the_parts_of_both": "a dixel with more meta has another key",
    }

    @pytest.fixture
    def endpoint(self, clean_redis: RedisServer) -> Iterator[Redis]:
        endpoint = Redis(clean_redis.host, clean_redis.port, 0, clean_redis.password)
        yield endpoint
        endpoint.close()

    @pytest.fixture
    def broken(self) -> Redis:
        return Redis("127.0.0.1", free_port(), 0, PASSWORD)

    def shows_update(self, endpoint: Endpoint, oid: str, level: DicomLevel) -> bool:
        return endpoint.get(oid, level=level) == dict(self.update_data)

    @pytest.mark.parametrize("thing", [b"bytes", object(), [object()], {"a": b"bytes"}], ids=["bytes", "a", "b", "c"])
    def test_put_of_what_is_no_dixel_raises_invalid_item(self, endpoint: Endpoint, thing: Any) -> None:
        """Redis takes every JSON value; what has no JSON form is refused."""
        with pytest.raises(InvalidItem):
            endpoint.put(thing)
