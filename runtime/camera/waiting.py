"""The faces that wait in a spool: their order, numbers and counters; the file changes first, or nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from ...errors import Corrupt
from ..batch import MAX_NUMBER
from ..record import MAX_SPREAD, Record
from .entry import Stored, is_whole, place_of, read_entry, rename_entry, write_entry
from .spoolfile import SpoolFile, size_of

COUNTERS = ("accepted", "rejected_new", "dropped_oldest", "damaged", "refused", "delivered", "quarantines", "salvaged")


class Waiting:
    """What a spool knows besides its file, and what it does to a healthy one; not safe to use from several threads.

    Methods raise sqlite3.Error as the file does; then nothing has changed there and no face is counted here.

    Attributes:
        counters: what became of faces since the spool was made (see COUNTERS).
        count, bytes: of the faces that wait.
        epoch: that faces get now.
        commits: durable transactions with faces, each one fsync.
    """

    def __init__(self, max_bytes: int, policy: str, key: bytes | None) -> None:
        self.max_bytes, self.policy, self._key = max_bytes, policy, key
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.commits = self.epoch = self.count = self.bytes = 0
        self._next_sequence = self._next_id = 0
        self._removed = -1  # everything up to this id is gone for good

    def load(self, file: SpoolFile) -> None:
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
        self.count, self.bytes = file.totals()

    def salvage(self, file: SpoolFile, entries: list[bytes]) -> None:
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
            self.count, self.bytes = file.totals()

    def append(self, file: SpoolFile, faces: Sequence[tuple[bytes, bytes, Record]]) -> int:
        """Accept as many of (model digest, payload, record) as there is room for, and say how many."""
        entries = []
        for place, face in enumerate(faces):
            stored = Stored(self._next_id + place, self.epoch, self._next_sequence + place, *face)
            entries.append((stored.id, write_entry(stored, self._key)))
        needed = sum(size_of(entry) for _, entry in entries)
        last, dropped, free = self._removed, 0, self.max_bytes - self.bytes
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
        self.count, self.bytes = self.count + kept - dropped, self.max_bytes - free
        self.commits += 1
        return kept

    def peek(self, file: SpoolFile, limit: int, max_bytes: int) -> list[Stored]:
        """The oldest faces that can travel in one batch; damaged ones are counted and deleted."""
        faces: list[Stored] = []
        size = early = late = 0
        for number, entry in file.oldest(limit):
            try:
                face = read_entry(entry, self._key)
            except Corrupt:
                if faces:
                    break
                self.discard(file, number, "damaged", lambda number=number: file.delete(number))  # type: ignore[misc]
                continue
            size += len(face.payload) + 15
            time = face.record.time
            early, late = (min(early, time), max(late, time)) if faces else (time, time)
            if faces and (not _follows(faces[-1], face) or size > max_bytes or late - early > MAX_SPREAD):
                break
            faces.append(face)
        return faces

    def remove(self, file: SpoolFile, last: int) -> None:
        """Delete and count as delivered what has ids up to `last`; not flushed by itself."""
        with file.transaction(durable=False):
            delivered = self.counters["delivered"] + file.delete_to(last)
            file.save_meta(self._numbers(delivered=delivered, removed=max(self._removed, last)))
        self.counters["delivered"], self._removed = delivered, max(self._removed, last)
        self.count, self.bytes = file.totals()

    def discard(self, file: SpoolFile, number: int, counter: str, action: Callable[[], None]) -> None:
        """Take one face out of the queue and count it."""
        with file.transaction():
            action()
            file.save_meta(self._numbers(**{counter: self.counters[counter] + 1}))
        self.counters[counter] += 1
        self.count, self.bytes = file.totals()

    def renew(self, file: SpoolFile) -> None:
        """Give all undamaged faces a new epoch, and numbers from 0 in it; `peek` counts the others."""
        old = self.epoch, self._next_sequence
        try:
            with file.transaction():
                self._draw_epoch()
                for number in file.ids():
                    entry = file.get(number)
                    if is_whole(entry):  # a new checksum would make a damaged one good
                        file.put(number, rename_entry(entry, self.epoch, self._next_sequence))
                        self._next_sequence += 1
                file.save_meta(self._numbers())
        except BaseException:
            self.epoch, self._next_sequence = old
            raise

    def save(self, file: SpoolFile) -> None:
        """Write the counters and the order."""
        with file.transaction():
            file.save_meta(self._numbers())

    def _numbers(self, **newer: int) -> dict[str, int]:
        """What is kept in the file's meta table."""
        order = {"next_id": self._next_id, "next_sequence": self._next_sequence, "removed": self._removed}
        return {**self.counters, **order, "epoch": self.epoch, **newer}

    def _draw_epoch(self) -> None:
        self.epoch = int.from_bytes(os.urandom(8), "little") & MAX_NUMBER or 1
        self._next_sequence = 0


def _follows(last: Stored, face: Stored) -> bool:
    """Whether a face can stand behind another in one batch."""
    return face.epoch == last.epoch and face.sequence == last.sequence + 1 and face.digest == last.digest
