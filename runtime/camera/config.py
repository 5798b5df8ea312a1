"""The camera's configuration: a TOML file, every key checked, paths relative to the file."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ...errors import CameraError
from ..batch import DEVICE
from ..urls import without_password
from .spool import POLICIES

UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
STREAMS = ("rtsp://", "rtsps://", "http://", "https://", "rtmp://", "udp://")
PI_CAMERA = "picamera2"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
T = TypeVar("T")


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
        """Whether frames that are not taken in time are lost, and the end is a failure."""
        return self.url.startswith(("/dev/", *STREAMS)) or self.url.isdigit() or self.url == PI_CAMERA


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


def read_config(path: Path) -> CameraConfig:
    """Read a configuration.

    Raises:
        CameraError: missing, no TOML, an unknown key or a value that cannot be; the message names the key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CameraError(f"{path} does not exist; start from examples/camera.toml") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CameraError(f"{path} cannot be read: {error}") from error
    config = dataclasses.replace(_build(CameraConfig, values, str(path)), folder=path.parent)
    _check(config, path)
    return config


def _build(kind: type[T], values: dict[str, Any], where: str) -> T:
    """A dataclass from a table."""
    hints = typing.get_type_hints(kind)
    known = {item.name for item in dataclasses.fields(kind)} - {"folder"}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise CameraError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(sorted(known))}")
    if kind is CameraConfig and "device" not in values:
        raise CameraError(f'{where}: give the camera a name: device = "door-1"')
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    """One value of the wanted type."""
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _build(typing.cast(Any, kind), value, where)
    if isinstance(kind, types.GenericAlias):
        if isinstance(value, list) and len(value) == 4 and all(type(item) is int for item in value):
            return tuple(value)
        raise CameraError(f"{where} is {value!r}; give [x, y, width, height]")
    if kind is int and isinstance(value, str):
        return parse_bytes(value, where)
    if kind is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if kind is float and type(value) is float and not math.isfinite(value):
        raise CameraError(f"{where} is {value}; give a finite number")
    if type(value) is kind:
        return value
    raise CameraError(f"{where} is {value!r}; it must be of type {getattr(kind, '__name__', kind)}")


def parse_bytes(text: str, where: str = "size") -> int:
    """ "100 MB" -> 100000000.

    Raises:
        CameraError: not a number with B, kB, MB or GB.
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kMG]?B)?(/s)?\s*", text, re.IGNORECASE)
    try:
        return int(float(found[1]) * UNITS[(found[2] or "").lower()])  # type: ignore[index]
    except (TypeError, ValueError, OverflowError):
        raise CameraError(f"{where} is {text!r}; give a number of bytes such as 5000 or '100 MB'") from None


def _check(config: CameraConfig, path: Path) -> None:
    """What types do not say."""
    detect, spool, upload, track, source = config.detect, config.spool, config.upload, config.track, config.source
    where = without_password(upload.url)
    try:
        parts = urlsplit(upload.url)
        scheme, host, _ = parts.scheme, parts.hostname or "", parts.port
    except ValueError as error:
        raise CameraError(f"{path}: upload.url {where!r} is no URL: {error}") from None
    rules = [
        (DEVICE.fullmatch(config.device), f"device {config.device!r} is not 1 to 64 letters, digits, . _ -"),
        (detect.method in ("cascade", "yunet", "region"), f"detect.method {detect.method!r}: cascade, yunet or region"),
        (detect.method != "yunet" or detect.file, "detect.file: name the YuNet model"),
        (detect.method != "region" or min(detect.region[2:]) > 0, "detect.region: give [x, y, width, height]"),
        (
            detect.every >= 1 and detect.width >= 32 and detect.min_face >= 8,
            "detect.every, width or min_face too small",
        ),
        (spool.policy in POLICIES, f"spool.policy {spool.policy!r} is none of {', '.join(POLICIES)}"),
        (spool.max_bytes >= 100_000, f"spool.max_bytes {spool.max_bytes} is too small; at least '100 kB'"),
        (1 <= spool.commit_faces <= 4096, f"spool.commit_faces {spool.commit_faces} is not in 1..4096"),
        (scheme in ("", "http", "https", "mqtt", "mqtts"), f"upload.url {where!r}: https://... or mqtts://..."),
        (not upload.url or host, f"upload.url {where!r} names no host"),
        (
            scheme in ("", "https", "mqtts") or upload.plain or host in LOOPBACK,
            f"upload.url {where!r} would send faces in clear; use {scheme}s://, or plain = true to allow it",
        ),
        (1 <= upload.batch_faces <= 8192, f"upload.batch_faces {upload.batch_faces} is not in 1..8192"),
        (upload.max_rate >= 0 and upload.timeout > 0, "upload.max_rate or timeout is negative"),
        (0 <= upload.interval <= 86_400, f"upload.interval {upload.interval:g} is not in 0..86400 seconds"),
        (0.01 <= upload.max_delay <= 86_400, f"upload.max_delay {upload.max_delay:g} is not in 0.01..86400 seconds"),
        (0 <= upload.stop_seconds <= 3600, f"upload.stop_seconds {upload.stop_seconds:g} is not in 0..3600"),
        (
            bool(upload.certificate) == bool(upload.certificate_key),
            "upload: certificate and certificate_key go together",
        ),
        (track.gone > 0 and track.settle >= 0 and track.min_hits >= 1, "track: gone > 0, settle >= 0, min_hits >= 1"),
        (source.timeout >= 1 and source.open_timeout > 0, "source.timeout: at least 1 second; open_timeout above 0"),
        (4096 <= source.max_pixels <= 1 << 28, f"source.max_pixels {source.max_pixels} is not in 4096..268435456"),
        (max(detect.region) < 1 << 20 and min(detect.region) >= 0, "detect.region: whole pixels of the frame"),
        (bool(config.status), "status: name the status file"),
        (0 <= config.preview <= 65535, f"preview {config.preview} is no port"),
    ]
    for fine, message in rules:
        if not fine:
            raise CameraError(f"{path}: {message}")
    for name in (config.status, config.bundle, spool.path):
        config.path(name)
