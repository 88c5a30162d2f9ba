"""Which pool a run gets: this process, a Ray of its own, or a cluster that is there."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from parallel_nst.networks.backbones.loading import load_weights
from parallel_nst.networks.weights.states import State
from parallel_nst.recipe import Recipe, parse_grid
from parallel_nst.workers.crew import Crew, plan_crew
from parallel_nst.workers.pool import Pool, SerialPool
from parallel_nst.workers.threads import ThreadPool
from parallel_nst.workers.worker import WorkerSpec

ANY_NUMBER = 1 << 30  # of tiles: more than there are cores
LEAST_STORE = 512 << 20  # bytes
PIXEL = 12  # bytes: three channels of float32


def open_pool(
    recipe: Recipe,
    *,
    workers: int | None = None,
    address: str | None = None,
    weights: State | Path | None = None,
    tasks: int | None = None,
    pixels: int = 0,
    in_process: bool = False,
) -> tuple[Pool, Crew]:
    """A pool for a recipe, and who is in it. Close it when done.

    weights: of the backbone, or a file of them; None: the registry's. tasks: how many tiles there will be at most;
    None: as many as the recipe says, or any number. pixels: of the picture, for which a Ray of its own gets room.
    The rest is as for `open_workers`.
    """
    state = load_weights(recipe.backbone, weights) if weights is None or isinstance(weights, Path) else weights
    if tasks is None:
        grid = recipe.tiling.tiles
        tasks = ANY_NUMBER if grid == "auto" else math.prod(part or 1 for part in parse_grid(grid))
    return open_workers(
        {recipe.backbone: state},
        recipe.device,
        recipe.dtype,
        workers=workers,
        address=address,
        tasks=tasks,
        store=store_for(pixels),
        in_process=in_process,
    )


def open_workers(
    states: Mapping[str, State],
    device: str,
    dtype: str,
    *,
    workers: int | None = None,
    address: str | None = None,
    tasks: int = ANY_NUMBER,
    store: int = LEAST_STORE,
    in_process: bool = False,
    task: str = "tile",
) -> tuple[Pool, Crew]:
    """A pool of workers that have these backbones, and who is in it. Close it when done.

    workers: at most so many; None: one for each core (or GPU). One worker or one task takes this process and no Ray.
    address: of a Ray cluster (`auto` or `host:port`); None starts a Ray of its own for as long as the pool is open.
    tasks: how many there will be at most. task: what one is called. store: bytes of a Ray of its own for tasks and
    results. in_process: workers are threads of this process instead of Ray's processes.
    ValueError for weights, devices or addresses that cannot be had.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; give at least 1")
    if address is not None:
        if in_process:
            raise ValueError("--in-process and --address exclude each other; give one of the two")
        return cluster_pool(states, device, dtype, workers, address, tasks, task)
    device = local_device(device)
    cores = usable_cores()
    slots, unit = ([torch.cuda.device_count()], "GPU") if device == "cuda" else ([cores], "core")
    crew = plan_crew(workers or sum(slots), tasks, slots, unit, task)
    if workers is None:
        crew = Crew(crew.workers, crew.threads, None)
    dtype = resolved_dtype(dtype, device)
    here = WorkerSpec(device, dtype, cores, states)
    if crew.workers == 1:
        return SerialPool(here), Crew(1, cores, crew.reason)
    spec = WorkerSpec(device, dtype, crew.threads if device == "cpu" else 1, states)
    if in_process:
        return ThreadPool(spec, crew.workers, cores), crew
    from parallel_nst.workers.ray.pool import RayCluster, RayPool  # Ray is loaded only where it is used

    return RayPool(RayCluster(None, cores, store), spec, crew.workers, here if device == "cpu" else None), crew


def store_for(pixels: int) -> int:
    """Bytes of a local Ray's object store: all tiles of a picture on their way there and back, with their halos."""
    return min(max(LEAST_STORE, 3 * PIXEL * pixels), int(0.3 * psutil.virtual_memory().total))


def cluster_pool(
    states: Mapping[str, State], device: str, dtype: str, workers: int | None, address: str, tasks: int, task: str
) -> tuple[Pool, Crew]:
    """A pool of workers on a cluster that is there."""
    from parallel_nst.workers.ray.pool import RayCluster, RayPool

    cluster = RayCluster(address, 0)
    try:
        wanted, device = device, device if device != "auto" else "cuda" if sum(cluster.slots("GPU")) else "cpu"
        unit = "GPU" if device == "cuda" else "CPU"
        slots = cluster.slots(unit)
        if not sum(slots):
            raise ValueError(f"the cluster at {address} has no {unit} for --device {wanted}")
        crew = plan_crew(workers or sum(slots), tasks, slots, "GPU" if device == "cuda" else "core", task)
        threads = crew.threads if device == "cpu" else 1
        rooms = zip(cluster.slots("memory"), slots, strict=True)
        memory = min(room // max(1, slot // threads) for room, slot in rooms if slot >= threads)
        spec = WorkerSpec(device, resolved_dtype(dtype, device), threads, states)
        return RayPool(cluster, spec, crew.workers), replace(crew, memory=memory)
    except BaseException:
        cluster.close()
        raise


def usable_cores() -> int:
    """Cores this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_device(wanted: str) -> str:
    """cpu or cuda; ValueError when cuda is asked for and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but PyTorch finds no CUDA device here; use --device cpu or auto")
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
