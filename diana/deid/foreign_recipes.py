"""Recipes of other tools: Orthanc's maps both ways, deid's ``%header``, CTP's element scripts."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final  # JSON values

from diana.deid.options import Option
from diana.deid.pixel_scripts import deid_filters, key_of
from diana.deid.recipe import Recipe, Rule
from diana.exceptions import ConfigError
from diana.utils.dicom import dictionary
from diana.utils.endpoint.documents import read_text, unknown_keys

log = logging.getLogger(__name__)

__all__ = [
    "from_deid", "from_orthanc", "load_ctp", "load_deid", "load_orthanc", "sham_recipe", "to_orthanc",
]  # fmt: skip

_ORTHANC_KEYS: Final = (
    *("Replace", "Remove", "Keep", "KeepPrivateTags", "Force", "DicomVersion", "KeepSource", "Permissive", "Level"),
    *("PrivateCreator", "Asynchronous", "Synchronous", "Priority", "KeepLabels", "RemovePrivateTags", "Transcode"),
)
_MARKERS: Final = frozenset(("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"))
_IDENTITY: Final = frozenset(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"))
_CLASSES: Final = frozenset(("SOPClassUID", "TransferSyntaxUID", "MediaStorageSOPClassUID", "ReferencedSOPClassUID"))
_RETAINING: Final = (
    Option.FULL_DATES,
    Option.PATIENT_CHARACTERISTICS,
    Option.DEVICE,
    Option.INSTITUTION,
    Option.UIDS,
)
DICOM_VERSION: Final = "2021b"


def load_orthanc(path: str | os.PathLike[str]) -> Recipe:
    """Return the recipe in a JSON file with the body of Orthanc's ``/anonymize``. Raises ConfigError."""
    text = read_text(path)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigError(f"{path}: {line}not valid JSON") from None
    if not isinstance(body, Mapping):
        raise ConfigError(f"{path}: a replacement map is a JSON object")
    return from_orthanc(body, origin=str(path))


def from_orthanc(body: Mapping[str, Any], *, origin: str = "map") -> Recipe:
    """
    Return the recipe that does here what a replacement map asks of Orthanc (``Replace``, ``Remove``, ``Keep``).

    What the map does not name is left to the table, as Orthanc leaves it to its own. ``Force``, ``DicomVersion`` and
    what concerns the server's jobs have no meaning here. Raises ConfigError with every problem; ``KeepPrivateTags``
    and paths into sequences are refused.
    """
    problems = unknown_keys(body, _ORTHANC_KEYS)
    if body.get("KeepPrivateTags") is True:
        problems.append("KeepPrivateTags keeps what nobody has vouched for; use the option safe-private")
    rules: list[Rule] = []
    for key, action in (("Remove", "remove"), ("Keep", "keep")):
        named = body.get(key, [])
        if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
            problems.append(f"{key} is a list of tags")
            continue
        rules += [Rule(tag, action) for tag in _tags(named, key, problems) if tag not in _CLASSES]
    replaced = body.get("Replace", {})
    if not isinstance(replaced, Mapping):
        problems.append("Replace is an object of tags and values")
        replaced = {}
    for name, value in replaced.items():
        for tag in _tags([name], "Replace", problems):
            if value is not None and not isinstance(value, str | int | float):
                problems.append(f"Replace: the value of {tag} is no text")
            elif tag not in _MARKERS:
                rules.append(_replacing(tag, "" if value is None else str(value)))
    if problems:
        raise ConfigError([f"{origin}: {problem}" for problem in problems])
    return Recipe(name="orthanc", mode="profile", rules=tuple(rules))


def _replacing(tag: str, value: str) -> Rule:
    return Rule(tag, "replace", value=value) if value else Rule(tag, "empty")


def _tags(names: Iterable[str], where: str, problems: list[str]) -> Iterator[str]:
    for name in names:
        try:
            yield _rule_tag(key_of(name))
        except ConfigError as error:
            problems += [f"{where}: {problem}" for problem in error.problems]


def _rule_tag(key: str) -> str:
    """Return a key as rules write it."""
    return f"({key[:4]},{key[4:]})" if re.fullmatch("[0-9A-F]{8}", key) else key


def to_orthanc(recipe: Recipe, *, version: str = DICOM_VERSION) -> dict[str, Any]:
    """
    Return the body of Orthanc's ``/anonymize`` that comes nearest to a recipe.

    The server's own profile does the rest, with random UIDs and without what is newer than ``version``; check what it
    returns. Raises ConfigError naming every rule and option that a server cannot follow: what depends on a key, on the
    value, on other elements, or on private creators.
    """
    problems: list[str] = []
    replace: dict[str, str] = {}
    keep: dict[str, None] = {}
    remove: dict[str, None] = {}
    for option in sorted(recipe.options, key=lambda one: one.value):
        if option in _RETAINING:
            keep.update(dict.fromkeys(_kept_by(option)))
        else:
            problems.append(f"the option {option.value} cannot be followed by a server")
    for number, rule in enumerate(recipe.rules, 1):
        pattern = rule.pattern()
        if rule.vr or rule.creator or rule.when or "x" in pattern or not pattern:
            problems.append(f"rule {number}: a server knows rules for single elements only")
            continue
        if rule.action not in ("remove", "keep", "replace", "empty"):
            problems.append(f"rule {number}: the action {rule.action} cannot be followed by a server")
            continue
        name = key_of(pattern)
        tag = name if not re.fullmatch("[0-9A-F]{8}", name) else f"{name[:4]},{name[4:]}"
        for held in (replace, keep, remove):
            held.pop(tag, None)
        if rule.action in ("replace", "empty"):
            replace[tag] = rule.value if rule.action == "replace" else ""
        else:
            (keep if rule.action == "keep" else remove)[tag] = None
    problems += [
        f"{name} cannot be followed by a server"
        for name in ("keep_year_of_birth", "age_cap", "remove_times", "safe_private", "pixel_rules", "vocabulary")
        if getattr(recipe, name)
    ]
    if problems:
        raise ConfigError(problems)
    return {
        "Replace": replace,
        "Keep": list(keep),
        "Remove": list(remove),
        "KeepPrivateTags": False,
        "Force": True,
        "DicomVersion": version,
    }


@lru_cache(maxsize=16)
def _kept_by(option: Option) -> tuple[str, ...]:
    """Return the keywords of single attributes that an option keeps by Table E.1-1."""
    table = json.loads((Path(__file__).parent / "data" / "ps3_15_e1_1.json").read_text("utf-8"))
    found = []
    for row in table["rows"]:
        digits = re.sub("[(),]", "", row["tag"])
        if row["options"].get(option.column) == "K" and re.fullmatch("[0-9A-Fa-f]{8}", digits):
            found.append(dictionary.keyword_of(int(digits, 16)))
    return tuple(one for one in found if one)


def sham_recipe(dixel: Any, salt: str | None = None) -> Recipe:
    """
    Return the recipe that gives an instance the identity of its ShamDixel, and keeps the descriptions as that does.

    For compatibility only: without a secret ``salt`` the identity can be guessed from name, birth date and sex, and
    what was typed into descriptions stays. Each call logs a warning. ``dixel`` is an instance with its tags.
    """
    from diana.dixel import Dixel, ShamDixel
    from diana.utils.dicom import DicomLevel

    plain = Dixel(dixel.meta, dixel.tags, DicomLevel.INSTANCES)
    log.warning("sham-compat: identities can be guessed%s; descriptions stay", "" if salt is None else " with the salt")
    body = ShamDixel.from_dixel(plain, salt, wide=True).orthanc_sham_map()
    found = from_orthanc(body, origin="sham-compat")
    return Recipe(name="sham-compat", mode=found.mode, rules=found.rules)


def load_deid(path: str | os.PathLike[str]) -> Recipe:
    """Return the recipe in a file of deid: its ``%header``, and its filters as pixel rules. Raises ConfigError."""
    return from_deid(read_text(path), str(path))


_ORDER: Final = ("BLANK", "REMOVE", "JITTER", "REPLACE", "ADD", "KEEP")  # the later wins, as deid has it
_DEID_ACTIONS: Final = {"BLANK": "empty", "REMOVE": "remove", "JITTER": "shift", "REPLACE": "replace", "KEEP": "keep"}


def from_deid(text: str, origin: str = "recipe") -> Recipe:
    """
    Return the recipe that a text of deid spells.

    Fields are keywords, tags, or ``startswith:``, ``endswith:``, ``contains:``, ``select:group:``, ``select:VR:``.
    UIDs that such a pattern would remove, and that name the object, are replaced instead. ``ADD`` serves only for the
    markers, which are written anyway. Functions, variables, ``ALL`` and ``except:`` are refused. Raises ConfigError
    with every problem, each with its line.
    """
    problems: list[str] = []
    found: list[tuple[int, Rule]] = []
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"(?:^|\s)#.*", "", line).strip()
        where = f"{origin}: line {number}: "
        if line.startswith("%"):
            section = line.split()[0].lower()
            if section not in ("%header", "%filter"):
                problems.append(f"{where}the section {section[:20]!r} is not taken; only %header and %filter are")
        elif line and section == "%header":
            try:
                found += [(_ORDER.index(line.split()[0].upper()), rule) for rule in _deid_rules(line)]
            except ConfigError as error:
                problems += [where + problem for problem in error.problems]
    try:
        pixel_rules = deid_filters(text, origin)
    except ConfigError as error:
        problems += error.problems
        pixel_rules = ()
    if problems:
        raise ConfigError(problems)
    ordered = [rule for _, rule in sorted(found, key=lambda one: one[0])]
    return Recipe(name="deid", rules=tuple(ordered), pixel_rules=pixel_rules)


def _deid_rules(line: str) -> list[Rule]:
    action, _, rest = line.partition(" ")
    name, _, value = rest.strip().partition(" ")
    action, value = action.upper(), value.strip()
    if action not in _ORDER:
        raise ConfigError(f"unknown action {action[:20]!r}; known are {', '.join(_ORDER)}")
    if action == "ADD":
        if name in _MARKERS:
            return []
        raise ConfigError("ADD of elements that are absent is not taken")
    if value.startswith(("func:", "var:", "deid_func:")):
        raise ConfigError("functions and variables are not taken")
    if action == "JITTER" and not re.fullmatch(r"[+-]?\d{1,6}", value):
        raise ConfigError("JITTER takes a whole number of days")
    if action == "REPLACE" and not value:
        raise ConfigError("REPLACE needs a value")
    made = []
    for tag, exact in _expanded(name):
        if tag in _CLASSES and action in ("REMOVE", "BLANK"):
            continue
        if action in ("REMOVE", "BLANK") and tag in _IDENTITY and not exact:
            made.append(Rule(tag, "uid"))
        else:
            made.append(Rule(tag, _DEID_ACTIONS[action], value=value if action in ("JITTER", "REPLACE") else ""))
    return made


def _expanded(name: str) -> list[tuple[str, bool]]:
    """Return the tags that a field of deid names, and whether it names a single one."""
    how, _, what = name.partition(":")
    if not what:
        if name.upper() == "ALL" or how.lower() in ("all", "except", "allexcept"):
            raise ConfigError("ALL is not taken; name fields, or use the mode strict")
        return [(_rule_tag(key_of(name)), True)]
    how, what = how.lower(), what.lower()
    if how == "select" and re.fullmatch(r"group:(0x)?[0-9a-f]{1,4}", what):
        return [(f"({int(what[6:], 16):04X},xxxx)", False)]
    tests = {"startswith": str.startswith, "endswith": str.endswith, "contains": str.__contains__}
    if how in tests:
        found = [key for key in dictionary.keywords() if tests[how](key.lower(), what)]
    elif how == "select" and what.startswith("vr:"):
        found = [
            one.keyword
            for one in dictionary.entries().values()
            if one.keyword and what[3:].upper() in one.vr.split(" or ")
        ]
    else:
        raise ConfigError(f"the pattern {how[:20]!r} is not taken")
    if not found:
        raise ConfigError("the pattern fits no DICOM keyword")
    return [(key, False) for key in sorted(found)]


def load_ctp(path: str | os.PathLike[str]) -> Recipe:
    """Return the recipe in an element script of CTP. Raises ConfigError."""
    from diana.deid.ctp_scripts import from_ctp

    return from_ctp(read_text(path), str(path))
