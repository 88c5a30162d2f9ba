"""Memory: what this machine has left for a run, and sizes as people write them. In bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from parallel_nst.errors import BadInput

SPARE = 0.05  # of all memory: Ray kills workers, and systems begin to thrash, when less is free
MEMORY_BOUNDS = (1 << 20, 1 << 50)  # 1 MiB to 1 PiB: what lies outside is a slip of the unit
GROUP_FILES = {  # controllers of a control group -> its files of limit and use
    "": ("memory.max", "memory.current"),  # version 2
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}


def machine_memory() -> int:
    """Bytes that this process and its children can still take without swapping, or a guard ending one of them: what the
    system calls available, or less where a control group (a container) allows less; a little is left of either."""
    memory = psutil.virtual_memory()
    return min(max(0, int(memory.available - SPARE * memory.total)), *group_memory(Path("/")))


def group_memory(root: Path) -> Iterator[int]:
    """Bytes left in each control group around this process, version 1 and 2. root: of the file system.

    Pages of files that have not been used lately are given back on demand and count as free. In a container the
    group's own path is often not to be seen; then one of the folders above it is the container's.
    """
    table = root / "proc/self/cgroup"
    for line in table.read_text(encoding="utf-8").splitlines() if table.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers in GROUP_FILES:
            top = root / "sys/fs/cgroup" / controllers
            folders = [top, *(top / part for part in accumulate(Path(path).parts[1:], os.path.join))]
            for folder in folders:
                yield from bytes_left(folder, *GROUP_FILES[controllers])


def bytes_left(folder: Path, limit: str, used: str) -> Iterator[int]:
    """What one control group still allows; nothing where it sets no limit."""
    try:
        allowed, taken = (folder / limit).read_text().strip(), int((folder / used).read_text())
        pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if allowed.isdigit():
        idle = int(pages.get("total_inactive_file", pages.get("inactive_file", 0)))
        yield max(0, int((1 - SPARE) * int(allowed)) - max(0, taken - idle))


def parse_memory(text: str) -> int:
    """'4GiB', '4G' -> 4 x 2^30 bytes; '2.5GB' -> 2.5 x 10^9. BadInput for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(|b|ib)\s*", text, re.IGNORECASE | re.ASCII)
    if match:
        number, letter, kind = match.groups()
        size = float(number) * (1000 if kind.lower() == "b" else 1024) ** ("kmgt".index(letter.lower()) + 1)
        if MEMORY_BOUNDS[0] <= size <= MEMORY_BOUNDS[1]:
            return int(size)
    raise BadInput(f"memory is {text!r}; give a size with its unit, such as 4GiB, 2.5GB or 800MiB")


def memory_text(size: float) -> str:
    """'640 MiB', '12.4 GiB'."""
    return f"{size / (1 << 20):,.0f} MiB" if size < 10 << 30 else f"{size / (1 << 30):,.1f} GiB"
