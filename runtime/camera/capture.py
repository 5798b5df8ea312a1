"""Frames from a child process that is watched: OpenCV's read() may hang, or repeat one frame for ever.

A live source that delivers nothing for `timeout` seconds, ends, or repeats a frame to the bit for FROZEN seconds is
opened anew in a fresh process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from multiprocessing.connection import Pipe as make_pipe
from typing import Any, NamedTuple

import numpy as np

from ...errors import CameraError
from ..images import Pixels
from .options import SourceOptions

log = logging.getLogger("stcq.camera")
SLOTS = 3
FROZEN = 6.0
TICK = 0.5
LONGEST_PAUSE = 4.0
KILLING = 5.0  # seconds that a killed process may take to end


class Hopeless(CameraError):
    """What starting the capture process again will not mend."""


class Frame(NamedTuple):
    """One frame.

    Attributes:
        image: uint8 BGR (H, W, 3), valid until the next frame is asked for.
        time: seconds in the stream (live: the monotonic clock).
        wall: when it was taken, milliseconds since 1970 UTC.
        monotonic: the same by the monotonic clock, seconds.
        number: counts what the source gave, also frames that were passed over.
        still: a scene of its own.
    """

    image: Pixels
    time: float
    wall: int
    monotonic: float
    number: int
    still: bool


class Capture:
    """A watched source.

    Attributes:
        frames: taken.
        skipped: given by a live source while the camera was busy.
        restarts: how often the process was started again.
        problem: what is wrong at the moment, or "".
    """

    def __init__(self, options: SourceOptions) -> None:
        """Nothing runs until `frames_until`."""
        self._options = options
        self.frames = self.skipped = self.restarts = 0
        self.problem = ""
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._memory: mmap.mmap | None = None
        self._live, self._still = options.live, False
        self._pause, self._frozen = 0.5, FROZEN

    @property
    def child_pid(self) -> int | None:
        """The capture process."""
        return None if self._child is None else self._child.pid

    def frames_until(self, stopped: Callable[[], bool]) -> Iterator[Frame | None]:
        """Frames; None at least twice a second when there is none, so that the caller can do other things.

        Raises:
            CameraError: a source that is not live does not open or ends with an error, or a library is missing.
        """
        try:
            while not stopped():
                try:
                    yield from self._one_process(stopped)
                    if stopped() or not self._live:
                        return
                    self.problem = "the source ended"
                except CameraError as error:
                    if not self._live or isinstance(error, Hopeless):
                        raise
                    self.problem = str(error)
                self._kill()
                self.restarts += 1
                log.warning("capture starts again: %s", self.problem)
                end = time.monotonic() + self._pause
                self._pause = min(LONGEST_PAUSE, self._pause * 2)
                while time.monotonic() < end and not stopped():
                    time.sleep(0.05)
                    yield None
        finally:
            self._kill()

    def _one_process(self, stopped: Callable[[], bool]) -> Iterator[Frame | None]:
        """Frames of one capture process; returns at the source's end."""
        connection = self._start()
        deadline = time.monotonic() + self._options.open_timeout
        same, since = 0, time.monotonic()
        while not stopped():
            message = self._receive(connection, deadline)
            if message is None:
                yield None
                continue
            if message["kind"] == "error":
                raise (Hopeless if message["fatal"] else CameraError)(message["message"])
            if message["kind"] == "end":
                return
            now = time.monotonic()
            deadline = now + self._options.timeout if self._live else float("inf")
            if message["kind"] == "opened":
                self._still = message["still"]
                deadline = max(deadline, now + 5.0)
                continue
            frame = self._frame(message)
            if self._live:
                print_of = zlib.crc32(frame.image[::8, ::8].tobytes())
                if print_of != same:
                    if same:  # two different frames: it is alive
                        self._pause, self._frozen, self.problem = 0.5, FROZEN, ""
                    same, since = print_of, now
                elif now - since > self._frozen:
                    self._frozen = min(600.0, self._frozen * 2)  # perhaps nothing moves: ask less often
                    raise CameraError(f"the source repeats one frame since {now - since:.0f} s")
            self.frames += 1
            yield frame
            del frame
            with contextlib.suppress(OSError):  # a file may be read to its end already, and its process gone
                connection.send_bytes(bytes([message["slot"]]))

    def _receive(self, connection: Connection, deadline: float) -> dict[str, Any] | None:
        """The next message; of a live source's waiting frames the last one. None when nothing came for a tick."""
        try:
            if not connection.poll(min(TICK, max(0.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    raise CameraError(f"no frame for {self._options.timeout:g} s")
                return None
            message: dict[str, Any] = json.loads(connection.recv_bytes())
            while self._live and message["kind"] == "frame" and connection.poll(0):
                newer = json.loads(connection.recv_bytes())
                if newer["kind"] != "frame":
                    return dict(newer)
                connection.send_bytes(bytes([message["slot"]]))
                self.skipped += 1
                message = newer
            return message
        except (EOFError, OSError, ValueError) as error:
            raise CameraError("the capture process ended") from error

    def _frame(self, message: dict[str, Any]) -> Frame:
        height, width = message["height"], message["width"]
        start = message["slot"] * self._options.max_pixels * 3
        assert self._memory is not None
        pixels = np.frombuffer(self._memory, np.uint8, height * width * 3, start)
        image = pixels.reshape(height, width, 3)  # (H, W, 3)
        return Frame(image, message["time"], message["wall"], message["monotonic"], message["number"], self._still)

    def _start(self) -> Connection:
        """Start a process with fresh memory; nothing of it stays behind in the file system."""
        size = SLOTS * self._options.max_pixels * 3
        with tempfile.TemporaryFile() if not hasattr(os, "memfd_create") else _memory_file() as file:
            os.ftruncate(file.fileno(), size)
            self._memory = mmap.mmap(file.fileno(), size)
            ours, theirs = make_pipe()
            with theirs:
                descriptors = file.fileno(), theirs.fileno()
                numbers = [str(number) for number in (*descriptors, SLOTS)]
                command = [sys.executable, "-P", "-m", "stcq.runtime.camera.capture_child", *numbers]
                self._child = subprocess.Popen(command, pass_fds=descriptors, stdin=subprocess.DEVNULL)
        with contextlib.suppress(OSError):  # it has ended already, which reading will show
            ours.send_bytes(json.dumps(asdict(self._options)).encode())  # not as an argument: there may be a password
        self._connection = ours
        return ours

    def _kill(self) -> None:
        """End the process, however it hangs."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            try:
                child.wait(KILLING)
            except subprocess.TimeoutExpired:  # inside a driver that does not come back: the next one may fare better
                log.warning("the capture process %d hangs in the kernel and cannot be killed", child.pid)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._memory = None  # unmapped when the last frame is gone


def _memory_file() -> Any:
    return os.fdopen(os.memfd_create("stcq-frames"), "r+b")
