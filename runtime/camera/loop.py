"""The camera: frames, faces, tracks; then the encoder, the spool and the uploader."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import CameraError
from ..codec import Codec
from ..parts import part
from ..systemd import notify, watchdog_seconds
from .align import align, quality, sharpness
from .capture import Capture, Frame
from .detect import Detection, open_detector
from .options import CameraConfig
from .pipeline import Encoder
from .preview import Preview
from .spool import Spool
from .status import write_status
from .track import Candidate, Tracker
from .transport import open_transport
from .upload import Uploader

log = logging.getLogger("stcq.camera")
STATUS_SECONDS = 2.0


class Camera:
    """Everything that one `stcq camera` runs."""

    def __init__(self, config: CameraConfig, dry: bool = False) -> None:
        """Open detector, codec, spool and transport; the source opens in `run`.

        Args:
            config: see there.
            dry: find and encode, but keep and send nothing.

        Raises:
            StcqError: something is missing or cannot be opened; the message says what.
        """
        self.config, self.dry = config, dry
        cv2.setNumThreads(config.threads or 1)
        detect = config.detect
        if detect.file:
            detect = replace(detect, file=str(config.path(detect.file)))
        self._detector = open_detector(detect)
        self._codec = Codec.load(
            config.path(config.bundle) if config.bundle else None,
            variant=config.variant,
            policy=config.policy or None,
            threads=config.threads or 1,
        )
        self._size = self._codec.info.image_size
        self._tracker = Tracker(config.track)
        self._capture = Capture(_absolute(config))
        self.spool = None if dry else open_spool(config)
        self._uploader = self._open_uploader()
        wake: Callable[[], None] = self._uploader.wake if self._uploader else lambda: None
        options = config.spool
        self.encoder = Encoder(self._codec, self.spool, options.commit_seconds, options.commit_faces, wake)
        self._preview = Preview(config.preview) if config.preview else None
        self._stopping = threading.Event()
        self._began = time.monotonic()
        self.detections = 0
        self._next_status = 0.0

    def stop(self) -> None:
        """End `run` soon; also from a signal handler."""
        self._stopping.set()

    def run(self, seconds: float | None = None) -> dict[str, Any]:
        """Work until the source ends, `stop` is called or the time is over; then everything found is committed.

        Returns:
            The last status.

        Raises:
            CameraError: the source is not live and does not open.
        """
        self._began = time.monotonic()
        end = float("inf") if seconds is None else self._began + seconds
        self.encoder.start()
        if self._uploader:
            self._uploader.start()
        if self._preview:
            self._preview.start()
        notify("READY=1")
        try:
            for frame in self._capture.frames_until(lambda: self._stopping.is_set() or time.monotonic() > end):
                if frame is not None and frame.number % self.config.detect.every == 0:
                    self._look(frame)
                self._beat()
            for shot in self._tracker.flush():
                self.encoder.put(shot)
        finally:
            notify("STOPPING=1")
            status = self._finish()
        return status

    def _look(self, frame: Frame) -> None:
        """Find, cut out, follow; hand over what is due."""
        faces = self._detector.detect(frame.image)
        candidates = [self._candidate(frame, face) for face in faces]
        self.detections += len(candidates)
        if frame.still:
            tracker = Tracker(replace(self.config.track, min_hits=1))
            shots = [*tracker.update(frame.time, candidates), *tracker.flush()]
            shots = [shot._replace(track=frame.number) for shot in shots]
        else:
            shots = self._tracker.update(frame.time, candidates)
        for shot in shots:
            self.encoder.put(shot)
        if self._preview:
            self._preview.show(frame.image, [face.box for face in faces])

    def _candidate(self, frame: Frame, face: Detection) -> Candidate:
        crop = align(frame.image, face, self._size)
        sharp = sharpness(crop)
        height, width = frame.image.shape[:2]
        left, top, across, down = face.box
        fractions = np.array([left / width, top / height, across / width, down / height])
        place = tuple(np.clip(np.round(fractions * 255), 0, 255).astype(int).tolist())
        good = quality(face, sharp, self._size)
        return Candidate(face.box, crop, good, sharp, face.score, frame.wall, frame.monotonic, place)

    def _beat(self) -> None:
        """A sign of life for systemd and the status file; none when the encoder has died."""
        now = time.monotonic()
        if not self.encoder.alive:
            raise CameraError("the encoder has stopped; see the log above")
        if now >= self._next_status:
            self._next_status = now + min(STATUS_SECONDS, (watchdog_seconds() or 60.0) / 3)
            notify("WATCHDOG=1")
            if not self.dry:
                write_status(self.config.path(self.config.status), self.status())

    def _finish(self) -> dict[str, Any]:
        """Commit what was found, send what can be sent in time."""
        if self.encoder.alive:
            self.encoder.stop()
        if self._preview:
            self._preview.stop()
        if self._uploader:
            self._uploader.stop(self.config.upload.stop_seconds)
        status = self.status() | {"running": False}
        if self.spool is not None:
            self.spool.close()
            write_status(self.config.path(self.config.status), status)
        self._codec.close()
        return status

    def _open_uploader(self) -> Uploader | None:
        if self.spool is None or not self.config.upload.url:
            return None
        upload = self.config.upload
        key = part("runtime.sealing").read_key(self.config.secret(upload.key)) if upload.key else None
        return Uploader(self.spool, open_transport(self.config), self.config.device, upload, key)

    def status(self) -> dict[str, Any]:
        """Everything that an operator wants to know, in numbers."""
        seconds = max(1e-9, time.monotonic() - self._began)
        capture, latencies = self._capture, sorted(self.encoder.latencies)
        status: dict[str, Any] = {
            "device": self.config.device,
            "running": True,
            "seconds": round(seconds, 1),
            "frames": capture.frames,
            "frames_per_second": round(capture.frames / seconds, 2),
            "skipped_frames": capture.skipped,
            "capture_restarts": capture.restarts,
            "problem": capture.problem,
            "detections": self.detections,
            "tracks_in_view": len(self._tracker.tracks),
            "faces": self.encoder.encoded,
            "faces_lost": self.encoder.lost,
            "payload_bytes": self.encoder.payload_bytes,
        }
        if latencies:
            p50, p99 = (latencies[min(len(latencies) - 1, int(len(latencies) * p))] for p in (0.5, 0.99))
            status["latency_ms"] = {"p50": round(p50 * 1000, 1), "p99": round(p99 * 1000, 1)}
        if self.spool is not None:
            waiting = {"waiting": len(self.spool), "bytes": self.spool.size, "problem": self.spool.problem}
            status["spool"] = waiting | self.spool.counters
        if self._uploader:
            sent = self._uploader.status
            ago = None if sent["last_ack"] is None else round(time.monotonic() - sent["last_ack"], 1)
            status["upload"] = {key: sent[key] for key in ("batches", "bytes", "last_error")} | {"last_ack_s_ago": ago}
        return status


def open_spool(config: CameraConfig) -> Spool:
    """The spool of a configuration.

    Raises:
        SpoolError, StcqError: it or its key cannot be opened.
    """
    options = config.spool
    key = part("runtime.sealing").read_key(config.secret(options.key)) if options.key else None
    return Spool(config.path(options.path), options.max_bytes, options.policy, key)


def _absolute(config: CameraConfig) -> Any:
    """The source with a path that does not depend on the current folder."""
    url = config.source.url
    if "://" in url or config.source.live or Path(url).is_absolute():
        return config.source
    return replace(config.source, url=str(config.path(url)))
