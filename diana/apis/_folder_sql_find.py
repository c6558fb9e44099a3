"""Answer searches of a folder from its index."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar  # Any: values to match

from attrs import define, field

from diana.apis._folder_candidates import candidates
from diana.apis._folder_facts import BITS, HEAD, INDEXED, OWN, spans_of
from diana.apis._folder_find import COUNTED, Group
from diana.apis._folder_registry import FolderRegistry, joined
from diana.apis._folder_tables import HEADS, OWNS, SHARED, UNITS
from diana.dixel import Dixel
from diana.utils.dicom import DicomLevel, Query
from diana.utils.dicom.header import DEFAULT_TAGS
from diana.utils.dicom.matching import met
from diana.utils.dicom.query import GROUPS

PAGES: Final = (16, 64, 256, 1000)
FEW: Final = 5000  # rows that are looked up one by one rather than by a walk over all
UID: Final = "SOPInstanceUID"

Out = TypeVar("Out")


class Head(NamedTuple):
    """Hold a row of heads: which item its files belong to at the level asked for, and the tags that are shown."""

    id: int
    unit: int
    oid: str
    files: int
    varying: int
    tags: dict[str, str]
    shared: dict[str, str]


class File(NamedTuple):
    """Hold a row of files."""

    path: str
    syntax: str
    own: dict[str, str]


def knows(query: Query) -> bool:
    """Tell whether the index has all that a query asks for."""
    return query.keywords() - COUNTED <= frozenset(INDEXED)


def known_part(query: Query) -> Query:
    """Return the part of a query that the index can decide, at the level of instances."""
    match = {key: wanted for key, wanted in query.match.items() if Query({key: wanted}).keywords() <= set(INDEXED)}
    return Query(match, DicomLevel.INSTANCES)


@define(eq=False)
class IndexSearch:
    """
    Answer one query that the index ``knows``, a page of rows at a time, so that no more is read than is taken.

    Instances come in the order of their series, everything in the order in which it was first seen. ``offset`` matches
    are left out at the start, where that can be told without reading them. Raises OSError, Unusable.
    """

    registry: FolderRegistry
    query: Query
    offset: int = 0
    _match: Query = field(init=False)
    _sought: dict[str, Any] = field(init=False)
    _mask: int = field(init=False)
    _uids: str | None = field(init=False)
    _heads: dict[str, str] = field(init=False)
    _owns: dict[str, str] = field(init=False)
    _shared: dict[str, str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        match = {key: wanted for key, wanted in self.query.match.items() if key in GROUPS or not met(key, wanted, None)}
        self._sought = {key: wanted for key, wanted in match.items() if key in HEAD}
        self._match = Query({key: wanted for key, wanted in match.items() if key not in self._sought})
        self._mask = sum(BITS[key] for key in self._match.keywords() if key in BITS)
        self._uids = _uids(match)
        shown = {*DEFAULT_TAGS, *(self.query.keywords() - COUNTED)}
        self._heads = {key: name for key, name in zip(HEAD, HEADS, strict=True) if key in shown}
        self._owns = {key: name for key, name in zip(OWN, OWNS, strict=True) if key in shown}
        self._shared = {key: name for key, name in zip(OWN, SHARED, strict=True) if key in shown}

    def odd(self) -> list[str]:
        """Return the files that have to be read for each search, relative to the root."""
        asked = """SELECT path, base FROM heads JOIN files ON head = heads.id JOIN folders ON folders.id = folder
            WHERE odd = 1 ORDER BY files.id"""
        return self.registry.use(lambda connection: [joined(*row) for row in connection.execute(asked)])

    def instances(self) -> Iterator[tuple[str, Dixel]]:
        """Yield each instance that matches, with its path relative to the root; ``offset`` becomes what is left."""
        for head in self._all_heads():
            verdict = self._verdict(head)
            if verdict is False:
                continue
            if verdict and self.offset >= head.files:
                self.offset -= head.files
                continue
            for one in self._files(head, self._skipped() if verdict else 0):
                tags = head.tags | one.own
                if verdict or self._match.matches(tags):
                    if self.offset and not verdict:
                        self.offset -= 1
                        continue
                    yield one.path, Dixel({"TransferSyntaxUID": one.syntax}, tags, DicomLevel.INSTANCES)

    def groups(self) -> Iterator[Group]:
        """Yield each study, series or patient that has an instance that matches; ``offset`` becomes what is left."""
        for heads in self._by_unit(UNITS[self.query.level - 1]):
            found: dict[int, Group] = {}
            for head in heads:
                self._gather(head, found)
            for group in found.values():
                if self.offset:
                    self.offset -= 1
                else:
                    yield group

    def _gather(self, head: Head, found: dict[int, Group]) -> None:
        """Put what matches of the files of a head into the group it belongs to."""
        verdict = self._verdict(head)
        if verdict:
            group = found.get(head.unit) or found.setdefault(head.unit, Group(self.query.level))
            group.merge(head.tags | head.shared, head.files, head.oid)
        elif verdict is None:
            for one in self._files(head, 0):
                tags = head.tags | one.own
                if self._match.matches(tags):
                    group = found.get(head.unit) or found.setdefault(head.unit, Group(self.query.level))
                    group.merge(tags, 1, head.oid)

    def _skipped(self) -> int:
        skip, self.offset = self.offset, 0
        return skip

    def _verdict(self, head: Head) -> bool | None:
        """Tell whether all files of a head match, or none does; None when each has to be asked."""
        if head.varying < 0 or head.varying & self._mask:
            return None
        return self._match.matches(head.tags | head.shared)

    def _use(self, work: Callable[..., Out], *args: object) -> Out:
        return self.registry.use(lambda connection: work(connection, *args), fresh=False)

    def _narrowed(self) -> set[int] | None:
        """Return the heads whose own values match, None for all."""
        if not self._sought and self._uids is None:
            return None
        return self._use(candidates, self._sought, self._uids)

    def _all_heads(self) -> Iterator[Head]:
        """Yield the heads that can match, by their numbers."""
        narrow = self._narrowed()
        if narrow is not None:
            for ids in _paged(sorted(narrow)):
                yield from self._use(self._heads_of, "NULL", ids)
            return
        after = 0
        if self.offset and not self._match.match:
            after, self.offset = self._use(self._start)
        for size in _sizes():
            ids = self._use(_column, "SELECT id FROM heads WHERE odd = 0 AND id > ? ORDER BY id LIMIT ?", after, size)
            yield from self._use(self._heads_of, "NULL", ids)
            if len(ids) < size:
                return
            after = ids[-1]

    def _start(self, connection: sqlite3.Connection) -> list[int]:
        """Return after which head a search for everything goes on, and what is left of the offset there."""
        if connection.execute("SELECT 1 FROM heads WHERE varying < 0 LIMIT 1").fetchone():
            return [0, self.offset]
        asked = """SELECT id, before FROM (SELECT id, count, sum(count) OVER (ORDER BY id) - count AS before
            FROM heads WHERE odd = 0) WHERE before + count > ? ORDER BY id LIMIT 1"""
        found = connection.execute(asked, (self.offset,)).fetchone()
        if found is None:
            last, total = connection.execute("SELECT max(id), sum(count) FROM heads WHERE odd = 0").fetchone()
            return [last or 0, self.offset - (total or 0)]
        return [found[0] - 1, self.offset - found[1]]

    def _by_unit(self, unit: str) -> Iterator[list[Head]]:
        """Yield pages of heads that can match, those of one patient, study or series always on one page."""
        narrow = self._narrowed()
        if narrow is not None:
            units = self._use(self._units_of, unit, narrow)
            numbers = list(units)[0 if self._match.match else self._skipped() :]
            for some in _paged(numbers):
                yield self._use(self._heads_of, unit, [head for number in some for head in units[number]])
            return
        after = 0
        asked = f"""SELECT DISTINCT {unit} FROM heads INDEXED BY heads_{unit} WHERE {unit} > ? AND odd = 0
            ORDER BY {unit} LIMIT ? OFFSET ?"""  # noqa: S608  # the names of columns are ours, the values are bound
        for size in _sizes():
            numbers = self._use(_column, asked, after, size, 0 if self._match.match else self._skipped())
            if not numbers:
                return
            after = numbers[-1]
            ids = f"""SELECT heads.id FROM json_each(?) AS asked CROSS JOIN heads ON heads.{unit} = asked.value
                WHERE odd = 0 ORDER BY heads.{unit}, heads.id"""  # noqa: S608
            yield self._use(self._heads_of, unit, self._use(_column, ids, json.dumps(numbers)))

    def _units_of(self, connection: sqlite3.Connection, unit: str, narrow: set[int]) -> dict[int, list[int]]:
        """Return the items that some heads belong to, each with those of its heads."""
        asked = f"""SELECT {unit}, id FROM heads INDEXED BY heads_{unit} WHERE {unit} > 0 AND odd = 0
            ORDER BY {unit}, id"""  # noqa: S608
        bound: tuple[object, ...] = ()
        if len(narrow) < FEW:
            asked = f"""SELECT {unit}, heads.id FROM json_each(?) AS asked CROSS JOIN heads ON heads.id = asked.value
                WHERE {unit} > 0 AND odd = 0 ORDER BY {unit}, heads.id"""  # noqa: S608
            bound = (json.dumps([*narrow]),)
        found: dict[int, list[int]] = {}
        for number, head in connection.execute(asked, bound):
            if head in narrow:
                found.setdefault(number, []).append(head)
        return found

    def _heads_of(self, connection: sqlite3.Connection, unit: str, ids: list[int]) -> list[Head]:
        columns = ", ".join((*self._heads.values(), *self._shared.values()))
        asked = f"""SELECT heads.id, {unit}, (SELECT oid FROM items WHERE items.id = {unit}), count, varying, {columns}
            FROM json_each(?) AS asked CROSS JOIN heads ON heads.id = asked.value WHERE odd = 0
            ORDER BY asked.key"""  # noqa: S608
        split = 5 + len(self._heads)
        return [
            Head(
                row[0], row[1], row[2], row[3], row[4],
                _present(self._heads, row[5:split]), _present(self._shared, row[split:]),
            )
            for row in connection.execute(asked, (json.dumps(ids),))
        ]  # fmt: skip

    def _files(self, head: Head, skip: int) -> Iterator[File]:
        after = 0
        for size in _sizes():
            rows = self._use(self._page_of_files, head.id, after, size, skip)
            for _, one in rows:
                yield one
            if len(rows) < size:
                return
            after, skip = rows[-1][0], 0

    def _page_of_files(
        self, connection: sqlite3.Connection, head: int, after: int, size: int, skip: int
    ) -> list[tuple[int, File]]:
        own = ", ".join(self._owns.values())
        narrow, bound = "", list[object]((head, after))
        if self._uids is not None:
            narrow, bound = " AND o0 IN (SELECT value FROM json_each(?))", [head, after, self._uids]
        asked = f"""SELECT files.id, path, base, syntax, {own} FROM files JOIN folders ON folders.id = folder
            WHERE head = ? AND files.id > ?{narrow} ORDER BY files.id LIMIT ? OFFSET ?"""  # noqa: S608
        return [
            (row[0], File(joined(row[1], row[2]), row[3], _present(self._owns, row[4:])))
            for row in connection.execute(asked, [*bound, size, skip])
        ]


def _sizes() -> Iterator[int]:
    """Yield how many rows to read at a time: few at first."""
    yield from PAGES
    while True:
        yield PAGES[-1]


def _paged(numbers: list[int]) -> Iterator[list[int]]:
    at = 0
    for size in _sizes():
        if at >= len(numbers):
            return
        yield numbers[at : at + size]
        at += size


def _column(connection: sqlite3.Connection, asked: str, *bound: object) -> list[int]:
    return [value for (value,) in connection.execute(asked, bound)]


def _present(names: Mapping[str, str], values: Sequence[str | None]) -> dict[str, str]:
    return {key: value for key, value in zip(names, values, strict=True) if value is not None}


def _uids(match: Mapping[str, Any]) -> str | None:
    """Return the SOP Instance UIDs wanted, as JSON, when they are all that the index has to look at."""
    spans = spans_of(UID, match[UID]) if UID in match else None
    if spans is None or not all(one.exact for one in spans):
        return None
    return json.dumps([one.low for one in spans])
