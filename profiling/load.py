"""Who used the CPUs while something was measured: this measurement, others, or the host of a virtual machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from .reading import text

UNKNOWN = "unknown"
OTHERS = 0.1  # CPUs' worth of other work that makes a measurement noisy
STOLEN = 0.05  # and of time that the host gave to other machines


class Moment(NamedTuple):
    """Counters of /proc/stat in seconds since start-up, with the clock; `busy` and `stolen` are None elsewhere.

    Attributes:
        clock: time.monotonic().
        busy, stolen: of all CPUs together.
        throttled: microseconds in which a container had used up its CPU quota.
    """

    clock: float
    busy: float | None
    stolen: float | None
    throttled: int | None


def moment(root: Path = Path("/")) -> Moment:
    """The counters now."""
    line = text(root / "proc/stat").partition("\n")[0].split()
    ticks = [int(value) for value in line[1:9]] if line[:1] == ["cpu"] and len(line) >= 9 else None
    each = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    stat = dict(row.split() for row in text(root / "sys/fs/cgroup/cpu.stat").splitlines() if len(row.split()) == 2)
    throttled = stat.get("throttled_usec")
    if ticks is None:
        return Moment(time.monotonic(), None, None, int(throttled) if throttled else None)
    user, nice, system, _idle, _waiting, irq, softirq, steal = ticks
    busy = user + nice + system + irq + softirq
    return Moment(time.monotonic(), busy / each, steal / each, int(throttled) if throttled else None)


def load_between(first: Moment, last: Moment, own: float) -> dict[str, Any]:
    """CPU use between two moments.

    Args:
        first, last: the moments.
        own: CPU seconds of the measurement itself, all its processes.

    Returns:
        "seconds", and in CPUs (1 = one core all the time) "own", "others", "stolen"; "throttled_seconds"; "unknown"
        where the machine does not say.
    """
    seconds = max(last.clock - first.clock, 1e-9)
    found: dict[str, Any] = {"seconds": round(seconds, 2), "own": round(own / seconds, 3)}
    found["others"] = found["stolen"] = found["throttled_seconds"] = UNKNOWN
    if first.busy is not None and last.busy is not None:
        found["others"] = round(max(0.0, last.busy - first.busy - own) / seconds, 3)
    if first.stolen is not None and last.stolen is not None:
        found["stolen"] = round((last.stolen - first.stolen) / seconds, 3)
    if first.throttled is not None and last.throttled is not None:
        found["throttled_seconds"] = round((last.throttled - first.throttled) / 1e6, 3)
    return found


def disturbances(load: dict[str, Any]) -> list[str]:
    """Sentences about a load that makes times doubtful; empty = a quiet machine."""
    found = []
    if isinstance(load["others"], float) and load["others"] > OTHERS:
        found.append(f"other processes used {load['others']:.2f} CPUs while measuring")
    if isinstance(load["stolen"], float) and load["stolen"] > STOLEN:
        found.append(f"the host took {load['stolen']:.2f} CPUs away from this virtual machine while measuring")
    if isinstance(load["throttled_seconds"], float) and load["throttled_seconds"] > 0:
        found.append(f"the container waited {load['throttled_seconds']:.2f} s for its CPU quota while measuring")
    return found


def load_average() -> list[float] | str:
    """The system's load average over 1, 5 and 15 minutes."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
