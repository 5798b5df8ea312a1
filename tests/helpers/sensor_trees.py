"""Sensor trees of boards: the files and commands that the profiler reads, as the boards' documentation and published
listings show them. They were written down by hand, not copied from boards of ours: we have none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

JETPACK_5 = {  # Orin Nano, L4T 35.4: the monitors hang below their I2C driver, zones are named in capitals
    "files": {
        "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
        "proc/device-tree/model": "NVIDIA Orin Nano Developer Kit\0",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
        "sys/class/hwmon/hwmon0/name": "tmp451\n",
        "sys/class/hwmon/hwmon3/name": "ina3221\n",
        "sys/class/hwmon/hwmon3/in1_label": "VDD_IN\n",
        "sys/class/hwmon/hwmon3/in1_input": "5064\n",
        "sys/class/hwmon/hwmon3/curr1_input": "976\n",
        "sys/class/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV\n",
        "sys/class/hwmon/hwmon3/in2_input": "5056\n",
        "sys/class/hwmon/hwmon3/curr2_input": "128\n",
        "sys/class/hwmon/hwmon3/in7_label": "sum of shunt voltages\n",
        "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
        "sys/class/thermal/thermal_zone0/temp": "48500\n",
        "sys/class/thermal/thermal_zone2/type": "CV0-therm\n",
        "sys/class/thermal/thermal_zone2/temp": "-256000\n",
        "sys/class/devfreq/17000000.ga10b/cur_freq": "306000000\n",
        "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1510400\n",
        "var/lib/nvpmodel/status": "pmode:0001\n",
    },
    "commands": {
        "tegrastats": (
            "RAM 2448/6480MB (lfb 2x4MB) SWAP 0/3240MB (cached 0MB) CPU [3%@729,1%@1510,off,off,0%@729,0%@729] "
            "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[305] VIC_FREQ 115 APE 174 CV0@-256C CPU@48.5C SOC2@47.718C GPU@47.5C "
            "tj@48.75C VDD_IN 4943mW/4943mW VDD_CPU_GPU_CV 647mW/647mW VDD_SOC 1467mW/1467mW\n"
            "RAM 2448/6480MB (lfb 2x4MB) SWAP 0/3240MB (cached 0MB) CPU [3%@7"  # cut off when it was stopped
        ),
        "nvpmodel": "NV Power Mode: 15W\n0",
    },
}
JETPACK_6 = {  # Orin Nano, L4T 36.4: lower-case zones, a date in front, the GPU is 17000000.gpu
    "files": {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
        "sys/class/hwmon/hwmon1/name": "ina3221\n",
        "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
        "sys/class/hwmon/hwmon1/in1_input": "5040\n",
        "sys/class/hwmon/hwmon1/curr1_input": "784\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "62843\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1728000\n",
        "var/lib/nvpmodel/status": "pmode:0002\n",
    },
    "commands": {
        "tegrastats": (
            "12-23-2024 22:54:11 RAM 3162/7620MB (lfb 4x2MB) SWAP 0/3810MB (cached 0MB) "
            "CPU [1%@729,0%@729,0%@729,0%@729,off,off] GR3D_FREQ 1% cpu@62.843C soc2@61.968C gpu@61.687C tj@62.843C "
            "VDD_IN 3913mW/3922mW VDD_CPU_GPU_CV 598mW/598mW VDD_SOC 1238mW/1237mW"
        ),
        "nvpmodel": "NV Power Mode: MAXN_SUPER\n2",
    },
}
JETPACK_7 = {  # AGX Thor, L4T R39: one clock of all CPUs, no loads beside clocks, maxima behind averages
    "files": {
        "etc/nv_tegra_release": "# R39 (release), REVISION: 0.0, GCID: 1, BOARD: generic, EABI: aarch64\n",
        "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
        "proc/device-tree/compatible": "nvidia,p3971-0080+p3834-0008\0nvidia,tegra264\0",
    },
    "commands": {
        "tegrastats": (
            "08-08-2026 20:58:23 RAM 3429/125749MB (lfb 120x4MB) CPU [0%,5%,off]@2601 EMC_FREQ @4266 "
            "GR3D_FREQ @[1574,1574,1574] cpu@49.75C/49.75C tj@51.218C/51.218C gpu@51.218C/51.218C "
            "VDD_GPU 6330mW/6330mW/6330mW VIN 28906mW/14453mW/28906mW\n"
            "08-08-2026 20:58:24 RAM 3429/12"
        ),
        "nvpmodel": "NV Power Mode: 120W\n1",
    },
}
PI_4 = {
    "files": {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "81304\n",
        "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
        "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1800000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "ondemand\n",
    },
    "commands": {"vcgencmd get_throttled": "throttled=0xe0008", "vcgencmd measure_temp": "temp=81.3'C"},
}
PI_5 = {
    "files": {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48850\n",
        "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
        "sys/class/hwmon/hwmon2/name": "rp1_adc\n",
        "sys/class/hwmon/hwmon3/name": "rpi_volt\n",
        "sys/class/hwmon/hwmon3/in0_lcrit_alarm": "0\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
    },
    "commands": {"vcgencmd get_throttled": "throttled=0x0"},
}
CONTAINER = {
    "files": {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC\ncpu MHz\t\t: 2596.142\n",
        "proc/stat": "cpu  100 0 50 1000 0 0 0 7 0 0\ncpu0 100 0 50 1000 0 0 0 7 0 0\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 1\nnr_throttled 3\nthrottled_usec 250000\n",
    },
    "commands": {},
}
TREES = {
    "jetpack-5": JETPACK_5,
    "jetpack-6": JETPACK_6,
    "jetpack-7": JETPACK_7,
    "pi-4": PI_4,
    "pi-5": PI_5,
    "container": CONTAINER,
}


def plant(name: str, root: Path) -> Callable[[Sequence[str]], str]:
    """Write a tree's files below a root; gives the function that answers its commands, "" for others."""
    tree = TREES[name]
    for path, content in tree["files"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    commands = tree["commands"]
    return lambda command: commands.get(" ".join(command), commands.get(command[0], ""))
