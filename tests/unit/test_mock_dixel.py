"""Mock studies are those of diana2, and their files are images."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from datetime import datetime
from random import Random

import numpy as np
import pytest
from pydicom import dcmread

from diana.dixel import Dixel, DixelHashes, MockInstance, MockSeries, MockStudy, RadiologyReport, reset_mock_seed
from diana.dixel.hashes import collection_hash
from diana.exceptions import InvalidItem
from diana.utils.dicom import DicomLevel, DicomUIDMint
from diana.utils.dicom.ref import is_uid

WHEN = datetime(2018, 1, 1)
LAST_TAGS = {
    "AccessionNumber": "cafb4188068b4af927b01699410de442",
    "PatientName": "RUSTON^SHERWOOD^L",
    "PatientID": "RSLWBBZPD5RZPRA7WNEIZCKWFD2MG5IY",
    "PatientSex": "M",
    "PatientBirthDate": "20000207",
    "StudyInstanceUID": "1.2.826.0.1.3680043.10.43.55.908786948015.186631867210",
    "StudyDescription": "IMG839 CT CHEST WIVC",
    "StationName": "Scanner",
    "Manufacturer": "Device Manufacturer",
    "ManufacturerModelName": "Device Model Name",
    "Institution": "Mock Site",
    "Modality": "CT",
    "StudyDate": "20180101",
    "StudyTime": "000000",
    "SeriesDescription": "Dose Report",
    "SeriesNumber": 6,
    "SeriesInstanceUID": "1.2.826.0.1.3680043.10.43.55.908786948015.186631867210.5128",
    "SeriesDate": "20180101",
    "SeriesTime": "001318",
    "InstanceNumber": 1,
    "SOPInstanceUID": "1.2.826.0.1.3680043.10.43.55.908786948015.186631867210.5128.9883",
    "InstanceCreationDate": "20180101",
    "InstanceCreationTime": "001319",
}


def study(modality: str = "CT", seed: int = 1) -> MockStudy:
    """Return a study that only the seed determines."""
    return MockStudy(study_datetime=WHEN, modality=modality, rng=Random(seed))


def instances(found: Dixel) -> Iterator[MockInstance]:
    """Yield the instances of a mock study."""
    for one in found.instances():
        assert isinstance(one, MockInstance)
        yield one


def first(modality: str, series: str) -> MockInstance:
    """Return the first instance of a kind of series, of the first study that has it."""
    for seed in range(50):
        for one in instances(study(modality, seed)):
            if one.tags["SeriesDescription"].startswith(series):
                return one
    raise AssertionError(series)


class TestTags:
    """Draws and formulas."""

    def test_first_study_after_reset_is_the_known_one(self) -> None:
        reset_mock_seed()
        found = MockStudy(study_datetime=WHEN)
        images = list(found.instances())
        assert len(images) == 283
        assert images[-1].tags == LAST_TAGS
        assert images[-1].meta.keys() == {"StudyDateTime", "SeriesDateTime", "InstanceDateTime"}

    def test_next_study_is_another(self) -> None:
        reset_mock_seed()
        one, other = MockStudy(study_datetime=WHEN), MockStudy(study_datetime=WHEN)
        assert one.tags["AccessionNumber"] != other.tags["AccessionNumber"]

    def test_global_random_is_left_alone(self) -> None:
        state = random.getstate()
        reset_mock_seed()
        MockStudy(modality="CR")
        assert random.getstate() == state

    def test_own_generator_leaves_the_shared_one_alone(self) -> None:
        reset_mock_seed()
        study("US", seed=7)
        assert next(instances(MockStudy(study_datetime=WHEN))).tags["PatientID"] == LAST_TAGS["PatientID"]

    @pytest.mark.parametrize("modality", ["CT", "MR", "CR", "US"])
    def test_children_have_their_parents_tags(self, modality: str) -> None:
        found = study(modality)
        for number, series in enumerate(found.children, 1):
            assert isinstance(series, MockSeries)
            assert found.tags.items() <= series.tags.items()
            assert series.tags["SeriesNumber"] == number
            assert series.level == DicomLevel.SERIES
            for one in series.instances():
                assert series.tags.items() <= one.tags.items()
                assert one.parent is series

    def test_moments_grow(self) -> None:
        moments = [one.inst_datetime for one in instances(study("US"))]
        assert moments == sorted(set(moments))

    def test_uids_follow_from_person_accession_and_numbers(self) -> None:
        found = study("MR")
        mint = DicomUIDMint("diana-mock")
        for one in instances(found):
            keys = (one.tags["PatientID"], one.tags["AccessionNumber"], one.tags["SeriesNumber"])
            assert one.tags["SeriesInstanceUID"] == mint.uid(*keys)
            assert one.tags["SOPInstanceUID"] == mint.uid(*keys, one.tags["InstanceNumber"])

    def test_no_two_instances_share_a_uid(self) -> None:
        found = study("CR")
        MockSeries(parent=found, ser_num=9, n_instances=1000)
        large = MockSeries(parent=found, ser_num=9, n_instances=1000)
        uids = [one.instuid for one in instances(large)] + [one.instuid for one in instances(found)]
        assert len(set(uids)) == len(uids)
        assert all(map(is_uid, uids))

    def test_unknown_modality_raises(self) -> None:
        with pytest.raises(InvalidItem, match="CT, MR, CR, US"):
            MockStudy(modality="XA")

    def test_instance_without_series_raises(self) -> None:
        with pytest.raises(InvalidItem):
            MockInstance(parent=Dixel())

    def test_merging_gives_a_plain_dixel_and_draws_nothing(self) -> None:
        found = study("CR")
        merged = found.merged(Dixel(tags={"StudyComments": "x"}))
        assert type(merged) is Dixel
        assert merged.tags == {**found.tags, "StudyComments": "x"}
        assert merged.children == found.children


class TestFiles:
    """What is written."""

    @pytest.mark.parametrize(
        ("modality", "series"),
        [
            *(("CT", name) for name in ("Localizer", "Volume", "Fluoro", "Reformat", "Dose Report")),
            *(("MR", name) for name in ("Localizer", "Sequence", "Diffusion Map")),
            *(("CR", name) for name in ("PA", "Lateral", "Bx")),
            *(("US", name) for name in ("Transverse", "Sagittal", "Cine", "Doppler", "Bx")),
        ],
    )
    def test_file_says_what_the_tags_say(self, modality: str, series: str) -> None:
        one = first(modality, series)
        one.gen_file("name.dcm")
        assert one.fn == "name.dcm"
        assert one.file is not None
        ds = dcmread(io.BytesIO(one.file))
        for keyword, value in one.tags.items():
            if keyword in ("AccessionNumber", "Institution"):
                continue
            assert str(ds[keyword].value) == str(value), keyword
        assert ds.AccessionNumber == one.tags["AccessionNumber"][:16]
        assert ds.InstitutionName == one.tags["Institution"]
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID
        assert ds.pixel_array.max() > ds.pixel_array.min()

    def test_same_draws_give_the_same_bytes(self) -> None:
        one, same = (next(instances(study("MR", 3))) for _ in range(2))
        assert one.as_stored().file == same.as_stored().file

    def test_ct_values_are_hounsfield_units(self) -> None:
        ds = first("CT", "Volume").as_pydicom_ds()
        stored = np.frombuffer(ds.PixelData, "<i2").reshape(128, 128)
        units = stored * ds.RescaleSlope + ds.RescaleIntercept
        assert units[0, 0] == pytest.approx(-1000, abs=40)
        assert units[64, 64] == pytest.approx(40, abs=40)

    def test_ultrasound_is_colour_and_cine_has_frames(self) -> None:
        assert first("US", "Transverse").as_pydicom_ds().pixel_array.shape == (128, 128, 3)
        assert first("US", "Cine").as_pydicom_ds().pixel_array.shape == (4, 64, 64, 3)

    def test_long_names_are_cut_to_what_is_legal(self) -> None:
        found = MockStudy(modality="CR", station_name="S" * 40, site_name="N" * 80, rng=Random(1))
        ds = next(instances(found)).as_pydicom_ds()
        assert ds.StationName == "S" * 16
        assert ds.InstitutionName == "N" * 64

    @pytest.mark.parametrize("matrix", [1, 7, 33, 256])
    def test_any_matrix_is_readable(self, matrix: int) -> None:
        for modality in ("CT", "US"):
            found = MockStudy(modality=modality, matrix=matrix, rng=Random(1))
            ds = next(instances(found)).as_pydicom_ds()
            assert ds.pixel_array.shape[:2] == (matrix, matrix)

    def test_stored_twin_has_the_accession_of_the_file(self) -> None:
        one = next(instances(study("CR")))
        plain = one.as_stored()
        assert type(plain) is Dixel
        assert plain.file is not None
        assert plain.tags["AccessionNumber"] == dcmread(io.BytesIO(plain.file)).AccessionNumber
        assert plain.oid() == one.oid()
        assert one.file is None
        assert len(one.tags["AccessionNumber"]) == 32


class TestHashes:
    """Fingerprints of dixels."""

    def test_every_part_counts(self) -> None:
        one = Dixel(meta={"A": 1}, tags={"B": WHEN}, level=DicomLevel.INSTANCES)
        plain = DixelHashes.of(one)
        assert plain.file is None
        assert plain.pixels is None
        one.file = b"file"
        one.pixels = np.arange(6, dtype="<u2").reshape(2, 3)
        full = DixelHashes.of(one)
        assert (full.meta, full.tags) == (plain.meta, plain.tags)
        assert full.file is not None
        assert full.pixels is not None
        one.meta["A"], one.tags["B"] = 2, None
        other = DixelHashes.of(one)
        assert other.meta != full.meta
        assert other.tags != full.tags

    def test_pixels_do_not_depend_on_layout_but_on_shape(self) -> None:
        def of(pixels: object) -> str | None:
            one = Dixel()
            one.pixels = pixels  # type: ignore[assignment]
            return DixelHashes.of(one).pixels

        plain = np.arange(6, dtype="<u2").reshape(2, 3)
        assert of(plain) == of(np.asfortranarray(plain)) == of(plain.astype(">u2"))
        assert of(plain) != of(plain.reshape(3, 2))
        assert of(plain) != of(plain.astype("<i2"))

    def test_order_does_not_matter_and_pairs_do_not_cancel(self) -> None:
        assert collection_hash(["a", "b", "c"]) == collection_hash(["c", "a", "b"])
        assert len({collection_hash(members) for members in (["a"], ["a", "a"], ["a", "b", "b"], ["a", None])}) == 4
        assert collection_hash([]) is collection_hash([None, None]) is None

    def test_study_has_the_hash_of_its_files(self) -> None:
        found = study("CR")
        assert DixelHashes.of(found).file is None
        for one in instances(found):
            one.gen_file()
        whole = DixelHashes.of(found).file
        found.children.reverse()
        assert DixelHashes.of(found).file == whole
        next(instances(found)).file = b"other"
        assert DixelHashes.of(found).file != whole


REPORT = """Patient: Generated, Person
MRN: 12345
Exam date: 3/4/2018

FINDINGS: The liver is normal. Compared to 01/02/2017. The patient Person can walk.
Call 401-555-0199 for questions.
RADCAT Grade: RADCAT3
Electronically signed by: Dr. Generated
"""


class TestReport:
    """What a report gives away."""

    def test_identifying_lines_are_cleared_and_the_rest_stays(self) -> None:
        text = RadiologyReport(REPORT).anonymized(names=["GENERATED^PERSON"])
        assert "liver is normal" in text
        assert "The patient [name] can walk" in text
        for secret in ("Generated", "Person", "12345", "401-555-0199", "2017", "2018"):
            assert secret not in text

    def test_one_line_report_stays(self) -> None:
        assert RadiologyReport("No acute findings.").anonymized() == "No acute findings.\n"

    def test_patterns_can_be_given(self) -> None:
        assert RadiologyReport("Code XY-12").anonymized(patterns=[(r"[A-Z]{2}-\d+", "[code]")]) == "Code [code]\n"

    def test_radcat_is_the_highest_and_says_whether_there_is_a_three(self) -> None:
        assert RadiologyReport(REPORT).radcat() == ("3", True)
        assert RadiologyReport("radcat: 2 ... RADCAT5 ... RADCAT 3").radcat() == ("5", True)
        assert RadiologyReport("RADCAT 1").radcat() == ("1", False)

    def test_report_without_radcat_raises(self) -> None:
        with pytest.raises(InvalidItem):
            RadiologyReport("none").radcat()

    def test_text_is_not_in_the_repr(self) -> None:
        assert "liver" not in repr(RadiologyReport(REPORT))
        assert str(RadiologyReport("a\r\nb\rc")) == "a\nb\nc"
