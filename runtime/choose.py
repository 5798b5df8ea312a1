"""Which variant `variant="auto"` opens: of a calibrated bundle the fastest on this machine, else the first that runs.

A stored measurement decides: that of `stcq calibrate` if it was made on a machine like this one, else this user's own,
made at the first opening in about two seconds and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from .backends import is_installed, open_backend
from .backends.base import SessionOptions
from .bundle import Bundle
from .files import cache_folder, replace_file
from .machine import fingerprint, own_features
from .manifest import Variant

SECONDS = 2.0
ROUNDS = 15


class Choice(NamedTuple):
    """A variant, and why it was chosen, one sentence."""

    variant: Variant
    reason: str


def choose(bundle: Bundle, name: str = "auto") -> Choice:
    """The variant of a name; "auto" takes the fastest of those that passed their gate.

    Raises:
        BundleError: there is none of this name.
    """
    able = candidates(bundle)
    if name != "auto" or len(able) < 2 or all(v.precision != "int8" for v in able):
        return Choice(bundle.variant(name), "asked for" if name != "auto" else "the first that runs here")
    here = fingerprint()
    stored = bundle.manifest.provenance.get("measured")
    times, how = _valid(stored, able, here), "measured by stcq calibrate"
    if times is None:
        path = _cache(bundle, here)
        times, how = _valid(_read(path), able, here), "measured here before"
        if times is None:
            times, how = measure(bundle, SECONDS), "measured now"
            left_out: dict[str, None] = {v.name: None for v in able if v.name not in times}
            _keep(path, {"machine": here, "encode_ms": times | left_out})
    best = min((v for v in able if v.name in times), key=lambda v: times[v.name], default=able[0])
    others = ", ".join(f"{v.name} {times[v.name]:.2f}" for v in able if v.name != best.name and v.name in times)
    choice = Choice(best, f"{times.get(best.name, 0):.2f} ms a face against {others or 'none'}, {how}")
    if "logging" in sys.modules:  # else nobody listens, and its import is a hundredth of a command's start
        _log().info("%s: %s", best.name, choice.reason)
    return choice


def candidates(bundle: Bundle) -> list[Variant]:
    """The variants that "auto" chooses from: their library is here and this CPU computes them exactly.

    TensorRT is left out: its engines take minutes to build.
    """
    found = [v for v in bundle.manifest.variants if v.backend != "tensorrt" and is_installed(v.backend)]
    return [v for v in found if is_exact_here(v)]


def is_exact_here(variant: Variant) -> bool:
    """Whether sums of this int8 variant cannot overflow: an x86 CPU needs VNNI for unsigned activations."""
    needs = (variant.details.get("calibration") or {}).get("needs")
    if not needs or platform.machine() not in ("x86_64", "AMD64"):
        return True
    return any(feature in own_features() for feature in needs)


def measure(bundle: Bundle, seconds: float = SECONDS) -> dict[str, float]:
    """Median milliseconds of one picture -> tokens of each candidate, all CPUs, interleaved; at least one run each."""
    codec = bundle.manifest.codec
    size = codec.image_size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    runs: dict[str, Any] = {}
    for variant in candidates(bundle):
        backend = open_backend(variant.backend)
        graphs = ["tokenizer"] if "tokenizer" in variant.graphs else ["encoder", "quantizer"]
        try:
            sessions = [backend.open(bundle.graph(variant, g), SessionOptions(0)) for g in graphs]
            _encode(sessions, image)  # warms up; what cannot run is left out, too
            runs[variant.name] = sessions
        except BackendError as error:
            _log().warning("%s is left out: %s", variant.name, error)
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    for _ in range(ROUNDS):
        for name, sessions in runs.items():
            start = time.perf_counter()
            _encode(sessions, image)
            times[name].append(1000 * (time.perf_counter() - start))
        if time.perf_counter() > end:
            break
    for sessions in runs.values():
        for session in sessions:
            session.close()
    return {name: round(float(np.median(values)), 3) for name, values in times.items() if values}


def _encode(sessions: list[Any], image: NDArray[np.uint8]) -> None:
    """A picture through one graph after another."""
    feeds = {"image": image}
    for session in sessions:
        feeds = session.run_rows(feeds)


def _valid(document: Any, able: list[Variant], here: str) -> dict[str, float] | None:
    """The times of a stored measurement, if it is of this machine and of all these variants; null: one did not open."""
    try:
        stored = document["encode_ms"]
        times = {str(name): float(value) for name, value in stored.items() if value is not None}
        return times if document["machine"] == here and stored.keys() >= {v.name for v in able} else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _cache(bundle: Bundle, here: str) -> Path:
    """Where this user's measurement of a bundle on this machine is kept."""
    files = sorted((name, entry.sha256) for name, entry in bundle.manifest.files.items())
    key = hashlib.sha256(json.dumps([files, here]).encode()).hexdigest()[:24]
    return cache_folder("variants") / f"{key}.json"


def _read(path: Path) -> Any:
    """A stored measurement; None = there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _keep(path: Path, document: dict[str, Any]) -> None:
    """Store a measurement; without a folder to write to, the next opening measures again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: temporary.write_text(json.dumps(document), encoding="utf-8"))
    except OSError as error:
        _log().warning("the measurement of the variants is not kept: %s: %s; set STCQ_CACHE", path, error.strerror)


def _log() -> Any:
    import logging

    return logging.getLogger("stcq")
