"""The spool: faces that were found and not yet acknowledged, safe against kill -9, power cuts and damaged files.

A face is accepted when `append` has counted it: it is then on the disk, one fsync for the whole list. Whatever is
wrong with the file, the spool starts: a damaged one is put aside and every undamaged face in it goes on.
"""

from __future__ import annotations

import glob
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ...errors import SpoolError
from ..record import Record
from .entry import Stored, scan
from .spoolfile import SpoolFile
from .waiting import Waiting

POLICIES = ("reject-new", "drop-oldest")
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
UNAVAILABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
UNREADABLE = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
T = TypeVar("T")


class Spool:
    """A bounded, durable queue of faces for one camera; safe to use from several threads.

    Attributes:
        problem: why the disk takes nothing at the moment, or "".
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
        path = path.resolve()  # SQLite puts its log beside the file, not beside a link to it
        if policy not in POLICIES:
            raise SpoolError(f"spool policy {policy!r} is unknown; use one of {', '.join(POLICIES)}")
        self.path, self.max_bytes, self.policy = path, max_bytes, policy
        self.problem = ""
        self._waiting = Waiting(max_bytes, policy, key)
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
        return self._waiting.count

    @property
    def size(self) -> int:
        """Bytes that waiting faces take."""
        return self._waiting.bytes

    @property
    def counters(self) -> dict[str, int]:
        """What became of faces since the spool was made (waiting.COUNTERS)."""
        return self._waiting.counters

    @property
    def epoch(self) -> int:
        """That faces get now."""
        return self._waiting.epoch

    @property
    def commits(self) -> int:
        """Durable transactions with faces since it was opened, each one fsync."""
        return self._waiting.commits

    def append(self, faces: Sequence[tuple[bytes, bytes, Record]]) -> int:
        """Accept faces in one durable transaction.

        Args:
            faces: (model digest, payload, record) each.

        Returns:
            How many were accepted, the first ones of the list; the others are in counters["rejected_new"].
        """
        with self._lock:
            kept = self._try(lambda file: self._waiting.append(file, faces)) or 0
            self.counters["rejected_new"] += len(faces) - kept
            return kept

    def peek(self, limit: int, max_bytes: int = 900_000) -> list[Stored]:
        """The oldest faces that can travel in one batch: one epoch and model, consecutive sequences."""
        with self._lock:
            return self._try(lambda file: self._waiting.peek(file, limit, max_bytes)) or []

    def remove(self, last: int) -> None:
        """Forget the faces with ids up to `last`: the server has them.

        Not flushed by itself: after a power cut they are sent again, and the server tells them by their sequence.
        """
        with self._lock:
            self._try(lambda file: self._waiting.remove(file, last))

    def refuse(self, number: int, reason: str) -> None:
        """Put the face with this id aside, because the server will never take it; it blocks no others."""
        with self._lock:
            self._try(lambda file: self._waiting.discard(file, number, "refused", lambda: file.refuse(number, reason)))

    def renew_epoch(self) -> None:
        """Give the waiting faces a new epoch: the server holds other faces under their numbers.

        So it is when a device was restored from an older copy of its disk, or cloned.
        """
        with self._lock:
            self._try(self._waiting.renew)

    def close(self) -> None:
        """Fold everything into the one file and let others open it."""
        with self._lock:
            if self._file is not None:
                self._try(self._waiting.save)
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
            self._cut_off = list(dict.fromkeys([*self._cut_off, *scan(Path(f"{self.path}-wal"))]))
            self._file = SpoolFile(self.path)
            self._waiting.load(self._file)
            damaged = sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.damaged-*"))
            self._waiting.salvage(self._file, [*self._cut_off, *(entry for path in damaged for entry in scan(path))])
            self._cut_off = []
            for path in damaged:
                path.replace(f"{self.path}.quarantine{'-wal' if path.name.endswith('-wal') else ''}")
        return self._file

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
