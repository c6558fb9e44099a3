"""The GUID mint makes the ids of diana2, and better ones where those were not reproducible or not distinct."""

from __future__ import annotations

import logging
import random
import string
import unicodedata
from datetime import date, datetime, timedelta
from hashlib import sha1

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diana.exceptions import InvalidItem
from diana.utils.guid import GUIDGender, GUIDMint


class TestCompatibility:
    """Ids equal those of diana2."""

    @pytest.mark.parametrize("name", ["FOO^BAR^Z^^", "Foo, Bar Z", "Bar Z Foo"])
    @pytest.mark.parametrize("reference", ["2018-01-01", "1/1/2018", "January 1, 2018", date(2018, 1, 1)])
    def test_identity_from_name_and_age_is_the_known_one(self, name: str, reference: str | date) -> None:
        assert GUIDMint.get_sham_id(name, age=10, reference_date=reference) == {
            "ID": "JGHVCZSDBOFIA2QZ4H6EI43K4HAPB3IM",
            "Name": ["JACKSITS", "GENE", "H"],
            "BirthDate": date(2007, 10, 8),
            "TimeOffset": timedelta(days=-86, seconds=3040),
        }

    @pytest.mark.parametrize("dob", ["20000101", "2000-01-01", "Jan 1, 2000", date(2000, 1, 1)])
    def test_identity_from_name_and_birth_date_is_the_known_one(self, dob: str | date) -> None:
        sham = GUIDMint.get_sham_id("FOOABC^BAR^Z", dob)
        assert sham["ID"] == "NTE3OTYH32XNES3LPNKR2U6CVOCZXDIL"
        assert sham["Name"] == ["NADERMAN", "TRACY", "E"]
        assert sham["BirthDate"] == date(1999, 10, 9)
        assert sham["TimeOffset"] == timedelta(days=-84, seconds=902)

    def test_key_is_name_birth_date_and_sex(self) -> None:
        hashed, born = GUIDMint.get_hash("Bar^Foo", dob=date(1970, 5, 6), gender=GUIDGender.FEMALE)
        assert born == date(1970, 5, 6)
        assert hashed.hexdigest() == sha1(b"bar-foo|1970-05-06|F").hexdigest()

    def test_age_counts_365_and_a_quarter_days_a_year_without_fraction(self) -> None:
        _, born = GUIDMint.get_hash("A", age=1, reference_date=date(2001, 1, 1))
        assert born == date(2001, 1, 1) - timedelta(days=365)

    def test_reference_datetime_puts_its_time_into_the_key(self) -> None:
        hashed, born = GUIDMint.get_hash("A", age=1, reference_date=datetime(2001, 1, 1))
        assert born == datetime(2000, 1, 1, 18)
        assert hashed.hexdigest() == sha1(b"a|2000-01-01T18:00:00|U").hexdigest()

    def test_number_as_name_is_its_text(self) -> None:
        assert GUIDMint.get_hash(0.25, dob=date(2000, 1, 1))[0].hexdigest() == sha1(b"0-25|2000-01-01|U").hexdigest()

    @pytest.mark.parametrize(
        ("word", "letter"),
        [("F", "F"), ("female", "F"), ("m", "M"), ("Male", "M"), ("O", "U"), ("", "U"), (None, "U"), ("U", "U")],
    )
    def test_sex_is_the_first_letter(self, word: str | None, letter: str) -> None:
        sham = GUIDMint.get_sham_id("A", "20000101", gender=word)
        assert sham == GUIDMint.get_sham_id("A", "20000101", gender=GUIDGender(letter))

    def test_id_is_rehashed_until_it_begins_with_three_letters(self) -> None:
        digits = next(h for h in (sha1(str(n).encode()) for n in range(1000)) if _base32_digits(h.digest()) >= 1)
        sham = GUIDMint.get_id(digits)
        assert len(sham) == 32
        assert sham[:3].isalpha()
        assert sham == GUIDMint.get_id(sha1(digits.digest()))

    def test_banks_are_the_sorted_census_lists(self) -> None:
        assert {bank: len(names) for bank, names in GUIDMint.names.items()} == {
            "last": 88799,
            "female": 4275,
            "male": 1219,
        }
        assert all(list(names) == sorted(names) and names[0].isupper() for names in GUIDMint.names.values())

    def test_every_initial_has_names(self) -> None:
        for letter in string.ascii_uppercase:
            for sex in GUIDGender:
                last, first, middle = GUIDMint.get_name(letter * 3 + "2" * 29, sex)
                assert (last[0], first[0], middle) == (letter,) * 3

    def test_unknown_sex_gets_the_male_name(self) -> None:
        sham = "ABC" + "D" * 29
        assert GUIDMint.get_name(sham) == GUIDMint.get_name(sham, GUIDGender.MALE)
        assert GUIDMint.get_name(sham)[1] in GUIDMint.names["male"]
        assert GUIDMint.get_name(sham, GUIDGender.FEMALE)[1] in GUIDMint.names["female"]

    @given(st.text(alphabet="ABCDEFGH", min_size=32, max_size=32))
    def test_birth_date_moves_by_the_days_of_the_offset(self, sham: str) -> None:
        offset = GUIDMint.get_time_offset(sham)
        days = (GUIDMint.get_new_dob(sham, date(2000, 1, 1)) - date(2000, 1, 1)).days
        assert abs(days) <= 90
        assert abs(offset - timedelta(days=days)) <= timedelta(hours=1)


class TestBetterThanDiana2:
    """What was not reproducible or not distinct is."""

    def test_birth_datetime_counts_as_its_date(self) -> None:
        assert GUIDMint.get_sham_id("A", datetime(2000, 1, 1, 12)) == GUIDMint.get_sham_id("A", "20000101")

    @pytest.mark.parametrize(
        ("partial", "full"),
        [("1950", "19500101"), ("May 1950", "19500501"), ("195005", "19500501"), ("200005", "20000501")],
    )
    def test_partial_birth_date_is_the_first_day(self, partial: str, full: str) -> None:
        assert GUIDMint.get_sham_id("A", partial) == GUIDMint.get_sham_id("A", full)

    @pytest.mark.parametrize("dob", ["31 January", "12:30", "nobody knows", "9" * 30, "0" * 1000, "19501340"])
    def test_text_that_is_no_date_raises_without_the_value(self, dob: str) -> None:
        with pytest.raises(InvalidItem) as caught:
            GUIDMint.get_sham_id("A", dob)
        assert dob not in str(caught.value)

    def test_without_birth_date_and_age_the_identity_follows_from_the_name(self) -> None:
        state = random.getstate()
        sham = GUIDMint.get_sham_id("NOBODY^KNOWS")
        assert sham == GUIDMint.get_sham_id("Nobody Knows", dob="", age="", reference_date="2024-02-29")
        assert sham["ID"] != GUIDMint.get_sham_id("OTHER")["ID"]
        assert random.getstate() == state

    def test_age_without_reference_is_reproducible(self) -> None:
        assert GUIDMint.get_sham_id("A", age=40) == GUIDMint.get_sham_id("A", age=40, reference_date="2020-01-01")

    def test_age_of_zero_is_an_age(self) -> None:
        assert GUIDMint.get_hash("A", age=0, reference_date=date(2020, 2, 2))[1] == date(2020, 2, 2)

    @pytest.mark.parametrize(("text", "years"), [("40", 40), ("040Y", 40), ("006M", 0.5), (" 12y ", 12)])
    def test_age_strings_are_read(self, text: str, years: float) -> None:
        assert GUIDMint.get_sham_id("A", age=text) == GUIDMint.get_sham_id("A", age=years)

    @pytest.mark.parametrize("age", [-1, float("nan"), float("inf"), "old", "-5", 1e9])
    def test_impossible_age_raises(self, age: float | str) -> None:
        with pytest.raises(InvalidItem):
            GUIDMint.get_sham_id("A", age=age, reference_date="2020-01-01")

    def test_birth_date_at_the_edge_of_the_calendar_raises_invalid_item(self) -> None:
        shams = [letters * 8 for letters in ("ABCD", "BCDE", "CDEF", "DEFG", "EFGH", "FGHA")]
        early = next(sham for sham in shams if GUIDMint.get_time_offset(sham).days < -1)
        with pytest.raises(InvalidItem):
            GUIDMint.get_new_dob(early, date(1, 1, 1))

    @pytest.mark.parametrize("sham", ["", "AB", "A1C", "abc", "ÄÖÜ"])
    def test_name_of_what_is_no_sham_id_raises(self, sham: str) -> None:
        with pytest.raises(InvalidItem):
            GUIDMint.get_name(sham)

    def test_nothing_about_the_person_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            GUIDMint.get_sham_id("Secret^Person", gender="F")
            GUIDMint.get_sham_id("Secret^Person", age=71)
        assert "ecret" not in caplog.text
        assert "71" not in caplog.text


class TestNames:
    """Names of any script are told apart, and ways to write one name are not."""

    def test_non_latin_names_are_distinct(self) -> None:
        names = ["王^小东", "山田^太郎", "Иванов^Иван", "Петров^Пётр", "김^희중", "محمد", "Łukasz", "Lukasz", "ukasz"]
        assert len({_id(name) for name in names}) == len(names)

    @pytest.mark.parametrize("name", ["José^Núñez", "Пётр^Ё", "김^희중", "Ångström"])
    def test_composed_and_decomposed_letters_are_the_same(self, name: str) -> None:
        assert _id(unicodedata.normalize("NFC", name)) == _id(unicodedata.normalize("NFD", name))

    def test_accents_do_not_split_words(self) -> None:
        assert _id("Núñez^José") == _id("JOSE NUNEZ")

    def test_order_and_case_do_not_matter_in_any_script(self) -> None:
        assert _id("ИВАНОВ^ИВАН") == _id("иван, иванов")

    @pytest.mark.parametrize("separator", ["^", " ", ",", "'", "-", "\u2019", "\u00a0", "\u2013"])
    def test_punctuation_separates_words_as_before(self, separator: str) -> None:
        assert _id(f"O{separator}Brien") == _id("Brien^O")

    def test_plain_alphabetic_group_keeps_the_known_id(self) -> None:
        assert _id("Yamada^Tarou=山田^太郎=やまだ^たろう") == _id("Yamada^Tarou")

    @given(st.text(), st.text())
    def test_identity_is_reproducible_for_any_text(self, name: str, more: str) -> None:
        assert _id(name) == _id(name)
        assert len(_id(name + more)) == 32

    @given(st.text(alphabet=string.ascii_letters + string.digits + string.punctuation + " "))
    def test_plain_text_has_the_plain_key(self, name: str) -> None:
        words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
        key = f"{'-'.join(sorted(words))}|2000-01-01|U"
        hashed, _ = GUIDMint.get_hash(name, dob=date(2000, 1, 1))
        assert hashed.hexdigest() == sha1(key.encode()).hexdigest()


def _id(name: str) -> str:
    return GUIDMint.get_sham_id(name, "20000101")["ID"]


def _base32_digits(digest: bytes) -> int:
    import base64

    return sum(c.isdigit() for c in base64.b32encode(digest).decode()[:3])
