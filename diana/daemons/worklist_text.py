"""The text of a worklist whatever wrote it: its encoding, its lines, the records of its table."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from attrs import field, frozen

from diana.exceptions import ConfigError

LONGEST_RECORD: Final = 100
SAMPLE: Final = 4096
DELIMITERS: Final = ",;\t|"

_LINE: Final = re.compile(r"\r\n|\r|\n")
_SEP: Final = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE)
_BOMS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN: Final = (
    (b"PK\x03\x04", "a spreadsheet or a ZIP file"),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "compressed"),
    (b"SQLite format 3\0", "a database"),
)


@frozen
class Record:
    """Hold the cells of one row of a table and the line where it begins, or why they cannot be told."""

    line: int
    cells: Sequence[str] = field(default=(), repr=False)
    problem: str = ""


def decoded(data: bytes) -> str:
    """Return text whatever the usual encoding of the bytes. Raises ConfigError for what is no text."""
    for magic, what in _FOREIGN:
        if data.startswith(magic):
            raise ConfigError(f"the worklist is {what}; save it as CSV")
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data.decode(encoding, "replace")
    sample = data[:SAMPLE]
    for at, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if sample[at::2].count(0) > len(sample) // 4:
            return data.decode(encoding, "replace")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def lines_of(text: str) -> list[str]:
    """Return the lines of a text; only CR and LF end one."""
    lines = _LINE.split(text)
    return lines[:-1] if lines and not lines[-1] else lines


def is_comment(line: str) -> bool:
    """Tell whether a line is a comment."""
    return line.lstrip().startswith("#")


class Table:
    """
    Give the records of a table, each once.

    A quotation mark that is never closed spoils its own line only; the lines after it are read on. A spreadsheet's line
    ``sep=;`` says what stands between the cells; else that is what occurs most in the first line.
    """

    def __init__(self, text: str) -> None:
        self._lines = lines_of(text.replace("\0", "\x01"))
        self._begin = 0
        first = next((line for line in self._lines if line.strip() and not is_comment(line)), "")
        if match := _SEP.fullmatch(first):
            self._delimiter, self._begin = match.group(1), self._lines.index(first) + 1
            return
        self._delimiter = max(DELIMITERS, key=first.count)
        if not first.count(self._delimiter):
            self._delimiter = ","

    def records(self, single: Collection[int]) -> Iterator[Record]:
        """Yield the records; ``single``, which may fill meanwhile, names the columns whose cells have one line."""
        csv.field_size_limit(1 << 20)
        at, width = self._begin, 0
        while at < len(self._lines):
            cells, used = self._record(at)
            if cells is not None and used > 1 and not self._belong(at, used, cells, single, width):
                cells, used = None, 1
            if cells is None:
                yield Record(at + 1, problem="a quotation mark is not closed")
            else:
                width = width or len(cells)
                yield Record(at + 1, cells)
            at += used

    def _record(self, at: int) -> tuple[list[str] | None, int]:
        """Return the cells of the record that begins at a line, and the number of its lines."""
        part = self._lines[at : at + LONGEST_RECORD]
        reader = csv.reader((f"{line}\n" for line in part), delimiter=self._delimiter)
        try:
            cells = next(reader)
        except (csv.Error, StopIteration):
            return None, 1
        used = reader.line_num
        if used == len(part) and sum(line.count('"') for line in part) % 2:
            return None, 1
        return cells, used

    def _belong(self, at: int, used: int, cells: Sequence[str], single: Collection[int], width: int) -> bool:
        """Tell whether several lines are one record, and not rows between two stray quotation marks."""
        if len(cells) == 1 or any("\n" in cells[one] for one in single if one < len(cells)):
            return False
        lines = self._lines[at : at + used]
        try:
            # a closing mark in mid-text was meant to open
            next(csv.reader((f"{line}\n" for line in lines), delimiter=self._delimiter, strict=True))
        except csv.Error:
            return False
        return not any(line.count(self._delimiter) + 1 >= max(width, 2) for line in lines[1:-1])
