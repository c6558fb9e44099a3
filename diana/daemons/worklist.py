"""Worklists as people have them: CSV, plain lists and JSON lines, with whatever is wrong in them said row by row."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final  # JSON

from attrs import evolve, field, frozen

from diana.daemons.worklist_text import Record, Table, decoded, is_comment, lines_of
from diana.exceptions import ConfigError
from diana.utils.dicom.ref import is_uid

MAX_BYTES: Final = 256 << 20
MAX_ROWS: Final = 1_000_000
MAX_VALUE: Final = 64
ROLES: Final = ("accession", "study", "patient", "date", "pseudonym")

_NAMES: Final[Mapping[str, Sequence[str]]] = {
    "accession": (
        "accessionnumber",
        "accession",
        "accessionno",
        "accessionnum",
        "accessionid",
        "accno",
        "accnr",
        "accnum",
        "accessionnr",
        "acc",
        "an",
        "examnumber",
        "examid",
    ),
    "study": ("studyinstanceuid", "studyuid", "studyinstanceid", "studyiuid", "siuid", "suid", "uid"),
    "patient": ("patientid", "mrn", "patid", "pid", "medicalrecordnumber", "patientmrn", "mrnumber", "patient"),
    "date": ("studydate", "examdate", "dateofstudy", "dateofexam", "date"),
    "pseudonym": (
        "pseudonym",
        "pseudoid",
        "subjectid",
        "subject",
        "alias",
        "anonymizedid",
        "anonid",
        "newpatientid",
        "newid",
    ),
}
_INVISIBLE: Final = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_WILD: Final = re.compile(r"[*?\\]")
_EXCEL_TEXT: Final = re.compile(r'="?([^"]*)"?')
_EXCEL_FLOAT: Final = re.compile(r"\d+([.,]\d+)?[eE]\+\d+")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TIME: Final = r"([T ].*)?"
_DATES: Final = tuple(
    re.compile(pattern + _TIME, re.IGNORECASE)
    for pattern in (
        r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})",
        r"(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})",
        r"(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<y>\d{4})",
        r"(?P<d>\d{1,2})[- ](?P<m>[a-z]{3})[- ](?P<y>\d{4})",
        r"(?P<m>[a-z]{3}) (?P<d>\d{1,2}), ?(?P<y>\d{4})",
    )
)
_SLASHED: Final = re.compile(r"(?P<a>\d{1,2})[/-](?P<b>\d{1,2})[/-](?P<y>\d{4})" + _TIME)


@frozen
class Row:
    """
    Hold one row of a worklist.

    ``number`` is its line in the file, from 1. ``problem`` says why it cannot be looked for: *blank*, *wildcard* or
    *invalid*; ``reason`` explains it without the value.
    """

    number: int
    accession: str = field(default="", repr=False)
    study: str = field(default="", repr=False)
    patient: str = field(default="", repr=False)
    date: str = field(default="", repr=False)
    pseudonym: str = field(default="", repr=False)
    problem: str = ""
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return what is looked for; rows with the same key ask the same."""
        return (self.accession, self.study, self.patient, self.date)


def read_worklist(path: str | os.PathLike[str], kind: str = "", columns: Mapping[str, str] | None = None) -> list[Row]:
    """
    Read a worklist file: CSV (``,`` ``;`` tab or ``|``), one accession number or study UID per line, or JSON lines.

    ``kind`` (csv, txt, jsonl) is otherwise seen from the text. ``columns`` maps accession, study, patient, date and
    pseudonym to the file's own column names; without it the usual names are known. UTF-8, UTF-16, UTF-32 and,
    failing these, Windows-1252 are read. Lines that begin with ``#`` are no rows. Raises ConfigError when no column can
    be told, the file is a spreadsheet's own or larger than 256 MiB.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the worklist cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"the worklist is larger than {MAX_BYTES >> 20} MiB")
    suffix = Path(path).suffix.lower()
    hint = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}.get(suffix, "")
    return read_text(decoded(data), kind or hint, columns)


def read_text(text: str, kind: str = "", columns: Mapping[str, str] | None = None) -> list[Row]:
    """Read a worklist that is text already; see ``read_worklist``."""
    unknown = sorted(set(columns or ()) - set(ROLES))
    if unknown:
        raise ConfigError(f"unknown column role {unknown[0]!r}; there are {', '.join(ROLES)}")
    if kind not in ("", "csv", "txt", "jsonl"):
        raise ConfigError("a worklist is csv, txt or jsonl")
    if not kind:
        first = next((line.strip() for line in lines_of(text) if line.strip() and not is_comment(line)), "")
        kind = "jsonl" if first.startswith("{") else "csv"
    reader = {"csv": _from_csv, "txt": _from_lines, "jsonl": _from_json}[kind]
    rows = list(reader(text, columns or {}))
    if len(rows) > MAX_ROWS:
        raise ConfigError(f"the worklist has more than {MAX_ROWS} rows")
    return rows


def rows_of(items: Sequence[str]) -> list[Row]:
    """Return rows for accession numbers or study UIDs given one by one."""
    return [_row(number, {_role_of(item): item}) for number, item in enumerate(items, 1)]


def _from_lines(text: str, columns: Mapping[str, str]) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text), 1):
        if not is_comment(line):
            yield _row(number, {_role_of(line): line})


def _from_csv(text: str, columns: Mapping[str, str]) -> Iterator[Row]:
    """Yield the rows of a table with a heading, or of a list of one column without."""
    places: dict[str, int] | None = None
    width, single = 1, set[int]()
    for record in Table(text).records(single):
        cells = record.cells
        if record.problem:
            yield Row(record.line, problem="invalid", reason=record.problem)
        elif not any(map(_cleaned, cells)):
            yield _row(record.line, {})
        elif _is_remark(cells, places):
            continue
        elif places is None:
            found = _places(cells, columns)
            if found is None and sum(bool(_cleaned(cell)) for cell in cells) > 1:
                raise ConfigError("the worklist has several columns and no known heading; name them with columns")
            places, width = found or {}, len(cells) if found else 1
            single.update(places.values())
            if found is None:
                yield _cell(record)
        elif any(map(_cleaned, cells[width:])):
            yield Row(record.line, problem="invalid", reason=f"the row has more than {width} columns, as the list has")
        elif places:
            yield _row(record.line, {role: cells[at] for role, at in places.items() if at < len(cells)})
        else:
            yield _cell(record)


def _cell(record: Record) -> Row:
    value = record.cells[0]
    return _row(record.line, {_role_of(value): value})


def _is_remark(cells: Sequence[str], places: Mapping[str, int] | None) -> bool:
    """Tell whether a row is a comment: it begins with ``#``, where an id would stand or alone."""
    if not is_comment(cells[0]):
        return False
    return not places or 0 in places.values() or not any(map(_cleaned, cells[1:]))


def _places(cells: Sequence[str], columns: Mapping[str, str]) -> dict[str, int] | None:
    """Return role to column of a heading, or None when the cells are no heading."""
    heads = [_folded(cell) for cell in cells]
    found: dict[str, int] = {}
    for role, name in columns.items():
        if _folded(name) not in heads:
            raise ConfigError(f"the worklist has no column for {role} of the given name")
        found[role] = heads.index(_folded(name))
    for role, names in _NAMES.items():
        matching = [heads.index(name) for name in names if name in heads and heads.index(name) not in found.values()]
        if role not in found and matching:
            found[role] = matching[0]
    if not found:
        return None
    if not {"accession", "study", "patient"} & set(found):
        raise ConfigError("the worklist has no column of accession numbers, study UIDs or patient ids")
    return found


def _from_json(text: str, columns: Mapping[str, str]) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text), 1):
        if is_comment(line):
            continue
        if not line.strip():
            yield _row(number, {})
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            data = None
        if isinstance(data, str):
            yield _row(number, {_role_of(data): data})
        elif isinstance(data, Mapping):
            yield _row(number, _values(data, columns))
        else:
            yield Row(number, problem="invalid", reason="the line is no JSON object")


def _values(data: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the values of a JSON object by role; what ``find`` prints has them under ``tags``."""
    tags = data.get("tags")
    flat = {**data, **tags} if isinstance(tags, Mapping) else dict(data)
    by_name = {_folded(str(key)): text for key, value in flat.items() if (text := _plain(value)) is not None}
    found: dict[str, str] = {}
    for role, names in _NAMES.items():
        wanted = [_folded(columns[role])] if role in columns else names
        value = next((by_name[name] for name in wanted if name in by_name), None)
        if value is not None:
            found[role] = value
    return found


def _plain(value: Any) -> str | None:
    """Return a JSON value as text; what a table program wrote as 123.0 is 123. None for what is no text or number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _row(number: int, values: Mapping[str, str]) -> Row:
    """Return a row of cleaned values, with what is wrong with them."""
    clean = {role: _cleaned(value) for role, value in values.items()}
    row = Row(number, **clean)
    searched = {role: value for role, value in clean.items() if role != "pseudonym" and value}
    if not any(role in searched for role in ("accession", "study", "patient")):
        return evolve(row, problem="blank", reason="the row names no study")
    for role, value in searched.items():
        if _WILD.search(value):
            return evolve(row, problem="wildcard", reason=f"the {role} holds a wildcard")
    for role, value in clean.items():
        if _CONTROL.search(value) or len(value) > MAX_VALUE:
            return evolve(row, problem="invalid", reason=f"the {role} holds control characters or is too long")
    if "\\" in row.pseudonym:
        return evolve(row, problem="invalid", reason="the pseudonym holds a backslash")
    if row.study and not is_uid(row.study):
        return evolve(row, problem="invalid", reason="the study UID is no UID")
    if _EXCEL_FLOAT.fullmatch(row.accession) or _EXCEL_FLOAT.fullmatch(row.patient):
        return evolve(row, problem="invalid", reason="a spreadsheet has rounded the number")
    if row.date:
        date = _date(row.date)
        if not date:
            return evolve(row, problem="invalid", reason="the date is none or ambiguous; write 2024-01-31")
        row = evolve(row, date=date)
    if not row.accession and not row.study and not row.date:
        return evolve(row, problem="invalid", reason="a patient id alone names no study; add a date")
    return row


def _cleaned(value: str) -> str:
    text = str(value).translate(_INVISIBLE).replace("\u00a0", " ").strip()
    if text.startswith("="):
        match = _EXCEL_TEXT.fullmatch(text)
        text = match.group(1).strip() if match else text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text.removeprefix("'")


def _date(text: str) -> str:
    """Return a date as YYYYMMDD, or nothing when it is no date or may be read in two ways."""
    for pattern in _DATES:
        if match := pattern.fullmatch(text):
            parts = match.groupdict()
            break
    else:
        if not (match := _SLASHED.fullmatch(text)):
            return ""
        one, two = int(match["a"]), int(match["b"])
        if one <= 12 and two <= 12 and one != two:
            return ""
        parts = {"y": match["y"], "m": str(min(one, two)), "d": str(max(one, two))}
    if parts["m"].lower() in _MONTHS:
        parts["m"] = str(_MONTHS.index(parts["m"].lower()) + 1)
    try:
        return dt.date(int(parts["y"]), int(parts["m"]), int(parts["d"])).strftime("%Y%m%d")
    except ValueError:
        return ""


def _role_of(value: str) -> str:
    text = _cleaned(value)
    return "study" if text.count(".") > 2 and is_uid(text) else "accession"


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.translate(_INVISIBLE).lower())
