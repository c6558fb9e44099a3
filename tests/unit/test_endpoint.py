"""Endpoint, Serializable, Factory and registry: what the base does for every backend."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import pytest
from attrs import define, field

from diana.apis import Memory
from diana.dixel import Dixel, DixelView
from diana.exceptions import ConfigError, DianaError, GatewayConnectionError, InvalidItem, ItemNotFound, Unsupported
from diana.utils.dicom import DicomEventType, DicomLevel, Query, Ref
from diana.utils.endpoint import Endpoint, Event, Factory, Serializable
from diana.utils.endpoint.endpoint import VERBS
from diana.utils.endpoint.registry import class_of, ctypes
from diana.utils.endpoint.serializable import SECRET, encode
from tests.contract import samples


@define(eq=False)
class Shelf(Endpoint):
    """Remember what its hooks are given."""

    views: ClassVar[DixelView] = DixelView.META | DixelView.TAGS
    needs: ClassVar[DicomLevel] = DicomLevel.SERIES

    name: str = field(default="shelf", kw_only=True)
    found: int = 3
    closed: int = field(init=False, default=0)
    given: list[Any] = field(init=False, factory=list)

    def _get(self, ref: Ref, view: DixelView, colour: str = "") -> Dixel:
        self.given.append((ref, view, colour))
        return Dixel(meta={"FromShelf": colour}, level=ref.level)

    def _find(self, query: Query) -> Iterator[Dixel]:
        self.given.append(query)
        try:
            for n in range(self.found):
                yield Dixel(tags={"AccessionNumber": str(n)}, level=query.level)
        finally:
            self.closed += 1

    def _exists(self, ref: Ref) -> bool:
        self.given.append(ref)
        return True

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        self.given.append(ref)
        yield from ()

    def _digest(self, ref: Ref) -> str:
        self.given.append(ref)
        return ""


class TestCan:
    def test_a_verb_can_when_its_hook_is_written(self) -> None:
        assert {verb for verb in VERBS if Shelf.can(verb)} == {"get", "find", "pull", "exists", "digest"}
        assert not any(Endpoint.can(verb) for verb in VERBS)

    @pytest.mark.parametrize("verb", ["", "_put", "handle", "ref", "query", "can", "close", "unsupported", "address"])
    def test_other_words_are_no_verbs(self, verb: str) -> None:
        assert not Memory.can(verb)

    def test_the_refusal_names_endpoint_class_and_verb(self) -> None:
        with pytest.raises(Unsupported, match="shelf: Shelf cannot delete"):
            Shelf().delete("x")


class TestItems:
    def test_a_plain_id_is_a_study_unless_said_otherwise(self) -> None:
        shelf = Shelf()
        shelf.get("x")
        shelf.get("x", level="series")
        shelf.digest("x")
        refs = [one[0] if isinstance(one, tuple) else one for one in shelf.given]
        assert refs == [Ref("study", id="x"), Ref("series", id="x"), Ref("instance", id="x")]

    def test_the_level_of_a_ref_or_dixel_is_its_own(self) -> None:
        shelf = Shelf()
        shelf.exists(Ref("series", series="1.2"), level="study")
        shelf.exists(samples.instance(), level="study")
        assert [one.level for one in shelf.given] == [DicomLevel.SERIES, DicomLevel.INSTANCES]

    @pytest.mark.parametrize("thing", [None, 3, 2.5, b"x", ["x"], object(), Shelf], ids=lambda one: type(one).__name__)
    @pytest.mark.parametrize("verb", ["get", "exists", "pull", "digest"])
    def test_what_is_no_item_is_invalid(self, verb: str, thing: Any) -> None:
        with pytest.raises(InvalidItem):
            getattr(Shelf(), verb)(thing)

    @pytest.mark.parametrize("thing", [None, 3, "1.2", ["x"], b"x"], ids=repr)
    def test_what_is_no_query_is_invalid(self, thing: Any) -> None:
        with pytest.raises(InvalidItem):
            Shelf().find(thing)

    @pytest.mark.parametrize("view", [None, 4, "picture", b"tags", ["tags"]], ids=repr)
    def test_what_is_no_view_is_invalid(self, view: Any) -> None:
        with pytest.raises(InvalidItem):
            Shelf().get("x", view=view)

    def test_a_view_it_has_not_is_named(self) -> None:
        with pytest.raises(Unsupported, match=r"no view file; it has meta\|tags"):
            Shelf().get("x", view="tags|file")

    def test_pull_refuses_less_than_it_needs_at_once(self) -> None:
        with pytest.raises(Unsupported, match="pull needs series, not studies"):
            Shelf().pull("x")

    def test_options_reach_the_hook_and_unknown_ones_are_refused(self) -> None:
        assert Shelf().get("x", colour="red").meta == {"FromShelf": "red"}
        with pytest.raises((TypeError, Unsupported)):
            Shelf().get("x", size=3)
        with pytest.raises((TypeError, Unsupported)):
            Shelf().find({}, size=3)

    def test_get_of_a_dixel_joins_both_and_leaves_the_given_one(self) -> None:
        item = Dixel(meta={"Mine": 1, "FromShelf": "old"})
        found = Shelf().get(item, colour="new")
        assert found.meta == {"Mine": 1, "FromShelf": "new"}
        assert item.meta == {"Mine": 1, "FromShelf": "old"}


class TestFind:
    def test_a_query_keeps_its_level_and_limit_unless_said_otherwise(self) -> None:
        shelf = Shelf()
        assert len(shelf.find(Query({}, "series", limit=2))) == 2
        assert len(shelf.find(Query({}, "series", limit=2), level="instances", limit=1)) == 1
        assert [(one.level, one.limit) for one in shelf.given] == [(DicomLevel.SERIES, 2), (DicomLevel.INSTANCES, 1)]

    def test_fields_are_added(self) -> None:
        shelf = Shelf()
        shelf.find(Query({}, fields=["Modality"]), fields=["StudyDate"])
        assert list(shelf.given[0].fields) == ["Modality", "StudyDate"]

    def test_unknown_fields_and_keys_are_refused_before_the_search(self) -> None:
        shelf = Shelf()
        with pytest.raises((ConfigError, Unsupported), match="Modality"):
            shelf.find({}, fields=["Modalitty"])
        with pytest.raises((ConfigError, Unsupported), match="Modality"):
            shelf.find({"not": {"Modalitty": "x"}})
        assert shelf.given == []

    @pytest.mark.parametrize("limit", [1, 2])
    def test_the_search_is_closed_at_the_limit(self, limit: int) -> None:
        shelf = Shelf()
        assert len(shelf.find({}, limit=limit)) == limit
        assert shelf.closed == 1

    @pytest.mark.parametrize("limit", [0, -1, "x", 1.5])
    def test_an_odd_limit_is_refused(self, limit: Any) -> None:
        with pytest.raises(DianaError):
            Shelf().find({}, limit=limit)

    def test_exists_by_query_asks_for_one(self) -> None:
        shelf = Shelf()
        assert shelf.exists({"Modality": "CT"}) is True
        assert shelf.given[0].limit == 1
        assert Shelf(found=0).exists({"Modality": "CT"}) is False

    def test_a_dixel_is_looked_for_at_its_own_level(self) -> None:
        shelf = Shelf()
        shelf.find(samples.study(3))
        assert shelf.given[0].level == DicomLevel.STUDIES
        assert shelf.given[0].match["AccessionNumber"] == "GEN000003"


class TestPut:
    @pytest.mark.parametrize("thing", [None, "x", b"x", {}, Ref("study"), Shelf()], ids=lambda one: type(one).__name__)
    def test_only_dixels_are_put(self, thing: Any) -> None:
        with pytest.raises(InvalidItem):
            Memory().put(thing)

    def test_put_many_tells_of_each_in_order(self) -> None:
        items = [samples.instance(0), samples.study(), samples.instance(1)]
        outcomes = list(Memory().put_many(items))
        assert [one.item for one in outcomes] == items
        assert [bool(one.id) for one in outcomes] == [True, False, True]
        assert isinstance(outcomes[1].error, InvalidItem)


class TestCheck:
    @pytest.mark.parametrize(
        "error",
        [
            GatewayConnectionError("gone"),
            OSError("disk"),
            ValueError("x"),
            RuntimeError("x"),
            KeyError("x"),
            TypeError(),
        ],
        ids=lambda one: type(one).__name__,
    )
    def test_check_never_raises(self, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
        @define(eq=False)
        class Bad(Shelf):
            def _check(self) -> None:
                raise error

        with caplog.at_level(logging.WARNING):
            assert Bad(name="bad").check() is False
        assert "bad" in caplog.text

    def test_an_endpoint_without_check_is_never_healthy(self) -> None:
        assert Shelf().check() is False


class TestHandle:
    def test_it_calls_a_public_method_with_the_item_first(self) -> None:
        assert Shelf().handle("x", "exists") is True
        assert Shelf().handle("x", "get", "series", colour="red").level == DicomLevel.SERIES

    @pytest.mark.parametrize(
        "method", ["", "_get", "__class__", "__init__", "found", "given", "name", "views", "nothing"]
    )
    def test_everything_else_is_unsupported(self, method: str) -> None:
        with pytest.raises(Unsupported):
            Shelf().handle("x", method)

    def test_static_and_class_methods_get_the_item_first_too(self) -> None:
        assert Shelf().handle({"Modality": "CT"}, "query", "series").level == DicomLevel.SERIES
        assert Shelf().handle("get", "can") is True

    @pytest.mark.parametrize("method", [None, 3, b"exists", ["exists"]], ids=repr)
    def test_a_method_that_is_no_text_is_unsupported(self, method: Any) -> None:
        with pytest.raises((Unsupported, InvalidItem)):
            Shelf().handle("x", method)


@define(eq=False)
class Vault(Serializable):
    """Every kind of attribute."""

    place: str = "here"
    tags: dict[str, Any] = field(factory=dict)
    password: str | None = field(default=None, repr=False, metadata=SECRET)
    _hidden: int = 7
    later: int = field(init=False, default=1)


class TestSerializable:
    def test_defaults_are_left_out_factories_and_class_are_not(self) -> None:
        assert Vault().asdict() == {"tags": {}, "ctype": "Vault"}
        assert Vault("there", hidden=8).asdict() == {"place": "there", "tags": {}, "hidden": 8, "ctype": "Vault"}

    def test_secrets_are_never_written(self) -> None:
        vault = Vault(password="SECRET")
        assert "SECRET" not in vault.json() + repr(vault) + repr(vault.asdict())
        assert vault.epid == Vault().epid

    def test_the_id_follows_the_content(self) -> None:
        vault = Vault()
        before = vault.epid
        vault.tags["a"] = 1
        assert vault.epid != before
        assert vault.epid == vault.sha1()

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (b"abc\xff", "abc"),
            (PurePosixPath("/a/b"), "/a/b"),
            (dt.date(2020, 1, 2), "2020-01-02"),
            (dt.datetime(2020, 1, 2, 3, 4), "2020-01-02T03:04:00"),
            (dt.time(3, 4), "03:04:00"),
            (dt.timedelta(hours=1), "1:00:00"),
            ({"b", "a"}, ["a", "b"]),
            ((1, 2), [1, 2]),
            (DicomLevel.SERIES, 3),
            (DicomEventType.FILE_ADDED, 5),
            (DixelView.FILE, 8),
            (Vault(), {"tags": {}, "ctype": "Vault"}),
        ],
    )
    def test_values_have_a_json_form(self, value: Any, expected: Any) -> None:
        assert json.loads(json.dumps(value, default=encode)) == expected

    def test_a_set_of_several_kinds_has_a_json_form(self) -> None:
        assert len(encode({1, "a", None})) == 3

    def test_other_values_have_none(self) -> None:
        with pytest.raises(TypeError):
            encode(object())


class TestFactory:
    def test_a_mapping_becomes_an_object(self) -> None:
        item = samples.study(1, {"StudyDateTime": dt.datetime(2020, 1, 2, 3)})
        assert Factory.create(**json.loads(item.json())) == item
        assert isinstance(Factory.create(ctype="Memory", name="m"), Memory)

    def test_only_keys_with_datetime_are_parsed(self) -> None:
        made = Factory.create(
            ctype="Dixel",
            meta={"StudyDateTime": "2020-01-02T03:04:05", "Note": "2020-01-02T03:04:05", "XDateTime": "soon"},
        )
        assert made.meta["StudyDateTime"] == dt.datetime(2020, 1, 2, 3, 4, 5)
        assert made.meta["Note"] == "2020-01-02T03:04:05"
        assert made.meta["XDateTime"] == "soon"

    def test_all_unknown_arguments_are_named(self) -> None:
        with pytest.raises(ConfigError) as caught:
            Factory.create(ctype="Dixel", mata={}, levl=2)
        assert len(caught.value.problems) == 2
        assert "did you mean 'meta'" in str(caught.value)

    @pytest.mark.parametrize("ctype", [None, "", "os.system", "Dixxel", 7, ["Dixel"], {"a": 1}, b"Dixel"], ids=repr)
    def test_an_unknown_class_is_a_config_error(self, ctype: Any) -> None:
        with pytest.raises(ConfigError):
            Factory.create(ctype=ctype)

    def test_a_copy_keeps_secrets_and_shares_no_store(self) -> None:
        assert Factory.copy(Vault(password="x")).password == "x"
        memory = Memory()
        memory.put(samples.instance())
        assert Factory.copy(memory).find({}) == []

    def test_a_module_that_cannot_be_imported_does_not_hide_the_others(self, tmp_path: Path) -> None:
        info = tmp_path / "broken_plugin-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[diana.types]\na = no_such_module\nb = json\n")
        code = "from diana.utils.endpoint.registry import class_of; print(class_of('Memory').__name__)"
        path = os.pathsep.join([str(tmp_path), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == "Memory", done.stderr[-500:]

    def test_every_registered_class_is_there(self) -> None:
        for ctype in ctypes():
            assert class_of(ctype).__name__ == ctype


class TestEvent:
    def test_its_ref_tells_what_the_event_tells(self) -> None:
        event = Event(DicomEventType.SERIES_ADDED, {"oid": "x", "SeriesInstanceUID": "1.2", "PatientID": "P"})
        assert event.ref == Ref("series", series="1.2", patient="P", id="x")
        assert Event(DicomEventType.FILE_ADDED, {"fn": "a.dcm"}).ref == Ref("instance", id="a.dcm")

    def test_its_repr_shows_no_data(self) -> None:
        assert "SECRET" not in repr(
            Event(DicomEventType.STUDY_ADDED, {"PatientID": "SECRET"}, "SECRET", study="SECRET")
        )


def test_errors_of_the_tree_can_be_told_apart() -> None:
    assert issubclass(ItemNotFound, LookupError)
    assert issubclass(InvalidItem, ValueError)
    assert GatewayConnectionError("x").temporary
    assert not InvalidItem("x").temporary
