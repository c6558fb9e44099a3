"""The tables of the ledger, in terms that SQLite and PostgreSQL share."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, Table, Text, UniqueConstraint

VERSION = "1"

# SQLite numbers rows by itself only for INTEGER
ROW_ID = BigInteger().with_variant(Integer, "sqlite")

tables = MetaData()

about = Table(
    "about",
    tables,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

cursors = Table(
    "cursors",
    tables,
    Column("source", Text, primary_key=True),
    Column("cursor", Text, nullable=False),
    Column("updated", Float, nullable=False),
)

events = Table(
    "events",
    tables,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("source", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("evtype", Integer, nullable=False),
    Column("data", Text, nullable=False),
    Column("study", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("closed", Integer, nullable=False),  # 0: the source still wants to hear that the work is done
    UniqueConstraint("source", "key"),
    Index("events_open", "source", "closed"),
)

deliveries = Table(
    "deliveries",
    tables,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("event", ROW_ID, nullable=False, index=True),
    Column("trigger", Text, nullable=False),
    Column("study", Text, nullable=False),
    Column("state", Text, nullable=False),  # new, busy, waiting, done, dead
    Column("attempts", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),  # starts that never came to an end
    Column("due", Float, nullable=False, default=0.0),
    Column("owner", Text, nullable=False, default=""),
    Column("note", Text, nullable=False, default=""),  # outcome or last error, without patient data
    Column("receipt", Text, nullable=False, default=""),
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False),
    UniqueConstraint("event", "trigger"),
    Index("deliveries_ready", "trigger", "state", "due", "id"),
    Index("deliveries_due", "state", "due"),
    Index("deliveries_lane", "trigger", "study", "state"),
)

receipts = Table(
    "receipts",
    tables,
    Column("id", Text, primary_key=True),
    Column("route", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("dest", Text, nullable=False),
    Column("study", Text, nullable=False),
    Column("level", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("follows", Text, nullable=False),
    Column("expected", Integer),
    Column("verified", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float, nullable=False),
    Column("data", Text, nullable=False),
    Index("receipts_study", "route", "dest", "study", "started"),
    Index("receipts_state", "state", "ended"),
)

proofs = Table(
    "proofs",
    tables,
    Column("receipt", Text, primary_key=True),
    Column("uid", Text, primary_key=True),
    Column("state", Text, nullable=False),  # verified, missing, rejected
    Column("stored_uid", Text, nullable=False),
    Column("md5", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
)
