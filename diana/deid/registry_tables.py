"""The tables of the registry of pseudonyms, in terms that SQLite and PostgreSQL share."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, MetaData, Table, UniqueConstraint, text

from diana.ledger.schema import ROW_ID, SafeText
from diana.ledger.store import Store

LOCK = 7_240_615_331

tables = MetaData()

projects = Table(
    "deid_projects",
    tables,
    Column("project", SafeText, primary_key=True),
    Column("key", SafeText, nullable=False),  # public name of the newest key
)

subjects = Table(
    "deid_subjects",
    tables,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("project", SafeText, nullable=False),
    Column("issuer", SafeText, nullable=False),
    Column("original", SafeText, nullable=False),  # the patient id in its normal form
    Column("spelled", SafeText, nullable=False),  # as it was first met
    Column("pseudonym", SafeText, nullable=False),
    Column("owned", SafeText),  # the pseudonym again; NULL for an alias, which shares it
    Column("name", SafeText, nullable=False),
    Column("weeks", Integer, nullable=False),
    Column("key", SafeText, nullable=False),  # public name of the key at that time
    Column("origin", SafeText, nullable=False),  # minted, imported, alias
    Column("at", Float, nullable=False),
    UniqueConstraint("project", "original", "issuer"),
    UniqueConstraint("project", "owned"),
    Index("deid_pseudonyms", "project", "pseudonym"),
)

FIND = text(
    "SELECT issuer, origin, pseudonym, name, weeks FROM deid_subjects"
    " WHERE project = :project AND original = :original AND issuer IN (:issuer, '')"
)


def create(store: Store) -> None:
    """Create the tables where they are absent; processes that begin at the same time take turns."""
    with store.begin() as connection:
        if not store.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        tables.create_all(connection)
