"""The database file of a folder's index: opening, checking, rebuilding, sharing."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

from diana.apis._folder_index import OWN_FOLDER
from diana.apis._folder_inotify import is_local
from diana.utils.files import make_private

WAIT: Final = 120.0  # seconds to wait for another writer
KEPT: Final = 8

Out = TypeVar("Out")


class Unusable(Exception):
    """Say that the index cannot be used now: no room, no rights, or damaged twice in a row."""


class Replaced(Exception):
    """Say that the file is another one than before; what this process knew of its contents does not hold."""


def place_of(root: str, label: str, folder: str = "") -> Path:
    """
    Return where the database of a folder lies.

    In a hidden folder of its own when that can be written and is on a disk of this machine (SQLite's locks do not hold
    everywhere), else in ``folder``, or in the user's cache, under a name that tells nothing of the root.
    """
    inner = Path(root, OWN_FOLDER)
    if (
        not folder
        and not inner.is_symlink()
        and is_local(root)
        and os.access(inner if inner.exists() else root, os.W_OK | os.X_OK)
    ):
        return inner / f"{label}.sqlite"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
    return Path(folder or os.path.join(cache, "diana", "folders"), f"{name}-{label}.sqlite")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Tell whether an error comes from what is in the file; not so for a full disk, or locks that nobody gives up."""
    signs = ("no such", "has no column", "disk I/O error")
    return not isinstance(error, sqlite3.OperationalError) or any(sign in str(error) for sign in signs)


class FolderDatabase:
    """
    Hold an SQLite file that may be thrown away at any time, since all of it can be read again from elsewhere.

    ``schema`` are statements that make the tables, ``version`` stands for them: a file of another version, or one that
    SQLite finds damaged, is replaced by a new one. Threads and processes share it; a transaction that was not finished
    never happened. Raises Unusable; Replaced, once, to each process that used the file before.
    """

    def __init__(self, path: Path, schema: str, version: str) -> None:
        self.path = path
        self._schema = schema
        self._version = version
        self._idle: list[sqlite3.Connection] = []
        self._lock = Lock()
        self._token = ""
        self._identity = (0, 0)

    def check(self) -> None:
        """Begin anew when the file was removed or replaced by somebody."""
        if self._token:
            try:
                found = os.stat(self.path, follow_symlinks=False)
            except OSError:
                self.close()
            else:
                if (found.st_dev, found.st_ino) != self._identity:
                    self.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._token = ""
        for one in idle:
            one.close()

    def forget(self) -> list[sqlite3.Connection]:
        """Return the connections of the process that this one was forked from, to be left alone, and begin anew."""
        idle, self._idle, self._token, self._lock = self._idle, [], "", Lock()
        return idle

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that sees one state."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give a connection in a transaction, the only one of all processes; it counts when the block ends well."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self._take()
        whole = False
        try:
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")
            whole = True
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise Unusable(type(error).__name__) from None
            self._discard()
            raise Replaced from None
        finally:
            if not whole:
                with suppress(sqlite3.Error):
                    connection.rollback()
            self._give_back(connection, keep=whole)

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            try:
                connection, token, identity = self._locked(self._opened)
            except (OSError, sqlite3.Error) as error:
                raise Unusable(type(error).__name__) from None
            before, self._token, self._identity = self._token, token, identity
            if before != token:
                self._idle.append(connection)
                raise Replaced
            return connection

    def _give_back(self, connection: sqlite3.Connection, *, keep: bool) -> None:
        with self._lock:
            if keep and len(self._idle) < KEPT and self._token:
                self._idle.append(connection)
                return
        connection.close()

    def _discard(self) -> None:
        """Remove a file that turned out to be damaged."""
        with self._lock:
            idle, self._idle, self._token = self._idle, [], ""
            with suppress(OSError):
                self._locked(self._remove)
        for one in idle:
            one.close()

    def _locked(self, work: Callable[[], Out]) -> Out:
        """Call a function while no other process opens or replaces the file. Raises OSError."""
        make_private(self.path.parent)
        handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            return work()
        finally:
            os.close(handle)

    def _remove(self) -> None:
        for ending in ("-wal", "-shm", "-journal", ""):
            with suppress(FileNotFoundError):
                os.unlink(f"{self.path}{ending}")

    def _opened(self) -> tuple[sqlite3.Connection, str, tuple[int, int]]:
        """Open the file, or a new one in its place; return it, the token that it was made with, and its identity."""
        for _ in range(2):
            connection = None
            try:
                self._make_file()
                connection = self._connection()
                token = self._checked(connection)
                found = os.stat(self.path, follow_symlinks=False)
                return connection, token, (found.st_dev, found.st_ino)
            except sqlite3.DatabaseError as error:
                if connection is not None:
                    connection.close()
                if not is_damage(error):
                    raise
                self._remove()
        raise sqlite3.DatabaseError("damaged again")

    def _make_file(self) -> None:
        """Make an empty private file, unless there is one; that is not opened: closing it would end SQLite's locks."""
        if not os.path.lexists(self.path):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        elif not stat.S_ISREG(os.lstat(self.path).st_mode):
            raise OSError(errno.EEXIST, "not a file")
        else:
            os.chmod(self.path, 0o600)

    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None, check_same_thread=False)
        try:
            for setting in ("journal_mode=WAL", "synchronous=NORMAL", "cache_size=-16000"):
                connection.execute(f"PRAGMA {setting}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _checked(self, connection: sqlite3.Connection) -> str:
        """Return the token of a file that is good, making its tables when it is empty. Raises sqlite3.DatabaseError."""
        objects = "SELECT count(*) FROM sqlite_master"
        if not connection.execute(objects).fetchone()[0]:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
            for statement in filter(None, map(str.strip, self._schema.split(";"))):
                connection.execute(statement)
            made = connection.execute(objects).fetchone()[0]
            rows = [("version", self._version), ("token", secrets.token_hex(16)), ("objects", str(made))]
            connection.executemany("INSERT INTO about VALUES (?, ?)", rows)
            connection.execute("COMMIT")
        elif not self._token and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("damaged")
        try:
            known = dict(connection.execute("SELECT key, value FROM about").fetchall())
        except sqlite3.OperationalError as error:
            if not is_damage(error):
                raise
            known = {}
        made = connection.execute(objects).fetchone()[0]
        if not known.get("token") or (known.get("version"), known.get("objects")) != (self._version, str(made)):
            raise sqlite3.DatabaseError("of another version")
        return str(known["token"])
