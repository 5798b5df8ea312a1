"""The camera's configuration: a TOML file, every key checked, paths relative to the file."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ...errors import CameraError
from ..batch import DEVICE
from ..urls import without_password
from .options import CameraConfig
from .spool import POLICIES

UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
T = TypeVar("T")


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
