"""Recipes from YAML files, with all their problems at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final  # documents hold any value

from attrs import evolve, fields

from diana.deid.options import Option
from diana.deid.pixel_rules import PixelRule, rules_from
from diana.deid.recipe import ACTIONS, MODES, PRESETS, Recipe, Rule, SafePrivate
from diana.exceptions import ConfigError
from diana.utils.dicom.dictionary import keywords
from diana.utils.endpoint.documents import Document, load_document, near, parse_document, substituted, unknown_keys

KEYS: Final = (
    *("preset", "name", "mode", "options", "without", "rules", "keep_year_of_birth", "age_cap", "safe_private"),
    *("pixel_rules", "remove_times", "issuer", "vocabulary"),
)
RULE_KEYS: Final = ("tags", "action", "value", "vr", "creator", "when")
PRIVATE_KEYS: Final = ("creator", "group", "element", "vr")
MAX_RULES: Final = 5000


def load(path: str | os.PathLike[str]) -> Recipe:
    """
    Return the recipe in a file.

    A name that ends in ``.yml`` or ``.yaml`` is DIANA's own form, ``.json`` a replacement map of Orthanc, ``.script``
    or ``.xml`` one of CTP's, and ``deid.*``, ``*.deid`` and ``*.recipe`` one of deid's. Raises ConfigError with every
    problem of the file, each with its line where it has one.
    """
    from diana.deid import foreign_recipes

    name = Path(path).name.lower()
    if name.endswith(".json"):
        return foreign_recipes.load_orthanc(path)
    if name.endswith((".script", ".xml")):
        return foreign_recipes.load_ctp(path)
    if name.startswith("deid.") or name.endswith((".deid", ".recipe")):
        return foreign_recipes.load_deid(path)
    return from_document(load_document(path), Path(path).parent)


def parse(text: str, origin: str = "text") -> Recipe:
    """Return the recipe in a YAML text. Raises ConfigError with every problem."""
    return from_document(parse_document(text, origin))


def from_document(document: Document, folder: Path | None = None) -> Recipe:
    """
    Return the recipe that a document spells; ``preset`` names the one it starts from.

    ``options`` are added to the preset's and ``without`` taken from them, ``rules`` and ``pixel_rules`` come after the
    preset's. ``pixel_rules`` is a list, or the name of a file beside the recipe: YAML, or a script of CTP or deid.
    """
    problems: list[str] = []
    where = f"{document.origin}: " if document.origin else ""
    values = substituted(dict(document), None, where, problems)
    for key in values.keys() - set(KEYS):
        problems += [_at(document, (key,)) + problem for problem in unknown_keys({key: None}, KEYS)]
    base = _base(values, where, problems)
    made: dict[str, Any] = {}
    for key, kind, told in _PLAIN:
        if key in values:
            if isinstance(values[key], kind) and (kind is not int or not isinstance(values[key], bool)):
                made[key] = values[key]
            else:
                problems.append(f"{_at(document, (key,))}{key} is {told}")
    if made.get("mode") not in (None, *MODES):
        problems.append(_at(document, ("mode",)) + f"unknown mode{near(made.pop('mode'), MODES)}")
    made["options"] = _options(document, values, base, problems)
    made["rules"] = (*base.rules, *_rules(document, values.get("rules"), problems))
    made["safe_private"] = (*base.safe_private, *_private(document, values.get("safe_private"), problems))
    made["pixel_rules"] = (*_pixel_rules(values.get("pixel_rules"), where, folder, problems), *base.pixel_rules)
    made["vocabulary"] = (*base.vocabulary, *_texts(values.get("vocabulary"), where + "vocabulary", problems))
    if problems:
        raise ConfigError(problems)
    try:
        return evolve(base, **made)
    except ConfigError as error:
        raise ConfigError([where + problem for problem in error.problems]) from None


_PLAIN: Final = (
    ("name", str, "a text"),
    ("mode", str, "a text"),
    ("issuer", str, "a text"),
    ("age_cap", int, "a whole number"),
    ("keep_year_of_birth", bool, "true or false"),
    ("remove_times", bool, "true or false"),
)


def _at(document: Document, place: tuple[str, ...]) -> str:
    line = document.lines.get(place)
    origin = f"{document.origin}: " if document.origin else ""
    return f"{origin}line {line}: " if line else origin


def _base(values: Mapping[str, Any], where: str, problems: list[str]) -> Recipe:
    preset = values.get("preset")
    if preset is None:
        return Recipe(name="recipe")
    if preset not in PRESETS:
        problems.append(f"{where}unknown preset{near(preset, PRESETS)}")
        return Recipe(name="recipe")
    return Recipe.preset(str(preset))


def _texts(value: Any, where: str, problems: list[str]) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        problems.append(f"{where} is a list of texts")
        return []
    return list(value)


def _options(document: Document, values: Mapping[str, Any], base: Recipe, problems: list[str]) -> frozenset[Option]:
    known = tuple(option.value for option in Option)
    chosen: dict[str, set[Option]] = {"options": set(base.options), "without": set()}
    for key, held in chosen.items():
        for at, name in enumerate(_texts(values.get(key), _at(document, (key,)) + key, problems)):
            plain = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
            if plain in known:
                held.add(Option(plain))
            else:
                problems.append(f"{_at(document, (key,))}{key}: unknown option number {at + 1}{near(plain, known)}")
    found = frozenset(chosen["options"] - chosen["without"])
    if {Option.FULL_DATES, Option.MODIFIED_DATES} <= found:
        problems.append(_at(document, ("options",)) + "the options full-dates and modified-dates exclude each other")
        found -= {Option.FULL_DATES}
    return found


def _rules(document: Document, value: Any, problems: list[str]) -> list[Rule]:
    found = []
    for at, entry in enumerate(_mappings(document, "rules", value, problems)):
        place = _at(document, ("rules", str(at), next(iter(entry), "")))
        before = len(problems)
        problems += [f"{place}rule {at + 1}: {problem}" for problem in unknown_keys(entry, RULE_KEYS)]
        action = entry.get("action")
        if action not in ACTIONS:
            told = "a rule needs an action" if action is None else "unknown action"
            problems.append(f"{place}rule {at + 1}: {told}{near(action, ACTIONS)}")
        when = entry.get("when")
        if when is not None and not isinstance(when, Mapping):
            problems.append(f"{place}rule {at + 1}: 'when' is a mapping of keywords to what they must match")
        if any(isinstance(entry.get(key), list | dict) for key in RULE_KEYS if key != "when"):
            problems.append(f"{place}rule {at + 1}: a rule has one value for each key")
        if len(problems) == before:
            texts = {key: _plain(entry[key]) for key in RULE_KEYS if key != "when" and entry.get(key) is not None}
            rule = Rule(**texts, when=when)
            problems += [
                f"{place}rule {at + 1}: {problem}{_near_tag(rule.tags, problem)}" for problem in rule.problems()
            ]
            found.append(rule)
    return found


def _near_tag(tags: str, problem: str) -> str:
    """Return the nearest keyword for one that is not known."""
    if "neither a tag" not in problem:
        return ""
    near = get_close_matches(tags, keywords(), 1)
    return f", did you mean {near[0]!r}?" if near else ""


def _mappings(document: Document, key: str, value: Any, problems: list[str]) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        problems.append(f"{_at(document, (key,))}{key} is a list of mappings")
        return []
    if len(value) > MAX_RULES:
        problems.append(f"{_at(document, (key,))}{key} has more than {MAX_RULES} entries")
        return []
    return list(value)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _private(document: Document, value: Any, problems: list[str]) -> list[SafePrivate]:
    found = []
    for at, entry in enumerate(_mappings(document, "safe_private", value, problems), 1):
        place = f"{_at(document, ('safe_private',))}safe private {at}: "
        before = len(problems)
        problems += [place + problem for problem in unknown_keys(entry, PRIVATE_KEYS)]
        creator = entry.get("creator")
        if not isinstance(creator, str) or not creator.strip():
            problems.append(place + "needs the private creator")
        group = _hexadecimal(entry.get("group"), 0xFFFF)
        if group is None or not group & 1:
            problems.append(place + "group is an odd number of four hexadecimal digits, in quotes")
        element = None
        if entry.get("element") is not None:
            element = _hexadecimal(entry["element"], 0xFF)
            if element is None:
                problems.append(place + "element is two hexadecimal digits, in quotes")
        if len(problems) == before and group is not None:
            found.append(SafePrivate(str(creator).strip(), group, element, str(entry.get("vr") or "")))
    return found


def _hexadecimal(value: Any, largest: int) -> int | None:
    try:
        number = int(str(value).lower().removeprefix("0x"), 16)
    except ValueError:
        return None
    return number if 0 <= number <= largest else None


def _pixel_rules(value: Any, where: str, folder: Path | None, problems: list[str]) -> tuple[PixelRule, ...]:
    if value is None:
        return ()
    if not isinstance(value, str):
        return rules_from(value, where, problems)
    from diana.deid.pixel_scripts import load_pixel_rules

    path = Path(value)
    if folder is None or path.is_absolute() or len(path.parts) != 1 or path.name in ("", ".", ".."):
        problems.append(f"{where}pixel_rules is a list, or the name of a file beside the recipe")
        return ()
    try:
        return load_pixel_rules(folder / path)
    except ConfigError as error:
        problems += error.problems
        return ()


def to_document(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as a YAML document says it, without its pixel rules; for showing what a foreign file became."""
    plain = {one.name: getattr(recipe, one.name) for one in fields(Recipe) if one.name in {key for key, *_ in _PLAIN}}
    rules = [{key: value for key in RULE_KEYS if (value := getattr(rule, key))} for rule in recipe.rules]
    return {**plain, "options": sorted(option.value for option in recipe.options), "rules": rules}
