"""`stcq doctor`: on this machine, on made-up ones, and with nothing but the base installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
from stcq.runtime import doctor as module
from stcq.runtime.doctor import doctor
from stcq.runtime.doctor_report import summary
from stcq.runtime.machine import JETPACKS, cpu_features, jetpack, machine
from stcq.runtime.onnx_opset import highest_opset, identity_model


def test_this_machine() -> None:
    found = doctor()
    assert set(found["targets"]) == {"onnx", "openvino", "tensorrt"}
    assert found["targets"]["onnx"]["run"]
    assert found["targets"]["onnx"]["opset"] >= 17
    assert json.loads(json.dumps(found)) == found
    for entry in found["targets"].values():
        assert entry["run"] or entry["problems"]
        assert all(problem["problem"] and problem["fix"] for problem in entry["problems"])
    text = summary(found)
    assert "Python 3" in text
    assert "CPUExecutionProvider" in text


def test_it_works_with_nothing_but_the_base() -> None:
    """Every optional library hidden, ONNX Runtime too: one line of fix each, no traceback."""
    code = """
import importlib.util, json, sys
hidden = {"openvino", "tensorrt", "torch", "onnx", "onnxslim", "safetensors", "onnxruntime"}
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in hidden else real(name, *rest)
from stcq.runtime.doctor import doctor
from stcq.runtime.doctor_report import summary
found = doctor()
assert not hidden & set(sys.modules), sorted(hidden & set(sys.modules))
summary(found)
print(json.dumps(found))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert not any(entry["run"] for entry in found["targets"].values())
    assert found["targets"]["onnx"]["problems"] == [
        {"problem": "onnxruntime is not installed", "fix": "pip install onnxruntime"}
    ]
    assert found["targets"]["openvino"]["problems"][0]["fix"] == "pip install 'stcq[openvino]'"
    assert found["export"]["fix"] == "pip install 'stcq[export]'"


def test_the_command_exits_by_the_target() -> None:
    command = [sys.executable, "-c", "from stcq.cli import run; run()", "doctor", "--json"]
    for target in ("onnx", "tensorrt"):
        result = subprocess.run([*command, "--target", target], capture_output=True, text=True, check=False)
        [(name, entry)] = json.loads(result.stdout)["targets"].items()
        assert (name, result.returncode) == (target, 0 if entry["run"] else 1)


def test_a_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, *_: Any) -> Any:
        raise ImportError(f"lib{name}.so: cannot open shared object file\nmore")

    monkeypatch.setattr(module, "is_installed", lambda name: True)
    monkeypatch.setattr(module.importlib, "import_module", broken)
    for entry in doctor()["targets"].values():
        assert not entry["run"]
        assert any("does not load" in problem["problem"] for problem in entry["problems"])
        assert not any("\n" in problem["problem"] for problem in entry["problems"])


def test_an_openvino_device_that_lacks_a_property(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a machine with an NPU, which knows no precision hint."""

    class Core:
        available_devices = ("CPU", "NPU")

        def get_property(self, device: str, name: str) -> Any:
            if device == "NPU" and name != "FULL_DEVICE_NAME":
                raise RuntimeError(f"Unsupported property {name}")
            kind = SimpleNamespace(get_type_name=lambda: "f32")
            return {"FULL_DEVICE_NAME": device, "OPTIMIZATION_CAPABILITIES": ["FP32", "FP16"]}.get(name, kind)

    monkeypatch.setattr(module, "is_installed", lambda name: True)
    library = SimpleNamespace(Core=Core, __version__="2026.0")
    monkeypatch.setattr(module.importlib, "import_module", lambda name, *_: library)
    entry = module.check_openvino({"gpus": []})
    assert entry["run"]
    assert entry["details"]["devices"] == {
        "CPU": {"name": "CPU", "computes": ["FP16", "FP32"], "automatic": "f32"},
        "NPU": {"name": "NPU", "computes": "unknown", "automatic": "unknown"},
    }


def test_the_hand_written_model_is_onnx() -> None:
    proto = onnx.load_from_string(identity_model(17))
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 17)
    assert highest_opset(onnxruntime, 18) == 17


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref", {"l4t": "35.4.1", "jetpack": "5.1"}),
        ("# R36 (release), REVISION: 3.0, GCID: 1, BOARD: generic", {"l4t": "36.3.0", "jetpack": "6.0"}),
        ("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic", {"l4t": "36.4.3", "jetpack": "6.1 or 6.2"}),
        ("# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic", {"l4t": "38.2.0", "jetpack": "7"}),
        ("# R99 (release), REVISION: 1.0, GCID: 1, BOARD: generic", {"l4t": "99.1.0", "jetpack": "unknown"}),
        ("something else", {"l4t": "unknown", "jetpack": "unknown"}),
    ],
)
def test_jetpacks(tmp_path: Path, release: str, expected: dict[str, str]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text(release)
    assert jetpack(tmp_path) == expected
    assert list(JETPACKS) == sorted(JETPACKS, reverse=True)


def test_a_machine_without_any_of_its_files(tmp_path: Path) -> None:
    facts = machine(tmp_path)
    assert facts["jetpack"] is None
    assert facts["board"] is facts["cpu"] is facts["memory_gb"] is None
    text = summary({"machine": facts, "problems": [], "targets": {}, "export": doctor("onnx")["export"]})
    assert "unknown CPU" in text


def test_a_raspberry_pi(tmp_path: Path) -> None:
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "device-tree" / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    assert machine(tmp_path)["board"] == "Raspberry Pi 5 Model B Rev 1.0"


def test_cpu_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert cpu_features("processor : 0\nFeatures : fp asimd asimdhp asimddp crc32\n") == ["asimd", "asimdhp", "asimddp"]
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert cpu_features("flags\t\t: fpu avx2 sse\n") == ["avx2"]
