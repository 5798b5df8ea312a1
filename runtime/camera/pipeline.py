"""The second half of the camera: pictures that are due are encoded in batches and put into the spool."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from ...errors import StcqError
from ..codec import Codec
from ..record import Record
from .spool import Spool
from .track import Shot

log = logging.getLogger("stcq.camera")
WAITING = 256


class Encoder:
    """A thread between the frames and the disk.

    Attributes:
        encoded: faces.
        payload_bytes: of these faces.
        lost: faces that the codec failed on.
        latencies: seconds from the frame in which a face became due to its commit, the last ones.
    """

    def __init__(
        self, codec: Codec, spool: Spool | None, seconds: float, faces: int, committed: Callable[[], None]
    ) -> None:
        """Nothing runs until `start`.

        Args:
            codec: used by this thread only.
            spool: None = encode only (a dry run).
            seconds, faces: faces of this time, or this many, share one commit.
            committed: called after each commit.
        """
        self._codec, self._spool, self._seconds, self._faces, self._committed = codec, spool, seconds, faces, committed
        self._digest = bytes.fromhex(codec.info.digest)
        self._queue: queue.Queue[Shot | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="encode", daemon=True)
        self.encoded = self.payload_bytes = self.lost = 0
        self.latencies: deque[float] = deque(maxlen=10_000)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, shot: Shot) -> None:
        """Hand a picture over; waits when too many are waiting, and a live source then skips frames."""
        self.lost += not self._handed(shot)

    def stop(self) -> None:
        """Encode and commit what waits, then end."""
        self._handed(None)
        self._thread.join()

    def _handed(self, shot: Shot | None) -> bool:
        """Put something into the queue; False when the thread has died, which nobody empties it after."""
        while True:
            with contextlib.suppress(queue.Full):
                self._queue.put(shot, timeout=1.0)
                return True
            if not self.alive:
                return False

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        last = False
        while not last:
            shots, last = self._gather()
            if not shots:
                continue
            try:
                group, indices = self._codec.tokens_batch([shot.face.crop for shot in shots])
                payloads = self._codec.bundle.manifest.codec.packets.pack_payload(group, indices)
                self._keep(shots, [payload.tobytes() for payload in payloads])
            except StcqError as error:
                self.lost += len(shots)
                log.error("%d faces were lost: %s", len(shots), error)

    def _gather(self) -> tuple[list[Shot], bool]:
        """The next pictures, and whether the end has come."""
        first = self._queue.get()
        if first is None:
            return [], True
        shots, end = [first], time.monotonic() + self._seconds
        while len(shots) < self._faces:
            try:
                shot = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if shot is None:
                return shots, True
            shots.append(shot)
        return shots, False

    def _keep(self, shots: list[Shot], payloads: list[bytes]) -> None:
        faces = [(self._digest, payload, record(shot)) for shot, payload in zip(shots, payloads, strict=True)]
        if self._spool is not None:
            kept = self._spool.append(faces)
            if kept < len(faces):
                reason = self._spool.problem or "the spool is full"
                log.error("%d of %d faces were not accepted: %s", len(faces) - kept, len(faces), reason)
        now = time.monotonic()
        self.latencies.extend(now - shot.chosen for shot in shots)
        self.encoded += len(faces)
        self.payload_bytes += sum(map(len, payloads))
        self._committed()


def record(shot: Shot) -> Record:
    """What travels with a picture."""
    face = shot.face
    return Record(face.wall, shot.track & 0xFFFF, face.place, round(255 * min(1.0, face.score)), face.sharpness)
