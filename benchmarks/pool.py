"""What do the pools themselves cost: an empty task, and a step of ranks without its arithmetic?

An empty step: real steps are recorded, with what each rank sends to whom and gathers, and are then played again with
zeros of the same sizes and nothing in between. Beside it the same ranks do real steps, of which it is a share.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import page
import scene as scenes
import torch
from scene import Grid, Scene
from torch import Tensor

from parallel_nst.files.size import Size
from parallel_nst.recipe import Recipe
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import Events, Pinned, Pool, RankWork
from parallel_nst.workers.ranks.communicator import Communicator
from parallel_nst.workers.ray.cluster import RayCluster
from parallel_nst.workers.ray.pool import RayPool
from parallel_nst.workers.threads import ThreadPool
from parallel_nst.workers.worker import Progress, Worker, WorkerSpec

GRIDS: Mapping[int, Grid] = {2: (1, 2), 4: (2, 2), 8: (2, 4), 16: (4, 4)}
RECORDED = 6  # steps, of which the last is played
PLAYED = 20  # times
REAL = 4  # steps of a picture at a time
THREADS, PROCESSES = "threads of this process", "processes of Ray"


@dataclass(frozen=True)
class Nothing:
    """An empty task."""

    def run(self, worker: Worker) -> Generator[Progress, None, None]:
        return
        yield


@dataclass(frozen=True)
class Call:
    """What a rank asked of the others: to gather so many numbers, or to exchange so many with each peer."""

    dtype: torch.dtype
    gathered: int = 0
    sent: Mapping[int, int] = field(default_factory=dict)
    received: Mapping[int, int] = field(default_factory=dict)

    def play(self, ranks: Communicator) -> None:
        """The same with zeros."""
        if self.gathered:
            ranks.gather(torch.zeros(self.gathered, dtype=self.dtype))
            return
        ranks.exchange(self._zeros(self.sent), self._zeros(self.received))

    def _zeros(self, counts: Mapping[int, int]) -> dict[int, Tensor]:
        return {peer: torch.zeros(count, dtype=self.dtype) for peer, count in counts.items()}


class Recorder:
    """A communicator that notes what it is asked. calls: since the last step."""

    def __init__(self, ranks: Communicator) -> None:
        self.rank, self.size = ranks.rank, ranks.size
        self._ranks = ranks
        self.calls: list[Call] = []

    def gather(self, values: Tensor) -> list[Tensor]:
        self.calls.append(Call(values.dtype, gathered=values.numel()))
        return self._ranks.gather(values)

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        counts = [{peer: values.numel() for peer, values in side.items()} for side in (sent, received)]
        dtype = next((values.dtype for values in (*sent.values(), *received.values())), torch.float32)
        self.calls.append(Call(dtype, 0, *counts))
        self._ranks.exchange(sent, received)


@dataclass(frozen=True)
class Recorded:
    """A rank's work, done as it is. steps: where the calls of its last step go, by rank."""

    work: RankWork
    steps: dict[int, list[Call]]

    def run(self, worker: Worker, ranks: Communicator) -> Generator[Any, None, Any]:
        recorder = Recorder(ranks)
        events = self.work.run(worker, recorder)
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value
            if isinstance(event, Progress):
                self.steps[ranks.rank] = recorder.calls
                recorder.calls = []
            yield event


class RecordingPool(ThreadPool):
    """Threads, whose last step is noted in `steps`."""

    def together(self, works: Sequence[RankWork]) -> Events:
        self.steps: dict[int, list[Call]] = {}
        return super().together([Recorded(work, self.steps) for work in works])


@dataclass(frozen=True)
class Play:
    """A rank's work: the median seconds of an empty step."""

    calls: Sequence[Call]

    def run(self, worker: Worker, ranks: Communicator) -> Generator[Any, None, float]:
        seconds = []
        for _ in range(PLAYED):
            began = time.perf_counter()
            for call in self.calls:
                call.play(ranks)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)
        yield


def recorded(scene: Scene, ranks: int) -> dict[int, list[Call]]:
    """The calls of a step, by rank."""
    with RecordingPool(scene.spec(1), Crew(ranks, 1), 1) as pool:
        scene.step_seconds(pool, GRIDS[ranks], RECORDED)
        return pool.steps


def played(pool: Pool, calls: Mapping[int, Sequence[Call]]) -> float:
    """Median seconds of an empty step, of rank 0."""
    up = pool.muster(len(calls))
    assert up == len(calls), f"only {up} of {len(calls)} workers are up"
    events = pool.together([Play(calls[rank]) for rank in sorted(calls)])
    while True:
        try:
            next(events)
        except StopIteration as end:
            return float(end.value[0])


def task_seconds(pool: Pool, count: int, *, pinned: bool) -> float:
    """Seconds of an empty task among many."""
    began = time.perf_counter()
    tasks = [Nothing()] * count
    for _ in pool.map_pinned([Pinned(n, task) for n, task in enumerate(tasks)]) if pinned else pool.map(tasks):
        pass
    return (time.perf_counter() - began) / count


def sent_by(calls: Sequence[Call]) -> int:
    """Bytes that a rank sends in a step; what it gathers is told to every other."""
    return sum(call.dtype.itemsize * (sum(call.sent.values()) or call.gathered) for call in calls)


def task_rows(spec: WorkerSpec, count: int, repeats: int) -> list[list[str]]:
    """Milliseconds of an empty task on each kind of pool."""
    taken: dict[tuple[str, bool], list[float]] = defaultdict(list)
    with ThreadPool(spec, Crew(2, 1), 1) as threads, RayPool(RayCluster(None, 2), spec, Crew(2, 1)) as processes:
        processes.muster(2)
        for repeat in range(repeats + 1):
            for name, pool in ((THREADS, threads), (PROCESSES, processes)):
                for pinned in (False, True):
                    seconds = task_seconds(pool, count, pinned=pinned)
                    taken[name, pinned] += [1e3 * seconds] if repeat else []
    return [
        [name, "pinned" if pinned else "of any worker", page.spread(values, 3)]
        for (name, pinned), values in taken.items()
    ]


def step_rows(scene: Scene, most: int, repeats: int) -> list[list[str]]:
    """Milliseconds of empty and of real steps of up to so many ranks."""
    rows = []
    with RayPool(RayCluster(None, most), scene.spec(1), Crew(most, 1)) as pool:
        for ranks in [ranks for ranks in GRIDS if ranks <= most]:
            calls, empty, real = recorded(scene, ranks), list[float](), list[float]()
            for repeat in range(repeats + 1):
                found = played(pool, calls), statistics.median(scene.step_seconds(pool, GRIDS[ranks], REAL))
                print(ranks, "ranks", *(f"{1e3 * seconds:.2f} ms" for seconds in found), flush=True)
                for values, seconds in zip((empty, real), found, strict=True):
                    values += [1e3 * seconds] if repeat else []
            share = page.spread([100 * value for value in scenes.ratios(empty, real)], 1)
            sent = f"{sent_by(calls[0]) / 1024:.0f}"
            rows.append([ranks, len(calls[0]), sent, page.spread(empty, 2), page.spread(real, 0), f"{share} %"])
    return rows


def main() -> None:
    parser = scenes.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--side", type=int, default=768, help="of the picture, px")
    options = parser.parse_args()
    side, repeats, most = options.side, options.repeats, max(GRIDS)
    if options.quick:
        side, repeats, most = 256, 1, 4
    scene = scenes.scene(*scenes.pictures(options), Size(side, side), Recipe(), scenes.weights("embedded"))
    parts = [
        f"{options.tasks} empty tasks at a time on two workers; {repeats} times after once to warm up, median (least "
        "to greatest) of their means. Pinned tasks are sent two at a time to each worker, others one.",
        page.table(["workers", "tasks", "ms a task"], task_rows(scene.spec(1), options.tasks, repeats)),
        f"Embedded in {scene.dtype}, {side}x{side} px of {options.content.stem} with its frame; a tile and a thread "
        f"for each rank, processes of Ray on this one machine. An empty step is the median of {PLAYED}, a real one of "
        f"{REAL}; {repeats} of both in turn after one to warm up, median (least to greatest). Where there are more "
        "ranks than cores they also wait for their turn.",
        page.table(
            ["ranks", "calls", "KiB that rank 0 sends", "ms an empty step", "ms a real step", "share"],
            step_rows(scene, most, repeats),
        ),
    ]
    print(page.write(__file__, "What the pools themselves cost", parts, quick=options.quick))


if __name__ == "__main__":
    main()
