"""What glibc does with memory that is freed: it is to stay with the worker.

Every optimiser step frees and allocates the same few large arrays; faulting their pages in again cost a fifth of a step
at 1024 px on two cores.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

LARGE = 64 << 20  # bytes, from which holes are worth giving back: what is done with such arrays takes seconds
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h

# For the environment in which Ray starts workers. It gives their tasks a thread that has an arena before `keep_memory`
# can prevent it, and arenas of threads return large arrays whenever one is freed; and what such a thread's cache holds
# splits freed arrays, so that the next ones find no room. In two tiles of 1024 px steps take an eighth less time so.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


def keep_memory() -> None:
    """Let glibc keep freed memory instead of giving it back to the system, once for the process. Threads share one
    arena, for what another arena has freed serves nobody else. Does nothing with another C library."""
    if mallopt := of_glibc("mallopt"):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Give what is free to the system, once. Arrays of many sizes leave holes that do not fit the next ones: with large
    pictures as much as several copies of them. To fault in again what is used takes a few tenths of a second."""
    if trim := of_glibc("malloc_trim"):
        trim(0)


def of_glibc(name: str) -> Any:
    """A function of glibc; None with another C library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
