"""The pool of threads: the results of the pool of one, in any order, and no thread left behind."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tiny_networks import LAYERS, tiny_state

from parallel_nst.files.images import Picture
from parallel_nst.painting.stylize import stylize
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.opening import open_pool
from parallel_nst.workers.pool import Pinned, SerialPool
from parallel_nst.workers.threads import ThreadPool
from parallel_nst.workers.worker import Progress, WorkerSpec

SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})


@dataclass(frozen=True)
class Echo:
    """Reports `steps` steps, leaves its value for the next task of its worker, returns what it found and its thread."""

    value: int
    steps: int = 1

    def run(self, worker):
        left = worker.left_by("echo")
        for step in range(1, self.steps + 1):
            yield Progress(step, self.steps, float(self.value))
        found = left.get("value")
        left["value"] = self.value
        return found, threading.current_thread().name


@dataclass(frozen=True)
class Failing:
    def run(self, worker):
        raise ValueError("no such luck")
        yield


@dataclass(frozen=True)
class Meeting:
    """Ends only when all have come: the tasks must run side by side."""

    barrier: threading.Barrier

    def run(self, worker):
        self.barrier.wait(60)
        return threading.get_ident()
        yield


@pytest.fixture
def pool():
    pool = ThreadPool(SPEC, Crew(2, 1), 2)
    yield pool
    pool.close()
    torch.set_num_threads(1)


def picture(seed, height=60, width=72):
    return Picture(np.random.default_rng(seed).random((height, width, 3), np.float32))


@pytest.mark.parametrize(
    "tiling",
    [
        TilingSpec(tiles="2x3", whole=0),
        TilingSpec("independent", tiles="2x2", whole=0, overlap=8),
        TilingSpec("independent", tiles="2x2", whole=0, overlap=8, sync_every=2),
    ],
    ids=["exact", "independent", "synchronised"],
)
def test_pictures_are_those_of_the_serial_pool(tiling):
    pool = ThreadPool(SPEC, Crew(2, 1), 1)  # one thread for single tasks too: with two, sums round differently
    recipe = Recipe(size=72, scales=2, steps=4, layers=LAYERS, tiling=tiling)
    expected = stylize(picture(0), picture(1), recipe, SerialPool(SPEC))
    result = stylize(picture(0), picture(1), recipe, pool)
    pool.close()
    # Tiles are blended in the order in which they come, and the steps after an exchange enlarge that rounding.
    np.testing.assert_allclose(result.picture.pixels, expected.picture.pixels, atol=1e-3)
    assert result.loss == pytest.approx(expected.loss, rel=1e-3)
    if tiling.mode == "exact":  # added in the order of tiles, whichever thread is first
        assert np.array_equal(result.picture.pixels, expected.picture.pixels)


def test_tasks_run_side_by_side_in_threads_of_their_own(pool):
    barrier = threading.Barrier(2)
    threads = {thread for _, thread in pool.map([Meeting(barrier), Meeting(barrier)])}
    assert len(threads) == 2 and threading.get_ident() not in threads


def test_a_pin_always_meets_the_same_worker_in_the_order_given(pool):
    results = dict(pool.map_pinned([Pinned(n, Echo(n)) for n in range(6)]))
    assert [results[n][0] for n in range(6)] == [None, None, 0, 1, 2, 3]
    for pin in range(2):
        assert len({results[n][1] for n in range(pin, 6, 2)}) == 1


def test_progress_is_told_in_this_thread(pool):
    seen = []
    list(pool.map([Echo(n, 3) for n in range(4)], lambda i, p: seen.append((i, p.step, threading.get_ident()))))
    assert sorted(seen) == [(i, step, threading.get_ident()) for i in range(4) for step in (1, 2, 3)]


def test_a_single_task_runs_here_with_all_cores(pool):
    assert [result for _, result in pool.map([Echo(7)])] == [(None, threading.current_thread().name)]
    assert torch.get_num_threads() == 2


def test_an_error_is_raised_as_it_is_and_the_pool_goes_on(pool):
    with pytest.raises(ValueError, match="no such luck"):
        list(pool.map([Echo(1), Failing(), Echo(2)]))
    assert len(dict(pool.map([Echo(n) for n in range(4)]))) == 4


def test_the_pool_works_after_results_were_left_unread(pool):
    next(pool.map([Echo(n, 5) for n in range(8)]))
    assert len(dict(pool.map([Echo(n) for n in range(4)]))) == 4


def test_no_thread_is_left_behind():
    pool = ThreadPool(SPEC, Crew(3, 1), 3)
    list(pool.map([Echo(n) for n in range(6)]))
    pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pnst-")]
    torch.set_num_threads(1)


def test_it_is_opened_where_it_is_asked_for_and_not_for_a_cluster():
    recipe, weights = Recipe(device="cpu", tiling=TilingSpec(tiles="4")), tiny_state()
    with pytest.raises(ValueError, match=r"^--in-process and --address exclude each other"):
        open_pool(recipe, address="auto", weights=weights, in_process=True)
    with open_pool(recipe, workers=1, weights=weights, in_process=True) as pool:
        assert isinstance(pool, SerialPool) and pool.crew.workers == 1
    torch.set_num_threads(1)


def test_who_does_a_single_task_has_the_threads_of_all():
    with ThreadPool(SPEC, Crew(2, 3), 6) as pool:
        assert pool.threads_alone == 2
    assert SerialPool(SPEC).threads_alone == 1
