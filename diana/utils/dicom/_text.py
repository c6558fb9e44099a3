"""Turn raw element values into text the way pydicom understands them (PS3.5 6.1, 6.2)."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import iter_unpack
from typing import Final

from diana.exceptions import InvalidItem
from diana.utils.dicom.dictionary import entry_of, keyword_of, tag_of
from diana.utils.lazy import parent_first

LATIN: Final = "latin-1"
PADDING: Final = " \0"

TEXT_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))  # these obey Specific Character Set
LATIN_SETS: Final = frozenset(("", "ISO_IR 6", "ISO_IR 100", "ISO 2022 IR 6", "ISO 2022 IR 100"))
_PLAIN_VRS: Final = frozenset(("AS", "CS", "DA", "DT", "TM", "UI", "UR"))  # only the end of the whole value is padding
_ESCAPE: Final = b"\x1b"
_STAND_ALONE: Final = frozenset(("ISO_IR 192", "GBK", "GB18030"))
_OWN_ESCAPES: Final = frozenset(("iso2022_jp", "iso2022_jp_2", "iso_ir_58"))  # Python's codecs read the sequences
_DELIMITER: Final = re.compile(rb"[\t\n\f\r]")
_NUMBERS: Final[Mapping[str, str]] = {
    "SS": "h",
    "US": "H",
    "SL": "i",
    "UL": "I",
    "SV": "q",
    "UV": "Q",
    "FL": "f",
    "FD": "d",
}


def value(vr: str, data: bytes, charset: Sequence[str], *, big: bool) -> str | None:
    """
    Return a value as text, None when it is bytes, a sequence, or numbers of a wrong length.

    ``charset`` are Python codecs, the first for what no escape sequence selects; only text VRs need them.
    """
    if vr in _PLAIN_VRS:
        return data.decode(LATIN).rstrip(PADDING)
    if vr in TEXT_VRS:
        return _text(vr, data, charset)
    if vr in ("IS", "DS", "AE"):
        return "\\".join([part.strip(PADDING) for part in data.decode(LATIN).split("\\")])
    return _numbers(vr, data, big)


def _numbers(vr: str, data: bytes, big: bool) -> str | None:
    if not data:
        return "" if vr in _NUMBERS or vr == "AT" else None
    mark = ">" if big else "<"
    if vr == "AT" and len(data) % 4 == 0:
        return "\\".join([f"{group:04X}{number:04X}" for group, number in iter_unpack(mark + "HH", data)])
    letter = _NUMBERS.get(vr)
    if letter is None or len(data) % {"h": 2, "H": 2, "i": 4, "I": 4, "f": 4}.get(letter, 8):
        return None
    return "\\".join([str(number) for (number,) in iter_unpack(mark + letter, data)])


def _text(vr: str, data: bytes, charset: Sequence[str]) -> str:
    text = data.decode(LATIN).rstrip(PADDING)
    if not (text.isascii() and text.isprintable()):
        text = decode(text.encode(LATIN), charset).rstrip(PADDING)
    if vr == "PN":
        if "=" in text:
            text = "\\".join([name.rstrip("=") for name in text.split("\\")])
    elif "\\" in text and vr in ("LO", "SH", "UC"):
        text = "\\".join([part.rstrip(PADDING) for part in text.split("\\")])
    return text


def decode(data: bytes, charset: Sequence[str]) -> str:
    """Decode bytes with code extensions (PS3.5 6.1.2.5); what cannot be decoded becomes U+FFFD."""
    if _ESCAPE not in data:
        return data.decode(charset[0], "replace")
    return "".join([_fragment(part, charset) for part in re.findall(rb"^[^\x1b]+|\x1b[^\x1b]*", data)])


def _fragment(data: bytes, charset: Sequence[str]) -> str:
    first = charset[0]
    if not data.startswith(_ESCAPE):
        return data.decode(first, "replace")
    parent_first("pydicom")
    from pydicom.charset import CODES_TO_ENCODINGS, default_encoding

    escape = data[: 4 if data.startswith((b"\x1b$(", b"\x1b$)")) else 3]
    codec = CODES_TO_ENCODINGS.get(escape, "")
    if codec != default_encoding and (not codec or codec not in charset):
        return data.decode(first, "replace")
    try:
        if codec in _OWN_ESCAPES:
            return data.decode(codec)
        data = data[len(escape) :]
        end = _DELIMITER.search(data)
        cut = end.start() if end else len(data)
        return data[:cut].decode(codec) + data[cut:].decode(first)
    except UnicodeError:
        return (escape + data).decode(first, "replace")


@lru_cache(maxsize=32)
def codecs_of(charset: str) -> tuple[str, ...]:
    """Return the Python codecs for a Specific Character Set (PS3.3 C.12.1.1.2); what is unknown is Latin-1."""
    if charset in LATIN_SETS:
        return (LATIN,)
    if charset == "ISO_IR 192":
        return ("utf-8",)
    names = [name.strip(PADDING) for name in charset.split("\\")]
    if names[0] in _STAND_ALONE:
        names = names[:1]
    names = names[:1] + [name for name in names[1:] if name not in _STAND_ALONE]
    return tuple([_codec(name) for name in names])


def _codec(name: str) -> str:
    parent_first("pydicom")
    from pydicom.charset import default_encoding, python_encoding

    if re.match("ISO[^_]IR", name):
        name = "ISO_IR" + name[6:]
    elif re.match("ISO.2022.IR.", name):
        name = "ISO 2022 IR " + name[12:]
    codec = python_encoding.get(name, name)
    if codec == default_encoding:
        return LATIN
    try:
        return codec if codecs.lookup(codec)._is_text_encoding else LATIN
    except (LookupError, ValueError):
        return LATIN


def look_up(tag: str | int) -> tuple[int, str, str]:
    """Return number, name and VR of a tag given by keyword, number or eight hexadecimal digits. Raises InvalidItem."""
    number = tag if isinstance(tag, int) else tag_of(tag)
    if number is None and re.fullmatch("[0-9A-Fa-f]{8}", str(tag)):
        number = int(str(tag), 16)
    if number is None or not 0 <= number <= 0xFFFFFFFF:
        raise InvalidItem(f"no DICOM keyword or tag {tag!r}")
    found = entry_of(number)
    return number, keyword_of(number) or f"{number:08X}", found.vr if found else ""


def private_vr(tag: int, creator: str) -> str:
    """Return the VR of a private element that pydicom's private dictionary knows, else an empty string."""
    parent_first("pydicom")
    from pydicom.datadict import private_dictionary_VR

    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return ""
