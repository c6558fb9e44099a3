"""The radiologist's report of a study."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from attrs import field, frozen

from diana.exceptions import InvalidItem

_PHONE = r"(?<![\w.])(?:\+?[0-9]{1,3}[ .-]?)?(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}(?![\w.])"
_DATE = r"\b(?:[0-9]{1,2}[/.-][0-9]{1,2}[/.-](?:[0-9]{4}|[0-9]{2})|[0-9]{4}-[0-9]{2}-[0-9]{2})\b"
_LABEL = (
    r"(?im)^([ \t]*(?:patient(?:'s)?(?: name)?|name|mrn|medical record(?: number)?|patient id|dob|date of birth"
    r"|accession(?: number| #)?|referring physician|ordering physician)[ \t]*[:#])[^\n]*$"
)
_SIGNED = r"(?im)^([ \t]*(?:electronically signed by|signed by|dictated by|read by|attending)\b[ \t]*:?)[^\n]*$"

DEFAULT_PATTERNS: tuple[tuple[str, str], ...] = (
    (_LABEL, r"\1 [removed]"),
    (_SIGNED, r"\1 [removed]"),
    (_PHONE, "[phone]"),
    (_DATE, "[date]"),
)

_RADCAT = re.compile(r"(?i)\bRADCAT[ \t]*(?:grade|category|code|score)?[ \t]*[:=#-]?[ \t]*(?:RADCAT[ \t]*)?([0-5])\b")

_LUNGRADS = re.compile(
    r"(?i)\bLung[ \t-]?RADS[ \t]*(?:version[ \t]*[0-9.]+)?[ \t]*(?:category|score)?"
    r"[ \t]*[:=#-]?[ \t]*([0-4][ABX]?)S?\b"
)


def _as_text(text: str | None) -> str:
    return (text or "").replace("\r\n", "\n").replace("\r", "\n")


@frozen
class RadiologyReport:
    """Hold the text of a report, lines separated by LF; the text is never part of the ``repr``."""

    text: str = field(default="", converter=_as_text, repr=False)

    def __str__(self) -> str:
        return self.text

    def anonymized(
        self,
        names: Iterable[str] = (),
        patterns: Sequence[tuple[str, str]] = DEFAULT_PATTERNS,
    ) -> str:
        """
        Return the text without what identifies the patient, ending in LF.

        ``patterns`` are regular expressions with their replacement, applied in order. The usual ones clear what
        stands behind labels such as "Patient:" or "Signed by", phone numbers and dates; whole lines are never removed.
        ``names`` are words or DICOM names (``LAST^FIRST``) that are replaced wherever they occur, in any case. Free
        text can name a patient in ways that no pattern knows: give the names, and read what leaves the house.
        """
        text = self.text
        for pattern, replacement in patterns:
            text = re.sub(pattern, replacement, text)
        words = {word for name in names for word in re.split(r"[\^=,\s]+", name) if len(word) > 1}
        if words:
            any_word = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
            text = re.sub(rf"(?i)(?<!\w)(?:{any_word})(?!\w)", "[name]", text)
        return text.strip() + "\n"

    def radcat(self) -> tuple[str, bool]:
        """
        Return the highest RADCAT category as a digit, and whether a category 3 occurs anywhere.

        Raises InvalidItem when the report names none.
        """
        found = _RADCAT.findall(self.text)
        if not found:
            raise InvalidItem("the report names no RADCAT category")
        return max(found), "3" in found

    def lungrads(self) -> str:
        """Return the highest Lung-RADS category, such as ``2`` or ``4A``. Raises InvalidItem when there is none."""
        found: list[str] = [one.upper() for one in _LUNGRADS.findall(self.text)]
        if not found:
            raise InvalidItem("the report names no Lung-RADS category")
        return max(found)
