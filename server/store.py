"""Faces in the database: stored once, listed, erased. A stored face is committed before anybody hears of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, and_, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from ..errors import PacketError
from ..runtime.batch import Batch
from .erased import erased_ranges, erased_until, remember
from .tables import FACES


def _steady_ns() -> int:
    """A clock that nobody sets; on Linux it goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns()


SLOW = 0.05  # seconds of a count that is not repeated for each who asks
IN_ORDER = 0x73746371  # the lock under which PostgreSQL gives faces their numbers
_WALL_NS, _BEGAN_NS = time.time_ns(), _steady_ns()


class Conflict(PacketError):
    """Other faces are stored under a batch's sequence numbers: the device must draw a new epoch."""


@dataclass(frozen=True)
class Selection:
    """Which faces; None does not restrict. Times are capture times, milliseconds since 1970 UTC, `until` excluded."""

    device: str | None = None
    since: int | None = None
    until: int | None = None
    before: int | None = None  # ids below
    after: int | None = None  # ids above
    face: int | None = None

    def where(self) -> list[ColumnElement[bool]]:
        """The conditions in SQL."""
        tests = [
            (self.device, FACES.c.device.__eq__),
            (self.since, FACES.c.captured.__ge__),
            (self.until, FACES.c.captured.__lt__),
            (self.before, FACES.c.id.__lt__),
            (self.after, FACES.c.id.__gt__),
            (self.face, FACES.c.id.__eq__),
        ]
        return [test(value) for value, test in tests if value is not None]


class Store:
    """The faces of a database; safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        """See `open_database`."""
        self.engine = engine
        self._counted: list[dict[str, Any]] = []
        self._counted_until = 0.0

    def add(self, batch: Batch) -> int:
        """Keep the faces of a batch that are not there yet, in one transaction.

        Returns:
            How many were new; the others had come before.

        Raises:
            Conflict: another face is stored under one of the numbers, or was and is erased; nothing is stored.
        """
        try:
            return self._add(batch)
        except IntegrityError:  # the same batch came in twice at the same time: now the other one is there
            return self._add(batch)

    def _add(self, batch: Batch) -> int:
        with self.engine.begin() as db:
            if db.dialect.name == "postgresql":  # ids are seen in their order, or who asks for later ones misses some
                db.execute(select(func.pg_advisory_xact_lock(IN_ORDER)))
            last = batch.first + len(batch.faces) - 1
            own = and_(FACES.c.device == batch.device, FACES.c.epoch == batch.epoch)
            within = FACES.c.sequence.between(batch.first, last)
            query = select(FACES.c.sequence, FACES.c.payload, FACES.c.digest).where(own, within)
            have = {row.sequence: (bytes(row.payload), bytes(row.digest)) for row in db.execute(query)}
            gone = erased_ranges(db, batch, last)
            until = erased_until(db, batch.device, batch.epoch) if gone else None
            rows, now = [], now_ms()
            for sequence, face in enumerate(batch.faces, batch.first):
                if sequence in have:
                    if have[sequence] != (face.payload, batch.digest):
                        raise Conflict(
                            f"another face of {batch.device} is stored under epoch {batch.epoch}, sequence {sequence}"
                        )
                elif not any(first <= sequence <= end for first, end in gone):
                    rows.append(_row(batch, sequence, now))
                elif until is not None and face.record is not None and _clipped(face.record.time) > until:
                    raise Conflict(
                        f"an earlier face of {batch.device} was erased under epoch {batch.epoch}, sequence {sequence}"
                    )
            if rows:
                db.execute(insert(FACES), rows)
        return len(rows)

    def faces(self, selection: Selection, limit: int = 100) -> Sequence[Row[Any]]:
        """Faces, the last ones first."""
        query = select(FACES).where(*selection.where()).order_by(FACES.c.id.desc()).limit(limit)
        with self.engine.connect() as db:
            return db.execute(query).all()

    def face(self, number: int) -> Row[Any] | None:
        """One face."""
        found = self.faces(Selection(face=number), 1)
        return found[0] if found else None

    def devices(self) -> list[dict[str, Any]]:
        """Each device's number of faces, payload bytes, and when its last face came.

        Millions of rows take a second, so that what was counted stands for twenty times as long as counting took.
        """
        if time.monotonic() < self._counted_until:
            return self._counted
        began = time.monotonic()
        size = func.sum(func.length(FACES.c.payload))
        query = select(FACES.c.device, func.count(), size, func.max(FACES.c.received)).group_by(FACES.c.device)
        with self.engine.connect() as db:
            rows = db.execute(query.order_by(FACES.c.device)).all()
        self._counted = [{"device": name, "faces": n, "bytes": int(b), "last": last} for name, n, b, last in rows]
        took = time.monotonic() - began
        self._counted_until = time.monotonic() + (20 * took if took > SLOW else 0)
        return self._counted

    def erase(self, selection: Selection, received_before: int | None = None) -> int:
        """Erase faces for good: they do not come back when a device sends them again.

        Returns:
            How many.
        """
        where = selection.where()
        if received_before is not None:
            where.append(FACES.c.received < received_before)
        total = 0
        while count := self._erased_some(where):
            total += count
        return total

    def _erased_some(self, where: list[ColumnElement[bool]]) -> int:
        try:
            return self._erase_some(where)
        except IntegrityError:  # another erasure noted the same range at the same time
            return self._erase_some(where)

    def _erase_some(self, where: list[ColumnElement[bool]], limit: int = 5000) -> int:
        with self.engine.begin() as db:
            chosen = select(FACES.c.id, FACES.c.device, FACES.c.epoch, FACES.c.sequence, FACES.c.captured)
            chosen = chosen.where(*where).limit(limit)
            if db.dialect.name == "postgresql":
                chosen = chosen.with_for_update()
            rows = db.execute(chosen.order_by(FACES.c.id)).all()
            remember(db, rows)
            ids = [row.id for row in rows]
            for start in range(0, len(ids), 500):
                db.execute(delete(FACES).where(FACES.c.id.in_(ids[start : start + 500])))
        return len(rows)

    def check(self) -> None:
        """Raise sqlalchemy's error unless the database answers."""
        with self.engine.connect() as db:
            db.execute(select(1))


def now_ms() -> int:
    """Milliseconds since 1970 UTC: the machine's clock when this process began, and the time that went by since.

    So a clock that is set while a server runs makes no face older or younger than it is.
    """
    return (_WALL_NS + _steady_ns() - _BEGAN_NS) // 1_000_000


def _row(batch: Batch, sequence: int, now: int) -> dict[str, Any]:
    face = batch.faces[sequence - batch.first]
    record = face.record
    return {
        "device": batch.device,
        "epoch": batch.epoch,
        "sequence": sequence,
        "digest": batch.digest,
        "payload": face.payload,
        "captured": _clipped(record.time if record else batch.time),
        "received": now,
        "track": record.track if record else None,
        "box": bytes(record.box) if record else None,
        "score": record.score if record else None,
        "sharpness": record.sharpness if record else None,
    }


def _clipped(value: int) -> int:
    """A device's clock may say anything; SQL's bigint may not."""
    return max(0, min(value, (1 << 63) - 1))
