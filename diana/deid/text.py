"""Clean the text of reports into the pseudonyms of their patients, and check that nothing of them is left."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final  # documents hold any value

from attrs import field, frozen

from diana.deid.redaction import WORD, Redaction, replaced, template
from diana.deid.regexes import safe_pattern
from diana.deid.result import Quarantined, Reason
from diana.deid.scan import Identifiers
from diana.deid.scan_probes import kind_of
from diana.exceptions import ConfigError, InvalidItem
from diana.utils.dicom.dictionary import tag_of, vr_of

if TYPE_CHECKING:
    from diana.deid.pseudonyms import Subject
    from diana.dixel import Dixel, RadiologyReport

BUILTIN: Final = Path(__file__).with_name("text_patterns.yml")
MAX_TEXT: Final = 4 << 20
LINE: Final = 400
OVERLAP: Final = 150
OLDEST: Final = 89
_NAME, _PATIENT_ID, _BIRTH, _DATE, _ADDRESS = 0x00100010, 0x00100020, 0x00100030, 0x00080020, 0x00101040
_INSTITUTION, _STUDY_UID = 0x00080080, 0x0020000D
_PUT: Final = {
    "name": "[name]",
    "id": "[id]",
    "uid": "[uid]",
    "birth": "[date]",
    "date": "[date]",
    "phone": "[phone]",
    "address": "[address]",
    "institution": "[place]",
    "text": "[removed]",
}
_TAGS_KEPT: Final = ("PatientSex", "Modality", "StudyDescription")
_META_KEPT: Final = ("OrderCode", "BodyParts", "CPTCodes", "MontageCPTCodes", "PatientStatus")


@frozen
class Pattern:
    """Say what is looked for in each line of a report, and what is put in its place; ``put`` may refer to groups."""

    find: str
    put: str = "[removed]"
    case: bool = False
    name: str = ""

    def finds(self, line: str) -> Iterator[re.Match[str]]:
        """
        Yield what is found in a line; a long one is searched in pieces that overlap.

        Raises ConfigError for a pattern that is not taken.
        """
        pattern = safe_pattern(self.find, ignore_case=not self.case)
        if len(line) <= LINE:
            yield from (match for match in pattern.finditer(line) if match.end() > match.start())
            return
        at = 0
        while at < len(line):
            end = min(at + LINE, len(line))
            match = pattern.search(line, at, end)
            if match is None or match.end() == match.start():
                at = end if end == len(line) else end - OVERLAP
            elif match.end() == end < len(line) and match.start() > at:
                at = match.start()  # it may go on
            else:
                yield match
                at = match.end()


def _as_texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(one) for one in values if one)


@frozen
class Known:
    """
    Hold what is known of the patient of a report; the values are in no ``repr``.

    ``names`` are DICOM names (``LAST^FIRST``) of the patient and of others, ``ids`` any further numbers (accession,
    order), ``births`` and ``dates`` as YYYYMMDD, ``others`` phones and addresses, ``places`` institutions and stations.
    """

    patient_id: str = field(default="", repr=False)
    names: tuple[str, ...] = field(default=(), converter=_as_texts, repr=False)
    ids: tuple[str, ...] = field(default=(), converter=_as_texts, repr=False)
    births: tuple[str, ...] = field(default=(), converter=_as_texts, repr=False)
    dates: tuple[str, ...] = field(default=(), converter=_as_texts, repr=False)
    others: tuple[str, ...] = field(default=(), converter=_as_texts, repr=False)
    places: tuple[str, ...] = field(default=(), converter=_as_texts, repr=False)
    uids: tuple[str, ...] = field(default=(), converter=_as_texts, repr=False)

    def identifiers(self) -> Identifiers:
        """Return what to look for."""
        held = (
            (_NAME, "PN", self.names),
            (_PATIENT_ID, "LO", (self.patient_id, *self.ids)),
            (_BIRTH, "DA", self.births),
            (_DATE, "DA", self.dates),
            (_ADDRESS, "LO", self.others),
            (_INSTITUTION, "LO", self.places),
            (_STUDY_UID, "UI", self.uids),
        )
        return _identifiers((tag, vr, text) for tag, vr, texts in held for text in texts)


def _identifiers(values: Iterable[tuple[int, str, str]]) -> Identifiers:
    return Identifiers.of([(tag, vr, text.encode("utf-8")) for tag, vr, text in values if text], "ISO_IR 192")


def clean_report(
    report: RadiologyReport | str,
    subject: Subject | None,
    known: Known | Identifiers,
    patterns: Iterable[Pattern] | None = None,
) -> str:
    """
    Return the text of a report without what identifies its patient, ending in LF.

    What is known of the patient is replaced wherever it stands, whatever case and accents: the id by the pseudonym,
    the rest by a word in brackets; then the patterns are applied line by line. What was put in is not searched, neither
    now nor when the result is cleaned again for the same subject. Raises Quarantined *leak* when something
    that is known is still there, InvalidItem for a text of more than 4 Mi characters. Free text can name a patient in
    ways that no pattern knows: read what leaves the house.
    """
    text = report if isinstance(report, str) else report.text
    if len(text) > MAX_TEXT:
        raise InvalidItem(f"a report is longer than {MAX_TEXT} characters")
    wanted = known.identifiers() if isinstance(known, Known) else known
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", ""))
    used = builtin_patterns() if patterns is None else tuple(patterns)
    found = Redaction(text)
    found.keep(_words_of(used))
    if subject is not None:
        found.keep((subject.pseudonym, subject.name))
    if isinstance(known, Known) and known.patient_id and subject is not None:
        found.known(_identifiers([(_PATIENT_ID, "LO", known.patient_id)]), {"id": subject.pseudonym})
    found.known(wanted, _PUT)
    _by_patterns(found, used)
    if hits := wanted.in_text(found.result(silent=True)):
        kinds = ", ".join(sorted({hit.kind for hit in hits}))
        raise Quarantined(Reason.LEAK, f"something of the patient is left in the text of a report: {kinds}")
    return found.result().strip() + "\n"


def clean_study(
    dixel: Dixel,
    subject: Subject,
    *,
    accession: str = "",
    patterns: Iterable[Pattern] | None = None,
    known: Known | None = None,
) -> Dixel:
    """
    Return a study of a report archive (``Montage``) under its pseudonym, with its report cleaned.

    Names, dates, organization and all other free values go; sex, modality, procedure codes and the age, at most 90,
    stay. The description is cleaned as the report is. ``accession`` is the new accession number, empty when there is
    none. Raises as ``clean_report``.
    """
    from diana.dixel import Dixel, RadiologyReport

    wanted = known or known_of(dixel)
    used = builtin_patterns() if patterns is None else tuple(patterns)
    tags: dict[str, Any] = {key: dixel.tags[key] for key in _TAGS_KEPT if dixel.tags.get(key)}
    if "StudyDescription" in tags:
        tags["StudyDescription"] = clean_report(str(tags["StudyDescription"]), subject, wanted, used).strip()
    tags.update(PatientID=subject.pseudonym, PatientName=subject.name, AccessionNumber=accession)
    meta: dict[str, Any] = {key: dixel.meta[key] for key in _META_KEPT if dixel.meta.get(key) is not None}
    age = re.fullmatch(r"\s*0*(\d{1,3})\s*[Yy]?\s*", str(dixel.meta.get("PatientAge") or ""))
    if age:
        meta["PatientAge"] = str(min(int(age[1]), OLDEST + 1))
    text = dixel.report.text if dixel.report is not None else str(dixel.meta.get("ReportText") or "")
    cleaned = clean_report(text, subject, wanted, used)
    meta["ReportText"] = cleaned
    made = Dixel(meta=meta, tags=tags, level=dixel.level)
    made.report = RadiologyReport(cleaned)
    return made


def known_of(dixel: Dixel) -> Known:
    """Return what tags and meta of a study tell about its patient, to be looked for in its report."""
    held: Mapping[str, Any] = {**dixel.meta, **dixel.tags}
    studied = held.get("StudyDateTime") or held.get("StudyDate")
    found: dict[str, list[Any]] = {
        "name": [held.get(key) for key in ("PatientName", "ReferringPhysicianName", "ReadingPhysiciansName")],
        "id": [held.get("AccessionNumber")],
        "birth": [_plain_date(held.get("PatientBirthDate"))],
        "date": [_plain_date(studied)],
        "address": [],
        "institution": [held.get("Organization")],
        "uid": [],
    }
    for keyword, value in dixel.tags.items():
        tag, vr = _dictionary_of(keyword)
        kind = kind_of(tag, vr) if vr else ""
        kind = "address" if kind == "phone" else kind
        if kind in found:
            found[kind] += [_plain_date(one) for one in (value if isinstance(value, list | tuple) else [value])]
    return Known(str(held.get("PatientID") or ""), *found.values())


def _plain_date(value: Any) -> str:
    """Return a date as YYYYMMDD, or the text that it is."""
    return value.strftime("%Y%m%d") if hasattr(value, "strftime") else str(value or "")


def _dictionary_of(keyword: str) -> tuple[int, str]:
    """Return tag and VR of a keyword, no VR for what is none."""
    tag = tag_of(keyword)
    return (0, "") if tag is None else (tag, vr_of(tag))


@lru_cache(maxsize=1)
def builtin_patterns() -> tuple[Pattern, ...]:
    """Return the patterns that ship with the package: English, some German, French and Spanish."""
    return load_patterns(BUILTIN)


def load_patterns(path: str | os.PathLike[str]) -> tuple[Pattern, ...]:
    """
    Return the patterns in a YAML file, in their order.

    Each is a mapping with ``find``, ``put``, ``case`` and ``name``; with ``builtin: true`` those that ship follow.
    Raises ConfigError with every problem.
    """
    from diana.utils.endpoint.documents import load_document, unknown_keys

    document = load_document(path)
    problems = [f"{path}: {problem}" for problem in unknown_keys(document, ("patterns", "builtin"))]
    entries = document.get("patterns") or []
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) for one in entries):
        raise ConfigError([*problems, f"{path}: patterns is a list of mappings"])
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}: pattern {number}: "
        problems += [where + problem for problem in unknown_keys(entry, ("find", "put", "case", "name"))]
        pattern = Pattern(
            str(entry.get("find") or ""),
            str(entry.get("put", "[removed]")),
            entry.get("case") is True,
            str(entry.get("name") or ""),
        )
        problems += [where + problem for problem in _pattern_problems(pattern)]
        found.append(pattern)
    if problems:
        raise ConfigError(problems)
    return (*found, *(builtin_patterns() if document.get("builtin") is True else ()))


def _pattern_problems(pattern: Pattern) -> list[str]:
    if not pattern.find:
        return ["needs 'find'"]
    try:
        made = safe_pattern(pattern.find, ignore_case=not pattern.case)
        if made.match("") is not None:
            return ["matches an empty text"]
        named = [int(one) for one in re.findall(r"\\(\d{1,2})", pattern.put)]
        if any(not 0 < one <= made.groups for one in named) or re.search(r"\\[^\d\\]", pattern.put):
            return ["'put' refers to a group that is not there"]
        if named != sorted(set(named)):
            return ["'put' refers to its groups in their order, to each once"]
    except ConfigError as error:
        return error.problems
    return []


def _words_of(patterns: Iterable[Pattern]) -> set[str]:
    """Return the words in brackets that patterns, and what is known, put into a text."""
    literals = (part for one in patterns for part in template(one.put) if isinstance(part, str))
    return {*_PUT.values(), *(word for part in literals for word in WORD.findall(part))}


def _by_patterns(found: Redaction, patterns: Sequence[Pattern]) -> None:
    """Replace what the patterns find, line by line."""
    at = 0
    for line in found.text.split("\n"):
        for pattern in patterns:
            for match in pattern.finds(found.view(at, at + len(line))):
                for begin, stop, put in replaced(match, pattern.put):
                    found.replace(at + begin, at + stop, put)
        at += len(line) + 1
