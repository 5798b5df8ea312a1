"""Exports that are killed, run out of disk, or get a checkpoint that is none: the bundle that was there stays valid."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stcq.errors import CheckpointError, ExportError
from stcq.export.export import export
from stcq.export.request import Request
from stcq.runtime.bundle import Bundle
from stcq.runtime.codec import Codec
from stcq.runtime.verify import verify

KILLED = """
import os, signal, sys
from pathlib import Path
from stcq.export.export import export
from stcq.export.request import Request
steps, last = [], sys.argv[3]

def progress(step):
    steps.append(step)
    print(step, flush=True)
    if step == last:
        os.kill(os.getpid(), signal.SIGKILL)

requests = [Request("onnx", "fp16"), Request("onnx", batch=2)]
export(Path(sys.argv[1]), Path(sys.argv[2]), requests=requests, progress=progress)
"""


@pytest.mark.parametrize("step", ["onnx-fp32-b2", "parity of onnx-fp32-b2"])
def test_a_killed_export_leaves_the_old_bundle(
    small_checkpoint: Path, small_bundle: Path, tmp_path: Path, step: str
) -> None:
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    before = (bundle / "manifest.json").read_bytes()
    command = [sys.executable, "-c", KILLED, str(small_checkpoint), str(bundle), step]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert (bundle / "manifest.json").read_bytes() == before
    Bundle(bundle).verify_files()
    export(small_checkpoint, bundle, requests=[Request("onnx", "fp16")])
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert [v.name for v in Bundle(bundle).manifest.variants] == ["onnx-fp32", "onnx-fp16"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.name != "posix" or os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # OpenVINO maps its files until collected


def test_a_full_disk_is_one_clear_error(small_checkpoint: Path, small_disk: Path) -> None:
    """With less and less room left, so that another write fails each time."""
    bundle = small_disk / "bundle"
    export(small_checkpoint, bundle)
    before = (bundle / "manifest.json").read_bytes()
    ballast = small_disk / "ballast"
    for room, target in (
        (300_000, "openvino"),
        (200_000, "openvino"),
        (100_000, "onnx"),
        (20_000, "onnx"),
        (4096, "onnx"),
    ):
        ballast.unlink(missing_ok=True)
        ballast.write_bytes(bytes(max(shutil.disk_usage(small_disk).free - room, 0)))
        with pytest.raises(ExportError, match="untouched") as caught:
            export(small_checkpoint, bundle, requests=[Request(target, "fp16")])
        assert "No space left" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert (bundle / "manifest.json").read_bytes() == before
        assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "bundle"]
        Bundle(bundle).verify_files()


@pytest.fixture
def checkpoint_copy(small_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_checkpoint, tmp_path / "checkpoint")


def damage(folder: Path, what: str) -> None:
    """Make a checkpoint unusable."""
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    if what == "newer version":
        config["format"] = 2
    elif what == "newer field":
        config["codec"]["rotary"] = True
    elif what == "missing tensor":
        tensors.pop("codebooks.weight")
    elif what == "extra tensor":
        tensors["more"] = torch.zeros(1)
    elif what == "other shape":
        tensors["codebooks.weight"] = tensors["codebooks.weight"][:, :, :4].contiguous()
    elif what == "NaN":
        tensors["decoder.stem.0.weight"][0] = float("nan")
    elif what == "infinity":
        tensors["codebooks.weight"][0, 0, 0, 0] = float("inf")
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    if what == "cut":
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[:-100])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("newer version", "upgrade stcq"),
        ("newer field", "upgrade stcq"),
        ("missing tensor", "1 tensors missing"),
        ("extra tensor", "1 extra"),
        ("other shape", "codebooks.weight has shape"),
        ("NaN", "decoder.stem.0.weight holds NaN"),
        ("infinity", "codebooks.weight holds NaN or infinity"),
        ("cut", "cannot be read"),
    ],
)
def test_bad_checkpoints_are_refused_in_one_line(
    checkpoint_copy: Path, small_bundle: Path, tmp_path: Path, what: str, message: str
) -> None:
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    before = (bundle / "manifest.json").read_bytes()
    damage(checkpoint_copy, what)
    with pytest.raises(CheckpointError, match=message) as caught:
        export(checkpoint_copy, bundle)
    assert "\n" not in str(caught.value)
    assert (bundle / "manifest.json").read_bytes() == before
    with Codec.load(bundle) as codec:
        assert verify(codec).passed
