"""The machine's state at one moment: governor, clock, temperatures, limits, and what the board's own sensors say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .jetson import jetson
from .raspberry import raspberry
from .reading import Ask, ask, children, number, text, thermal_zones

UNKNOWN = "unknown"


def sensors(root: Path = Path("/"), ask: Ask = ask) -> dict[str, Any]:
    """Read every sensor that this machine has.

    Args:
        root: where its file system starts; another folder in tests.
        ask: runs a command and gives what it prints.

    Returns:
        "board" ("jetson", "raspberry-pi" or "unknown"), "governor", "clock_mhz" and "top_clock_mhz" by CPU,
        "temperature_c" by zone, "throttle_counts", "quota_cpus", and "sensors" of the board; a fact that the machine
        does not say is "unknown". Never raises.
    """
    kind = board(root)
    own = {"jetson": jetson, "raspberry-pi": raspberry}.get(kind)
    return {
        "board": kind,
        "governor": governor(root),
        "clock_mhz": clocks(root, "scaling_cur_freq"),
        "top_clock_mhz": clocks(root, "cpuinfo_max_freq"),
        "temperature_c": thermal_zones(root) or UNKNOWN,
        "throttle_counts": throttle_counts(root),
        "quota_cpus": quota(root),
        "sensors": own(root, ask) if own else UNKNOWN,
    }


def board(root: Path) -> str:
    """ "jetson" or "raspberry-pi" by the kernel's device tree, "unknown" for all others."""
    model = text(root / "proc/device-tree/model")
    compatible = text(root / "proc/device-tree/compatible")
    if "raspberrypi," in compatible or model.startswith("Raspberry Pi"):
        return "raspberry-pi"
    if "nvidia,tegra" in compatible or "Jetson" in model or text(root / "etc/nv_tegra_release"):
        return "jetson"
    return UNKNOWN


def governor(root: Path) -> str:
    """The CPUs' frequency governor; several names when they differ."""
    names = {text(cpu / "cpufreq/scaling_governor") for cpu in cpus(root)} - {""}
    return " and ".join(sorted(names)) or UNKNOWN


def clocks(root: Path, name: str) -> list[int] | str:
    """Megahertz of each CPU by a cpufreq file; on machines without it, the current clock by /proc/cpuinfo."""
    found = [value // 1000 for cpu in cpus(root) if (value := number(cpu / "cpufreq" / name)) is not None]
    if not found and name == "scaling_cur_freq":
        found = [
            round(float(value)) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text(root / "proc/cpuinfo"), re.M)
        ]
    return found or UNKNOWN


def cpus(root: Path) -> list[Path]:
    """The CPUs' folders."""
    return children(root / "sys/devices/system/cpu", "cpu[0-9]*")


def throttle_counts(root: Path) -> int | str:
    """How often the CPUs were slowed by heat since start-up (x86), summed."""
    found = [number(cpu / "thermal_throttle/core_throttle_count") for cpu in cpus(root)]
    known = [value for value in found if value is not None]
    return sum(known) if known else UNKNOWN


def quota(root: Path) -> float | str:
    """How many CPUs' time a container may use (cgroup v2, v1); "unknown" without a limit."""
    group = root / "sys/fs/cgroup"
    found = re.fullmatch(r"(\d+) (\d+)", text(group / "cpu.max"))
    limit, period = (
        (int(found[1]), int(found[2]))
        if found
        else (
            number(group / "cpu/cpu.cfs_quota_us") or 0,
            number(group / "cpu/cpu.cfs_period_us") or 0,
        )
    )
    return limit / period if limit > 0 and period > 0 else UNKNOWN


def limits(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Sentences about what slowed the machine between two readings."""
    found = []
    names = str(after["governor"])
    if names not in (UNKNOWN, "performance"):
        found.append(
            f"the CPU governor is {names}: clocks rise and fall with the load; `performance` measures steadier"
        )
    first, last = before["throttle_counts"], after["throttle_counts"]
    if isinstance(first, int) and isinstance(last, int) and last > first:
        found.append(f"the CPU was slowed by heat {last - first} times while measuring")
    board = after["sensors"]
    if isinstance(board, dict) and isinstance(board.get("throttled"), list) and board["throttled"]:
        found.append(f"the Raspberry Pi is limited now: {', '.join(board['throttled'])}")
    if isinstance(after["quota_cpus"], float):
        found.append(f"the container may use {after['quota_cpus']:g} CPUs' time")
    return found
