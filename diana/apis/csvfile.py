"""Summaries of studies in a CSV file."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar  # tag values may be of any type

from attrs import define, field

from diana.dixel import Dixel, DixelView
from diana.exceptions import ConfigError, GatewayConnectionError, InvalidItem, ItemNotFound, Unsupported
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.dicom.dictionary import keywords
from diana.utils.dicom.query import GROUPS
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.serializable import encode
from diana.utils.gateways.file_handlers import csv_table
from diana.utils.gateways.file_handlers.csv_table import Row

META = "_"
ALL = "ALL"


def _as_path(value: str | os.PathLike[str] | None) -> Path | None:
    return None if value is None else Path(value)


def _as_level(value: DicomLevel | int | str) -> DicomLevel:
    return DicomLevel.from_label(value)


def _as_columns(value: str | Sequence[str] | None) -> str | list[str]:
    if isinstance(value, str) and value != ALL:
        raise ConfigError(f"fieldnames is a list of columns or {ALL!r}")
    return ALL if value is None or isinstance(value, str) else [str(one) for one in value]


@define(eq=False)
class CsvFile(Endpoint):
    """
    Keep the tags and metadata of items of one level as rows of a CSV file, in the order in which they came.

    Columns are the keys of meta with a leading underscore, then the tags; a new key adds a column to the whole file.
    ``fieldnames`` other than "ALL" names the only columns to keep. The key of a row, and so its id, is the UID of the
    level, or the accession number of a study without UID. Values come back as text, several joined by a backslash,
    empty ones not at all; under keys with ``DateTime`` ISO 8601 text comes back as a datetime. Several processes may
    write the same file. Without ``fp`` the table is in memory only, until ``write`` is called with a path.
    """

    views: ClassVar[DixelView] = DixelView.META | DixelView.TAGS
    dicom_keys: ClassVar[bool] = False

    fp: Path | None = field(default=None, converter=_as_path)
    level: DicomLevel = field(default=DicomLevel.STUDIES, converter=_as_level)
    name: str = field(default="CsvFile", kw_only=True)
    fieldnames: str | Sequence[str] = field(default=ALL, kw_only=True, converter=_as_columns)
    _columns: list[str] = field(init=False, factory=list, repr=False)
    _rows: dict[str, Row] = field(init=False, factory=dict, repr=False)
    _plain: bool = field(init=False, default=False, repr=False)
    _stamp: tuple[int, ...] | None = field(init=False, default=None, repr=False)
    _lock: Any = field(init=False, factory=RLock, repr=False)

    @property
    def dixels(self) -> list[Dixel]:
        """Return every item, in order."""
        with self._fresh():
            return [self._dixel(row) for row in self._rows.values()]

    def read(self, fp: str | os.PathLike[str] | None = None) -> int:
        """
        Take in the rows of a file; return how many it has.

        Without a path: the endpoint's own file, read again. Raises InvalidItem with the number of a bad row.
        """
        if fp is None:
            self._stamp = None
            with self._fresh():
                return len(self._rows)
        with self._disk():
            table = csv_table.read_table(Path(fp))
        rows = self._keyed(table.rows)
        with self._fresh(exclusive=True), self._undone_on_error():
            self._rows.update(rows)
            self._widen(table.columns)
            self._save()
        return len(rows)

    def write(self, fp: str | os.PathLike[str] | None = None, fieldnames: str | Sequence[str] | None = None) -> None:
        """Write all rows to a file (default: its own), with some columns only when ``fieldnames`` says so."""
        target = self.fp if fp is None else Path(fp)
        if target is None:
            raise InvalidItem(f"{self.name}: no file to write; give fp")
        with self._fresh(exclusive=True):
            wanted = _as_columns(fieldnames)
            with self._disk():
                csv_table.write_table(target, self._columns if wanted == ALL else wanted, self._rows.values())
            self._stamp = None

    def _address(self, dixel: Dixel) -> Ref:
        ref = dixel.ref
        return Ref(ref.level, id=ref.uid or self._accession(dixel.tags))

    def _put(self, dixel: Dixel, force_write: bool = False) -> str:
        row = self._cells(dixel)
        self._key(row)
        with self._fresh(exclusive=True):
            widened = self._widen(row)
            kept = {column: row[column] for column in self._columns if column in row}
            key = self._key(kept)
            before = self._rows.get(key)
            if before == kept and not widened and not force_write:
                return key
            with self._undone_on_error():
                self._rows[key] = kept
                self._save(None if before is not None or widened or force_write else kept)
        return key

    def _get(self, ref: Ref, view: DixelView) -> Dixel:
        with self._fresh():
            key = self._find_key(ref)
            if key is None:
                raise ItemNotFound(f"{self.name}: no such {ref.level.singular.lower()}")
            return self._dixel(self._rows[key])

    def _find(self, query: Query) -> Iterator[Dixel]:
        if query.level != self.level:
            raise Unsupported(f"{self.name}: keeps {self.level}, not {query.level}")
        with self._fresh():
            self._check_keys(query)
            rows = list(self._rows.values())
        for row in rows:
            found = self._dixel(row)
            if query.matches({**{META + key: value for key, value in found.meta.items()}, **found.tags}):
                yield found

    def _exists(self, ref: Ref) -> bool:
        with self._fresh():
            return self._find_key(ref) is not None

    def _delete(self, ref: Ref) -> bool:
        with self._fresh(exclusive=True):
            key = self._find_key(ref)
            if key is None:
                return False
            with self._undone_on_error():
                del self._rows[key]
                self._save()
        return True

    def _check(self) -> None:
        with self._fresh():
            return

    # the table in memory and on disk

    @contextmanager
    def _fresh(self, exclusive: bool = False) -> Iterator[None]:
        """Hold the table as the file says it now; ``exclusive`` keeps other processes out until the end."""
        with self._lock:
            if self.fp is None:
                yield
                return
            with self._disk():
                folder = os.open(self.fp.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
                self._load(self.fp)
                yield
            finally:
                os.close(folder)

    def _load(self, path: Path) -> None:
        with self._disk():
            stamp = self._stamp_of(path)
            if stamp is not None and stamp == self._stamp:
                return
            table = csv_table.read_table(path) if stamp else csv_table.Table()
        self._rows = self._keyed(table.rows)
        self._columns, self._plain, self._stamp = list(table.columns), table.plain, stamp
        if not self._columns and self.fieldnames != ALL:
            self._columns = list(self.fieldnames)

    def _save(self, appended: Row | None = None) -> None:
        """Bring the file in step, by one new row when that is enough."""
        if self.fp is None:
            return
        with self._disk():
            if appended is not None and self._plain and self._stamp is not None:
                csv_table.append_row(self.fp, self._columns, appended)
            else:
                csv_table.write_table(self.fp, self._columns, self._rows.values())
                self._plain = True
            self._stamp = self._stamp_of(self.fp)

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """Forget what is in memory when the file could not be written; the next look reads it again."""
        try:
            yield
        except BaseException:
            self._stamp = None
            raise

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Translate errors of the disk; the path stays out of the message."""
        try:
            yield
        except OSError as error:
            raise GatewayConnectionError(f"{self.name}: the file cannot be used: {error.strerror or error}") from None
        except InvalidItem as error:
            raise InvalidItem(f"{self.name}: {error}") from None

    @staticmethod
    def _stamp_of(path: Path) -> tuple[int, ...] | None:
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    # rows

    def _keyed(self, rows: Sequence[Row]) -> dict[str, Row]:
        found: dict[str, Row] = {}
        for number, row in enumerate(rows, 2):
            try:
                found[self._key(row)] = row
            except InvalidItem as error:
                raise InvalidItem(f"{error} (row {number})") from None
        return found

    def _key(self, row: Mapping[str, str]) -> str:
        key = row.get(self.level.uid_keyword) or self._accession(row)
        if not key:
            also = " and no AccessionNumber" if self.level == DicomLevel.STUDIES else ""
            raise InvalidItem(f"{self.name}: the item has no {self.level.uid_keyword}{also}")
        return key

    def _accession(self, row: Mapping[str, Any]) -> str:
        return str(row.get("AccessionNumber") or "") if self.level == DicomLevel.STUDIES else ""

    def _find_key(self, ref: Ref) -> str | None:
        """Return the key of a row by its id, UID or accession number."""
        if ref.level != self.level:
            raise Unsupported(f"{self.name}: keeps {self.level}, not {ref.level}")
        wanted = ref.id or ref.uid
        if not wanted:
            raise InvalidItem(f"{self.name}: the {ref.level.singular.lower()} has no id, UID or accession number")
        if wanted in self._rows:
            return wanted
        return next((key for key, row in self._rows.items() if self._accession(row) == wanted), None)

    def _widen(self, columns: Sequence[str] | Row) -> bool:
        """Add the columns that are new; tell whether the file needs another header."""
        if self.fieldnames != ALL:
            new = [column for column in self.fieldnames if column not in self._columns]
        else:
            new = [column for column in columns if column not in self._columns]
        self._columns += new
        return bool(new)

    def _check_keys(self, query: Query) -> None:
        for key in sorted(query.keywords()):
            if key not in self._columns and key not in keywords() and key not in GROUPS:
                near = get_close_matches(key, [*self._columns, *keywords()], 1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise Unsupported(f"{self.name}: no column {key!r}{hint}")

    def _cells(self, dixel: Dixel) -> Row:
        if dixel.level != self.level:
            raise InvalidItem(f"{self.name}: takes {self.level}, not {dixel.level}")
        if any(key.startswith(META) for key in dixel.tags):
            raise InvalidItem(f"{self.name}: a tag cannot start with an underscore, that is the sign of meta")
        found = {META + key: _text(key, value) for key, value in dixel.meta.items()}
        found.update({key: _text(key, value) for key, value in dixel.tags.items()})
        return {csv_table.check_cell(key, "a key"): value for key, value in found.items() if value and key}

    def _dixel(self, row: Row) -> Dixel:
        meta = {key[len(META) :]: _value(key, cell) for key, cell in row.items() if key.startswith(META)}
        tags = {key: _value(key, cell) for key, cell in row.items() if not key.startswith(META)}
        return Dixel(meta=meta, tags=tags, level=self.level)


def _text(key: str, value: Any) -> str:
    """Return the cell of a value: dates in ISO 8601, several values joined by a backslash, mappings as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = value
    elif isinstance(value, dt.date | dt.time):
        text = value.isoformat()
    elif isinstance(value, list | tuple | set) and not any(isinstance(one, Mapping | list) for one in value):
        text = "\\".join(_text(key, one) for one in (sorted(value) if isinstance(value, set) else value))
    elif isinstance(value, int | float):
        text = str(value)
    else:
        text = _json(key, value)
    return csv_table.check_cell(text, f"the value of {key}")


def _json(key: str, value: Any) -> str:
    try:
        return json.dumps(value, default=encode)
    except (TypeError, ValueError, RecursionError):
        raise InvalidItem(f"the value of {key} has no form in a table") from None


def _value(key: str, cell: str) -> Any:
    if "DateTime" in key:
        with suppress(ValueError):
            return dt.datetime.fromisoformat(cell)
    return cell
