"""Clean short descriptions: only words that a vocabulary knows and that echo nothing of the patient (PS3.15 E.3.5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from diana.utils.dicom import _text

if TYPE_CHECKING:
    from diana.deid.raw import Nodes
    from diana.deid.recipe import Recipe
    from diana.deid.scan import Identifiers

_WORDS: Final = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)?|[^\w\s]|\s+|_")
_NUMBER: Final = re.compile(r"\d{1,3}(?:[.,]\d{1,2})?\Z")
_MARKS: Final = frozenset("-/+.,()*x%")


def _telling(nodes: Nodes) -> Iterator[tuple[int, str, bytes]]:
    """Yield the values that name somebody or something, at every depth; not free text, which descriptions are."""
    from diana.deid.scan_probes import kind_of

    for node in nodes:
        if node.items is not None:
            for item in node.items:
                yield from _telling(item.nodes)
        elif node.stop > node.value and kind_of(node.tag, node.vr) not in ("", "text", "uid"):
            yield node.tag, node.vr, node.content()


@lru_cache(maxsize=1)
def vocabulary() -> frozenset[str]:
    """Return the words that may stand in a description, in lower case."""
    text = files("diana.deid").joinpath("data/vocabulary.txt").read_text("utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


class Cleaner:
    """Clean the descriptions of one object; its identifiers are looked up when the first one is asked for."""

    def __init__(self, nodes: Nodes, recipe: Recipe) -> None:
        self._nodes = nodes
        self._own = frozenset(word.lower() for word in recipe.vocabulary)
        self._found: Identifiers | None = None

    def clean(self, value: bytes, charset: str) -> bytes:
        """Return what may stay of a description, in ASCII; nothing when what stays still echoes the patient."""
        text = _text.decode(value, _text.codecs_of(charset)).strip(" \0")
        known = vocabulary() | self._own
        kept = "".join(word for word in _WORDS.findall(text) if self._passes(word, known))
        kept = re.sub(r"\s+", " ", kept).strip(" -/+.,*%_")
        if not re.search(r"[A-Za-z]", kept) or not kept.isascii():
            return b""
        return b"" if self._identifiers(charset).in_text(kept) else kept.encode("ascii")

    def _identifiers(self, charset: str) -> Identifiers:
        if self._found is None:
            from diana.deid.scan import Identifiers

            self._found = Identifiers.of(_telling(self._nodes), charset)
        return self._found

    @staticmethod
    def _passes(word: str, known: frozenset[str]) -> bool:
        if word.isspace() or word in _MARKS or word == "_":
            return True
        return bool(_NUMBER.match(word)) or word.lower() in known
