"""Pickles of plain values and numpy arrays, read so that nothing in the file is called: not even numpy.

The names that numpy pickles with become stand-ins that only record what they are given; what they mean is built
afterwards, from bytes alone. So a crafted file can neither run code nor make numpy read memory that is not its own.
"""

from __future__ import annotations

import math
import pickle
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

KINDS = {"u1", "i1", "b1", "i4", "i8", "f4", "f8"}
CORES = ("numpy.core.", "numpy._core.")  # numpy 1 and 2
NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 3 writes bytes for Python 2
    *((f"{core}multiarray", name) for core in CORES for name in ("_reconstruct", "scalar")),
    *((f"{core}numeric", "_frombuffer") for core in CORES),
}


class Made:
    """What a pickle would have made by calling `name`: the arguments, and the state that it then sets."""

    __slots__ = ("given", "name", "state")

    def __init__(self, name: str, given: tuple[Any, ...]) -> None:
        self.name, self.given = name, given
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Name:
    """A function or class that a pickle names."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *given: Any) -> Made:
        return Made(self.name, given)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"it would change {self.name}; do not use this file")


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every name but those that arrays of plain values are made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"it would load {module}.{name}; do not use this file")
        return _Name(name)


def load_plain(file: BinaryIO) -> Any:
    """The object in a pickle of any protocol; Python 2's texts as bytes, numpy's arrays and numbers as `Made`.

    Raises:
        Exception: of any kind, where the bytes are damaged or name something else.
    """
    return _PlainUnpickler(file, encoding="bytes").load()


def as_bytes(value: Any) -> bytes:
    """A value that stands for bytes: bytes themselves, a bytearray, or an array of uint8.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, Made) and value.name == "encode":  # the only encoding that bytes are written with
        text, encoding = value.given
        if encoding not in ("latin1", b"latin1") or not isinstance(text, str):
            raise ValueError(f"bytes in {encoding!r}")
        return text.encode("latin1")
    if isinstance(value, Made):
        array = as_array(value)
        if array.dtype != np.uint8:
            raise ValueError(f"an array of {array.dtype} in the place of bytes")
        return array.tobytes()
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"{type(value).__name__} in the place of bytes")
    return bytes(value)


def as_array(made: Made) -> NDArray[Any]:
    """The array, or for a number the array of no axes, that numpy would have made.

    Raises:
        ValueError: its type is none of `KINDS`, or its bytes do not fill its shape.
    """
    shape: tuple[int, ...]
    if made.name == "scalar":
        (kind, content), shape, order = made.given, (), "C"  # no axes
    elif made.name == "_frombuffer":
        content, kind, shape, order = made.given[:4]
    elif made.name == "_reconstruct":
        _, shape, kind, fortran, content = made.state
        order = "F" if fortran else "C"
    else:
        raise ValueError(f"numpy.{made.name} in the place of an array")
    if isinstance(content, Made) and content.name != "encode":
        raise ValueError("an array made of another one")
    dtype, content = _dtype(kind), as_bytes(content)
    if not all(type(side) is int and side >= 0 for side in shape) or len(shape) > 8:
        raise ValueError(f"an array of shape {shape}")
    if len(content) != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{len(content)} bytes for an array of {dtype} and shape {shape}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if order in ("F", b"F") else "C")


def _dtype(made: Any) -> np.dtype[Any]:
    """One of the plain types, in the byte order that was set."""
    if not isinstance(made, Made) or made.name != "dtype":
        raise ValueError("an array without a type")
    code, (_, order, part, names, fields, *_) = _text(made.given[0]), made.state
    if code not in KINDS or part is not None or names is not None or fields is not None:
        raise ValueError(f"an array of type {code!r}, not one of {', '.join(sorted(KINDS))}")
    return np.dtype((">" if _text(order) == ">" else "<") + code)


def _text(value: Any) -> str:
    """A short text, which Python 2 had as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
