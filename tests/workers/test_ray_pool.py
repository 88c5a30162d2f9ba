"""The pool of Ray actors: the results of the pool of one, whatever happens to the workers, and nothing left behind."""

from __future__ import annotations

import gc
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import ray.cloudpickle
import torch
from ray._private.node import Node
from tiny_networks import LAYERS, tiny_resolved, tiny_state

from parallel_nst.errors import BadInput, ClusterUnavailable, WorkerLost
from parallel_nst.files.images import Picture
from parallel_nst.painting.independent.tasks import OptimiseTile
from parallel_nst.painting.scale_run import RunCallbacks, RunStatus
from parallel_nst.painting.style_targets import MeasureStyle
from parallel_nst.painting.stylize import Stylised, stylize
from parallel_nst.painting.tiles.geometry import whole_tile
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import Failed, Here, Pinned, SerialPool, Shared, only
from parallel_nst.workers.ray import actors
from parallel_nst.workers.ray import cluster as ray_cluster
from parallel_nst.workers.ray import pool as ray_pool
from parallel_nst.workers.ray.actors import Job, Slot, hand_out, in_one_place
from parallel_nst.workers.ray.cluster import CLUSTERS, LEAST_OBJECT_STORE, START_TRIES, RayCluster, check_address
from parallel_nst.workers.ray.pool import IN_FLIGHT, RayPool
from parallel_nst.workers.ray.retries import MAX_TRIES
from parallel_nst.workers.ray.shared_values import RayShared, payload
from parallel_nst.workers.worker import Progress, Task, Worker, WorkerSpec

# Ray neither waits for the processes that it kills nor closes its log files.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

OURS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
STEPS = 3
GONE = 120.0  # seconds within which a process that was killed must have left, on a busy machine too
SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})
RECIPE = Recipe(steps=STEPS)


def picture(seed: int, height: int = 32, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).random((3, height, width), np.float32)


@dataclass
class Lease:
    """A pool, what it has told, and how the world looked before it was opened."""

    pool: RayPool
    told: list[str]
    home: Path
    place: Path
    environment: dict[str, str | None]
    memory: set[str]
    others: set[psutil.Process]


def children() -> set[psutil.Process]:
    """All processes below this one; other tests may have left some, such as multiprocessing's tracker of resources."""
    return set(psutil.Process().children(recursive=True))


def shared_memory() -> set[str]:
    """Names of what lies in the machine's shared memory."""
    place = Path("/dev/shm")
    return {file.name for file in place.iterdir()} if place.exists() else set()


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """For Ray's folders: the path of a socket, which lies deep in one, is short."""
    folder = Path(tempfile.mkdtemp(prefix="pt", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def lease(tmp_path_factory: pytest.TempPathFactory, short_folder: Path) -> Iterator[Lease]:
    """A local pool of two workers of one thread each, whose single tasks go to an actor too."""
    home, place = tmp_path_factory.mktemp("home"), short_folder
    threads, told = torch.get_num_threads(), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_TMPDIR", str(place))
        patch.setattr(actors, "REPLACE_SECONDS", 600.0)  # on a busy machine an actor takes a minute to come up
        patch.setattr(ray_pool, "START_SECONDS", 600.0)
        before, memory, others = {key: os.environ.get(key) for key in OURS}, shared_memory(), children()
        pool = RayPool(RayCluster(None, 2), SPEC, Crew(2, 1), notify=told.append)
        yield Lease(pool, told, home, place, before, memory, others)
        pool.close()
    torch.set_num_threads(threads)


@pytest.fixture
def pool(lease: Lease) -> RayPool:
    return lease.pool


@pytest.fixture
def serial() -> Iterator[SerialPool]:
    threads = torch.get_num_threads()
    yield SerialPool(SPEC)
    torch.set_num_threads(threads)


def full_crew(pool: RayPool) -> set[int]:
    """Process ids once both workers are up; each has a task of its own, however busy the other is."""
    found = {pid for _, (_, pid) in pool.map_pinned([Pinned(n, Echo(n)) for n in range(2)])}
    assert len(found) == 2
    return found


def measure_style(pixels: np.ndarray) -> MeasureStyle:
    height, width = pixels.shape[1:]
    return MeasureStyle(pixels, whole_tile(height, width), tiny_resolved(RECIPE))


def tiles(serial: SerialPool, count: int) -> list[Task]:
    style = only(serial.map([measure_style(picture(0))])).targets
    pictures = [picture(1 + n, 32 + 8 * n) for n in range(count)]
    return [OptimiseTile(p, p, style, tiny_resolved(RECIPE), whole_tile(*p.shape[1:]), STEPS) for p in pictures]


@dataclass(frozen=True)
class Echo:
    """Reports `steps` steps whose loss is its value, then returns value and process id."""

    value: int
    steps: int = 1

    def run(self, worker: Worker) -> Generator[Progress, None, tuple[int, int]]:
        for step in range(1, self.steps + 1):
            yield Progress(step, self.steps, float(self.value))
        return self.value, os.getpid()


@dataclass(frozen=True)
class Deadly:
    """Kills its worker in mid-task the first `deaths` times; a file counts them."""

    file: Path
    deaths: int

    def run(self, worker: Worker) -> Generator[Progress, None, int]:
        yield Progress(1, 2, float(os.getpid()))
        with self.file.open("a") as file:
            file.write("x")
        if self.file.stat().st_size <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        yield Progress(2, 2, float(os.getpid()))
        return self.file.stat().st_size


class Mistake(ValueError):
    """An error of a kind that only this module knows."""


@dataclass(frozen=True)
class Failing:
    """Raises in its second step."""

    def run(self, worker: Worker) -> Generator[Progress, None, None]:
        yield Progress(1, 2, 0.0)
        raise Mistake("the tile is no good")


@dataclass(frozen=True)
class Remember:
    """Adds the mean of its pixels to the last of what earlier tasks of `run` with this name have left; all of them."""

    name: int
    pixels: np.ndarray
    run_name: str = "run"

    def run(self, worker: Worker) -> Generator[Progress, None, np.ndarray]:
        left = worker.left_by(self.run_name)
        means = left.get(self.name, np.zeros((1, 3), np.float32))
        mean = worker.image(self.pixels).mean((0, 2, 3)).numpy()
        left[self.name] = np.concatenate([means, means[-1:] + mean])
        return left[self.name]
        yield


@dataclass(frozen=True)
class Log:
    """Adds its value to the list that earlier tasks of `run` have left -> process id and the list so far."""

    value: int
    run_name: str

    def run(self, worker: Worker) -> Generator[Progress, None, tuple[int, tuple[int, ...]]]:
        seen = worker.left_by(self.run_name).setdefault("seen", [])
        seen.append(self.value)
        return os.getpid(), tuple(seen)
        yield


@dataclass(frozen=True)
class Ticking:
    """Writes to its file for ten minutes."""

    file: Path

    def run(self, worker: Worker) -> Generator[Progress, None, None]:
        for step in range(6000):
            with self.file.open("a") as file:
                file.write("x")
            time.sleep(0.1)
            yield Progress(step, 6000, 0.0)


@dataclass(frozen=True)
class Stopping:
    """Stops its worker in mid-task the first time; a file counts."""

    file: Path

    def run(self, worker: Worker) -> Generator[Progress, None, int]:
        with self.file.open("a") as file:
            file.write("x")
        if self.file.stat().st_size == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(3600)  # another thread may be the one that takes the signal, a moment later
        yield Progress(1, 1, 0.0)
        return self.file.stat().st_size


@dataclass(frozen=True)
class Hungry:
    """Takes so many bytes the first time; a file counts."""

    file: Path
    bytes: int

    def run(self, worker: Worker) -> Generator[Progress, None, int]:
        with self.file.open("a") as file:
            file.write("x")
        held = []
        while self.file.stat().st_size == 1 and len(held) < self.bytes >> 24:
            held.append(np.ones(1 << 21))
            time.sleep(0.01)
            yield Progress(1, 1, 0.0)
        time.sleep(2 if held else 0)
        return self.file.stat().st_size


@dataclass(frozen=True)
class Surroundings:
    """Threads that PyTorch takes, niceness, and what Ray has set."""

    def run(self, worker: Worker) -> Generator[Progress, None, tuple[int, int, str | None]]:
        return torch.get_num_threads(), os.nice(0), os.environ.get("OMP_NUM_THREADS")
        yield


@dataclass(frozen=True)
class Faults:
    """Pages that come from the system while a large array is freed and made again."""

    def run(self, worker: Worker) -> Generator[Progress, None, int]:
        length = 20 << 20  # 80 MiB are more than glibc's arenas of threads hold
        for _ in range(2):
            torch.ones(length)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            torch.ones(length)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        yield


@dataclass(frozen=True)
class Sum:
    """The sums of shared arrays, and whether they are views of memory that others share."""

    parts: tuple[Shared, ...]

    def run(self, worker: Worker) -> Generator[Progress, None, tuple[list[float], bool]]:
        arrays = [part.get() for part in self.parts]
        return [float(array.sum()) for array in arrays], not any(array.flags.writeable for array in arrays)
        yield


def within(seconds: float, condition: Callable[[], Any]) -> bool:
    end = time.monotonic() + seconds
    while not (held := bool(condition())) and time.monotonic() < end:
        time.sleep(0.05)
    return held


def test_tiles_are_those_of_the_serial_pool_bit_for_bit(pool: RayPool, serial: SerialPool) -> None:
    tasks = tiles(serial, 3)
    expected, found = dict(serial.map(tasks)), dict(pool.map(tasks))
    assert sorted(found) == [0, 1, 2]
    for index, tile in expected.items():
        np.testing.assert_array_equal(found[index].pixels, tile.pixels)
        assert found[index].loss == tile.loss


def test_measurements_are_those_of_the_serial_pool(pool: RayPool, serial: SerialPool) -> None:
    task = measure_style(picture(5))
    expected, found = only(serial.map([task])), only(pool.map([task]))
    assert found.positions == expected.positions
    for name, gram in expected.grams.items():
        assert torch.equal(found.grams[name], gram)
    assert found.powers == expected.powers


def test_both_workers_work_and_live_on(pool: RayPool) -> None:
    first = full_crew(pool)
    assert full_crew(pool) == first
    assert os.getpid() not in first


def test_progress_carries_the_index_of_its_task(pool: RayPool) -> None:
    seen: list[tuple[int, Progress]] = []
    values = [7, 3, 5, 1]
    tasks = [Echo(value, steps=4) for value in values]
    results = dict(pool.map(tasks, lambda index, progress: seen.append((index, progress))))
    assert {index: value for index, (value, _) in results.items()} == dict(enumerate(values))
    assert all(progress.loss == values[index] for index, progress in seen)
    last = {index: progress.step for index, progress in seen}
    assert last == dict.fromkeys(range(4), 4)  # the last step is always told


def test_no_tasks_give_no_results(pool: RayPool) -> None:
    assert list(pool.map([])) == []


def test_a_single_task_can_run_in_this_process(lease: Lease) -> None:
    cluster = lease.pool._cluster
    here = RayPool(cluster, SPEC, Crew(2, 1), here=SPEC)
    seen: list[int] = []
    assert only(here.map([Echo(4)], lambda index, _: seen.append(index))) == (4, os.getpid())
    assert seen == [0]
    for slot in here._slots:
        slot.dismiss()


def remembering(pins: int, rounds: int, name: str) -> list[Pinned]:
    return [Pinned(n % pins, Remember(n % pins, picture(n), name)) for n in range(pins * rounds)]


def test_pinned_results_are_those_of_the_serial_pool_bit_for_bit(pool: RayPool, serial: SerialPool) -> None:
    """Tasks that use what earlier ones of their pin have left, in this call and the one before."""
    tasks = remembering(5, 3, "bits")
    for _ in range(2):
        expected, found = dict(serial.map_pinned(tasks)), dict(pool.map_pinned(tasks))
        assert sorted(found) == list(range(15))
        for index, means in expected.items():
            np.testing.assert_array_equal(found[index], means)
    assert len(expected[14]) == 7


def test_a_pin_keeps_its_worker_and_tasks_their_order(pool: RayPool) -> None:
    full_crew(pool)
    pins = [0, 3, 2, 1, 1, 0, 5, 4, 3, 7]
    results: dict[int, tuple[int, tuple[int, ...]]] = {}
    for call in range(2):
        results |= {
            call * 10 + index: found
            for index, found in pool.map_pinned(
                [Pinned(pin, Log(call * 10 + n, "order")) for n, pin in enumerate(pins)]
            )
        }
    workers = {pin % 2: results[index][0] for index, pin in enumerate(pins)}
    assert workers[0] != workers[1]
    for slot in (0, 1):
        mine = [call * 10 + n for call in range(2) for n, pin in enumerate(pins) if pin % 2 == slot]
        assert {results[index][0] for index in mine} == {workers[slot]}
        assert [results[index][1] for index in mine] == [tuple(mine[: n + 1]) for n in range(len(mine))]


def test_a_worker_has_two_pinned_tasks_at_most_and_one_of_others(
    pool: RayPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    send = Slot.send

    def spy(slot: Slot, job: Job) -> None:
        send(slot, job)
        loads.append(len(slot.jobs))

    monkeypatch.setattr(Slot, "send", spy)
    assert len(list(pool.map_pinned([Pinned(n, Echo(n)) for n in range(12)]))) == 12
    assert (len(loads), max(loads)) == (12, IN_FLIGHT)
    loads.clear()
    assert len(list(pool.map([Echo(n) for n in range(12)]))) == 12
    assert (len(loads), max(loads)) == (12, 1)


def test_what_a_killed_worker_had_left_is_lost_and_the_others_go_on(pool: RayPool, tmp_path: Path) -> None:
    """Order is kept, and a death counts only as a try of the task that the worker was at."""
    full_crew(pool)
    first, second = Deadly(tmp_path / "first", MAX_TRIES - 1), Deadly(tmp_path / "second", 1)
    deadly = [Log(0, "death"), first, second, *(Log(n, "death") for n in (3, 4, 5))]
    others = [Log(n, "death") for n in range(6, 11)]
    results = dict(pool.map_pinned([*(Pinned(0, task) for task in deadly), *(Pinned(1, task) for task in others)]))
    assert sorted(results) == list(range(11))
    assert [index for index in results if index < len(deadly)] == list(range(len(deadly)))
    assert (results[1], results[2]) == (MAX_TRIES, 2)
    before, after = results[0], results[5]
    assert before[0] != after[0]
    assert (before[1], after[1]) == ((0,), (3, 4, 5))
    assert len({results[n][0] for n in range(6, 11)}) == 1
    assert results[10][1] == (6, 7, 8, 9, 10)


def test_a_worker_that_dies_between_calls_is_replaced(pool: RayPool) -> None:
    full_crew(pool)
    tasks = [Pinned(n, Log(n, "between")) for n in (0, 1)]
    first = dict(pool.map_pinned(tasks))
    os.kill(first[0][0], signal.SIGKILL)
    second = dict(pool.map_pinned(tasks))
    assert second[0][1] == (0,)
    assert second[1] == (first[1][0], (1, 1))


def test_a_pinned_task_that_kills_every_worker_is_given_up(pool: RayPool, tmp_path: Path) -> None:
    """And only it: the one that waits behind it in the same worker is not blamed."""
    file = tmp_path / "deaths"
    with pytest.raises(WorkerLost, match=rf"^tile 1 lost its worker {MAX_TRIES} times: [^\n]+$"):
        list(pool.map_pinned([Pinned(0, Deadly(file, 99)), Pinned(0, Echo(1)), Pinned(0, Echo(2))]))
    assert file.stat().st_size == MAX_TRIES


def is_quiet(file: Path) -> bool:
    """Whether nothing is added to it for a while."""
    size = file.stat().st_size
    time.sleep(1)
    return file.stat().st_size == size


@pytest.mark.parametrize("pinned", [False, True])
def test_tasks_do_not_go_on_for_nobody(pool: RayPool, tmp_path: Path, pinned: bool) -> None:
    full_crew(pool)
    file = tmp_path / "ticks"
    tasks: list[Any] = [Echo(0), Ticking(file), Ticking(file), Ticking(file)]
    results = pool.map_pinned([Pinned(n % 2, task) for n, task in enumerate(tasks)]) if pinned else pool.map(tasks)
    with closing(results):  # type: ignore[type-var]  # a generator
        assert next(results)[0] == 0
        assert within(120, file.exists)
    assert within(GONE, lambda: is_quiet(file))


def test_tasks_of_one_pin_can_run_in_this_process(lease: Lease) -> None:
    """Not, however, where an actor may hold what earlier ones have left."""
    here = RayPool(lease.pool._cluster, SPEC, Crew(2, 1), here=SPEC)
    tasks = [Pinned(3, Log(n, "here")) for n in range(3)]
    for call in range(2):
        results = dict(here.map_pinned(tasks))
        assert {process for process, _ in results.values()} == {os.getpid()}
        assert results[2][1] == (0, 1, 2) * (call + 1)
    assert here.moved == 0
    for slot in lease.pool._slots:  # for there are but two cores
        slot.dismiss()
    assert len(dict(here.map_pinned([Pinned(n, Log(n, "there")) for n in range(4)]))) == 4
    assert only(here.map_pinned([Pinned(3, Log(4, "there"))]))[1] == (1, 3, 4)
    assert only(here.map([Echo(0)]))[1] == os.getpid()
    assert only(here.map_pinned([Pinned(3, Log(4, "here"))]))[1] == (0, 1, 2, 0, 1, 2, 4)
    for slot in here._slots:
        slot.dismiss()


def test_workers_that_cannot_be_built_are_an_error_in_one_line(lease: Lease) -> None:
    """And another call tries again."""
    broken = RayPool(lease.pool._cluster, WorkerSpec("cpu", "float32", 0, {}), Crew(2, 0))
    for _ in range(2):
        with pytest.raises(WorkerLost, match=r"^workers cannot start: .*set_num_threads[^\n]*$"):
            list(broken.map([Echo(0), Echo(1)]))


def test_workers_that_do_not_fit_are_an_error_in_one_line(lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "START_SECONDS", 0.3)
    large = RayPool(lease.pool._cluster, WorkerSpec("cpu", "float32", 99, {}), Crew(1, 99))
    with pytest.raises(ClusterUnavailable, match=r"^no worker could start within 0 s; free are .* needs 99 CPU[^\n]*$"):
        list(large.map_pinned([Pinned(0, Echo(0)), Pinned(1, Echo(1))]))
    large._slots[0].dismiss()


def stored() -> float:
    """Bytes in use of the object store, as its node last told."""
    total: float = ray.cluster_resources()["object_store_memory"]
    free: float = ray.available_resources()["object_store_memory"]
    return total - free


def test_a_shared_value_is_put_once_and_freed_with_its_handle(pool: RayPool) -> None:
    full_crew(pool)
    assert within(60, lambda: stored() < 1e6)
    before, megabytes = pool.moved, 24.0
    ones, twos = pool.share(np.ones(3_000_000, np.float32)), pool.share(np.full(3_000_000, 2, np.float32))
    assert ones.get().sum() == 3e6  # here already
    assert pool.moved == before
    results = dict(pool.map([Sum((ones, twos, ones))] * 6))
    assert results == dict.fromkeys(range(6), ([3e6, 6e6, 3e6], True))
    assert pool.moved - before == megabytes * 1e6
    assert within(60, lambda: megabytes * 1e6 <= stored() < 1.1 * megabytes * 1e6), stored()
    assert twos.get().sum() == 6e6
    del ones
    assert within(60, lambda: stored() < 0.6 * megabytes * 1e6)
    del twos
    assert within(60, lambda: stored() < 1e6)


def test_moved_are_the_arrays_of_tasks_and_results(pool: RayPool) -> None:
    before = pool.moved
    tasks = remembering(2, 1, "moved")
    results = dict(pool.map_pinned(tasks))
    assert pool.moved - before == 2 * picture(0).nbytes + sum(result.nbytes for result in results.values())


def test_an_error_inside_a_task_arrives_as_itself(pool: RayPool) -> None:
    with pytest.raises(Mistake, match=r"^the tile is no good$") as caught:
        list(pool.map([Failing(), Echo(1)]))
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count('raise Mistake("the tile is no good")') == 1  # where it was raised, in the worker


def test_the_pool_works_after_an_error(pool: RayPool) -> None:
    """What was running beside the failed task is not mistaken for a result of the next call."""
    with pytest.raises(Mistake):
        list(pool.map([Failing(), *(Echo(n, steps=50) for n in range(3))]))
    assert sorted(value for _, (value, _) in pool.map([Echo(n) for n in (10, 11, 12)])) == [10, 11, 12]


def test_the_pool_works_after_results_were_left_unread(pool: RayPool) -> None:
    next(pool.map([Echo(n) for n in range(6)]))
    assert dict(pool.map([Echo(20), Echo(21)])).keys() == {0, 1}


def test_a_killed_worker_is_replaced_and_its_task_run_again(
    lease: Lease, pool: RayPool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one line of ours, and none of Ray's."""
    before = full_crew(pool)
    lease.told.clear()
    capfd.readouterr()
    results = dict(pool.map([Deadly(tmp_path / "deaths", 1), *(Echo(n) for n in range(5))]))
    assert results[0] == 2  # tries
    (line,) = lease.told
    assert re.fullmatch(r"a worker was lost \(.+\); its task is done again on a new one \(try 2 of 3\)", line)
    assert [results[index][0] for index in range(1, 6)] == [0, 1, 2, 3, 4]
    assert len(full_crew(pool) - before) == 1
    assert capfd.readouterr() == ("", "")


def test_tiles_are_the_same_when_a_worker_dies(pool: RayPool, serial: SerialPool, tmp_path: Path) -> None:
    tasks = tiles(serial, 3)
    expected = dict(serial.map(tasks))
    found = dict(pool.map([*tasks, Deadly(tmp_path / "deaths", 2)]))
    for index, tile in expected.items():
        np.testing.assert_array_equal(found[index].pixels, tile.pixels)


def paint(pool: RayPool | SerialPool, watch: RunCallbacks | None = None) -> Stylised:
    """A small picture in four exact tiles, one of which each worker computes twice a step."""
    content, style = (Picture(picture(seed, 64, 80).transpose(1, 2, 0).copy()) for seed in (5, 6))
    tiling = TilingSpec(tiles="2x2", whole=0)
    return stylize(content, style, Recipe(size=80, scales=1, steps=6, layers=LAYERS, tiling=tiling), pool, watch)


def kill(process: int) -> None:
    with suppress(ProcessLookupError):  # an earlier timer's victim, not yet missed
        os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("deaths", [(), (1,), (2, 4), (1, 2, 3, 4, 5)])
def test_an_exact_run_comes_out_the_same_whenever_workers_die(
    pool: RayPool, serial: SerialPool, deaths: tuple[int, ...]
) -> None:
    """Workers are killed while a later step is being computed: with them go the graphs and the content's features."""
    expected = paint(serial)
    seen: list[int] = []

    def watch(status: RunStatus) -> None:
        seen.append(status.step)
        if status.step in deaths:
            victim = sorted(p.pid for p in psutil.Process().children(recursive=True) if "RayWorker" in p.name())[0]
            Timer(0.03 * status.step, kill, (victim,)).start()

    result = paint(pool, RunCallbacks(on_status=watch))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(result.picture.pixels, expected.picture.pixels) and result.loss == expected.loss
    full_crew(pool)


def test_a_task_that_kills_every_worker_is_given_up(pool: RayPool, tmp_path: Path) -> None:
    file = tmp_path / "deaths"
    with pytest.raises(WorkerLost, match=rf"^tile 2 lost its worker {MAX_TRIES} times: [^\n]+$"):
        list(pool.map([Echo(1), Deadly(file, 99)]))
    assert file.stat().st_size == MAX_TRIES
    assert sorted(value for _, (value, _) in pool.map([Echo(1), Echo(2)])) == [1, 2]


def test_a_worker_that_hangs_is_replaced_and_its_task_run_again(
    lease: Lease, pool: RayPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "SIGN_SECONDS", 0.5)
    monkeypatch.setattr(actors, "HUNG_SECONDS", 12.0)  # one that is only busy must not be taken for it
    full_crew(pool)
    lease.told.clear()
    results = dict(pool.map([Stopping(tmp_path / "stops"), *(Echo(n, steps=20) for n in range(5))]))
    assert results[0] == 2
    assert any(line.startswith("a worker gave no sign of life for 12 s; its task is done again") for line in lease.told)
    stopped = [child for child in children() if is_alive(child) and child.status() == psutil.STATUS_STOPPED]
    assert within(GONE, lambda: not any(is_alive(child) for child in stopped))


def test_others_go_on_without_a_task_that_kills_every_worker(pool: RayPool, tmp_path: Path) -> None:
    file = tmp_path / "deaths"
    found = dict(pool.map([Echo(1), Deadly(file, 99), *(Echo(n) for n in range(2, 7))], keep_going=True))
    assert isinstance(found[1], Failed) and found[1].reason and "\n" not in found[1].reason
    assert file.stat().st_size == MAX_TRIES
    assert [found[index][0] for index in (0, 2, 3, 4, 5, 6)] == [1, 2, 3, 4, 5, 6]
    full_crew(pool)


def test_memory_that_a_task_frees_stays_with_its_worker(pool: RayPool) -> None:
    [(_, faults)] = pool.map([Faults()])
    assert faults * resource.getpagesize() < 80 << 20, "each of the five would fault in as much"


def test_a_ray_of_our_own_has_no_process_without_work(pool: RayPool) -> None:
    """Neither autoscaler nor log monitor nor the dashboard's server: each takes a second of a core to start."""
    full_crew(pool)
    scripts = {Path(word).name for child in children() for word in child.cmdline() if word.endswith(".py")}
    assert not scripts & {"monitor.py", "log_monitor.py", "dashboard.py"}
    assert any(child.name() == "raylet" for child in children())
    assert all(getattr(Node, name).__qualname__ == f"Node.{name}" for name in ("start_monitor", "start_log_monitor"))


def test_nothing_is_left_behind(lease: Lease) -> None:
    """The last test of the pool: it closes it."""
    started = children() - lease.others
    names = {process.name() for process in started}
    assert {"raylet", "gcs_server"} <= names
    if sys.platform.startswith("linux"):  # what is sent to the program's group does not reach Ray
        groups = {os.getpgid(process.pid) for process in started if process.name() in ("raylet", "gcs_server")}
        assert os.getpgrp() not in groups and len(groups) == 2
    lease.pool.close()
    assert within(GONE, lambda: not any(is_alive(process) for process in started)), names
    assert not (lease.home / ".ray").exists()
    assert {key: os.environ.get(key) for key in OURS} == lease.environment
    assert shared_memory() <= lease.memory
    assert list(lease.place.iterdir()) == []
    assert CLUSTERS == []
    lease.pool.close()  # twice does no harm


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_closing_does_not_wait_for_the_start_and_another_can_follow() -> None:
    cluster = RayCluster(None, 1)
    RayPool(cluster, SPEC, Crew(1, 1)).close()
    assert cluster.starting
    began = time.monotonic()
    again = RayPool(RayCluster(None, 1), SPEC, Crew(1, 1))
    assert again.muster(1) == 1
    assert 0 < again.waited <= time.monotonic() - began
    assert only(again.map([Echo(6)]))[0] == 6
    again.close()
    assert CLUSTERS == []


def test_a_start_that_failed_is_tried_again_and_few_workers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two workers only one has a core: it gets the tasks of both."""
    get_node, others = ray._private.services.get_node, children()
    answers = iter([RayStarvedError("the node timed out")])

    def first_fails(*args: Any) -> Any:
        if (error := next(answers, None)) is not None:
            raise error
        return get_node(*args)

    monkeypatch.setattr(ray._private.services, "get_node", first_fails)
    monkeypatch.setattr(actors, "REPLACE_SECONDS", 0.2)
    pool = RayPool(RayCluster(None, 1, store=1), SPEC, Crew(2, 1))
    results = dict(pool.map_pinned([Pinned(n, Log(n, "few")) for n in range(5)]))
    assert len({process for process, _ in results.values()}) == 1
    assert {index: seen[-1] for index, (_, seen) in results.items()} == {n: n for n in range(5)}
    assert pool.size == 2
    assert ray.cluster_resources()["object_store_memory"] == LEAST_OBJECT_STORE
    started = [process for process in children() - others if is_alive(process)]
    names = Counter(process.name() for process in started)
    assert (names["raylet"], names["gcs_server"]) == (1, 1)
    pool.close()
    assert within(GONE, lambda: not any(is_alive(process) for process in started)), names
    del pool
    gc.collect()  # here, where warnings of what Ray leaves unclosed are expected


THREADS_LEFT = """
from collections import Counter
from pathlib import Path
from parallel_nst.workers.ray.cluster import RayCluster

for _ in range(3):
    cluster = RayCluster(None, 1)
    cluster.wait()
    cluster.close()
    names = Counter(file.read_text() for file in Path("/proc/self/task").glob("*/comm"))
    print(names[Path("/proc/self/comm").read_text()])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_thread_that_reports_figures_is_left_to_crash_at_the_programs_end() -> None:
    """Ray names its threads, but for those that report, of which each start leaves one more."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    ended = subprocess.run([sys.executable, "-c", THREADS_LEFT], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    first, *later = map(int, ended.stdout.split())
    assert len(later) == 2 and max(later) <= first


@pytest.mark.slow
def test_threads_and_niceness_are_ours_whatever_ray_was_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray up` sets one thread for all, and Ray passes that on."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with RayPool(RayCluster(None, 2), replace(SPEC, threads=2), Crew(1, 2)) as pool:
        assert only(pool.map([Surroundings()])) == (2, os.nice(0), "1")


@pytest.mark.slow
def test_a_worker_that_is_killed_for_its_memory_is_said_to_be_and_its_task_run_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By Ray, which looks at the memory that all of the machine's programs take."""
    memory, told = psutil.virtual_memory(), list[str]()
    most = (memory.total - memory.available + (3 << 30)) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{most:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")
    with RayPool(RayCluster(None, 1), SPEC, Crew(1, 1), notify=told.append) as pool:
        assert only(pool.map([Hungry(tmp_path / "tries", 5 << 30)])) == 2
    (line,) = told
    assert line.startswith("a worker was stopped by Ray: the memory of a worker's machine does not suffice; its task")


class RayStarvedError(Exception):
    """In place of Ray's own, which is a bare Exception too."""


def test_a_start_that_fails_again_is_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def fail(**options: Any) -> None:
        tries.append(options["num_cpus"])
        raise RayStarvedError("the node timed out\nand more")

    monkeypatch.setattr(ray_cluster.ray, "init", fail)
    cluster = RayCluster(None, 1)
    with pytest.raises(
        ClusterUnavailable, match=r"^Ray could not start here: the node timed out; --workers 1 needs no Ray$"
    ):
        cluster.wait()
    assert len(tries) == START_TRIES
    cluster.close()
    assert CLUSTERS == []


@dataclass(frozen=True)
class Parcel:
    """Something with arrays at several depths."""

    pixels: np.ndarray
    grams: dict[str, torch.Tensor]
    more: tuple[Any, ...] = ()


def test_payload_counts_arrays_wherever_they_are() -> None:
    pixels, gram = np.zeros((3, 4, 5), np.float32), torch.zeros(6, 6, dtype=torch.float64)
    assert payload(pixels) == 240
    assert payload(pixels[:, ::2]) == 120
    assert (
        payload(Parcel(pixels, {"a": gram, "b": gram[0]}, ([pixels], Here(gram), "name", 7))) == 240 * 2 + 288 * 2 + 48
    )
    assert payload(RayShared(pixels, print)) == 0  # counted where it is put
    assert payload(Parcel) == 0
    assert payload([1, "pixels", None]) == 0


@pytest.mark.parametrize(
    ("pins", "one"), [([], False), ([None], True), ([None, None], False), ([4], True), ([4, 4], True), ([4, 6], False)]
)
def test_what_is_for_one_worker(pins: list[int | None], one: bool) -> None:
    assert in_one_place([Job(index, Echo(0), pin) for index, pin in enumerate(pins)]) is one


class Noting:
    """In place of an actor's handle: notes what it is given."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.ready = SimpleNamespace(remote=object)
        self.run = SimpleNamespace(remote=self.take)

    def take(self, task: Echo) -> object:
        self.values.append(task.value)
        return object()


def test_jobs_go_to_their_slots_in_order_and_to_others_when_one_is_given_up() -> None:
    """Every actor finishes its oldest job in each round."""
    slots, actors_there = [Slot() for _ in range(3)], [Noting() for _ in range(3)]
    for slot, actor in zip(slots, actors_there, strict=True):
        slot.fill(actor)
    slots[0].starting = slots[2].starting = None  # they are up
    jobs = [Job(n, Echo(n), pin) for n, pin in enumerate([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 1, 1])]
    given: defaultdict[int, list[int]] = defaultdict(list)
    for rounds in range(20):
        before = len(jobs)
        sent, jobs = hand_out(slots, jobs, IN_FLIGHT, len(slots))
        assert len(sent) + len(jobs) == before
        assert all(len(slot.jobs) <= IN_FLIGHT for slot in slots)
        if rounds == 10:  # its own slots have run dry, slot 1 is still starting: its jobs wait
            assert [job.index for job in jobs] == [1, 4, 7, 10, 12, 13, 14]
            slots[1].since -= actors.REPLACE_SECONDS
        for slot in slots:
            for stream in list(slot.jobs)[:1]:
                job = slot.jobs.pop(stream)
                assert job.pin is not None
                given[job.pin % 3].append(1)
    assert jobs == []
    assert [len(given[home]) for home in range(3)] == [5, 7, 3]
    assert [actor.values for actor in actors_there] == [[0, 3, 6, 9, 11, 1, 7, 12, 13, 14], [], [2, 5, 8, 4, 10]]


@pytest.mark.parametrize(
    "address", ["", "localhost", "ray://localhost:10001", "10.0.0.1:", ":6379", "a:b", "http://x:1"]
)
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match=rf"^address is '{address}'; give auto or host:port") as caught:
        check_address(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("port", ["1", "99999"])
def test_an_address_where_nothing_answers_is_refused(port: str) -> None:
    with pytest.raises(ClusterUnavailable, match=rf"^no Ray answers at 127.0.0.1:{port} .*ray start --head") as caught:
        RayCluster(f"127.0.0.1:{port}", 0)
    assert "\n" not in str(caught.value)
    assert CLUSTERS == []


def test_an_address_that_answers_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")
    check_address("auto")
