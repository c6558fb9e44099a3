"""Studies from Montage results and rows, and the cleaning of report texts."""

from __future__ import annotations

import copy
import datetime as dt
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diana.dixel import Dixel
from diana.exceptions import InvalidItem
from diana.utils.dicom import DicomLevel
from diana.utils.report_text import clean_text
from tests.planted import assert_nothing_planted

RESULT: dict[str, Any] = {
    "accession_number": "GEN000001",
    "patient_mrn": "GENPID0001",
    "patient_sex": "F",
    "patient_age": 54,
    "patient_status": "Outpatient",
    "patient_last_name": "Generated",
    "patient_first_name": "Patient",
    "organization": {"label": "East"},
    "exam_type": {
        "code": "IMG123",
        "description": "CT CHEST",
        "modality": {"label": "CT"},
        "cpts": ["/api/v1/cptcode/71250/", "/api/v1/cptcode/71260/"],
    },
    "text": "<p>EXAM: CT\r<b>Findings</b> none</p>",
    "events": [
        {"provider": {"name": "Orders, A"}, "date": "2018-03-01T08:00:00"},
        {"provider": {"name": "Scans, B"}, "date": "2018-03-02T09:30:00"},
        {"provider": {"name": "Reads, C"}, "date": "2018-03-03T10:00:00"},
    ],
}
ROW = {
    "Accession Number": "GEN000001",
    "Patient MRN": "GENPID0001",
    "Exam Description": "CT CHEST",
    "Ordered By": "Orders, A",
    "Patient Sex": "F",
    "Exam Completed Date": "03/02/2018 9:30",
    "Organization": "East",
    "Patient Last Name": "Generated",
    "Patient First Name": "Patient",
    "Patient Age": "54",
    "Exam Code": "IMG123",
    "Patient Status": "Outpatient",
    "Report Text": "EXAM: CT",
}


def result(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RESULT), **changes}


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, one in inner for found in [(*path, key), *paths(one, (*path, key))]]


class TestJson:
    def test_every_part_finds_its_place(self) -> None:
        found = Dixel.from_montage_json(RESULT)
        assert found.level == DicomLevel.STUDIES
        assert found.tags == {
            "AccessionNumber": "GEN000001",
            "PatientID": "GENPID0001",
            "StudyDescription": "CT CHEST",
            "ReferringPhysicianName": "Orders, A",
            "PatientSex": "F",
            "Organization": "East",
            "Modality": "CT",
        }
        assert found.meta == {
            "PatientName": "GENERATED^PATIENT",
            "PatientAge": 54,
            "OrderCode": "IMG123",
            "PatientStatus": "Outpatient",
            "ReportText": "EXAM: CT\n\nFindings none",
            "ReadingPhysiciansName": "Reads, C",
            "StudyDateTime": dt.datetime(2018, 3, 2, 9, 30),
            "MontageCPTCodes": ["71250", "71260"],
            "BodyParts": None,
            "CPTCodes": None,
        }
        assert found.report is not None
        assert found.report.text == found.meta["ReportText"]

    def test_the_only_event_is_order_study_and_reading(self) -> None:
        found = Dixel.from_montage_json(result(events=RESULT["events"][:1]))
        assert found.meta["StudyDateTime"] == dt.datetime(2018, 3, 1, 8)
        assert found.meta["ReadingPhysiciansName"] == found.tags["ReferringPhysicianName"] == "Orders, A"

    @pytest.mark.parametrize("event", [{}, {"provider": None, "date": None}, {"provider": {}, "date": ""}])
    def test_events_without_provider_or_date_are_no_problem(self, event: dict[str, Any]) -> None:
        found = Dixel.from_montage_json(result(events=[event, event]))
        assert found.meta["StudyDateTime"] is None
        assert found.tags["ReferringPhysicianName"] is None

    def test_times_with_zone_are_read(self) -> None:
        found = Dixel.from_montage_json(result(events=[{"date": "2018-03-01T08:00:00Z"}]))
        assert found.meta["StudyDateTime"] == dt.datetime(2018, 3, 1, 8, tzinfo=dt.timezone.utc)

    def test_its_own_json_is_read_again(self) -> None:
        first = Dixel.from_montage_json(RESULT)
        data = json.loads(first.json())
        again = Dixel.from_montage_json({"meta": data["meta"], "tags": data["tags"]})
        assert again == first
        assert again.report is not None
        assert again.report.text == first.meta["ReportText"]

    @pytest.mark.parametrize("path", [one for one in paths(RESULT) if one[0] != "events"], ids=str)
    def test_a_missing_part_is_named_and_no_value(self, path: tuple[Any, ...]) -> None:
        data = copy.deepcopy(RESULT)
        holder: Any = data
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]
        if isinstance(holder, list):
            assert len(Dixel.from_montage_json(data).meta["MontageCPTCodes"]) == 1
            return
        with pytest.raises(InvalidItem, match=str(path[-1])) as caught:
            Dixel.from_montage_json(data)
        assert "GEN" not in str(caught.value)

    @pytest.mark.parametrize("path", paths(RESULT), ids=str)
    @pytest.mark.parametrize("value", [None, 7, "PLANTEDPID4711", [], {}, [[]], [{}], True], ids=repr)
    def test_a_part_of_any_kind_is_taken_or_invalid(self, path: tuple[Any, ...], value: Any) -> None:
        data = copy.deepcopy(RESULT)
        holder: Any = data
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        try:
            Dixel.from_montage_json(data)
        except InvalidItem as error:
            assert_nothing_planted(str(error))

    @pytest.mark.parametrize("key", ["accession_number", "patient_mrn"])
    @pytest.mark.parametrize("value", [None, ""])
    def test_a_study_without_its_ids_is_invalid(self, key: str, value: Any) -> None:
        with pytest.raises(InvalidItem):
            Dixel.from_montage_json(result(**{key: value}))

    def test_numbers_as_ids_become_text(self) -> None:
        found = Dixel.from_montage_json(result(accession_number=4711, patient_mrn=12))
        assert (found.tags["AccessionNumber"], found.tags["PatientID"]) == ("4711", "12")


class TestCsv:
    def test_every_column_finds_its_place(self) -> None:
        found = Dixel.from_montage_csv(ROW)
        assert found.tags["StudyDate"] == "03/02/2018 9:30"
        assert found.tags["ReferringPhysicianName"] == "Orders, A"
        assert found.meta["PatientName"] == "GENERATED^PATIENT"
        assert found.meta["OrderCode"] == "IMG123"
        assert found.report is not None
        assert found.report.text == "EXAM: CT"

    @pytest.mark.parametrize("column", ROW)
    def test_a_missing_column_is_named(self, column: str) -> None:
        with pytest.raises(InvalidItem, match=column):
            Dixel.from_montage_csv({key: value for key, value in ROW.items() if key != column})

    @pytest.mark.parametrize("thing", [None, [], "text", 7, {}, {None: ["x"]}], ids=repr)
    def test_what_is_no_row_is_invalid(self, thing: Any) -> None:
        with pytest.raises(InvalidItem):
            Dixel.from_montage_csv(thing)
        with pytest.raises(InvalidItem):
            Dixel.from_montage_json(thing)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*RESULT, "meta", "tags"]), JSON), st.booleans())
def test_any_json_is_a_study_or_invalid(changes: dict[str, Any], whole: bool) -> None:
    with suppress(InvalidItem):
        assert isinstance(Dixel.from_montage_json({**RESULT, **changes} if whole else changes), Dixel)


class TestCleanText:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", ""),
            (None, ""),
            ("plain", "plain"),
            ("last\rstays", "last\rstays"),
            ("<p>one\rtwo<b>Three</b></p>", "one\ntwo\nThree"),
            ("<p>one<b>three</b></p>", "onethree"),
            ("<p>one<b>3 mm</b></p>", "one\n3 mm"),
            ("<p>one<b> Three</b></p>", "one Three"),
            ("a<!-- SECRET -->B", "a\nB"),
            ("5 &lt; 6 &amp; 7<br>Next", "5 < 6 & 7\nNext"),
            ("x < 5 mm", "x < 5 mm"),
            ("<p>Ünï</p><p>Ähm</p>", "Ünï\nÄhm"),
            ("<p>\r</p>A", "\n\nA"),
        ],
    )
    def test_lines_break_where_sections_begin(self, text: str | None, expected: str) -> None:
        assert clean_text(text) == expected

    def test_it_stays_quick_on_hostile_text(self) -> None:
        for text in ("<" * 200_000, "<a" * 100_000, "<!--" * 50_000, "&#" * 100_000, "<p>" * 100_000):
            assert len(clean_text(text)) <= len(text)

    @given(st.text(max_size=60))
    def test_text_without_markup_is_kept(self, text: str) -> None:
        plain = text.replace("<", "").replace("&", "")
        assert clean_text(plain) == plain
