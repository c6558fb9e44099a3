"""The tables of the ledger, in terms that SQLite and PostgreSQL share."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Dialect, Float, Index, Integer, MetaData, Table, Text, UniqueConstraint
from sqlalchemy.types import TypeDecorator

VERSION = "1"

# SQLite numbers rows by itself only for INTEGER
ROW_ID = BigInteger().with_variant(Integer, "sqlite")


def storable(text: str) -> str:
    """Return a text that every database takes: replacement characters stand for NUL and lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


class SafeText(TypeDecorator[str]):
    """Hold any text, see ``storable``."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text that is stored."""
        return None if value is None else storable(value)


tables = MetaData()

about = Table(
    "about",
    tables,
    Column("key", SafeText, primary_key=True),
    Column("value", SafeText, nullable=False),
)

cursors = Table(
    "cursors",
    tables,
    Column("source", SafeText, primary_key=True),
    Column("cursor", SafeText, nullable=False),
    Column("updated", Float, nullable=False),
)

events = Table(
    "events",
    tables,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("source", SafeText, nullable=False),
    Column("key", SafeText, nullable=False),
    Column("evtype", Integer, nullable=False),
    Column("data", SafeText, nullable=False),
    Column("study", SafeText, nullable=False),
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
    Column("trigger", SafeText, nullable=False),
    Column("study", SafeText, nullable=False),
    Column("state", SafeText, nullable=False),  # new, busy, waiting, done, dead
    Column("attempts", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),  # starts that never came to an end
    Column("due", Float, nullable=False, default=0.0),
    Column("owner", SafeText, nullable=False, default=""),
    Column("note", SafeText, nullable=False, default=""),  # outcome or last error, without patient data
    Column("receipt", SafeText, nullable=False, default=""),
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
    Column("id", SafeText, primary_key=True),
    Column("route", SafeText, nullable=False),
    Column("source", SafeText, nullable=False),
    Column("dest", SafeText, nullable=False),
    Column("study", SafeText, nullable=False),
    Column("level", Integer, nullable=False),
    Column("state", SafeText, nullable=False),
    Column("reason", SafeText, nullable=False),
    Column("follows", SafeText, nullable=False),
    Column("expected", Integer),
    Column("verified", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float, nullable=False),
    Column("data", SafeText, nullable=False),
    Index("receipts_study", "route", "dest", "study", "started"),
    Index("receipts_state", "state", "ended"),
)

proofs = Table(
    "proofs",
    tables,
    Column("receipt", SafeText, primary_key=True),
    Column("uid", SafeText, primary_key=True),
    Column("state", SafeText, nullable=False),  # verified, missing, rejected
    Column("stored_uid", SafeText, nullable=False),
    Column("md5", SafeText, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("note", SafeText, nullable=False),
)

jobs = Table(
    "jobs",
    tables,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("name", SafeText, nullable=False, unique=True),
    Column("kind", SafeText, nullable=False),
    Column("spec", SafeText, nullable=False),
    Column("is_open", Integer, nullable=False),  # 0: nothing of it is started
    Column("created", Float, nullable=False),
)

# times in ``until`` and ``send_at`` are of the clock that is named beside them, see ``diana.ledger.clock``
work_items = Table(
    "work_items",
    tables,
    Column("id", ROW_ID, primary_key=True, autoincrement=True),
    Column("job", ROW_ID, nullable=False),
    Column("key", SafeText, nullable=False),
    Column("payload", SafeText, nullable=False),
    Column("state", SafeText, nullable=False),  # waiting, running, or the name of a final state
    Column("attempts", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),  # starts in a row that never came to an end
    Column("token", BigInteger, nullable=False),  # rises with each start: the fence
    Column("owner", SafeText, nullable=False),
    Column("clock", SafeText, nullable=False),
    Column("until", Float, nullable=False),  # waiting: not before; running: end of the lease
    Column("sends", Integer, nullable=False),  # messages sent for it since it last ran
    Column("send_at", Float, nullable=False),  # when another message may be sent
    Column("reason", SafeText, nullable=False),  # why it waits or failed, without patient data
    Column("outcome", SafeText, nullable=False),
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False),
    UniqueConstraint("job", "key"),
    Index("work_ready", "job", "state", "id"),
    Index("work_kills", "job", "crashes"),
    Index("work_sent", "state", "sends", "send_at"),
    Index("work_ended", "job", "last_at"),
)

# a place is taken while its item runs with that token, see ``diana.ledger.slots``
slots = Table(
    "slots",
    tables,
    Column("name", SafeText, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("item", ROW_ID, nullable=False),
    Column("token", BigInteger, nullable=False),
)
