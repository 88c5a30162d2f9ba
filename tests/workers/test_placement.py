"""Where workers are put, on real nodes with GPUs that Ray is only told of; and nodes that join late are used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clusters
import numpy as np
import pytest
from clusters import DEADLINE, Place, one_node, two_nodes, until
from tiny_networks import LAYERS, tiny_state

from parallel_nst.files.images import Picture
from parallel_nst.painting.scale_run import RunCallbacks, RunStatus
from parallel_nst.painting.stylize import stylize
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.crew import Crew, CrewSpec
from parallel_nst.workers.opening import Workload, open_workers
from parallel_nst.workers.pool import Pinned, Pool, SerialPool
from parallel_nst.workers.ray import actors, placement
from parallel_nst.workers.ray.pool import RayPool
from parallel_nst.workers.threads import ThreadPool
from parallel_nst.workers.worker import Progress, Worker, WorkerSpec

HERE = str(Path(clusters.__file__).parent)
SPEC = WorkerSpec("cpu", "float32", 1, {})


@dataclass(frozen=True)
class Where:
    """Its node, and the GPUs that the worker may use."""

    def run(self, worker: Worker) -> Generator[Progress, None, tuple[str, str]]:
        import ray

        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
        yield


@dataclass(frozen=True)
class Wait:
    """Leaves a file that says on which node it is, then waits until `go` is there."""

    folder: Path
    number: int

    def run(self, worker: Worker) -> Generator[Progress, None, None]:
        import ray

        (self.folder / f"at-{ray.get_runtime_context().get_node_id()}-{self.number}").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.05)
        return
        yield


def told(line: object) -> None:
    print(json.dumps(line), flush=True)


def places(address: str, device: str, workers: int | None, per_gpu: int) -> None:
    """Where each of a crew is, a line each."""
    spec = CrewSpec(workers, device, address, per_gpu=per_gpu)
    with open_workers(spec, Workload(), {}, "float32") as pool:
        for _, place in pool.map_pinned([Pinned(number, Where()) for number in range(pool.size)]):
            told(place)


def wait(address: str, folder: str) -> None:
    """Three tasks for two workers, of which one comes later."""
    spec = CrewSpec(2, "cpu", address)
    with open_workers(spec, Workload(), {}, "float32", told) as pool:
        list(pool.map([Wait(Path(folder), number) for number in range(3)]))
        told(pool.size)


def paint_on(pool: Pool, on_status: Callable[[RunStatus], None]) -> np.ndarray:
    """A small picture in four exact tiles, at two sizes."""
    random = np.random.default_rng(5)
    content, style = (Picture(random.random((64, 80, 3), np.float32)) for _ in range(2))
    tiling = TilingSpec(tiles="2x2", whole=0)
    recipe = Recipe(size=80, scales=2, steps=4, device="cpu", layers=LAYERS, tiling=tiling)
    return stylize(content, style, recipe, pool, RunCallbacks(on_status=on_status)).picture.pixels


def exact(address: str, folder: str) -> None:
    """How many ranks each group has; at the end of the first scale the other node may join. The picture is kept."""

    def wait(status: RunStatus) -> None:
        if status.scale == 1 and status.step == status.steps:
            (Path(folder) / "first").touch()
            while not (Path(folder) / "go").exists():
                time.sleep(0.05)

    states = {"embedded": tiny_state()}
    with open_workers(CrewSpec(None, "cpu", address), Workload(4), states, "float32", told) as pool:
        together = pool.together
        pool.together = lambda works: told(len(works)) or together(works)  # type: ignore[method-assign, func-returns-value]
        np.save(Path(folder) / "painted.npy", paint_on(pool, wait))


def program(place: Place, name: str, *options: object) -> subprocess.Popen[str]:
    """One of the functions above, in a process of its own."""
    arguments = [str(option) for option in options]
    return place.start(sys.executable, __file__, name, *arguments, output=subprocess.PIPE, PYTHONPATH=path())


def path() -> str:
    """For modules: beside what was given, those that tests share."""
    return os.pathsep.join(filter(None, (HERE, os.environ.get("PYTHONPATH"))))


def lines(run: subprocess.Popen[str]) -> list[Any]:
    out, err = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.slow
def test_workers_are_spread_over_nodes_and_gpus(place: Place) -> None:
    with two_nodes(place, "--num-cpus=4", "--num-gpus=2") as nodes:
        cores = lines(program(place, "places", nodes.address, "cpu", 2, 1))
        shared = lines(program(place, "places", nodes.address, "auto", 0, 2))
    found = {node for node, _ in cores}
    assert len(found) == 2
    assert {gpus for _, gpus in cores} == {""}
    assert Counter(map(tuple, shared)) == {(node, gpu): 2 for node in found for gpu in "01"}


@pytest.mark.slow
def test_a_node_that_joins_gets_tasks_of_a_run_that_is_under_way(place: Place) -> None:
    with one_node(place) as nodes:
        run = program(place, "wait", nodes.address, place.folder)
        until(lambda: run.poll() is not None or list(place.folder.glob("at-*")), "a task is begun")
        nodes.join()
        until(lambda: run.poll() is not None or len(list(place.folder.glob("at-*"))) == 2, "another task is begun")
        assert len({file.name.split("-")[1] for file in place.folder.glob("at-*")}) == 2
        (place.folder / "go").touch()
        reason, grown, size = lines(run)
    assert reason == "using 1 of 2 workers: there is 1 core"
    assert (grown, size) == ("the cluster has grown: 1 worker more, 2 now", 2)


@pytest.mark.slow
def test_a_node_that_joins_has_its_part_of_the_next_scale(place: Place) -> None:
    with one_node(place) as nodes:
        run = program(place, "exact", nodes.address, place.folder)
        until(lambda: run.poll() is not None or (place.folder / "first").exists(), "the first scale is about to end")
        nodes.join()
        (place.folder / "go").touch()
        assert lines(run) == [1, "the cluster has grown: 1 worker more, 2 now", 2]
    expected = paint_on(SerialPool(WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})), lambda status: None)
    np.testing.assert_array_equal(np.load(place.folder / "painted.npy"), expected)


class Growing(RayPool):
    """A pool on a cluster of so many cores, where nobody is called."""

    def __init__(self, crew: Crew, most: int, *machines: dict[str, float]) -> None:
        self.lines: list[str] = []
        cluster: Any = SimpleNamespace(local=False, machines_at_once=lambda: machines)
        super().__init__(cluster, SPEC, crew, None, self.lines.append, most)

    def _hire(self) -> None:
        self.lines.append("hired")


GIB = 1 << 30


@pytest.mark.parametrize(
    ("crew", "most", "cores", "size"),
    [
        (Crew(2, 1), 9, [2, 3], 5),
        (Crew(2, 1), 4, [2, 3], 4),
        (Crew(2, 2), 9, [4, 3], 3),
        (Crew(2, 1), 9, [1], 2),
        (Crew(2, 1), 2, [2, 3], 2),
        (Crew(2, 1), 0, [2, 3], 2),
        (Crew(2, 1, memory=2 * GIB), 9, [2, 9], 6),
        (Crew(2, 1, memory=9 * GIB), 9, [2, 3], 2),
    ],
)
def test_a_pool_grows_with_its_cluster_up_to_what_was_asked_for(
    crew: Crew, most: int, cores: list[float], size: int
) -> None:
    """By as many workers as the machines hold and have memory for."""
    pool = Growing(crew, most, *({"CPU": n, "memory": 4.0 * GIB} for n in cores))
    pool._grow()
    assert pool.size == len(pool._slots) == size
    said = [f"the cluster has grown: {size - 2} worker{'s' * (size > 3)} more, {size} now", "hired"]
    assert pool.lines == (said if size > 2 else [])


def test_machines_are_not_asked_for_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Growing(Crew(1, 1), 9, {"CPU": 4.0})
    pool._grow(1000.0)
    assert pool.size == 1
    monkeypatch.setattr(placement.time, "monotonic", lambda: pool._growth._looked + 1000.0)
    pool._grow(1000.0)
    assert pool.size == 4


def test_pins_keep_their_slots_until_they_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a pool grows between two calls, what the first has left is where it was."""
    homes: list[int] = []
    pool = Growing(Crew(1, 1), 9, {"CPU": 2.0})
    monkeypatch.setattr(pool, "_run", lambda jobs, *more: homes.append(pool._homes) or iter(()))
    pool.map_pinned([])
    pool._out = True  # as `_run` leaves it
    pool._grow()
    pool.map_pinned([])
    pool.map([])
    pool.map_pinned([])
    assert homes == [1, 1, 1, 2]


def test_threads_share_gpus_as_the_crew_says() -> None:
    spec = WorkerSpec("cuda", "float32", 1, {})
    with ThreadPool(spec, Crew(3, 1, device="cuda", per_gpu=2), 1) as pool:
        assert [str(worker.device) for worker in pool._workers] == ["cuda:0", "cuda:0", "cuda:1"]
        assert pool._here.device.type == "cuda"


@pytest.mark.parametrize(
    ("spec", "crew", "need"),
    [
        (SPEC, Crew(1, 1), "1 CPU"),
        (WorkerSpec("cuda", "float32", 1, {}), Crew(1, 1, device="cuda"), "a GPU"),
        (WorkerSpec("cuda", "float32", 1, {}), Crew(1, 1, device="cuda", per_gpu=3), "1/3 of a GPU"),
    ],
)
def test_what_a_worker_takes_of_a_machine(spec: WorkerSpec, crew: Crew, need: str) -> None:
    assert placement.need_of(spec, crew) == need


if __name__ == "__main__":
    actors.REPLACE_SECONDS = 600.0  # on a busy machine an actor takes a minute to come up
    name, address, *more = sys.argv[1:]
    if name == "places":
        places(address, more[0], int(more[1]) or None, int(more[2]))
    else:
        {"wait": wait, "exact": exact}[name](address, *more)
