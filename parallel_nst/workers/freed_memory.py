"""What glibc does with memory that is freed: it is to stay with the worker.

Every optimiser step frees and allocates the same few large arrays; faulting their pages in again cost a fifth of a step
at 1024 px on two cores.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h

# For the environment in which Ray starts workers. It gives their tasks a thread that has an arena before `keep_memory`
# can prevent it, and arenas of threads return large arrays whenever one is freed; and what such a thread's cache holds
# splits freed arrays, so that the next ones find no room. In two tiles of 1024 px steps take an eighth less time so.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


def keep_memory() -> None:
    """Let glibc keep freed memory instead of giving it back to the system, once for the process. Threads share one
    arena, for what another arena has freed serves nobody else. Does nothing with another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_ARENA_MAX, 1)
