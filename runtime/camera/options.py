"""What a camera's configuration may say; config.py reads and checks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...errors import CameraError

STREAMS = ("rtsp://", "rtsps://", "http://", "https://", "rtmp://", "udp://")
PI_CAMERA = "picamera2"


@dataclass(frozen=True)
class SourceOptions:
    """Where frames come from.

    Attributes:
        url: /dev/video0, rtsp://..., a video file, a folder of pictures, or "picamera2".
        width, height, fps: asked of a local camera; 0 = as it comes.
        timeout: seconds without a new frame after which the capture process is restarted.
        open_timeout: seconds that opening may take.
        max_pixels: larger frames are made smaller in the capture process.
    """

    url: str = "/dev/video0"
    width: int = 0
    height: int = 0
    fps: float = 0.0
    timeout: float = 4.0
    open_timeout: float = 20.0
    max_pixels: int = 1920 * 1080

    @property
    def live(self) -> bool:
        """Whether frames that are not taken in time are lost, and the end is a failure.

        So it is of streams and devices, also of one that is not there yet; not of files and folders in /dev/shm.
        """
        if self.url.startswith("/dev/"):
            return not Path(self.url).is_file() and not Path(self.url).is_dir()
        return self.url.startswith(STREAMS) or self.url.isdigit() or self.url == PI_CAMERA


@dataclass(frozen=True)
class DetectOptions:
    """How faces are found.

    Attributes:
        method: "cascade" (OpenCV's), "yunet" (needs `file`) or "region".
        file: a YuNet model.
        region: x, y, width, height in pixels, where a face is always expected.
        min_face: smallest side of a face in pixels.
        width: frames are searched at this width.
        score: least confidence (YuNet).
        every: search every n-th frame.
    """

    method: str = "cascade"
    file: str = ""
    region: tuple[int, int, int, int] = (0, 0, 0, 0)
    min_face: int = 60
    width: int = 320
    score: float = 0.7
    every: int = 1


@dataclass(frozen=True)
class TrackOptions:
    """One person in view is one track; its best picture is sent.

    Attributes:
        settle: seconds in which the best picture of a new track is chosen.
        interval: seconds after which a person who stays in view is sent again; 0 = never.
        gone: seconds unseen after which a track ends.
        min_hits: detections before a track counts (cascades see faces in wallpaper for a frame or two).
        min_sharpness: 0..255; blurred pictures are not sent.
    """

    settle: float = 1.0
    interval: float = 30.0
    gone: float = 1.0
    min_hits: int = 3
    min_sharpness: int = 8


@dataclass(frozen=True)
class SpoolOptions:
    """Where faces wait.

    Attributes:
        path: the database.
        max_bytes: such as "100 MB".
        policy: "reject-new" or "drop-oldest".
        key: file or env:NAME with 32 bytes that seal faces on the disk; "" = not sealed.
        commit_seconds, commit_faces: faces of this time, or this many, share one write to the disk.
    """

    path: str = "stcq-spool.db"
    max_bytes: int = 100_000_000
    policy: str = "reject-new"
    key: str = ""
    commit_seconds: float = 0.2
    commit_faces: int = 64


@dataclass(frozen=True)
class UploadOptions:
    """Where faces go.

    Attributes:
        url: https://HOST[:PORT] of `stcq serve`, or mqtts://[USER:PASSWORD@]HOST[:PORT]; "" = spool only.
        token: file or env:NAME with the device's token.
        ca: certificates to trust instead of the system's.
        certificate, certificate_key: the client's own.
        plain: allow http:// or mqtt:// to other machines.
        key: file or env:NAME with 32 bytes that seal batches; the server needs them too.
        metadata: send track, box, score and sharpness (12 bytes a face).
        batch_faces: most faces in one batch.
        interval: seconds to wait for more faces before a batch leaves.
        max_rate: bytes a second, such as "2 kB"; 0 = no limit.
        timeout: seconds to wait for an answer.
        max_delay: longest pause between tries.
        stop_seconds: how long to go on sending after SIGTERM.
    """

    url: str = ""
    token: str = ""
    ca: str = ""
    certificate: str = ""
    certificate_key: str = ""
    plain: bool = False
    key: str = ""
    metadata: bool = True
    batch_faces: int = 512
    interval: float = 1.0
    max_rate: int = 0
    timeout: float = 30.0
    max_delay: float = 300.0
    stop_seconds: float = 5.0


@dataclass(frozen=True)
class CameraConfig:
    """All of it; `device` is the name that the server knows the camera by."""

    device: str
    bundle: str = ""
    variant: str = "auto"
    policy: str = ""
    threads: int = 0
    status: str = "stcq-status.json"
    preview: int = 0
    source: SourceOptions = field(default_factory=SourceOptions)
    detect: DetectOptions = field(default_factory=DetectOptions)
    track: TrackOptions = field(default_factory=TrackOptions)
    spool: SpoolOptions = field(default_factory=SpoolOptions)
    upload: UploadOptions = field(default_factory=UploadOptions)
    folder: Path = field(default=Path(), repr=False)

    def path(self, name: str) -> Path:
        """A path of the file, relative to it.

        Raises:
            CameraError: it begins with ~ and an unknown user's name.
        """
        try:
            return self.folder / Path(name).expanduser()
        except RuntimeError:
            raise CameraError(f"{name}: there is no such user; write the whole path") from None

    def secret(self, name: str) -> str:
        """A key's or token's place: env:NAME as it is, files relative to the configuration."""
        return name if name.startswith("env:") or not name else str(self.path(name))
