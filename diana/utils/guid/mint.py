"""
Mint pseudo-identities that follow from a name, a birth date and a sex alone.

The mint has no key: whoever can guess a person's name and birth date can compute the sham id and so confirm the guess.
Use it for compatibility and for generated patients; de-identify with a keyed mint.
"""

from __future__ import annotations

import base64
import logging
import math
import random
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from enum import Enum
from functools import lru_cache
from hashlib import sha1
from typing import TYPE_CHECKING, ClassVar, TypedDict

from diana.exceptions import InvalidItem
from diana.utils.guid.birthdates import parse_date
from diana.utils.guid.name_key import name_key

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)

DAYS_PER_YEAR = 365.25
MAX_DAYS = 90
MAX_SECONDS = 3600
REFERENCE_DATE = date(2020, 1, 1)
UNKNOWN_AGE_DAYS = (18 * 365, 80 * 365)

_BANKS = {"last": "dist.all.last", "female": "dist.female.first", "male": "dist.male.first"}
_AGE = re.compile(r"\s*([0-9]{1,3})\s*([DWMY]?)\s*", re.IGNORECASE)
_AGE_YEARS = {"D": 1 / DAYS_PER_YEAR, "W": 7 / DAYS_PER_YEAR, "M": 1 / 12}


class GUIDGender(Enum):
    """Name the sexes that the mint tells apart; values are those of Patient's Sex (PS3.3 C.7.1.1), U for all others."""

    MALE = "M"
    FEMALE = "F"
    UNKNOWN = "U"

    @classmethod
    def from_label(cls, label: object) -> GUIDGender:
        """Return the member of a member or of a word whose first letter is M or F in any case; UNKNOWN otherwise."""
        if isinstance(label, cls):
            return label
        letter = str(label or "").strip()[:1].upper()
        return cls(letter) if letter in ("M", "F") else cls.UNKNOWN


class ShamIdentity(TypedDict):
    """Hold a pseudo-identity; ``Name`` is [last, first, middle initial]."""

    ID: str
    Name: list[str]
    BirthDate: date
    TimeOffset: timedelta


class GUIDMint:
    """
    Make reproducible pseudo-identities, without touching the global random generator.

    Ids equal those of diana2 bit for bit, except where those were not reproducible or not distinct:

    - a birth date given as a datetime counts as its date;
    - a partial birth date ("1950") is the first day of what it names;
    - an age without a reference date counts from 2020-01-01, not from today;
    - with neither birth date nor age, the birth date follows from the name, whatever the reference date;
    - an age of 0 is an age;
    - letters outside a-z count (see ``name_key``).

    The mint is unkeyed and therefore guessable. The shift of the birth date and the days of the time offset are the
    same number, so that ages stay exact and one shift reveals the other.
    """

    names: ClassVar[Mapping[str, tuple[str, ...]]]

    @classmethod
    def get_hash(
        cls,
        name: object,
        dob: date | None = None,
        age: float | None = None,
        reference_date: date | None = None,
        gender: GUIDGender | str = GUIDGender.UNKNOWN,
    ) -> tuple[_Hash, date]:
        """
        Return the SHA-1 of ``name|birth date|sex`` and the birth date.

        Use the study date as reference date for a reproducible birth date of a person of known age (in years). A
        reference date that is a datetime keeps its time, so that the time is part of the key. Raises InvalidItem when
        the birth date is out of the calendar.
        """
        key = name_key(str(name))
        born = _birth_date(key, dob, age, reference_date)
        text = "|".join((key, born.isoformat(), GUIDGender.from_label(gender).value))
        return sha1(text.encode("utf-8"), usedforsecurity=False), born

    @classmethod
    def get_id(cls, h: _Hash) -> str:
        """Return the base32 text of the digest, itself hashed again until the text begins with three letters."""
        digest = h.digest()
        while True:
            text = base64.b32encode(digest).decode("ascii")
            if text[:3].isalpha():
                return text
            digest = sha1(digest, usedforsecurity=False).digest()

    @classmethod
    def get_name(cls, id: str, gender: GUIDGender | str = GUIDGender.UNKNOWN) -> list[str]:
        """
        Return [last, first, middle] in upper case, drawn from the census names that have the initials of the id.

        Persons of unknown sex get a male first name. Raises InvalidItem when the id does not begin with three letters.
        """
        if len(id) < 3 or not (id[:3].isascii() and id[:3].isalpha() and id[:3].isupper()):
            raise InvalidItem("a sham id begins with three upper-case letters")
        rng = _rng(id)
        last = rng.choice(_candidates("last", id[0]))
        bank = "female" if GUIDGender.from_label(gender) is GUIDGender.FEMALE else "male"
        return [last, rng.choice(_candidates(bank, id[1])), id[2]]

    @classmethod
    def get_new_dob(cls, id: str, dob: date) -> date:
        """Return the birth date shifted by up to 90 days. Raises InvalidItem when that is out of the calendar."""
        rng = _rng(id)
        try:
            return dob + timedelta(days=rng.randint(-MAX_DAYS, MAX_DAYS))
        except OverflowError:
            raise InvalidItem("birth date out of range") from None

    @classmethod
    def get_time_offset(cls, id: str) -> timedelta:
        """Return the shift of the person's studies: up to 90 days, the same as the birth date's, and up to one hour."""
        rng = _rng(id)
        days = rng.randint(-MAX_DAYS, MAX_DAYS)
        return timedelta(days=days, seconds=rng.randint(-MAX_SECONDS, MAX_SECONDS))

    @classmethod
    def get_sham_id(
        cls,
        name: object,
        dob: date | str | None = None,
        age: float | str | None = None,
        reference_date: date | str | None = None,
        gender: GUIDGender | str | None = "U",
    ) -> ShamIdentity:
        """
        Return the pseudo-identity of a person.

        Dates may be text in any common form, ages a number of years or a DICOM age string ("045Y"). The birth date in
        the result is a datetime when it follows from an age and a datetime. Raises InvalidItem for text that is no date
        or no age.
        """
        sex = GUIDGender.from_label(gender)
        born = parse_date(dob, "birth date") if isinstance(dob, str) else dob
        if isinstance(reference_date, str):
            reference_date = parse_date(reference_date, "reference date")
        hashed, known = cls.get_hash(name, dob=born, age=_years(age), reference_date=reference_date, gender=sex)
        sham = cls.get_id(hashed)
        return ShamIdentity(
            ID=sham,
            Name=cls.get_name(sham, sex),
            BirthDate=cls.get_new_dob(sham, known),
            TimeOffset=cls.get_time_offset(sham),
        )


class _NameBanks(Mapping[str, tuple[str, ...]]):
    """Show the sorted census names under "last", "female" and "male", read when first used."""

    def __getitem__(self, bank: str) -> tuple[str, ...]:
        return _read_bank(_BANKS[bank])

    def __iter__(self) -> Iterator[str]:
        return iter(_BANKS)

    def __len__(self) -> int:
        return len(_BANKS)


GUIDMint.names = _NameBanks()


@lru_cache(maxsize=len(_BANKS))
def _read_bank(file_name: str) -> tuple[str, ...]:
    """Return the upper-case names of a list of the ``names`` package (US Census 1990), sorted."""
    from importlib.resources import files

    text = files("names").joinpath(file_name).read_text(encoding="ascii")
    return tuple(sorted(line.split()[0] for line in text.splitlines() if line.strip()))


@lru_cache(maxsize=26 * len(_BANKS))
def _candidates(bank: str, initial: str) -> tuple[str, ...]:
    return tuple(name for name in GUIDMint.names[bank] if name.startswith(initial))


def _rng(seed: str) -> random.Random:
    """Return a private generator whose draws follow from the seed."""
    return random.Random(seed)  # noqa: S311  # reproducible by design, never a key


def _years(age: float | str | None) -> float | None:
    """Return an age in years of a number, of a text number or of a DICOM age string (PS3.5 6.2, AS)."""
    if age is None or (isinstance(age, str) and not age.strip()):
        return None
    if not isinstance(age, str):
        return age
    match = _AGE.fullmatch(age)
    if match is None:
        raise InvalidItem("an age is a number of years or a text such as 045Y")
    unit = match[2].upper()
    return int(match[1]) if unit in ("", "Y") else int(match[1]) * _AGE_YEARS[unit]


def _birth_date(key: str, dob: date | None, age: float | None, reference_date: date | None) -> date:
    if dob:
        return dob.date() if isinstance(dob, datetime) else dob
    if age is None:
        log.info("no birth date and no age: deriving a birth date from the name")
        days = _rng(key).randint(*UNKNOWN_AGE_DAYS)
        return REFERENCE_DATE - timedelta(days=days)
    if not math.isfinite(age) or age < 0:
        raise InvalidItem("an age is a number of years, not below 0")
    if not reference_date:
        log.info("no reference date for an age: counting from %s", REFERENCE_DATE)
    try:
        return (reference_date or REFERENCE_DATE) - timedelta(days=age * DAYS_PER_YEAR)
    except OverflowError:
        raise InvalidItem("birth date out of range") from None
