"""The capture process: reads frames into shared memory. It may hang or crash; the parent kills it and starts another.

Messages go over a connection: JSON from here ("opened", "frame", "end", "error"), one byte from the parent for each
slot of the memory that may be written.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np

from ...errors import BackendMissing, StcqError
from ..images import Pixels
from .options import SourceOptions
from .sources import FrameSource, open_frames

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Entry point: memory descriptor, connection descriptor, slots; the options come over the connection as JSON."""
    with contextlib.suppress(OSError, AttributeError):  # Linux: end with the parent even inside a hanging read
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    memory_fd, connection_fd, slots = map(int, arguments[:3])
    cv2.setNumThreads(1)
    connection = Connection(connection_fd)
    options = SourceOptions(**json.loads(connection.recv_bytes()))
    try:
        source = open_frames(options)
    except StcqError as error:
        _say(connection, kind="error", message=str(error), fatal=not options.live or isinstance(error, BackendMissing))
        return
    with mmap.mmap(memory_fd, 0) as memory, contextlib.suppress(BrokenPipeError, EOFError):
        _say(connection, kind="opened", still=source.still)
        _copy(source, connection, memory, slots, options)
    source.close()


def _copy(source: FrameSource, connection: Connection, memory: mmap.mmap, slots: int, options: SourceOptions) -> None:
    """Frames into free slots: a live source is read on when none is free, another one waits."""
    free, live, max_pixels = set(range(slots)), options.live, options.max_pixels
    number = 0
    while (picture := source.read()) is not None:
        taken = time.time_ns() // 1_000_000, time.monotonic()
        number += 1
        while connection.poll(0) or not (free or live):
            free.add(connection.recv_bytes()[0])
        if not free:
            continue
        image = _fit(picture.image, max_pixels)
        slot = free.pop()
        start = slot * max_pixels * 3
        memory[start : start + image.size] = image.tobytes()
        height, width = image.shape[:2]
        about = {"slot": slot, "height": height, "width": width, "number": number, "time": picture.time}
        _say(connection, kind="frame", wall=taken[0], monotonic=taken[1], **about)
    _say(connection, kind="end")


def _fit(image: Pixels, max_pixels: int) -> Pixels:
    """The frame, made smaller when it has too many pixels."""
    height, width = image.shape[:2]
    if height * width <= max_pixels:
        return image
    scale = (max_pixels / (height * width)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _say(connection: Connection, **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
