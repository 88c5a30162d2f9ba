"""The worker and what is left with it, the serial pool, and how many workers a run gets."""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tiny_networks import tiny_state

from parallel_nst.workers.crew import Crew, plan_crew
from parallel_nst.workers.pool import Pinned, SerialPool, only
from parallel_nst.workers.worker import Progress, Worker, WorkerSpec

SPEC = WorkerSpec(device="cpu", dtype="float32", threads=1, weights={"embedded": tiny_state()})


@dataclass(frozen=True)
class Count:
    """Counts the tasks of its run that its worker has met -> (name, so many)."""

    name: str
    run_name: str = "run"
    steps: int = 1

    def run(self, worker: Worker) -> Generator[Progress, None, tuple[str, int]]:
        for step in range(1, self.steps + 1):
            yield Progress(step, self.steps, 0.0)
        left = worker.left_by(self.run_name)
        left["met"] = left.get("met", 0) + 1
        return self.name, left["met"]


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


def test_results_come_with_their_index_and_progress_with_their_steps():
    seen = []
    tasks = [Count("a", steps=2), Count("b", steps=3)]
    results = list(SerialPool(SPEC).map(tasks, lambda index, event: seen.append((index, event.step))))
    assert [(index, name) for index, (name, _) in results] == [(0, "a"), (1, "b")]
    assert seen == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]


def test_pinned_tasks_meet_the_worker_that_met_those_before():
    pool, seen = SerialPool(SPEC), []
    for expected in (1, 2):
        results = dict(pool.map_pinned([Pinned(7, Count("a")), Pinned(3, Count("b"))], lambda i, _: seen.append(i)))
        assert results == {0: ("a", 2 * expected - 1), 1: ("b", 2 * expected)}
    assert seen == [0, 1, 0, 1]


def test_what_a_run_has_left_is_dropped_when_another_begins():
    worker = Worker(SPEC)
    worker.left_by("first")["graph"] = 1
    assert worker.left_by("first") == {"graph": 1}
    assert worker.left_by("second") == {}
    assert worker.left_by("first") == {}


def test_a_shared_value_of_one_process_is_the_value_itself():
    value = np.zeros(3)
    assert SerialPool(SPEC).share(value).get() is value


def test_a_pool_of_one_says_so():
    pool = SerialPool(SPEC)
    assert (pool.size, pool.spec, pool.moved, pool.waited) == (1, SPEC, 0, 0)


def test_only_takes_one_result():
    assert only(iter([(0, "x")])) == "x"
    with pytest.raises(ValueError):
        only(iter([(0, "x"), (1, "y")]))


def test_a_worker_builds_a_backbone_once():
    worker = Worker(SPEC)
    assert worker.backbone("embedded") is worker.backbone("embedded")


@pytest.mark.parametrize(
    ("name", "image", "weights"),
    [
        ("float32", torch.float32, torch.float32),
        ("bfloat16", torch.float32, torch.float32),
        ("float64", torch.float64, torch.float64),
    ],
)
def test_images_and_weights_are_in_the_workers_precision(name, image, weights):
    worker = Worker(WorkerSpec("cpu", name, 1, SPEC.weights))
    pixels = np.random.default_rng(0).random((3, 4, 5))
    assert worker.image(pixels).dtype == image
    assert worker.image(pixels).shape == (1, 3, 4, 5)
    assert next(worker.backbone("embedded").parameters()).dtype == weights


def test_an_image_is_a_copy_and_may_come_from_what_cannot_be_written():
    pixels = np.zeros((4, 5, 3), np.float32)
    pixels.setflags(write=False)
    image = Worker(SPEC).image(pixels.transpose(2, 0, 1))
    image += 1
    assert image.is_contiguous() and pixels.max() == 0
