"""The one place where a crew is engaged: this process, threads of it, a Ray of our own, or a cluster that is there."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import torch

from parallel_nst.errors import BadInput
from parallel_nst.networks.backbones.loading import load_weights
from parallel_nst.networks.weights.states import State
from parallel_nst.recipe import Recipe
from parallel_nst.recipe.texts import parse_grid
from parallel_nst.workers.crew import ANY_NUMBER, Crew, CrewSpec, plan_crew
from parallel_nst.workers.pool import Pool, SerialPool
from parallel_nst.workers.threads import ThreadPool
from parallel_nst.workers.worker import WorkerSpec

if TYPE_CHECKING:  # Ray is loaded only where it is used
    from parallel_nst.workers.ray.cluster import RayCluster

LEAST_STORE = 512 << 20  # bytes
PIXEL = 12  # bytes: three channels of float32

Notify = Callable[[str], None]  # takes a line that the user should be told


@dataclass(frozen=True)
class Workload:
    """What there is to do. tasks: at most so many. task: what one is called. pixels: of the picture, for whose tiles a
    Ray of our own makes room."""

    tasks: int = ANY_NUMBER
    task: str = "tile"
    pixels: int = 0


def open_pool(
    recipe: Recipe,
    *,
    workers: int | None = None,
    address: str | None = None,
    in_process: bool = False,
    workers_per_gpu: int = 1,
    weights: State | Path | None = None,
    workload: Workload | None = None,
    notify: Notify = lambda line: None,
) -> Pool:
    """A pool of workers for a recipe, for a `with` statement: it closes itself.

    workers, address, in_process, workers_per_gpu: see `CrewSpec`; one worker, or one tile, takes this process and no
    Ray. weights: of the backbone, or a file of them; None: the registry's. workload: None: as many tiles as the recipe
    says. notify: takes each line that the user should be told: a smaller crew than was asked for, a worker that was
    replaced. BadInput for weights, devices or addresses that cannot be had; ClusterUnavailable.
    """
    if workers_per_gpu > 1 and recipe.tiling.mode == "exact":  # nor would NCCL let two of a group have one GPU
        raise BadInput(
            f"workers_per_gpu is {workers_per_gpu}, and exact tiles keep a GPU busy with one worker; give 1, or mode "
            "independent"
        )
    state = load_weights(recipe.backbone, weights) if weights is None or isinstance(weights, Path) else weights
    spec = CrewSpec(workers, recipe.device, address, in_process, workers_per_gpu)
    work = workload or Workload(tiles_of(recipe))
    return open_workers(spec, work, {recipe.backbone: state}, recipe.dtype, notify)


def tiles_of(recipe: Recipe) -> int:
    """How many tiles a recipe asks for; any number where it leaves that open."""
    grid = recipe.tiling.tiles
    return ANY_NUMBER if grid == "auto" else math.prod(part or 1 for part in parse_grid(grid))


def open_workers(
    spec: CrewSpec, workload: Workload, states: Mapping[str, State], dtype: str, notify: Notify = lambda line: None
) -> Pool:
    """A pool of workers that have these backbones. dtype: as in a recipe; the rest is as for `open_pool`."""
    crew = crew_here(spec, workload) if spec.address is None else None
    if crew and (crew.workers == 1 or spec.in_process):
        pool = pool_here(crew, states, dtype)
    else:
        pool = ray_pool(spec, workload, states, dtype, notify)
    if pool.crew.reason:
        notify(pool.crew.reason)
    return pool


def pool_here(crew: Crew, states: Mapping[str, State], dtype: str) -> Pool:
    """Of this process: its only worker, or threads."""
    cores = usable_cores()
    made_of = worker_spec(crew, states, dtype)
    if crew.workers == 1:
        return SerialPool(replace(made_of, threads=cores), reason=crew.reason)
    return ThreadPool(made_of, crew, cores)


def ray_pool(spec: CrewSpec, workload: Workload, states: Mapping[str, State], dtype: str, notify: Notify) -> Pool:
    """Of Ray's processes. On one machine a single task is done sooner by all cores of this process."""
    from parallel_nst.workers.ray.pool import RayPool

    cluster, crew = open_ray(spec, workload)
    try:
        made_of = worker_spec(crew, states, dtype)
        here = replace(made_of, threads=usable_cores()) if cluster.local and crew.device == "cpu" else None
        most = crew.workers if cluster.local else min(workload.tasks, spec.workers or ANY_NUMBER)
        return RayPool(cluster, made_of, crew, here, notify, most)
    except BaseException:
        cluster.close()
        raise


def open_ray(spec: CrewSpec, workload: Workload) -> tuple[RayCluster, Crew]:
    """Ray, and who is to work on it; close it when done. A Ray of our own starts in the background; what is wrong with
    the crew is said before."""
    from parallel_nst.workers.ray.cluster import RayCluster

    if spec.address is None:
        crew = crew_here(spec, workload)
        return RayCluster(None, usable_cores(), store_for(workload.pixels)), crew
    cluster = RayCluster(spec.address, 0)
    try:
        return cluster, crew_on(cluster.machines(), spec, workload)
    except BaseException:
        cluster.close()
        raise


def crew_here(spec: CrewSpec, workload: Workload) -> Crew:
    """Who works on this machine. BadInput for a device that is not here."""
    device = local_device(spec.device)
    spec.check_shared(device)
    slots = torch.cuda.device_count() if device == "cuda" else usable_cores()
    return plan_crew(spec.workers, workload.tasks, [slots], device, workload.task, spec.per_gpu)


def crew_on(machines: list[Mapping[str, float]], spec: CrewSpec, workload: Workload) -> Crew:
    """Who works on a cluster of machines with these resources. BadInput for a device that none has."""
    device = spec.device if spec.device != "auto" else "cuda" if any(m.get("GPU", 0) >= 1 for m in machines) else "cpu"
    spec.check_shared(device)
    unit = "GPU" if device == "cuda" else "CPU"
    slots = [int(machine.get(unit, 0)) for machine in machines]
    if not sum(slots):
        raise BadInput(f"the cluster at {spec.address} has no {unit} for --device {spec.device}; give another device")
    crew = plan_crew(spec.workers, workload.tasks, slots, device, workload.task, spec.per_gpu)
    used = [machine for machine in machines if crew.places_on(machine)]
    return replace(crew, memory=min(int(machine.get("memory", 0)) // crew.places_on(machine) for machine in used))


def worker_spec(crew: Crew, states: Mapping[str, State], dtype: str) -> WorkerSpec:
    """What each of a crew is made of."""
    return WorkerSpec(crew.device, resolved_dtype(dtype, crew.device), crew.threads, states)


def store_for(pixels: int) -> int:
    """Bytes of a local Ray's object store: all tiles of a picture on their way there and back, with their halos."""
    return min(max(LEAST_STORE, 3 * PIXEL * pixels), int(0.3 * psutil.virtual_memory().total))


def usable_cores() -> int:
    """Cores this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_device(wanted: str) -> str:
    """cpu or cuda; BadInput when cuda is asked for and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadInput("device is cuda, but PyTorch finds no CUDA device here; use --device cpu or auto")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def resolved_dtype(wanted: str, device: str) -> str:
    """auto takes bfloat16 where the hardware multiplies it natively; emulated, it is slower than float32."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if native_bfloat16(device) else "float32"


def native_bfloat16(device: str) -> bool:
    """Whether the device has instructions for bfloat16 products."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # no public name for it in torch 2.13
    return bool(supported and supported())
