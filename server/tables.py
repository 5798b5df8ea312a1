"""The database's tables and connections: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from ..errors import ServerError
from ..runtime.urls import without_password

METADATA = MetaData()
NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up integer keys only

FACES = Table(
    "faces",
    METADATA,
    Column("id", NUMBER, primary_key=True, autoincrement=True),
    Column("device", String(64), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("captured", BigInteger, nullable=False),  # the device's clock, milliseconds since 1970 UTC
    Column("received", BigInteger, nullable=False),  # the server's
    Column("track", Integer),
    Column("box", LargeBinary(4)),
    Column("score", SmallInteger),
    Column("sharpness", SmallInteger),
    Index("faces_once", "device", "epoch", "sequence", unique=True),
    Index("faces_by_time", "device", "captured"),
    Index("faces_by_arrival", "received"),
    sqlite_autoincrement=True,  # ids of erased faces are not used again
)
ERASED = Table(  # sequences whose faces were erased: they must not come back when a batch is sent again
    "erased",
    METADATA,
    Column("device", String(64), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("first", BigInteger, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
)
ERASED_UNTIL = Table(  # when the latest of an epoch's erased faces was captured: what is later is another face
    "erased_until",
    METADATA,
    Column("device", String(64), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("captured", BigInteger, nullable=False),
)
TOKENS = Table(
    "tokens",
    METADATA,
    Column("hash", String(64), primary_key=True),  # SHA-256 of 256 random bits: no salt needed
    Column("name", String(64), nullable=False, index=True),
    Column("role", String(8), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)


def open_database(url: str) -> Engine:
    """Connect and make what tables are missing.

    Args:
        url: "sqlite:///faces.db" or "postgresql://user@host/name".

    Raises:
        ServerError: no such database, or not reachable.
    """
    url = url.replace("postgres://", "postgresql://", 1)
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        if url.startswith("sqlite") and make_url(url).database in (None, "", ":memory:"):
            raise ServerError(f"database {url} would forget all faces at the end; name a file: sqlite:///faces.db")
        if url.startswith("sqlite"):
            _make_private(str(make_url(url).database))
            engine = create_engine(url, pool_size=1, max_overflow=0, connect_args={"check_same_thread": False})
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        else:
            engine = create_engine(url, pool_size=4, pool_pre_ping=True)
        METADATA.create_all(engine)
    except (SQLAlchemyError, ArgumentError, NoSuchModuleError, ModuleNotFoundError, TypeError, OSError) as error:
        line = str(getattr(error, "orig", error) or error).strip().splitlines()[0]
        raise ServerError(f"database {without_password(url)} cannot be opened: {line}") from error
    return engine


def _make_private(name: str) -> None:
    """Make a new database file that only this user reads: faces. SQLite gives its journal the same mode."""
    if not name.startswith("file:") and not Path(name).exists():
        os.close(os.open(name, os.O_CREAT | os.O_RDWR, 0o600))


def _prepare_sqlite(connection: Any, _: object) -> None:
    """A rollback journal, flushed: `stcq token` may write beside the server, which SQLite's WAL-reset bug forbids."""
    connection.isolation_level = None
    for pragma in ("busy_timeout=10000", "journal_mode=truncate", "synchronous=full", "secure_delete=on"):
        connection.execute(f"pragma {pragma}")
