"""How identifiers are spelled: folding, parts of names, dates in their usual notations, and words that say nothing."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from diana.utils.dicom.dictionary import entries

SHORTEST_WORD: Final = 4
_GERMAN: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae", "œ": "oe"})
_PLAIN: Final = str.maketrans({"ø": "o", "đ": "d", "ł": "l", "\u0131": "i", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th"})
_SPLIT: Final = re.compile(r"[\W_]+")
_NUMERIC_DATE: Final = re.compile(r"\s*(\d{4})[.\-/ ]?(\d{2})[.\-/ ]?(\d{2})")
_MONTHS: Final = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_MONATE: Final = (
    "januar", "februar", "märz", "april", "mai", "juni",
    "juli", "august", "september", "oktober", "november", "dezember",
)  # fmt: skip

# words that occur as names of persons or places and, far more often, in what a device writes
_COMMON_TEXT: Final = """
    abdomen acute adult after angio ankle anon anonym anonymous anonymized arms arterial artery autumn axial back bank
    baby base bass before bell belly best bird bishop black blue body bone bones book bottom bowl brain breast bright
    brown brook camp care carpenter case cash castle center central cervical chan chest child clean clear coil cold
    contrast cook cool cord core coronal cross daily data date dead deep delay dental device diffusion digital doctor
    dose double doppler drive dual dummy early east echo elbow empty english exam extremity face fast fell female field
    file film filter fine finger first fish fisher flair fluid fluoro foot force ford forest foster frame free french
    front full gain gate german general glass gold good grand grant gray great green grey group half hall hand hard
    head heart heel helical help high hill hilt home horn hospital house hunter image imaging index inverse iron jaw
    jean joint kidney king knee lake lane large late lateral left lens level light limb line liver local long lord loss
    low lower lumbar lung major male mammo marker marsh mask mass mean medical medicine middle minor miss mode model
    moon more most motion mouth mucke name navel neck neutral night noble none norm normal north nose null oblique
    open organ orient orthanc page park part pass patient peak pelvis perfusion person phantom phase phone pilot plain
    plane plate point pool portal post power price prior probe profile prone protocol pulmonary pulse quick radiology
    rapid ready rest result rice rich right ring ring rise river road rock root rose round routine royal sagittal
    sample scan scanner scout screen second secret section sense series service sharp shoulder side sign signal
    single skull slice slim slow small smooth snow soft space spin spine spring stable stand standard star station
    steel stern stone strong student study subject summer sunday sunset super supine sure swift table tall test
    testing third thorax thumb tissue toes topogram total trauma tree true trunk type ultra under unknown unit upper
    user value valve vein venous view vision volume wall ward water wave weight west white wide wild winter wise wolf
    wood word work wrist xray yellow young zero zoom
    """
_COMMON: Final = frozenset(_COMMON_TEXT.split())


def fold(text: str) -> str:
    """Return text without case, accents and compatibility forms, as it is compared."""
    if text.isascii():
        return text.lower()
    flat = "".join(one for one in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(one))
    return unicodedata.normalize("NFC", flat).translate(_PLAIN)


def spellings(text: str) -> set[str]:
    """Return a text in lower case as it may be spelled: as it is, without accents, with two letters for an umlaut."""
    lower = unicodedata.normalize("NFC", text.casefold())
    if lower.isascii():
        return {lower}
    return {lower, unicodedata.normalize("NFC", text.lower()), fold(text), fold(lower.translate(_GERMAN))}


def words(text: str) -> list[str]:
    """Return the runs of letters, with the marks on them, and digits in a text."""
    if text.isascii():
        return [one for one in _SPLIT.split(text) if one]
    return "".join(one if one.isalnum() or unicodedata.category(one)[0] == "M" else " " for one in text).split()


@lru_cache(maxsize=1)
def _dictionary() -> frozenset[str]:
    """Return the words of the names of DICOM attributes."""
    names = {one.name for one in entries().values()}
    return frozenset(word.lower() for name in names for word in re.findall("[A-Za-z]{3,}", name))


@lru_cache(maxsize=8192)
def is_common(word: str) -> bool:
    """Tell whether a folded word says nothing about a person: one of imaging, of DICOM, or of everyday English."""
    if word in _COMMON:
        return True
    plural = word[:-1] if word.endswith("s") else word
    return plural in _COMMON or word in _dictionary() or plural in _dictionary()


def is_wide(text: str) -> bool:
    """Tell whether a text is in a script where two characters can be a whole name (Han, Hangul, Kana)."""
    return any("⺀" <= one <= "퟿" or "豈" <= one <= "﫿" or "ｦ" <= one <= "ﾟ" for one in text)


def date_of(text: str) -> dt.date | None:
    """Return the date at the start of a DA or DT, also with dots or hyphens; None when it is none."""
    found = _NUMERIC_DATE.match(text)
    try:
        return dt.date(int(found[1]), int(found[2]), int(found[3])) if found else None
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def date_spellings(date: dt.date) -> tuple[str, ...]:
    """Return how a date is usually written, in lower case; YYYYMMDD is the first."""
    return tuple(dict.fromkeys(_spelled(date)))


def _spelled(date: dt.date) -> Iterator[str]:
    year, month, day = f"{date.year:04}", f"{date.month:02}", f"{date.day:02}"
    yield year + month + day
    for mark in "-./":
        yield mark.join((year, month, day))
        for first, second in ((day, month), (month, day), (str(date.day), str(date.month))):
            yield mark.join((first, second, year))
            if date.day > 12 or mark != "-":
                yield mark.join((first, second, year[2:]))
        yield mark.join((str(date.month), str(date.day), year))
    yield day + month + year
    english, german = _MONTHS[date.month - 1], _MONATE[date.month - 1]
    for name in dict.fromkeys((english, english[:3], german, german[:3])):
        for number in dict.fromkeys((str(date.day), day)):
            for form in ("{n} {m} {y}", "{n}. {m} {y}", "{n}-{m}-{y}", "{n}{m}{y}", "{m} {n}, {y}", "{m} {n} {y}"):
                yield form.format(n=number, m=name, y=year)
