"""How many workers of how many threads a run gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Crew:
    """How many workers of how many threads, and why it is not what was asked for (None: it is).

    memory: bytes that each may take, where a cluster says so.
    """

    workers: int
    threads: int
    reason: str | None
    memory: int | None = None


def plan_crew(asked: int, tasks: int, slots: Sequence[int], unit: str = "core", task: str = "tile") -> Crew:
    """As many workers as asked for, but no more than there are tasks or slots, and threads for each such that all of
    them fit.

    slots: cores (or GPUs) of every machine; a worker stays on one machine. unit, task: what a slot and a task are
    called.
    """
    total = sum(slots)
    workers = max(1, min(asked, tasks, total))
    threads = max(1, total // workers)
    while threads > 1 and sum(slot // threads for slot in slots) < workers:
        threads -= 1
    if workers == asked:
        return Crew(workers, threads, None)
    limit = f"{tasks} {task}{'s' * (tasks != 1)}" if tasks <= total else f"{total} {unit}{'s' * (total != 1)}"
    return Crew(
        workers, threads, f"using {workers} of {asked} workers: there {'is' if limit[:2] == '1 ' else 'are'} {limit}"
    )
