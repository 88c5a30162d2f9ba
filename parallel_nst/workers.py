"""Tasks, the worker that runs them, and the pool that hands them out; here the pool of one, in this process.

A task is a frozen record that can be pickled: arrays and names, nothing that is open or on a device. Running it is a
generator: it yields `Progress` while it works and returns its result, which depends on the task alone, so that a task
whose worker died can be run again elsewhere. Arrays are (3, H, W) float32 in [0, 1].
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from parallel_nst.gatys import (
    Progress,
    StyleTargets,
    measure_content,
    measure_grams,
    measure_style,
    minimise,
    objective,
)
from parallel_nst.networks.backbones import Backbone
from parallel_nst.networks.checkpoints import State, build_backbone
from parallel_nst.optimizers import make_optimizer
from parallel_nst.recipe import LayerWeights, Recipe

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h

OnProgress = Callable[[int, Progress], None]  # (index of the task, what it did)


@dataclass(frozen=True)
class WorkerSpec:
    """What every worker of a pool is made of.

    device: cpu or cuda. dtype: float32 or bfloat16. threads: of one worker. weights: by backbone's name.
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
        self.device = torch.device(spec.device)
        self.dtype: torch.dtype = getattr(torch, spec.dtype)
        self._weights = spec.weights
        self._backbones: dict[str, Backbone] = {}

    def set_threads(self, threads: int) -> None:
        """Threads from now on."""
        torch.set_num_threads(threads)

    def backbone(self, name: str) -> Backbone:
        """The named backbone on this worker's device, built once."""
        if name not in self._backbones:
            network = build_backbone(name, self._weights[name]).to(self.device)
            self._backbones[name] = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._backbones[name]

    def image(self, pixels: np.ndarray) -> Tensor:
        """(3, H, W) array -> (1, 3, H, W) tensor on this worker's device; a copy, for a task's arrays may be
        read-only."""
        return torch.from_numpy(np.array(pixels, np.float32, order="C"))[None].to(self.device)

    def run(self, task: Task) -> Generator[Progress, None, Any]:
        """The task's own events and result."""
        return (yield from task.run(self))


@dataclass(frozen=True)
class Crew:
    """How many workers of how many threads, and why it is not what was asked for (None: it is)."""

    workers: int
    threads: int
    reason: str | None


def plan_crew(asked: int, tasks: int, slots: Sequence[int], unit: str = "core") -> Crew:
    """As many workers as asked for, but no more than there are tasks or slots, and threads for each such that all of
    them fit.

    slots: cores (or GPUs) of every machine; a worker stays on one machine.
    """
    total = sum(slots)
    workers = max(1, min(asked, tasks, total))
    threads = max(1, total // workers)
    while threads > 1 and sum(slot // threads for slot in slots) < workers:
        threads -= 1
    if workers == asked:
        return Crew(workers, threads, None)
    limit = f"{tasks} tile{'s' * (tasks != 1)}" if tasks <= total else f"{total} {unit}{'s' * (total != 1)}"
    return Crew(
        workers, threads, f"using {workers} of {asked} workers: there {'is' if limit[:2] == '1 ' else 'are'} {limit}"
    )


def keep_memory() -> None:
    """Let glibc keep freed memory instead of giving it back to the system, once for the process.

    Every optimiser step frees and allocates the same few large arrays; faulting their pages in again cost a fifth of
    a step at 1024 px on two cores. Does nothing with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


class Pool(Protocol):
    """Workers that take tasks.

    spec: what they are made of. waited: seconds in which no task could run because no worker was up yet.
    """

    spec: WorkerSpec
    waited: float

    def map(self, tasks: Sequence[Task], on_progress: OnProgress | None = None) -> Iterator[tuple[int, Any]]:
        """Run every task on any worker; (index, result) as they finish, in whatever order that is."""
        ...

    def close(self) -> None:
        """Let the workers go. Nothing is left running."""
        ...


class SerialPool:
    """One worker, in this process: the same tasks, one after the other."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.waited = 0.0
        self._worker = Worker(spec)

    def map(self, tasks: Sequence[Task], on_progress: OnProgress | None = None) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            yield index, run_here(self._worker, index, task, on_progress)

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


@dataclass(frozen=True)
class MeasureStyle:
    """Targets of a style image (3, H, W) -> StyleTargets, on the CPU."""

    pixels: np.ndarray
    backbone: str
    layers: LayerWeights

    def run(self, worker: Worker) -> Generator[Progress, None, StyleTargets]:
        targets = measure_style(worker.backbone(self.backbone), worker.image(self.pixels), self.layers, worker.dtype)
        return replace(targets, grams=on_device(targets.grams, "cpu"))
        yield  # a generator, like every task


@dataclass(frozen=True)
class MeasureGrams:
    """Gram means of a tile (3, H, W) at the style layers -> {layer: (C, C)}, on the CPU."""

    pixels: np.ndarray
    backbone: str
    layers: LayerWeights

    def run(self, worker: Worker) -> Generator[Progress, None, dict[str, Tensor]]:
        grams = measure_grams(
            worker.backbone(self.backbone), worker.image(self.pixels), self.layers.style, worker.dtype
        )
        return on_device(grams, "cpu")
        yield


@dataclass(frozen=True)
class OptimiseTile:
    """Gatys' optimisation of one tile, or of a whole picture, from `start` -> OptimisedTile."""

    content: np.ndarray
    start: np.ndarray
    style: StyleTargets
    layers: LayerWeights
    recipe: Recipe
    steps: int

    def run(self, worker: Worker) -> Generator[Progress, None, OptimisedTile]:
        backbone = worker.backbone(self.recipe.backbone)
        content = measure_content(backbone, worker.image(self.content), self.layers.content, worker.dtype)
        style = replace(self.style, grams=on_device(self.style.grams, worker.device))
        loss = objective(backbone, style, content, self.recipe, self.layers, worker.dtype)
        best = yield from minimise(loss, worker.image(self.start), make_optimizer(self.recipe), self.steps)
        return OptimisedTile(best.image[0].cpu().numpy(), best.loss)


@dataclass(frozen=True)
class OptimisedTile:
    """pixels (3, H, W) float32 in [0, 1], and the loss they have."""

    pixels: np.ndarray
    loss: float


def on_device(grams: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """The same matrices on another device."""
    return {name: gram.to(device) for name, gram in grams.items()}
