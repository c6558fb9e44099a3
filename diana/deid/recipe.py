"""What is asked of a de-identification: mode, options, and rules that come after the table's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any  # values of a predicate may be of any type

from attrs import field, frozen

from diana.deid.options import Option, as_options
from diana.exceptions import ConfigError
from diana.utils.dicom.dictionary import tag_of

ACTIONS = ("remove", "empty", "dummy", "replace", "keep", "clean", "uid", "shift", "pseudonym", "hash")
MODES = ("strict", "profile")
LOOSENING = frozenset(("keep", "hash"))
_TAG = re.compile(r"\(?([0-9A-Fa-fXx]{4}),?([0-9A-Fa-fXx]{4})\)?\Z")


def _frozen_match(value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    if not value:
        return {}
    if isinstance(value, str):
        raise ConfigError("'when' is a mapping of keywords to what they must match")
    return dict(value)


@frozen
class Rule:
    """
    Say what is done to some elements, at every depth, after the table has spoken.

    ``tags``: ``(GGGG,EEEE)`` where ``x`` stands for any digit (of a private element ``xxEE``, whatever the block), or a
    keyword; empty for all. ``vr`` and ``creator`` (of private elements) narrow it. ``when`` is a predicate on the
    object's top level in the language of ``Query``. ``value`` is for ``replace``, and the number of days for ``shift``
    (empty: those of the patient). The last rule that fits an element wins.
    """

    tags: str = ""
    action: str = "remove"
    value: str = field(default="", kw_only=True, repr=False)
    vr: str = field(default="", kw_only=True)
    creator: str = field(default="", kw_only=True)
    when: Mapping[str, Any] = field(default=None, kw_only=True, converter=_frozen_match, repr=False)

    def problems(self) -> list[str]:
        """Return what is wrong with the rule."""
        found = []
        if self.action not in ACTIONS:
            found.append(f"unknown action {str(self.action)[:40]!r}; known are {', '.join(ACTIONS)}")
        if self.tags and not _TAG.match(self.tags) and tag_of(self.tags) is None:
            found.append(f"{self.tags[:40]!r} is neither a tag like (0010,00xx) nor a DICOM keyword")
        if not (self.tags or self.vr or self.creator):
            found.append(f"a rule to {self.action} must name tags, a VR or a private creator")
        if self.vr and not re.match(r"[A-Z]{2}\Z", self.vr):
            found.append(f"{self.vr[:10]!r} is no VR")
        if self.action == "shift" and self.value and not re.match(r"[+-]?\d{1,6}\Z", self.value):
            found.append("'shift' takes a whole number of days")
        if self.when:
            from diana.utils.dicom.query import Query

            try:
                Query(self.when).check_keywords()
            except ConfigError as error:
                found += error.problems
        return found

    def pattern(self) -> str:
        """Return the tags as eight characters, hexadecimal digits and ``x``; empty when any tag fits."""
        if not self.tags:
            return ""
        shape = _TAG.match(self.tags)
        if shape:
            return (shape[1] + shape[2]).upper().replace("X", "x")
        return f"{tag_of(self.tags) or 0:08X}"


@frozen
class SafePrivate:
    """
    Name a private element that the user vouches for: the group, the last two digits of the element, its creator.

    ``element`` None means all elements of this creator in the group.
    """

    creator: str
    group: int
    element: int | None = None
    vr: str = ""


def _as_tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


@frozen
class Recipe:
    """
    Hold what is asked for. Raises ConfigError with all problems together.

    ``strict`` also removes free text and unknown elements that the table does not list; ``profile`` is the table
    alone, and what the notes of PS3.15 E.1 ask beyond. ``keep_year_of_birth`` leaves the year with the first of
    January, ``age_cap`` is the highest age in years that stays (0: all), ``remove_times`` empties TM where dates are
    kept or moved. ``pixel_rules`` come before those that ship with the package; see ``diana.deid.pixel_rules``.
    ``issuer`` is that of patients whose file names none. ``vocabulary`` are words that Clean Descriptors lets pass
    beyond those that ship.
    """

    name: str = "basic"
    mode: str = "strict"
    options: frozenset[Option] = field(default=frozenset(), converter=as_options)
    rules: tuple[Rule, ...] = field(default=(), converter=_as_tuple)
    keep_year_of_birth: bool = False
    age_cap: int = 0
    safe_private: tuple[SafePrivate, ...] = field(default=(), converter=_as_tuple)
    pixel_rules: tuple[Any, ...] = field(default=(), converter=_as_tuple)  # diana.deid.pixel_rules.PixelRule
    remove_times: bool = False
    issuer: str = field(default="", repr=False)
    vocabulary: tuple[str, ...] = field(default=(), converter=_as_tuple, repr=False)

    def __attrs_post_init__(self) -> None:
        problems = [] if self.mode in MODES else [f"unknown mode {str(self.mode)[:40]!r}; known are strict, profile"]
        if not 0 <= self.age_cap <= 150:
            problems.append("age_cap is a number of years from 0 to 150")
        for number, rule in enumerate(self.rules, 1):
            problems += [f"rule {number}: {problem}" for problem in rule.problems()]
        if problems:
            raise ConfigError(problems)

    @staticmethod
    def preset(name: str) -> Recipe:
        """Return the recipe ``basic``, ``research`` or ``teaching``. Raises ConfigError for another name."""
        try:
            return Recipe(**_PRESETS[name])
        except KeyError:
            raise ConfigError(f"unknown preset {name[:40]!r}; known are {', '.join(_PRESETS)}") from None


PRESETS = ("basic", "research", "teaching")
_PRESETS: dict[str, dict[str, Any]] = {
    "basic": {"name": "basic"},
    "research": {
        "name": "research",
        "options": (Option.MODIFIED_DATES, Option.PATIENT_CHARACTERISTICS, Option.SAFE_PRIVATE),
    },
    "teaching": {
        "name": "teaching",
        "options": (
            Option.PATIENT_CHARACTERISTICS,
            Option.DEVICE,
            Option.CLEAN_DESCRIPTORS,
            Option.CLEAN_GRAPHICS,
            Option.CLEAN_STRUCTURED_CONTENT,
            Option.CLEAN_PIXEL_DATA,
        ),
        "remove_times": True,
    },
}
