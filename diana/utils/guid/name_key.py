"""Reduce the ways to write a person's name to one key."""

from __future__ import annotations

import re
import unicodedata

_SEPARATORS = re.compile("[^a-z0-9]+")


def name_key(name: str) -> str:
    """
    Return the words of a name in lower case, sorted and joined by ``-``.

    Order, case and punctuation do not matter: ``FOO^BAR^Z``, ``Foo, Bar Z`` and ``Bar Z Foo`` are one person. Only
    a-z and 0-9 make words, as in diana2, unless that would drop letters. Then, unlike diana2:

    - a DICOM name whose alphabetic group (PS3.5 6.2.1) is plain, such as ``Yamada^Tarou=...``, keeps its diana2 key;
    - accents are removed when that leaves plain letters, so ``Jose`` with and without accent is one person;
    - other names keep all their letters, compatibility forms unified (NFKC) and case folded.
    """
    if not _drops_letters(name):
        return _ascii_key(name)
    alphabetic, equals, _ = name.partition("=")
    if equals and not _drops_letters(alphabetic) and _ascii_key(alphabetic):
        return _ascii_key(name)
    decomposed = unicodedata.normalize("NFKD", name)
    plain = "".join(c for c in decomposed if not unicodedata.category(c).startswith("M")).casefold()
    if not _drops_letters(plain):
        return _ascii_key(plain)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "-".join(sorted("".join(c if _in_word(c) else " " for c in folded).split()))


def _ascii_key(text: str) -> str:
    return "-".join(sorted(word for word in _SEPARATORS.split(text.lower()) if word))


def _in_word(c: str) -> bool:
    return c.isalnum() or unicodedata.category(c).startswith("M")


def _drops_letters(text: str) -> bool:
    """Tell whether a-z and 0-9 are too few for this text."""
    return not text.isascii() and any(not c.isascii() and _in_word(c) for c in text)
