"""The statement that PS3.15 E.1.3 asks of who de-identifies: what is removed, replaced, kept, and how."""

from __future__ import annotations

from collections.abc import Iterator

from diana.deid import tables
from diana.deid.options import BASIC_CODE, Option
from diana.deid.plan import Plan
from diana.deid.recipe import Recipe
from diana.deid.setup import table_name

HOW = {
    "age": "kept when it is an age",
    "birth": "year kept, else emptied",
    "clean": "cleaned by a vocabulary and the patient's own identifiers",
    "code": "kept when it has the shape of a code",
    "content": "content tree kept, its texts, names and dates removed",
    "dummy": "replaced by a dummy of its VR",
    "empty": "emptied",
    "graphics": "graphics without their texts",
    "hash": "replaced by a keyed hash",
    "keep": "kept",
    "number": "kept when it is a number",
    "outline": "references kept",
    "pseudonym": "replaced by the pseudonym",
    "remove": "removed",
    "replace": "replaced by the recipe's value",
    "shift": "moved back by the patient's whole weeks",
    "stub": "replaced by a dummy item",
    "subject": "replaced by the pseudonym",
    "term": "kept when it is a defined term",
    "text": "kept when it has the shape of a label",
    "tidy": "kept when it is a date",
    "uid": "replaced by a keyed UID",
    "walk": "kept, its items de-identified",
}

PRIVATE = ", but for those of Table E.3.10-1, the recipe, and what (0008,0300) of the object calls safe"
PROCESS = """\
Every element of the data set, at every depth, goes through the table; a compound action is settled by the Type of the
attribute in the IOD (PS3.3), of an unknown SOP class by Type 2. {mode}
Private elements are removed{private}. References keep their structure; the UIDs in them are replaced like all others.
UIDs become 2.25 and 128 bits of HMAC-SHA256 over the old one, pseudonyms HMAC-SHA256 over issuer and patient id, unless
a registry holds them: both are the same in every run with the same key, whatever the process, order or machine.
Dates: {dates}. Times of day: {times}.
Pixels: {pixels}. Comments in compressed streams, overlays (those in bits of the pixels too), curves and what
follows the data set are removed.
Preamble and File Meta Information are written anew, without application entities and private information.
Inserted are Patient Identity Removed, De-identification Method with its codes, and Longitudinal Temporal Information
Modified, each from what was really done.
Refused are encapsulated documents, video, private SOP classes, DICOMDIR and what cannot be read to its end.
Each output is read again and searched for what identified somebody in its input, in bytes, text and encodings; a hit
holds it back. De-identified is not anonymous: who knows the patient may know the picture.
"""


def statement(recipe: Recipe) -> Iterator[str]:
    """Yield the lines of the statement for a recipe, as Markdown."""
    meanings = tables.code_meanings()
    codes = [BASIC_CODE, *sorted(option.code for option in recipe.options)]
    yield f"# De-identification with the recipe {recipe.name!r}"
    yield ""
    yield f"{table_name()}."
    yield f"Mode {recipe.mode}. Codes of CID 7050 that may be claimed, each only where it was carried out:"
    yield ""
    for code in codes:
        yield f"- {code} {meanings.get(code, '')}".rstrip()
    yield ""
    yield from _process(recipe).splitlines()
    yield ""
    yield "| tag | attribute | Basic Profile | done here |"
    yield "|---|---|---|---|"
    yield from _table(recipe)
    for number, rule in enumerate(recipe.rules, 1):
        what = " ".join(filter(None, (rule.tags, rule.vr, rule.creator and "private")))
        yield f"| {what} | rule {number} of the recipe | | {HOW.get(rule.action, rule.action)} |"


def _table(recipe: Recipe) -> Iterator[str]:
    plan = Plan(recipe, "", ())
    vrs = tables.vrs()
    for row in tables.rows():
        shown = f"({row.tag[:4]},{row.tag[4:]})"
        if "x" in row.tag.lower():
            yield f"| {shown} | {row.name} | {row.basic} | removed |"
            continue
        tag = int(row.tag, 16)
        action = plan.verdict(tag, vrs.get(tag, "UN"), "").action
        yield f"| {shown} | {row.name} | {row.basic} | {HOW.get(action, action)} |"


def _process(recipe: Recipe) -> str:
    options = recipe.options
    dates = "removed, emptied or replaced by the table"
    if Option.FULL_DATES in options:
        dates = "kept where the option says so"
    elif Option.MODIFIED_DATES in options:
        dates = "moved back by whole weeks, 52 to 520 for each patient, so that intervals and days of the week stay"
    strict = "Free text and elements that the table does not list are removed." if recipe.mode == "strict" else ""
    return PROCESS.format(
        mode=strict or "Elements that the table does not list stay.",
        private=PRIVATE if Option.SAFE_PRIVATE in options else "",
        dates=dates,
        times="emptied" if recipe.remove_times else "as the table says, never moved",
        pixels="masked where a rule says so" if Option.CLEAN_PIXEL_DATA in options else "unchanged",
    )
