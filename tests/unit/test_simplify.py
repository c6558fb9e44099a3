"""Tag sets become flat, complete and readable."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

import pytest

from diana.exceptions import InvalidItem
from diana.utils.dicom import dicom_simplify

BASE = {"StudyDate": "20180102", "StudyTime": "120001", "AccessionNumber": "A1", "PatientName": "DOE^JANE"}


def _concept(meaning: str) -> list[dict[str, str]]:
    return [{"CodeMeaning": meaning}]


def _item(name: str, kind: str, **values: Any) -> dict[str, Any]:
    return {"ConceptNameCodeSequence": _concept(name), "ValueType": kind, **values}


def _num(name: str, value: object) -> dict[str, Any]:
    return _item(name, "NUM", MeasuredValueSequence=[{"NumericValue": value}])


def _report(*items: Any, title: str = "X-Ray Radiation Dose Report") -> dict[str, Any]:
    return {
        **BASE,
        "ConceptNameCodeSequence": _concept(title),
        "ContentSequence": list(items),
        "ContentDate": "20180103",
        "ContentTime": "1015",
    }


class TestDates:
    """Each level has a moment."""

    def test_missing_levels_take_the_study_moment(self) -> None:
        tags = dicom_simplify(dict(BASE))
        moment = datetime(2018, 1, 2, 12, 0, 1)
        assert tags["StudyDateTime"] == tags["SeriesDateTime"] == tags["InstanceCreationDateTime"] == moment

    def test_each_level_has_its_own(self) -> None:
        more = {"SeriesDate": "20180102", "SeriesTime": "1210", "InstanceCreationDate": "20180103"}
        tags = dicom_simplify({**BASE, **more})
        assert tags["SeriesDateTime"] == datetime(2018, 1, 2, 12, 10)
        assert tags["InstanceCreationDateTime"] == datetime(2018, 1, 3)

    def test_without_any_date_the_series_moment_is_none(self) -> None:
        tags = dicom_simplify({"AccessionNumber": "A1", "PatientName": "DOE"})
        assert tags["SeriesDateTime"] is None
        assert "StudyDateTime" not in tags

    def test_mapping_is_changed_in_place(self) -> None:
        tags = dict(BASE)
        assert dicom_simplify(tags) is tags


class TestImputation:
    """What is blank is filled."""

    def test_accession_number_becomes_the_study_uid(self) -> None:
        tags = {**BASE, "AccessionNumber": "", "StudyInstanceUID": "1.2.3"}
        assert dicom_simplify(tags)["AccessionNumber"] == "1.2.3"

    def test_patient_name_becomes_the_patient_id(self) -> None:
        assert dicom_simplify({**BASE, "PatientName": None, "PatientID": "P1"})["PatientName"] == "P1"

    def test_without_anything_they_are_unknown(self) -> None:
        tags = dicom_simplify({})
        assert tags["AccessionNumber"] == tags["PatientName"] == tags["StationName"] == "Unknown"

    def test_station_name_becomes_serial_number_or_observer(self) -> None:
        assert dicom_simplify({**BASE, "DeviceSerialNumber": "S9"})["StationName"] == "S9"
        tags = dicom_simplify(_report(_item("Device Observer UID", "UIDREF", UID="1.2.9")))
        assert tags["StationName"] == "1.2.9"

    @pytest.mark.parametrize("blank", ["StudyDate", "AccessionNumber", "PatientName"])
    def test_what_must_be_there_raises_when_asked(self, blank: str) -> None:
        with pytest.raises(InvalidItem):
            dicom_simplify({**BASE, blank: ""}, ignore_errors=False)

    def test_complete_tags_do_not_raise(self) -> None:
        dicom_simplify(dict(BASE), ignore_errors=False)


class TestReports:
    """Content sequences become mappings."""

    def test_content_is_flattened_under_its_title(self) -> None:
        tags = dicom_simplify(
            _report(
                _item("Comment", "TEXT", TextValue="fine"),
                _num("Dose", "1.5"),
                _item("Device", "UIDREF", UID="1.2"),
                _item("Start", "DATETIME", DateTime="20180102120001"),
                _item("Target", "CODE", ConceptCodeSequence=_concept("Chest")),
                _item("Empty", "CODE"),
                _item("Nested", "CONTAINER", ContentSequence=[_num("Inner", 2)]),
                _item("Picture", "IMAGE", TextValue="seen"),
                _item("Observer", "PNAME", PersonName="DOE"),
                title="Some Report",
            )
        )
        assert tags["Some Report"] == {
            "Comment": "fine",
            "Dose": 1.5,
            "Device": "1.2",
            "Start": datetime(2018, 1, 2, 12, 0, 1),
            "Target": "Chest",
            "Empty": "UNKNOWN",
            "Nested": {"Inner": 2.0},
            "Picture": "seen",
            "Observer": None,
            "ContentDateTime": datetime(2018, 1, 3, 10, 15),
        }
        for keyword in ("ConceptNameCodeSequence", "ContentSequence", "ContentDate", "ContentTime"):
            assert keyword not in tags

    def test_missing_source_tags_do_not_raise(self) -> None:
        tags = dicom_simplify({**BASE, "ConceptNameCodeSequence": _concept("R")})
        assert tags["R"] == {"ContentDateTime": None}

    def test_repeated_names_become_a_list_with_zeros(self) -> None:
        tags = dicom_simplify(_report(_num("Dose", 0), _num("Dose", 1), _num("Dose", 0), title="R"))
        assert tags["R"]["Dose"] == [0.0, 1.0, 0.0]

    def test_bad_items_leave_their_neighbours(self) -> None:
        odd = [{}, None, "x", {"ValueType": "TEXT"}, _item("Picture", "IMAGE"), _num("Bad", "x"), _item("None", "NUM")]
        tags = dicom_simplify(_report(*odd, _num("Good", ["7", "8"]), title="R"))
        assert tags["R"]["Good"] == 7.0
        assert tags["R"]["Bad"] is None
        assert tags["R"]["Picture"] is None

    def test_depth_is_bounded(self) -> None:
        item = _num("Deep", 1)
        for _ in range(500):
            item = _item("Box", "CONTAINER", ContentSequence=[item])
        tags = dicom_simplify(_report(item, title="R"))
        depth = 0
        box = tags["R"]
        while box:
            box = box.get("Box")
            depth += 1
        assert depth < 100


class TestDoseReports:
    """Every CT acquisition has a dose."""

    @pytest.mark.parametrize("title", ["X-Ray Radiation Dose Report", "X-ray Radiation Dose Report"])
    def test_missing_dose_is_zero(self, title: str) -> None:
        dose = _item("CT Dose", "CONTAINER", ContentSequence=[_num("Mean CTDIvol", 3)])
        one = _item("CT Acquisition", "CONTAINER", ContentSequence=[dose])
        none = _item("CT Acquisition", "CONTAINER", ContentSequence=[])
        tags = dicom_simplify(_report(one, none, title=title))
        doses = [found["CT Dose"] for found in tags["X-Ray Radiation Dose Report"]["CT Acquisition"]]
        assert doses == [{"Mean CTDIvol": 3.0}, {"Mean CTDIvol": 0}]

    def test_single_acquisition_is_a_list_with_a_dose(self) -> None:
        single = _item("CT Acquisition", "CONTAINER", ContentSequence=[_num("Time", 2)])
        tags = dicom_simplify(_report(single))
        assert tags["X-Ray Radiation Dose Report"]["CT Acquisition"] == [{"Time": 2.0, "CT Dose": {"Mean CTDIvol": 0}}]

    @pytest.mark.parametrize("odd", [None, "text", [None], 5, {"CT Acquisition": None}, {"CT Acquisition": [3]}])
    def test_odd_reports_do_not_raise(self, odd: object) -> None:
        dicom_simplify({**BASE, "X-Ray Radiation Dose Report": odd})


def test_no_value_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        dicom_simplify({"StudyDate": "1963xx", "PatientID": "P-77", **_report(_num("Secret", "Hush"))})
        dicom_simplify({"PatientComments": "Hush"})
    assert caplog.records
    for value in ("1963xx", "P-77", "Hush", "Secret"):
        assert value not in caplog.text
