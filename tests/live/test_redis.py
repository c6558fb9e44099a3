"""Redis beyond the contract: values, collections, damaged and foreign content, broken servers."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from hashlib import md5

import pytest
import redis as redis_py

from diana.apis import Memory, Redis
from diana.dixel import Dixel
from diana.exceptions import (
    DianaError,
    GatewayConnectionError,
    GatewayRefused,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.utils.endpoint import Serializable
from diana.utils.gateways.redis_kv import MAX_VALUE, RedisKV, glob_escape
from tests.contract import samples
from tests.helpers import free_port
from tests.planted import PASSWORD, PLANTED_PASSWORDS, assert_nothing_planted
from tests.servers import RedisServer

pytestmark = pytest.mark.live


@pytest.fixture
def store(clean_redis: RedisServer) -> Iterator[Redis]:
    endpoint = Redis(clean_redis.host, clean_redis.port, 0, clean_redis.password)
    yield endpoint
    endpoint.close()


@pytest.fixture
def raw(clean_redis: RedisServer) -> Iterator[redis_py.Redis]:
    with clean_redis.client() as client:
        yield client


def indexed(accession: str, name: str) -> Dixel:
    return Dixel(meta={"FileName": name}, tags={"AccessionNumber": accession}, level="instances")


class TestValues:
    def test_the_key_of_a_dixel_is_its_epid(self, store: Redis, raw: redis_py.Redis) -> None:
        item = samples.study()
        assert store.put(item) == item.epid
        assert raw.get(item.epid) == item.json().encode()

    @pytest.mark.parametrize("value", [None, 0, 1.5, True, "text", "", [1, [2]], {"a": {"b": None}}, "Ünï"], ids=repr)
    def test_a_json_value_comes_back_under_its_md5(self, store: Redis, raw: redis_py.Redis, value: object) -> None:
        key = store.put(value)
        text = raw.get(key)
        assert isinstance(text, bytes)
        assert key == md5(text, usedforsecurity=False).hexdigest()
        assert store.get(key) == value

    def test_datetimes_of_a_dixel_come_back(self, store: Redis) -> None:
        moment = dt.datetime(2020, 2, 29, 13, 14, 15)
        item = Dixel(meta={"StudyDateTime": moment}, tags={"AccessionNumber": "A"})
        assert store.get(store.put(item)) == item

    def test_endpoints_are_stored_without_their_secrets(self, store: Redis, raw: redis_py.Redis) -> None:
        key = store.put(store)
        text = raw.get(key)
        assert isinstance(text, bytes)
        assert_nothing_planted(text.decode())
        found = store.get(key)
        assert isinstance(found, Redis)
        assert found.port == store.port
        assert store.exists(key) is True
        assert store.ref(store).id == key

    @pytest.mark.parametrize(
        "text",
        [
            '{"ctype": "os.system"}',
            '{"ctype": "subprocess.Popen", "args": "id"}',
            '{"ctype": "Endpoint"}',
            '{"ctype": ["Dixel"]}',
            '{"ctype": "Dixel", "nonsense": 1}',
            '{"ctype": "Dixel", "level": "department"}',
            '{"ctype": "Dixel", "tags": 7}',
            "not json PLANTEDPID4711",
            "[" * 200_000,
            "",
        ],
        ids=lambda text: text[:30],
    )
    def test_hostile_content_is_refused_by_get_and_passed_over_by_find(
        self, store: Redis, raw: redis_py.Redis, text: str
    ) -> None:
        raw.set("hostile", text)
        with pytest.raises(InvalidItem) as caught:
            store.get("hostile")
        assert_nothing_planted(str(caught.value))
        store.put(samples.study())
        assert len(store.find({})) == 1

    def test_a_value_too_large_is_refused_and_passed_over(self, store: Redis, raw: redis_py.Redis) -> None:
        raw.setrange("huge", MAX_VALUE, b"x")
        with pytest.raises(InvalidItem, match="larger"):
            store.get("huge")
        store.put(samples.study())
        assert len(store.find({})) == 1

    def test_a_set_is_no_object(self, store: Redis, raw: redis_py.Redis) -> None:
        raw.sadd("aset", "PLANTEDPID4711")
        with pytest.raises(InvalidItem) as caught:
            store.get("aset")
        assert "another type" in str(caught.value)
        assert store.find({}) == []

    def test_update_replaces_what_is_under_the_key(self, store: Redis) -> None:
        key = store.put(samples.study(0))
        assert store.update(key, samples.study(1)) == key
        assert store.get(key) == samples.study(1)
        with pytest.raises(ItemNotFound):
            store.update("absent", {"a": 1})
        assert store.exists("absent") is False

    def test_find_tells_levels_apart(self, store: Redis) -> None:
        store.put(samples.study())
        store.put(samples.instance())
        store.put(Memory())
        store.put({"tags": {"AccessionNumber": "GEN000000"}})
        assert len(store.find({"AccessionNumber": "GEN000000"})) == 1
        assert len(store.find({"AccessionNumber": "GEN000000"}, level="instances")) == 1

    def test_find_walks_many_keys(self, store: Redis) -> None:
        for n in range(2100):
            store.gateway.put(f"k{n}", Dixel(tags={"AccessionNumber": f"A{n % 7}"}).json())
        assert len(store.find({"AccessionNumber": "A3"})) == 300

    def test_clear_asks_for_confirmation(self, store: Redis) -> None:
        key = store.put(samples.study())
        with pytest.raises(Unsupported, match="confirm=True"):
            store.clear()
        with pytest.raises(Unsupported):
            store.clear(confirm=1)  # type: ignore[arg-type]
        assert store.exists(key)
        store.clear(confirm=True)
        assert not store.exists(key)


class TestCollections:
    def test_an_item_is_added_by_accession_number_and_path(self, store: Redis, raw: redis_py.Redis) -> None:
        key = store.add_to_collection(indexed("A1", "x.dcm"), prefix="ab12-", path="/data/one")
        assert key == "ab12-A1"
        assert raw.smembers(key) == {b"/data/one/x.dcm"}

    def test_adding_twice_is_one(self, store: Redis) -> None:
        for _ in range(2):
            store.add_to_collection(indexed("A1", "x.dcm"), path="/data")
        assert store.count_collected() == 1

    def test_keys_may_come_from_tags_and_meta(self, store: Redis) -> None:
        item = indexed("A1", "x.dcm")
        store.add_to_collection(item, collection_key="FileName", item_key="AccessionNumber")
        assert store.collected_items("", "x.dcm") == {"A1"}

    @pytest.mark.parametrize(
        ("key", "missing"), [("StudyInstanceUID", "StudyInstanceUID"), ("AccessionNumber", "FilePath")]
    )
    def test_a_missing_value_names_the_key(self, store: Redis, key: str, missing: str) -> None:
        with pytest.raises(InvalidItem, match=missing):
            store.add_to_collection(Dixel(tags={"AccessionNumber": "A"}), collection_key=key)

    def test_many_are_added_at_once(self, store: Redis) -> None:
        items = [indexed(f"A{n % 5}", f"{n}.dcm") for n in range(2500)]
        assert store.add_many(items, prefix="p-", path="/d") == 2500
        assert store.add_many(items, prefix="p-", path="/d") == 0
        assert store.collections("p-") == ["A0", "A1", "A2", "A3", "A4"]
        assert store.count_collected("p-") == 2500
        assert len(store.collected_items("p-", "A0")) == 500

    def test_a_prefix_is_no_pattern(self, store: Redis) -> None:
        for prefix in ("a*-", "ab-", "[ab]-", "a?-", "a\\-"):
            store.add_to_collection(indexed("X", "f"), prefix=prefix, path="/")
        assert store.collections("a*-") == ["X"]
        assert store.collections("[ab]-") == ["X"]
        assert store.collections("a?-") == ["X"]
        assert store.collections("a\\-") == ["X"]
        assert store.count_collected("a") == 4

    def test_objects_are_no_collections(self, store: Redis) -> None:
        store.put(samples.study())
        assert store.collections() == []

    def test_a_name_that_is_no_utf8_comes_back(self, store: Redis) -> None:
        name = b"caf\xe9.dcm".decode("utf-8", "surrogateescape")
        store.add_to_collection(indexed("A1", name), path="/d")
        assert store.collected_items("", "A1") == {f"/d/{name}"}

    def test_an_absent_collection_is_empty(self, store: Redis) -> None:
        assert store.collected_items("p-", "none") == set()
        assert store.collections("p-") == []
        assert store.count_collected("p-") == 0

    def test_adding_to_an_object_is_an_error(self, store: Redis) -> None:
        key = store.put(samples.study())
        with pytest.raises(InvalidItem):
            store.gateway.add_members([(key, "x")])

    def test_keys_is_never_called(self, store: Redis, raw: redis_py.Redis) -> None:
        raw.config_resetstat()
        store.add_many([indexed("A", "x")], path="/")
        store.collections()
        store.count_collected()
        store.find({})
        stats = raw.info("commandstats")
        assert isinstance(stats, dict)
        assert "cmdstat_keys" not in stats
        assert "cmdstat_eval" not in stats
        assert "cmdstat_scan" in stats


class TestBrokenServers:
    def test_a_wrong_password_is_refused_without_showing_it(self, clean_redis: RedisServer) -> None:
        wrong = Redis(clean_redis.host, clean_redis.port, 0, PLANTED_PASSWORDS[1])
        with pytest.raises(GatewayRefused) as caught:
            wrong.put(samples.study())
        assert_nothing_planted(f"{caught.value!r} {caught.value} {wrong!r}")
        assert wrong.check() is False
        wrong.close()

    def test_no_password_and_no_such_database_are_refused(self, clean_redis: RedisServer) -> None:
        for bad in (
            Redis(clean_redis.host, clean_redis.port),
            Redis(clean_redis.host, clean_redis.port, 999, clean_redis.password),
        ):
            with pytest.raises(GatewayRefused):
                bad.exists("x")
            bad.close()

    def test_a_frozen_server_ends_in_time(self, clean_redis: RedisServer) -> None:
        store = Redis(clean_redis.host, clean_redis.port, 0, clean_redis.password, timeout=0.5)
        assert store.check()
        clean_redis.pause()
        try:
            begin = time.monotonic()
            assert store.check() is False
            with pytest.raises(GatewayConnectionError):
                store.exists("x")
            assert time.monotonic() - begin < 5
        finally:
            clean_redis.resume()
            store.close()

    def test_it_works_again_after_a_restart_of_the_server(self, clean_redis: RedisServer) -> None:
        store = Redis(clean_redis.host, clean_redis.port, 0, clean_redis.password)
        key = store.put(samples.study())
        clean_redis.kill()
        with pytest.raises(GatewayConnectionError):
            store.exists(key)
        clean_redis.start()
        assert store.exists(key) is False
        store.close()

    def test_a_full_server_is_temporary(self, store: Redis, raw: redis_py.Redis) -> None:
        raw.config_set("maxmemory", "1")
        try:
            with pytest.raises(GatewayConnectionError, match="OOM"):
                store.put(samples.study())
        finally:
            raw.config_set("maxmemory", "0")

    def test_errors_are_of_the_tree_and_hold_no_values(self, store: Redis) -> None:
        for call in (
            lambda: store.get("PLANTEDPID4711" * 1000),
            lambda: store.get("PLANTEDPID4711\ud800"),
            lambda: store.put({"PLANTEDPID4711": object()}),
            lambda: store.get(object()),
        ):
            with pytest.raises(DianaError) as caught:
                call()
            assert_nothing_planted(str(caught.value))

    def test_a_server_that_speaks_another_protocol_is_an_error(self, orthanc_port: int) -> None:
        other = Redis("127.0.0.1", orthanc_port, 0, PASSWORD, timeout=2)
        assert other.check() is False
        with pytest.raises(DianaError):
            other.exists("x")
        other.close()

    @pytest.fixture
    def orthanc_port(self) -> Iterator[int]:
        """A port where everything is answered with HTML."""
        import socketserver
        import threading

        class Html(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.request.recv(100)
                self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n<html>\r\n")

        with socketserver.ThreadingTCPServer(("127.0.0.1", free_port()), Html) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield server.server_address[1]
            server.shutdown()
            thread.join()


def test_secrets_of_the_gateway_never_show() -> None:
    gateway = RedisKV("h", 1, 0, PASSWORD, user="someone")
    assert_nothing_planted(f"{gateway!r} {gateway}")
    assert "someone" not in repr(gateway)


def test_glob_escape_leaves_plain_text_alone() -> None:
    assert glob_escape("ab12") == "ab12"


def test_import_of_the_endpoint_does_not_load_the_library() -> None:
    import subprocess
    import sys

    code = "import sys, diana.apis.redis; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_serializable_is_known_by_its_hash() -> None:
    assert Redis().ref(Serializable()).id == Serializable().epid
