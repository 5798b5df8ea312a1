"""Memory that a process keeps rather than giving it back and taking it again in every step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3)


def keep_memory() -> bool:
    """Let glibc's malloc keep what is freed, for this process and its forks; see docs/training.md.

    Large arrays come from the heap in the place of mappings of their own, and the heap is never trimmed. A training
    step, which frees nearly all that it took, then clears no pages. Does nothing without glibc's `mallopt`, and has no
    effect where another malloc is preloaded.

    Returns:
        Whether it was set.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
