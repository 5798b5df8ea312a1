"""What was erased, kept so that it does not come back when a device sends it again: ranges of sequence numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, select, update

from ..runtime.batch import Batch
from .tables import ERASED, ERASED_UNTIL


def remember(db: Connection, faces: Sequence[Any]) -> None:
    """Note faces that are being erased, rows with device, epoch, sequence and captured."""
    rows = sorted(faces, key=lambda row: (row.device, row.epoch, row.sequence))
    for device, epoch, first, last in _ranges(rows):
        _remember_range(db, device, epoch, first, last)
    for (device, epoch), same in groupby(rows, lambda row: (row.device, row.epoch)):
        _remember_until(db, device, epoch, max(row.captured for row in same))


def erased_ranges(db: Connection, batch: Batch, last: int) -> list[tuple[int, int]]:
    """Erased ranges that touch a batch."""
    query = select(ERASED.c.first, ERASED.c.last).where(
        ERASED.c.device == batch.device,
        ERASED.c.epoch == batch.epoch,
        ERASED.c.first <= last,
        ERASED.c.last >= batch.first,
    )
    return [(row.first, row.last) for row in db.execute(query)]


def erased_until(db: Connection, device: str, epoch: int) -> int | None:
    """When the latest erased face of an epoch was captured; None: none was."""
    own = and_(ERASED_UNTIL.c.device == device, ERASED_UNTIL.c.epoch == epoch)
    found: int | None = db.execute(select(ERASED_UNTIL.c.captured).where(own)).scalar()
    return found


def _remember_until(db: Connection, device: str, epoch: int, captured: int) -> None:
    """Note when an erased face was captured, if none later was erased."""
    known = erased_until(db, device, epoch)
    if known is None:
        db.execute(insert(ERASED_UNTIL).values(device=device, epoch=epoch, captured=captured))
    elif captured > known:
        own = and_(ERASED_UNTIL.c.device == device, ERASED_UNTIL.c.epoch == epoch)
        db.execute(update(ERASED_UNTIL).where(own).values(captured=captured))


def _ranges(rows: Sequence[Any]) -> list[tuple[str, int, int, int]]:
    """(device, epoch, first, last) of runs of consecutive sequences; rows are sorted by device, epoch, sequence."""
    runs: list[tuple[str, int, int, int]] = []
    for row in rows:
        if runs and runs[-1][:2] == (row.device, row.epoch) and runs[-1][3] + 1 == row.sequence:
            runs[-1] = (*runs[-1][:3], row.sequence)
        else:
            runs.append((row.device, row.epoch, row.sequence, row.sequence))
    return runs


def _remember_range(db: Connection, device: str, epoch: int, first: int, last: int) -> None:
    """Note an erased range; it grows a neighbour where there is one, so that the table stays small."""
    own = and_(ERASED.c.device == device, ERASED.c.epoch == epoch)
    after = db.execute(select(ERASED.c.last).where(own, ERASED.c.first == last + 1)).scalar()
    if after is not None:
        db.execute(delete(ERASED).where(own, ERASED.c.first == last + 1))
        last = after
    if not db.execute(update(ERASED).where(own, ERASED.c.last == first - 1).values(last=last)).rowcount:
        db.execute(insert(ERASED).values(device=device, epoch=epoch, first=first, last=last))
