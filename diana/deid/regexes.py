"""Regular expressions from configuration, refused when they could take very long."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache, reduce
from operator import or_
from typing import Any, Final, NamedTuple  # the parser's trees have no types

from diana.exceptions import ConfigError

MAX_LENGTH: Final = 2000
MAX_WAYS: Final = 20_000
LONGEST: Final = 400
_SAMPLES: Final = "".join(map(chr, range(128))) + "éÄñßжλ中\u00a0\u2013"
_ALL: Final = (1 << len(_SAMPLES)) - 1
_CATEGORIES: Final[dict[str, Callable[[str], bool]]] = {
    "CATEGORY_DIGIT": str.isdigit,
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_WORD": lambda one: one.isalnum() or one == "_",
}
_REPEATS: Final = frozenset(("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"))
_SINGLE: Final = frozenset(("LITERAL", "NOT_LITERAL", "IN"))


@lru_cache(maxsize=4096)
def safe_pattern(pattern: str, *, ignore_case: bool = True) -> re.Pattern[str]:
    """
    Return a compiled pattern for texts of a few hundred characters.

    Refused is what may backtrack for long: references back, and repeats that can share out the same characters in more
    than 20,000 ways; give these an upper bound such as ``{1,40}``, or put between them what neither can match. Raises
    ConfigError, which does not quote the pattern.
    """
    if len(pattern) > MAX_LENGTH:
        raise ConfigError(f"a pattern is longer than {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
            found = _Counter(bool(made.flags & re.IGNORECASE)).sequence(_parsed(pattern, made.flags), _Next(0, True))
    except (re.error, RecursionError, OverflowError, Warning, ValueError) as error:
        told = error.msg if isinstance(error, re.error) else type(error).__name__
        raise ConfigError(f"a pattern is no regular expression ({told})") from None
    if found.ways > MAX_WAYS:
        raise ConfigError("a pattern can match in too many ways; give its repeats an upper bound such as {1,40}")
    return made


def _parsed(pattern: str, flags: int) -> Any:
    try:
        from re import _parser as parser  # type: ignore[attr-defined]  # since Python 3.11
    except ImportError:
        import sre_parse as parser
    return parser.parse(pattern, flags)


class _Next(NamedTuple):
    """Hold which characters may follow, and whether nothing need follow: then nothing fails, and nothing is retried."""

    first: int
    end: bool


class _Found(NamedTuple):
    """Hold in how many ways something matches, the characters it may begin with, and if it may be empty."""

    ways: int
    first: int
    empty: bool


class _Counter:
    """Bound in how many ways a pattern can share out a text; characters are judged by a sample of them."""

    def __init__(self, ignore_case: bool) -> None:
        self._ignore_case = ignore_case

    def sequence(self, tree: Iterable[Any], after: _Next) -> _Found:
        """Return the bound for items in a row, from the last to the first."""
        ways, first, empty = 1, 0, True
        for code, value in reversed(list(tree)):
            found = self._item(str(code), value, _Next(first | (after.first if empty else 0), empty and after.end))
            ways = min(ways * found.ways, MAX_WAYS + 1)
            first, empty = found.first | (first if found.empty else 0), empty and found.empty
        return _Found(ways, first, empty)

    def _item(self, code: str, value: Any, after: _Next) -> _Found:
        if code in _REPEATS:
            return self._repeat(value, after)
        if code == "BRANCH":
            return self._branches(value[1], after)
        if code in ("GROUPREF", "GROUPREF_EXISTS"):
            raise ConfigError("a pattern refers back to a group, which can take very long")
        if code in ("ASSERT", "ASSERT_NOT"):
            return self._assertion(code, *value)
        if code in ("SUBPATTERN", "ATOMIC_GROUP"):
            return self.sequence(value if code == "ATOMIC_GROUP" else value[-1], after)
        if code == "AT":
            return _Found(1, 1 << 10, False) if str(value).startswith("AT_END") else _Found(1, _ALL, True)
        return _Found(1, self._characters(code, value), False)

    def _assertion(self, code: str, direction: int, body: Any) -> _Found:
        """Return the bound of a look-around; what a negative look ahead forbids cannot follow."""
        ways = self.sequence(body, _Next(0, True)).ways
        items = list(body)
        if code == "ASSERT_NOT" and direction == 1 and len(items) == 1 and str(items[0][0]) in _SINGLE:
            return _Found(ways, _ALL & ~self._characters(str(items[0][0]), items[0][1]), False)
        return _Found(ways, _ALL, True)

    def _repeat(self, value: Any, after: _Next) -> _Found:
        least, most, body = int(value[0]), min(int(value[1]), LONGEST), value[2]
        begin = self.sequence(body, after)
        again = most > 1
        found = self.sequence(body, _Next(after.first | begin.first, False) if again else after)
        if found.empty and again and most == LONGEST:
            raise ConfigError("a pattern repeats without end what may be empty")
        ways = 1
        for _ in range(min(most, 64)):
            ways = min(ways * found.ways, MAX_WAYS + 1)
        if most > least and not after.end and found.first & after.first:
            ways = min(ways * (most - least + 1), MAX_WAYS + 1)
        return _Found(ways, found.first, found.empty or least == 0)

    def _branches(self, branches: Iterable[Any], after: _Next) -> _Found:
        """Return the bound for alternatives: those that begin alike add up."""
        found = [self.sequence(branch, after) for branch in branches]
        first = reduce(or_, (one.first for one in found), 0)
        empty = sum(one.ways for one in found if one.empty)
        alike = max(
            (sum(one.ways for one in found if one.first >> at & 1) for at in range(len(_SAMPLES)) if first >> at & 1),
            default=1,
        )
        return _Found(max(alike + empty, 1), first, empty > 0)

    def _characters(self, code: str, value: Any) -> int:
        """Return which of the samples a set of characters holds."""
        if code == "ANY":
            return _ALL & ~(1 << 10)
        if code == "LITERAL":
            return self._mask(lambda one: one == chr(value))
        if code == "NOT_LITERAL":
            return _ALL & ~self._mask(lambda one: one == chr(value))
        if code != "IN":
            return _ALL
        held = 0
        negated = False
        for kind, what in value:
            if str(kind) == "NEGATE":
                negated = True
            elif str(kind) == "RANGE":
                low, high = what
                held |= self._mask(lambda one, low=low, high=high: low <= ord(one) <= high)  # type: ignore[misc]
            elif str(kind) == "CATEGORY":
                name = str(what).replace("NOT_", "")
                mask = self._mask(_CATEGORIES[name]) if name in _CATEGORIES else _ALL
                held |= _ALL & ~mask if "NOT_" in str(what) else mask
            else:
                held |= self._characters(str(kind), what)
        return _ALL & ~held if negated else held

    def _mask(self, holds: Callable[[str], bool]) -> int:
        forms = (lambda one: (one, one.lower(), one.upper())) if self._ignore_case else (lambda one: (one,))
        found = 0
        for at, one in enumerate(_SAMPLES):
            if any(len(form) == 1 and holds(form) for form in forms(one)):
                found |= 1 << at
        return found
