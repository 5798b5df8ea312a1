"""Sensors of boards that we do not have, from written-down trees, and of the machine that runs the tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sensor_trees import TREES, plant
from stcq.profiling import jetson
from stcq.profiling.load import disturbances, load_between, moment
from stcq.profiling.reading import ask
from stcq.profiling.sensors import limits, sensors


@pytest.fixture
def board(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return sensors(tmp_path, plant(request.param, tmp_path))


@pytest.mark.parametrize("board", ["jetpack-5"], indirect=True)
def test_jetpack_5_by_tegrastats(board: dict[str, Any]) -> None:
    assert board["board"] == "jetson"
    found = board["sensors"]
    assert found["source"] == "tegrastats"
    assert found["power_mw"] == {"VDD_IN": 4943, "VDD_CPU_GPU_CV": 647, "VDD_SOC": 1467}
    assert found["temperature_c"] == {"CPU": 48.5, "SOC2": 47.718, "GPU": 47.5, "tj": 48.75}  # CV0 is switched off
    assert found["clocks_mhz"] == {"cpu": 1510, "gpu": 305, "memory": 2133}
    assert found["nvpmodel"] == "15W"
    assert board["temperature_c"] == {"CPU-therm": 48.5}
    assert (board["clock_mhz"], board["top_clock_mhz"], board["governor"]) == ([729], [1510], "schedutil")


@pytest.mark.parametrize("board", ["jetpack-6"], indirect=True)
def test_jetpack_6_by_tegrastats(board: dict[str, Any]) -> None:
    found = board["sensors"]
    assert found["power_mw"] == {"VDD_IN": 3913, "VDD_CPU_GPU_CV": 598, "VDD_SOC": 1238}
    assert found["temperature_c"]["tj"] == 62.843
    assert found["clocks_mhz"] == {"cpu": 729}
    assert found["nvpmodel"] == "MAXN_SUPER"


@pytest.mark.parametrize("board", ["jetpack-7"], indirect=True)
def test_jetpack_7_by_tegrastats(board: dict[str, Any]) -> None:
    found = board["sensors"]
    assert found["power_mw"] == {"VDD_GPU": 6330, "VIN": 28906}
    assert found["temperature_c"] == {"cpu": 49.75, "tj": 51.218, "gpu": 51.218}
    assert found["clocks_mhz"] == {"cpu": 2601, "gpu": 1574, "memory": 4266}
    assert found["nvpmodel"] == "120W"


def test_loads_and_maxima_in_one_line_of_tegrastats() -> None:
    """An Orin with L4T R39 prints loads and the clocks of each CPU as before."""
    line = (
        "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2101] EMC_FREQ 3%@3199 "
        "GR3D_FREQ 0%@[1300,1300] APE 174 cpu@52.968C/52.968C VDD_GPU_SOC 2369mW/2369mW/2400mW"
    )
    found = jetson.from_tegrastats(line)
    assert found["power_mw"] == {"VDD_GPU_SOC": 2369}
    assert found["clocks_mhz"] == {"cpu": 2201, "gpu": 1300, "memory": 3199}


@pytest.mark.parametrize(
    ("name", "rails", "gpu", "mode"),
    [
        ("jetpack-5", {"VDD_IN": 4942, "VDD_CPU_GPU_CV": 647}, 306, "mode 1"),
        ("jetpack-6", {"VDD_IN": 3951}, 1020, "mode 2"),
    ],
)
def test_a_jetson_without_its_tools_is_read_from_the_kernel(
    name: str, rails: dict[str, int], gpu: int, mode: str, tmp_path: Path
) -> None:
    plant(name, tmp_path)
    found = sensors(tmp_path, lambda command: "")["sensors"]
    assert found["source"] == "sysfs"
    assert (found["power_mw"], found["clocks_mhz"], found["nvpmodel"]) == (rails, {"gpu": gpu}, mode)


def test_jtop_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the attributes of jetson-stats 4: no board here runs its service."""

    class Board(SimpleNamespace):
        def __enter__(self) -> Board:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    client = Board(
        ok=lambda: True,
        power={"rail": {"VDD_IN": {"power": 4900}}, "tot": {"power": 5100}},
        temperature={"cpu": {"temp": 50.5, "online": True}, "cv0": {"temp": -256.0, "online": False}},
        gpu={"gpu": {"freq": {"cur": 306000}}},
        nvpmodel="15W",
    )
    monkeypatch.setitem(sys.modules, "jtop", SimpleNamespace(jtop=lambda: client, __spec__=SimpleNamespace()))
    found = jetson.jetson(Path("/"), lambda command: "")
    assert found == {
        "source": "jtop",
        "power_mw": {"VDD_IN": 4900, "total": 5100},
        "temperature_c": {"cpu": 50.5},
        "clocks_mhz": {"gpu gpu": 306},
        "nvpmodel": "15W",
    }
    broken = SimpleNamespace(jtop=lambda: 1 / 0, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "jtop", broken)
    assert jetson.jetson(Path("/"), lambda command: "")["source"] == "sysfs"


@pytest.mark.parametrize("board", ["pi-4"], indirect=True)
def test_a_hot_raspberry_pi_4(board: dict[str, Any]) -> None:
    assert board["board"] == "raspberry-pi"
    assert board["sensors"] == {
        "temperature_c": {"cpu-thermal": 81.304},
        "throttled": ["soft temperature limit"],
        "throttled_since_start": ["frequency capped", "throttled", "soft temperature limit"],
    }
    said = limits(board, board)
    assert any("ondemand" in sentence for sentence in said)
    assert any("soft temperature limit" in sentence for sentence in said)


@pytest.mark.parametrize("board", ["pi-5"], indirect=True)
def test_a_cool_raspberry_pi_5(board: dict[str, Any]) -> None:
    assert board["sensors"]["throttled"] == board["sensors"]["throttled_since_start"] == []
    assert board["governor"] == "performance"
    assert limits(board, board) == []


@pytest.mark.parametrize(("name", "known"), [("pi-4", ["under-voltage"]), ("pi-5", "unknown")])
def test_a_raspberry_pi_without_vcgencmd(name: str, known: Any, tmp_path: Path) -> None:
    plant(name, tmp_path)
    assert sensors(tmp_path, lambda command: "")["sensors"]["throttled"] == known
    firmware = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    firmware.parent.mkdir(parents=True)
    firmware.write_text("50005\n")
    assert sensors(tmp_path, lambda command: "")["sensors"]["throttled"] == ["under-voltage", "throttled"]


def test_a_bare_container_is_unknown_and_never_a_crash(tmp_path: Path) -> None:
    found = sensors(tmp_path, plant("container", tmp_path))
    assert (found["board"], found["governor"], found["sensors"]) == ("unknown", "unknown", "unknown")
    assert (found["clock_mhz"], found["quota_cpus"]) == ([2596], 1.5)
    assert any("1.5 CPUs" in sentence for sentence in limits(found, found))
    counters = moment(tmp_path)
    assert (counters.busy, counters.stolen, counters.throttled) == (1.5, 0.07, 250000)
    nothing = sensors(tmp_path / "nothing", lambda command: "")
    assert set(nothing.values()) == {"unknown"}
    assert load_between(moment(tmp_path / "nothing"), moment(tmp_path / "nothing"), 0)["others"] == "unknown"


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("noise", ["\0\0", "nonsense", "-1", "RAM CPU [@@@] VDD_IN mW/mW @C", "9" * 400])
def test_nonsense_in_every_file_and_command(name: str, noise: str, tmp_path: Path) -> None:
    plant(name, tmp_path)
    for path in TREES[name]["files"]:
        if not path.startswith(("proc/device-tree", "etc")):
            (tmp_path / path).write_text(noise)
    found = sensors(tmp_path, lambda command: noise)
    json.dumps(found)
    limits(found, found)
    moment(tmp_path)


def test_this_machine() -> None:
    found = sensors()
    assert json.loads(json.dumps(found)) == found
    assert found["board"] in ("jetson", "raspberry-pi", "unknown")


def test_commands_that_are_missing_fail_or_never_end() -> None:
    assert ask(["no-such-command-here"]) == ""
    assert ask(["false"]) == ""
    assert ask(["sh", "-c", "echo RAM 1; exec sleep 60"], seconds=0.3) == "RAM 1"


def test_a_load_of_others_makes_a_machine_noisy() -> None:
    quiet = moment()._replace(clock=0.0, busy=100.0, stolen=1.0, throttled=None)
    later = quiet._replace(clock=10.0, busy=108.0, stolen=1.0)
    assert load_between(quiet, later, own=7.9)["others"] == 0.01
    assert disturbances(load_between(quiet, later, own=7.9)) == []
    assert "0.50 CPUs" in disturbances(load_between(quiet, later, own=3.0))[0]
    assert "host took" in disturbances(load_between(quiet, later._replace(stolen=2.0), own=8.0))[0]
