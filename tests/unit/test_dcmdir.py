"""DcmDir: what the contract does not say."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from diana.apis.dcmdir import DcmDir
from diana.dixel import Dixel
from diana.exceptions import (
    Conflict,
    GatewayConnectionError,
    IncompleteTransfer,
    InvalidItem,
    ItemNotFound,
    Unsupported,
)
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, DixelView, Ref
from diana.utils.gateways.file_handlers import ZipFileHandler
from tests.contract import samples


def names(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


def unnamed(n: int = 0, **tags: object) -> Dixel:
    item = samples.instance(n, **tags)
    del item.meta["FileName"]
    return item


class TestNames:
    def test_without_a_name_the_uid_is_the_name(self, tmp_path: Path) -> None:
        assert DcmDir(str(tmp_path)).put(unnamed()) == f"{samples.uid(1, 1, 1)}.dcm"
        assert names(tmp_path) == [f"{samples.uid(1, 1, 1)}.dcm"]

    @pytest.mark.parametrize(
        "name", ["/abs/x.dcm", "../x.dcm", ".hidden", "a/../b", "", "nul\0", "CON", "x" * 300, 5, None]
    )
    def test_an_unusable_name_is_replaced_by_the_uid(self, tmp_path: Path, name: object) -> None:
        item = samples.instance()
        item.meta["FileName"] = name
        (tmp_path / "in").mkdir()
        assert DcmDir(str(tmp_path / "in")).put(item) == f"{samples.uid(1, 1, 1)}.dcm"
        assert names(tmp_path) == [f"in/{samples.uid(1, 1, 1)}.dcm"]

    def test_a_uid_that_is_a_path_becomes_a_hash(self, tmp_path: Path) -> None:
        data = samples.file_bytes(samples.dataset())
        uid = samples.uid(1, 1, 1).encode()
        evil = data.replace(uid, b"../../" + uid[6:])
        item = Dixel(tags={}, level=DicomLevel.INSTANCES)
        item.file = evil
        (tmp_path / "a" / "b" / "in").mkdir(parents=True)
        fn = DcmDir(str(tmp_path / "a" / "b" / "in")).put(item)
        assert names(tmp_path) == [f"a/b/in/{fn}"]
        assert len(fn) == 36

    def test_a_name_in_folders_is_kept(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        assert shelf.put(samples.instance(fn="day/one/x.dcm")) == "day/one/x.dcm"
        assert shelf.get("day/one/x.dcm").tags["PatientID"] == "GENPID0000"

    def test_files_that_others_put_are_found_beside_the_layout(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path), subpath_depth=2)
        fn = shelf.put(samples.instance())
        (tmp_path / "loose.dcm").write_bytes(samples.file_bytes(samples.dataset(5)))
        assert names(tmp_path) == [f"{fn[:2]}/{fn[2:4]}/{fn}", "loose.dcm"]
        found = shelf.find({}, level="instances")
        assert sorted(one.meta["FileName"] for one in found) == [fn, "loose.dcm"]
        assert [shelf.exists(one) for one in (fn, "loose.dcm", f"{fn[:2]}/{fn[2:4]}/{fn}")] == [True] * 3

    def test_the_patient_never_names_a_file(self, tmp_path: Path) -> None:
        DcmDir(str(tmp_path)).put(unnamed(PatientID="PLANTED", PatientName="Planted^Name", AccessionNumber="PLANTED"))
        assert "PLANTED" not in str(names(tmp_path)).upper()


class TestPut:
    def test_another_instance_under_the_same_name_is_a_conflict(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        shelf.put(samples.instance(0, fn="x.dcm"))
        with pytest.raises(Conflict) as caught:
            shelf.put(samples.instance(1, fn="x.dcm"))
        assert "x.dcm" not in str(caught.value)
        assert shelf.get("x.dcm").tags["SOPInstanceUID"] == samples.uid(1, 1, 1)

    def test_what_is_not_dicom_is_refused(self, tmp_path: Path) -> None:
        item = samples.instance()
        item.file = b"not dicom, but long enough " * 20
        with pytest.raises(InvalidItem):
            DcmDir(str(tmp_path)).put(item)
        assert names(tmp_path) == []

    def test_a_study_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidItem):
            DcmDir(str(tmp_path)).put(samples.study())

    def test_a_file_on_disk_is_copied(self, tmp_path: Path) -> None:
        (tmp_path / "source.bin").write_bytes(samples.file_bytes(samples.dataset()))
        item = unnamed()
        item.blob = Blob(tmp_path / "source.bin")
        fn = DcmDir(str(tmp_path / "new")).put(item)
        assert (tmp_path / "new" / fn).read_bytes() == (tmp_path / "source.bin").read_bytes()

    def test_the_folder_is_made_but_not_the_one_above_it(self, tmp_path: Path) -> None:
        assert DcmDir(str(tmp_path / "new")).exists("x.dcm") is False
        DcmDir(str(tmp_path / "new")).put(samples.instance())
        for call in ("put", "exists"):
            with pytest.raises(GatewayConnectionError):
                getattr(DcmDir(str(tmp_path / "unmounted" / "new")), call)(samples.instance())

    def test_anonymizing_by_the_sham_preset_writes_a_pseudonym(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path), anonymizing=True, deid="sham")
        item = samples.instance(fn="PLANTED^NAME.dcm", PatientName="Planted^Name", PatientID="PLANTED")
        fn = shelf.put(item)
        found = shelf.get(fn)
        assert shelf.put(item) == fn
        assert fn == f"{found.tags['SOPInstanceUID']}.dcm"
        assert found.tags["SOPInstanceUID"] != item.tags["SOPInstanceUID"]
        assert b"PLANTED" not in (tmp_path / fn).read_bytes().upper()


class TestRead:
    def test_an_oid_a_uid_and_a_name_mean_the_same(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        item = samples.instance()
        shelf.put(item)
        for one in (item.oid(), item.tags["SOPInstanceUID"], item.fn):
            assert shelf.get(one, level="instances", view="file").file == item.file
        for one in (item.parent_oid(DicomLevel.STUDIES), item.tags["StudyInstanceUID"]):
            assert shelf.get(one, level="studies").tags["StudyInstanceUID"] == item.tags["StudyInstanceUID"]

    def test_a_name_that_now_holds_another_instance_does_not_mislead(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        shelf.put(samples.instance(1, fn="x.dcm"))
        shelf.put(samples.instance(0, fn="y.dcm"))
        assert shelf.get(samples.instance(0, fn="x.dcm")).tags["SOPInstanceUID"] == samples.uid(1, 1, 1)
        assert shelf.exists(samples.instance(2, fn="x.dcm")) is False

    def test_what_others_add_move_and_remove_is_noticed(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        by_uid = [Ref.from_tags(samples.instance(n).tags, DicomLevel.INSTANCES) for n in range(3)]
        for n in range(2):
            (tmp_path / f"{n}.dcm").write_bytes(samples.file_bytes(samples.dataset(n)))
        assert [shelf.exists(ref) for ref in by_uid] == [True, True, False]
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "2.dcm").write_bytes(samples.file_bytes(samples.dataset(2)))
        (tmp_path / "0.dcm").rename(tmp_path / "sub" / "0.dcm")
        (tmp_path / "1.dcm").unlink()
        assert [shelf.exists(ref) for ref in by_uid] == [True, False, True]
        (tmp_path / "grown.dcm").write_bytes(b"\0" * 128 + b"DICM")
        assert shelf.exists(by_uid[1]) is False
        with (tmp_path / "grown.dcm").open("r+b") as out:
            out.write(samples.file_bytes(samples.dataset(1)))
        assert shelf.exists(by_uid[1]) is True
        shutil.rmtree(tmp_path / "sub")
        assert [shelf.exists(ref) for ref in by_uid] == [False, True, False]

    def test_foreign_files_are_counted_in_one_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        shelf = DcmDir(str(tmp_path))
        shelf.put(samples.instance())
        for n in range(3):
            (tmp_path / f"PLANTED-{n}.dcm").write_bytes(b"no dicom at all, but long enough to be one " * 9)
        (tmp_path / ".hidden.dcm").write_bytes(b"")
        (tmp_path / "link.dcm").symlink_to(tmp_path / samples.instance().fn)
        os.mkfifo(tmp_path / "fifo.dcm")
        with caplog.at_level(logging.WARNING):
            assert len(shelf.find({}, level="instances")) == 1
        assert [record.getMessage() for record in caplog.records] == ["DcmDir: 3 files could not be read as DICOM"]
        with pytest.raises(InvalidItem):
            shelf.get("PLANTED-0.dcm")
        with pytest.raises((InvalidItem, ItemNotFound)):
            shelf.get("link.dcm")

    def test_a_study_has_the_tags_that_its_instances_share(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        for item in samples.instances(1, 2, 2):
            shelf.put(item)
        (study,) = shelf.find({"PatientName": "generated^*"})
        assert study.meta == {"ID": item.parent_oid(DicomLevel.STUDIES), "Instances": 4}
        assert "SOPInstanceUID" not in study.tags
        assert study.tags["StudyDescription"] == "GENERATED STUDY 0"
        assert len(shelf.find({}, level="patients")) == 1

    def test_any_keyword_can_be_searched_but_sequences_and_counts(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        shelf.put(samples.instance(0, ProtocolName="HEAD"))
        shelf.put(samples.instance(1, ImageComments="note"))
        assert len(shelf.find({"ImageComments": "no*"}, level="instances")) == 1
        assert len(shelf.find({"BitsStored": 12}, level="instances")) == 2
        assert shelf.find({"any": [{"ProtocolName": "HEAD"}, {"Modality": "XX"}]})[0].tags["ProtocolName"] == "HEAD"
        for key in ("ModalitiesInStudy", "NumberOfStudyRelatedInstances", "RequestAttributesSequence"):
            with pytest.raises(Unsupported):
                shelf.find({key: "1"})

    def test_a_file_that_changes_while_it_is_pulled_is_not_taken(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        shelf.put(samples.instance(fn="x.dcm"))
        (found,) = shelf.pull("x.dcm")
        (tmp_path / "x.dcm").write_bytes(b"other")
        with pytest.raises(IncompleteTransfer):
            _ = found.file

    def test_pixels_and_tags_of_the_whole_data_set_are_read(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        shelf.put(samples.instance(fn="x.dcm", ImageComments="note"))
        found = shelf.get("x.dcm", view=DixelView.TAGS | DixelView.PIXELS)
        assert found.pixels is not None
        assert found.tags["ImageComments"] == "note"


class TestUpdate:
    def test_an_instance_replaces_another(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path), subpath_depth=1)
        shelf.put(samples.instance(fn="x.dcm"))
        changed = samples.instance(ImageComments="new")
        assert shelf.update("x.dcm", changed) == "x.dcm"
        assert shelf.get("x.dcm", view="file").file == changed.file
        assert len(names(tmp_path)) == 1

    def test_ids_unknown_keywords_and_wrong_values_are_refused(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        shelf.put(samples.instance(fn="x.dcm"))
        for data in ({"SOPInstanceUID": "1.2"}, {"Nonsense": 1}, {"Rows": "many"}):
            with pytest.raises(InvalidItem) as caught:
                shelf.update("x.dcm", data)
            assert "many" not in str(caught.value)
        assert shelf.get("x.dcm", view="file").file == samples.instance().file


class TestZip:
    def test_members_are_pulled_one_by_one(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path))
        items = list(samples.instances(1, 1, 3))
        assert shelf.put_zipped("study.zip", items) == "study.zip"
        pulled = list(shelf.pull("study.zip"))
        assert [one.file for one in pulled] == [one.file for one in items]
        assert all("FileName" not in one.meta for one in pulled)
        assert len(shelf.get_zipped("study.zip")) == 3
        assert shelf.exists("study.zip")
        assert shelf.delete("study.zip")

    def test_what_is_not_dicom_is_passed_by_and_what_is_damaged_is_named(self, tmp_path: Path) -> None:
        good = samples.file_bytes(samples.dataset())
        ZipFileHandler(path=str(tmp_path)).zip(
            "x.zip", [("README", b"text " * 50), ("../../evil.dcm", good), ("cut.dcm", good[:140]), ("e", b"")]
        )
        shelf = DcmDir(str(tmp_path))
        pulled = []
        with pytest.raises(IncompleteTransfer, match="number 3") as caught:
            pulled.extend(shelf.pull("x.zip"))
        assert "cut.dcm" not in str(caught.value)
        assert names(tmp_path) == ["x.zip"]

    def test_an_archive_without_dicom_raises_invalid_item(self, tmp_path: Path) -> None:
        ZipFileHandler(path=str(tmp_path)).zip("x.zip", [("README", b"text " * 50)])
        with pytest.raises(InvalidItem):
            list(DcmDir(str(tmp_path)).pull("x.zip"))
        with pytest.raises(ItemNotFound):
            list(DcmDir(str(tmp_path)).pull("absent.zip"))


class TestFolders:
    def test_files_follow_the_layout(self, tmp_path: Path) -> None:
        shelf = DcmDir(str(tmp_path), subpath_depth=1)
        for n in range(2):
            shelf.put(samples.instance(n))
        (tmp_path / "other.dcm").write_bytes(b"")
        assert shelf.files() == [samples.instance(n).fn for n in range(2)]
        assert shelf.files("*i0001*") == []

    def test_orthanc_style_looks_only_into_its_own_folders(self, tmp_path: Path) -> None:
        for n, where in enumerate(("00/ff", "ab/cd", "xx/yy", "ab", "ab/cd/ef")):
            (tmp_path / where).mkdir(parents=True, exist_ok=True)
            (tmp_path / where / f"file{n}").write_bytes(samples.file_bytes(samples.dataset(n)))
        shelf = DcmDir(str(tmp_path), recurse_style="ORTHANC")
        assert [os.path.relpath(one, tmp_path) for one in shelf.subdirs()] == ["00/ff", "ab/cd"]
        assert [os.path.relpath(one, tmp_path) for one in DcmDir.orthanc_subdirs(str(tmp_path), 256)] == ["ab/cd"]
        assert sorted(one.meta["FileName"] for one in shelf.find({}, level="instances")) == [
            "00/ff/file0",
            "ab/cd/file1",
        ]
        assert [shelf.exists(samples.uid(n + 1), level="studies") for n in range(5)] == [
            True,
            True,
            False,
            False,
            False,
        ]
        assert len(list(DcmDir(str(tmp_path)).subdirs())) == 8

    def test_another_style_is_refused(self) -> None:
        with pytest.raises(InvalidItem):
            DcmDir(recurse_style="SIDEWAYS")
