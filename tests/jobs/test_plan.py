"""A plan for this machine, for GPUs, and for the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from parallel_nst.errors import BadInput
from parallel_nst.files.size import Size
from parallel_nst.jobs import plan as planning
from parallel_nst.jobs.plan import plan, staff_of
from parallel_nst.jobs.requests.plan import PlanJob
from parallel_nst.recipe import Recipe
from parallel_nst.workers import opening as pools
from parallel_nst.workers.crew import CrewSpec

GIB = 1 << 30
GPU = Recipe(device="cuda")


class Cluster:
    """Stands in for a connection: two machines of four cores and 16 GiB, one of eight and 64."""

    gpus = (0, 0, 0)
    open = 0

    def __init__(self, address: str, cores: int) -> None:
        Cluster.open += 1

    def machines(self) -> list[dict[str, float]]:
        rooms = ((4, 16 * GIB), (4, 16 * GIB), (8, 64 * GIB))
        return [{"CPU": cpus, "GPU": gpus, "memory": room} for (cpus, room), gpus in zip(rooms, self.gpus, strict=True)]

    def close(self) -> None:
        Cluster.open -= 1


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Cluster]]:
    monkeypatch.setattr("parallel_nst.workers.ray.cluster.RayCluster", Cluster)
    monkeypatch.setattr(Cluster, "gpus", (0, 0, 0))
    yield Cluster
    assert Cluster.open == 0


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, one with less free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: ((20, 12)[number] * GIB, 24 * GIB))
    monkeypatch.setattr(pools, "resolved_dtype", lambda wanted, device: "bfloat16")
    monkeypatch.setattr(planning, "measured_speed", lambda *_: 5e12)


def test_here_there_are_as_many_workers_as_a_run_would_have(monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    monkeypatch.setattr(pools, "usable_cores", lambda: 6)
    assert (staff_of(PlanJob(Size(512, 512))).workers, staff_of(PlanJob(Size(512, 512))).threads) == (6, 1)
    two = staff_of(PlanJob(Size(512, 512), workers=2))
    assert (two.workers, two.threads) == (2, 3)


def test_the_memory_of_a_gpu_is_what_is_free_on_the_fullest(gpus: None) -> None:
    found = plan(PlanJob(Size(768, 1024), recipe=GPU))
    assert (found.device, found.workers, found.threads, found.memory, found.speed) == ("cuda", 2, 1, 12 * GIB, 5e12)
    assert found.forecast.worker_bytes <= 12 * GIB
    assert any("free on a GPU" in note for note in found.notes)


def test_a_gpu_that_is_not_here_is_planned_for_when_it_is_described(no_gpu: None) -> None:
    found = plan(PlanJob(Size(4096, 4096), workers=4, memory="40GiB", speed=20_000.0, recipe=GPU))
    assert (found.device, found.workers, found.dtype, found.memory) == ("cuda", 4, "bfloat16", 40 * GIB)
    assert found.speed == 2e13


@pytest.mark.parametrize(
    ("given", "missing"),
    [({}, "--memory and --speed"), ({"memory": "8GiB"}, "--speed"), ({"speed": 1.0}, "--memory")],
)
def test_what_is_not_known_of_a_gpu_is_asked_for(no_gpu: None, given: dict[str, object], missing: str) -> None:
    with pytest.raises(BadInput, match=f"no GPU here to plan for; give {missing} of one, too"):
        plan(PlanJob(Size(512, 512), recipe=GPU, **given))  # type: ignore[arg-type]


def test_on_a_cluster_all_its_cores_work_with_the_memory_of_the_poorest(cluster: type[Cluster], no_gpu: None) -> None:
    found = plan(PlanJob(Size(2048, 2048), speed=100.0, address="head:1"))
    assert (found.workers, found.threads, found.device, found.memory) == (16, 1, "cpu", 4 * GIB)
    assert any("what the cluster at head:1 has" in note for note in found.notes)


def test_fewer_workers_have_more_threads_and_memory(cluster: type[Cluster], no_gpu: None) -> None:
    staff = staff_of(PlanJob(Size(512, 512), workers=4, address="head:1"))
    assert (staff.workers, staff.threads, staff.memory) == (4, 4, 16 * GIB)


def test_more_workers_than_a_cluster_has_are_explained(cluster: type[Cluster], no_gpu: None) -> None:
    staff = staff_of(PlanJob(Size(512, 512), workers=64, address="head:1"))
    assert staff.workers == 16
    assert staff.notes == ("using 16 of 64 workers: there are 16 cores",)


def test_a_cluster_with_gpus_is_planned_for_them(cluster: type[Cluster], no_gpu: None) -> None:
    cluster.gpus = (2, 2, 0)
    job = PlanJob(Size(512, 512), address="head:1", memory="16GiB", speed=5_000.0)
    found = plan(job)
    assert (found.workers, found.threads, found.device, found.memory) == (4, 1, "cuda", 16 * GIB)
    with pytest.raises(BadInput, match="give --memory"):
        plan(PlanJob(Size(512, 512), address="head:1", speed=5_000.0))
    with pytest.raises(BadInput, match="give the --speed of one"):
        plan(PlanJob(Size(512, 512), address="head:1", memory="16GiB"))


def test_a_cluster_without_gpus_has_none_to_plan_for(cluster: type[Cluster], no_gpu: None) -> None:
    job = PlanJob(Size(512, 512), address="head:1", recipe=GPU, memory="1GiB", speed=1.0)
    with pytest.raises(BadInput, match="the cluster at head:1 has no GPU for --device cuda"):
        plan(job)


def test_the_poorest_machine_decides() -> None:
    def memory(*machines: tuple[int, int], workers: int) -> int | None:
        there = [{"CPU": float(cores), "memory": float(room)} for cores, room in machines]
        return pools.crew_on(there, CrewSpec(workers, address="head:1"), pools.Workload(100)).memory

    assert memory((4, 8 * GIB), (8, 8 * GIB), workers=3) == 4 * GIB
    assert memory((2, 1 * GIB), (8, 8 * GIB), workers=2) == 4 * GIB  # no worker of four threads fits the first
