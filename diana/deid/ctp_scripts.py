"""Element scripts of CTP's DicomAnonymizer as recipes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from diana.deid.recipe import Recipe, Rule
from diana.exceptions import ConfigError, GatewayAnswerError
from diana.utils.gateways.xml_safe import local, parse_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_ELEMENTS: Final = 20_000
_TAG: Final = re.compile(r"[\[(]?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})[\])]?\Z")
_PRIVATE: Final = re.compile(r"([0-9A-Fa-f]{3}[13579bdfBDF])(?:00)?\[([^\[\]]{1,64})\]([0-9A-Fa-f]{2})?\Z")
_CALL: Final = re.compile(r"@(\w{1,32})\(([^()]{0,400})\)")
_PATIENT: Final = (0x00100010, 0x00100020)
_MARKERS: Final = ("00120062", "00120063", "00120064")
_SIMPLE: Final = {"keep": "keep", "remove": "remove", "empty": "empty", "blank": "empty", "process": "keep"}
_GROUPS: Final = {"curves": "(50xx,xxxx)", "overlays": "(60xx,xxxx)"}


def from_ctp(text: str, origin: str = "script") -> Recipe:
    """
    Return the recipe that a script spells; what is not ticked (``en="F"``) is left to the table.

    Taken are ``@keep``, ``@remove``, ``@empty``, ``@blank``, ``@process``, ``@always`` before another, ``@hashuid`` and
    ``@hash`` of the element itself (with the project's key, not CTP's keyless hash), ``@hashname``, ``@hashptid`` and
    ``@lookup`` of the patient (the pseudonym), ``@incrementdate``, ``@param``, plain texts, kept groups, and the
    removal of curves, overlays and private groups. Anything else is refused. Raises ConfigError with every problem,
    each with its line.
    """
    try:
        root = parse_xml(text.encode("utf-8"), origin)
    except GatewayAnswerError as error:
        raise ConfigError(str(error)) from None
    problems: list[str] = []
    if local(root) != "script":
        raise ConfigError(f"{origin}: the root of a CTP script is <script>")
    parameters = {str(one.get("t")): "".join(one.itertext()).strip() for one in root if local(one) == "p"}
    rules: dict[str, list[Rule]] = {"k": [], "e": [], "r": []}
    for element in list(root)[:MAX_ELEMENTS]:
        kind = local(element)
        if kind not in ("p", "e", "k", "r"):
            problems.append(f"{_where(text, origin, element)}unknown element {kind[:20]!r}")
        elif kind != "p" and (element.get("en") or "T").upper() == "T":
            try:
                rules[kind] += _READERS[kind](element, parameters)
            except ConfigError as error:
                problems += [_where(text, origin, element) + problem for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return Recipe(name="ctp", rules=(*rules["k"], *rules["e"], *rules["r"]))


def _where(text: str, origin: str, element: Element) -> str:
    """Return the file and line of an element, found by its attribute ``t``."""
    name = element.get("t")
    found = re.search(rf"""\bt\s*=\s*["']{re.escape(name)}["']""", text) if name else None
    line = f"line {text.count(chr(10), 0, found.start()) + 1}: " if found else ""
    return f"{origin}: {line}{(name or '')[:40]}{': ' if name else ''}"


def _kept_group(element: Element, parameters: Mapping[str, str]) -> list[Rule]:
    name = (element.get("t") or "").strip()
    if not re.fullmatch("[0-9A-Fa-f]{4}", name):
        raise ConfigError("a kept group is named by four hexadecimal digits")
    return [Rule(f"({name},xxxx)", "keep")]


def _removed_group(element: Element, parameters: Mapping[str, str]) -> list[Rule]:
    name = (element.get("t") or "").strip().lower()
    if name in _GROUPS:
        return [Rule(_GROUPS[name], "remove")]
    if name == "privategroups":
        return []  # removed unless an option keeps them
    raise ConfigError(f"the removal of {name[:30]!r} is not taken; the mode strict removes unknown text")


def _element(element: Element, parameters: Mapping[str, str]) -> list[Rule]:
    name = (element.get("t") or "").strip()
    private = _PRIVATE.match(name)
    creator = ""
    if private:
        creator = private[2]
        tags, number = f"({private[1]},xx{private[3] or 'xx'})", 0
    else:
        shape = _TAG.match(name)
        if shape is None:
            raise ConfigError("an element is named by eight hexadecimal digits")
        tags, number = f"({shape[1]},{shape[2]})".upper(), int(shape[1] + shape[2], 16)
    script = "".join(element.itertext()).strip()
    if name in _MARKERS:
        return []
    action, value = _action(script, number, parameters)
    return [Rule(tags, action, value=value, creator=creator)]


def _action(script: str, tag: int, parameters: Mapping[str, str]) -> tuple[str, str]:
    script = re.sub(r"^@always\(\s*\)", "", script).strip()
    if not script:
        return "empty", ""
    if "@" not in script:
        return "replace", script
    found = _CALL.fullmatch(script)
    if found is None:
        raise ConfigError("scripts of several functions are not taken")
    name = found[1].lower()
    arguments = [part.strip() for part in found[2].split(",")]
    first = arguments[0].lower()
    if name in _SIMPLE:
        return _SIMPLE[name], ""
    if name == "param":
        return "replace", _parameter(arguments[0], parameters)
    if name == "incrementdate" and first == "this" and len(arguments) == 2:
        days = _parameter(arguments[1], parameters)
        if not re.fullmatch(r"[+-]?\d{1,6}", days):
            raise ConfigError("incrementdate takes a whole number of days")
        return "shift", days
    if name == "hashuid" and arguments[-1].lower() == "this":
        return "uid", ""
    if tag in _PATIENT and name in ("hash", "hashname", "hashptid", "lookup"):
        return "pseudonym", ""
    if name == "hash" and first == "this":
        return "hash", ""
    raise ConfigError(f"the function {name!r} is not taken with these arguments")


def _parameter(name: str, parameters: Mapping[str, str]) -> str:
    """Return the value of ``@NAME``, or a text in quotes or a number as it is."""
    if not name.startswith("@"):
        return name.strip('"')
    value = parameters.get(name[1:])
    if not value:
        raise ConfigError(f"the parameter {name[:40]!r} is not set")
    return value


_READERS: Final = {"e": _element, "k": _kept_group, "r": _removed_group}
