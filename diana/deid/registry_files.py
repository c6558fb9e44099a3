"""Files with pseudonyms: CSV with a header, and the lookup tables of CTP."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from diana.deid.registry import Entry
from diana.exceptions import ConfigError
from diana.utils.files import whole_file

MAX_FILE: Final = 256 << 20
MAX_ID: Final = 64  # PS3.5 6.2, LO
COLUMNS: Final = ("patient_id", "pseudonym", "issuer", "name", "weeks", "origin", "key", "first_seen")
FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\\]")
NEW: Final = ("pseudonym", "anon", "new", "subject", "trial", "code", "replacement", "deid")
IDS: Final = ("patientid", "patient", "id", "pid", "ptid", "mrn", "original", "originalid", "phipatientid", "oldid")
ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def read_csv(path: str | os.PathLike[str]) -> list[Entry]:
    """
    Return the entries of a CSV file: a header, then one patient a line.

    Needed are a column of patient ids and one of pseudonyms; an issuer, a name and a shift in weeks may follow. The
    separator is a comma, semicolon or tab. Raises ConfigError with every bad line, none of which is quoted.
    """
    text = _text(path)
    first, _, _ = text.partition("\n")
    separator = max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise ConfigError(f"the table is no CSV: {error}") from None
    if not rows:
        raise ConfigError("the table is empty")
    places = _places(rows[0])
    entries, problems = [], []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        values = {name: row[at].strip() if at < len(row) else "" for name, at in places.items()}
        try:
            entries.append(_entry(values, number, len(row) > len(rows[0])))
        except ConfigError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise ConfigError(problems)
    return entries


def read_ctp(path: str | os.PathLike[str], kind: str = "ptid") -> list[Entry]:
    """
    Return the entries of a CTP lookup table: ``ptid/ORIGINAL=NEW`` lines of a Java properties file.

    Lines of another key type than ``kind`` are left out. Raises ConfigError with every bad line, none of which is
    quoted, and when there is no line of that type.
    """
    entries, problems, others = [], [], set()
    for number, key, value in _properties(_text(path, latin=True)):
        found, slash, original = key.partition("/")
        if not slash:
            problems.append(f"line {number}: no key type before a '/'")
        elif found != kind:
            others.add(found)
        else:
            try:
                entries.append(_entry({"patient_id": original.strip(), "pseudonym": value.strip()}, number))
            except ConfigError as error:
                problems.append(f"line {number}: {error}")
    if not entries and not problems:
        raise ConfigError(f"the table has no line of the key type {kind!r}")
    if problems:
        raise ConfigError(problems)
    return entries


def read_table(path: str | os.PathLike[str]) -> list[Entry]:
    """Return the entries of a file by its kind: ``*.properties`` is CTP's, everything else CSV."""
    return read_ctp(path) if Path(path).suffix.lower() == ".properties" else read_csv(path)


def write_csv(path: str | os.PathLike[str], entries: Iterable[Entry]) -> int:
    """Write entries to a new CSV file of mode 0600 that ``read_csv`` takes; return how many."""
    count = 0
    try:
        with whole_file(Path(path)) as out:
            text = io.TextIOWrapper(out, encoding="utf-8", newline="")
            writer = csv.writer(text)
            writer.writerow(COLUMNS)
            for count, one in enumerate(entries, 1):  # noqa: B007  # the count is the result
                seen = datetime.fromtimestamp(one.at, timezone.utc).isoformat(timespec="seconds")
                writer.writerow(
                    (one.patient_id, one.pseudonym, one.issuer, one.name, one.weeks, one.origin, one.key, seen)
                )
            text.flush()
            text.detach()
    except OSError as error:
        raise ConfigError(f"the table cannot be written: {error.strerror}") from None
    return count


def _text(path: str | os.PathLike[str], *, latin: bool = False) -> str:
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"the table cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise ConfigError("the table is too large")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if latin:
            return data.decode("latin-1")
        raise ConfigError("the table is not in UTF-8") from None


def _places(header: list[str]) -> Mapping[str, int]:
    """Return which column holds what. Raises ConfigError when the first line is no header."""
    found: dict[str, int] = {}
    for at, cell in enumerate(header):
        word = re.sub(r"[^a-z]", "", cell.lower())
        kind = _kind(word)
        if kind and kind not in found:
            found[kind] = at
    if "patient_id" not in found or "pseudonym" not in found:
        raise ConfigError("line 1 is no header: it names the columns, such as 'Patient ID,Pseudonym'")
    return found


def _kind(word: str) -> str:
    if word in ("weeks", "origin", "key", "firstseen"):
        return word if word in ("weeks", "origin") else ""
    if "issuer" in word:
        return "issuer"
    if "name" in word:
        return "name" if word in ("name", "pseudonymname", "newname", "anonname", "anonpatientname") else ""
    if any(one in word for one in NEW) and word not in IDS:
        return "pseudonym"
    return "patient_id" if word in IDS else ""


def _entry(values: Mapping[str, str], number: int, too_long: bool = False) -> Entry:
    original, new = values["patient_id"], values["pseudonym"]
    if too_long:
        raise ConfigError("more columns than the header")
    if not original or not new:
        raise ConfigError("the patient id or the pseudonym is empty")
    if any(len(one) > MAX_ID or FORBIDDEN.search(one) for one in (original, new, values.get("name", ""))):
        raise ConfigError(f"more than {MAX_ID} letters, a backslash or a control character")
    if original == new:
        raise ConfigError("the pseudonym is the patient id itself")
    weeks = values.get("weeks") or None
    if weeks is not None and not re.fullmatch(r"-?[0-9]{1,4}", weeks):
        raise ConfigError("the shift is not a number of weeks")
    return Entry(
        original,
        new,
        values.get("issuer", ""),
        values.get("name", ""),
        None if weeks is None else int(weeks),
        "alias" if values.get("origin") == "alias" else "imported",
        line=number,
    )


def _properties(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line number, key and value of a Java properties file."""
    whole, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        part = line.lstrip(" \t\f")
        if not whole and (not part or part[0] in "#!"):
            continue
        first = first or number
        whole += part
        if (len(whole) - len(whole.rstrip("\\"))) % 2:
            whole = whole[:-1]
            continue
        yield (first, *_pair(whole))
        whole, first = "", 0
    if whole:
        yield (first, *_pair(whole))


def _pair(line: str) -> tuple[str, str]:
    at = 0
    while at < len(line) and line[at] not in "=: \t\f":
        at += 2 if line[at] == "\\" else 1
    rest = line[at:].lstrip(" \t\f")
    value = rest[1:].lstrip(" \t\f") if rest[:1] in ("=", ":") else rest
    return _unescaped(line[:at]), _unescaped(value)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.)|$)", _escape, text)


def _escape(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    letter = match[2] or ""
    return ESCAPES.get(letter, letter)
