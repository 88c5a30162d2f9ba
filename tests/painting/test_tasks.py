"""Tasks: the same result on any worker, before and after travelling, and whatever earlier tasks have left."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import LAYERS, tiny_resolved, tiny_state

from parallel_nst.painting.independent.targets import MeasureGrams
from parallel_nst.painting.independent.tasks import OptimiseTile, PackState, Round
from parallel_nst.painting.style_targets import MeasureStyle
from parallel_nst.painting.tiles.geometry import whole_tile
from parallel_nst.recipe import Recipe
from parallel_nst.workers.pool import SerialPool, only, run_here
from parallel_nst.workers.worker import Worker, WorkerSpec

SPEC = WorkerSpec(device="cpu", dtype="float32", threads=1, weights={"embedded": tiny_state()})
RESOLVED = tiny_resolved(Recipe(tv_weight=0.1))


def picture(seed, height=24, width=20):
    return np.random.default_rng(seed).random((3, height, width), np.float32)


def measure_style(pixels, spec=SPEC):
    size = pixels.shape[1:]
    return only(SerialPool(spec).map([MeasureStyle(pixels, whole_tile(*size), RESOLVED)])).targets


def run(task, worker=None):
    return run_here(worker or Worker(SPEC), 0, task, None)


def tile_task(steps=3, optimizer="lbfgs", **part):
    """part: of the round, if there is one."""
    resolved = tiny_resolved(Recipe(optimizer=optimizer))
    round_ = Round(**part) if part else None
    return OptimiseTile(picture(2), picture(2), measure_style(picture(1)), resolved, whole_tile(24, 20), steps, round_)


def left(worker, index=0, series="one"):
    """What is left of a tile's optimiser there, packed."""
    return run(PackState(series, index), worker)


def grams_of(pixels):
    size = pixels.shape[1:]
    return run(MeasureGrams(pixels, whole_tile(*size), RESOLVED))


# Measures and whole optimisations


def test_tasks_travel():
    task = tile_task(steps=1)
    there = pickle.loads(pickle.dumps(task))
    assert there.resolved == task.resolved
    assert np.array_equal(run(there).pixels, run(task).pixels)


def test_a_task_gives_the_same_result_on_any_worker():
    task = tile_task()
    first, second = (run(task) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels) and first.loss == second.loss
    assert first.pixels.shape == task.start.shape and first.pixels.dtype == np.float32


def test_read_only_arrays_do():
    task = tile_task()
    task.start.setflags(write=False), task.content.setflags(write=False)
    run(task)


def test_progress_counts_the_steps_of_the_whole_optimisation():
    seen = []
    run_here(
        Worker(SPEC), 5, tile_task(7, series="", done=2, until=4), lambda index, event: seen.append((index, event))
    )
    assert [(index, event.step, event.steps) for index, event in seen] == [(5, 3, 7), (5, 4, 7)]


def test_measured_grams_are_the_style_targets():
    style = measure_style(picture(1))
    grams = grams_of(picture(1))
    for name in LAYERS.style:
        torch.testing.assert_close(grams[name], style.grams[name].float(), rtol=1e-6, atol=1e-7)


def test_bfloat16_comes_near_float32():
    task = tile_task(5)
    exact, near = run(task), run(task, Worker(WorkerSpec("cpu", "bfloat16", 1, SPEC.weights)))
    assert near.loss == pytest.approx(exact.loss, rel=0.1)


def test_without_a_series_nothing_is_left_and_nothing_is_measured():
    worker = Worker(SPEC)
    result = run(tile_task(), worker)
    assert worker.left_by("") == {} and result.grams == {} and left(worker, series="") is None


# A tile in several goes


def after(task, pixels, **part):
    """The same tile's next round, from these pixels."""
    return replace(task, start=pixels, round=replace(task.round, **part))


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_state_that_travels_is_as_good_as_one_that_stays(optimizer):
    task = tile_task(9, optimizer, series="one", done=0, until=3)
    stays = Worker(SPEC)
    first = run(task, stays)
    state = pickle.dumps(left(stays))
    rest = after(task, first.pixels, done=3, until=9)
    there = run(after(rest, first.pixels, state=pickle.loads(state)))
    here, fresh = run(rest, stays), run(rest)
    assert np.array_equal(here.pixels, there.pixels) and here.loss == there.loss
    assert not np.array_equal(here.pixels, fresh.pixels)
    assert left(stays) is None  # after the last round nobody needs it


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_task_can_be_run_again_though_its_optimiser_works_in_place(optimizer):
    """Neither the state that it was given nor the one that was packed is changed by what comes later."""
    task = tile_task(9, optimizer, series="one", done=0, until=3)
    worker = Worker(SPEC)
    first = run(task, worker)
    packed = left(worker)
    given = pickle.dumps(packed)
    rest = after(task, first.pixels, done=3, until=9, state=packed)
    results = [run(rest, each) for each in (worker, Worker(SPEC), Worker(SPEC))]
    assert pickle.dumps(packed) == given
    assert np.array_equal(results[0].pixels, results[1].pixels) and np.array_equal(results[1].pixels, results[2].pixels)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_states_leave_a_device_for_the_cpu_and_come_back_to_it(optimizer, monkeypatch):
    """What is packed lies on the CPU whatever the worker's device; what is given goes to the image's device."""
    sent, moved = [], torch.Tensor.to

    def to(tensor, *args, **more):
        sent.append(args[0])
        return moved(tensor, *args, **more)

    task, worker = tile_task(9, optimizer, series="one", done=0, until=3), Worker(SPEC)
    first = run(task, worker)
    monkeypatch.setattr(torch.Tensor, "to", to)
    packed = left(worker)
    assert sent == ["cpu"] * len(packed) and all(value.device.type == "cpu" for value in packed.values())
    sent.clear()
    again = after(task, first.pixels, done=3, until=6, state=packed)
    again.first_state(again.round, {}, None, torch.zeros(1))
    assert sent == [torch.device("cpu")] * len(packed)
    meta = torch.zeros(1, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError)):  # a device without numbers: it was sent there
        again.first_state(again.round, {}, None, meta)
    assert sent[-1] == torch.device("meta")


def test_a_state_belongs_to_its_tile_and_its_series():
    worker, task = Worker(SPEC), tile_task(9, series="one", done=0, until=3)
    first = run(task, worker)
    rest = after(task, first.pixels, done=3, until=9)
    fresh = run(rest)
    assert left(worker, index=1) is None
    assert np.array_equal(run(replace(rest, tile=replace(rest.tile, index=1)), worker).pixels, fresh.pixels)
    run(task, worker)
    assert np.array_equal(run(after(rest, first.pixels, series="two"), worker).pixels, fresh.pixels)
    run(task, worker)
    assert not np.array_equal(run(rest, worker).pixels, fresh.pixels)


def test_the_grams_of_a_series_are_those_of_its_pixels():
    result = run(tile_task(4, series="one", done=0, until=2))
    for name, gram in grams_of(result.pixels).items():
        torch.testing.assert_close(result.grams[name], gram, rtol=1e-5, atol=1e-6)
