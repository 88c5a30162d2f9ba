"""What a crew is for whom: on this machine, on a cluster, on GPUs; and the one place that opens it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny_networks import tiny_state

from parallel_nst.errors import BadInput, ClusterUnavailable, OutOfMemory
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers import opening
from parallel_nst.workers.crew import Crew, CrewSpec, plan_crew
from parallel_nst.workers.opening import Workload, crew_on, open_pool, open_workers, store_for, tiles_of
from parallel_nst.workers.pool import SerialPool, only, worker_memory
from parallel_nst.workers.threads import ThreadPool
from parallel_nst.workers.worker import FreeMemory, Progress, Worker, WorkerSpec

SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})
GIB = 1 << 30


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "usable_cores", lambda: 1)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as far as one may ask without using them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"workers": 0}, r"^workers is 0; give at least 1$"),
        ({"device": "tpu"}, r"^device is 'tpu'; allowed: auto, cpu, cuda$"),
        ({"address": "auto", "in_process": True}, r"^--in-process and --address exclude each other; give one of the"),
        ({"per_gpu": 0}, r"^workers_per_gpu is 0; give at least 1$"),
        ({"per_gpu": 2, "device": "cpu"}, r"^workers_per_gpu is 2, and workers would compute on processors; leave it"),
    ],
)
def test_what_does_not_go_together_is_refused(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        CrewSpec(**wanted)


@pytest.mark.parametrize(("asked", "reason"), [(None, None), (64, "using 4 of 64 workers: there are 4 tiles")])
@pytest.mark.parametrize("slots", [[64], [32, 32]])
def test_a_smaller_crew_is_explained_only_to_those_who_asked_for_a_larger_one(
    asked: int | None, reason: str | None, slots: list[int]
) -> None:
    crew = plan_crew(asked, 4, slots)
    assert (crew.workers, crew.reason) == (4, reason)


def test_a_worker_with_a_gpu_has_one_thread() -> None:
    assert plan_crew(2, 9, [8], "cuda") == Crew(2, 1, device="cuda")
    assert plan_crew(9, 9, [1, 1], "cuda").reason == "using 2 of 9 workers: there are 2 GPUs"


@pytest.mark.parametrize(
    ("asked", "crew"),
    [
        (None, Crew(4, 1, device="cuda", per_gpu=2)),
        (3, Crew(3, 1, device="cuda", per_gpu=2)),
        (5, Crew(4, 1, "using 4 of 5 workers: there are 2 GPUs for 2 workers each", device="cuda", per_gpu=2)),
        (99, Crew(4, 1, "using 4 of 99 workers: there are 2 GPUs for 2 workers each", device="cuda", per_gpu=2)),
    ],
)
def test_workers_that_share_gpus_are_as_many_times_more(asked: int | None, crew: Crew) -> None:
    assert plan_crew(asked, 9, [1, 1], "cuda", per_gpu=2) == crew


def test_where_tasks_are_few_that_is_the_reason_on_shared_gpus_too() -> None:
    assert plan_crew(9, 3, [1, 1], "cuda", per_gpu=2).reason == "using 3 of 9 workers: there are 3 tiles"


def test_a_machine_has_places_by_its_gpus_or_its_cores() -> None:
    machine = {"CPU": 7.0, "GPU": 2.0}
    assert [Crew(1, threads).places_on(machine) for threads in (1, 2, 4, 8)] == [7, 3, 1, 0]
    assert [Crew(1, 1, device="cuda", per_gpu=n).places_on(machine) for n in (1, 3)] == [2, 6]
    assert Crew(1, 1, device="cuda").places_on({"CPU": 7.0}) == Crew(1, 1).places_on({}) == 0


@pytest.mark.parametrize("spec", [CrewSpec(per_gpu=2), CrewSpec(per_gpu=2, address="h:1")])
def test_gpus_can_only_be_shared_where_there_are_some(spec: CrewSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=r"^workers_per_gpu is 2, and workers would compute on processors; leave it out"):
        crew_on(MACHINES[:1], spec, Workload()) if spec.address else opening.crew_here(spec, Workload())


def test_ranks_do_not_share_gpus(gpus: None) -> None:
    with pytest.raises(BadInput, match=r"^workers_per_gpu is 2, and exact tiles keep a GPU busy with one worker; give"):
        open_pool(Recipe(), weights=tiny_state(), workers_per_gpu=2)


def test_the_crew_of_this_machine_on_gpus(gpus: None) -> None:
    assert opening.crew_here(CrewSpec(), Workload()) == Crew(2, 1, device="cuda")
    assert opening.crew_here(CrewSpec(per_gpu=3), Workload()) == Crew(6, 1, device="cuda", per_gpu=3)
    assert opening.crew_here(CrewSpec(device="cpu"), Workload()).device == "cpu"


MACHINES: list[Any] = [{"CPU": 8.0, "memory": 16.0 * GIB}, {"CPU": 4.0, "memory": 4.0 * GIB, "GPU": 2.0}, {}]


@pytest.mark.parametrize(
    ("wanted", "crew"),
    [
        (CrewSpec(None, "cpu", "h:1"), Crew(12, 1, None, GIB)),
        (CrewSpec(3, "cpu", "h:1"), Crew(3, 4, None, 4 * GIB)),
        (CrewSpec(None, "auto", "h:1"), Crew(2, 1, None, 2 * GIB, "cuda")),
        (CrewSpec(99, "cuda", "h:1"), Crew(2, 1, "using 2 of 99 workers: there are 2 GPUs", 2 * GIB, "cuda")),
        (CrewSpec(None, "cuda", "h:1", per_gpu=2), Crew(4, 1, None, GIB, "cuda", 2)),
    ],
)
def test_the_crew_of_a_cluster(wanted: CrewSpec, crew: Crew) -> None:
    """As many as its machines hold, each with its share of the memory of the one that is shortest of it."""
    assert crew_on(MACHINES, wanted, Workload()) == crew


def test_a_cluster_without_the_device_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^the cluster at h:1 has no GPU for --device cuda; give another device$"):
        crew_on(MACHINES[:1], CrewSpec(None, "cuda", "h:1"), Workload())


def test_one_worker_or_one_tile_is_this_process_and_that_is_said() -> None:
    told: list[str] = []
    with open_workers(CrewSpec(4, "cpu"), Workload(1, "picture"), SPEC.weights, "float32", told.append) as pool:
        assert isinstance(pool, SerialPool)
        assert pool.crew == Crew(1, 1, "using 1 of 4 workers: there is 1 picture")
        assert pool.size == 1
    assert told == ["using 1 of 4 workers: there is 1 picture"]


def test_threads_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "usable_cores", lambda: 2)
    threads = torch.get_num_threads()
    with open_pool(Recipe(device="cpu"), weights=tiny_state(), in_process=True) as pool:
        assert isinstance(pool, ThreadPool) and pool.crew == Crew(2, 1)
    torch.set_num_threads(threads)


def test_a_cluster_that_is_not_there_is_an_error_of_the_family() -> None:
    with pytest.raises(ClusterUnavailable, match=r"^no Ray answers at 127.0.0.1:1 "):
        open_pool(Recipe(device="cpu"), weights=tiny_state(), address="127.0.0.1:1")


@dataclass(frozen=True)
class Fail:
    error: Exception

    def run(self, worker: Worker) -> Generator[Progress, None, None]:
        raise self.error
        yield


def test_a_pool_closes_itself_whatever_happens() -> None:
    closed: list[int] = []

    class Watched(SerialPool):
        def close(self) -> None:
            closed.append(1)

    with pytest.raises(ZeroDivisionError), Watched(SPEC) as pool:
        assert pool.crew == Crew(1, 1)
        raise ZeroDivisionError
    assert closed == [1]


CPU_MEMORY = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried\nto allocate"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(CPU_MEMORY),
        RuntimeError("could not create a primitive"),
        torch.OutOfMemoryError("CUDA out of\n..."),
    ],
)
def test_memory_that_does_not_suffice_is_one_line_that_says_what_to_do(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match=r"^the memory of a worker's machine does not suffice; give more [^\n]+$"):
        only(SerialPool(SPEC).map([Fail(error)]))


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^the sizes differ$") as caught:
        only(SerialPool(SPEC).map([Fail(RuntimeError("the sizes differ"))]))
    assert type(caught.value) is RuntimeError


@pytest.mark.parametrize("tiles", ["auto", "4", "2x3"])
def test_tiles_of_a_recipe(tiles: str) -> None:
    expected = {"auto": Workload().tasks, "4": 4, "2x3": 6}
    assert tiles_of(Recipe(tiling=TilingSpec(tiles=tiles))) == expected[tiles]


def test_room_for_tiles_grows_with_the_picture() -> None:
    assert store_for(0) == store_for(10) <= store_for(100_000_000)


class Gpus(SerialPool):
    """Two workers on GPUs with so many bytes left."""

    def __init__(self, free: Sequence[int]) -> None:
        super().__init__(SPEC)
        self.crew = Crew(len(free), 1, device="cuda")
        self.free = free

    def map_pinned(self, tasks: Any, on_progress: Any = None) -> Any:
        assert [(pinned.pin, pinned.task) for pinned in tasks] == [(n, FreeMemory()) for n in range(self.size)]
        return enumerate(self.free)


def test_memory_of_workers_is_that_of_the_fullest_gpu_of_the_cluster_or_not_known() -> None:
    assert worker_memory(Gpus([5 * GIB, 3 * GIB])) == 3 * GIB
    shared = Gpus([5 * GIB, 4 * GIB])
    shared.crew = Crew(2, 1, device="cuda", per_gpu=2)
    assert worker_memory(shared) == 2 * GIB
    pool = SerialPool(SPEC)
    assert worker_memory(pool) is None
    pool.crew = Crew(1, 1, memory=GIB)
    assert worker_memory(pool) == GIB


def test_free_memory_is_what_the_gpu_has_and_what_torch_keeps_for_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"mem_get_info": (7 * GIB, 9 * GIB), "memory_reserved": 2 * GIB, "memory_allocated": GIB}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert only(SerialPool(SPEC).map([FreeMemory()])) == 8 * GIB
