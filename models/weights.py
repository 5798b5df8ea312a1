"""Reading weight files that others wrote: safetensors, and pickles without running what they hold."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, serialization

from ..errors import CheckpointError

POINTER = b"version https://git-lfs.github.com/spec"
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # torch.save since 1.6 and before


class _Inert:
    """Stands for a class that a pickle names and weights do not need; does nothing, whatever it is given."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def read_weights(path: Path, containers: Sequence[str] = (), trust_pickle: bool = False) -> dict[str, Tensor]:
    """The named tensors of a weight file, floating-point ones in float32.

    The content decides what it is, not the suffix. Pickles are read by torch's weights-only reader, with every class
    it does not know replaced by one that does nothing; still, they are refused unless the caller trusts their source.

    Args:
        path: .safetensors, .bin, .ckpt, .pth or .pt.
        containers: names under which the tensors may lie; the first one found is taken.
        trust_pickle: read pickles.

    Raises:
        CheckpointError: missing, cut short, no weights, or a pickle without trust; one line that says which.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; give the weight file in it")
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith(POINTER):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run 'git lfs pull' where it came from")
    if head.lstrip()[:1] in (b"", b"<"):
        what = "a web page" if head.strip() else "empty"
        raise CheckpointError(f"{path} is {what}, not weights; download the file itself")
    like_safetensors = head[8:9] == b"{" and head[5:8] == bytes(
        3
    )  # after a 64-bit length, which may look like a pickle
    if head.startswith((ZIP, PICKLE)) and not like_safetensors:
        if not trust_pickle:
            raise CheckpointError(
                f"{path} is a pickle, which can carry more than weights; give --trust-pickle if you trust its source"
            )
        tensors = _tensors(_unpickle(path, head), containers, path)
    else:
        tensors = _safetensors(path)
    if all(name.startswith("module.") for name in tensors):  # saved from several GPUs
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is no whole safetensors file ({_line(error)}); it is cut short, damaged or something else: "
            "download it again"
        ) from error
    if not found:
        raise CheckpointError(f"{path} holds no tensors; give the file with the weights")
    return {name: tensor.clone() for name, tensor in found.items()}  # not views of a file that may change


def _unpickle(path: Path, head: bytes) -> Any:
    """The object of a torch.save file, foreign classes as `_Inert`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old pickle protocols
        return _guarded(path, head)


def _guarded(path: Path, head: bytes) -> Any:
    """Reading with the libraries' many exceptions as one line."""
    try:
        if head.startswith(ZIP):
            with zipfile.ZipFile(path) as archive:  # says clearly that a file was cut
                names = archive.namelist()
            if not any(name.endswith("data.pkl") for name in names) or any("constants.pkl" in name for name in names):
                raise CheckpointError(f"{path} is a zip, but not one of torch.save's weights; give the weight file")
            stubs: list[Any] = [_stub(name) for name in serialization.get_unsafe_globals_in_checkpoint(path)]
            with serialization.safe_globals(stubs):
                return torch.load(path, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{path} is cut short or damaged ({_line(error)}); download it again") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than weights: {_refused(error)}; convert it to safetensors"
        ) from error
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError, AssertionError) as error:
        raise CheckpointError(f"{path} cannot be read as weights ({_line(error)}); download it again") from error


def _stub(name: str) -> type:
    """An inert class under a foreign class's full name, which is how torch's reader finds it."""
    module, _, attribute = name.rpartition(".")
    return type(attribute, (_Inert,), {"__module__": module})


def _tensors(found: Any, containers: Sequence[str], path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors in what was unpickled."""
    for name in containers:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    items = found.items() if isinstance(found, dict) else ()
    tensors = {name: value.detach() for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        looked = f", nor under {', '.join(containers)}" if containers else ""
        raise CheckpointError(f"{path} has no tensors by name at its top{looked}; give the file with the weights")
    return tensors


def _refused(error: Exception) -> str:
    """What the weights-only reader stumbled on."""
    text = str(error)
    start = text.find("GLOBAL ")
    return text[start:].split(" whose ")[0].split(" was not ")[0] if start >= 0 else _line(error)


def _line(error: Exception) -> str:
    """A library's message without its stack of lines."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
