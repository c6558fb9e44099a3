"""Make new values from raw ones: dummies, UIDs, tokens; all in ASCII, which every character set holds."""

from __future__ import annotations

import re
import struct
from base64 import b32encode
from typing import TYPE_CHECKING, Final

from diana.deid.pseudonyms import new_uid
from diana.deid.raw import NUMBER_SIZES
from diana.utils.dicom import _text

if TYPE_CHECKING:
    from diana.deid.key import Key

DUMMY: Final = b"ANONYMIZED"
DUMMIES: Final = {
    "AS": b"050Y",
    "DA": b"20000101",
    "DS": b"0",
    "DT": b"20000101000000",
    "IS": b"0",
    "TM": b"000000",
    "UI": b"2.25.0",
    "UR": b"urn:anonymized",
}
_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_TERMS: Final = {0x00100040: b"O", 0x00102203: b"ALTERED", 0x04000565: b"CORRECT", 0x00200060: b"L"}
_PADDING: Final = b" \0"
_OWN: Final = frozenset((DUMMY, DUMMIES["UI"], DUMMIES["UR"].upper()))
_IN_NAME: Final = re.compile(rb"(?i)(?<![a-z0-9])%b(?![a-z0-9])" % DUMMY)


def dummy(tag: int, vr: str, length: int) -> bytes:
    """Return a value that fits the VR and tells nothing; numbers and bytes become zeros, at least one."""
    if vr == "CS":
        return _TERMS.get(tag, DUMMY)
    if vr in DUMMIES:
        return DUMMIES[vr]
    size = NUMBER_SIZES.get(vr)
    if size:
        return bytes(min(max(length - length % size, size), 1 << 20))
    if vr in ("OB", "OW", "UN", "", "??"):
        return bytes(2)
    return DUMMY


def telling(vr: str, value: bytes) -> bytes:
    """Return what a value of an input may tell about somebody: without the texts that ``dummy`` gives."""
    if vr == "PN":
        return _IN_NAME.sub(b"", value)
    if vr == "UI" or DUMMY in value.upper():
        return b"\\".join(part for part in value.split(b"\\") if part.strip(_PADDING).upper() not in _OWN)
    return value


def literal(vr: str, text: str, charset: str, *, big: bool) -> bytes | None:
    """Return a text of a recipe as a value; None for a VR that takes no text, or a number that does not fit."""
    form = _NUMBERS.get(vr)
    if form is not None:
        try:
            numbers = [float(part) if form in "fd" else int(part) for part in text.split("\\")]
            return struct.pack(f"{'>' if big else '<'}{len(numbers)}{form}", *numbers)
        except (ValueError, struct.error):
            return None
    if vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN", "AT", "", "??"):
        return None
    for codec in (*_text.codecs_of(charset)[:1], "ascii"):
        try:
            return text.encode(codec)
        except UnicodeError:
            continue
    return text.encode("ascii", "replace")


class Uids:
    """Map UIDs, remembering those of one object."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._known: dict[bytes, bytes] = {}

    def mapped(self, value: bytes) -> bytes:
        """Return a UI value with each UID replaced; several stay apart, those of the standard stay as they are."""
        found = self._known.get(value)
        if found is None:
            found = b"\\".join(self._one(part.strip(_PADDING)) for part in value.split(b"\\"))
            self._known[value] = found
        return found

    def _one(self, uid: bytes) -> bytes:
        return new_uid(self._key, uid.decode("latin-1")).encode("latin-1")


def token(key: Key, tag: int, value: bytes, length: int = 10) -> bytes:
    """Return a keyed token for a value; equal values of an attribute get equal tokens."""
    mark = key.mac("token", f"{tag:08X}", value.strip(_PADDING).decode("latin-1"))
    return b32encode(mark)[:length]
