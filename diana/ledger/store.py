"""The database under the ledger: opening, checking, owning, and its errors in our words."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import Any  # pragmas and rows come in any type

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from diana.exceptions import ConfigError, StateError, StateUnavailable
from diana.ledger import schema

FILE_ENDINGS = (".sqlite", ".sqlite3", ".db")
FULL = ("disk is full", "disk I/O error", "No space left", "database is locked")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
SQLITE_HEADER = 100
BEGIN_LOCK = 0x6469616E61  # any number that no other program takes


class Store:
    """
    Hold the database of one ledger.

    ``where`` is a folder, or a file named ``*.sqlite`` or ``*.db`` (SQLite, created with mode 0600), ``None`` for a
    ledger in memory that ends with the process, or a SQLAlchemy URL. Raises StateError when the database is damaged, of
    another version, or not one of ours; it is never emptied or replaced.
    """

    def __init__(self, where: str | os.PathLike[str] | None = None) -> None:
        self.path: Path | None = None
        self._lock = RLock()
        self._lock_file: int | None = None
        self._engine = self._make_engine(where)
        with self._translated():
            self._prepare()

    def __repr__(self) -> str:
        return f"Store({'memory' if self.path is None else self.path.name})"

    @property
    def is_sqlite(self) -> bool:
        """Tell whether the database is SQLite, so that writes of one process are in turn anyway."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """
        Give one transaction; it is durable when the block has ended well.

        Raises StateUnavailable when it can succeed later (disk full, locked), StateError otherwise.
        """
        with self._translated(), self._lock, self._engine.begin() as connection:
            yield connection

    def own(self) -> None:
        """Claim the ledger for this process until ``close``. Raises StateError when another process has it."""
        if self.path is None or self._lock_file is not None:
            return
        try:
            handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _open_error(self.path, error) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise StateError(f"the ledger {self.path.name} is in use by another process") from None
        self._lock_file = handle

    def close(self) -> None:
        """Close the database and give up its ownership; twice does no harm."""
        self._engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def insert_new(self, table: Table) -> Any:
        """Return an insert that leaves rows alone whose unique key is there; execute it with a list of rows."""
        return _insert_new(table, self.is_sqlite)

    def upsert(self, table: Table) -> Any:
        """Return an insert that writes over rows with the same primary key; execute it with a list of rows."""
        return _upsert(table, self.is_sqlite)

    def _make_engine(self, where: str | os.PathLike[str] | None) -> Engine:
        if where is None:
            return _sqlite(create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}))
        if isinstance(where, str) and "://" in where:
            try:
                url = make_url(where)
                if url.get_backend_name() != "sqlite":
                    return create_engine(url, pool_pre_ping=True, connect_args=_postgres_options(url))
            except (SQLAlchemyError, ImportError) as error:
                raise ConfigError(f"the ledger's URL cannot be used: {type(error).__name__}") from None
            where = url.database or ""
        path = Path(where)
        if path.suffix not in FILE_ENDINGS:
            path = path / "ledger.sqlite"
        self.path = path
        return _sqlite_file(path)

    def _prepare(self) -> None:
        with self._lock, self._engine.begin() as connection:
            if self.is_sqlite:
                verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
                if verdict != "ok":
                    raise StateError(f"the ledger {self._label} is damaged; restore a copy or move it away")
            else:
                # several processes may begin one ledger at the same moment
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({BEGIN_LOCK})")
            schema.tables.create_all(connection)
            version = connection.execute(select(schema.about.c.value).where(schema.about.c.key == "version")).scalar()
            if version is None:
                connection.execute(self.insert_new(schema.about), [{"key": "version", "value": schema.VERSION}])
            elif version != schema.VERSION:
                raise StateError(
                    f"the ledger {self._label} has version {version!r}, this program needs {schema.VERSION}"
                )

    @property
    def _label(self) -> str:
        if self.path is not None:
            return self.path.name
        return "in memory" if self.is_sqlite else "in the database"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            if any(sign in str(error.orig) for sign in FULL) or not self.is_sqlite:
                raise StateUnavailable(f"the ledger {self._label} cannot be written now: {error.orig}") from None
            raise StateError(f"the ledger {self._label} cannot be used: {error.orig}") from None
        except DBAPIError as error:
            if error.connection_invalidated:
                raise StateUnavailable(f"the ledger {self._label} hung up: {type(error.orig).__name__}") from None
            raise StateError(
                f"the ledger {self._label} is damaged or not a ledger: {type(error.orig).__name__}"
            ) from None


def _postgres_options(url: URL) -> dict[str, Any]:
    """Return what lets a client that was cut off in mid-transaction lose its locks soon, on both sides."""
    if url.get_backend_name() != "postgresql":
        return {}
    keep = {"connect_timeout": "10", "keepalives_idle": "15", "keepalives_interval": "5", "keepalives_count": "3"}
    server = {
        "idle_in_transaction_session_timeout": "10s",
        "tcp_keepalives_idle": "15",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }
    given = {key: value for key, value in keep.items() if key not in url.query}
    if "options" not in url.query:
        given["options"] = " ".join(f"-c {key}={value}" for key, value in server.items())
    return given


def _sqlite_file(path: Path) -> Engine:
    from diana.utils.files import make_private

    try:
        make_private(path.parent)
        if not os.path.lexists(path):
            _begin_file(path)
        found = path.stat()
    except OSError as error:
        raise _open_error(path, error) from None
    except sqlite3.Error:
        raise StateUnavailable(f"the ledger {path.name} cannot be begun; is the disk full?") from None
    if not stat.S_ISREG(found.st_mode):
        raise StateError(f"the ledger {path.name} is no file")
    if found.st_size < SQLITE_HEADER:
        # SQLite takes such a file for a new database
        raise StateError(f"the ledger {path.name} is damaged: it is empty; restore a copy or move it away")
    # one connection for all threads: ``Store`` lets one transaction in at a time
    url = URL.create("sqlite", database=str(path))
    return _sqlite(create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False}))


def _begin_file(path: Path) -> None:
    """Make a database without tables that is there at once or not at all, so that an empty one is known as damaged."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(fresh)) as connection:
            connection.execute("PRAGMA user_version=1")
        with suppress(FileExistsError):  # another process was first
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _open_error(path: Path, error: OSError) -> StateError:
    kind = StateUnavailable if error.errno in NO_ROOM else StateError
    return kind(f"the ledger {path.name} cannot be opened: {error.strerror}")


def _sqlite(engine: Engine) -> Engine:
    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not open transactions of its own; ``begin`` below does
        connection.execute("PRAGMA busy_timeout=20000")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _insert(table: Table, is_sqlite: bool) -> Any:
    return sqlite.insert(table) if is_sqlite else postgresql.insert(table)


@lru_cache(maxsize=32)
def _insert_new(table: Table, is_sqlite: bool) -> Any:
    return _insert(table, is_sqlite).on_conflict_do_nothing()


@lru_cache(maxsize=32)
def _upsert(table: Table, is_sqlite: bool) -> Any:
    statement = _insert(table, is_sqlite)
    keys = [column.name for column in table.primary_key]
    rest = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=rest)
