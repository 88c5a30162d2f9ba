"""Ranks in processes of Ray: the picture of one process to the bit, whatever becomes of the workers."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
import pytest
import ray.cloudpickle
import torch
from clusters import until
from ray._private import internal_api
from tiny_networks import LAYERS, tiny_backbone, tiny_resolved, tiny_state

from parallel_nst.errors import ClusterUnavailable, OutOfMemory, WorkerLost
from parallel_nst.painting.exact import attempts
from parallel_nst.painting.exact import mode as exact
from parallel_nst.painting.exact.mode import Exact
from parallel_nst.painting.mode import Due
from parallel_nst.painting.planning import cuts
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import Framed, Scale
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.style_targets import measured_style
from parallel_nst.painting.tiles.geometry import plan_tiles
from parallel_nst.recipe import Recipe
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import Handed, HandedLost, RanksLost, SerialPool
from parallel_nst.workers.ranks.meeting import Unreachable
from parallel_nst.workers.ray import actors, rank_run
from parallel_nst.workers.ray.cluster import RayCluster
from parallel_nst.workers.ray.pool import RayPool
from parallel_nst.workers.worker import WorkerSpec

# Ray neither waits for the processes that it kills nor closes its log files.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})
STEPS = 25


@pytest.fixture(scope="module")
def pool():
    notes = []
    with RayPool(RayCluster(None, 2), SPEC, Crew(2, 1, None), notify=notes.append) as opened:
        opened.notes = notes
        yield opened


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(actors, "SIGN_SECONDS", 1.0)
    monkeypatch.setattr(actors, "HUNG_SECONDS", 15.0)


def painted(pool, on_step=lambda step: None, due=None, seen=None, size=(40, 50), budget=None):
    rng = np.random.default_rng(0)
    content, style = (Framed(rng.random((*size, 3), np.float32)) for _ in range(2))
    resolved = tiny_resolved(Recipe())
    layer = resolved.deepest
    tiles = plan_tiles(*content.size, (2, 3), halo=layer.margin, align=layer.stride)
    targets = measured_style(style, resolved, SerialPool(SPEC))
    mode = Exact(Scale(content, targets, STEPS, tiles), resolved, pool, budget)
    (*states, end) = mode.states(mode.start(content.whole), lambda _, progress: on_step(progress.step), due or Due())
    if seen is not None:
        seen += [*states, end]
    return mode.result(end)


@pytest.fixture(scope="module")
def expected():
    torch.set_num_threads(1)
    return painted(SerialPool(SPEC))


def workers():
    """Processes of the ranks."""
    children = psutil.Process().children(recursive=True)
    return [process for process in children if "RayWorker" in " ".join(process.cmdline())]


def same(result, expected):
    return np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


def test_processes_paint_the_picture_of_one_and_say_what_is_due(pool, expected):
    seen, due = [], Due(previews=frozenset({7, STEPS}), snapshots=frozenset({4}))
    assert same(painted(pool, due=due, seen=seen), expected)
    assert [state.step for state in seen] == list(range(1, STEPS + 1))
    assert seen[6].preview().shape == seen[-1].preview().shape == (40, 50, 3)
    assert seen[3].snapshot(0).step == 4


FIRST, SECOND, BOTH = slice(0, 1), slice(1, 2), slice(0, 2)
KILLS = [(1, FIRST), (15, SECOND), (STEPS, BOTH)]
MORE_KILLS = [(1, SECOND), (1, BOTH), (15, FIRST), (15, BOTH), (STEPS, FIRST), (STEPS, SECOND)]


@pytest.mark.parametrize(
    ("at", "whom"), [*KILLS, *(pytest.param(*kill, marks=pytest.mark.slow) for kill in MORE_KILLS)]
)
def test_workers_that_are_killed_leave_no_trace(pool, expected, at, whom):
    steps = []

    def kill(step):
        steps.append(step)
        if step == at:
            for process in workers()[whom]:
                process.send_signal(signal.SIGKILL)

    assert same(painted(pool, kill), expected)
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(pool, expected):
    pool.notes.clear()

    def stop(step):
        if step == 12:
            workers()[1].send_signal(signal.SIGSTOP)

    assert same(painted(pool, stop), expected)
    assert any("no sign of life" in note for note in pool.notes)
    assert not any(process.status() == psutil.STATUS_STOPPED for process in workers())


def test_where_a_worker_is_killed_for_its_memory_all_go_on_in_finer_tiles(pool, expected, monkeypatch):
    killed = []
    monkeypatch.setattr(rank_run, "memory_kills", lambda: len(killed))  # what the system counts
    monkeypatch.setattr(cuts, "SMALLEST_CORE", 8)
    costs = profile(tiny_backbone(torch.float32), LAYERS.style, LAYERS.content, torch.float32)
    steps = []

    def kill(step):
        steps.append(step)
        if step == 1:
            killed.append(workers()[1])
            killed[0].send_signal(signal.SIGKILL)

    result = painted(pool, kill, budget=Budget(2, 1 << 40, costs))
    (note,) = result.notes
    what = "a worker was stopped by the system: the memory of a worker's machine does not suffice"
    assert re.fullmatch(rf"{what}; it went on from step (0|10|20) in \d+x\d+ tiles", note)
    assert steps == list(range(1, STEPS + 1))
    assert result.loss == pytest.approx(expected.loss, rel=0.05)  # rounding, enlarged by L-BFGS


def stored():
    """What lies in the object store: objects, their bytes, and bytes that were moved to the disk."""
    (node,) = ray.nodes()
    stats = internal_api.node_stats(node["NodeManagerAddress"], node["NodeManagerPort"]).store_stats
    return stats.num_local_objects, stats.object_store_bytes_used, stats.spilled_bytes_total


@pytest.mark.parametrize("size", [(40, 50), pytest.param((600, 700), marks=pytest.mark.slow)])
def test_what_is_kept_on_the_way_does_not_fill_the_object_store(pool, monkeypatch, size):
    """Of a dozen keeps no more than the last are there when the last step comes, and none at the end."""
    monkeypatch.setattr(exact, "KEEP_EVERY", 2)
    assert pool.muster(2) == 2
    gc.collect()
    before, seen = stored(), []

    def look(step):
        if step == 1:
            seen.append(stored()[0])
        if step == STEPS:  # what two ranks have kept last, and before that, and what they have at the end
            until(lambda: stored()[0] <= seen[0] + 3 * 2, "what was kept before is gone")
            seen.append(stored())

    painted(pool, look, size=size)
    objects, taken, moved = seen[1]
    assert objects and taken
    assert moved == before[2]
    gc.collect()
    until(lambda: stored()[0] <= before[0], "all of it is gone")


@dataclass(frozen=True)
class Failing:
    """A rank's work: the second one fails in this way, the first waits for it."""

    way: str

    def run(self, worker: Any, ranks: Any) -> Generator[Any, None, None]:
        if ranks.rank == 1:
            if self.way == "raise":
                raise KeyError("this")
            if self.way == "out of memory":
                raise torch.OutOfMemoryError("tried to allocate")
            if self.way != "out of reach":
                os.kill(os.getpid(), signal.SIGKILL)
        if self.way.endswith("out of reach"):
            raise Unreachable("one cannot reach the other")
        ranks.gather(torch.zeros(1))
        return
        yield


@pytest.mark.parametrize(
    ("way", "error"),
    [
        ("raise", KeyError),
        ("die", RanksLost),
        ("out of memory", OutOfMemory),
        ("out of reach", ClusterUnavailable),
        ("dead, therefore out of reach", RanksLost),
    ],
)
def test_an_error_in_a_work_is_raised_and_a_death_is_told(pool, way, error):
    assert pool.muster(2) == 2
    with pytest.raises(error):
        list(pool.together([Failing(way), Failing(way)]))
    assert pool.muster(2) == 2


def test_workers_that_are_not_alike_are_told_before_the_first_step(pool, monkeypatch):
    assert pool.muster(2) == 2
    (_, slot) = pool._slots
    monkeypatch.setattr(slot, "station", replace(slot.station, name="other", torch="0.4.1"))
    with pytest.raises(ClusterUnavailable, match=r"PyTorch is [^;]*, 0\.4\.1 on other \("):
        pool.together([Failing("die"), Failing("die")]).send(None)


class Sent:
    """Goes wrong in this way when it is sent."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self) -> Any:
        if self.way == "raise":
            raise KeyError("this")
        os.kill(os.getpid(), signal.SIGKILL)
        return str, ()


@dataclass(frozen=True)
class FailingToHand:
    """A rank's work: the second one announces what it cannot send, the first is not concerned."""

    way: str

    def run(self, worker: Any, ranks: Any) -> Generator[Any, None, None]:
        if ranks.rank == 1:
            yield Handed("it", Sent(self.way))


@pytest.mark.parametrize(("way", "error", "says"), [("raise", KeyError, "this"), ("die", RanksLost, "worker was lost")])
def test_a_rank_that_ends_before_it_has_handed_out_what_it_announced_is_told(pool, way, error, says):
    assert pool.muster(2) == 2
    with pytest.raises(error, match=says):
        list(pool.together([FailingToHand(way), FailingToHand(way)]))
    assert pool.muster(2) == 2


def test_workers_that_are_lost_again_and_again_are_given_up(pool, monkeypatch):
    monkeypatch.setattr(attempts, "MAX_LOSSES", 1)
    monkeypatch.setattr(exact, "KEEP_EVERY", STEPS)

    class Deadly(Exact):
        def _works(self, *arguments):
            return [Failing("die"), Failing("die")]

    rng = np.random.default_rng(0)
    content = Framed(rng.random((40, 50, 3), np.float32))
    resolved = tiny_resolved(Recipe())
    tiles = plan_tiles(*content.size, (1, 2), halo=resolved.deepest.margin, align=resolved.deepest.stride)
    mode = Deadly(Scale(content, None, STEPS, tiles), resolved, pool)
    with pytest.raises(WorkerLost, match="2 times in a row"):
        list(mode.states(mode.start(content.whole), lambda _, progress: None, Due()))


def test_where_what_was_kept_is_lost_too_the_scale_begins_again(pool, expected, monkeypatch):
    together, calls = pool.together, []

    def losing(works):
        calls.append(works[0].kept)
        if len(calls) == 2:
            raise HandedLost("its machine is gone")
        return (yield from together(works))

    monkeypatch.setattr(pool, "together", losing)

    def kill(step):
        if step == 15 and len(calls) == 1:
            workers()[0].send_signal(signal.SIGKILL)

    assert same(painted(pool, kill), expected)
    assert [kept and kept.step for kept in calls] == [None, 10, None]


def test_fewer_workers_than_ranks_are_enough(pool, expected, monkeypatch):
    """Where one cannot be replaced the others take its tiles, and the bits stay."""
    muster, calls = pool.muster, []

    def shrinking(ranks):
        calls.append(ranks)
        return muster(ranks) if len(calls) == 1 else min(1, muster(ranks))

    monkeypatch.setattr(pool, "muster", shrinking)

    def kill(step):
        if step == 15:
            workers()[0].send_signal(signal.SIGKILL)

    assert same(painted(pool, kill), expected)
    assert len(calls) == 2
