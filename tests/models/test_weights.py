"""Weight files that others wrote, whole and broken: every refusal is one line that says why."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from stcq.errors import CheckpointError
from stcq.models.weights import read_weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


class Callback:
    """Stands for a training framework's class inside a checkpoint; must never run while weights are read."""

    ran = False

    def __setstate__(self, state: object) -> None:
        Callback.ran = True


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('the pickle ran')",))


def torch_file(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def equal(found: dict[str, torch.Tensor]) -> bool:
    return set(found) == set(TENSORS) and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("suffix", ["safetensors", "bin", "anything"])
def test_safetensors_whatever_the_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    save_file(TENSORS, path)
    assert equal(read_weights(path))


def test_headers_of_every_length(tmp_path: Path) -> None:
    """The first byte of a safetensors file is its header's length: it may be that of a pickle or of a zip."""
    firsts = set()
    for extra in range(0, 400, 8):
        path = tmp_path / "w.bin"
        path.write_bytes(save(TENSORS, {"x": "y" * extra}))
        firsts.add(path.read_bytes()[0])
        assert equal(read_weights(path))
    assert 0x80 in firsts


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        OrderedDict(TENSORS),
        {"state_dict": TENSORS, "epoch": 3},
        {"params_ema": TENSORS},
        {f"module.{name}": tensor for name, tensor in TENSORS.items()},
        {"state_dict": {**TENSORS, "counts": {"not": "a tensor"}}, "callbacks": {Callback: Callback()}},
        {name: torch.nn.Parameter(tensor) for name, tensor in TENSORS.items()},
    ],
)
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_pickles(tmp_path: Path, content: dict[str, Any], options: dict[str, Any]) -> None:
    path = tmp_path / "w.ckpt"
    path.write_bytes(torch_file(content, **options))
    with pytest.raises(CheckpointError, match="--trust-pickle"):
        read_weights(path, ("state_dict", "params_ema"))
    if "callbacks" in content and options:
        with pytest.raises(CheckpointError, match=r"more than weights.*Callback"):
            read_weights(path, ("state_dict",), trust_pickle=True)
        return
    assert equal(read_weights(path, ("state_dict", "params_ema"), trust_pickle=True))
    assert not Callback.ran


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_pickle_that_wants_to_run_something(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(torch_file({"a": torch.ones(1), "b": Exploit()}, **options))
    if options:
        with pytest.raises(CheckpointError, match="exec"):
            read_weights(path, trust_pickle=True)
    else:
        assert list(read_weights(path, trust_pickle=True)) == ["a"]


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2).half(), "b": torch.ones(2).bfloat16(), "n": torch.tensor(3)}, tmp_path / "w")
    found = read_weights(tmp_path / "w")
    assert [found[name].dtype for name in ("a", "b", "n")] == [torch.float32, torch.float32, torch.int64]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 334643276\n"
ZIP = io.BytesIO()
with zipfile.ZipFile(ZIP, "w") as archive:
    archive.writestr("readme.txt", "no weights")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "Git LFS pointer"),
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'{"error": "Unauthorized"}', "no whole safetensors"),
        (b"\xff" * 100, "no whole safetensors"),
        (save(TENSORS)[:-5], "cut short"),
        (save(TENSORS)[:20], "cut short"),
        (save({}), "holds no tensors"),
        (torch_file(TENSORS)[:-50], "cut short"),
        (torch_file(TENSORS)[:30], "cut short"),
        (torch_file(TENSORS, _use_new_zipfile_serialization=False)[:-5], "cut short|cannot be read"),
        (ZIP.getvalue(), "not one of torch.save"),
        (torch_file([1, 2]), "no tensors by name"),
        (torch_file({"state_dict": {"a": 1}}), "no tensors by name"),
        (pickle.dumps(Exploit()), "more than weights|cannot be read"),
    ],
)
def test_what_is_no_weight_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_weights(path, ("state_dict",), trust_pickle=True)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_weights(tmp_path / "w")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_weights(tmp_path)
