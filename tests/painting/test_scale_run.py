"""A scale of a run: what is said of it, and that it goes on from any snapshot as if it had not stopped."""

import itertools
import pickle
import weakref
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scattered import Scattered
from tiny_networks import LAYERS, tiny_resolved, tiny_state

from parallel_nst.files.size import Size
from parallel_nst.painting.planning.scales import FRAME, Framed, Scale, ScalePlan
from parallel_nst.painting.scale_run import RunCallbacks, ScaleRun
from parallel_nst.painting.style_targets import MeasureStyle
from parallel_nst.painting.stylize import last, mode_of
from parallel_nst.painting.tiles.geometry import plan_tiles, whole_tile
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.pool import SerialPool, only
from parallel_nst.workers.worker import WorkerSpec

SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})
EXACT = Recipe(tiling=TilingSpec(mode="exact"))
ALONE = Recipe(tiling=TilingSpec(mode="independent", overlap=8))
SYNCHRONISED = replace(ALONE, tiling=replace(ALONE.tiling, sync_every=2))
ADAM = [replace(recipe, optimizer="adam") for recipe in (EXACT, SYNCHRONISED)]
RECIPES = [EXACT, ALONE, SYNCHRONISED]
NAMES = ["exact", "alone", "synchronised"]
WIDTH, HEIGHT = 40, 24


@dataclass
class Seen:
    """All that a watch is told, as it was then: an optimiser works in place."""

    status: list = field(default_factory=list)
    previews: list = field(default_factory=list)
    packed: list = field(default_factory=list)

    def watch(self, previews=0, snapshots=0):
        return RunCallbacks(
            on_status=self.status.append,
            preview_every=previews,
            on_preview=lambda pixels: self.previews.append(pixels.copy()),
            snapshot_every=snapshots,
            on_snapshot=lambda snapshot: self.packed.append(pickle.dumps(snapshot)),
        )

    @property
    def snapshots(self):
        return [pickle.loads(snapshot) for snapshot in self.packed]


def plan(recipe, steps, grid=(1, 3)):
    halo = {"halo": 12} if recipe.tiling.mode == "exact" else {"overlap": 8}
    tiles = plan_tiles(HEIGHT + 2 * FRAME, WIDTH + 2 * FRAME, grid, align=4, **halo)
    return ScalePlan(Size(HEIGHT, WIDTH), Size(40, 40), steps, tiles, recipe.tiling.mode == "exact", 1)


@pytest.fixture(scope="module")
def paint():
    """Run one scale of the plans of these numbers of steps."""
    pool = SerialPool(SPEC)
    rng = np.random.default_rng(0)
    content = Framed(rng.random((HEIGHT, WIDTH, 3), np.float32))
    image = rng.random((3, 40, 40), np.float32)
    style = only(pool.map([MeasureStyle(image, whole_tile(40, 40), tiny_resolved())])).targets

    def run(recipe, steps=(6,), number=0, watch=None, snapshot=None, pool=pool, grid=(1, 3)):
        plans = [plan(recipe, count, grid) for count in steps]
        mode = mode_for(plans[number], recipe, pool)
        start = mode.restored(snapshot) if snapshot else mode.start(content.whole)
        return mode.result(last(ScaleRun(plans, number, watch or RunCallbacks()).states(mode, start)))

    def mode_for(scale_plan, recipe, pool=pool):
        scale = Scale(content, style, scale_plan.steps, scale_plan.tiles)
        return mode_of(scale_plan, scale, tiny_resolved(recipe), pool)

    def states(recipe):
        mode = mode_for(plan(recipe, 6), recipe)
        return ScaleRun([plan(recipe, 6)], 0, RunCallbacks()).states(mode, mode.start(content.whole))

    run.mode_for, run.states = mode_for, states

    return run


# Going on from a snapshot


@pytest.mark.parametrize("recipe", [EXACT, SYNCHRONISED, *ADAM], ids=["exact", "sync", "exact-adam", "sync-adam"])
def test_from_every_snapshot_a_scale_goes_on_to_the_same_bits(paint, recipe):
    seen = Seen()
    expected = paint(recipe, watch=seen.watch(snapshots=1))
    every = 1 if recipe.tiling.mode == "exact" else 2
    assert [snapshot.step for snapshot in seen.snapshots] == list(range(every, 7, every))
    for snapshot in seen.snapshots:
        result = paint(recipe, snapshot=snapshot, pool=Scattered(SPEC, 2))
        assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


def test_from_every_tile_a_scale_of_independent_tiles_goes_on(paint):
    seen = Seen()
    expected = paint(ALONE, watch=seen.watch(snapshots=1), grid=(2, 3))
    assert [len(snapshot.under("tile")) for snapshot in seen.snapshots] == [1, 2, 3, 4, 5, 6]
    for snapshot in seen.snapshots:
        result = paint(ALONE, snapshot=snapshot, grid=(2, 3))
        assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_a_run_that_went_on_can_be_stopped_again(paint, recipe):
    first, second = Seen(), Seen()
    expected = paint(recipe, watch=first.watch(snapshots=1))
    paint(recipe, snapshot=first.snapshots[0], watch=second.watch(snapshots=1))
    assert len(second.packed) == len(first.packed) - 1
    for old, new in zip(first.snapshots[1:], second.snapshots, strict=True):
        assert (new.scale, new.step, new.numbers) == (old.scale, old.step, old.numbers)
        assert {name: value.tolist() for name, value in new.tensors.items()} == {
            name: value.tolist() for name, value in old.tensors.items()
        }
    result = paint(recipe, snapshot=second.snapshots[0])
    np.testing.assert_allclose(result.pixels, expected.pixels, atol=1e-6)


def test_being_watched_changes_nothing(paint):
    for recipe in RECIPES:
        silent, watched = paint(recipe), paint(recipe, watch=Seen().watch(previews=1, snapshots=1))
        assert np.array_equal(silent.pixels, watched.pixels) and silent.loss == watched.loss


def test_an_exchange_is_taken_up_whole(paint):
    seen = Seen()
    paint(SYNCHRONISED, watch=seen.watch(snapshots=4))
    (snapshot,) = seen.snapshots
    exchange = paint.mode_for(plan(SYNCHRONISED, 6), SYNCHRONISED).restored(snapshot)
    assert exchange.step == snapshot.step == 4 and exchange.pixels.shape == (3, HEIGHT + 2 * FRAME, WIDTH + 2 * FRAME)
    assert all(set(grams) == set(LAYERS.style) for grams in exchange.grams) and all(exchange.states())


# What a watch is told, and when


@pytest.mark.parametrize("every", [1, 2, 3, 5, 100])
def test_previews_and_snapshots_fall_on_multiples_over_all_scales(paint, every):
    steps = (5, 4, 3)
    found = []
    for number in range(3):
        seen = Seen()
        paint(EXACT, steps, number, seen.watch(every, every))
        assert len(seen.previews) == len(seen.packed)
        assert all(snapshot.scale == number for snapshot in seen.snapshots)
        found += [sum(steps[:number]) + snapshot.step for snapshot in seen.snapshots]
    assert found == list(range(every, sum(steps) + 1, every))


def test_synchronised_tiles_give_them_at_the_next_exchange(paint):
    found = []
    for number in range(2):
        seen = Seen()
        paint(SYNCHRONISED, (5, 5), number, seen.watch(3, 3))
        assert len(seen.previews) == len(seen.packed)
        found += [5 * number + snapshot.step for snapshot in seen.snapshots]
    assert found == [4, 7, 9]  # exchanges at 2, 4, 5, 7, 9, 10, multiples at 3, 6, 9


def test_a_scale_that_went_on_keeps_to_the_same_multiples(paint):
    first, second = Seen(), Seen()
    paint(EXACT, (7,), 0, first.watch(2, 2))
    paint(EXACT, (7,), 0, second.watch(2, 2), first.snapshots[0])
    assert [snapshot.step for snapshot in second.snapshots] == [4, 6]
    assert len(second.previews) == 2


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_previews_are_pictures_without_their_frame(paint, recipe):
    seen = Seen()
    result = paint(recipe, watch=seen.watch(previews=1))
    assert seen.previews and not seen.packed
    for preview in seen.previews:
        assert preview.shape == (HEIGHT, WIDTH, 3) and preview.dtype == np.float32
        assert preview.min() >= 0 and preview.max() <= 1
    last = result.pixels[:, FRAME:-FRAME, FRAME:-FRAME].transpose(1, 2, 0)
    assert np.abs(seen.previews[-1] - last).mean() < np.abs(seen.previews[0] - last).mean()


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_without_a_number_of_steps_there_are_none(paint, recipe):
    seen = Seen()
    paint(recipe, watch=seen.watch())
    assert not seen.previews and not seen.packed and seen.status


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
@pytest.mark.parametrize("scattered", [False, True])
def test_the_share_rises_to_the_end(paint, recipe, scattered):
    shares, more = [], {"pool": Scattered(SPEC, 2)} if scattered else {}
    for number in range(2):
        seen = Seen()
        paint(recipe, (5, 4), number, seen.watch(), **more)
        shares += [status.share for status in seen.status]
        assert all(status.steps_per_second >= 0 for status in seen.status)
        assert seen.status[0].steps_per_second == 0
        assert {(status.scale, status.scales, status.tiles) for status in seen.status} == {(number + 1, 2, 3)}
        assert seen.status[-1].tiles_done == 3 and seen.status[-1].step == seen.status[-1].steps
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] == pytest.approx(1)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_what_was_done_before_counts_as_done(paint, recipe):
    first, second = Seen(), Seen()
    paint(recipe, watch=first.watch(snapshots=1))
    half = first.snapshots[len(first.packed) // 2 - 1]
    paint(recipe, snapshot=half, watch=second.watch())
    before = [status.share for status in first.status if status.share < second.status[0].share]
    assert before == [status.share for status in first.status[: -len(second.status)]]
    assert all(earlier.share <= later.share for earlier, later in itertools.pairwise(second.status))
    assert second.status[-1].share == pytest.approx(1) and second.status[-1].tiles_done == 3


def test_a_preview_shows_the_tiles_of_before_too(paint):
    first, second = Seen(), Seen()
    paint(ALONE, watch=first.watch(previews=1, snapshots=1))
    paint(ALONE, snapshot=first.snapshots[0], watch=second.watch(previews=1))
    assert len(second.previews) == 2
    for earlier, later in zip(first.previews[1:], second.previews, strict=True):
        assert np.array_equal(earlier, later)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_what_a_scale_begins_with_is_let_go_of_with_the_first_step(paint, recipe):
    """So that a large picture's memory is held for no longer than it serves."""
    states = paint.states(recipe)
    start = weakref.ref(next(states))
    next(states)
    assert start() is None
