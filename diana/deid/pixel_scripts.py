"""Pixel rules of other tools: CTP's DicomPixelAnonymizer scripts and deid's filters."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from diana.deid.pixel_rules import ALWAYS, Condition, Group, PixelRule, Rectangle, Test, rules_from
from diana.deid.regexes import safe_pattern
from diana.exceptions import ConfigError
from diana.utils.dicom.dictionary import keyword_of, keywords
from diana.utils.endpoint.documents import load_document, read_text

log = logging.getLogger(__name__)

MAX_DEPTH: Final = 32
_SIGNATURE: Final = re.compile(r"\{([^{}]{0,20000})\}")
_RECTANGLE: Final = re.compile(r"\s*\(\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*,\s*(-?\d{1,9})\s*\)")
_TOKEN: Final = re.compile(
    r"\s*(?:(true|false)\.?(?![\w.])|(\[[0-9A-Fa-f]{4},?[0-9A-Fa-f]{4}\]|\([0-9A-Fa-f]{4},[0-9A-Fa-f]{4}\)"
    r"|[A-Za-z]\w{0,63}|[0-9A-Fa-f]{8})\s*\.\s*([A-Za-z]{1,32})\s*\(\s*\"([^\"]{0,1000})\"\s*\)|([*+!()]))"
)
_METHODS: Final = {
    "equals": "equals",
    "matches": "matches",
    "contains": "contains",
    "startswith": "starts",
    "endswith": "ends",
    "islessthan": "less",
    "isgreaterthan": "greater",
}


def load_pixel_rules(path: str | os.PathLike[str]) -> tuple[PixelRule, ...]:
    """
    Return the pixel rules in a file: YAML (``rules: [...]``), a script of CTP, or a recipe of deid.

    They are told apart by their content. Raises ConfigError with every problem, each with its line.
    """
    origin = str(path)
    if Path(path).suffix.lower() in (".yml", ".yaml"):
        problems: list[str] = []
        found = rules_from(load_document(path).get("rules"), f"{origin}: ", problems)
        if problems:
            raise ConfigError(problems)
        return found
    text = read_text(path)
    if re.search(r"(?m)^\s*(?:FORMAT\s+dicom|%filter\b|LABEL\s)", text):
        return deid_filters(text, origin)
    return ctp_signatures(text, origin)


def key_of(name: str) -> str:
    """Return keyword, or eight digits, of an element that is named by one of them. Raises ConfigError."""
    digits = re.sub(r"[\[\](),\s-]", "", name)
    if re.fullmatch("[0-9A-Fa-f]{8}", digits):
        return keyword_of(int(digits, 16)) or digits.upper()
    if name in keywords():
        return name
    near = get_close_matches(name, keywords(), 1)
    raise ConfigError(f"unknown DICOM keyword {name[:64]!r}" + (f", did you mean {near[0]!r}?" if near else ""))


def ctp_signatures(text: str, origin: str = "script") -> tuple[PixelRule, ...]:
    """
    Return the signatures of a DicomPixelAnonymizer script as masking rules; what stands between them is comment.

    A signature is a condition in braces and one or more ``(left,top,width,height)``. Raises ConfigError with every
    problem, each with its line.
    """
    problems: list[str] = []
    found = []
    end = 0
    for number, match in enumerate(_SIGNATURE.finditer(text), 1):
        line = text.count("\n", 0, match.start()) + 1
        if _braces(text[end : match.start()]):
            problems.append(f"{origin}: line {line}: a brace without its partner")
        end = match.end()
        rectangles = []
        while rectangle := _RECTANGLE.match(text, end):
            rectangles.append(Rectangle(*map(int, rectangle.groups())))
            end = rectangle.end()
        try:
            rule = PixelRule(f"CTP signature {number}", "mask", _Expression(match[1]).parse(), tuple(rectangles))
        except ConfigError as error:
            problems += [f"{origin}: line {line}: {problem}" for problem in error.problems]
            continue
        problems += [f"{origin}: line {line}: {problem}" for problem in rule.problems()]
        found.append(rule)
    if _braces(text[end:]):
        problems.append(f"{origin}: line {text.count(chr(10)) + 1}: a brace without its partner")
    if not found and not problems:
        problems.append(f"{origin}: no signature in braces")
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _braces(text: str) -> bool:
    return "{" in text or "}" in text


class _Expression:
    """Read a condition of CTP: ``*`` is and, ``+`` is or, ``!`` is not, and binds closest."""

    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.at = 0
        self.depth = 0

    def parse(self) -> Condition:
        """Return the condition. Raises ConfigError."""
        found = self._either()
        if self.at < len(self.tokens):
            raise ConfigError("the condition goes on where it should end")
        return found

    def _take(self, token: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == token:
            self.at += 1
            return True
        return False

    def _either(self) -> Condition:
        parts = [self._both()]
        while self._take("+"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Group("any", tuple(parts))

    def _both(self) -> Condition:
        parts = [self._one()]
        while self._take("*"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Group("all", tuple(parts))

    def _one(self) -> Condition:
        if self._take("!"):
            return Group("not", (self._one_deeper(),))
        if self._take("("):
            found = self._one_deeper(inner=True)
            if not self._take(")"):
                raise ConfigError("a parenthesis is not closed")
            return found
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if isinstance(token, str):
            raise ConfigError("a condition ends early, or has an operator in a wrong place")
        self.at += 1
        return token

    def _one_deeper(self, *, inner: bool = False) -> Condition:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"conditions nested more than {MAX_DEPTH} deep")
        found = self._either() if inner else self._one()
        self.depth -= 1
        return found


def _tokens(text: str) -> Iterator[str | Condition]:
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ConfigError('a condition is made of tests like Modality.equals("CT"), joined by *, + and !')
        at = found.end()
        constant, name, method, value, sign = found.groups()
        if sign:
            yield sign
        elif constant:
            yield Group("all" if constant == "true" else "any", ())
        else:
            yield _ctp_test(name, method, value)


def _ctp_test(name: str, method: str, value: str) -> Condition:
    plain = method.lower().removesuffix("ignorecase")
    if plain not in _METHODS:
        raise ConfigError(f"unknown test {method[:32]!r}; known are {', '.join(sorted(_METHODS))}")
    how = _METHODS[plain]
    if how == "matches":
        safe_pattern(value, ignore_case=False)
    if how == "equals" and not value:
        key = key_of(name)
        return Group("any", (Test(key, "missing"), Test(key, "empty")))
    return Test(key_of(name), how, value, exact=not method.lower().endswith("ignorecase"))


_LINE: Final = re.compile(r"(contains|notcontains|equals|notequals|missing|present|empty)\s+(\S+)(?:\s+(.*))?\Z", re.I)
_PLACES: Final = re.compile(r"(ctp)?(keep)?coordinates\s+(.*)\Z", re.I)


def deid_filters(text: str, origin: str = "recipe") -> tuple[PixelRule, ...]:
    """
    Return the labels of the ``%filter`` sections of a deid recipe as rules, in their order.

    A label with coordinates masks, one of a white list passes, any other is for review. A test of a word that is no
    DICOM keyword counts as met, except in a white list, where the label never fits: so it can only tighten. Raises
    ConfigError with every problem, each with its line.
    """
    problems: list[str] = []
    found = []
    for section, number, label, lines in _labels(text):
        where = f"{origin}: line {number}: "
        try:
            rule = _label(section, label, lines, f"{origin}: ")
        except ConfigError as error:
            problems += [problem if ": line" in problem else where + problem for problem in error.problems]
            continue
        problems += [where + problem for problem in rule.problems()]
        found.append(rule)
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _labels(text: str) -> Iterator[tuple[str, int, str, list[tuple[int, str]]]]:
    section, label, begin = "", "", 0
    lines: list[tuple[int, str]] = []
    for number, line in enumerate([*text.splitlines(), "%end"], 1):
        line = re.sub(r"(?:^|\s)#.*", "", line).strip()
        head = line.split(None, 1)
        if line.startswith("%") or line.upper().startswith("LABEL "):
            if label and section:
                yield section, begin, label, lines
            label, lines = "", []
        if line.startswith("%"):
            section = head[1].strip().lower() if head[0].lower() == "%filter" and len(head) > 1 else ""
        elif line.upper().startswith("LABEL "):
            label, begin = head[1].strip()[:80], number
        elif line and label:
            lines.append((number, line))


def _label(section: str, label: str, lines: Iterable[tuple[int, str]], origin: str) -> PixelRule:
    groups: list[list[Condition]] = []
    blank: list[Rectangle] = []
    keep: list[Rectangle] = []
    whole = regions = False
    white = section.startswith("white")
    problems = []
    for number, line in lines:
        places = _PLACES.match(line)
        try:
            if places is None:
                _criterion(line, groups, white, f"{origin}line {number}: ")
                continue
            value = places[3].strip()
            if value.lower() == "all":
                whole = True
            elif value.lower().startswith("from:"):
                if value[5:].strip() != "SequenceOfUltrasoundRegions" or not places[2]:
                    raise ConfigError(
                        "the only field with coordinates is keepcoordinates from:SequenceOfUltrasoundRegions"
                    )
                regions = True
            else:
                (keep if places[2] else blank).append(_corners(value, ctp=bool(places[1])))
        except ConfigError as error:
            problems += [f"{origin}line {number}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    if groups and not any(part is not ALWAYS for group in groups for part in group):
        raise ConfigError("the label has no test of a known DICOM keyword")
    when = Group("any", tuple(Group("all", tuple(group)) for group in groups)) if groups else ALWAYS
    places_given = bool(blank or keep or whole or regions)
    action = "pass" if white else "mask" if places_given else "review"
    if white and places_given:
        raise ConfigError("a label of a white list takes no coordinates")
    return PixelRule(label, action, when, tuple(blank), tuple(keep), regions, whole and not (keep or regions))


def _criterion(line: str, groups: list[list[Condition]], white: bool, where: str) -> None:
    """Add a line of tests: alone or after ``||`` it begins a group, any of which must fit; after ``+`` it joins one."""
    joined = line.startswith("+")
    parts = [part for part in re.split(r"\|\|", line.lstrip("+| ").strip()) if part.strip()]
    tests: list[Condition] = []
    for part in parts:
        tests += [_deid_test(single.strip().lstrip("+ "), white, where) for single in part.split(" + ")]
        if " + " in part and len(parts) > 1:
            raise ConfigError("a line may join tests by + or by ||, not by both")
    if not tests:
        raise ConfigError("a line without a test")
    made: Condition = tests[0] if len(tests) == 1 else Group("any" if len(parts) > 1 else "all", tuple(tests))
    if joined and groups:
        groups[-1].append(made)
    else:
        groups.append([made])


def _deid_test(text: str, white: bool, where: str) -> Condition:
    found = _LINE.match(text)
    if found is None:
        raise ConfigError(
            "a test is one of contains, notcontains, equals, notequals, missing, present, empty, and a field"
        )
    how, name, value = found[1].lower(), found[2], (found[3] or "").strip()
    try:
        key = key_of(name)
    except ConfigError as error:
        log.warning("%s%s", where, error)
        return Group("any", ()) if white else ALWAYS
    if how in ("missing", "present", "empty"):
        return Test(key, how)
    if not value:
        raise ConfigError(f"{how!r} needs a value")
    safe_pattern(value)
    test = Test(key, "finds" if how.endswith("contains") else "matches", value)
    return Group("not", (test,)) if how.startswith("not") else test


def _corners(value: str, *, ctp: bool) -> Rectangle:
    """Return a rectangle from two corners, or from corner and size as CTP writes it."""
    numbers = [part.strip() for part in value.split(",")]
    if len(numbers) != 4 or not all(re.fullmatch(r"\d{1,9}", part) for part in numbers):
        raise ConfigError("coordinates are four whole numbers")
    left, top, right, bottom = map(int, numbers)
    found = Rectangle(left, top, right, bottom) if ctp else Rectangle(left, top, right - left, bottom - top)
    if found.problems():
        raise ConfigError(found.problems())
    return found
