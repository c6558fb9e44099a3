"""Query: matching as PS3.4 C.2.2.2 says, groups, comparisons, the wire, and what is refused."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diana.exceptions import ConfigError, InvalidItem, Unsupported
from diana.utils.dicom import DicomLevel, Query
from diana.utils.dicom.query import today

WORDS = st.text("abC1", max_size=6)
PATTERNS = st.text("abC1*?", min_size=1, max_size=6)
DAYS = st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1))
TIMES = st.times().map(lambda one: one.replace(microsecond=0))


def day(value: dt.date) -> str:
    return value.strftime("%Y%m%d") if value.year >= 1000 else ""


def matches(wanted: Any, value: Any, key: str = "AccessionNumber") -> bool:
    return Query({key: wanted}).matches({} if value is None else {key: value})


class TestText:
    @given(PATTERNS, WORDS.filter(bool))
    def test_wildcards_mean_what_fnmatch_says(self, pattern: str, text: str) -> None:
        assert matches(pattern, text) == fnmatchcase(text, pattern)

    @given(st.text(min_size=1, max_size=8).map(lambda one: re.sub(r"[*?\\<>= \0]", "", one)).filter(bool))
    def test_a_text_without_wildcards_matches_itself_only(self, text: str) -> None:
        assert matches(text, text)
        assert not matches(text, text + "x")
        assert not matches(text, "x" + text)

    @pytest.mark.parametrize("text", ["a.c", "a[bc]", "a+", "(a)", "a|b", "^a$", "a{2}"])
    def test_other_signs_are_plain(self, text: str) -> None:
        assert matches(text, text)
        assert not matches(text, "abc")
        assert matches(text[:1] + "*", text)

    @pytest.mark.parametrize("wanted", ["", None, [], "*"])
    def test_an_empty_want_is_met_even_by_nothing(self, wanted: Any) -> None:
        assert matches(wanted, None)
        assert matches(wanted, "x")

    @pytest.mark.parametrize("wanted", ["x", "x*", ["x"], ">1", "20200101"])
    @pytest.mark.parametrize("value", [None, "", []])
    def test_a_want_is_not_met_by_nothing(self, wanted: Any, value: Any) -> None:
        assert not matches(wanted, value)

    def test_several_wants_and_several_values_mean_any_of(self) -> None:
        assert matches(["a", "b"], "b")
        assert matches("a\\b", "b")
        assert matches("a", ["x", "a"])
        assert matches("a", "x\\a")
        assert not matches(["a", "b"], ["x", "y"])
        assert matches(["a*", "b?"], "bz")

    def test_padding_does_not_count(self) -> None:
        assert matches("A1", "A1 ")
        assert matches("1.2.3", "1.2.3\0", "StudyInstanceUID")

    def test_case_counts_except_in_names_of_persons(self) -> None:
        assert not matches("abc", "ABC")
        assert matches("doe^j*", "DOE^JANE", "PatientName")
        assert matches("Doe^Jane", "DOE^JANE^^", "PatientName")
        assert matches("STRASSE", "Straße", "PatientName")

    def test_zero_is_a_value(self) -> None:
        assert matches(0, 0, "InstanceNumber")
        assert matches("0", 0, "InstanceNumber")
        assert not matches(0, 1, "InstanceNumber")
        assert not matches(0, None, "InstanceNumber")

    @pytest.mark.parametrize(
        "pattern", ["*a" * 12 + "b", "*" * 5000 + "b", "*?" * 30 + "b", "*aa" * 20 + "*b"], ids=len
    )
    def test_a_hostile_pattern_takes_no_time(self, pattern: str) -> None:
        code = (
            "import sys; from diana.utils.dicom import Query\n"
            "print(Query({'PatientID': sys.argv[1]}).matches({'PatientID': 'a' * 2000}))"
        )
        done = subprocess.run([sys.executable, "-c", code, pattern], timeout=10, capture_output=True, check=True)
        assert done.stdout.strip() == b"False"


class TestNumbers:
    @given(st.integers(-1000, 1000), st.integers(-1000, 1000), st.sampled_from(["<", "<=", ">", ">="]))
    def test_comparisons_compare_numbers(self, bound: int, value: int, sign: str) -> None:
        expected = {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[sign]
        assert matches(f"{sign}{bound}", value, "InstanceNumber") == expected
        assert matches(f"{sign} {bound}", str(value), "InstanceNumber") == expected

    def test_a_text_is_in_no_comparison(self) -> None:
        assert not matches(">1", "abc")
        assert not matches("<1", "")

    @pytest.mark.parametrize("value", [2.5, "2.5", "2.50", " 2.5"])
    def test_numbers_are_equal_whatever_their_writing(self, value: Any) -> None:
        assert matches(2.5, value, "SliceThickness")

    @pytest.mark.parametrize("key", ["EchoTime", "RepetitionTime", "ExposureTime", "InversionTime"])
    def test_durations_are_numbers_and_no_times_of_day(self, key: str) -> None:
        assert matches(30, 30, key)
        assert matches(30, "30.0", key)
        assert not matches(30, 300, key)
        assert not matches("30", "300", key)


class TestDatesAndTimes:
    @given(DAYS, DAYS, DAYS)
    def test_a_range_of_dates_includes_its_ends(self, first: dt.date, last: dt.date, value: dt.date) -> None:
        wanted = f"{day(first)}-{day(last)}"
        assert matches(wanted, day(value), "StudyDate") == (first <= value <= last)
        assert matches(wanted, value, "StudyDate") == (first <= value <= last)

    @given(DAYS, DAYS)
    def test_a_range_may_be_open(self, bound: dt.date, value: dt.date) -> None:
        assert matches(f"{day(bound)}-", day(value), "StudyDate") == (value >= bound)
        assert matches(f"-{day(bound)}", day(value), "StudyDate") == (value <= bound)

    @given(TIMES, TIMES, TIMES)
    def test_a_range_of_times_includes_its_ends(self, first: dt.time, last: dt.time, value: dt.time) -> None:
        wanted = f"{first:%H%M%S}-{last:%H%M%S}"
        assert matches(wanted, f"{value:%H%M%S}", "StudyTime") == (first <= value <= last)

    @pytest.mark.parametrize("wanted", ["20200229", "2020-02-29", dt.date(2020, 2, 29), "2020.02.29"])
    @pytest.mark.parametrize("value", ["20200229", dt.date(2020, 2, 29), dt.datetime(2020, 2, 29, 12), "2020.02.29"])
    def test_a_date_is_the_same_whatever_its_writing(self, wanted: Any, value: Any) -> None:
        assert matches(wanted, value, "StudyDate")
        assert not matches(wanted, "20200228", "StudyDate")

    @pytest.mark.parametrize("value", ["08", "0800", "080000", "080000.000000", "08:00:00"])
    def test_a_shortened_time_means_its_first_moment(self, value: str) -> None:
        assert matches("0800", value, "StudyTime")
        assert matches("0800-1000", value, "StudyTime")
        assert matches("080000-", value, "StudyTime")
        assert not matches("0801-1000", value, "StudyTime")

    def test_a_range_of_times_ends_with_its_last_minute(self) -> None:
        assert matches("0800-1000", "100059.5", "StudyTime")
        assert not matches("0800-1000", "1001", "StudyTime")

    def test_a_range_is_for_dates_and_times_only(self) -> None:
        assert matches("A1-B2", "A1-B2")
        assert not matches("A1-B2", "A5")

    def test_today_is_a_dicom_date(self) -> None:
        assert today() == dt.date.today().strftime("%Y%m%d")
        assert matches(f"{today(1)}-", dt.date.today(), "StudyDate")


class TestGroups:
    TAGS = {"Modality": "CT", "PatientSex": "F"}

    @pytest.mark.parametrize(
        ("match", "expected"),
        [
            ({"any": [{"Modality": "MR"}, {"Modality": "CT"}]}, True),
            ({"any": [{"Modality": "MR"}]}, False),
            ({"any": []}, False),
            ({"all": []}, True),
            ({"all": [{"Modality": "CT"}, {"PatientSex": "M"}]}, False),
            ({"not": {"Modality": "MR"}}, True),
            ({"not": {"Modality": "CT", "PatientSex": "M"}}, True),
            ({"not": {}}, False),
            ({"not": {"not": {"Modality": "CT"}}}, True),
            ({"Modality": "CT", "any": [{"PatientSex": "M"}]}, False),
        ],
    )
    def test_groups_combine(self, match: dict[str, Any], expected: bool) -> None:
        assert Query(match).matches(self.TAGS) is expected

    @given(st.recursive(
        st.sampled_from([{"Modality": "CT"}, {"Modality": "MR"}, {"Absent": "x"}, {}]),
        lambda one: st.builds(lambda inner: {"not": inner}, one)
        | st.builds(lambda inner: {"any": inner}, st.lists(one, max_size=3))
        | st.builds(lambda inner: {"all": inner}, st.lists(one, max_size=3)),
        max_leaves=8,
    ))  # fmt: skip
    def test_explain_agrees_with_matches(self, match: dict[str, Any]) -> None:
        query = Query(match)
        clauses = query.explain(self.TAGS)
        top = [one.met for one in clauses if "." not in one.key and "[" not in one.key]
        assert all(top) == query.matches(self.TAGS)
        assert query.matches(self.TAGS) != Query({"not": match}).matches(self.TAGS)

    def test_explain_names_keys_and_no_values(self) -> None:
        query = Query({"not": {"PatientName": "SECRET"}, "any": [{"PatientID": "SECRET"}]})
        shown = " ".join(map(str, query.explain({"PatientName": "SECRET"}))) + repr(query) + str(query)
        assert "SECRET" not in shown
        assert "not.PatientName: matches" in shown
        assert "any[0].PatientID: the object has no such value" in shown

    @pytest.mark.parametrize(
        "match",
        [
            {"any": {"Modality": "CT"}},
            {"any": "CT"},
            {"any": None},
            {"all": 5},
            {"all": [5]},
            {"not": [{"Modality": "CT"}]},
            {"not": None},
            {"not": "CT"},
            {"all": [{"any": 5}]},
            {"not": {"all": {"Modality": "CT"}}},
        ],
        ids=str,
    )
    def test_a_group_of_a_wrong_shape_is_a_config_error(self, match: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            Query(match).check_keywords()


class TestKeywords:
    def test_all_unknown_keywords_are_named_with_the_nearest(self) -> None:
        query = Query({"Modalitty": "SECRET", "not": {"PatientNam": "SECRET"}}, fields=["StudyUID"])
        with pytest.raises(ConfigError) as caught:
            query.check_keywords()
        assert len(caught.value.problems) == 3
        assert "'Modality'" in str(caught.value)
        assert "'PatientName'" in str(caught.value)
        assert "SECRET" not in str(caught.value)

    def test_known_keywords_pass(self) -> None:
        Query({"Modality": "", "any": [{"PatientID": "x"}]}, fields=["NumberOfStudyRelatedInstances"]).check_keywords()

    @pytest.mark.parametrize("match", [{"any": []}, {"not": {}}, {"InstanceNumber": ">2"}], ids=str)
    def test_what_a_wire_cannot_say_is_unsupported(self, match: dict[str, Any]) -> None:
        with pytest.raises(Unsupported):
            Query(match).wire()

    def test_the_wire_gets_dicom_texts(self) -> None:
        query = Query(
            {
                "StudyDate": dt.date(2020, 2, 1),
                "StudyTime": dt.time(8, 5),
                "StudyInstanceUID": ["1.2", "1.3"],
                "PatientName": None,
                "InstanceNumber": 0,
            },
            fields=["Modality", "StudyDate"],
        )
        assert query.wire() == {
            "StudyDate": "20200201",
            "StudyTime": "080500",
            "StudyInstanceUID": "1.2\\1.3",
            "PatientName": "",
            "InstanceNumber": "0",
            "Modality": "",
        }

    def test_a_query_is_not_changed_through_its_mapping(self) -> None:
        match = {"Modality": "CT"}
        query = Query(match)
        match["Modality"] = "MR"
        assert query.matches({"Modality": "CT"})

    @pytest.mark.parametrize("label", ["study", "STUDIES", 2, DicomLevel.STUDIES, " Study "])
    def test_levels_have_many_labels(self, label: Any) -> None:
        assert Query({}, label).level is DicomLevel.STUDIES

    @pytest.mark.parametrize("label", ["department", 0, 5, True, None, 2.5, b"study", ["study"]], ids=repr)
    def test_other_labels_are_invalid(self, label: Any) -> None:
        with pytest.raises(InvalidItem):
            Query({}, label)
