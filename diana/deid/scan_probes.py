"""What is looked for in an output, made from the values of its input."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import permutations
from typing import Final, NamedTuple

from diana.deid.scan_words import (
    SHORTEST_WORD,
    date_of,
    date_spellings,
    fold,
    is_common,
    is_wide,
    spellings,
    words,
)
from diana.utils.dicom import _text
from diana.utils.dicom.dictionary import keyword_of

TEXT_VRS: Final = frozenset(("LO", "LT", "SH", "ST", "UC", "UR", "UT"))
MAX_VALUE: Final = 1 << 16
MAX_TOKENS: Final = 200
STRONG: Final = frozenset(("name", "id", "uid", "birth", "phone"))
_BIRTHS: Final = frozenset((0x00100030, 0x00100033, 0x00100034, 0x00120086, 0x00189073))
# SOP classes, transfer syntaxes, coding schemes, context groups: names of kinds, not of things
_CODING_TEXT: Final = """
00020002 00020010 00020012 00041510 00041512 00080016 0008001A 0008001B 0008010C 00080117 00080118 00081150
"""
_CODING_UIDS: Final = frozenset(int(tag, 16) for tag in _CODING_TEXT.split())
_CODECS: Final = (
    *("utf-8", "utf-16-le", "utf-16-be", "latin-1", "iso8859-2", "iso8859-3", "iso8859-4", "iso8859-5", "iso8859-6"),
    *("iso8859-7", "iso8859-8", "iso8859-9", "iso8859-13", "iso8859-15", "cp1251", "koi8-r", "tis-620", "gb18030"),
    *("big5", "shift_jis", "euc_jp", "iso2022_jp", "euc_kr"),
)
_ESCAPES: Final = re.compile(rb"\x1b[$(),\-.]{1,2}[@-~0-9]?")
_KINDS: Final = (
    ("phone", re.compile(r"Telephone|Telecom|Phone")),
    ("address", re.compile(r"Address|Residence|Location")),
    ("institution", re.compile(r"Institution|Department|Organization|Facility|Station|Issuer|Authority|AETitle")),
    ("id", re.compile(r"(IDs?|Identifiers?|Number|Locator|Barcode|Label)\Z")),
)
_MAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,32}){1,4}")
_PHONE: Final = re.compile(r"\+?[0-9(][0-9() ./-]{6,24}[0-9]")
_DIGITS: Final = re.compile(r"[0-9]{6,}")
_TELLING: Final = re.compile(r"(?=[\w-]{0,40}[0-9])(?=[\w-]{0,40}[^\W\d_])[\w-]{7,64}")
_DATE_TEXT: Final = re.compile(r"(?<![0-9])(?:19|20)[0-9]{2}[-./]?(?:0[1-9]|1[0-2])[-./]?(?:[0-2][0-9]|3[01])(?![0-9])")


class Probe(NamedTuple):
    """
    Hold one thing to look for.

    ``text`` is folded, ``needle`` its bytes in lower case in one encoding, ``gate`` a part of these that many share.
    ``how``: ``word`` stands alone, ``part`` may be in a longer word, ``uid`` is not in a longer UID, ``date`` counts in
    a date only under its own tag, ``same`` only as the whole value of its own tag. What is ``weak`` does not count
    where devices write their own words. ``exact`` needles are compared with upper and lower case.
    """

    kind: str
    text: str
    how: str
    weak: bool
    needle: bytes
    gate: bytes
    exact: bool = False


Gated = tuple[tuple[bytes, tuple[Probe, ...]], ...]


class Probes(NamedTuple):
    """Hold the probes of one value by their gates, apart those that compare case, and those that need their own tag."""

    plain: Gated
    exact: Gated
    own: tuple[tuple[str, str], ...]
    gates: frozenset[bytes]


@lru_cache(maxsize=16384)
def kind_of(tag: int, vr: str) -> str:
    """
    Return what the value of an element may tell about a person, or an empty text.

    One of name, id, uid, birth, date, phone, address, institution, text. Times, ages, codes and numbers are too short
    to be told from others, and have none.
    """
    if vr == "PN":
        return "name"
    if vr == "UI":
        return "" if tag in _CODING_UIDS else "uid"
    if vr in ("DA", "DT"):
        return "birth" if tag in _BIRTHS else "date"
    if vr == "AE":
        return "institution"
    if vr not in TEXT_VRS and vr != "UN":
        return ""
    if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
        return ""  # the creator of a private block names who made a device's software
    if tag >> 16 & 1 or vr == "UN":
        return "text"
    keyword = keyword_of(tag)
    return next((kind for kind, pattern in _KINDS if pattern.search(keyword)), "text")


@lru_cache(maxsize=8192)
def probes_of(kind: str, raw: bytes, charset: str) -> Probes:
    """
    Return what to look for because of a value of the input; ``charset`` is its Specific Character Set.

    The same value gives the same result, which is remembered.
    """
    raw = raw[:MAX_VALUE]
    text = decoded(raw, charset)
    found = dict.fromkeys(_MAKERS[kind](text))
    probes = [probe for one in found for probe in _encoded(one, charset)]
    if kind in ("name", "id"):
        probes += _disguised(kind, raw.strip(b" \0"))
        if not raw.isascii():
            probes += _raw_probes(kind, raw)
    own = dict.fromkeys((one.kind, one.text) for one in probes if one.how in ("date", "same"))
    plain = _gated(probes, exact=False)
    return Probes(plain, _gated(probes, exact=True), tuple(own), frozenset(gate for gate, _ in plain))


def _gated(probes: Iterable[Probe], *, exact: bool) -> Gated:
    found: dict[bytes, dict[Probe, None]] = {}
    for probe in probes:
        if probe.exact == exact:
            found.setdefault(probe.gate, {})[probe] = None
    return tuple((gate, tuple(held)) for gate, held in found.items())


def decoded(raw: bytes, charset: str) -> str:
    """Return bytes as text, by their character set."""
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii").strip(" \0")
    return _text.decode(raw, _text.codecs_of(charset)).strip(" \0")


_Found = tuple[str, str, str, bool]  # kind, text, how, weak


def _encoded(found: _Found, charset: str) -> Iterator[Probe]:
    kind, text, how, weak = found
    if text.isascii():
        needle = text.encode("ascii")
        yield Probe(kind, text, how, weak, needle, needle[:12] if how == "uid" else _date_gate(kind, text, needle))
        return
    folded = fold(text)
    for needle in _needles(text, charset):
        yield Probe(kind, folded, how, weak, needle, needle)


def _date_gate(kind: str, text: str, needle: bytes) -> bytes:
    """Return the year of a spelled date: where it does not occur, no spelling does."""
    if kind not in ("date", "birth") or text.isdigit():
        return needle
    year = re.search(r"[0-9]{4}", text)
    return year[0].encode() if year else needle[-3:]


def _needles(text: str, charset: str) -> Iterator[bytes]:
    forms = dict.fromkeys((text, text.lower(), text.upper(), text.title(), text.capitalize()))
    seen = set()
    for codec in (*_CODECS, *_text.codecs_of(charset)):
        for form in forms:
            try:
                needle = _ESCAPES.sub(b"", form.encode(codec)).lower()
            except (UnicodeError, LookupError):
                continue
            if len(needle) >= SHORTEST_WORD and needle not in seen:
                seen.add(needle)
                yield needle


def _raw_probes(kind: str, raw: bytes) -> Iterator[Probe]:
    """Yield the parts of a value as they stand in the input, for bytes that no known character set explains."""
    for part in re.split(rb"[\\^= ,]+", _ESCAPES.sub(b"", raw).strip(b" \0")):
        if len(part) >= SHORTEST_WORD and not part.isascii():
            yield Probe(kind, "", "part", False, part.lower(), part.lower())


def _disguised(kind: str, raw: bytes) -> Iterator[Probe]:
    """Yield base64, hexadecimal and keyless hashes of a whole value."""
    if len(raw) < 6:
        return
    for shift in range(3):
        code = b64encode(bytes(shift) + raw).rstrip(b"=")
        needle = code[(0, 2, 3)[shift] : len(code) - (0 if (len(raw) + shift) % 3 == 0 else 1)]
        yield Probe(kind, "", "part", False, needle, needle, exact=True)
    for digest in ("md5", "sha1", "sha256"):
        needle = hashlib.new(digest, raw, usedforsecurity=False).hexdigest().encode()
        yield Probe("hash", "", "part", False, needle, needle)
    needle = raw.hex().encode()
    yield Probe(kind, "", "part", False, needle, needle)


def _components(text: str) -> Iterable[str]:
    return (part.strip() for part in text.split("\\") if part.strip())


def _names(text: str) -> Iterator[_Found]:
    for group in re.split(r"[\\=]", text):
        parts = [word for component in group.split("^") for word in words(component)]
        short = []
        for part in parts:
            folded = fold(part)
            if _tells(folded):
                yield from (("name", form, "part" if len(form) >= 8 else "word", False) for form in spellings(part))
            elif len(part) > 1 or is_wide(part):
                short.append(part.lower())
        yield from _pairs(short[:6])
        if len(parts) == 1 and len(short) == 1:
            yield "name", short[0], "same", False


def _tells(folded: str) -> bool:
    if is_wide(folded):
        return len(folded) >= 2
    return len(folded) >= SHORTEST_WORD and not folded.isdigit() and not is_common(folded)


def _pairs(short: list[str]) -> Iterator[_Found]:
    """Yield short or common names in the orders and with the separators in which two of them may stand."""
    for first, second in permutations(short, 2):
        weak = is_common(fold(first)) and is_common(fold(second))
        marks = ("", " ", "^", "　") if is_wide(first + second) else (" ", "^", ", ", ",", "_", ".", "-")
        for mark in marks:
            yield "name", first + mark + second, "word", weak


def _ids(text: str, kind: str = "id") -> Iterator[_Found]:
    for value in _components(text):
        lower = value.lower()
        compact = re.sub(r"[\W_]+", "", lower)
        varied = len(set(compact)) > 2
        if len(compact) < SHORTEST_WORD or not varied:
            yield kind, lower, "same", False
        elif _ordinary(compact, lower):
            yield kind, lower, "word", True
        else:
            how = "part" if len(compact) >= 6 else "word"
            yield kind, lower, how, False
            if compact != lower and how == "part":
                yield kind, compact, how, False
            yield from ((kind, core, how, False) for core in _DIGITS.findall(lower) if len(set(core)) > 2)


def _ordinary(compact: str, text: str) -> bool:
    """Tell whether an id is a short number, or a word that may stand anywhere."""
    if len(compact) < 6:
        return compact.isdigit() or compact.isalpha()
    return compact.isalpha() and all(is_common(fold(word)) for word in words(text))


def _uids(text: str) -> Iterator[_Found]:
    for value in _components(text):
        if "." in value and len(value) >= 8 and not value.startswith("1.2.840.10008."):
            yield "uid", value, "uid", False
        elif len(value) >= 6 and not value.startswith("1.2.840.10008"):
            yield "uid", value, "same", False


def _dates(text: str, kind: str = "date") -> Iterator[_Found]:
    for value in _components(text):
        found = date_of(value)
        if found is None:
            if len(re.sub(r"\W", "", value)) >= 6:
                yield kind, value.lower(), "date", False
            continue
        first, *others = date_spellings(found)
        yield kind, first, kind, False
        yield from ((kind, one, "word", False) for one in others)


def _births(text: str) -> Iterator[_Found]:
    return _dates(text, "birth")


def _phones(text: str) -> Iterator[_Found]:
    for value in _components(text):
        digits = re.sub(r"[^0-9]", "", value)
        if len(digits) < 7:
            yield from _free(value)
            continue
        yield "phone", value.lower(), "part", False
        if len(set(digits)) > 2:
            yield "phone", digits, "part", False
            if len(digits) >= 10:
                end = digits[-10:]
                for mark in "-. ":
                    yield "phone", mark.join((end[:3], end[3:6], end[6:])), "part", False


def _addresses(text: str) -> Iterator[_Found]:
    for value in re.split(r"[\\^\n\r;]", text):
        yield from _phrase(value, "address", 6)
    yield from _free(text)


def _institutions(text: str) -> Iterator[_Found]:
    for value in _components(text):
        yield from _phrase(value, "institution", 5)


def _phrase(value: str, kind: str, shortest: int) -> Iterator[_Found]:
    """Yield a value of several words as a whole, when not all of them are common."""
    parts = [fold(word) for word in words(value)]
    if sum(map(len, parts)) < shortest or all(is_common(word) or len(word) < SHORTEST_WORD for word in parts):
        return
    yield kind, value.strip().lower(), "word", True


def _free(text: str) -> Iterator[_Found]:
    """Yield what identifies in free text: addresses of mail, phones, dates, numbers, mixed words, the whole text."""
    found: dict[_Found, None] = {}
    for mail in _MAIL.findall(text):
        found["phone", mail.lower(), "part", False] = None
    for date in _DATE_TEXT.findall(text):
        found.update(dict.fromkeys(_dates(date)))
    for number in _PHONE.findall(text):
        found["text", number.lower().strip(), "part", False] = None
    for token in (*_DIGITS.findall(text), *_TELLING.findall(text)):
        if len(set(token)) > 3 and not (token.isdigit() and date_of(token)):
            found["text", token.lower(), "part", True] = None
    for name in re.findall(r"[^\W\d_]{2,40}(?:\^[^\W\d_]{1,40}){1,3}", text):
        found.update(dict.fromkeys(_names(name)))
    yield from list(found)[:MAX_TOKENS]
    line = text.strip()
    if 12 <= len(line) <= 1024 and sum(not is_common(fold(word)) for word in words(line) if len(word) > 3) >= 2:
        yield "text", line.lower(), "part", True


_MAKERS: Final = {
    "name": _names,
    "id": _ids,
    "uid": _uids,
    "date": _dates,
    "birth": _births,
    "phone": _phones,
    "address": _addresses,
    "institution": _institutions,
    "text": _free,
}
