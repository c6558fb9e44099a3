"""The contract of put, update and delete."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from diana.dixel import Dixel
from diana.exceptions import Conflict, InvalidItem, ItemNotFound
from diana.utils.dicom import DicomLevel, DixelView
from diana.utils.endpoint import Endpoint
from tests.contract import samples
from tests.contract.suite_base import ContractBase, needs


class WriteContract(ContractBase):
    """Put, update, delete."""

    @needs("put")
    def test_put_returns_a_text_id(self, endpoint: Endpoint) -> None:
        oid = endpoint.put(self.make_item())
        assert isinstance(oid, str)
        assert oid

    @needs("put", "get")
    def test_put_id_can_be_got(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        found = endpoint.get(endpoint.put(item), level=item.level, view=self._any_view(endpoint))
        assert isinstance(found, Dixel)
        assert found.level == item.level

    @needs("put", "exists")
    def test_put_id_exists(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        assert endpoint.exists(endpoint.put(item), level=item.level) is True

    @needs("put", "delete")
    def test_put_id_can_be_deleted(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        assert endpoint.delete(endpoint.put(item), level=item.level) is True

    @needs("put")
    def test_put_twice_gives_the_same_id(self, endpoint: Endpoint) -> None:
        assert endpoint.put(self.make_item()) == endpoint.put(self.make_item())

    @needs("put", "find")
    def test_put_twice_is_one(self, endpoint: Endpoint) -> None:
        for _ in range(2):
            endpoint.put(self.make_item())
        endpoint.put(self.make_item(1))
        assert len(endpoint.find({}, level=self.make_item().level)) == 2

    @needs("put", "delete", "exists")
    def test_put_twice_needs_one_delete(self, endpoint: Endpoint) -> None:
        for _ in range(2):
            endpoint.put(self.make_item())
        assert endpoint.delete(self.make_item()) is True
        assert endpoint.exists(self.make_item()) is False

    @needs("put", "delete", "exists")
    def test_put_after_delete_is_there_again(self, endpoint: Endpoint) -> None:
        endpoint.put(self.make_item())
        endpoint.delete(self.make_item())
        endpoint.put(self.make_item())
        assert endpoint.exists(self.make_item()) is True

    @needs("put", files=True)
    def test_put_of_other_bytes_raises_conflict(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        endpoint.put(item)
        with pytest.raises(Conflict):
            endpoint.put(self.changed(item))

    @needs("put", "pull", files=True)
    def test_put_of_other_bytes_leaves_the_first(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        oid = endpoint.put(item)
        with pytest.raises(Conflict):
            endpoint.put(self.changed(item))
        assert [one.file for one in endpoint.pull(oid, level=item.level)] == [item.file]

    @needs("put")
    def test_put_leaves_its_argument_alone(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        before = deepcopy((item.meta, item.tags)), item.level, item.blob
        endpoint.put(item)
        assert ((item.meta, item.tags), item.level, item.blob) == before

    @needs("put", "exists")
    def test_put_is_there_after_reopening(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        oid = endpoint.put(item)
        again = self.reopened(endpoint)
        if again is None:
            pytest.skip("the storage does not outlive the endpoint")
        assert again.exists(oid, level=item.level) is True
        again.close()

    @needs("put")
    @pytest.mark.parametrize("thing", [None, 3, "text", b"bytes", {"level": "studies"}], ids=repr)
    def test_put_of_what_is_no_dixel_raises_invalid_item(self, endpoint: Endpoint, thing: Any) -> None:
        with pytest.raises(InvalidItem):
            endpoint.put(thing)

    @needs("put", files=True)
    def test_put_of_an_instance_without_file_raises_invalid_item(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        item.blob = None
        with pytest.raises(InvalidItem):
            endpoint.put(item)

    @needs("put", "get", files=True, views=DixelView.TAGS)
    @pytest.mark.parametrize("patient_id", samples.ODD_PATIENT_IDS[1:], ids=repr)
    def test_odd_patient_ids_survive(self, endpoint: Endpoint, patient_id: str) -> None:
        item = samples.instance(7, PatientID=patient_id)
        oid = self.store(endpoint, item)
        found = endpoint.get(oid, level=DicomLevel.INSTANCES, view=DixelView.TAGS)
        assert str(found.tags["PatientID"]).strip(" ") == patient_id.strip(" ")

    @needs("update")
    def test_update_of_an_absent_item_raises_item_not_found(self, endpoint: Endpoint) -> None:
        with pytest.raises(ItemNotFound):
            endpoint.update(self.absent_id, self.update_data, level=self.make_item().level)
        with pytest.raises(ItemNotFound):
            endpoint.update(self.absent_item(), self.update_data)

    @needs("update", "get")
    def test_update_is_seen(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        oid = endpoint.update(self.store(endpoint, item), self.update_data, level=item.level)
        assert self.shows_update(endpoint, oid, item.level)

    @needs("delete")
    def test_delete_of_absent_returns_false(self, endpoint: Endpoint) -> None:
        assert endpoint.delete(self.absent_item()) is False
        assert endpoint.delete(self.absent_id, level=self.make_item().level) is False

    @needs("delete")
    def test_second_delete_returns_false(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        oid = self.store(endpoint, item)
        assert endpoint.delete(oid, level=item.level) is True
        assert endpoint.delete(oid, level=item.level) is False

    @needs("delete", "exists")
    def test_delete_leaves_the_others(self, endpoint: Endpoint) -> None:
        for n in range(3):
            self.store(endpoint, self.make_item(n))
        endpoint.delete(self.make_item(1))
        assert [endpoint.exists(self.make_item(n)) for n in range(3)] == [True, False, True]

    @needs("delete", "exists", files=True, uids=True)
    def test_delete_of_a_study_removes_its_instances_only(self, endpoint: Endpoint) -> None:
        items = list(samples.instances(2, 1, 2))
        for item in items:
            self.store(endpoint, item)
        assert endpoint.delete(samples.above(items[0], DicomLevel.STUDIES)) is True
        assert [endpoint.exists(item) for item in items] == [False, False, True, True]
