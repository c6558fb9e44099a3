"""The contract of find."""

from __future__ import annotations

import pytest

from diana.dixel import Dixel
from diana.exceptions import ConfigError, DianaError, Unsupported
from diana.utils.dicom import DicomLevel, Query
from diana.utils.endpoint import Endpoint
from tests.contract import samples
from tests.contract.suite_base import ContractBase, needs


class FindContract(ContractBase):
    """Find, iter_find."""

    @needs("find")
    def test_find_of_nothing_returns_an_empty_list(self, endpoint: Endpoint) -> None:
        self.store(endpoint, self.make_item())
        assert endpoint.find(self.nothing_query()) == []

    @needs("find")
    def test_find_in_an_empty_endpoint_returns_an_empty_list(self, endpoint: Endpoint) -> None:
        assert endpoint.find({}) == []

    @needs("find")
    def test_find_returns_dixels_of_the_level_asked_for(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        for n in range(3):
            self.store(endpoint, self.make_item(n))
        found = endpoint.find(self.query_for(item), level=item.level)
        assert [(type(one), one.level) for one in found] == [(Dixel, item.level)]
        assert found[0].tags[item.level.uid_keyword] == item.tags[item.level.uid_keyword]

    @needs("find", "exists")
    def test_what_is_found_can_be_asked_for(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        self.store(endpoint, item)
        (found,) = endpoint.find(self.query_for(item), level=item.level)
        assert endpoint.exists(found) is True
        if endpoint.can("get"):
            assert endpoint.get(found, view=self._any_view(endpoint)).level == item.level
        if endpoint.can("delete"):
            assert endpoint.delete(found) is True

    @needs("find")
    def test_find_of_an_unknown_keyword_names_the_nearest(self, endpoint: Endpoint) -> None:
        with pytest.raises((ConfigError, Unsupported)) as caught:
            endpoint.find({"StudyInstanceUidd": "secret-value"})
        assert "StudyInstanceUID" in str(caught.value)
        assert "secret-value" not in str(caught.value)

    @needs("find")
    def test_find_takes_a_query_and_a_dixel(self, endpoint: Endpoint) -> None:
        item = self.make_item()
        self.store(endpoint, item)
        self.store(endpoint, self.make_item(1))
        assert len(endpoint.find(Query(self.query_for(item), item.level))) == 1
        assert len(endpoint.find(item)) == 1

    @needs("find")
    def test_find_matches_wildcards_and_lists(self, endpoint: Endpoint) -> None:
        for n in range(3):
            self.store(endpoint, self.make_item(n))
        level = self.make_item().level
        assert len(endpoint.find({"AccessionNumber": "GEN*"}, level=level)) == 3
        assert len(endpoint.find({"AccessionNumber": "GEN00000?"}, level=level)) == 3
        assert len(endpoint.find({"AccessionNumber": "*001"}, level=level)) == 1
        uids = [self.make_item(n).tags["StudyInstanceUID"] for n in (0, 2)]
        assert len(endpoint.find({"StudyInstanceUID": uids}, level=level)) == 2

    @needs("find")
    def test_find_ends_at_the_limit(self, endpoint: Endpoint) -> None:
        for n in range(4):
            self.store(endpoint, self.make_item(n))
        level = self.make_item().level
        assert len(endpoint.find({}, level=level, limit=2)) == 2
        assert len(endpoint.find(Query({}, level, limit=3))) == 3
        assert len(endpoint.find({}, level=level, limit=99)) == 4

    @needs("find")
    @pytest.mark.parametrize("limit", [0, -1])
    def test_find_never_takes_an_odd_limit_for_none(self, endpoint: Endpoint, limit: int) -> None:
        self.store(endpoint, self.make_item())
        try:
            found = endpoint.find({}, level=self.make_item().level, limit=limit)
        except DianaError:
            return
        assert found == []

    @needs("find")
    def test_iter_find_may_be_left_early(self, endpoint: Endpoint) -> None:
        for n in range(3):
            self.store(endpoint, self.make_item(n))
        level = self.make_item().level
        search = endpoint.iter_find({}, level=level)
        next(search)
        search.close()  # type: ignore[attr-defined]
        assert len(endpoint.find({}, level=level)) == 3

    @needs("find", files=True)
    def test_find_groups_by_level(self, endpoint: Endpoint) -> None:
        for item in samples.instances(2, 2, 2):
            self.store(endpoint, item)
        counts = {level: len(endpoint.find({}, level=level)) for level in (DicomLevel.STUDIES, *list(DicomLevel)[2:])}
        assert counts == {DicomLevel.STUDIES: 2, DicomLevel.SERIES: 4, DicomLevel.INSTANCES: 8}
        study = {"StudyInstanceUID": item.tags["StudyInstanceUID"]}
        assert len(endpoint.find(study, level="series")) == 2
        assert len(endpoint.find(study, level="instances")) == 4

    @needs("find", files=True)
    def test_find_by_date_range(self, endpoint: Endpoint) -> None:
        for n in range(3):
            self.store(endpoint, samples.instance(n))
        dates = [samples.dataset(n).StudyDate for n in range(3)]
        assert len(endpoint.find({"StudyDate": f"{dates[1]}-{dates[2]}"})) == 2
        assert len(endpoint.find({"StudyDate": f"-{dates[0]}"})) == 1
        assert len(endpoint.find({"StudyDate": f"{dates[2]}-"})) == 1

    @needs("find", files=True)
    def test_find_answers_the_fields_asked_for(self, endpoint: Endpoint) -> None:
        self.store(endpoint, samples.instance())
        (found,) = endpoint.find({"StudyDescription": ""}, level="studies", fields=("AccessionNumber",))
        assert found.tags["StudyDescription"] == "GENERATED STUDY 0"
        assert found.tags["AccessionNumber"] == "GEN000000"
