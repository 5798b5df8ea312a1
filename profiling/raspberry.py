"""Temperature and throttling of a Raspberry Pi."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .reading import Ask, children, text, thermal_zones

# bits of the firmware's word (Raspberry Pi documentation, vcgencmd get_throttled); the same 16 higher: since start-up
BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
SINCE_START = 16
FIRMWARE_FILES = (
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/platform/axi/axi:firmware/get_throttled",
)


def raspberry(root: Path, ask: Ask) -> dict[str, Any]:
    """The sensors of a Raspberry Pi.

    Returns:
        "temperature_c" by zone, "throttled": what limits it now, "throttled_since_start"; "unknown" for what neither
        vcgencmd nor the kernel says.
    """
    word = throttled_word(root, ask)
    facts: dict[str, Any] = {"temperature_c": thermal_zones(root) or measured(ask) or "unknown"}
    if word is not None:
        facts["throttled"] = [name for bit, name in BITS.items() if word >> bit & 1]
        facts["throttled_since_start"] = [name for bit, name in BITS.items() if word >> (bit + SINCE_START) & 1]
    else:
        low = [text(path) for path in under_voltage_alarms(root)]
        known: list[str] | str = ["under-voltage"] if "1" in low else "unknown"
        facts["throttled"] = facts["throttled_since_start"] = known
    return facts


def throttled_word(root: Path, ask: Ask) -> int | None:
    """The firmware's word by vcgencmd ("throttled=0x50000"), else a kernel file ("50000"); None = neither says."""
    if said := re.search(r"throttled=0x([0-9a-fA-F]+)", ask(["vcgencmd", "get_throttled"])):
        return int(said[1], 16)
    for name in FIRMWARE_FILES:
        found = text(root / name)
        if re.fullmatch(r"(?:0x)?[0-9a-fA-F]+", found):
            return int(found, 16)
    return None


def under_voltage_alarms(root: Path) -> list[Path]:
    """The alarm files of the rpi_volt driver."""
    monitors = children(root / "sys/class/hwmon", "hwmon*")
    return [path / "in0_lcrit_alarm" for path in monitors if text(path / "name") == "rpi_volt"]


def measured(ask: Ask) -> dict[str, float]:
    """The firmware's temperature ("temp=48.3'C")."""
    said = re.search(r"temp=([\d.]+)", ask(["vcgencmd", "measure_temp"]))
    return {"soc": float(said[1])} if said else {}
