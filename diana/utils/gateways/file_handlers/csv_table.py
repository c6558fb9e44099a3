"""Tables of texts in CSV files (RFC 4180): read strictly, written whole or appended durably, safe in spreadsheets."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

from diana.exceptions import InvalidItem
from diana.utils.files import whole_file

log = logging.getLogger(__name__)

MAX_CELL = 131_072
MAX_TABLE = 1 << 30
DELIMITERS = ",;\t|"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?\Z")
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))

Row = dict[str, str]


@frozen
class Table:
    """Hold what a file says; ``plain`` tells that a row may be appended as it is (comma, UTF-8, ended by a newline)."""

    columns: list[str] = field(factory=list)
    rows: list[Row] = field(factory=list, repr=False)
    plain: bool = False


def escape(text: str) -> str:
    """
    Return a cell that no spreadsheet takes for a formula: an apostrophe goes before ``= + - @``, tab and newlines.

    Numbers stay as they are. ``unescape`` gives every text back.
    """
    risky = text.lstrip("'").startswith(FORMULA) and not NUMBER.match(text)
    return f"'{text}" if risky else text


def unescape(cell: str) -> str:
    """Return the text that was escaped."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(FORMULA) else cell


def check_cell(text: str, where: str) -> str:
    """Return a text that a cell can hold. Raises InvalidItem for NUL, lone surrogates and over MAX_CELL characters."""
    if len(text) > MAX_CELL:
        raise InvalidItem(f"{where} is longer than {MAX_CELL} characters")
    if "\0" in text:
        raise InvalidItem(f"{where} holds a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidItem(f"{where} is not valid Unicode") from None
    return text


def read_table(path: Path) -> Table:
    """
    Return the table of a file; comma, semicolon, tab or bar between cells, UTF-8 or UTF-16 by its byte order mark.

    A last row that was cut in the middle by a crash (no newline, fewer cells than the header) is left out with a
    warning. Raises InvalidItem with the row number, the header being row 1; OSError.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_TABLE:
        raise InvalidItem("the table is no file, or larger than 1 GiB")
    data = path.read_bytes()
    if not data:
        return Table()
    coding = next((name for bom, name in BOMS if data.startswith(bom)), "utf-8")
    text = _decoded(data, coding)
    delimiter = _delimiter(text)
    ended = text.endswith(("\n", "\r"))
    records = list(_records(text, delimiter, ended))
    columns = _header(records[0][1]) if records else []
    rows = []
    for number, cells in records[1:]:
        if len(cells) < len(columns) and not ended and number == records[-1][0]:
            log.warning("left out the last row of a table, it is cut")
            break
        if len(cells) != len(columns):
            raise InvalidItem(f"row {number} has {len(cells)} cells, the header has {len(columns)}")
        rows.append({column: unescape(cell) for column, cell in zip(columns, cells, strict=True) if cell})
    return Table(columns, rows, plain=ended and delimiter == "," and coding.startswith("utf-8"))


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a whole table durably; the file is the old or the new one, never a part. Raises OSError."""
    with whole_file(path) as out:
        out.write(_lines([columns]))
        for row in rows:
            out.write(_lines([[row.get(column, "") for column in columns]]))


def append_row(path: Path, columns: Sequence[str], row: Mapping[str, str]) -> None:
    """Add a row to a file that has these columns, durably; after an error the file is as before. Raises OSError."""
    line = _lines([[row.get(column, "") for column in columns]])
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        size = os.fstat(handle).st_size
        try:
            if os.write(handle, line) != len(line):
                raise OSError("the row was not written whole")
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def _lines(records: Iterable[Iterable[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows([escape(cell) for cell in record] for record in records)
    return out.getvalue().encode("utf-8")


def _decoded(data: bytes, coding: str) -> str:
    try:
        return data.decode(coding)
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise InvalidItem(f"row {row} is not {coding.removesuffix('-sig').upper()} text") from None


def _delimiter(text: str) -> str:
    """Return the character that stands most often between the cells of the header."""
    header = re.sub(r'"[^"]*"', "", text.split("\n", 1)[0])
    return max(DELIMITERS, key=lambda one: (header.count(one), -DELIMITERS.index(one)))


def _header(cells: Sequence[str]) -> list[str]:
    columns = [unescape(cell.strip()) for cell in cells]
    for number, column in enumerate(columns, 1):
        if not column:
            raise InvalidItem(f"column {number} has no name")
        if column in columns[: number - 1]:
            raise InvalidItem(f"column {number} has the name of another one")
    return columns


def _records(text: str, delimiter: str, ended: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each record that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    while True:
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not ended and "unexpected end of data" in str(error):
                log.warning("left out the last row of a table, it is cut")
                return
            raise InvalidItem(f"row {number} is not valid CSV: {error}") from None
        for at, cell in enumerate(cells, 1):
            check_cell(cell, f"row {number}, cell {at},")
        if cells:
            yield number, cells
