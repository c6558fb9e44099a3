"""Which action an element takes: the table settled by Type, then what the table leaves open, then the recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from diana.deid import tables
from diana.deid.allowed import CODE_TAGS, allowed_tags
from diana.deid.options import Option
from diana.deid.raw import LONG, SHORT
from diana.deid.recipe import Recipe, Rule

if TYPE_CHECKING:
    from diana.deid.characteristics import Block

TEXT: Final = frozenset(("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
DATES: Final = frozenset(("DA", "DT", "TM"))
_VRS: Final = frozenset((*SHORT.values(), *LONG.values())) - {"UN"}
_LETTERS: Final = TEXT | DATES | {"AS", "CS", "DS", "IS", "UI"}
CHECKED: Final = {"CS": "term", "DS": "number", "IS": "number", "AS": "age"}

CONTENT_SEQUENCE: Final = 0x0040A730
GRAPHIC_ANNOTATIONS: Final = 0x00700001
PATIENT_NAME: Final = 0x00100010
PATIENT_ID: Final = 0x00100020
BIRTH_DATE: Final = 0x00100030
_SUBJECT_IDS: Final = frozenset((PATIENT_ID, 0x00120040))
ENCRYPTED: Final = 0x04000500
BARE_REFERENCES: Final = ("00081140.", "00082112.")  # Table E.1-1 keeps them for their UIDs
PRESENTATION: Final = "1.2.840.10008.5.1.4.1.1.11."
# attributes with a plain X that are Type 1 in some IODs, where nothing else may stand for them
_TYPE_1: Final = {
    PRESENTATION: frozenset(("00700082", "00700083")),
    "1.2.840.10008.5.1.4.1.1.130": frozenset(("00540016.00181078",)),
}
_LINKS: Final = frozenset((0x00620020,))  # Tracking ID: equal values belong together

# UIDs that name kinds of things, not things (no row in the table)
KINDS: Final = frozenset(
    (
        *(0x00080016, 0x0008001A, 0x0008001B, 0x00080062, 0x0008010C, 0x0008010D, 0x00080117, 0x00080118, 0x0008040E),
        *(0x00081150, 0x0008115A, 0x00083002, 0x00340003, 0x04000010, 0x04000510, 0x30100052, 0x30100053),
    )
)
MARKERS: Final = frozenset((0x00120062, 0x00120063, 0x00120064, 0x00280303))

# how much of the original an action leaves
RANK: Final = {
    "remove": 0, "empty": 1, "dummy": 2, "replace": 2, "uid": 2, "subject": 2, "stub": 2, "content": 2,
    "graphics": 2, "outline": 2, "walk": 2, "birth": 3, "hash": 3, "shift": 4, "tidy": 5, "clean": 5, "text": 6,
    "code": 6, "term": 6, "number": 6, "age": 6, "keep": 7,
}  # fmt: skip


class Verdict(NamedTuple):
    """
    Say what is done to an element, why, and what instead when its value cannot be treated so.

    Actions beyond those of a recipe: ``text``, ``code``, ``term``, ``number``, ``age`` keep what has the shape of such;
    ``tidy`` keeps dates and times that are ones; ``stub`` keeps the structure of a sequence with dummies in it;
    ``content`` and ``graphics`` do the same for content trees and graphics, ``outline`` leaves of a content tree the
    references; ``walk`` is a sequence kept for its items; ``subject`` is the pseudonym of the patient, ``birth`` keeps
    the year.
    """

    action: str
    rule: str
    fallback: str = "remove"
    value: str = ""
    loosens: bool = False
    quiet: bool = False  # what passes is not counted


KEEP: Final = Verdict("keep", "kept: not in Table E.1-1", quiet=True)
REMOVE_UNKNOWN: Final = Verdict("remove", "strict: unknown attribute")


class Plan:
    """
    Decide for the objects of one SOP class under a recipe.

    ``rules`` are those of the recipe whose ``when`` the object meets.
    """

    def __init__(self, recipe: Recipe, sop_class: str, rules: Iterable[Rule]) -> None:
        self.recipe = recipe
        self.strict = recipe.mode == "strict"
        self.types = tables.types_of(sop_class)
        self.sop_class = sop_class
        self.rules = [(rule, rule.pattern(), number) for number, rule in enumerate(rules, 1)]
        self.vrs = tables.vrs()
        self.safe_private = Option.SAFE_PRIVATE in recipe.options
        self.creators = self.safe_private or any(rule.creator or _may_be_private(rule) for rule, _, _ in self.rules)
        self._rows = tables.by_tag()
        self._allowed = allowed_tags()
        self._text_types = tables.text_types()
        self._columns = {option.column: option for option in recipe.options if option.column}
        self._cache: dict[tuple[int, str, str], Verdict] = {}

    def verdict(self, tag: int, vr: str, prefix: str) -> Verdict:
        """Return what to do with an element of the standard; ``prefix`` are the tags of the sequences around it."""
        found = self._cache.get((tag, vr, prefix))
        if found is None:
            found = self._decided(tag, vr, prefix)
            if len(self._cache) < 50_000:
                self._cache[tag, vr, prefix] = found
        return found

    def private(self, tag: int, vr: str, creator: str, stated: Block | None = None) -> Verdict:
        """Return what to do with a private element that has a creator; ``stated`` is what its own object says of it."""
        found = Verdict("remove", "E.1-1: private X")
        if self.safe_private:
            safe = self._vouched(tag, creator)
            said = stated.action(tag & 0xFF) if stated is not None and safe is None else ""
            if stated is not None and said == "keep":
                found = self._private_by_vr(_known_vr(vr, tag, creator, stated), "E.3.10: (0008,0300) says safe")
            elif said:
                found = self._identifying(said, vr)
            else:
                safe = tables.safe_private().get((creator, tag >> 16, tag & 0xFF)) if safe is None else safe
                if safe is not None and _agree(safe, vr):
                    found = self._private_by_vr(safe or vr, "E.3.10: safe private C")
        return self._ruled(found, tag, vr, creator, listed=True)

    def _vouched(self, tag: int, creator: str) -> str | None:
        """Return the VR that the recipe gives to an element that it names as safe."""
        group, element = tag >> 16, tag & 0xFF
        for mine in self.recipe.safe_private:
            if mine.creator == creator and mine.group == group and mine.element in (None, element):
                return mine.vr
        return None

    def _identifying(self, said: str, vr: str) -> Verdict:
        """Return the action that the object itself asks for, where the element can bear it (PS3.3 C.12.1)."""
        rule = "E.3.10: (0008,0307) of the object"
        if said == "uid" and vr == "UI":
            return Verdict("keep" if Option.UIDS in self.recipe.options else "uid", rule)
        if said == "empty" or (said == "dummy" and vr not in ("", "UN", "??", "UI")):
            return Verdict(said, rule)
        return Verdict("remove", rule)

    def _private_by_vr(self, vr: str, rule: str) -> Verdict:
        if vr in DATES:
            return self._date(rule, vr, "remove")
        if vr == "UI":
            return Verdict("uid", rule) if Option.UIDS not in self.recipe.options else Verdict("keep", rule)
        if vr == "PN":
            return Verdict("remove", rule)
        if vr in TEXT:
            return Verdict("text", rule)
        return Verdict(CHECKED.get(vr, "keep"), rule)

    def _decided(self, tag: int, vr: str, prefix: str) -> Verdict:
        row = self._rows.get(tag)
        group = tag >> 16
        if row is not None and group not in (0x0000, 0x0002, 0x0004):
            found = self._listed(row, tag, vr, prefix)
        elif tag in MARKERS:
            found = Verdict("remove", "written anew")
        elif group & 0xFF00 in (0x5000, 0x6000) and group <= 0x60FF:
            found = Verdict("remove", "E.1-1: overlay or curve X, with what describes it")
        elif group < 0x0008 or group == 0xFFFC:
            found = Verdict("remove", "container: not of a data set")
        elif self.strict and prefix.endswith(BARE_REFERENCES) and (tag in CODE_TAGS or tag in self._allowed):
            found = Verdict("remove", "strict: no part of a reference")
        else:
            found = self._unlisted(tag, vr)
        return self._ruled(found, tag, vr, "", listed=row is not None)

    def _listed(self, row: tables.Row, tag: int, vr: str, prefix: str) -> Verdict:
        basic, why = self._settled(row, tag, vr, prefix)
        rule = f"E.1-1: {row.basic}{why}"
        codes = {option: row.options[column] for column, option in self._columns.items() if column in row.options}
        if not codes:
            return Verdict(basic, rule)
        named = ", ".join(f"{option.value} {code}" for option, code in sorted(codes.items()))
        if codes.get(Option.MODIFIED_DATES) == "C":
            return self._date(f"E.1-1: {named}", vr, basic)
        if "K" in codes.values():
            if Option.FULL_DATES in codes and vr in DATES:
                return self._date(f"E.1-1: {named}", vr, basic)
            return Verdict("age" if vr == "AS" else "keep", f"E.1-1: {named}", basic)
        return Verdict(self._cleaned(tag, vr, codes, basic), f"E.1-1: {named}", basic)

    def _cleaned(self, tag: int, vr: str, codes: dict[Option, str], basic: str) -> str:
        if tag == GRAPHIC_ANNOTATIONS:
            return "graphics"
        if Option.CLEAN_STRUCTURED_CONTENT in codes:
            return "content"
        if vr == "AE":
            return "hash"
        return "clean" if vr in TEXT else basic

    def _settled(self, row: tables.Row, tag: int, vr: str, prefix: str) -> tuple[str, str]:
        """Return the action of the Basic Profile, with the reason where it depends on the Type."""
        code, why = row.basic, ""
        if code == "X" and f"{prefix}{tag:08X}" in _TYPE_1.get(self.sop_class[: len(PRESENTATION)], ()):
            code, why = "D", ", Type 1: D"
        if code == "X/Z/U*":
            return "walk", ", its UIDs U"
        if "/" in code:
            code, kind = self._by_type(code, tag, prefix)
            why = f", Type {kind}: {code}"
        if tag == PATIENT_NAME or tag in _SUBJECT_IDS:
            return "subject", why
        if tag == BIRTH_DATE and self.recipe.keep_year_of_birth:
            return "birth", ", year kept by the recipe"
        if code == "U" or (vr == "UI" and code != "X"):
            return ("keep" if Option.UIDS in self.recipe.options and row.options else "uid"), why
        if code == "D":
            return _dummy_of(tag, vr), why
        return {"X": "remove", "Z": "empty"}[code], why

    def _by_type(self, code: str, tag: int, prefix: str) -> tuple[str, str]:
        unknown = "" if prefix else "2"
        kind = unknown if self.types is None else self.types.get(f"{prefix}{tag:08X}", "")[:1]
        choices = code.split("/")
        if kind == "1":
            wanted = "D"
        elif kind == "2":
            wanted = "Z"
        else:
            wanted = "X" if "X" in choices else "Z"
        if wanted not in choices:
            wanted = "D" if "D" in choices else "Z" if kind == "2" else "D"
        return wanted, kind or "3"

    def _date(self, rule: str, vr: str, basic: str) -> Verdict:
        options = self.recipe.options
        if vr == "TM" and self.recipe.remove_times:
            return Verdict("empty" if basic != "dummy" else basic, "recipe: no times")
        if vr in DATES and Option.FULL_DATES in options:
            return Verdict("tidy", rule, basic)
        if vr in DATES and Option.MODIFIED_DATES in options:
            return Verdict("shift", rule, basic)
        return Verdict(basic, rule)

    def _unlisted(self, tag: int, vr: str) -> Verdict:
        known = self.vrs.get(tag, "")
        if vr not in _LETTERS and known in _LETTERS:
            vr = known  # text that claims to be bytes or numbers
        if vr == "UI":
            kept = tag in KINDS or Option.UIDS in self.recipe.options
            return KEEP if kept else Verdict("uid", "supplement: a UID like those in Table E.1-1")
        if vr == "PN":
            return Verdict(self._gone(tag), "supplement: a person's name")
        if not self.strict:
            return KEEP
        if tag == ENCRYPTED:
            return Verdict("remove", "strict: nobody can tell what is encrypted")
        if tag not in self.vrs or vr in ("", "UN", "??"):
            return REMOVE_UNKNOWN
        if known == "SQ" and vr != "SQ":
            return Verdict("remove", "strict: not the sequence that it should be")
        if vr in DATES:
            return self._date("strict: a date or time", vr, self._gone(tag))
        if vr in TEXT:
            if tag in CODE_TAGS:
                return Verdict("code", "strict: part of a code", "hash", quiet=True)
            if tag in self._allowed:
                return Verdict("text", "strict: technical text of plain shape", self._gone(tag), quiet=True)
            return Verdict(self._gone(tag), "strict: free text that no list allows")
        if vr in CHECKED:
            return Verdict(CHECKED[vr], "kept: not in Table E.1-1", "empty", quiet=True)
        return KEEP

    def _gone(self, tag: int) -> str:
        """Return how an unlisted attribute goes, so that one of Type 1 or 2 stays valid."""
        if tag in _LINKS:
            return "hash"
        return {"1": "dummy", "2": "empty"}.get(self._text_types.get(tag, ""), "remove")

    def _ruled(self, found: Verdict, tag: int, vr: str, creator: str, *, listed: bool) -> Verdict:
        """Let the last rule of the recipe that fits have its way."""
        for rule, pattern, number in reversed(self.rules):
            if _fits(rule, pattern, tag, vr, creator):
                action = "subject" if rule.action == "pseudonym" else rule.action
                loosens = listed and RANK[action] > RANK[found.action]
                return Verdict(action, f"recipe: rule {number}", found.action, rule.value, loosens)
        return found


def _dummy_of(tag: int, vr: str) -> str:
    if tag == CONTENT_SEQUENCE:
        return "outline"
    if tag == GRAPHIC_ANNOTATIONS:
        return "graphics"
    return "stub" if vr == "SQ" else "dummy"


def _known_vr(vr: str, tag: int, creator: str, stated: Block) -> str:
    """Return the VR of an element that its object calls safe; that of plain text when none is told."""
    if vr not in ("", "UN", "??"):
        return vr
    told = tables.safe_private().get((creator, tag >> 16, tag & 0xFF), "") or stated.vrs.get(tag & 0xFF, "")
    return told if told in _VRS else "LO"


def _agree(safe: str, vr: str) -> bool:
    """Tell whether the VR of a private element is the one that is known to be safe, or is not told."""
    return vr in ("", "UN", safe) or not safe or {safe, vr} <= {"OB", "OW"} or (safe in TEXT and vr in TEXT)


def _may_be_private(rule: Rule) -> bool:
    pattern = rule.pattern()
    return not pattern or pattern[3] == "x" or int(pattern[3], 16) & 1 == 1


def _fits(rule: Rule, pattern: str, tag: int, vr: str, creator: str) -> bool:
    if rule.vr and rule.vr != vr:
        return False
    if rule.creator and rule.creator != creator:
        return False
    if tag >> 16 & 1 and not (rule.creator or pattern):
        return False
    if not pattern:
        return True
    text = f"{tag:08X}"
    return all(wanted in ("x", digit) for wanted, digit in zip(pattern, text, strict=True))
