"""Rules that tell by its header what is to be done with the pixels of an object."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol  # tag values may be of any type

from attrs import field, frozen

from diana.deid.regexes import safe_pattern
from diana.exceptions import ConfigError
from diana.utils.dicom.query import Query

ACTIONS: Final = ("pass", "mask", "review", "refuse")
MAX_SIDE: Final = 1 << 24
MAX_RECTANGLES: Final = 256
BUILTIN: Final = Path(__file__).with_name("pixel_rules.yml")
ALWAYS_ASKED: Final = ("BurnedInAnnotation", "Columns", "Modality", "Rows")
_CUT: Final = 1024

Tags = Mapping[str, Any]


@frozen
class Rectangle:
    """Hold a rectangle of an image: column and row of its upper left corner from 0, width and height in pixels."""

    x: int
    y: int
    width: int
    height: int

    def problems(self) -> list[str]:
        """Return what is wrong with it."""
        values = (self.x, self.y, self.width, self.height)
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in values):
            return ["a rectangle is x, y, width and height as whole numbers"]
        if self.width <= 0 or self.height <= 0 or any(abs(one) > MAX_SIDE for one in values):
            return ["a rectangle has a width and a height above 0, and no number above 16777216"]
        return []

    def clipped(self, columns: int, rows: int) -> Rectangle | None:
        """Return the part inside an image, None when there is none."""
        left, top = max(self.x, 0), max(self.y, 0)
        right, bottom = min(self.x + self.width, columns), min(self.y + self.height, rows)
        return Rectangle(left, top, right - left, bottom - top) if right > left and bottom > top else None


class Condition(Protocol):
    """Tell whether a header is meant."""

    def met(self, tags: Tags) -> bool:
        """Tell whether the tags (keyword or eight digits to value) meet the condition."""

    def keys(self) -> frozenset[str]:
        """Return the keywords and tags that are looked at."""


@frozen
class Test:
    """
    Compare one element, whatever the case.

    ``how``: equals, contains, starts, ends, matches (a regular expression that must fit the whole), finds (one that may
    fit anywhere), less, greater, present, missing, empty. Several values are compared joined by backslashes, and
    ``equals`` also one by one. Numbers are compared by the digits in them, as CTP does.
    """

    key: str
    how: str
    value: str = ""
    exact: bool = False

    HOWS = (
        "equals",
        "contains",
        "starts",
        "ends",
        "matches",
        "finds",
        "less",
        "greater",
        "present",
        "missing",
        "empty",
    )
    __test__ = False

    def met(self, tags: Tags) -> bool:
        """Tell whether the element is as asked."""
        found = tags.get(self.key)
        if self.how in ("present", "missing"):
            return (found is not None) == (self.how == "present")
        text = _text(found)
        if self.how == "empty":
            return found is not None and not text
        if self.how in ("less", "greater"):
            number, bound = _digits(text), _digits(self.value)
            return (
                number is not None and bound is not None and (number < bound if self.how == "less" else number > bound)
            )
        if self.how in ("matches", "finds"):
            pattern = safe_pattern(self.value, ignore_case=not self.exact)
            return (pattern.fullmatch(text) if self.how == "matches" else pattern.search(text)) is not None
        wanted = self.value if self.exact else self.value.casefold()
        text = text if self.exact else text.casefold()
        if self.how == "equals":
            return text == wanted or wanted in text.split("\\")
        if self.how == "contains":
            return wanted in text
        return text.startswith(wanted) if self.how == "starts" else text.endswith(wanted)

    def keys(self) -> frozenset[str]:
        """Return the element's key."""
        return frozenset((self.key,))


@frozen
class Group:
    """Combine conditions: ``all``, ``any``, or ``not`` (none of them)."""

    how: str
    parts: tuple[Condition, ...]

    def met(self, tags: Tags) -> bool:
        """Tell whether the parts are met as asked."""
        results = (part.met(tags) for part in self.parts)
        return all(results) if self.how == "all" else any(results) == (self.how == "any")

    def keys(self) -> frozenset[str]:
        """Return the keys of all parts."""
        return frozenset().union(*(part.keys() for part in self.parts))


@frozen
class Asked:
    """Ask in the language of ``Query``."""

    match: Mapping[str, Any] = field(repr=False)
    _query: Query = field(init=False, eq=False, repr=False)

    @_query.default
    def _made_once(self) -> Query:
        return Query(self.match)

    def met(self, tags: Tags) -> bool:
        """Tell whether the query fits."""
        return self._query.matches(tags)

    def keys(self) -> frozenset[str]:
        """Return the keywords of the query."""
        return frozenset(self._query.keywords())


ALWAYS: Final = Group("all", ())


@frozen
class PixelRule:
    """
    Say what is done with the pixels of the objects that meet a condition.

    ``pass`` releases them, ``mask`` blanks ``blank``, or all but ``keep``, ``review`` quarantines for a person,
    ``refuse`` never releases. With ``regions`` what is kept are the object's own ultrasound regions, and the rule fits
    only where it has some; ``whole`` blanks everything. Rules are asked in order, the first that fits decides; when it
    masks, the rectangles of the further masking rules are blanked too.
    """

    name: str
    action: str
    when: Condition = ALWAYS
    blank: tuple[Rectangle, ...] = ()
    keep: tuple[Rectangle, ...] = ()
    regions: bool = False
    whole: bool = False

    def problems(self) -> list[str]:
        """Return what is wrong with the rule."""
        found = [] if self.action in ACTIONS else [f"unknown action; known are {', '.join(ACTIONS)}"]
        places = bool(self.blank or self.keep or self.regions or self.whole)
        if self.action == "mask" and not places:
            found.append("'mask' needs one of blank, keep, regions, whole")
        if self.action in ("pass", "refuse") and places:
            found.append(f"{self.action!r} takes no rectangles")
        if len(self.blank) + len(self.keep) > MAX_RECTANGLES:
            found.append(f"more than {MAX_RECTANGLES} rectangles")
        return found + [problem for one in (*self.blank, *self.keep) for problem in one.problems()]


def keys_of(rules: Iterable[PixelRule]) -> tuple[str, ...]:
    """Return the keywords and tags that rules look at, and those that every decision needs."""
    return tuple(sorted(frozenset(ALWAYS_ASKED).union(*(rule.when.keys() for rule in rules))))


@lru_cache(maxsize=1)
def builtin_rules() -> tuple[PixelRule, ...]:
    """Return the rules that ship with the package."""
    from diana.utils.endpoint.documents import load_document

    problems: list[str] = []
    rules = rules_from(load_document(BUILTIN).get("rules"), "", problems)
    if problems:
        raise ConfigError(problems)
    return rules


def rules_from(value: Any, where: str, problems: list[str]) -> tuple[PixelRule, ...]:
    """
    Return the rules of a list in a document, and add what is wrong with it to ``problems``.

    Each is a mapping with ``name``, ``action``, ``when`` (a ``Query``), ``contains`` (keywords to texts, one of which
    must be inside, whatever the case), ``blank`` and ``keep`` (lists of ``[x, y, width, height]``), ``regions``,
    ``whole``.
    """
    if not isinstance(value, list):
        problems.append(f"{where}pixel rules are a list of mappings")
        return ()
    found = []
    for number, entry in enumerate(value, 1):
        place = f"{where}pixel rule {number}: "
        before = len(problems)
        rule = _rule(entry, place, problems)
        if rule is not None:
            problems += [place + problem for problem in rule.problems()]
            if len(problems) == before:
                found.append(rule)
    return tuple(found)


_KEYS: Final = ("name", "action", "when", "contains", "blank", "keep", "regions", "whole")


def _rule(entry: Any, where: str, problems: list[str]) -> PixelRule | None:
    from diana.utils.endpoint.documents import unknown_keys

    if not isinstance(entry, Mapping):
        problems.append(where + "a rule is a mapping")
        return None
    problems += [where + problem for problem in unknown_keys(entry, _KEYS)]
    for key in ("regions", "whole"):
        if not isinstance(entry.get(key, False), bool):
            problems.append(f"{where}{key} is true or false")
    return PixelRule(
        str(entry.get("name") or "unnamed")[:80],
        str(entry.get("action", "")),
        _condition(entry, where, problems),
        _rectangles(entry.get("blank"), where, problems),
        _rectangles(entry.get("keep"), where, problems),
        entry.get("regions") is True,
        entry.get("whole") is True,
    )


def _condition(entry: Mapping[str, Any], where: str, problems: list[str]) -> Condition:
    when, contains = entry.get("when") or {}, entry.get("contains") or {}
    if not isinstance(when, Mapping) or not isinstance(contains, Mapping):
        problems.append(where + "'when' and 'contains' are mappings of keywords to what they must match")
        return ALWAYS
    texts = {key: value if isinstance(value, list) else [value] for key, value in contains.items()}
    before = len(problems)
    for match in (when, texts):
        try:
            Query(match).check_keywords()
        except ConfigError as error:
            problems += [where + problem for problem in error.problems]
    if len(problems) > before:
        return ALWAYS
    parts = _asked(when)
    parts += [
        Group("any", tuple(Test(str(key), "contains", str(value)) for value in values)) for key, values in texts.items()
    ]
    return parts[0] if len(parts) == 1 else Group("all", tuple(parts))


def _asked(when: Mapping[str, Any]) -> list[Condition]:
    """Return a query as conditions: plain values as tests, which are quicker, the rest as it is."""
    rest: dict[str, Any] = {}
    parts: list[Condition] = []
    for key, value in when.items():
        values = value if isinstance(value, list) else [value]
        if values and all(isinstance(one, str) and re.fullmatch(r"[A-Za-z][\w ]*|[0-9][0-9.]*", one) for one in values):
            tests = tuple(Test(key, "equals", one, exact=True) for one in values)
            parts.append(tests[0] if len(tests) == 1 else Group("any", tests))
        else:
            rest[key] = value
    return [*parts, Asked(rest)] if rest else parts


def _rectangles(value: Any, where: str, problems: list[str]) -> tuple[Rectangle, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, list) and len(one) == 4 for one in value):
        problems.append(where + "rectangles are a list of [x, y, width, height]")
        return ()
    return tuple(Rectangle(*one) for one in value)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value[:_CUT].strip()
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return "\\".join(str(one) for one in value)[:_CUT].strip()
    return str(value)[:_CUT].strip()


def _digits(text: str) -> int | None:
    digits = re.sub("[^0-9]", "", text)[:18]
    return int(digits) if digits else None
