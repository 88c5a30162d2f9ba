"""Tasks, the serial pool, and how many workers a run gets."""

import pickle

import numpy as np
import pytest
import torch
from networks import LAYERS, tiny_state

from parallel_nst.recipe import Recipe
from parallel_nst.workers import (
    Crew,
    MeasureGrams,
    MeasureStyle,
    OptimiseTile,
    SerialPool,
    Worker,
    WorkerSpec,
    only,
    plan_crew,
)

SPEC = WorkerSpec(device="cpu", dtype="float32", threads=1, weights={"embedded": tiny_state()})


def picture(seed, height=24, width=20):
    return np.random.default_rng(seed).random((3, height, width), np.float32)


def tile_task(steps=3):
    style = only(SerialPool(SPEC).map([MeasureStyle(picture(1), "embedded", LAYERS)]))
    return OptimiseTile(picture(2), picture(2), style, LAYERS, Recipe(), steps)


@pytest.mark.parametrize(
    ("asked", "tasks", "slots", "crew"),
    [
        (2, 4, [2], Crew(2, 1, None)),
        (8, 4, [2], Crew(2, 1, "using 2 of 8 workers: there are 2 cores")),
        (8, 4, [16], Crew(4, 4, "using 4 of 8 workers: there are 4 tiles")),
        (8, 1, [16], Crew(1, 16, "using 1 of 8 workers: there is 1 tile")),
        (2, 1, [1], Crew(1, 1, "using 1 of 2 workers: there is 1 tile")),
        (3, 9, [4, 4], Crew(3, 2, None)),
        (2, 9, [3, 5], Crew(2, 3, None)),
    ],
)
def test_crews(asked, tasks, slots, crew):
    assert plan_crew(asked, tasks, slots) == crew


@pytest.mark.parametrize("slots", [[1], [2], [3, 5], [1, 1, 9], [64]])
def test_a_crew_always_fits(slots):
    for asked in (1, 2, 3, 7, 100):
        for tasks in (1, 2, 5, 50):
            crew = plan_crew(asked, tasks, slots)
            assert crew.workers * crew.threads <= sum(slots)
            assert sum(slot // crew.threads for slot in slots) >= crew.workers


def test_tasks_travel():
    task = tile_task()
    assert pickle.loads(pickle.dumps(task)).recipe == task.recipe


def test_a_task_gives_the_same_result_on_any_worker():
    task = tile_task()
    first, second = (only(SerialPool(SPEC).map([task])) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels) and first.loss == second.loss
    assert first.pixels.shape == task.start.shape and first.pixels.dtype == np.float32


def test_read_only_arrays_do():
    task = tile_task()
    task.start.setflags(write=False)
    only(SerialPool(SPEC).map([task]))


def test_results_come_with_their_index_and_progress_with_their_steps():
    seen = []
    pool = SerialPool(SPEC)
    results = dict(pool.map([tile_task(2), tile_task(3)], lambda index, event: seen.append((index, event.step))))
    assert sorted(results) == [0, 1]
    assert seen == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]


def test_measured_grams_are_the_style_targets():
    pool = SerialPool(SPEC)
    style = only(pool.map([MeasureStyle(picture(1), "embedded", LAYERS)]))
    grams = only(pool.map([MeasureGrams(picture(1), "embedded", LAYERS)]))
    assert all(torch.equal(grams[name], style.grams[name]) for name in LAYERS.style)


def test_a_worker_builds_a_backbone_once():
    worker = Worker(SPEC)
    assert worker.backbone("embedded") is worker.backbone("embedded")


def test_bfloat16_comes_near_float32():
    task = tile_task(5)
    half = WorkerSpec("cpu", "bfloat16", 1, SPEC.weights)
    exact, near = only(SerialPool(SPEC).map([task])), only(SerialPool(half).map([task]))
    assert near.loss == pytest.approx(exact.loss, rel=0.1)
