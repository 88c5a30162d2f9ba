"""Fast ranks get more tiles, and the picture stays the same to the bit: tiles and their cuts do not depend on times."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import LAYERS, tiny_backbone, tiny_resolved, tiny_state

from parallel_nst.painting.exact import pace
from parallel_nst.painting.exact.mode import Exact
from parallel_nst.painting.exact.pace import Pace, dealt_by_speed
from parallel_nst.painting.mode import Due
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import Framed, Scale
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.style_targets import measured_style
from parallel_nst.painting.tiles.geometry import plan_tiles
from parallel_nst.recipe import Recipe
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.threads import ThreadPool
from parallel_nst.workers.worker import WorkerSpec

SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})
RESOLVED = tiny_resolved(Recipe())
PLENTY = Budget(3, 1 << 40, profile(tiny_backbone(torch.float32), LAYERS.style, LAYERS.content, torch.float32))


def scale(height=48, width=66, steps=3):
    rng = np.random.default_rng(0)
    content, style = (Framed(rng.random((height, width, 3), np.float32)) for _ in range(2))
    tiles = plan_tiles(*content.size, (3, 4), halo=RESOLVED.deepest.margin, align=RESOLVED.deepest.stride)
    return Scale(content, measured_style(style, RESOLVED, SerialPool(SPEC)), steps, tiles)


class Watching(ThreadPool):
    """Remembers how tiles were dealt."""

    def __init__(self, ranks=3):
        super().__init__(SPEC, Crew(ranks, 1), 1)
        self.dealt = []

    def together(self, works):
        self.dealt.append(works[0].ownership)
        return super().together(works)


def painted(start=None, speeds=(), one=None):
    """The result on three ranks, and how its tiles were dealt."""
    one = one or scale()
    with Watching() as pool:
        mode = Exact(one, RESOLVED, pool, PLENTY)
        begun = mode.follow(start) if start else replace(mode.start(one.content.whole), speeds=speeds)
        (*_, end) = mode.states(begun, lambda _, progress: None, Due())
        return mode.result(end), pool.dealt[0]


def same(first, second):
    return np.array_equal(first.pixels, second.pixels) and first.loss == second.loss


@pytest.fixture
def slow(monkeypatch):
    """Workers whose clock goes on by so much whenever they look at it, by number."""

    def slowing(ticks):
        clock = threading.local()

        def seconds():
            clock.now = getattr(clock, "now", 0.0) + ticks[int(threading.current_thread().name.split("-")[1][0])]
            return clock.now

        monkeypatch.setattr(pace, "perf_counter", seconds)

    return slowing


@pytest.mark.parametrize("speeds", [(1.0, 3.0, 3.0), (9.0, 1.0, 4.0), (2.0, 5.0, 1.0)])
def test_whoever_has_how_many_tiles_the_picture_is_the_same_to_the_bit(speeds):
    (alike, dealt), (uneven, dealt_unevenly) = painted(), painted(speeds=speeds)
    assert dealt.counts == [4, 4, 4] and dealt_unevenly.counts != dealt.counts
    assert dealt_unevenly.tiles == dealt.tiles
    assert dealt_unevenly.counts[np.argmin(speeds)] < dealt_unevenly.counts[np.argmax(speeds)]
    assert same(uneven, alike)


@pytest.mark.parametrize("ticks", [(3.0, 1.0, 1.0), (1.0, 1.0, 9.0)])
def test_who_was_slow_at_one_scale_gets_fewer_tiles_at_the_next(slow, ticks):
    expected, dealt = painted(painted()[0], one=scale(96, 132))
    slow(ticks)
    before, _ = painted()
    result, uneven = painted(before, one=scale(96, 132))
    slowest = int(np.argmax(ticks))
    assert before.carried.speeds[slowest] == min(before.carried.speeds) > 0
    assert uneven.counts[slowest] < dealt.counts[slowest] and uneven.tiles == dealt.tiles
    assert same(result, expected)


def test_a_rank_that_is_alone_measures_nothing():
    one = scale()
    mode = Exact(one, RESOLVED, SerialPool(SPEC), PLENTY)
    (*_, end) = mode.states(mode.start(one.content.whole), lambda _, progress: None, Due())
    assert mode.result(end).carried.speeds == [0.0]


@pytest.mark.parametrize("speeds", [(), (1.0, 2.0), (1.0, 1.0, 1.2), (0.0, 1.0, 1.0), (0.0, 0.0, 0.0)])
def test_where_speeds_do_not_differ_clearly_or_are_not_known_all_get_alike(speeds):
    assert dealt_by_speed(scale(), 3, speeds, PLENTY, RESOLVED.recipe).counts == [4, 4, 4]


@pytest.mark.parametrize("budget", [None, replace(PLENTY, memory=1 << 20)])
def test_nobody_gets_more_than_its_memory_is_known_to_hold(budget):
    assert dealt_by_speed(scale(), 3, (1.0, 3.0, 3.0), budget, RESOLVED.recipe).counts == [4, 4, 4]


def test_a_pace_is_px_in_a_second_of_arithmetic(monkeypatch):
    times = iter([0.0, 2.0, 100.0, 103.0])  # what lies between is waiting
    monkeypatch.setattr(pace, "perf_counter", lambda: next(times))
    own, image = Pace(), torch.zeros(1, 3, 10, 20)
    assert own.speed == 0
    for _ in range(2):
        with own.of(image):
            pass
    assert own.speed == 2 * 200 / 5
