"""What this machine is, from the files that the kernel and the vendors leave; unknown is an answer, never an error."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path
from typing import Any

FLAGS = {
    "x86_64": ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8"),
    "aarch64": ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
}
# L4T release -> JetPack, newest first (developer.nvidia.com/embedded/jetpack-archive)
JETPACKS = (
    ((38, 0), "7"),
    ((36, 4), "6.1 or 6.2"),
    ((36, 0), "6.0"),
    ((35, 2), "5.1"),
    ((35, 0), "5.0"),
    ((32, 0), "4"),
)


def machine(root: Path = Path("/")) -> dict[str, Any]:
    """Board, CPU, memory and GPUs of this machine.

    Args:
        root: where its file system starts; another folder in tests.
    """
    text = _read(root / "proc/cpuinfo")
    return {
        "python": platform.python_version(),
        "os": _os_name(root),
        "machine": platform.machine(),
        "board": _read(root / "proc/device-tree/model").strip("\0 \n") or None,
        "cpu": _first(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_features": cpu_features(text),
        "memory_gb": _memory(root),
        "jetpack": jetpack(root),
        "gpus": intel_gpus(root) + nvidia_gpus(),
    }


def cpu_features(cpuinfo: str) -> list[str]:
    """The instruction sets that matter for neural networks, as the kernel names them."""
    present = set((_first(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo) or "").split())
    known = FLAGS.get(platform.machine(), tuple(flag for flags in FLAGS.values() for flag in flags))
    return [flag for flag in known if flag in present]


def own_features() -> list[str]:
    """`cpu_features` of this machine."""
    return cpu_features(_read(Path("/proc/cpuinfo")))


def fingerprint() -> str:
    """What the speed of a graph depends on, as one line: processor, its instruction sets, and how many of it."""
    text = _read(Path("/proc/cpuinfo"))
    cpu = _first(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text) or platform.processor() or "unknown"
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}, {cpu}, {count} CPUs, {' '.join(cpu_features(text))}"


def jetpack(root: Path = Path("/")) -> dict[str, Any] | None:
    """L4T release and JetPack of a Jetson; None on other machines, "unknown" for a release that is newer than this."""
    text = _read(root / "etc/nv_tegra_release")
    found = re.search(r"R(\d+)\s.*?REVISION:\s*(\d+)\.(\d+)", text)
    if not text:
        return None
    if not found:
        return {"l4t": "unknown", "jetpack": "unknown"}
    release = int(found[1]), int(found[2])
    known = next((name for since, name in JETPACKS if release >= since), "unknown")
    newest = release[0] > JETPACKS[0][0][0]
    return {"l4t": f"{found[1]}.{found[2]}.{found[3]}", "jetpack": "unknown" if newest else known}


def intel_gpus(root: Path = Path("/")) -> list[dict[str, Any]]:
    """Intel GPUs by their render nodes, and whether this user may open them."""
    gpus = []
    for card in sorted((root / "sys/class/drm").glob("renderD*")):
        if _read(card / "device/vendor").strip() == "0x8086":
            node = root / "dev/dri" / card.name
            gpus.append({"vendor": "intel", "node": card.name, "usable": os.access(node, os.R_OK | os.W_OK)})
    return gpus


def nvidia_gpus() -> list[dict[str, Any]]:
    """NVIDIA GPUs as the driver lists them; empty without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count, version = ctypes.c_int(), ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return []
        driver.cuDriverGetVersion(ctypes.byref(version))
        cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
        gpus = []
        for number in range(count.value):
            device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
            driver.cuDeviceGet(ctypes.byref(device), number)
            driver.cuDeviceGetName(name, 256, device)
            gpus.append({"vendor": "nvidia", "name": name.value.decode(errors="replace"), "driver_cuda": cuda})
        return gpus
    except (OSError, AttributeError):
        return []


def _os_name(root: Path) -> str:
    """Such as "Debian GNU/Linux 12 (bookworm), kernel 6.1"."""
    pretty = _first(r'^PRETTY_NAME="?([^"\n]+)', _read(root / "etc/os-release"))
    return f"{pretty or platform.system()}, kernel {platform.release()}"


def _memory(root: Path) -> float | None:
    """Memory in GB."""
    kib = _first(r"^MemTotal:\s*(\d+)", _read(root / "proc/meminfo"))
    return round(int(kib) * 1024 / 1e9, 1) if kib else None


def _first(pattern: str, text: str) -> str | None:
    """The first match's group."""
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else None


def _read(path: Path) -> str:
    """A small text file; empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
