"""Where frames come from: pictures, video files, network streams and local cameras, each read one frame at a time."""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ...errors import BackendMissing, CameraError, ImageError
from ..images import Pixels, open_image, to_rgb
from ..sources import open_source
from ..urls import without_password
from .options import PI_CAMERA, STREAMS, SourceOptions


class Picture(NamedTuple):
    """A frame, uint8 BGR (H, W, 3), and its time in the stream in seconds."""

    image: Pixels
    time: float


class FrameSource(ABC):
    """Frames one after the other.

    Attributes:
        still: every frame is a scene of its own.
    """

    still = False

    @abstractmethod
    def read(self) -> Picture | None:
        """The next frame; None at the end or when nothing comes any more."""

    def close(self) -> None:  # noqa: B027  (most sources have nothing to let go)
        """Let the device go."""


class FolderFrames(FrameSource):
    """A folder or zip of pictures; unreadable ones are passed over."""

    still = True

    def __init__(self, path: Path) -> None:
        """List it."""
        self._source = open_source(path)
        self._place = 0

    def read(self) -> Picture | None:
        """See `FrameSource`."""
        while self._place < len(self._source.names):
            name = self._source.names[self._place]
            self._place += 1
            try:
                rgb = np.asarray(to_rgb(open_image(self._source.read(name))))
                return Picture(np.ascontiguousarray(rgb[:, :, ::-1]), float(self._place))
            except ImageError:
                continue
        return None


class OpenCVFrames(FrameSource):
    """Everything that OpenCV opens: /dev/video*, RTSP, HTTP, files."""

    def __init__(self, options: SourceOptions) -> None:
        """Open it.

        Raises:
            CameraError: it does not open.
        """
        self._live, shown = options.live, without_password(options.url)
        if not self._live and not Path(options.url).is_file():
            raise CameraError(f"source {shown} is no file, folder, device or stream; check source.url")
        name: Any = int(options.url) if options.url.isdigit() else options.url
        seconds = round(options.open_timeout * 1000), round(options.timeout * 1000)
        settings: list[int] = []
        if options.url.startswith(STREAMS):
            settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, seconds[0], cv2.CAP_PROP_READ_TIMEOUT_MSEC, seconds[1]]
        backend = cv2.CAP_FFMPEG if settings else cv2.CAP_ANY
        self._capture = cv2.VideoCapture(name, backend, settings) if settings else cv2.VideoCapture(name)
        if not self._capture.isOpened():
            raise CameraError(f"source {shown} does not open; is it connected, and may this user read it?")
        wanted = {"WIDTH": options.width, "HEIGHT": options.height}
        for prop, value in wanted.items():
            if value:
                self._capture.set(getattr(cv2, f"CAP_PROP_FRAME_{prop}"), value)
        if options.fps:
            self._capture.set(cv2.CAP_PROP_FPS, options.fps)
        self._rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self._count = 0

    def read(self) -> Picture | None:
        """See `FrameSource`."""
        fine, image = self._capture.read()
        if not fine or image is None or not image.size:
            return None
        self._count += 1
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        return Picture(np.asarray(image, np.uint8), time.monotonic() if self._live else self._count / self._rate)

    def close(self) -> None:
        """See `FrameSource`."""
        self._capture.release()


class PiCameraFrames(FrameSource):
    """The Raspberry Pi's camera through picamera2, which comes with its operating system."""

    def __init__(self, options: SourceOptions) -> None:
        """Start it.

        Raises:
            BackendMissing: picamera2 is not installed.
            CameraError: there is no camera.
        """
        try:
            module = importlib.import_module("picamera2")
            self._camera = module.Picamera2()
            main = {"format": "RGB888", "size": (options.width or 640, options.height or 480)}  # BGR in memory
            controls = {"FrameRate": options.fps} if options.fps else {}
            self._camera.configure(self._camera.create_video_configuration(main=main, controls=controls))
            self._camera.start()
        except ImportError:
            raise BackendMissing("picamera2 is not installed; run: apt install python3-picamera2") from None
        except (RuntimeError, IndexError) as error:
            raise CameraError(f"the Pi's camera does not start: {error}") from error

    def read(self) -> Picture | None:
        """See `FrameSource`."""
        return Picture(self._camera.capture_array("main"), time.monotonic())

    def close(self) -> None:
        """See `FrameSource`."""
        self._camera.stop()


def open_frames(options: SourceOptions) -> FrameSource:
    """The source of a configuration's source.url.

    Raises:
        CameraError, ImageError, BackendMissing: it does not open.
    """
    if options.url == PI_CAMERA:
        return PiCameraFrames(options)
    path = Path(options.url)
    if path.is_dir() or path.suffix.lower() == ".zip":
        return FolderFrames(path)
    return OpenCVFrames(options)
