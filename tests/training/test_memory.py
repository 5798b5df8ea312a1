"""Memory that training keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import ctypes, resource, sys
from stcq.training.memory import keep_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.memset.argtypes = [ctypes.c_size_t], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def step():
    for size in (40 << 20, 10 << 20):
        place = libc.malloc(size)
        libc.memset(place, 1, size)
        libc.free(place)

if sys.argv[1] == "keep":
    assert keep_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_steps_take_no_new_pages() -> None:
    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", STEPS, mode], capture_output=True, check=True).stdout)

    kept = faults("keep")
    assert kept < 100
    assert 10 * kept < faults("as it comes")
