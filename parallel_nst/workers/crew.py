"""How many workers of how many threads a run gets, and what it asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parallel_nst.errors import BadInput

ANY_NUMBER = 1 << 30  # of tasks: more than there are cores
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class CrewSpec:
    """The workers that somebody asks for.

    workers: at most so many; None: one for each core, or GPU. device: auto, cpu or cuda. address: of a Ray cluster
    (`auto` or `host:port`); None: this machine. in_process: threads of this process instead of Ray's processes.
    per_gpu: workers that share a GPU. BadInput for what does not go together.
    """

    workers: int | None = None
    device: str = "auto"
    address: str | None = None
    in_process: bool = False
    per_gpu: int = 1

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise BadInput(f"workers is {self.workers}; give at least 1")
        if self.device not in DEVICES:
            raise BadInput(f"device is {self.device!r}; allowed: {', '.join(DEVICES)}")
        if self.in_process and self.address is not None:
            raise BadInput("--in-process and --address exclude each other; give one of the two")
        if self.per_gpu < 1:
            raise BadInput(f"workers_per_gpu is {self.per_gpu}; give at least 1")
        if self.device == "cpu":
            self.check_shared("cpu")

    def check_shared(self, device: str) -> None:
        """BadInput where workers are to share GPUs and compute on another device."""
        if self.per_gpu > 1 and device != "cuda":
            raise BadInput(
                f"workers_per_gpu is {self.per_gpu}, and workers would compute on processors; leave it out, or give a "
                "device that has GPUs"
            )


@dataclass(frozen=True)
class Crew:
    """Who works: how many workers, with how many threads each, and why they are not as many as were asked for (None:
    they are).

    memory: bytes that each may take, where a cluster says so. device: of each, cpu or cuda. per_gpu: that share a GPU.
    """

    workers: int
    threads: int
    reason: str | None = None
    memory: int | None = None
    device: str = "cpu"
    per_gpu: int = 1

    def places_on(self, machine: Mapping[str, float]) -> int:
        """How many such workers a machine with these resources can hold."""
        if self.device == "cuda":
            return int(machine.get("GPU", 0)) * self.per_gpu
        return int(machine.get("CPU", 0)) // self.threads


def plan_crew(
    asked: int | None, tasks: int, slots: Sequence[int], device: str = "cpu", task: str = "tile", per_gpu: int = 1
) -> Crew:
    """As many workers as asked for, but no more than there are tasks or slots, and threads for each such that all of
    them fit; a worker with a GPU has one.

    asked: None asks for no number, so that there is nothing to explain. slots: cores (or GPUs) of every machine; a
    worker stays on one machine. task: what a task is called. per_gpu: workers that share a GPU.
    """
    total = sum(slots) * per_gpu
    workers = max(1, min(total if asked is None else asked, tasks, total))
    threads = 1 if device == "cuda" else threads_for(workers, slots)
    there = counted(tasks, task) if tasks <= total else counted(sum(slots), "GPU" if device == "cuda" else "core")
    shared = f" for {per_gpu} workers each" if per_gpu > 1 and tasks > total else ""
    are = "is" if there.startswith("1 ") else "are"
    reason = f"using {workers} of {asked} workers: there {are} {there}{shared}"
    return Crew(workers, threads, None if asked in (None, workers) else reason, device=device, per_gpu=per_gpu)


def threads_for(workers: int, slots: Sequence[int]) -> int:
    """The most that each of so many workers can have, where each machine has so many slots."""
    threads = max(1, sum(slots) // workers)
    while threads > 1 and sum(slot // threads for slot in slots) < workers:
        threads -= 1
    return threads


def counted(number: int, name: str) -> str:
    """'1 tile', '4 cores'."""
    return f"{number} {name}{'s' * (number != 1)}"
