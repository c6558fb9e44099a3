"""Storages never write elsewhere, caches never say what is too old or too little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from pydicom import Dataset, dcmread

from diana.dixel import Dixel
from diana.exceptions import (
    GatewayConnectionError,
    IncompleteTransfer,
    InvalidItem,
)
from diana.trolley import (
    CachedSearcher,
    DICOMDiskStorage,
    DICOMObjectCache,
    FlatStorageDir,
    Instance,
    Query,
    StorageDir,
    StorageError,
    Trolley,
)
from diana.utils.dicom import Query as Question
from tests.contract import samples
from tests.fakes.trolley_archive import (
    STUDY_0,
    Archive,
    InstanceArchive,
    filled,
    instance,
    names,
    study,
    trolley_of,
)


class Folder(DICOMDiskStorage):
    """A storage of somebody's own."""

    def save(self, dataset: Dataset, path: Any) -> None:
        (Path(path) / f"{dataset.SOPInstanceUID}.txt").write_text(str(dataset.Modality))


def test_own_storages_get_data_sets(tmp_path: Path) -> None:
    done = trolley_of(filled(), storage=Folder()).download(study(), tmp_path)
    assert len(list(tmp_path.glob("*.txt"))) == len(done.stored) == 6
    assert done.files == []


def test_flat_storage_has_no_folders(tmp_path: Path) -> None:
    trolley_of(filled(), storage=FlatStorageDir()).download(study(), tmp_path)
    assert names(tmp_path) == sorted(f"{instance(*one).instance_uid}.dcm" for one in STUDY_0)


def test_a_storage_that_fails_ends_the_download(tmp_path: Path) -> None:
    class Full(Folder):
        def save(self, dataset: Dataset, path: Any) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        trolley_of(filled(), storage=Full()).download(study(), tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError):
        trolley_of(filled()).download(study(), blocked)


@pytest.mark.parametrize("uid", ["/etc/passwd", "../../up", "1.2/3", "", "1.2\n", "x" * 65])
@pytest.mark.parametrize("storage", [StorageDir(), FlatStorageDir()])
def test_nothing_leaves_the_output_folder(storage: StorageDir, uid: str, tmp_path: Path) -> None:
    item = samples.instance()
    item.tags["SOPInstanceUID"] = uid
    with pytest.raises(InvalidItem):
        storage.keep(item, tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize("uid", ["/etc/passwd", "../../up", "1.2/3", "x" * 65])
def test_data_sets_of_odd_values_are_made_without_a_word(uid: str, caplog: pytest.LogCaptureFixture) -> None:
    tags = {"SOPInstanceUID": uid, "Rows": "many", "PatientBirthDate": "then", "Nonsense": 1, "PixelData": "x"}
    found = Instance("1.4", tags=tags, study_uid="1.2", series_uid="1.3").data
    assert found.SOPInstanceUID == uid
    assert "Rows" not in found
    assert caplog.text == ""


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    folder.mkdir()
    (folder / samples.uid(1)).symlink_to(outside)
    with pytest.raises(IncompleteTransfer) as caught:
        trolley_of(filled()).download([study(0), study(1)], folder)
    assert len(caught.value.missing) == 6
    assert names(outside) == []


def test_save_writes_a_readable_file(tmp_path: Path) -> None:
    ds = samples.dataset()
    del ds.file_meta
    StorageDir(tmp_path).save(ds)
    (path,) = tmp_path.rglob("*.dcm")
    assert dcmread(path).PatientID == "GENPID0000"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_cached_searcher_asks_once_until_the_answer_expires() -> None:
    archive, clock = filled(), Clock()
    cached = CachedSearcher(archive, DICOMObjectCache(expiry_seconds=600, clock=clock))
    for _ in range(3):
        assert len(cached.find_studies(Query(PatientName="Gen*"))) == 2
        assert len(cached.find({"PatientName": "Gen*"})) == 2
    assert len(archive.searches) == 2
    clock.now = 86_400 + 1.0
    cached.find_studies(Query(PatientName="Gen*"))
    assert len(archive.searches) == 3
    cached.find_studies(Query(PatientName="Gen*", include_fields=["StudyDate"]))
    assert len(archive.searches) == 4


def test_a_cached_study_serves_when_it_is_deep_enough() -> None:
    archive = filled()
    cached = CachedSearcher(archive)
    cached.find_studies(Query(query_level="SERIES"))
    assert cached.find_study_by_id(samples.uid(1)).uid == samples.uid(1)
    assert cached.find_study_by_id(samples.uid(1), "SERIES").series
    assert len(archive.searches) == 1
    assert cached.find_study_by_id(samples.uid(1), "INSTANCE").all_instances()
    assert len(archive.searches) == 2


def test_a_cached_part_of_a_study_does_not_pass_for_the_study() -> None:
    cached = CachedSearcher(filled())
    cached.find_studies(Query(SeriesInstanceUID=samples.uid(1, 1), query_level="INSTANCE"))
    assert len(cached.find_study_by_id(samples.uid(1), "INSTANCE").series) == 2


def test_what_a_cache_hands_out_may_be_changed() -> None:
    cached = CachedSearcher(filled())
    cached.find_studies(Query())[0].tags["PatientID"] = "changed"
    cached.find({})[0].tags["PatientID"] = "changed"
    assert cached.find_studies(Query())[0].tags["PatientID"] != "changed"
    assert cached.find({})[0].tags["PatientID"] != "changed"


def test_a_cache_is_bounded() -> None:
    cache = DICOMObjectCache(size=10)
    for number in range(100):
        cache.put(str(number), number, 3)
    assert len(cache) == 3
    cache.put("huge", "x", 11)
    assert cache.get("huge") is None
    assert cache.get("99") == 99


def test_a_trolley_with_a_cached_searcher_searches_once(tmp_path: Path) -> None:
    archive = filled(InstanceArchive)
    trolley = Trolley(CachedSearcher(archive), archive)
    for name in ("a", "b"):
        trolley.download(study(), tmp_path / name)
    assert len(archive.searches) == 1


def test_errors_are_not_remembered() -> None:
    @define(eq=False)
    class Shaky(Archive):
        def _find(self, query: Question) -> Iterator[Dixel]:
            if not self.searches:
                self.searches.append(query)
                raise GatewayConnectionError("gone")
            return super()._find(query)

    cached = CachedSearcher(Shaky())
    with pytest.raises(GatewayConnectionError):
        cached.find_studies(Query())
    assert cached.find_studies(Query()) == []
