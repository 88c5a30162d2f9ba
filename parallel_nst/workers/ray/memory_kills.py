"""Whether Linux has killed processes for their memory: it tells nobody, but it counts."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

COUNTERS = {"": "memory.events", "memory": "memory.oom_control"}  # files of control groups, version 2 and 1
WORD = "oom_kill"


def memory_kills(root: Path = Path("/")) -> int:
    """How many processes of this one's control group have been killed so or, where it has no count, of the machine.
    root: of the file system."""
    files = [root / "proc/vmstat", *group_counters(root)]
    return next((count for file in reversed(files) if (count := count_in(file)) is not None), 0)


def group_counters(root: Path) -> list[Path]:
    """Where the count may be, the nearest last: in a container the group's own path is often not to be seen, and one of
    the folders above it is the container's."""
    table = root / "proc/self/cgroup"
    found: list[Path] = []
    for line in table.read_text(encoding="utf-8").splitlines() if table.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers in COUNTERS:
            top = root / "sys/fs/cgroup" / controllers
            folders = accumulate(Path(path).parts[1:], lambda folder, part: folder / part, initial=top)
            found += [folder / COUNTERS[controllers] for folder in folders]
    return found


def count_in(file: Path) -> int | None:
    """The count in a file of words with their numbers; None where there is none."""
    try:
        numbers = dict(line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines())
        return int(numbers[WORD])
    except (OSError, ValueError, KeyError):
        return None
