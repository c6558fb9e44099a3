"""The tables of a folder's index, and the statements that change them."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from diana.apis._folder_facts import HEAD, INDEXED, OWN, SOUGHT, Facts, Kind, words_of
from diana.utils.dicom.levels import DicomLevel

UNITS: Final = ("patients", "studies", "series")  # of heads: the numbers of the items that their files belong to
HEADS: Final = tuple(f"h{at}" for at in range(len(HEAD)))
OWNS: Final = tuple(f"o{at}" for at in range(len(OWN)))
SHARED: Final = tuple(f"s{at}" for at in range(len(OWN)))
COMPARED: Final = 2000
UNKNOWN: Final = -1  # of heads: nobody has compared their files since some came or went


def _columns(names: Iterable[str]) -> str:
    return ", ".join(names)


# heads: what the files of a series have in common, once; ``count``, ``varying`` (bits of OWN) and the shared values of
# OWN say the rest of it where all files were compared. words: what heads are looked up by. files: ``sure`` is 0 when
# the file may have changed since without a later time. items: the Orthanc ids of patients, studies and series.
SCHEMA: Final = f"""
CREATE TABLE folders (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
CREATE TABLE items (id INTEGER PRIMARY KEY, oid TEXT NOT NULL UNIQUE);
CREATE TABLE heads (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, odd INTEGER NOT NULL,
    patients INTEGER, studies INTEGER, series INTEGER, count INTEGER NOT NULL, varying INTEGER NOT NULL,
    {_columns(HEADS)}, {_columns(SHARED)});
CREATE INDEX heads_patients ON heads (patients, odd);
CREATE INDEX heads_studies ON heads (studies, odd);
CREATE INDEX heads_series ON heads (series, odd);
CREATE INDEX heads_count ON heads (odd, id, count);
CREATE INDEX heads_open ON heads (varying) WHERE varying < 0;
CREATE TABLE words (tag INTEGER NOT NULL, text TEXT NOT NULL, head INTEGER NOT NULL,
    PRIMARY KEY (tag, text, head)) WITHOUT ROWID;
CREATE INDEX words_head ON words (head);
CREATE TABLE files (id INTEGER PRIMARY KEY, folder INTEGER NOT NULL, base BLOB NOT NULL, stamp BLOB NOT NULL,
    sure INTEGER NOT NULL, head INTEGER, oid BLOB, syntax TEXT, {_columns(OWNS)}, UNIQUE (folder, base));
CREATE INDEX files_head ON files (head, id);
CREATE INDEX files_uid ON files (o0) WHERE head IS NOT NULL;
CREATE INDEX files_oid ON files (oid) WHERE head IS NOT NULL
"""
VERSION: Final = f"1 {' '.join(INDEXED)} {' '.join(SOUGHT)}"

_NEW_HEAD: Final = f"""INSERT INTO heads (digest, odd, patients, studies, series, count, varying, {_columns(HEADS)})
    VALUES (?, ?, ?, ?, ?, 0, {UNKNOWN}, {_columns("?" * len(HEADS))})"""  # noqa: S608  # names of columns only
_PUT: Final = f"""INSERT INTO files (folder, base, stamp, sure, head, oid, syntax, {_columns(OWNS)})
    VALUES ({_columns("?" * (7 + len(OWNS)))}) ON CONFLICT (folder, base) DO UPDATE SET
    {_columns(f"{one} = excluded.{one}" for one in ("stamp", "sure", "head", "oid", "syntax", *OWNS))}"""  # noqa: S608
_COMPARE: Final = f"""SELECT head, count(*), {_columns(f"min({one}), max({one}), count({one})" for one in OWNS)}
    FROM json_each(?) AS asked CROSS JOIN files ON files.head = asked.value GROUP BY head"""  # noqa: S608
_COMPARED: Final = f"""UPDATE heads SET count = ?, varying = ?, {_columns(f"{one} = ?" for one in SHARED)}
    WHERE id = ?"""  # noqa: S608


class Known(NamedTuple):
    """Hold what the index knows of one file."""

    id: int
    stamp: bytes
    sure: int
    head: int | None


class Writer:
    """Change the tables, within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._heads: dict[bytes, int] = {}
        self._changed: set[int] = set()

    def folder(self, path: str) -> int:
        """Return the number of a folder, a new one when it has none."""
        name = os.fsencode(path)
        found = self._connection.execute("SELECT id FROM folders WHERE path = ?", (name,)).fetchone()
        if found is None:
            return int(self._connection.execute("INSERT INTO folders (path) VALUES (?)", (name,)).lastrowid or 0)
        return int(found[0])

    def known(self, folder: int, base: str) -> Known | None:
        """Return what is known of a file."""
        asked = "SELECT id, stamp, sure, head FROM files WHERE folder = ? AND base = ?"
        found = self._connection.execute(asked, (folder, os.fsencode(base))).fetchone()
        return None if found is None else Known(*found)

    def put(self, folder: int, base: str, stamp: bytes, sure: bool, facts: Facts, before: Known | None) -> None:
        """Note what a file holds now."""
        head = None if facts.kind == Kind.NOTHING else self._head(facts)
        oid = bytes.fromhex(facts.oids[3].replace("-", "")) if head is not None and facts.oids[3] else None
        own = (*facts.own, *[None] * (len(OWN) - len(facts.own)))
        self._connection.execute(_PUT, (folder, os.fsencode(base), stamp, sure, head, oid, facts.syntax, *own))
        self._changed.update(one for one in (head, before and before.head) if one is not None)

    def sure(self, known: Known) -> None:
        """Note that a file was found unchanged, long enough after its last change."""
        self._connection.execute("UPDATE files SET sure = 1 WHERE id = ?", (known.id,))

    def drop(self, known: Known) -> None:
        """Note that a file is gone."""
        self._connection.execute("DELETE FROM files WHERE id = ?", (known.id,))
        if known.head is not None:
            self._changed.add(known.head)

    def finish(self) -> None:
        """Mark the heads whose files have to be compared anew."""
        rows = [(one,) for one in self._changed]
        self._connection.executemany(f"UPDATE heads SET varying = {UNKNOWN} WHERE id = ?", rows)  # noqa: S608

    def _head(self, facts: Facts) -> int:
        digest = facts.digest()
        known = self._heads.get(digest)
        if known is None:
            found = self._connection.execute("SELECT id FROM heads WHERE digest = ?", (digest,)).fetchone()
            known = self._heads[digest] = int(found[0]) if found else self._new_head(digest, facts)
        return known

    def _new_head(self, digest: bytes, facts: Facts) -> int:
        units = [self._item(oid) for oid in facts.oids[: DicomLevel.SERIES]]
        values = (digest, facts.kind == Kind.ODD, *units, *facts.head)
        number = int(self._connection.execute(_NEW_HEAD, values).lastrowid or 0)
        words = [
            (at, word, number) for at, key in enumerate(SOUGHT) for word in words_of(key, facts.head[HEAD.index(key)])
        ]
        self._connection.executemany("INSERT INTO words VALUES (?, ?, ?)", words)
        return number

    def _item(self, oid: str) -> int | None:
        if not oid:
            return None
        found = self._connection.execute("SELECT id FROM items WHERE oid = ?", (oid,)).fetchone()
        if found is None:
            return int(self._connection.execute("INSERT INTO items (oid) VALUES (?)", (oid,)).lastrowid or 0)
        return int(found[0])


def compare(connection: sqlite3.Connection) -> None:
    """Compare the files of the heads that were marked, and remove heads that have none left."""
    while True:
        found = connection.execute("SELECT id FROM heads WHERE varying < 0 LIMIT ?", (COMPARED,)).fetchall()
        if not found:
            return
        asked = json.dumps([head for (head,) in found])
        left = []
        for head, count, *values in connection.execute(_COMPARE, (asked,)).fetchall():
            varying, shared = _shared(count, values)
            left.append((count, varying, *shared, head))
        connection.executemany(_COMPARED, left)
        gone = {head for (head,) in found} - {row[-1] for row in left}
        for table, column in (("words", "head"), ("heads", "id")):
            connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(head,) for head in gone])  # noqa: S608


def _shared(count: int, values: Sequence[object]) -> tuple[int, list[object]]:
    """Return the bits of what varies, and the values that all files have."""
    varying, shared = 0, []
    for at in range(len(OWN)):
        low, high, present = values[3 * at : 3 * at + 3]
        same = low == high and present in (0, count)
        varying |= 0 if same else 1 << at
        shared.append(low if same else None)
    return varying, shared


def tidy(connection: sqlite3.Connection) -> None:
    """Remove folders and items that nothing refers to any more."""
    connection.execute("DELETE FROM folders WHERE id NOT IN (SELECT folder FROM files)")
    used = " UNION ".join(f"SELECT {unit} FROM heads WHERE {unit} IS NOT NULL" for unit in UNITS)  # noqa: S608
    connection.execute(f"DELETE FROM items WHERE id NOT IN ({used})")  # noqa: S608
