"""Sham dixels have the identities, UIDs and maps of diana2, and better ones where those changed with the calendar."""

from __future__ import annotations

import logging
from datetime import datetime
from hashlib import md5
from typing import Any

import pytest

from diana.dixel import Dixel, ShamDixel
from diana.exceptions import InvalidItem
from diana.utils.dicom import DicomLevel, DicomUIDMint, orthanc_id
from diana.utils.guid import GUIDMint

STUDY = {
    "PatientName": "FOOABC^BAR^Z",
    "PatientBirthDate": "20000101",
    "StudyDate": "20180102",
    "StudyTime": "120001",
    "AccessionNumber": "12345678",
}
INSTANCE = {
    **STUDY,
    "SeriesInstanceUID": "1.2.3",
    "SOPInstanceUID": "1.2.3.4",
    "SeriesDate": "20180102",
    "SeriesTime": "120101",
    "InstanceCreationDate": "20180102",
    "InstanceCreationTime": "120102",
    "SeriesNumber": 3,
    "InstanceNumber": 14,
}
SHAM_ID = "NTE3OTYH32XNES3LPNKR2U6CVOCZXDIL"
SHAM_ACCESSION = "25d55ad283aa400af464c76d713c07ad"
SHAM_STUDY_UID = "1.2.826.0.1.3680043.10.43.62.716180617702.336145899646"


def sham(level: DicomLevel = DicomLevel.STUDIES, **changes: Any) -> ShamDixel:
    """Return the sham of an instance's tags with changes; None removes."""
    tags = {key: value for key, value in {**INSTANCE, **changes}.items() if value is not None}
    return ShamDixel(tags=tags, level=level)


class TestCompatibility:
    """What diana2 makes."""

    def test_study_has_the_known_identity(self) -> None:
        meta = ShamDixel(tags=STUDY).meta
        known = {
            "ShamAccessionNumber": SHAM_ACCESSION,
            "ShamBirthDate": "19991009",
            "ShamID": SHAM_ID,
            "ShamName": "NADERMAN^TRACY^E",
            "StudyDateTime": datetime(2018, 1, 2, 12, 0, 1),
            "ShamStudyDateTime": datetime(2017, 10, 10, 12, 15, 3),
        }
        assert known.items() <= meta.items()
        assert "ShamSeriesDateTime" not in meta

    def test_missing_moments_are_those_of_the_level_above(self) -> None:
        meta = ShamDixel(tags=STUDY, level=DicomLevel.INSTANCES).meta
        moment = meta["ShamStudyDateTime"]
        assert meta["ShamInstanceCreationDateTime"] == meta["ShamSeriesDateTime"] == moment

    def test_each_level_is_shifted_alike(self) -> None:
        meta = sham(DicomLevel.INSTANCES).meta
        assert meta["ShamSeriesDateTime"] == datetime(2017, 10, 10, 12, 16, 3)
        assert meta["ShamInstanceCreationDateTime"] == datetime(2017, 10, 10, 12, 16, 4)

    def test_study_map_is_the_known_one(self) -> None:
        assert ShamDixel(tags=STUDY).orthanc_sham_map() == {
            "Replace": {
                "PatientName": "NADERMAN^TRACY^E",
                "PatientID": SHAM_ID,
                "PatientBirthDate": "19991009",
                "AccessionNumber": SHAM_ACCESSION,
                "StudyInstanceUID": SHAM_STUDY_UID,
                "StudyDate": "20171010",
                "StudyTime": "121503",
            },
            "Keep": ["PatientSex", "StudyDescription"],
            "Force": True,
        }

    def test_instance_map_adds_series_and_instance(self) -> None:
        found = sham(DicomLevel.INSTANCES).orthanc_sham_map()
        mint = DicomUIDMint()
        assert found["Keep"] == ["PatientSex", "StudyDescription", "SeriesDescription", "SeriesNumber"]
        assert found["Replace"]["SeriesInstanceUID"] == mint.uid(SHAM_ID, SHAM_ACCESSION, "1.2.3")
        assert found["Replace"]["SOPInstanceUID"] == mint.uid(SHAM_ID, SHAM_ACCESSION, "1.2.3", "1.2.3.4")
        assert found["Replace"]["SeriesTime"] == "121603"
        assert found["Replace"]["InstanceCreationTime"] == "121604"
        assert found["Replace"]["InstanceCreationDate"] == "20171010"

    def test_series_map_stops_at_the_series(self) -> None:
        replace = sham(DicomLevel.SERIES).orthanc_sham_map()["Replace"]
        assert "SeriesInstanceUID" in replace
        assert "SOPInstanceUID" not in replace

    def test_unknown_dates_are_none(self) -> None:
        replace = sham(StudyDate=None, StudyTime=None).orthanc_sham_map()["Replace"]
        assert replace["StudyDate"] is None
        assert replace["StudyTime"] is None

    def test_chosen_texts_replace_the_original_ones(self) -> None:
        meta = {"ShamStudyDescription": "S", "ShamSeriesDescription": "T", "ShamSeriesNumber": 7}
        found = ShamDixel(meta=meta, tags=INSTANCE, level=DicomLevel.SERIES).orthanc_sham_map()
        assert found["Keep"] == ["PatientSex"]
        assert found["Replace"]["StudyDescription"] == "S"
        assert found["Replace"]["SeriesDescription"] == "T"
        assert found["Replace"]["SeriesNumber"] == 7

    def test_salt_changes_person_and_accession(self) -> None:
        salted = ShamDixel.from_dixel(Dixel(tags=STUDY), salt="FOO")
        assert salted.meta["ShamID"] == GUIDMint.get_sham_id("FOOABC^BAR^Z+FOO", "20000101")["ID"]
        assert salted.meta["ShamAccessionNumber"] == md5(b"12345678+FOO").hexdigest()

    def test_blank_accession_counts_as_the_study_uid(self) -> None:
        found = sham(AccessionNumber="", StudyInstanceUID="1.9")
        assert found.meta["ShamAccessionNumber"] == md5(b"1.9").hexdigest()

    @pytest.mark.parametrize(
        ("changes", "name"),
        [({"PatientName": ""}, "P1"), ({"PatientName": None, "PatientID": ""}, "1.9"), ({"PatientName": "A"}, "A")],
    )
    def test_name_is_else_the_patient_id_else_the_study_uid(self, changes: dict[str, Any], name: str) -> None:
        found = sham(**{"PatientID": "P1", "StudyInstanceUID": "1.9", **changes})
        assert found.meta["ShamID"] == GUIDMint.get_sham_id(name, "20000101")["ID"]

    def test_sex_is_part_of_the_identity(self) -> None:
        assert len({sham(PatientSex=sex).meta["ShamID"] for sex in ("F", "M", "O", None)}) == 3

    def test_oids_are_those_of_the_sham_values(self) -> None:
        found = sham(DicomLevel.INSTANCES)
        uids = (found.ShamStudyUID(), found.ShamSeriesUID(), found.ShamInstanceUID())
        assert found.sham_oid() == orthanc_id(SHAM_ID, *uids)
        assert found.sham_parent_oid() == orthanc_id(SHAM_ID, uids[0])
        assert found.sham_parent_oid(DicomLevel.SERIES) == orthanc_id(SHAM_ID, *uids[:2])
        assert found.sham_parent_oid(DicomLevel.PATIENTS) == orthanc_id(SHAM_ID)

    def test_image_name_is_accession_series_instance(self) -> None:
        found = sham(DicomLevel.INSTANCES)
        assert found.image_base_fn == f"{SHAM_ACCESSION}-0003-0014"
        assert found.sid() == SHAM_ACCESSION
        assert sham(SeriesNumber="3", InstanceNumber="14").image_base_fn == found.image_base_fn

    def test_from_dixel_copies(self) -> None:
        original = Dixel(tags=STUDY)
        original.file = b"file"
        found = ShamDixel.from_dixel(original)
        assert found.file == b"file"
        assert "ShamID" not in original.meta
        assert "StudyDateTime" not in original.tags


class TestBetterThanDiana2:
    """What was not reproducible, not distinct or not said."""

    @pytest.mark.parametrize("birth_date", [None, "", "00000000", "unknown", "31 Jan"])
    def test_missing_or_unreadable_birth_date_depends_on_the_name_alone(self, birth_date: str | None) -> None:
        found = sham(PatientBirthDate=birth_date)
        assert found.meta["ShamID"] == GUIDMint.get_sham_id("FOOABC^BAR^Z")["ID"]
        assert found.meta["ShamID"] == sham(PatientBirthDate=birth_date, StudyDate="20240601").meta["ShamID"]

    @pytest.mark.parametrize(("partial", "full"), [("1950", "19500101"), ("195006", "19500601")])
    def test_partial_birth_date_is_the_first_day(self, partial: str, full: str) -> None:
        assert sham(PatientBirthDate=partial).meta["ShamID"] == sham(PatientBirthDate=full).meta["ShamID"]

    def test_age_counts_from_the_study(self) -> None:
        tags = {key: value for key, value in STUDY.items() if key != "PatientBirthDate"}
        found = ShamDixel(meta={"Age": 40}, tags=tags)
        person = GUIDMint.get_sham_id("FOOABC^BAR^Z", age=40, reference_date="2018-01-02")
        assert found.meta["ShamID"] == person["ID"]

    def test_filled_in_name_does_not_make_one_patient_of_many(self) -> None:
        one, other = (Dixel.from_orthanc(tags={"StudyInstanceUID": uid}) for uid in ("1.8", "1.9"))
        assert one.tags["PatientName"] == other.tags["PatientName"] == "Unknown"
        assert ShamDixel.from_dixel(one).meta["ShamID"] != ShamDixel.from_dixel(other).meta["ShamID"]

    def test_wide_uids_do_not_collide(self) -> None:
        tags = dict(INSTANCE)
        uids = set()
        for number in range(1000):
            found = ShamDixel(tags={**tags, "SOPInstanceUID": f"1.2.3.{number}"}, level=4, wide=True)  # type: ignore[arg-type]
            uids.add(found.ShamInstanceUID())
        assert len(uids) == 1000
        assert found.ShamStudyUID() == SHAM_STUDY_UID

    @pytest.mark.parametrize(
        "tags",
        [
            {},
            {"PatientName": "A"},
            {"AccessionNumber": "1"},
            {"PatientName": "A", "AccessionNumber": "Unknown"},
            {"PatientName": "Unknown", "AccessionNumber": "1"},
        ],
    )
    def test_tags_without_identity_raise(self, tags: dict[str, str]) -> None:
        with pytest.raises(InvalidItem):
            ShamDixel(tags=tags)

    def test_missing_uids_raise(self) -> None:
        with pytest.raises(InvalidItem, match="SeriesInstanceUID"):
            ShamDixel(tags=STUDY, level=DicomLevel.SERIES).orthanc_sham_map()
        with pytest.raises(InvalidItem):
            ShamDixel(tags=STUDY).sham_parent_oid(DicomLevel.SERIES)

    def test_image_name_without_numbers_takes_the_uids(self) -> None:
        name = sham(SeriesNumber=None, InstanceNumber=None).image_base_fn
        assert len(name) == len(f"{SHAM_ACCESSION}-0003-0014")
        with pytest.raises(InvalidItem):
            ShamDixel(tags=STUDY).image_base_fn  # noqa: B018

    def test_date_at_the_end_of_the_calendar_raises_invalid_item_or_is_shifted(self) -> None:
        for name in ("A", "B", "C", "D"):
            try:
                found = sham(PatientName=name, StudyDate="99991230")
            except InvalidItem:
                continue
            assert found.meta["ShamStudyDateTime"] < datetime(9999, 12, 31)

    def test_neither_repr_nor_log_shows_the_person(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            found = ShamDixel.from_dixel(Dixel(tags={**STUDY, "PatientBirthDate": "bad"}), salt="pepper")
        for text in (repr(found), caplog.text):
            assert "FOOABC" not in text
            assert "pepper" not in text
            assert SHAM_ID not in text
