"""The contract of get, pull, exists and digest."""

from __future__ import annotations

from copy import deepcopy

import pytest

from diana.exceptions import InvalidItem, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, DixelView, Query
from diana.utils.endpoint import Endpoint
from tests.contract import samples
from tests.contract.suite_base import ContractBase, needs


class ReadContract(ContractBase):
    """Get, pull, exists, digest."""

    @needs("get")
    def test_get_of_an_absent_id_raises_item_not_found(self, endpoint: Endpoint) -> None:
        with pytest.raises(ItemNotFound):
            endpoint.get(self.absent_id, level=self.make_item().level, view=self._any_view(endpoint))

    @needs("get")
    def test_get_of_an_absent_item_raises_item_not_found(self, endpoint: Endpoint) -> None:
        with pytest.raises(ItemNotFound):
            endpoint.get(self.absent_item(), view=self._any_view(endpoint))

    @needs("get", uids=True)
    def test_get_of_an_absent_ref_raises_item_not_found(self, endpoint: Endpoint) -> None:
        with pytest.raises(ItemNotFound):
            endpoint.get(self._uid_ref(self.absent_item()), view=self._any_view(endpoint))

    @needs("get")
    def test_get_after_delete_raises_item_not_found(self, endpoint: Endpoint) -> None:
        if not endpoint.can("delete"):
            pytest.skip("cannot delete")
        item = self.make_item()
        oid = self.store(endpoint, item)
        endpoint.delete(oid, level=item.level)
        with pytest.raises(ItemNotFound):
            endpoint.get(oid, level=item.level, view=self._any_view(endpoint))

    @needs("get", views=DixelView.TAGS)
    def test_get_tags_returns_the_tags(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        found = endpoint.get(self.store(endpoint, item), level=item.level, view=DixelView.TAGS)
        key = item.level.uid_keyword
        assert found.tags[key] == item.tags[key]
        assert found.tags["AccessionNumber"] == item.tags["AccessionNumber"]

    @needs("get", files=True, views=DixelView.FILE)
    def test_get_file_returns_the_same_bytes(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        found = endpoint.get(self.store(endpoint, item), level=item.level, view="file")
        assert found.file == item.file

    @needs("get", files=True, views=DixelView.PIXELS)
    def test_get_pixels_returns_an_array(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        found = endpoint.get(self.store(endpoint, item), level=item.level, view=DixelView.PIXELS)
        assert found.pixels is not None
        assert found.pixels.shape == (8, 8)

    @needs("get", files=True, views=DixelView.TAGS)
    def test_get_returns_any_combination_of_its_views(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        oid = self.store(endpoint, item)
        parts = endpoint.views.parts()
        for number in range(1, 2 ** len(parts)):
            view = DixelView(0)
            for at, part in enumerate(parts):
                view |= part if number >> at & 1 else DixelView(0)
            found = endpoint.get(oid, level=item.level, view=view)
            assert (DixelView.TAGS not in view) or found.tags["SOPInstanceUID"] == item.tags["SOPInstanceUID"]
            assert (DixelView.FILE not in view) or found.file == item.file
            assert (DixelView.PIXELS not in view) or found.pixels is not None

    @needs("get")
    def test_get_of_a_view_it_has_not_raises_unsupported(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        oid = self.store(endpoint, item)
        for part in DixelView:
            if part not in endpoint.views and len(part.parts()) == 1:
                with pytest.raises(Unsupported):
                    endpoint.get(oid, level=item.level, view=part)

    @needs("get")
    def test_get_of_an_unknown_view_raises_invalid_item(self, endpoint: Endpoint) -> None:
        with pytest.raises(InvalidItem):
            endpoint.get(self.absent_id, view="picture")

    @needs("get")
    def test_get_of_an_unknown_level_raises_invalid_item(self, endpoint: Endpoint) -> None:
        with pytest.raises(InvalidItem):
            endpoint.get(self.absent_id, level="department", view=self._any_view(endpoint))

    @needs("get")
    def test_get_of_a_dixel_returns_a_new_one_with_the_parts_of_both(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        self.store(endpoint, item)
        item.meta["Mine"] = "kept"
        before = deepcopy((item.meta, item.tags))
        found = endpoint.get(item, view=self._any_view(endpoint))
        assert found is not item
        assert found.meta["Mine"] == "kept"
        assert (item.meta, item.tags) == before

    @needs("get", uids=True)
    def test_get_of_a_ref_made_of_uids(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        self.store(endpoint, item)
        found = endpoint.get(self._uid_ref(item), view=self._any_view(endpoint))
        assert found.level == item.level

    @needs("get")
    def test_what_is_got_can_be_changed_without_harm(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        oid = self.store(endpoint, item)
        view = self._any_view(endpoint)
        found = endpoint.get(oid, level=item.level, view=view)
        found.tags["AccessionNumber"] = found.meta["Planted"] = "changed by the reader"
        again = endpoint.get(oid, level=item.level, view=view)
        assert again.tags.get("AccessionNumber") != "changed by the reader"
        assert "Planted" not in again.meta

    @needs("get", files=True, uids=True, views=DixelView.TAGS)
    @pytest.mark.parametrize("level", [DicomLevel.STUDIES, DicomLevel.SERIES], ids=str)
    def test_get_tags_of_a_study_or_series(self, endpoint: Endpoint, level: DicomLevel) -> None:
        for item in samples.instances(1, 1, 2):
            self.store(endpoint, item)
        found = endpoint.get(samples.above(item, level), view=DixelView.TAGS)
        assert found.level == level
        assert found.tags[level.uid_keyword] == item.tags[level.uid_keyword]

    @needs("pull", files=True)
    def test_pull_of_a_study_yields_every_instance_with_its_file(self, endpoint: Endpoint) -> None:
        items = list(samples.instances(1, 2, 3))
        for item in (*items, *samples.instances(1, first=1)):
            self.store(endpoint, item)
        pulled = list(endpoint.pull(samples.above(items[0], DicomLevel.STUDIES)))
        assert {one.level for one in pulled} == {DicomLevel.INSTANCES}
        assert self._files(pulled) == self._files(items)

    @needs("pull", files=True)
    def test_pull_of_a_series_yields_only_its_instances(self, endpoint: Endpoint) -> None:
        items = list(samples.instances(1, 2, 2))
        for item in items:
            self.store(endpoint, item)
        pulled = endpoint.pull(samples.above(items[0], DicomLevel.SERIES))
        assert self._files(pulled) == self._files(items[:2])

    @needs("pull", files=True)
    def test_pull_of_an_instance_yields_it(self, endpoint: Endpoint) -> None:
        items = list(samples.instances(1, 1, 2))
        for item in items:
            self.store(endpoint, item)
        assert self._files(endpoint.pull(samples.above(items[1], DicomLevel.INSTANCES))) == self._files(items[1:])

    @needs("pull", files=True)
    def test_what_is_pulled_carries_its_uids(self, endpoint: Endpoint) -> None:
        item = samples.instance()
        self.store(endpoint, item)
        (one,) = endpoint.pull(samples.above(item, DicomLevel.STUDIES))
        assert one.ref.tags().items() >= {**item.ref.tags(), "PatientID": one.ref.patient}.items()

    @needs("pull")
    def test_pull_of_an_absent_item_raises_item_not_found(self, endpoint: Endpoint) -> None:
        self.store(endpoint, self.make_item())
        with pytest.raises(ItemNotFound):
            list(endpoint.pull(samples.above(self.absent_item(), DicomLevel.STUDIES)))

    @needs("pull", files=True)
    def test_pull_may_be_left_early(self, endpoint: Endpoint) -> None:
        items = list(samples.instances(1, 1, 3))
        for item in items:
            self.store(endpoint, item)
        study = samples.above(items[0], DicomLevel.STUDIES)
        pull = endpoint.pull(study)
        assert next(pull).file in [item.file for item in items]
        pull.close()  # type: ignore[attr-defined]
        assert len(list(endpoint.pull(study))) == 3

    @needs("pull")
    def test_pull_of_less_than_it_needs_raises_unsupported(self, endpoint: Endpoint) -> None:
        if endpoint.needs == DicomLevel.PATIENTS:
            pytest.skip("takes every level")
        item = samples.above(samples.instance(), DicomLevel(endpoint.needs - 1))
        with pytest.raises(Unsupported):
            endpoint.pull(item)

    @needs("exists")
    def test_exists_of_an_absent_item_is_false(self, endpoint: Endpoint) -> None:
        assert endpoint.exists(self.absent_item()) is False
        assert endpoint.exists(self.absent_id, level=self.make_item().level) is False

    @needs("exists")
    def test_exists_of_a_stored_item_is_true(self, endpoint: Endpoint) -> None:
        self.store(endpoint, self.make_item())
        assert endpoint.exists(self.make_item()) is True
        assert endpoint.exists(self.make_item(1)) is False

    @needs("exists", uids=True)
    def test_exists_by_ref(self, endpoint: Endpoint) -> None:
        self.store(endpoint, self.make_item())
        assert endpoint.exists(self._uid_ref(self.make_item())) is True
        assert endpoint.exists(self._uid_ref(self.make_item(1))) is False

    @needs("exists", "find")
    def test_exists_by_query(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        assert endpoint.exists(self.query_for(item), level=item.level) is False
        self.store(endpoint, item)
        assert endpoint.exists(self.query_for(item), level=item.level) is True
        assert endpoint.exists(Query(self.query_for(item), item.level)) is True

    @needs("exists")
    def test_exists_of_an_accession_that_is_the_start_of_another_is_false(self, endpoint: Endpoint) -> None:
        item, shorter = self.make_item(), self.make_item()
        self.store(endpoint, item)
        for key in ("AccessionNumber", item.level.uid_keyword):
            shorter.tags[key] = str(item.tags[key])[:-1]
        shorter.meta.pop("FileName", None)
        assert endpoint.exists(shorter) is False

    @needs("digest", files=True)
    def test_digest_is_the_md5_of_the_stored_file(self, endpoint: Endpoint) -> None:
        item = samples.instance()
        oid = self.store(endpoint, item)
        assert item.blob is not None
        assert endpoint.digest(oid) == item.blob.digest()
        assert endpoint.digest(item) == item.blob.digest()

    @needs("digest")
    def test_digest_of_an_absent_item_raises_item_not_found(self, endpoint: Endpoint) -> None:
        with pytest.raises(ItemNotFound):
            endpoint.digest(self.absent_item())
        with pytest.raises(ItemNotFound):
            endpoint.digest(self.absent_id)
