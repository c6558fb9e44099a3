"""Values: dates that move, text that may pass, dummies that fit, keyed UIDs and pseudonyms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diana.deid import Key
from diana.deid.allowed import is_number, is_technical, is_term
from diana.deid.dates import cap_age, is_time, shift_date, shift_datetime, year_of
from diana.deid.pseudonyms import new_uid, normal_id, subject_of
from diana.deid.raw import EXPLICIT_BIG, IMPLICIT_LITTLE, encode
from diana.deid.tables import vrs
from diana.deid.values import dummy, literal

KEY = Key(b"v" * 32)


@pytest.mark.parametrize(
    ("value", "moved"),
    [
        (b"20230415", b"20230408"),
        (b"2023.04.15 ", b"20230408"),
        (b"20230101\\20230108", b"20221225\\20230101"),
        (b"", b""),
        (b"20230230", None),
        (b"20230401-20230430", None),
        (b"Annegret", None),
        (b"00010101", None),
    ],
)
def test_dates_move_or_are_none(value: bytes, moved: bytes | None) -> None:
    assert shift_date(value, -7) == moved


@pytest.mark.parametrize(
    ("value", "moved"),
    [
        (b"20230415101112.25+0100", b"20230408101112.25+0100"),
        (b"20230415", b"20230408"),
        (b"202304", b"202304"),
        (b"2023", b"2023"),
        (b"2023041510", b"2023040810"),
        (b"2023-04-15", b"20230408"),
        (b"yesterday", None),
    ],
)
def test_datetimes_keep_their_precision(value: bytes, moved: bytes | None) -> None:
    assert shift_datetime(value, -7) == moved


@given(st.dates(), st.dates(), st.integers(52, 520))
def test_intervals_stay(first: object, second: object, weeks: int) -> None:
    import datetime as dt

    assert isinstance(first, dt.date)
    assert isinstance(second, dt.date)
    moved = [shift_date(f"{one:%4Y%m%d}".encode(), -7 * weeks) for one in (first, second)]
    if moved[0] and moved[1]:
        one, two = (dt.date(int(x[:4]), int(x[4:6]), int(x[6:])) for x in moved if x)
        assert two - one == second - first


def test_times_and_ages() -> None:
    assert is_time(b"101112.123456 ")
    assert is_time(b"10:11:12")
    assert not is_time(b"ten o'clock")
    assert cap_age(b"092Y", 90) == b"090Y"
    assert cap_age(b"092M", 90) == b"092M"
    assert cap_age(b"120Y", 0) == b"120Y"
    assert year_of(b"19310203") == b"19310101"


@pytest.mark.parametrize("text", ["B31f", "syngo CT 2012B", "Philips Medical Systems, Inc.", "5.00.02", "12345", ""])
def test_technical_text_passes(text: str) -> None:
    assert is_technical(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "Doe^John",
        "Doe, John",
        "me@example.org",
        "MRN 990817",
        "12.05.1971",
        "1971-05-12",
        "Müller",
        "12/5/71",
        "A12345",
    ],
)
def test_text_that_may_identify_does_not(text: str) -> None:
    assert not is_technical(text.encode("latin-1"))


def test_numbers_and_terms_have_a_shape() -> None:
    assert is_number(b"1.5\\-2e3 ")
    assert is_number(b"NaN")
    assert not is_number(b"Annegret")
    assert is_term(b"ORIGINAL\\PRIMARY\\CT_SOM5 SPI")
    assert not is_term(b"PID1234567")
    assert not is_term(b"X" * 40)


def test_every_vr_has_a_dummy_that_is_not_empty() -> None:
    for vr in {*vrs().values()} - {"SQ"}:
        assert dummy(0x00181000, vr, 0)


def test_literals_take_the_form_of_their_vr() -> None:
    assert literal("US", "258", "", big=True) == b"\1\2"
    assert literal("FD", "x", "", big=False) is None
    assert literal("OB", "1", "", big=False) is None
    assert literal("LO", "Zürich", "ISO_IR 192", big=False) == "Zürich".encode()


def test_elements_are_padded_in_each_encoding() -> None:
    assert encode(0x00080018, "UI", b"1.2", EXPLICIT_BIG) == b"\0\x08\0\x18UI\0\x041.2\0"
    assert encode(0x00080060, "CS", b"CT ", IMPLICIT_LITTLE) == b"\x08\0\x60\0\x04\0\0\0CT  "


@given(st.text(max_size=64))
def test_uids_are_valid_and_depend_on_the_key(text: str) -> None:
    import re

    from diana.deid.pseudonyms import is_standard

    made = new_uid(KEY, text)
    if text and not is_standard(text):
        assert re.fullmatch(r"2\.25\.(0|[1-9]\d*)", made)
        assert len(made) <= 64
        assert made == new_uid(KEY, text) != new_uid(Key(b"w" * 32), text)


def test_spelling_of_a_patient_id_does_not_matter() -> None:
    assert subject_of(KEY, "", " pid-1  a") == subject_of(KEY, "", "PID-1 A")
    assert subject_of(KEY, "A", "1") != subject_of(KEY, "B", "1")
    assert normal_id("\uff30\uff29\uff24\uff11") == "PID1"


def test_weeks_lie_between_one_and_ten_years() -> None:
    weeks = {subject_of(KEY, "", str(number)).weeks for number in range(2000)}
    assert min(weeks) >= 52
    assert max(weeks) <= 520
    assert len(weeks) > 400
