"""Dixel: names, ids, parts, JSON, conversion from data sets, pixels."""

from __future__ import annotations

import datetime as dt
import io
import json
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from diana.dixel import Dixel
from diana.exceptions import InvalidItem
from diana.utils.blob import Blob
from diana.utils.dicom import DicomLevel, orthanc_id
from diana.utils.endpoint import Factory
from tests.contract import samples


class TestIds:
    @pytest.mark.parametrize("level", DicomLevel)
    def test_oid_is_orthancs(self, level: DicomLevel) -> None:
        item = samples.above(samples.instance(), level)
        keys = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")[:level]
        assert item.oid() == orthanc_id(*(item.tags[key] for key in keys))

    def test_oid_is_computed_anew_and_changes_nothing(self) -> None:
        item = samples.study()
        before = item.oid()
        assert item.meta == {}
        item.tags["StudyInstanceUID"] = "1.2"
        assert item.oid() != before

    def test_a_known_id_wins(self) -> None:
        assert Dixel(meta={"ID": "mine"}).oid() == "mine"

    def test_an_absent_patient_id_counts_as_empty(self) -> None:
        assert Dixel(tags={"StudyInstanceUID": "1.2"}).oid() == orthanc_id("", "1.2")

    @pytest.mark.parametrize("level", list(DicomLevel)[1:])
    def test_a_missing_uid_is_invalid(self, level: DicomLevel) -> None:
        with pytest.raises(InvalidItem):
            Dixel(tags={"PatientID": "x"}, level=level).oid()

    def test_parent_ids(self) -> None:
        item = samples.instance()
        for level in DicomLevel:
            assert item.parent_oid(level) == samples.above(item, level).oid()
        with pytest.raises(InvalidItem):
            samples.study().parent_oid(DicomLevel.SERIES)

    def test_names(self) -> None:
        item = Dixel(tags={"AccessionNumber": "A1", "SeriesNumber": "3", "InstanceNumber": 12})
        assert item.sid() == item.accession_number == "A1"
        assert item.fn == "A1"
        assert item.image_base_fn == "A1-0003-0012"
        item.fn = "x.dcm"
        assert item.meta["FileName"] == "x.dcm"
        assert item.fn == "x.dcm"

    def test_an_image_without_accession_is_named_by_its_study(self) -> None:
        tags = {"StudyInstanceUID": "1.2", "AccessionNumber": "", "SeriesNumber": 0, "InstanceNumber": 0}
        assert Dixel(tags=tags).image_base_fn == "1.2-0000-0000"

    def test_nothing_to_name_it_by_is_invalid(self) -> None:
        with pytest.raises(InvalidItem):
            _ = Dixel().fn
        for tags in ({}, {"SeriesNumber": 1}, {"AccessionNumber": "A", "SeriesNumber": "x", "InstanceNumber": 1}):
            with pytest.raises(InvalidItem):
                _ = Dixel(tags=tags).image_base_fn
        with pytest.raises(InvalidItem):
            _ = Dixel(tags={"SeriesNumber": 1, "InstanceNumber": 1}).image_base_fn


class TestParts:
    def test_a_file_may_be_bytes_path_or_blob(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(b"abc")
        for value in (b"abc", str(path), path, Blob(b"abc"), Blob(path), bytearray(b"abc")):
            item = Dixel()
            item.file = value  # type: ignore[assignment]
            assert item.file == b"abc"
        item.file = None
        assert item.file is None
        assert item.blob is None

    def test_equality_is_level_tags_and_meta(self) -> None:
        assert samples.study() == samples.study()
        assert samples.study() != samples.study(1)
        assert samples.study() != samples.study(0, {"a": 1})
        assert Dixel(level="study") != Dixel(level="series")
        assert len({samples.study(), samples.study(), samples.study(1)}) == 2
        assert samples.study() != "x"

    def test_hash_does_not_change_with_the_id(self) -> None:
        item = samples.study()
        before = hash(item)
        item.oid()
        item.meta["ID"] = "x"
        assert hash(item) == before

    def test_the_repr_shows_no_patient(self) -> None:
        item = samples.instance()
        assert "GEN" not in repr(item) + str(item)
        assert samples.uid(1) not in repr(item)

    def test_instances_are_all_that_is_below(self) -> None:
        study, series = Dixel(), Dixel(level="series")
        series.children = [Dixel(tags={"SOPInstanceUID": f"1.{n}"}, level="instances") for n in range(3)]
        study.children = [series, Dixel(level="series")]
        assert list(study.instances()) == series.children
        assert list(series.children[0].instances()) == series.children[:1]

    def test_merged_takes_the_parts_of_both(self) -> None:
        one = Dixel(meta={"a": 1, "b": 1}, tags={"x": 1})
        one.file = b"one"
        two = Dixel(meta={"b": 2}, tags={"y": 2})
        two.pixels = np.zeros(3)
        both = one.merged(two)
        assert both.meta == {"a": 1, "b": 2}
        assert both.tags == {"x": 1, "y": 2}
        assert both.file == b"one"
        assert both.pixels is two.pixels
        both.meta["c"] = 3
        assert "c" not in one.meta

    def test_the_mappings_given_are_copied(self) -> None:
        tags = {"a": 1}
        item = Dixel(tags=tags)
        item.tags["b"] = 2
        assert tags == {"a": 1}

    @pytest.mark.parametrize("label", ["studies", "Study", 2, DicomLevel.STUDIES])
    def test_a_level_has_many_labels(self, label: Any) -> None:
        assert Dixel(level=label).level is DicomLevel.STUDIES

    def test_json_comes_back_equal(self) -> None:
        item = samples.instance()
        again = Factory.create(**json.loads(item.json()))
        assert again == item
        assert again.epid == item.epid

    def test_a_child_is_json_with_its_parent(self) -> None:
        child = Dixel(tags={"SeriesInstanceUID": "1.2"}, level="series", parent=samples.study())
        assert json.loads(child.json())["parent"]["tags"]["AccessionNumber"] == "GEN000000"

    def test_the_query_of_a_study_is_its_accession_number(self) -> None:
        query = samples.study(4).query()
        assert query["AccessionNumber"] == "GEN000004"
        assert len(query) == 9
        assert [key for key, value in query.items() if value] == ["AccessionNumber"]

    def test_the_query_of_a_study_without_accession_number_is_its_uid(self) -> None:
        query = Dixel(tags={"StudyInstanceUID": "1.2"}).query()
        assert query["StudyInstanceUID"] == "1.2"
        assert query["AccessionNumber"] == ""


class TestFromPydicom:
    def test_values_are_plain(self) -> None:
        ds = samples.dataset(
            InstanceNumber=0,
            PixelSpacing=[0.5, 0.25],
            ImageType=["ORIGINAL", "PRIMARY"],
            RescaleIntercept=0,
            WindowWidth="400",
            ReferringPhysicianName="Doe^Jane",
        )
        item = samples_dixel(ds)
        assert item.level == DicomLevel.INSTANCES
        assert item.tags["InstanceNumber"] == 0
        assert item.tags["RescaleIntercept"] == 0
        assert item.tags["PixelSpacing"] == [0.5, 0.25]
        assert item.tags["ImageType"] == ["ORIGINAL", "PRIMARY"]
        for value in item.tags.values():
            kinds = {type(one) for one in (value if isinstance(value, list) else [value])}
            assert kinds <= {str, int, float, dict, dt.datetime, type(None)}, kinds
        json.dumps(item.asdict(), default=str)

    def test_pixels_and_private_elements_are_left_out(self) -> None:
        ds = samples.dataset()
        ds.add_new(0x00091010, "LO", "private")
        assert "PixelData" not in samples_dixel(ds).tags
        assert not any(value == "private" for value in samples_dixel(ds).tags.values())

    def test_sequences_become_lists_of_mappings(self) -> None:
        inner = Dataset()
        inner.CodeValue = "X"
        item = samples_dixel(samples.dataset(ProcedureCodeSequence=Sequence([inner, Dataset()])))
        assert item.tags["ProcedureCodeSequence"] == [{"CodeValue": "X"}, {}]

    def test_the_file_stays_byte_for_byte(self) -> None:
        data = samples.file_bytes(samples.dataset())
        item = Dixel.from_pydicom(dcmread(io.BytesIO(data)), "a.dcm", data)
        assert item.file == data
        assert item.meta["FileName"] == "a.dcm"
        assert item.meta["TransferSyntaxUID"] == "1.2.840.10008.1.2.1"

    def test_a_missing_patient_id_becomes_the_md5_of_the_name_in_the_file_too(self) -> None:
        ds = samples.dataset(PatientID=None)
        item = Dixel.from_pydicom(ds, None, samples.file_bytes(ds))
        expected = md5(b"Generated^Patient0").hexdigest()
        assert item.tags["PatientID"] == expected
        assert item.file is not None
        again = dcmread(io.BytesIO(item.file))
        assert again.PatientID == expected
        assert again.PixelData == ds.PixelData

    @pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
    def test_a_missing_uid_is_invalid_and_named(self, keyword: str) -> None:
        ds = samples.dataset()
        delattr(ds, keyword)
        with pytest.raises(InvalidItem, match=keyword) as caught:
            Dixel.from_pydicom(ds)
        assert "GEN" not in str(caught.value)

    def test_a_data_set_without_file_meta_is_taken(self) -> None:
        ds = samples.dataset()
        del ds.file_meta
        assert Dixel.from_pydicom(ds).tags["Modality"] == "CT"

    @pytest.mark.filterwarnings("ignore:.*nvalid value.*")
    def test_a_damaged_value_does_not_hide_the_others(self) -> None:
        data = samples.file_bytes(samples.dataset(WindowWidth="400"))
        item = Dixel.from_pydicom(dcmread(io.BytesIO(data.replace(b"400 ", b"4x0 "))))
        assert item.tags["Modality"] == "CT"

    def test_nesting_without_end_is_invalid(self) -> None:
        ds = samples.dataset()
        inner = ds
        for _ in range(200):
            below = Dataset()
            inner.ReferencedStudySequence = Sequence([below])
            inner = below
        with pytest.raises(InvalidItem, match="deep"):
            Dixel.from_pydicom(ds)


def samples_dixel(ds: Dataset) -> Dixel:
    return Dixel.from_pydicom(ds)


class TestPixels:
    def with_pixels(self, pixels: Any, **tags: Any) -> Dixel:
        item = Dixel(tags=tags, level="instances")
        item.pixels = pixels
        return item

    def test_without_pixels_is_invalid(self) -> None:
        with pytest.raises(InvalidItem):
            Dixel().get_pixels()

    def test_large_values_do_not_wrap(self) -> None:
        pixels = np.array([[0, 60000]], dtype=np.uint16)
        item = self.with_pixels(pixels, RescaleSlope=1, RescaleIntercept=-1024, Rows=1, Columns=2)
        assert item.get_pixels().tolist() == [[-1024, 58976]]
        assert pixels.tolist() == [[0, 60000]]

    def test_slopes_are_not_cut_to_whole_numbers(self) -> None:
        item = self.with_pixels(np.array([[2, 3]]), RescaleSlope="0.5", RescaleIntercept="0.25")
        assert item.get_pixels().tolist() == [[1.25, 1.75]]

    @pytest.mark.parametrize("planar", [0, 1])
    def test_colour_is_last(self, planar: int) -> None:
        image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        flat = (np.moveaxis(image, -1, 0) if planar else image).reshape(-1)
        tags = {"Rows": 2, "Columns": 4, "SamplesPerPixel": 3, "PlanarConfiguration": planar}
        assert np.array_equal(self.with_pixels(flat, **tags).get_pixels(), image)

    def test_several_frames_come_first(self) -> None:
        item = self.with_pixels(np.arange(24), Rows=2, Columns=4, NumberOfFrames="3")
        assert item.get_pixels().shape == (3, 2, 4)

    @pytest.mark.parametrize("tags", [{"Rows": 3, "Columns": 3}, {"Rows": "x", "Columns": 1}, {"RescaleSlope": "x"}])
    def test_tags_that_do_not_fit_are_invalid(self, tags: dict[str, Any]) -> None:
        with pytest.raises(InvalidItem):
            self.with_pixels(np.zeros((2, 2)), **tags).get_pixels()

    @pytest.mark.parametrize("value", [[0.5, 0.25], "0.5\\0.25", ("0.5", "0.25")])
    def test_spacing_is_two_numbers(self, value: Any) -> None:
        assert Dixel(tags={"PixelSpacing": value}).pixel_spacing == [0.5, 0.25]

    @pytest.mark.parametrize("value", [None, "", "0.5", "a\\b", [1, 2, 3], 0.5, {"a": 1}], ids=repr)
    def test_other_spacings_are_invalid(self, value: Any) -> None:
        with pytest.raises(InvalidItem):
            _ = Dixel(tags={"PixelSpacing": value}).pixel_spacing
