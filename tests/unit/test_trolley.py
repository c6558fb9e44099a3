"""The trolley fetches exactly what was asked for, with one search per study, and says what did not come."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from pydicom import Dataset

from diana.apis import Memory
from diana.dixel import Dixel
from diana.exceptions import (
    ConfigError,
    GatewayRefused,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.trolley import (
    IncompleteDownload,
    NonInstanceParameterError,
    Query,
    QueryLevels,
    Trolley,
)
from diana.utils.dicom import DicomLevel, Ref
from tests.contract import samples
from tests.fakes.trolley_archive import (
    KINDS,
    SERIES_00,
    STUDY_0,
    Archive,
    InstanceArchive,
    ManyArchive,
    expected,
    filled,
    instance,
    names,
    series,
    study,
    trolley_of,
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_asked_for_is_a_study_fetched(kind: type[Archive], tmp_path: Path) -> None:
    archive = filled(kind)
    done = trolley_of(archive).download(study(), tmp_path)
    assert names(tmp_path) == expected(*STUDY_0)
    assert len(done.stored) == 6
    assert sorted(done.files) == sorted(tmp_path.rglob("*.dcm"))
    assert len(archive.searches) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_series_asked_for_is_a_series_fetched(kind: type[Archive], tmp_path: Path) -> None:
    archive = filled(kind)
    trolley_of(archive).download(series(), tmp_path)
    assert names(tmp_path) == expected(*SERIES_00)
    assert {ref.series for ref in archive.pulls} == {samples.uid(1, 1)}
    assert len(archive.searches) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_instance_needs_no_search(kind: type[Archive], tmp_path: Path) -> None:
    archive = filled(kind)
    trolley_of(archive).download([instance(0, 0, 1), instance(1, 1, 2)], tmp_path)
    assert names(tmp_path) == expected((0, 0, 1), (1, 1, 2))
    assert archive.searches == []


@pytest.mark.parametrize("kind", KINDS)
def test_two_series_of_a_study_take_one_search_and_each_instance_once(kind: type[Archive], tmp_path: Path) -> None:
    archive = filled(kind)
    trolley_of(archive).download([series(0, 0), series(0, 1), study(), series(1, 0)], tmp_path)
    assert names(tmp_path) == expected(*STUDY_0, (1, 0, 0), (1, 0, 1), (1, 0, 2))
    assert len(archive.searches) == 2
    assert len(archive.pulls) == len(set(archive.pulls))


def test_instances_of_a_series_are_asked_for_together(tmp_path: Path) -> None:
    @define(eq=False)
    class Counting(ManyArchive):
        requests: int = 0

        def pull_many(self, refs: Any) -> Iterator[Dixel]:
            self.requests += 1
            return super().pull_many(refs)

    archive = Counting()
    for item in samples.instances(2, 2, 3):
        archive.put(item)
    trolley_of(archive).download([instance(*one) for one in STUDY_0], tmp_path)
    assert archive.requests == 2
    assert names(tmp_path) == expected(*STUDY_0)


def test_without_list_first_a_deep_reference_needs_no_search(tmp_path: Path) -> None:
    archive = filled()
    trolley_of(archive, list_first=False).download([study(0), series(1, 0)], tmp_path)
    assert len(names(tmp_path)) == 9
    assert archive.searches == []
    deep = filled(InstanceArchive)
    trolley_of(deep, list_first=False).download(study(), tmp_path / "x")
    assert len(deep.searches) == 1


def test_without_a_searcher_references_work_when_they_are_deep_enough(tmp_path: Path) -> None:
    Trolley(downloader=filled()).download(study(), tmp_path)
    assert len(names(tmp_path)) == 6
    with pytest.raises(NonInstanceParameterError):
        Trolley(downloader=filled(InstanceArchive)).download(study(), tmp_path)
    with pytest.raises(Unsupported):
        Trolley(downloader=filled()).find_studies(Query())
    with pytest.raises(Unsupported):
        Trolley(searcher=filled()).download(study(), tmp_path)


@pytest.mark.parametrize("workers", [None, 1, 3, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_async_fetches_the_same(kind: type[Archive], workers: int | None, tmp_path: Path) -> None:
    archive = filled(kind)
    done = trolley_of(archive).download([study(0), study(1)], tmp_path, use_async=True, max_workers=workers)
    assert len(done.stored) == len(names(tmp_path)) == 12


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_max_workers_is_a_number_from_one(workers: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidItem):
        trolley_of(filled()).download(study(), tmp_path, use_async=True, max_workers=workers)


def test_what_was_found_can_be_downloaded_at_every_depth(tmp_path: Path) -> None:
    archive = filled()
    trolley = trolley_of(archive)
    studies = trolley.find_studies(Query(PatientName="Gen*", query_level=QueryLevels.INSTANCE))
    searches = len(archive.searches)
    trolley.download(studies, tmp_path / "all")
    trolley.download(studies[0], tmp_path / "study")
    trolley.download(studies[0].series[0], tmp_path / "series")
    trolley.download(studies[0].series[0].instances[:2], str(tmp_path / "instances"))
    trolley.download((one for one in studies), tmp_path / "generator")
    counts = [len(names(tmp_path / name)) for name in ("all", "study", "series", "instances", "generator")]
    assert counts == [12, 6, 3, 2, 12]
    assert len(archive.searches) == searches


def test_objects_of_the_house_can_be_downloaded(tmp_path: Path) -> None:
    archive = filled()
    trolley = trolley_of(archive)
    (dixel,) = archive.find({"StudyInstanceUID": samples.uid(1)})
    trolley.download([dixel, Ref("series", study=samples.uid(2), series=samples.uid(2, 1))], tmp_path)
    trolley.download(samples.uid(1), tmp_path / "by id")
    assert len(names(tmp_path / "by id")) == 6
    assert len(names(tmp_path)) == 15


@pytest.mark.parametrize("thing", [None, 5, object(), ["x y"], Ref("patients", patient="A"), [{}]], ids=repr)
def test_what_is_no_object_is_refused(thing: Any, tmp_path: Path) -> None:
    with pytest.raises((InvalidItem, ItemNotFound)):
        trolley_of(filled()).download(thing, tmp_path)


def test_an_unknown_study_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ItemNotFound):
        trolley_of(filled()).download(study(7), tmp_path)
    with pytest.raises(IncompleteDownload, match="1 of 2 objects are not known"):
        trolley_of(filled()).download([study(7), study(0)], tmp_path)
    assert len(names(tmp_path)) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_is_named(kind: type[Archive], tmp_path: Path) -> None:
    archive = filled(kind)
    archive.lacking = {samples.uid(1, 1, 2)}
    with pytest.raises(IncompleteDownload) as caught:
        trolley_of(archive).download(study(), tmp_path)
    assert caught.value.missing == [samples.uid(1, 1, 2)]
    assert len(caught.value.received) == 5
    assert {one.state for one in caught.value.outcomes} == {"stored", "missing"}
    with pytest.raises(IncompleteTransfer) as caught_too:
        list(trolley_of(archive).pull(study().ref))
    assert caught_too.value.missing == [samples.uid(1, 1, 2)]


@pytest.mark.parametrize("use_async", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_run_fetches_only_the_rest(kind: type[Archive], use_async: bool, tmp_path: Path) -> None:
    archive = filled(kind)
    archive.break_after = 4
    trolley = trolley_of(archive)
    with pytest.raises(IncompleteTransfer) as caught:
        trolley.download(study(), tmp_path, use_async=use_async)
    there = names(tmp_path)
    assert 0 < len(there) <= 4
    assert len(caught.value.missing) + len(caught.value.received) == 6
    assert len(caught.value.received) == len(there)
    archive.break_after = None
    archive.pulls.clear()
    done = trolley.download(study(), tmp_path, use_async=use_async)
    assert len(done.kept) == len(there)
    assert len(done.stored) == 6 - len(there)
    assert not {ref.instance for ref in archive.pulls} & set(done.kept)
    archive.pulls.clear()
    assert len(trolley.download(study(), tmp_path).kept) == 6
    assert archive.pulls == []


def test_a_file_that_is_damaged_is_fetched_again(tmp_path: Path) -> None:
    trolley = trolley_of(filled())
    done = trolley.download(study(), tmp_path)
    done.files[0].write_bytes(b"")
    done.files[1].write_bytes(done.files[2].read_bytes())
    assert len(trolley.download(study(), tmp_path).stored) == 2


def test_a_refusal_is_said_as_such(tmp_path: Path) -> None:
    archive = filled()
    archive.break_after, archive.error = 0, GatewayRefused("no", 401)
    with pytest.raises(GatewayRefused):
        trolley_of(archive).download(study(), tmp_path)


def test_a_dead_server_is_not_asked_for_every_instance(tmp_path: Path) -> None:
    archive = filled(InstanceArchive)
    archive.break_after = 0
    with pytest.raises(IncompleteTransfer) as caught:
        trolley_of(archive).download([study(0), study(1)], tmp_path)
    assert len(caught.value.missing) == 12
    assert len(archive.pulls) == 3


def test_files_are_the_bytes_that_came(tmp_path: Path) -> None:
    trolley_of(filled()).download(instance(), tmp_path)
    (path,) = tmp_path.rglob("*.dcm")
    assert path.read_bytes() == samples.instance().file


def test_data_sets_come_one_by_one() -> None:
    datasets = trolley_of(filled()).fetch_all_datasets(study())
    assert isinstance(next(datasets), Dataset)
    assert len(list(datasets)) == 5


def test_parts_can_be_exchanged(tmp_path: Path) -> None:
    empty, full = Archive(), filled()
    trolley = Trolley(searcher=empty, downloader=empty)
    assert trolley.find_studies(Query()) == []
    trolley.searcher = full
    assert len(trolley.find_studies(Query())) == 2
    trolley.downloader = full
    trolley.download(study(), tmp_path)
    assert len(names(tmp_path)) == 6


def test_a_part_that_cannot_is_refused() -> None:
    with pytest.raises(ConfigError):
        Trolley({"ctype": "StowRS", "url": "http://127.0.0.1/x"}, Memory())
    with pytest.raises(ConfigError):
        Trolley(Memory(), "no endpoint")  # type: ignore[arg-type]


def test_find_study_wants_exactly_one() -> None:
    trolley = trolley_of(filled())
    assert trolley.find_study(Query(AccessionNumber="GEN000001")).uid == samples.uid(2)
    with pytest.raises(ItemNotFound):
        trolley.find_study(Query(AccessionNumber="nobody"))
    with pytest.raises(InvalidItem):
        trolley.find_study(Query())


def test_the_tree_has_at_each_level_what_belongs_there() -> None:
    (found,) = trolley_of(filled()).find_studies(Query(AccessionNumber="GEN000000", query_level="INSTANCE"))
    assert found.data.PatientID == "GENPID0000"
    assert found.series[0].data.Modality == "CT"
    assert found.series[1].instances[2].data.SOPInstanceUID == samples.uid(1, 2, 3)
    assert "SOPInstanceUID" not in found.data
    assert found.max_object_depth() == DicomLevel.INSTANCES


def test_dates_become_a_range() -> None:
    trolley = trolley_of(filled())
    query = Query(min_study_date=dt.datetime(2020, 2, 1), max_study_date=dt.datetime(2020, 2, 28))
    assert [one.uid for one in trolley.find_studies(query)] == [samples.uid(2)]
