"""Where workers are put: what one takes of a machine, and whether machines that have joined have room for more."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from parallel_nst.workers.crew import Crew
from parallel_nst.workers.ray.actors import SIGNS, RayWorker
from parallel_nst.workers.ray.cluster import RayCluster
from parallel_nst.workers.ray.lifeline import in_use
from parallel_nst.workers.worker import WorkerSpec

LOOK_SECONDS = 2.0  # between two looks at whether machines have joined
ENOUGH = 0.5  # of the others' memory, for a worker on a machine that joins: what is free differs from one to the next
SPREAD = "SPREAD"  # Ray's way of putting each actor on another machine, as long as there is room; else it fills one
PARTS = 10_000  # of a GPU, in which Ray counts: a third must be rounded down, or three of them would not fit


class Growth:
    """How a crew grows with its cluster."""

    def __init__(self, most: int) -> None:
        """most: workers, however many machines join."""
        self._most = most
        self._looked = time.monotonic()

    def more(self, crew: Crew, cluster: RayCluster, after: float) -> int:
        """Workers that there is room for beside the crew; none if the last look was less than so many seconds ago."""
        if self._most <= crew.workers or time.monotonic() - self._looked < after:
            return 0
        with in_use():
            places = sum(places_for(crew, machine) for machine in cluster.machines_at_once())
        self._looked = time.monotonic()
        return max(0, min(self._most, places) - crew.workers)


def places_for(crew: Crew, machine: Mapping[str, float]) -> int:
    """Workers that a machine can hold, each with about as much memory as the others were counted to have."""
    places = crew.places_on(machine)
    least = int(ENOUGH * crew.memory) if crew.memory else 0
    return min(places, int(machine.get("memory", 0)) // least) if least else places


def need_of(spec: WorkerSpec, crew: Crew) -> str:
    """What a worker takes of a machine, in words."""
    if spec.device != "cuda":
        return f"{spec.threads} CPU"
    return "a GPU" if crew.per_gpu == 1 else f"1/{crew.per_gpu} of a GPU"


def actor_maker(spec: WorkerSpec, per_gpu: int) -> Callable[[], Any]:
    """What calls an actor with the resources that its spec needs; the spec travels once. per_gpu: that share a GPU."""
    reference = ray.put(spec)
    gpus = math.floor(PARTS / per_gpu) / PARTS if spec.device == "cuda" else 0
    cpus = 0 if gpus else spec.threads
    actor: Any = ray.remote(concurrency_groups={SIGNS: 1})(RayWorker)  # type: ignore[call-overload]
    actor = actor.options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy=SPREAD)
    return lambda: actor.remote(reference)
