"""Replace parts of a text in one pass: what was put in is never searched, and what was put in before stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from attrs import define, field

from diana.deid.scan_words import fold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diana.deid.scan import Identifiers

OPAQUE: Final = "\ue000"  # of private use: no letter, no digit, no space
SHORTEST: Final = 4
WORD: Final = re.compile(r"\[[^\[\]\n]{1,30}\]")
_REFERENCE: Final = re.compile(r"\\(\d{1,2})|\\\\")


@define
class Redaction:
    """
    Hold a text, and what is put in the place of some of it.

    Places count in the original text. Nothing is put where something was put already.
    """

    text: str = field(repr=False)
    _taken: bytearray = field(init=False, repr=False)
    _puts: list[tuple[int, int, str]] = field(init=False, factory=list, repr=False)

    @_taken.default
    def _nothing_taken(self) -> bytearray:
        return bytearray(len(self.text))

    def put(self, begin: int, stop: int, text: str) -> None:
        """Put a text in the place of a part, unless something was put in there."""
        if not any(self._taken[begin:stop]):
            self._taken[begin:stop] = b"\1" * (stop - begin)
            self._puts.append((begin, stop, text))

    def keep(self, words: Iterable[str]) -> None:
        """Let words that stand alone stay as they are, whatever is looked for later; short ones do not count."""
        wanted = sorted({one for one in words if len(one) >= SHORTEST}, key=len, reverse=True)
        for word in wanted:
            for match in re.finditer(rf"(?<![\w-]){re.escape(word)}(?![\w-])", self.text):
                self.put(*match.span(), word)

    def known(self, wanted: Identifiers, put: Mapping[str, str]) -> None:
        """Replace what is known wherever it stands, the longest first, by the word for its kind."""
        flat, places = _flattened(self.view(0, len(self.text)))
        for start, end, kind in wanted.spans(flat):
            self.put(places[start], places[end - 1] + 1, put.get(kind, "[removed]"))

    def replace(self, begin: int, stop: int, text: str) -> None:
        """Replace a part; what was put in there before stays, and so does what says nothing around it."""
        if 1 not in self._taken[begin:stop]:
            self.put(begin, stop, text)
            return
        for start, end in self._free(begin, stop):
            telling = [at for at in range(start, end) if self.text[at].isalnum()]
            if telling:
                self.put(telling[0], telling[-1] + 1, text.strip())

    def view(self, begin: int, stop: int) -> str:
        """Return a part with a sign that nothing looks for in the places where something was put."""
        part = self.text[begin:stop]
        if 1 not in self._taken[begin:stop]:
            return part
        pairs = zip(part, self._taken[begin:stop], strict=True)
        return "".join([OPAQUE if taken else one for one, taken in pairs])

    def result(self, *, silent: bool = False) -> str:
        """Return the text as it is now; ``silent`` leaves the words in brackets empty."""
        out: list[str] = []
        at = 0
        for begin, stop, put in sorted(self._puts):
            out += (self.text[at:begin], "[]" if silent and WORD.fullmatch(put.strip()) else put)
            at = stop
        return "".join(out) + self.text[at:]

    def _free(self, begin: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a part in which nothing was put."""
        while begin < stop:
            at = self._taken.find(0, begin, stop)
            if at < 0:
                return
            end = self._taken.find(1, at, stop)
            begin = stop if end < 0 else end
            yield at, begin


def replaced(match: re.Match[str], put: str) -> Iterator[tuple[int, int, str]]:
    """
    Yield the parts of a match that go, and what is put there; groups that ``put`` refers to in their order stay.

    A group that took no part, or comes before one that was used, is left out.
    """
    at, literal = match.start(), ""
    for part in template(put):
        if isinstance(part, str):
            literal += part
            continue
        begin, stop = match.span(part)
        if begin < at:
            continue
        if begin > at or literal:
            yield at, begin, literal
        at, literal = stop, ""
    if match.end() > at or literal:
        yield at, match.end(), literal


@lru_cache(maxsize=1024)
def template(put: str) -> tuple[str | int, ...]:
    """Return literal texts and the numbers of groups, in their order."""
    found: list[str | int] = []
    at = 0
    for match in _REFERENCE.finditer(put):
        found.append(put[at : match.start()])
        found.append(int(match[1]) if match[1] else "\\")
        at = match.end()
    return tuple(one for one in (*found, put[at:]) if one != "")


def _flattened(text: str) -> tuple[str, list[int]]:
    """Return a text folded, and for each of its characters the place it comes from."""
    parts: list[str] = []
    places: list[int] = []
    for at, one in enumerate(text):
        folded = fold(one) or one
        parts.append(folded)
        places += [at] * len(folded)
    return "".join(parts), places
