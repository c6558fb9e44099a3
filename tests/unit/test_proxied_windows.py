"""Spans of time become keys of a C-FIND that lose nothing at midnight."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diana.apis.proxied_windows import Window, local_span, spans, steps, wall_time
from diana.exceptions import ConfigError


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def tags(moment: dt.datetime) -> dict[str, str]:
    return {"StudyDate": f"{moment:%Y%m%d}", "StudyTime": f"{moment:%H%M%S.%f}"}


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_one_day_is_one_window() -> None:
    assert list(spans(at("2020-05-04 10:00:00"), at("2020-05-04 10:10:30"))) == [Window("20200504", "100000-101030")]


def test_a_span_over_midnight_is_split() -> None:
    assert list(spans(at("2020-02-28 23:55:00"), at("2020-02-29 00:05:00"))) == [
        Window("20200228", "235500-"),
        Window("20200229", "000000-000500"),
    ]


def test_whole_days_are_asked_at_once_and_without_time() -> None:
    assert list(spans(at("2020-12-30 12:00:00"), at("2021-01-04 00:00:00"))) == [
        Window("20201230", "120000-"),
        Window("20201231-20210103"),
        Window("20210104", "000000-000000"),
    ]
    assert next(iter(spans(at("2021-01-01 00:00:00"), at("2021-01-02 00:00:00")))) == Window("20210101")


def test_every_window_of_several_days_has_no_time() -> None:
    for window in spans(at("2020-01-01 08:00:00"), at("2020-03-01 07:00:00")):
        assert not ("-" in window.date and window.time)


@given(st.datetimes(dt.datetime(2019, 1, 1), dt.datetime(2021, 1, 1)), st.integers(0, 400_000), st.floats(0, 1))
def test_every_moment_of_a_span_is_in_a_window(start: dt.datetime, seconds: int, part: float) -> None:
    stop = start + dt.timedelta(seconds=seconds)
    moment = start + (stop - start) * part
    assert any(window.holds(tags(moment)) for window in spans(start, stop))


@given(st.integers(1, 200_000), st.integers(0, 300_000), st.floats(0, 1))
def test_every_moment_of_a_span_is_in_a_step(step: int, seconds: int, part: float) -> None:
    start = at("2020-02-27 21:17:03")
    stop = start + dt.timedelta(seconds=seconds)
    moment = start + (stop - start) * part
    found = list(steps(start, stop, dt.timedelta(seconds=max(step, seconds // 50 + 1))))
    assert any(window.holds(tags(moment)) for windows in found for window in windows)


def test_a_moment_outside_is_in_no_window() -> None:
    [window] = spans(at("2020-05-04 10:00:00"), at("2020-05-04 10:10:00"))
    assert not window.holds(tags(at("2020-05-04 10:11:00")))
    assert not window.holds(tags(at("2020-05-05 10:05:00")))


def test_what_an_answer_does_not_tell_does_not_exclude_it() -> None:
    [window] = spans(at("2020-05-04 10:00:00"), at("2020-05-04 10:10:00"))
    assert window.holds({"StudyDate": "20200504"})
    assert window.holds({"StudyDate": "", "StudyTime": ""})
    assert not window.holds({"StudyDate": "20200503"})


def test_steps_end_at_the_end_and_are_never_of_no_length() -> None:
    found = list(steps(at("2020-05-04 10:00:00"), at("2020-05-04 10:25:00"), dt.timedelta(minutes=10)))
    assert found == [
        [Window("20200504", "100000-101000")],
        [Window("20200504", "101000-102000")],
        [Window("20200504", "102000-102500")],
    ]
    assert len(list(steps(at("2020-05-04 10:00:00"), at("2020-05-04 10:20:00"), dt.timedelta(minutes=10)))) == 2


def test_steps_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ConfigError):
        list(steps(at("2020-05-04"), at("2020-05-05"), dt.timedelta(0)))
    with pytest.raises(ConfigError):
        list(steps(at("2020-05-05"), at("2020-05-04"), dt.timedelta(hours=1)))


@pytest.mark.usefixtures("berlin")
def test_clocks_set_back_widen_the_span() -> None:
    before, after = 1603587300.0, 1603587900.0  # 02:55 summer time, and ten minutes later 02:05 winter time
    start, stop = local_span(before, after)
    assert start <= min(dt.datetime.fromtimestamp(before), dt.datetime.fromtimestamp(after))
    assert stop >= max(dt.datetime.fromtimestamp(before), dt.datetime.fromtimestamp(after))
    moment = before
    while moment <= after:
        assert start <= dt.datetime.fromtimestamp(moment) <= stop
        moment += 60


@pytest.mark.usefixtures("berlin")
def test_clocks_set_forward_lose_nothing() -> None:
    before = 1585443300.0  # 01:55 on the morning when 02:00 becomes 03:00
    start, stop = local_span(before, before + 600)
    assert (f"{start:%H%M}", f"{stop:%H%M}") == ("0155", "0305")


def test_moments_come_as_text_or_datetime() -> None:
    assert wall_time("2020-05-04T10:00:00") == at("2020-05-04 10:00:00")
    assert wall_time(dt.datetime(2020, 5, 4, tzinfo=dt.timezone.utc)).tzinfo is None
    with pytest.raises(ConfigError):
        wall_time("yesterday")
