"""What glibc does with memory that is freed: it is to stay with the worker, and in huge pages.

Every optimiser step frees and allocates the same few large arrays; faulting their pages in again cost a fifth of a step
at 1024 px on two cores, and finding small ones a tenth of what was left.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

LARGE = 64 << 20  # bytes, from which holes are worth giving back: what is done with such arrays takes seconds
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
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
        ask_for_huge_pages()


def ask_for_huge_pages() -> None:
    """Let the heap grow in huge pages, where the system gives them to who asks: what it may well grow to is allocated,
    marked and freed again, without being touched. glibc does the same with `glibc.malloc.hugetlb=1` (2.35 and later),
    which can be asked for only before a program starts. Not where the system counts what is not touched as taken; and
    no more than half of what there is, for a program whose heap looks larger than the memory can start no other."""
    if OVERCOMMIT.exists() and OVERCOMMIT.read_text().strip() == "2":
        return
    malloc, free, madvise = (of_glibc(name) for name in ("malloc", "free", "madvise"))
    malloc.restype, size = ctypes.c_void_p, psutil.virtual_memory().available // 2
    if place := malloc(ctypes.c_size_t(size)):
        start = -(-place // mmap.PAGESIZE) * mmap.PAGESIZE
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(place + size - start), mmap.MADV_HUGEPAGE)
        free(ctypes.c_void_p(place))


def give_back() -> None:
    """Give what is free to the system, once. Arrays of many sizes leave holes that do not fit the next ones: with large
    pictures as much as several copies of them. To fault in again what is used takes a few tenths of a second."""
    if trim := of_glibc("malloc_trim"):
        trim(0)
        ask_for_huge_pages()


def of_glibc(name: str) -> Any:
    """A function of glibc; None with another C library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
