"""
The endpoint contract as tests.

A backend joins with a row in ``tests/contract/matrix.py`` and a class:

    class TestShelf(EndpointContract):
        @pytest.fixture
        def endpoint(self, shelf_server: ShelfServer) -> Shelf:
            return Shelf(url=shelf_server.url)

``endpoint`` is fresh: empty, or in a name space of its own. Tests of a verb are skipped where ``can(verb)`` is False.
Everything else is optional: see the attributes and hooks of the class. A known deviation is a line in ``deviations``
(test name: reason), which makes the test a strict xfail.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from diana.exceptions import InvalidItem, ItemNotFound, Unsupported
from diana.utils.endpoint import Endpoint, Factory
from tests.contract.matrix import MATRIX, VERBS
from tests.contract.suite_base import needs
from tests.contract.suite_find import FindContract
from tests.contract.suite_read import ReadContract
from tests.contract.suite_write import WriteContract


class EndpointContract(WriteContract, ReadContract, FindContract):
    """Run the contract over the backend of the fixture ``endpoint``; attributes and hooks: see ``ContractBase``."""

    def test_stands_in_the_matrix(self, endpoint: Endpoint) -> None:
        assert type(endpoint).__name__ in MATRIX

    def test_verbs_that_are_not_there_raise_unsupported(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        calls: dict[str, Callable[[], Any]] = {
            "put": lambda: endpoint.put(item),
            "get": lambda: endpoint.get(item),
            "find": lambda: endpoint.find({}),
            "pull": lambda: list(endpoint.pull(item)),
            "exists": lambda: endpoint.exists(item),
            "update": lambda: endpoint.update(item, self.update_data),
            "delete": lambda: endpoint.delete(item),
            "digest": lambda: endpoint.digest(item),
        }
        for verb in VERBS:
            if verb in calls and not endpoint.can(verb):
                with pytest.raises(Unsupported):
                    calls[verb]()

    def test_can_of_an_unknown_verb_is_false(self, endpoint: Endpoint) -> None:
        assert not endpoint.can("__init__")
        assert not endpoint.can("frobnicate")
        assert not endpoint.can("_put")

    def test_secrets_never_show(self, endpoint: Endpoint) -> None:
        shown = [repr(endpoint), str(endpoint), repr(endpoint.asdict()), endpoint.json(), f"{endpoint}"]
        gateway = getattr(endpoint, "gateway", None)
        shown += [repr(gateway), str(gateway)]
        for secret in self.secrets:
            assert not any(secret in text for text in shown)

    def test_is_rebuilt_from_its_own_mapping(self, endpoint: Endpoint) -> None:
        desc = json.loads(endpoint.json())
        assert desc["ctype"] == type(endpoint).__name__
        again = Factory.create(**desc)
        try:
            assert type(again) is type(endpoint)
            assert again.json() == endpoint.json()
        finally:
            again.close()

    def test_close_twice_does_no_harm(self, endpoint: Endpoint) -> None:
        endpoint.close()
        endpoint.close()

    @needs("check")
    def test_works_again_after_close(self, endpoint: Endpoint) -> None:
        endpoint.close()
        assert endpoint.check() is True

    @needs("check")
    def test_check_of_a_good_endpoint_is_true(self, endpoint: Endpoint) -> None:
        assert endpoint.check() is True

    @needs("check")
    def test_check_of_a_broken_endpoint_is_false_soon_and_logs_why(
        self, broken: Endpoint | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        down = self._down(broken)
        begin = time.monotonic()
        with caplog.at_level(logging.WARNING):
            assert down.check() is False
        assert time.monotonic() - begin < self.check_seconds
        assert down.name in caplog.text
        assert not any(secret in caplog.text for secret in self.secrets)

    @needs("exists")
    def test_exists_of_a_broken_endpoint_raises(self, broken: Endpoint | None) -> None:
        down = self._down(broken)
        self._raises_trouble(lambda: down.exists(self.make_item()))

    @needs("exists", "find")
    def test_exists_by_query_of_a_broken_endpoint_raises(self, broken: Endpoint | None) -> None:
        down = self._down(broken)
        self._raises_trouble(lambda: down.exists(self.query_for(self.make_item()), level=self.make_item().level))

    @needs("get")
    def test_get_of_a_broken_endpoint_does_not_say_absent(self, broken: Endpoint | None) -> None:
        down = self._down(broken)
        self._raises_trouble(lambda: down.get(self.make_item(), view=self._any_view(down)))

    @needs("find")
    def test_find_of_a_broken_endpoint_raises(self, broken: Endpoint | None) -> None:
        down = self._down(broken)
        self._raises_trouble(lambda: down.find(self.query_for(self.make_item()), level=self.make_item().level))

    @needs("put")
    def test_put_of_a_broken_endpoint_raises(self, broken: Endpoint | None) -> None:
        down = self._down(broken)
        self._raises_trouble(lambda: down.put(self.make_item()))

    @needs("delete")
    def test_delete_of_a_broken_endpoint_does_not_say_absent(self, broken: Endpoint | None) -> None:
        down = self._down(broken)
        self._raises_trouble(lambda: down.delete(self.make_item()))

    @needs("pull")
    def test_pull_of_a_broken_endpoint_does_not_end_well(self, broken: Endpoint | None) -> None:
        down = self._down(broken)
        self._raises_trouble(lambda: list(down.pull(self.make_item())))

    @needs("digest")
    def test_digest_of_a_broken_endpoint_does_not_say_absent(self, broken: Endpoint | None) -> None:
        down = self._down(broken)
        self._raises_trouble(lambda: down.digest(self.make_item()))

    @needs("exists")
    def test_handle_calls_a_public_method(self, endpoint: Endpoint) -> None:
        self.store(endpoint, self.make_item())
        assert endpoint.handle(self.make_item(), "exists") is True

    @pytest.mark.parametrize("method", ["_put", "__init__", "__class__", "no_such", "name", "views", "", "needs"])
    def test_handle_of_what_is_no_public_method_raises_unsupported(self, endpoint: Endpoint, method: str) -> None:
        with pytest.raises(Unsupported):
            endpoint.handle(self.make_item(), method)

    @pytest.mark.parametrize("verb", ["put", "get", "find", "pull", "exists", "update", "delete", "digest"])
    def test_unknown_options_are_refused(self, endpoint: Endpoint, verb: str) -> None:
        if not endpoint.can(verb):
            pytest.skip(f"cannot {verb}")
        item = self.make_item()
        if verb != "put":
            self.store(endpoint, item)
        arguments: dict[str, tuple[Any, ...]] = {
            "get": (item, None, self._any_view(endpoint)),
            "find": (self.query_for(item), item.level),
            "update": (item, self.update_data),
        }
        with pytest.raises((TypeError, Unsupported)):
            self._consumed(getattr(endpoint, verb)(*arguments.get(verb, (item,)), frobnicate=True))

    @pytest.mark.parametrize("thing", [None, 3, b"bytes", ["list"]], ids=repr)
    @pytest.mark.parametrize("verb", ["get", "pull", "exists", "delete", "digest"])
    def test_what_is_no_item_raises_invalid_item(self, endpoint: Endpoint, verb: str, thing: Any) -> None:
        if not endpoint.can(verb):
            pytest.skip(f"cannot {verb}")
        options = {"view": self._any_view(endpoint)} if verb == "get" else {}
        with pytest.raises(InvalidItem):
            self._consumed(getattr(endpoint, verb)(thing, **options))

    @pytest.mark.parametrize("verb", ["get", "pull", "exists", "delete", "digest"])
    def test_an_empty_id_never_addresses_anything(self, endpoint: Endpoint, verb: str) -> None:
        if not endpoint.can(verb):
            pytest.skip(f"cannot {verb}")
        item = self.make_item()
        self.store(endpoint, item)
        options = {"view": self._any_view(endpoint)} if verb == "get" else {}
        try:
            answer = self._consumed(getattr(endpoint, verb)("", level=item.level, **options))
        except (InvalidItem, ItemNotFound):
            answer = False
        assert answer is False
        if endpoint.can("exists"):
            assert endpoint.exists(item) is True

    @needs("put", "exists")
    def test_many_threads_may_put_different_items(self, endpoint: Endpoint) -> None:
        items = [self.make_item(n) for n in range(self.threads * 2)]
        ids = self._at_once(endpoint.put, items)
        assert len(set(ids)) == len(items)
        assert all(self._at_once(endpoint.exists, items))

    @needs("put", "exists")
    def test_many_threads_may_put_the_same_item(self, endpoint: Endpoint) -> None:
        ids = self._at_once(endpoint.put, [self.make_item() for _ in range(self.threads)])
        assert len(set(ids)) == 1
        if endpoint.can("find"):
            assert len(endpoint.find({}, level=self.make_item().level)) == 1

    @needs("get", "exists")
    def test_many_threads_may_read(self, endpoint: Endpoint) -> None:
        items = [self.make_item(n) for n in range(4)]
        ids = [self.store(endpoint, item) for item in items]
        view = self._any_view(endpoint)

        def read(n: int) -> bool:
            at = n % len(items)
            endpoint.get(ids[at], level=items[at].level, view=view)
            return endpoint.exists(ids[at], level=items[at].level)

        assert all(self._at_once(read, range(self.threads * 4)))

    @needs("put", "delete", "exists")
    def test_one_of_many_deletes_is_true(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        oid = self.store(endpoint, item)
        answers = self._at_once(lambda _: endpoint.delete(oid, level=item.level), range(self.threads))
        assert answers.count(True) >= 1
        assert endpoint.exists(item) is False
