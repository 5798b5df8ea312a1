"""The spool: faces that were found and not yet acknowledged, safe against kill -9, power cuts and damaged files.

A face is accepted when `append` has counted it: it is then on the disk, one fsync for the whole list. Whatever is
wrong with the file, the spool starts: a damaged one is put aside and every undamaged face in it goes on.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ...errors import Corrupt, SpoolError
from ..batch import MAX_NUMBER, MAX_SPREAD, Record
from .entry import Stored, is_whole, place_of, read_entry, rename_entry, scan, write_entry
from .spoolfile import SpoolFile, size_of

POLICIES = ("reject-new", "drop-oldest")
COUNTERS = ("accepted", "rejected_new", "dropped_oldest", "damaged", "refused", "delivered", "quarantines", "salvaged")
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
UNAVAILABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
UNREADABLE = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
T = TypeVar("T")


class Spool:
    """A bounded, durable queue of faces for one camera; safe to use from several threads.

    Attributes:
        counters: what became of faces since the spool was made (see COUNTERS).
        problem: why the disk takes nothing at the moment, or "".
        commits: durable transactions since it was opened, each one fsync.
    """

    def __init__(
        self, path: Path, max_bytes: int = 100_000_000, policy: str = "reject-new", key: bytes | None = None
    ) -> None:
        """Open or create the spool.

        Args:
            path: the database; a damaged one is kept beside it as *.quarantine.
            max_bytes: bound of the faces kept; the file stays within about this plus 2 MB.
            policy: what to do when it is full: "reject-new" or "drop-oldest"; both count.
            key: 32 bytes that seal faces on the disk.

        Raises:
            SpoolError: no folder, no right to write, in use, or sealed with another key.
        """
        if policy not in POLICIES:
            raise SpoolError(f"spool policy {policy!r} is unknown; use one of {', '.join(POLICIES)}")
        self.path, self.max_bytes, self.policy, self._key = path, max_bytes, policy, key
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.problem = ""
        self.commits = self.epoch = 0
        self._next_sequence = self._next_id = self._count = self._bytes = 0
        self._removed = -1  # everything up to this id is gone for good
        self._lock = threading.RLock()
        self._file: SpoolFile | None = None
        self._cut_off: list[bytes] = []
        if not path.parent.is_dir():
            raise SpoolError(f"the spool's folder {path.parent} does not exist; make it or change spool.path")
        if path.exists() and not path.is_file():
            raise SpoolError(f"{path} is no file; change spool.path")
        if not all(os.access(place, os.W_OK) for place in (path.parent, path) if place.exists()):
            raise SpoolError(f"{path} is not writable; check its rights or change spool.path")
        self._try(lambda file: None)

    def __len__(self) -> int:
        """Faces that wait."""
        return self._count

    @property
    def size(self) -> int:
        """Bytes that waiting faces take."""
        return self._bytes

    def append(self, faces: Sequence[tuple[bytes, bytes, Record]]) -> int:
        """Accept faces in one durable transaction.

        Args:
            faces: (model digest, payload, record) each.

        Returns:
            How many were accepted, the first ones of the list; the others are in counters["rejected_new"].
        """
        with self._lock:
            kept = self._try(lambda file: self._append(file, faces)) or 0
            self.counters["rejected_new"] += len(faces) - kept
            return kept

    def peek(self, limit: int, max_bytes: int = 900_000) -> list[Stored]:
        """The oldest faces that can travel in one batch: one epoch and model, consecutive sequences."""
        with self._lock:
            return self._try(lambda file: self._peek(file, limit, max_bytes)) or []

    def remove(self, last: int) -> None:
        """Forget the faces with ids up to `last`: the server has them.

        Not flushed by itself: after a power cut they are sent again, and the server tells them by their sequence.
        """
        with self._lock:
            self._try(lambda file: self._remove(file, last))

    def refuse(self, number: int, reason: str) -> None:
        """Put the face with this id aside, because the server will never take it; it blocks no others."""
        with self._lock:
            self._try(lambda file: self._discard(file, number, "refused", lambda: file.refuse(number, reason)))

    def renew_epoch(self) -> None:
        """Give the waiting faces a new epoch: the server holds other faces under their numbers.

        So it is when a device was restored from an older copy of its disk, or cloned.
        """
        with self._lock:
            self._try(self._renew)

    def close(self) -> None:
        """Fold everything into the one file and let others open it."""
        with self._lock:
            if self._file is not None:
                self._try(self._save)
            self._close()

    # Everything below runs under the lock.

    def _try(self, action: Callable[[SpoolFile], T]) -> T | None:
        """Run an action on a healthy file; None when the disk takes nothing just now."""
        for _ in range(3):
            try:
                result = action(self._opened())
                self.problem = ""
                return result
            except SpoolError:
                self._close()
                raise
            except (sqlite3.Error, OSError) as error:
                self.problem = str(error)
                self._close()  # the next use opens anew and checks
                damaged = sqlite3.SQLITE_CORRUPT if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_IOERR
                code = getattr(error, "sqlite_errorcode", damaged)
                if code & 0xFF in BUSY:
                    raise SpoolError(f"{self.path} is in use by another process; run one camera per spool") from error
                if code & 0xFF in UNAVAILABLE and code not in UNREADABLE:
                    return None
            try:
                self._put_aside()
            except OSError as error:
                self.problem = str(error)
                return None
        return None

    def _opened(self) -> SpoolFile:
        """The open file; opening checks it, reads the order and takes back what a damage had cut off."""
        if self._file is None:
            # Read before SQLite drops what lies behind a damaged page; kept when this opening fails and closes the log.
            self._cut_off += scan(Path(f"{self.path}-wal"))
            self._file = SpoolFile(self.path)
            self._load(self._file)
            damaged = sorted(self.path.parent.glob(f"{self.path.name}.damaged-*"))
            self._salvage(self._file, [*self._cut_off, *(entry for path in damaged for entry in scan(path))])
            self._cut_off = []
            for path in damaged:
                path.replace(f"{self.path}.quarantine{'-wal' if path.name.endswith('-wal') else ''}")
        return self._file

    def _load(self, file: SpoolFile) -> None:
        """Read the counters and the order; a new file draws its epoch."""
        meta, last = file.meta(), file.newest()
        for name in COUNTERS:
            self.counters[name] = max(meta.get(name, 0), self.counters[name])
        self._removed = max(self._removed, meta.get("removed", -1))
        self._next_id = max(self._next_id, self._removed + 1, meta.get("next_id", 0), last[0] + 1 if last else 0)
        if "epoch" in meta and self.epoch in (0, meta["epoch"]):
            self.epoch = meta["epoch"]
            self._next_sequence = max(self._next_sequence, meta.get("next_sequence", 0))
        else:
            self._draw_epoch()
        if last is not None:
            with contextlib.suppress(Corrupt):  # counted when its turn comes
                read_entry(last[1], self._key)  # another key is an error now, not when the faces are due
        self._count, self._bytes = file.totals()

    def _draw_epoch(self) -> None:
        self.epoch = int.from_bytes(os.urandom(8), "little") & MAX_NUMBER or 1
        self._next_sequence = 0

    def _salvage(self, file: SpoolFile, entries: list[bytes]) -> None:
        """Take back undamaged faces that the file does not have whole and that were not removed."""
        have = set(file.ids()) if entries else set()
        found: dict[int, bytes] = {}
        whole: dict[int, bytes] = {}  # copies of faces that the file has, perhaps with a flipped bit
        for entry in entries:
            number, epoch, sequence = place_of(entry)
            if epoch == self.epoch:  # also of a transaction that never ended: its numbers must not be used again
                self._next_sequence = max(self._next_sequence, sequence + 1)
            self._next_id = max(self._next_id, number + 1)
            if number > self._removed:
                (whole if number in have else found)[number] = entry
        mended = {number: entry for number, entry in whole.items() if not is_whole(file.get(number))}
        if found or mended:
            with file.transaction():
                for number, entry in mended.items():
                    file.put(number, entry)
                file.insert(sorted(found.items()))
                file.save_meta(self._numbers(salvaged=self.counters["salvaged"] + len(found)))
            self.counters["salvaged"] += len(found)
            self._count, self._bytes = file.totals()

    def _append(self, file: SpoolFile, faces: Sequence[tuple[bytes, bytes, Record]]) -> int:
        entries = []
        for place, face in enumerate(faces):
            stored = Stored(self._next_id + place, self.epoch, self._next_sequence + place, *face)
            entries.append((stored.id, write_entry(stored, self._key)))
        needed = sum(size_of(entry) for _, entry in entries)
        last, dropped, free = self._removed, 0, self.max_bytes - self._bytes
        if self.policy == "drop-oldest" and needed > free:
            for number, size in file.sizes():
                last, dropped, free = number, dropped + 1, free + size
                if needed <= free:
                    break
        kept = 0
        while kept < len(entries) and size_of(entries[kept][1]) <= free:
            free -= size_of(entries[kept][1])
            kept += 1
        changes = {
            "accepted": self.counters["accepted"] + kept,
            "dropped_oldest": self.counters["dropped_oldest"] + dropped,
        }
        order = {"next_id": self._next_id + kept, "next_sequence": self._next_sequence + kept, "removed": last}
        with file.transaction():
            if dropped:
                file.delete_to(last)
            file.insert(entries[:kept])
            file.save_meta(self._numbers(**changes, **order))
        self.counters.update(changes)
        self._next_id, self._next_sequence, self._removed = order["next_id"], order["next_sequence"], last
        self._count, self._bytes = self._count + kept - dropped, self.max_bytes - free
        self.commits += 1
        return kept

    def _peek(self, file: SpoolFile, limit: int, max_bytes: int) -> list[Stored]:
        faces: list[Stored] = []
        size = 0
        for number, entry in file.oldest(limit):
            try:
                face = read_entry(entry, self._key)
            except Corrupt:
                if faces:
                    break
                self._discard(file, number, "damaged", lambda number=number: file.delete(number))  # type: ignore[misc]
                continue
            size += len(face.payload) + 15
            if faces and (not _follows(faces[0], faces[-1], face) or size > max_bytes):
                break
            faces.append(face)
        return faces

    def _remove(self, file: SpoolFile, last: int) -> None:
        with file.transaction(durable=False):
            delivered = self.counters["delivered"] + file.delete_to(last)
            file.save_meta(self._numbers(delivered=delivered, removed=max(self._removed, last)))
        self.counters["delivered"], self._removed = delivered, max(self._removed, last)
        self._count, self._bytes = file.totals()

    def _discard(self, file: SpoolFile, number: int, counter: str, action: Callable[[], None]) -> None:
        """Take one face out of the queue and count it."""
        with file.transaction():
            action()
            file.save_meta(self._numbers(**{counter: self.counters[counter] + 1}))
        self.counters[counter] += 1
        self._count, self._bytes = file.totals()

    def _renew(self, file: SpoolFile) -> None:
        old = self.epoch, self._next_sequence
        try:
            with file.transaction():
                self._draw_epoch()
                for number in file.ids():
                    file.put(number, rename_entry(file.get(number), self.epoch, self._next_sequence))
                    self._next_sequence += 1
                file.save_meta(self._numbers())
        except BaseException:
            self.epoch, self._next_sequence = old
            raise

    def _save(self, file: SpoolFile) -> None:
        with file.transaction():
            file.save_meta(self._numbers())

    def _numbers(self, **newer: int) -> dict[str, int]:
        """What is kept in the file's meta table."""
        order = {"next_id": self._next_id, "next_sequence": self._next_sequence, "removed": self._removed}
        return {**self.counters, **order, "epoch": self.epoch, **newer}

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put_aside(self) -> None:
        """Rename a damaged database; its faces are taken back when the next one is open."""
        free = (n for n in range(1, 1 << 30) if not Path(f"{self.path}.damaged-{n}").exists())
        target = f"{self.path}.damaged-{next(free)}"
        for suffix in ("-wal", ""):
            source = Path(f"{self.path}{suffix}")
            if source.exists():
                source.replace(target + suffix)
        self.counters["quarantines"] += 1


def _follows(first: Stored, last: Stored, face: Stored) -> bool:
    """Whether a face can stand behind another in one batch."""
    return (
        face.epoch == last.epoch
        and face.sequence == last.sequence + 1
        and face.digest == last.digest
        and abs(face.record.time - first.record.time) <= MAX_SPREAD
    )
