"""The worker that runs tasks, and the pool that hands them out; here the pool of one, in this process.

A task is a frozen record that can be pickled: arrays and names, nothing that is open or on a device. Running it is a
generator: it yields `Progress` while it works and returns its result, which depends on the task alone, so that a task
whose worker died can be run again elsewhere; what earlier tasks have left with a worker only saves work. Arrays are
(3, H, W) in [0, 1], float32 or, where the worker's precision is that, float64.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from parallel_nst.gatys import Progress
from parallel_nst.networks.backbones import Backbone
from parallel_nst.networks.checkpoints import State, build_backbone

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h

T = TypeVar("T")

OnProgress = Callable[[int, Progress], None]  # (index of the task, what it did)


@dataclass(frozen=True)
class WorkerSpec:
    """What every worker of a pool is made of.

    device: cpu or cuda. dtype: float32, bfloat16 or float64. threads: of one worker. weights: by backbone's name.
    """

    device: str
    dtype: str
    threads: int
    weights: Mapping[str, State]


class Task(Protocol):
    """One unit of work."""

    def run(self, worker: Worker) -> Generator[Progress, None, Any]: ...


class Worker:
    """A device, a number of threads, and the networks built so far."""

    def __init__(self, spec: WorkerSpec) -> None:
        torch.set_num_threads(spec.threads)
        keep_memory()
        self.spec = spec
        self.device = torch.device(spec.device)
        self.dtype: torch.dtype = getattr(torch, spec.dtype)
        self._backbones: dict[str, Backbone] = {}
        self._run = ""
        self._left: dict[Hashable, Any] = {}
        self._held: tuple[Hashable, Any] | None = None

    def left_by(self, run: str) -> dict[Hashable, Any]:
        """What earlier tasks of this run have left here for later ones; that of another run is dropped."""
        if run != self._run:
            self._run, self._left = run, {}
        return self._left

    def held(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once for as long as the key stays the same; a task's own runs do not touch it."""
        if self._held is None or self._held[0] != key:
            self._held = None  # before the next is made, so that there is room for it
            self._held = key, make()
        made: T = self._held[1]
        return made

    def set_threads(self, threads: int) -> None:
        """Threads from now on."""
        torch.set_num_threads(threads)

    def backbone(self, name: str) -> Backbone:
        """The named backbone on this worker's device, built once."""
        if name not in self._backbones:
            network = build_backbone(name, self.spec.weights[name]).to(self.device)
            network = network.double() if self.dtype == torch.float64 else network
            self._backbones[name] = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._backbones[name]

    def image(self, pixels: np.ndarray) -> Tensor:
        """(3, H, W) array -> (1, 3, H, W) tensor on this worker's device; a copy, for a task's arrays may be
        read-only."""
        precision = np.float64 if self.dtype == torch.float64 else np.float32
        return torch.from_numpy(np.array(pixels, precision, order="C"))[None].to(self.device)

    def run(self, task: Task) -> Generator[Progress, None, Any]:
        """The task's own events and result."""
        return (yield from task.run(self))


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


def keep_memory() -> None:
    """Let glibc keep freed memory instead of giving it back to the system, once for the process.

    Every optimiser step frees and allocates the same few large arrays; faulting their pages in again cost a fifth of
    a step at 1024 px on two cores. Threads share one arena, for what another arena has freed serves nobody else. Does
    nothing with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_ARENA_MAX, 1)


class Shared(Protocol):
    """A value that several tasks carry and that reaches a machine once, when a task there asks for it."""

    def get(self) -> Any: ...


@dataclass(frozen=True)
class Here:
    """A shared value that never leaves this process."""

    value: Any

    def get(self) -> Any:
        return self.value


@dataclass(frozen=True)
class Pinned:
    """A task that wants the worker which has met all earlier tasks of the same pin, for what they have left there."""

    pin: int
    task: Task


@dataclass(frozen=True)
class Failed:
    """The result of a task that took its worker with it as often as it was tried, and how the last one ended."""

    reason: str


class Pool(Protocol):
    """Workers that take tasks.

    spec: what they are made of. size: how many there are, or will be.
    waited: seconds in which no task could run because no worker was up yet.
    moved: bytes of arrays that went to and came from other processes so far.
    """

    spec: WorkerSpec
    size: int
    waited: float
    moved: int

    def map(
        self, tasks: Sequence[Task], on_progress: OnProgress | None = None, *, keep_going: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """Run every task on any worker; (index, result) as they finish, in whatever order that is.

        keep_going: a task whose workers die again and again has a `Failed` as its result; else it is an error.
        """
        ...

    def map_pinned(self, tasks: Sequence[Pinned], on_progress: OnProgress | None = None) -> Iterator[tuple[int, Any]]:
        """As `map`, but each task on the worker of its pin (pin modulo the size), in the order given for each worker.

        A worker that died is replaced, and what its tasks had left there is lost: a task must say so in its result, or
        be able to do without.
        """
        ...

    def share(self, value: Any) -> Shared:
        """A handle to `value` for tasks to carry in its stead."""
        ...

    def close(self) -> None:
        """Let the workers go. Nothing is left running."""
        ...


class SerialPool:
    """One worker, in this process: the same tasks, one after the other."""

    def __init__(self, spec: WorkerSpec, worker: Worker | None = None) -> None:
        """worker: one that is there, so that what it has built serves here too."""
        self.spec = spec
        self.size = 1
        self.waited = 0.0
        self.moved = 0
        self._worker = worker or Worker(spec)

    def map(
        self, tasks: Sequence[Task], on_progress: OnProgress | None = None, *, keep_going: bool = False
    ) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            yield index, run_here(self._worker, index, task, on_progress)

    def map_pinned(self, tasks: Sequence[Pinned], on_progress: OnProgress | None = None) -> Iterator[tuple[int, Any]]:
        return self.map([pinned.task for pinned in tasks], on_progress)

    def share(self, value: Any) -> Shared:
        return Here(value)

    def close(self) -> None:
        pass


def run_here(worker: Worker, index: int, task: Task, on_progress: OnProgress | None) -> Any:
    """Run a task to its end, passing its progress on."""
    events = worker.run(task)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        if on_progress:
            on_progress(index, event)


def only(results: Iterator[tuple[int, Any]]) -> Any:
    """The result of a map over a single task."""
    ((_, result),) = results
    return result
