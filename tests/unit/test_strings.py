"""Names, dates and times are written and read as PS3.5 6.2 says."""

from __future__ import annotations

import logging
from datetime import date, datetime, time, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diana.utils.dicom.strings import dicom_date, dicom_datetime, dicom_name, dicom_time, parse_dicom_datetime

DAY = datetime(2018, 1, 2)


def _utc(hours: float) -> timezone:
    return timezone(timedelta(hours=hours))


class TestWrite:
    """Values that DICOM takes."""

    def test_name_is_joined_and_upper(self) -> None:
        assert dicom_name(["Last", "First", "M"]) == "LAST^FIRST^M"
        assert dicom_name("Last") == "LAST"

    def test_date_has_eight_digits_in_any_century(self) -> None:
        assert dicom_date(date(2018, 1, 2)) == "20180102"
        assert dicom_date(date(8, 1, 2)) == "00080102"

    def test_time_cuts_fractions(self) -> None:
        assert dicom_time(datetime(2018, 1, 2, 3, 4, 5, 999999)) == "030405"
        assert dicom_time(date(2018, 1, 2)) == "000000"

    def test_datetime_is_the_pair(self) -> None:
        assert dicom_datetime(datetime(2018, 1, 2, 3, 4, 5)) == ("20180102", "030405")


class TestRead:
    """Legal values, and what is none."""

    @pytest.mark.parametrize(
        ("tm", "clock"),
        [
            ("", time()),
            (None, time()),
            ("12", time(12)),
            ("1234", time(12, 34)),
            ("123456", time(12, 34, 56)),
            ("123456.1", time(12, 34, 56, 100000)),
            ("123456.123456", time(12, 34, 56, 123456)),
            ("123456.000001 ", time(12, 34, 56, 1)),
            ("12:34", time(12, 34)),
            ("12:34:56", time(12, 34, 56)),
            ("12:34:56.5", time(12, 34, 56, 500000)),
            (time(1, 2, 3), time(1, 2, 3)),
        ],
    )
    @pytest.mark.parametrize("da", ["20180102", "2018.01.02", " 20180102 ", date(2018, 1, 2)])
    def test_date_and_time(self, da: str | date, tm: str | time | None, clock: time) -> None:
        assert parse_dicom_datetime(da, tm) == datetime.combine(DAY, clock)

    @pytest.mark.parametrize(
        ("dt", "moment"),
        [
            ("20180102120001", datetime(2018, 1, 2, 12, 0, 1)),
            ("20180102120001.25", datetime(2018, 1, 2, 12, 0, 1, 250000)),
            ("201801021200", datetime(2018, 1, 2, 12)),
            ("2018010212", datetime(2018, 1, 2, 12)),
            ("201801", datetime(2018, 1, 1)),
            ("2018", datetime(2018, 1, 1)),
            ("20180102120001.5+0100", datetime(2018, 1, 2, 12, 0, 1, 500000, _utc(1))),
            ("20180102120001-1200", datetime(2018, 1, 2, 12, 0, 1, 0, _utc(-12))),
            ("2018+0530", datetime(2018, 1, 1, tzinfo=_utc(5.5))),
            ("2018-01-02T12:00:01", datetime(2018, 1, 2, 12, 0, 1)),
            ("2018-01-02 12:00:01", datetime(2018, 1, 2, 12, 0, 1)),
        ],
    )
    def test_moment(self, dt: str, moment: datetime) -> None:
        found = parse_dicom_datetime(dt)
        assert found == moment
        assert found is not None
        assert found.utcoffset() == moment.utcoffset()

    def test_second_60_is_the_next_minute(self) -> None:
        assert parse_dicom_datetime("20161231", "235960") == datetime(2017, 1, 1)

    @pytest.mark.parametrize(
        ("d", "t"),
        [
            ("20180102", "123"),
            ("20180102", "12345"),
            ("20180102", "24"),
            ("20180102", "1260"),
            ("20180102", "12:3456"),
            ("20180102", "120000-130000"),
            ("20180102", "noon"),
            ("20180102", "٣٤"),
            ("20181301", ""),
            ("20180230", ""),
            ("00000101", ""),
            ("2018.1.2", ""),
            ("20180101-20180102", ""),
            ("201801021", None),
            ("2018010212", "12"),
            ("20180102+1500", None),
            ("20180102+0199", None),
            ("99991231", "235960"),
            ("9" * 100000, "9" * 100000),
            ("x", None),
            ("", ""),
            (None, None),
            ("2018-99-99", None),
        ],
    )
    def test_anything_else_is_none(self, d: str | None, t: str | None) -> None:
        assert parse_dicom_datetime(d, t) is None

    @given(st.datetimes(min_value=datetime(1, 1, 1)))
    def test_what_is_written_is_read(self, moment: datetime) -> None:
        whole = moment.replace(microsecond=0)
        assert parse_dicom_datetime(*dicom_datetime(moment)) == whole
        assert parse_dicom_datetime("".join(dicom_datetime(moment)) + f".{moment.microsecond:06}") == moment

    @given(st.text(), st.text())
    def test_no_text_raises(self, d: str, t: str) -> None:
        parse_dicom_datetime(d, t)

    def test_value_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            parse_dicom_datetime("20181399", "9876")
        assert caplog.records
        assert "20181399" not in caplog.text
        assert "9876" not in caplog.text
