"""The pool of Ray actors: the results of the pool of one, whatever happens to the workers, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray.cloudpickle
import torch
from networks import LAYERS, tiny_state

from parallel_nst.cluster.ray_pool import CLUSTERS, MAX_TRIES, RayCluster, RayPool, check_address
from parallel_nst.gatys import Progress
from parallel_nst.recipe import Recipe
from parallel_nst.workers import (
    MeasureGrams,
    MeasureStyle,
    OptimiseTile,
    SerialPool,
    Task,
    Worker,
    WorkerSpec,
    only,
)

# Ray neither waits for the processes that it kills nor closes its log files.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
STEPS = 3
SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})
RECIPE = Recipe(steps=STEPS)


def picture(seed: int, height: int = 32, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).random((3, height, width), np.float32)


@dataclass
class Lease:
    """A pool, and how the world looked before it was opened."""

    pool: RayPool
    home: Path
    environment: dict[str, str | None]


@pytest.fixture(scope="module")
def lease(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lease]:
    """A local pool of two workers of one thread each, whose single tasks go to an actor too."""
    home = tmp_path_factory.mktemp("home")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        before = {key: os.environ.get(key) for key in AUTH}
        pool = RayPool(RayCluster(None, 2), SPEC, 2)
        yield Lease(pool, home, before)
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


def process_ids(pool: RayPool) -> set[int]:
    """Of the workers that are up."""
    return {pid for _, (_, pid) in pool.map([Echo(n) for n in range(20)])}


def full_crew(pool: RayPool) -> set[int]:
    """Process ids once both workers are up."""
    assert within(120, lambda: len(process_ids(pool)) == 2)
    return process_ids(pool)


def tiles(serial: SerialPool, count: int) -> list[Task]:
    style = only(serial.map([MeasureStyle(picture(0), "embedded", LAYERS)]))
    pictures = [picture(1 + n, 32 + 8 * n) for n in range(count)]
    return [OptimiseTile(p, p, style, LAYERS, RECIPE, STEPS) for p in pictures]


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


@pytest.mark.parametrize("kind", [MeasureStyle, MeasureGrams])
def test_measurements_are_those_of_the_serial_pool(pool: RayPool, serial: SerialPool, kind: Any) -> None:
    task = kind(picture(5), "embedded", LAYERS)
    expected, found = only(serial.map([task])), only(pool.map([task]))
    if kind is MeasureStyle:
        assert (found.norms, found.powers) == (expected.norms, expected.powers)
        expected, found = expected.grams, found.grams
    assert all(torch.equal(found[name], gram) for name, gram in expected.items())


def test_both_workers_work_and_live_on(pool: RayPool) -> None:
    first = full_crew(pool)
    assert process_ids(pool) == first
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
    here = RayPool(cluster, SPEC, 2, here=SPEC)
    seen: list[int] = []
    assert only(here.map([Echo(4)], lambda index, _: seen.append(index))) == (4, os.getpid())
    assert seen == [0]


def test_an_error_inside_a_task_arrives_as_itself(pool: RayPool) -> None:
    with pytest.raises(Mistake, match=r"^the tile is no good$"):
        list(pool.map([Failing(), Echo(1)]))


def test_the_pool_works_after_an_error(pool: RayPool) -> None:
    """What was running beside the failed task is not mistaken for a result of the next call."""
    with pytest.raises(Mistake):
        list(pool.map([Failing(), *(Echo(n, steps=50) for n in range(3))]))
    assert sorted(value for _, (value, _) in pool.map([Echo(n) for n in (10, 11, 12)])) == [10, 11, 12]


def test_the_pool_works_after_results_were_left_unread(pool: RayPool) -> None:
    next(pool.map([Echo(n) for n in range(6)]))
    assert dict(pool.map([Echo(20), Echo(21)])).keys() == {0, 1}


def test_a_killed_worker_is_replaced_and_its_task_run_again(pool: RayPool, tmp_path: Path) -> None:
    before = full_crew(pool)
    results = dict(pool.map([Deadly(tmp_path / "deaths", 1), *(Echo(n) for n in range(5))]))
    assert results[0] == 2  # tries
    assert [results[index][0] for index in range(1, 6)] == [0, 1, 2, 3, 4]
    assert len(full_crew(pool) - before) == 1


def test_tiles_are_the_same_when_a_worker_dies(pool: RayPool, serial: SerialPool, tmp_path: Path) -> None:
    tasks = tiles(serial, 3)
    expected = dict(serial.map(tasks))
    found = dict(pool.map([*tasks, Deadly(tmp_path / "deaths", 2)]))
    for index, tile in expected.items():
        np.testing.assert_array_equal(found[index].pixels, tile.pixels)


def test_a_task_that_kills_every_worker_is_given_up(pool: RayPool, tmp_path: Path) -> None:
    file = tmp_path / "deaths"
    with pytest.raises(RuntimeError, match=rf"^tile 2 lost its worker {MAX_TRIES} times: [^\n]+$"):
        list(pool.map([Echo(1), Deadly(file, 99)]))
    assert file.stat().st_size == MAX_TRIES
    assert sorted(value for _, (value, _) in pool.map([Echo(1), Echo(2)])) == [1, 2]


def test_nothing_is_left_behind(lease: Lease) -> None:
    """The last test of the pool: it closes it."""
    started = psutil.Process().children(recursive=True)
    names = {process.name() for process in started}
    assert {"raylet", "gcs_server"} <= names
    lease.pool.close()
    assert within(10, lambda: not any(is_alive(process) for process in started)), names
    assert not (lease.home / ".ray").exists()
    assert {key: os.environ.get(key) for key in AUTH} == lease.environment
    assert CLUSTERS == []
    lease.pool.close()  # twice does no harm


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_closing_does_not_wait_for_the_start_and_another_can_follow() -> None:
    began = time.monotonic()
    RayPool(RayCluster(None, 1), SPEC, 1).close()
    assert time.monotonic() - began < 0.5
    again = RayPool(RayCluster(None, 1), SPEC, 1)
    assert only(again.map([Echo(6)]))[0] == 6
    again.close()
    assert CLUSTERS == []


@pytest.mark.parametrize(
    "address", ["", "localhost", "ray://localhost:10001", "10.0.0.1:", ":6379", "a:b", "http://x:1"]
)
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=rf"^address is '{address}'; give auto or host:port") as caught:
        check_address(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("port", ["1", "99999"])
def test_an_address_where_nothing_answers_is_refused(port: str) -> None:
    with pytest.raises(ValueError, match=rf"^no Ray answers at 127.0.0.1:{port} .*ray start --head") as caught:
        RayCluster(f"127.0.0.1:{port}", 0)
    assert "\n" not in str(caught.value)
    assert CLUSTERS == []


def test_an_address_that_answers_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")
    check_address("auto")
