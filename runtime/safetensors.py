"""Reading .safetensors files with numpy alone: memory-mapped, checked before anything is trusted.

Format: uint64 header length, JSON header {name: {dtype, shape, data_offsets}}, then the tensors' bytes.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError

MAX_HEADER = 1 << 20
DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U16": "<u2", "I8": "|i1", "U8": "|u1"}


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object hook that refuses duplicate keys with ValueError."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate keys")
    return result


def load_file(path: Path) -> dict[str, NDArray[Any]]:
    """Map every tensor of a file.

    Args:
        path: a .safetensors file.

    Returns:
        Name -> read-only array backed by the file (shared between processes that open it).

    Raises:
        BundleError: the header is damaged, or tensors leave holes, overlap or reach past the end.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER + 1
        if length > min(MAX_HEADER, size - 8):
            raise BundleError(f"{path} is no safetensors file (header length {length}); copy the bundle again")
        try:
            header = json.loads(file.read(length), object_pairs_hook=unique_keys)
            header.pop("__metadata__", None)
            entries = sorted(
                (tuple(e["data_offsets"]), n, DTYPES[e["dtype"]], tuple(e["shape"])) for n, e in header.items()
            )
            tensors, end = {}, 0
            for (start, stop), name, dtype, shape in entries:
                if (
                    start != end
                    or stop - start != math.prod(shape) * np.dtype(dtype).itemsize
                    or min(shape, default=0) < 0
                ):
                    raise ValueError(f"tensor {name!r} does not fit its bytes")
                end = stop
                tensors[name] = _map(path, dtype, 8 + length + start, shape)
            if 8 + length + end != size:
                raise ValueError("bytes after the last tensor")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BundleError(f"{path} is damaged ({error}); copy the bundle again") from error
    return tensors


def _map(path: Path, dtype: str, offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """A read-only view of one tensor; empty ones cannot be mapped."""
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape)
