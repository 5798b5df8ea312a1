"""Power, clocks, temperature and power mode of an NVIDIA Jetson: through jtop, else tegrastats, else sysfs."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from .reading import Ask, children, number, text, thermal_zones


def jetson(root: Path, ask: Ask) -> dict[str, Any]:
    """The sensors of a Jetson.

    Returns:
        "source", "power_mw" and "temperature_c" by rail and zone, "clocks_mhz", "nvpmodel"; "unknown" for what
        none of the three sources says.
    """
    found: dict[str, Any] = from_jtop() if root == Path("/") else {}
    if not found:
        found = from_tegrastats(ask(["tegrastats", "--interval", "500"]))
    disk = from_sysfs(root)
    facts = {"source": found.get("source") or "sysfs"}
    for key in ("power_mw", "temperature_c", "clocks_mhz"):
        facts[key] = found.get(key) or disk[key] or "unknown"
    facts["nvpmodel"] = found.get("nvpmodel") or power_mode(root, ask)
    return facts


def from_jtop() -> dict[str, Any]:
    """What the jetson-stats service says, where it is installed and runs; empty otherwise."""
    if importlib.util.find_spec("jtop") is None:
        return {}
    try:
        with importlib.import_module("jtop").jtop() as board:
            if not board.ok():
                return {}
            return of_jtop(board)
    except Exception:  # its own types, sockets, permissions, and a board that it does not know
        return {}


def of_jtop(board: Any) -> dict[str, Any]:
    """The figures of an open jtop client of jetson-stats 4."""
    rails = {name: rail.get("power") for name, rail in board.power.get("rail", {}).items()}
    rails["total"] = board.power.get("tot", {}).get("power")
    zones = {name: zone.get("temp") for name, zone in board.temperature.items() if zone.get("online", True)}
    clocks = {f"gpu {name}": gpu.get("freq", {}).get("cur") for name, gpu in board.gpu.items()}
    return {
        "source": "jtop",
        "power_mw": {name: int(value) for name, value in rails.items() if value is not None},
        "temperature_c": {name: float(value) for name, value in zones.items() if value is not None},
        "clocks_mhz": {name: round(value / 1000) for name, value in clocks.items() if value},
        "nvpmodel": str(board.nvpmodel) if board.nvpmodel is not None else None,
    }


def from_tegrastats(output: str) -> dict[str, Any]:
    """The last whole line of tegrastats, of JetPack 5, 6 and 7 alike; empty when there is none.

    Its fields: "NAME 1234mW/1200mW" (now / average), "zone@45.5C", "CPU [12%@1510,off]", "GR3D_FREQ 0%@[305]"; in L4T
    R39 with maxima behind ("1234mW/1200mW/1300mW"), one clock of all CPUs ("CPU [12%,off]@2601"), perhaps no load.
    """
    lines = [line for line in output.splitlines() if "RAM " in line]
    if not lines:
        return {}
    line = lines[-2] if len(lines) > 1 else lines[-1]  # the last may be cut
    power = {name: int(now) for name, now in re.findall(r"(\w+) (\d+)(?:mW)?(?:/\d+(?:mW)?)+(?=\s|$)", line)}
    zones = {name: float(value) for name, value in re.findall(r"(\w+)@(-?[\d.]+)C\b", line)}
    clocks: dict[str, int] = {}
    if cores := re.search(r"CPU (\[[^\]]*\](?:@\d+)?)", line):
        speeds = [int(speed) for speed in re.findall(r"@(\d+)", cores[1])]
        clocks |= {"cpu": max(speeds)} if speeds else {}
    for name, field in (("gpu", "GR3D_FREQ"), ("memory", "EMC_FREQ")):
        if speed := re.search(rf"{field} (?:\d+%)?@\[?(\d+)", line):
            clocks[name] = int(speed[1])
    zones = {name: value for name, value in zones.items() if value > -200}  # a zone that is off says -256
    return {"source": "tegrastats", "power_mw": power, "temperature_c": zones, "clocks_mhz": clocks}


def from_sysfs(root: Path) -> dict[str, dict[str, Any]]:
    """INA3221 power monitors, thermal zones and the GPU's clock from the kernel's files."""
    return {"power_mw": ina3221(root), "temperature_c": thermal_zones(root), "clocks_mhz": gpu_clock(root)}


def ina3221(root: Path) -> dict[str, int]:
    """Milliwatts by rail of the INA3221 monitors: inN_label, inN_input (mV), currN_input (mA)."""
    rails: dict[str, int] = {}
    for monitor in children(root / "sys/class/hwmon", "hwmon*"):
        if text(monitor / "name") != "ina3221":
            continue
        for label in children(monitor, "in*_label"):
            channel = re.sub(r"\D", "", label.name)
            volts, amperes = number(monitor / f"in{channel}_input"), number(monitor / f"curr{channel}_input")
            if volts is not None and amperes is not None:
                rails[text(label)] = round(volts * amperes / 1000)
    return rails


def gpu_clock(root: Path) -> dict[str, int]:
    """Megahertz of the integrated GPU: 17000000.ga10b or 17000000.gv11b (JetPack 5), 17000000.gpu (JetPack 6)."""
    for device in children(root / "sys/class/devfreq", "*"):
        hertz = number(device / "cur_freq")
        if hertz is not None and re.search(r"\.(gpu|g[vap]\d+b)$", device.name):
            return {"gpu": round(hertz / 1e6)}
    return {}


def power_mode(root: Path, ask: Ask) -> str:
    """Such as "MAXN" or "15W", by `nvpmodel -q`, else the number in its state file; "unknown"."""
    if named := re.search(r"NV Power Mode:\s*(\S+)", ask(["nvpmodel", "-q"])):
        return named[1]
    if numbered := re.search(r"pmode:0*(\d+)", text(root / "var/lib/nvpmodel/status")):
        return f"mode {numbered[1]}"
    return "unknown"
