"""The spool's SQLite file: one connection, exclusive, WAL with synchronous=FULL; only SQL lives here."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

SCHEMA = """
begin immediate;
create table if not exists meta (name text primary key, value integer not null) without rowid;
create table if not exists faces (id integer primary key, size integer not null, entry blob not null);
create table if not exists refused (id integer primary key, reason text not null, entry blob not null);
commit;
"""
# Exclusive: no second process and no shared-memory file. secure_delete: what was delivered is overwritten.
PRAGMAS = (
    "locking_mode=exclusive",
    "mmap_size=0",
    "journal_mode=wal",
    "synchronous=full",
    "secure_delete=on",
    "wal_autocheckpoint=256",
    "journal_size_limit=1048576",
)
MAX_REFUSED = 1000
ROW_BYTES = 32  # what SQLite needs for a row besides the entry


class SpoolFile:
    """The open database. Every method raises sqlite3.Error as SQLite does; `Spool` decides what that means."""

    def __init__(self, path: Path) -> None:
        """Open, create where missing, and check every page."""
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # faces: SQLite's log and journal get this mode too
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2)
        try:
            for pragma in PRAGMAS:
                self._db.execute(f"pragma {pragma}")
            for (verdict,) in self._db.execute("pragma quick_check(1)"):
                if verdict != "ok":
                    raise sqlite3.DatabaseError(f"database disk image is malformed: {verdict}")
            tables = {name for (name,) in self._db.execute("select name from sqlite_master where type = 'table'")}
            if not {"meta", "faces", "refused"} <= tables:
                self._db.executescript(SCHEMA)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close; an error changes nothing, what was committed is on the disk."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    @contextlib.contextmanager
    def transaction(self, durable: bool = True) -> Iterator[None]:
        """All or nothing; flushed to the disk unless `durable` is False."""
        if not durable:
            self._db.execute("pragma synchronous=normal")
        try:
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise
        finally:
            if not durable:
                self._db.execute("pragma synchronous=full")

    def meta(self) -> dict[str, int]:
        """The numbers kept beside the faces."""
        return dict(self._db.execute("select name, value from meta"))

    def save_meta(self, values: Mapping[str, int]) -> None:
        """Keep numbers; inside a transaction."""
        self._db.executemany("insert or replace into meta values (?, ?)", values.items())

    def totals(self) -> tuple[int, int]:
        """How many faces there are and the bytes they take."""
        count, size = self._db.execute("select count(*), coalesce(sum(size), 0) from faces").fetchone()
        return count, size

    def insert(self, entries: Iterable[tuple[int, bytes]]) -> None:
        """Add entries under their ids."""
        rows = ((number, size_of(entry), entry) for number, entry in entries)
        self._db.executemany("insert into faces values (?, ?, ?)", rows)

    def oldest(self, limit: int) -> list[tuple[int, bytes]]:
        """(id, entry) of the first faces."""
        return self._db.execute("select id, entry from faces order by id limit ?", (limit,)).fetchall()

    def newest(self) -> tuple[int, bytes] | None:
        """(id, entry) of the last face."""
        found: tuple[int, bytes] | None = self._db.execute(
            "select id, entry from faces order by id desc limit 1"
        ).fetchone()
        return found

    def sizes(self) -> Iterator[tuple[int, int]]:
        """(id, bytes) of all faces, oldest first."""
        yield from self._db.execute("select id, size from faces order by id")

    def ids(self) -> list[int]:
        """The ids of all faces, ascending."""
        return [number for (number,) in self._db.execute("select id from faces order by id")]

    def get(self, number: int) -> bytes:
        """One entry."""
        (entry,) = self._db.execute("select entry from faces where id = ?", (number,)).fetchone()
        return bytes(entry)

    def put(self, number: int, entry: bytes) -> None:
        """Replace an entry."""
        self._db.execute("update faces set entry = ? where id = ?", (entry, number))

    def delete_to(self, last: int) -> int:
        """Delete all faces up to an id; returns how many there were."""
        return self._db.execute("delete from faces where id <= ?", (last,)).rowcount

    def delete(self, number: int) -> None:
        """Delete one face."""
        self._db.execute("delete from faces where id = ?", (number,))

    def refuse(self, number: int, reason: str) -> None:
        """Move a face to the refused ones, of which the last MAX_REFUSED are kept."""
        self._db.execute("insert or replace into refused select id, ?, entry from faces where id = ?", (reason, number))
        self.delete(number)
        keep = "select id from refused order by id desc limit ?"
        self._db.execute(f"delete from refused where id not in ({keep})", (MAX_REFUSED,))


def size_of(entry: bytes) -> int:
    """The bytes that an entry is counted with."""
    return len(entry) + ROW_BYTES
