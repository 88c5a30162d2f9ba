"""What a run will need, without running it: for this machine, for its GPUs, for machines that are not here, or for a
Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from parallel_nst.errors import BadInput
from parallel_nst.jobs.requests.plan import PlanJob
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.planning.footprint import driver_bytes, worker_share
from parallel_nst.painting.planning.forecast import Forecast, forecast, measured_speed, untrained
from parallel_nst.painting.planning.memory import machine_memory, memory_text, parse_memory
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import plan_scales
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import resolve
from parallel_nst.recipe import Recipe
from parallel_nst.workers import opening as pools
from parallel_nst.workers.crew import ANY_NUMBER, CrewSpec

GIGA = 1e9


@dataclass(frozen=True)
class Plan:
    """What a run of `job` will need. recipe: as it was planned; workers, threads, device: who works; memory: bytes that
    each may take; speed: FLOP/s of each. notes: what was assumed, a line each."""

    job: PlanJob
    recipe: Recipe
    workers: int
    threads: int
    device: str
    dtype: str
    memory: int
    speed: float
    forecast: Forecast
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Staff:
    """Who works, on what, and what was assumed. memory: bytes that each may take; None: not known yet."""

    workers: int
    threads: int
    device: str
    memory: int | None
    notes: tuple[str, ...] = ()
    threads_alone: float = 1.0  # threads of who paints a scale in one piece, in those of a worker


def plan(job: PlanJob) -> Plan:
    """Plan the scales as a run would, and forecast them. BadInput, in one line, when nothing fits the memory or what is
    to be known is not."""
    staff = staff_of(job)
    recipe = replace(job.recipe, size=max(job.size), device="auto")
    backbone = untrained(recipe.backbone, recipe.pooling)
    resolved, dtype = resolve(recipe, backbone), precision_of(recipe.dtype, staff.device)
    reader = FeatureReader(backbone, resolved.layers, getattr(torch, dtype))
    costs = profile(backbone, reader.layers.style, reader.layers.content, reader.dtype)
    memory, notes = memory_of_worker(job, recipe, staff)
    budget = Budget(staff.workers, memory, costs, staff.threads_alone)
    plans = plan_scales(job.size, job.size, resolved, budget)
    speed, measured = speed_of_worker(job, staff, reader)
    needs = forecast(plans, resolved, budget, speed)
    every = (*staff.notes, *notes, *measured, *driver_note(needs.driver_bytes))
    return Plan(job, recipe, staff.workers, staff.threads, staff.device, dtype, memory, speed, needs, every)


def staff_of(job: PlanJob) -> Staff:
    """The workers that a run would have."""
    return staff_here(job) if job.address is None else staff_of_cluster(job)


def staff_here(job: PlanJob) -> Staff:
    """Of this machine's cores or GPUs; with more workers than it has, of machines of its kind."""
    device = planned_device(job)
    slots = max(1, torch.cuda.device_count()) if device == "cuda" else pools.usable_cores()
    workers = job.workers or slots
    threads = 1 if device == "cuda" else max(1, slots // workers)
    here = device == "cpu" and workers <= slots  # else a scale in one piece is the work of one of them, too
    return Staff(workers, threads, device, None, threads_alone=slots / threads if here else 1)


def planned_device(job: PlanJob) -> str:
    """cpu or cuda; a GPU that is not here can be planned for too, when it is said what it can."""
    if job.recipe.device != "cuda" or torch.cuda.is_available():
        return pools.local_device(job.recipe.device)
    if job.memory is None or job.speed is None:
        missing = " and ".join(f"--{name}" for name in ("memory", "speed") if getattr(job, name) is None)
        raise BadInput(f"device is cuda, and PyTorch finds no GPU here to plan for; give {missing} of one, too")
    return "cuda"


def staff_of_cluster(job: PlanJob) -> Staff:
    """Of the cluster that is there, as a run on it would have them."""
    cluster, crew = pools.open_ray(CrewSpec(job.workers, job.recipe.device, job.address), pools.Workload(ANY_NUMBER))
    cluster.close()
    memory = None if crew.device == "cuda" else crew.memory
    return Staff(crew.workers, crew.threads, crew.device, memory, (crew.reason,) if crew.reason else ())


def precision_of(wanted: str, device: str) -> str:
    """Of the networks; a GPU that is not here is taken for one that multiplies bfloat16."""
    if device == "cuda" and not torch.cuda.is_available():
        return "bfloat16" if wanted == "auto" else wanted
    return pools.resolved_dtype(wanted, device)


def memory_of_worker(job: PlanJob, recipe: Recipe, staff: Staff) -> tuple[int, tuple[str, ...]]:
    """Bytes that a worker may take, and what was assumed."""
    if job.memory is not None:
        return parse_memory(job.memory), ()
    if staff.memory is not None:
        return staff.memory, (f"memory: {memory_text(staff.memory)} a worker is what the cluster at {job.address} has",)
    if staff.device == "cuda":
        return memory_of_gpu()
    return memory_here(job, recipe, staff)


def memory_of_gpu() -> tuple[int, tuple[str, ...]]:
    """Of the GPU of this machine that has least free."""
    if not torch.cuda.is_available():
        raise BadInput("device is cuda, and PyTorch finds no GPU here to ask for its memory; give --memory")
    free = min(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    return free, (f"memory: {memory_text(free)} a worker is what is free on a GPU of this machine",)


def memory_here(job: PlanJob, recipe: Recipe, staff: Staff) -> tuple[int, tuple[str, ...]]:
    """Of this machine's memory. Workers beyond its cores are taken to be on other machines of its kind."""
    have, cores = machine_memory(), pools.usable_cores()
    if staff.workers > cores:
        share = have // cores
        return share, (
            f"memory: {memory_text(share)} a worker, as if they were on machines like this one, {cores} on each",
        )
    driver = driver_bytes(job.size, recipe)
    if driver >= have:
        raise BadInput(
            f"{job.size} px take {memory_text(driver)} of memory beside the workers, and this machine has "
            f"{memory_text(have)}; give --memory to plan for another one, or a smaller --size"
        )
    share = worker_share(have, job.size, recipe, staff.workers, ray=staff.workers > 1)
    return share, (f"memory: {memory_text(share)} a worker is what this machine has",)


def speed_of_worker(job: PlanJob, staff: Staff, reader: FeatureReader) -> tuple[float, tuple[str, ...]]:
    """FLOP/s of a worker, and where that comes from."""
    if job.speed is not None:
        return job.speed * GIGA, ()
    if staff.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("the workers have GPUs, and PyTorch finds none here to measure; give the --speed of one")
    cores = pools.usable_cores()
    threads = min(staff.threads, cores)
    beside = 1 if staff.device == "cuda" else min(staff.workers, cores // threads)
    speed = measured_speed(reader, threads, staff.device, beside)
    how = "on a GPU" if staff.device == "cuda" else f"{threads} thread{'s' * (threads != 1)} a worker"
    return speed, (f"speed: measured here, {how}{', with as many at once' * (beside > 1)}",)


def driver_note(need: int) -> tuple[str, ...]:
    """A word where this machine could not be the driver."""
    have = machine_memory()
    return (f"driver: this machine has only {memory_text(have)}",) if need > have else ()
