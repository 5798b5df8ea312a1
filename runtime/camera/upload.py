"""From the spool to the server: in order, one batch at a time, forgotten only after the server's acknowledgement."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any

from ...errors import SpoolError
from ..batch import Batch, pack_batch
from ..record import Face
from .entry import Stored
from .options import UploadOptions
from .spool import Spool
from .transport import Answer, Transport, Unreachable

log = logging.getLogger("stcq.camera")
FIRST_DELAY = 1.0
OVERHEAD = 400  # bytes of HTTP and TLS around a batch
FEW = 8  # faces that any link takes at once
BATCH_SECONDS = 30.0  # a batch is no larger than what the bandwidth cap lets through in this time


class Uploader:
    """A thread that sends what the spool holds. All its times are of the monotonic clock."""

    def __init__(
        self, spool: Spool, transport: Transport, device: str, options: UploadOptions, key: bytes | None = None
    ) -> None:
        """Nothing runs until `start`.

        Args:
            spool: the queue.
            transport: closed by `stop`.
            device: the name in the batches.
            options: see there.
            key: 32 bytes that seal batches.
        """
        self._spool, self._transport, self._device, self._options, self._key = spool, transport, device, options, key
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._failures, self._most = 0, options.batch_faces
        self._accepted_since_refusal = self._renewed = False
        self._doubted = -1  # the face that the server refused last
        self._free_at = time.monotonic()  # when the bandwidth cap lets the next byte through
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
        self.status: dict[str, Any] = {"batches": 0, "bytes": 0, "last_error": "", "last_ack": None}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There is something in the spool."""
        self._wake.set()

    def stop(self, seconds: float) -> None:
        """Go on for at most `seconds` while there is something to send, then end."""
        self._deadline = time.monotonic() + seconds
        self._stopping.set()
        self._wake.set()
        self._thread.join(seconds + 1)
        self._transport.close()

    def _run(self) -> None:
        while not self._stopping.is_set() or (len(self._spool) and time.monotonic() < self._deadline):
            if not len(self._spool):
                self._wake.wait(1.0)
                self._wake.clear()
                continue
            try:
                if len(self._spool) < self._options.batch_faces and not self._failures:
                    self._stopping.wait(self._options.interval)  # let a batch gather
                delay = self._send_one()
            except SpoolError as error:
                log.error("%s", error)
                delay = self._later(str(error))
            except Exception as error:  # a bug or a dying disk must not end the upload for good
                log.exception("upload")
                delay = self._later(repr(error))
            self._pause(delay)

    def _send_one(self) -> float:
        """Send the oldest faces; returns how long to wait before the next."""
        rate = self._options.max_rate
        limit = 900_000 if not rate else max(2_000, min(900_000, int(rate * BATCH_SECONDS)))
        faces = self._spool.peek(self._most, limit)
        if not faces:
            return self._later(self._spool.problem) if self._spool.problem else 0.0
        first = faces[0]
        content = self._pack(faces)
        if rate:
            self._pause(self._free_at - time.monotonic())
            self._free_at = max(time.monotonic(), self._free_at) + (len(content) + OVERHEAD) / rate
        try:
            answer = self._transport.send(
                content, f"{first.epoch}-{first.sequence}-{len(faces)}-{random.getrandbits(32)}"
            )
        except Unreachable as error:
            if self._failures:  # perhaps the link is too slow for so many at once
                self._most = max(FEW, len(faces) // 2)
            return self._later(str(error))
        self.status["bytes"] += len(content)
        if answer.acknowledges(first.epoch, first.sequence, len(faces)):
            return self._acknowledged(faces)
        return self._refused(answer, faces)

    def _pack(self, faces: list[Stored]) -> bytes:
        base = min(face.record.time for face in faces)
        kept = [Face(face.payload, face.record if self._options.metadata else None) for face in faces]
        first = faces[0]
        batch = Batch(self._device, first.epoch, first.sequence, first.digest, kept, max(0, base))
        return pack_batch(batch, self._key)

    def _acknowledged(self, faces: list[Stored]) -> float:
        self._spool.remove(faces[-1].id)
        if self._failures:
            log.info("the server answers again")
        self._failures = 0
        self._most = min(self._options.batch_faces, self._most * 2)
        self._accepted_since_refusal, self._renewed = True, False
        self.status["batches"] += 1
        self.status.update(last_error="", last_ack=time.monotonic())
        return 0.0

    def _refused(self, answer: Answer, faces: list[Stored]) -> float:
        """What to do about an answer that is no acknowledgement; a face is never given up because of one alone."""
        if answer.status in (408, 409, 413, 422) and len(faces) > 1:  # too many at once, or not all of them
            self._most = len(faces) // 2
            return self._later(answer.reason) if answer.status == 408 else 0.0
        if answer.status == 409 and not self._renewed:
            log.warning("the server has other faces under these numbers (a restored or cloned disk?): new epoch")
            before = self._spool.epoch
            self._spool.renew_epoch()
            self._renewed = self._spool.epoch != before
            return 0.0 if self._renewed else self._later(self._spool.problem or answer.reason)
        ours = answer.status == 422 and "kind" in answer.content  # a proxy's 422 says nothing of a face
        again, self._doubted = faces[0].id == self._doubted, faces[0].id if ours else -1
        if ours and again and self._accepted_since_refusal:  # others were taken, and it was no damage on the way
            log.error(
                "the server refuses face %d for good: %s; it is kept in the spool's table 'refused'",
                faces[0].id,
                answer.reason,
            )
            self._accepted_since_refusal = False
            self._spool.refuse(faces[0].id, answer.reason)
            return 0.0
        return max(answer.wait, self._later(answer.reason))

    def _later(self, reason: str) -> float:
        """Exponential back-off with jitter, so that a thousand cameras do not come back at once."""
        if self.status["last_error"] != reason:
            log.warning("upload waits: %s", reason)
        self.status["last_error"] = reason
        longest = min(self._options.max_delay, FIRST_DELAY * float(1 << min(self._failures, 30)))
        self._failures += 1
        return longest * random.uniform(0.5, 1.0)

    def _pause(self, seconds: float) -> None:
        """Wait; a stop ends the waiting, not the remaining time to send."""
        end = time.monotonic() + seconds
        while (left := min(end, self._deadline) - time.monotonic()) > 0:
            if not self._stopping.wait(left):
                return
            time.sleep(min(left, 0.05))
