"""The worker that runs tasks.

A task is a frozen record that can be pickled: arrays and names, nothing that is open or on a device. Running it is a
generator: it yields `Progress` while it works and returns its result, which depends on the task alone, so that a task
whose worker died can be run again elsewhere; what earlier tasks have left with a worker only saves work. Arrays are
(3, H, W) in [0, 1], float32 or, where the worker's precision is that, float64.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from parallel_nst.errors import OutOfMemory
from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.networks.weights.states import State
from parallel_nst.recipe import Pooling
from parallel_nst.workers.freed_memory import keep_memory

SMALLER = "give more tiles, fewer workers on a machine, or a smaller size"

T = TypeVar("T")


@dataclass(frozen=True)
class WorkerSpec:
    """What every worker of a pool is made of.

    device: cpu or cuda. dtype: float32, bfloat16 or float64. threads: of one worker. weights: by backbone's name.
    """

    device: str
    dtype: str
    threads: int
    weights: Mapping[str, State]


@dataclass(frozen=True)
class Progress:
    """One optimiser step done: `step` of `steps`, and the loss before it."""

    step: int
    steps: int
    loss: float


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
        self._backbones: dict[tuple[str, Pooling], Backbone] = {}
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

    def backbone(self, name: str, pooling: Pooling = "auto") -> Backbone:
        """The named backbone on this worker's device, built once."""
        if (name, pooling) not in self._backbones:
            network = build_backbone(name, self.spec.weights[name], pooling).to(self.device)
            network = network.double() if self.dtype == torch.float64 else network
            self._backbones[name, pooling] = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._backbones[name, pooling]

    @property
    def precision(self) -> torch.dtype:
        """Of images, which are never rounded to half precision."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def image(self, pixels: np.ndarray) -> Tensor:
        """(3, H, W) array -> (1, 3, H, W) tensor on this worker's device; a copy, for a task's arrays may be
        read-only."""
        return torch.from_numpy(np.array(pixels, order="C"))[None].to(self.device, self.precision)

    def run(self, task: Task) -> Generator[Progress, None, Any]:
        """The task's own events and result; OutOfMemory, in one line, where it takes more than there is."""
        with self.memory_errors():
            return (yield from task.run(self))

    @contextmanager
    def memory_errors(self) -> Iterator[None]:
        """OutOfMemory, in one line, where something takes more memory than there is. What that has held is let go of:
        whoever keeps an error, as Ray does for a while, keeps all that was there."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            raise OutOfMemory(f"{out_of_memory(self.spec.device)}; {SMALLER}") from error

    def free_memory(self) -> int:
        """Bytes that this worker's GPU can still give it, those that PyTorch keeps for it among them."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(free + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device))


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that the GPU of the worker that gets this task can still give -> int."""

    def run(self, worker: Worker) -> Generator[Progress, None, int]:
        return worker.free_memory()
        yield


def lacks_memory(error: Exception) -> bool:
    """Whether this is how Python or PyTorch says that memory does not suffice."""
    message = str(error)
    told = "DefaultCPUAllocator: " in message or message == "could not create a primitive"  # the second by oneDNN
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)


def out_of_memory(device: str) -> str:
    """Whose memory did not suffice."""
    return f"the memory of a worker's {'GPU' if device.startswith('cuda') else 'machine'} does not suffice"
