"""The few calls of the CUDA runtime that an engine takes, through ctypes: JetPack has no Python package for them."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ...errors import BackendError, BackendMissing

LIBRARIES = (
    "libcudart.so",
    "libcudart.so.13",
    "libcudart.so.12",
    "libcudart.so.11.0",
    "/usr/local/cuda/lib64/libcudart.so",
)
TO_DEVICE, TO_HOST = 1, 2
PROPERTIES = 8192  # bytes, more than cudaDeviceProp of any version; the name is its first field
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76  # cudaDeviceAttr


class Gpu(NamedTuple):
    """The first GPU and its software.

    Attributes:
        name: such as "Orin".
        compute: compute capability, such as "8.7".
        cuda: version of the CUDA runtime, such as "12.6".
    """

    name: str
    compute: str
    cuda: str


class Cuda:
    """An open CUDA runtime library.

    Raises:
        BackendMissing: there is none.
    """

    def __init__(self, libraries: Sequence[str] = LIBRARIES) -> None:
        self._library = open_library(libraries)
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function that returns a cudaError_t.

        Raises:
            BackendError: it failed; the message has CUDA's words.
        """
        code = getattr(self._library, name)(*arguments)
        if code:
            words = self._library.cudaGetErrorString(code) or b"unknown error"
            raise BackendError(f"CUDA: {name} failed ({code}: {words.decode()}); see `stcq doctor --target tensorrt`")

    def gpu(self) -> Gpu:
        """What this machine has."""
        properties = ctypes.create_string_buffer(PROPERTIES)
        self._call("cudaGetDeviceProperties", properties, 0)
        version = ctypes.c_int()
        self._call("cudaRuntimeGetVersion", ctypes.byref(version))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(major), COMPUTE_MAJOR, 0)
        self._call("cudaDeviceGetAttribute", ctypes.byref(minor), COMPUTE_MINOR, 0)
        name = ctypes.string_at(properties).decode(errors="replace")
        cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return Gpu(name, f"{major.value}.{minor.value}", cuda)

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes on the GPU."""
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer.value or 0

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def new_stream(self) -> int:
        """A handle of a new stream."""
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        return stream.value or 0

    def free_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has done everything."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def send(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy a contiguous array to the GPU."""
        self._copy(address, array.ctypes.data, array.nbytes, TO_DEVICE, stream)

    def fetch(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy from the GPU into a contiguous array."""
        self._copy(array.ctypes.data, address, array.nbytes, TO_HOST, stream)

    def _copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        pointers = ctypes.c_void_p(target), ctypes.c_void_p(source)
        self._call("cudaMemcpyAsync", *pointers, ctypes.c_size_t(size), ctypes.c_int(kind), ctypes.c_void_p(stream))


def open_library(names: Sequence[str]) -> Any:
    """The first of some shared libraries that can be opened.

    Raises:
        BackendMissing: none can.
    """
    found = ctypes.util.find_library("cudart") if "libcudart.so" in names else None
    for name in [*names, *([found] if found else [])]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise BackendMissing("the CUDA runtime (libcudart.so) is not found; add CUDA's lib64 folder to LD_LIBRARY_PATH")
