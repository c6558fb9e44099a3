"""Which file of a tree belongs to which accession number: the embedded registry, in SQLite."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol  # Any: what is given as a registry

from attrs import define

from diana.exceptions import ConfigError, StateError, StateUnavailable
from diana.utils.files import make_private

APPLICATION: Final = 0x44694649
VERSION: Final = 1
WAIT_S: Final = 60.0

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS folders (
    id INTEGER PRIMARY KEY, prefix TEXT NOT NULL, path BLOB NOT NULL, digest BLOB NOT NULL, UNIQUE (prefix, path));
CREATE TABLE IF NOT EXISTS files (
    folder INTEGER NOT NULL, name BLOB NOT NULL, stamp BLOB NOT NULL, key TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_key ON files (key, folder);
"""


class FileRow(NamedTuple):
    """Hold what is known of a file: its stamp, and the key of its collection, or the reason why it has none."""

    stamp: bytes
    key: str
    reason: str = ""


class FolderChange(NamedTuple):
    """
    Hold what changed in one folder, by file name; None in ``rows`` is a file that is gone.

    ``before`` is what was known of these files. An empty ``digest`` says that the folder is not finished, None that it
    is gone.
    """

    path: str
    digest: bytes | None
    rows: Mapping[str, FileRow | None]
    before: Mapping[str, FileRow]


class FileRegistry(Protocol):
    """
    Remember files by collection, under a prefix for each tree.

    What was saved is durable and whole: after a crash a batch of changes is known or it is not. Paths may hold patient
    data, so the registry is as private as the files.
    """

    def folders(self, prefix: str) -> dict[str, bytes]:
        """Return the digest of each folder as it was last finished."""

    def files(self, prefix: str, folder: str) -> dict[str, FileRow]:
        """Return what is known of the files of one folder."""

    def save(self, prefix: str, changes: Iterable[FolderChange]) -> None:
        """Save changes."""

    def collections(self, prefix: str = "") -> list[str]:
        """Return the keys of the collections under a prefix, sorted."""

    def collected_items(self, prefix: str, key: str) -> set[str]:
        """Return the paths of the files of a collection."""

    def close(self) -> None:
        """Close it; it may be used again."""


class SqliteRegistry:
    """
    Keep a registry in an SQLite file (mode 0600), for threads of one process; others may read it meanwhile.

    Raises StateError for a file that is damaged or none of ours, StateUnavailable when it cannot be used now.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None

    def folders(self, prefix: str) -> dict[str, bytes]:
        """Return the digest of each folder as it was last finished."""
        with self._using() as connection:
            rows = connection.execute("SELECT path, digest FROM folders WHERE prefix = ?", (prefix,)).fetchall()
        return {os.fsdecode(path): digest for path, digest in rows}

    def files(self, prefix: str, folder: str) -> dict[str, FileRow]:
        """Return what is known of the files of one folder."""
        asked = (
            "SELECT name, stamp, key, reason FROM files WHERE folder ="
            " (SELECT id FROM folders WHERE prefix = ? AND path = ?)"
        )
        with self._using() as connection:
            rows = connection.execute(asked, (prefix, os.fsencode(folder))).fetchall()
        return {os.fsdecode(name): FileRow(stamp, key, reason) for name, stamp, key, reason in rows}

    def save(self, prefix: str, changes: Iterable[FolderChange]) -> None:
        """Save changes in one transaction."""
        with self._using() as connection, connection:
            for change in changes:
                number = self._folder(connection, prefix, change)
                kept = [
                    (number, os.fsencode(name), row.stamp, row.key, row.reason)
                    for name, row in change.rows.items()
                    if row is not None
                ]
                gone = [(number, os.fsencode(name)) for name, row in change.rows.items() if row is None]
                connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", kept)
                connection.executemany("DELETE FROM files WHERE folder = ? AND name = ?", gone)
                if change.digest is None:
                    connection.execute("DELETE FROM folders WHERE id = ?", (number,))

    @staticmethod
    def _folder(connection: sqlite3.Connection, prefix: str, change: FolderChange) -> int:
        path = os.fsencode(change.path)
        connection.execute(
            "INSERT INTO folders (prefix, path, digest) VALUES (?, ?, ?)"
            " ON CONFLICT (prefix, path) DO UPDATE SET digest = excluded.digest",
            (prefix, path, change.digest or b""),
        )
        asked = "SELECT id FROM folders WHERE prefix = ? AND path = ?"
        number: int = connection.execute(asked, (prefix, path)).fetchone()[0]
        return number

    def collections(self, prefix: str = "") -> list[str]:
        """Return the keys of the collections under a prefix, sorted."""
        asked = (
            "SELECT DISTINCT key FROM files WHERE key <> '' AND folder IN (SELECT id FROM folders WHERE prefix = ?)"
            " ORDER BY key"
        )
        with self._using() as connection:
            return [key for (key,) in connection.execute(asked, (prefix,))]

    def collected_items(self, prefix: str, key: str) -> set[str]:
        """Return the paths of the files of a collection."""
        asked = "SELECT path, name FROM files JOIN folders ON folders.id = folder WHERE key = ? AND prefix = ?"
        with self._using() as connection:
            rows = connection.execute(asked, (key, prefix)).fetchall()
        return {os.path.join(os.fsdecode(path), os.fsdecode(name)) for path, name in rows}

    def close(self) -> None:
        """Close it; it may be used again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._opened()
                yield self._connection
            except sqlite3.OperationalError as error:
                raise StateUnavailable(f"the file registry cannot be used ({type(error).__name__})") from None
            except sqlite3.DatabaseError as error:
                raise StateError(f"the file registry is damaged or none of ours ({type(error).__name__})") from None

    def _opened(self) -> sqlite3.Connection:
        make_private(self.path.absolute().parent)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(self.path, timeout=WAIT_S, check_same_thread=False)
        try:
            about = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
            if about == [0, 0] and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(SCHEMA)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
            elif about != [APPLICATION, VERSION]:
                raise StateError("the file registry is of another version or none of ours")
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection


def as_registry(registry: Any) -> FileRegistry:
    """Return the registry that is given, or the one that an endpoint such as ``Redis`` holds. Raises ConfigError."""
    if hasattr(registry, "folders"):
        found: FileRegistry = registry
        return found
    if hasattr(registry, "files"):
        return _RedisRegistry(registry.files)
    raise ConfigError("a registry is a SqliteRegistry or a Redis service")


@define(eq=False)
class _RedisRegistry:
    """The registry in Redis, in the words of ``FileRegistry``."""

    wire: Any

    def folders(self, prefix: str) -> dict[str, bytes]:
        found: dict[str, bytes] = self.wire.folders(prefix)
        return found

    def files(self, prefix: str, folder: str) -> dict[str, FileRow]:
        return {name: FileRow(*row) for name, row in self.wire.raw_files(prefix, folder).items()}

    def save(self, prefix: str, changes: Iterable[FolderChange]) -> None:
        for one in changes:
            self.wire.save_folder(prefix, one.path, one.digest, one.rows, one.before)

    def collections(self, prefix: str = "") -> list[str]:
        found: list[str] = self.wire.collections(prefix)
        return found

    def collected_items(self, prefix: str, key: str) -> set[str]:
        found: set[str] = self.wire.collected_items(prefix, key)
        return found

    def close(self) -> None:
        self.wire.close()
