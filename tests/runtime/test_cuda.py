"""CUDA through ctypes, against a library with its functions that works in host memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from stcq.errors import BackendError, BackendMissing
from stcq.runtime.backends.cuda import Cuda

LIBRARY = """
#include <stdlib.h>
#include <string.h>
int cudaGetDeviceProperties(char *p, int d) { strcpy(p, "Stand-in GPU"); return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 12060; return 0; }
int cudaDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 7; return 0; }
int cudaMalloc(void **p, size_t n) { if (n > 1u << 30) return 2; *p = malloc(n); return 0; }
int cudaFree(void *p) { free(p); return 0; }
int cudaStreamCreate(void **s) { *s = malloc(1); return 0; }
int cudaStreamDestroy(void *s) { free(s); return 0; }
int cudaStreamSynchronize(void *s) { return 0; }
int cudaMemcpyAsync(void *t, const void *s, size_t n, int k, void *q) { memcpy(t, s, n); return 0; }
const char *cudaGetErrorString(int c) { return "out of memory"; }
"""


@pytest.mark.skipif(os.name != "posix" or shutil.which("cc") is None, reason="needs a C compiler")
def test_the_calls_of_cuda(tmp_path: Path) -> None:
    (tmp_path / "stand_in.c").write_text(LIBRARY)
    library = tmp_path / "libcudart_stand_in.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "stand_in.c"], check=True)
    cuda = Cuda([str(library)])
    assert cuda.gpu() == ("Stand-in GPU", "8.7", "12.6")
    stream, address = cuda.new_stream(), cuda.allocate(40)
    sent, received = np.arange(10, dtype=np.int32), np.zeros(10, np.int32)
    cuda.send(sent, address, stream)
    cuda.fetch(address, received, stream)
    cuda.synchronize(stream)
    assert np.array_equal(sent, received)
    cuda.free(address)
    cuda.free_stream(stream)
    with pytest.raises(BackendError, match=r"cudaMalloc failed \(2: out of memory\)"):
        cuda.allocate(1 << 31)
    with pytest.raises(BackendMissing, match=r"libcudart\.so"):
        Cuda(["libcudart_missing.so"])
