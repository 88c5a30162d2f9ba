"""Tiles by themselves: own targets, one tile equal to no tiling, and what exchanging now and then changes."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scattered import Scattered
from tiny_networks import LAYERS, tiny_resolved, tiny_state

from parallel_nst.painting.gatys.features import reader_on
from parallel_nst.painting.gatys.objective import LocalObjective
from parallel_nst.painting.independent.blended import blended
from parallel_nst.painting.independent.synchronised import Synchronised
from parallel_nst.painting.independent.targets import MeasureGrams, measured_grams, own_targets, shares, tile_targets
from parallel_nst.painting.independent.tasks import OptimisedTile, OptimiseTile, PackState
from parallel_nst.painting.independent.unsynchronised import Unsynchronised
from parallel_nst.painting.mode import Due
from parallel_nst.painting.planning.scales import FRAME, Framed, Scale
from parallel_nst.painting.style_targets import MeasureStyle
from parallel_nst.painting.tiles.geometry import gather, plan_tiles, whole_tile
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.pool import SerialPool, only
from parallel_nst.workers.worker import Worker, WorkerSpec

SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})
RECIPE = Recipe(tiling=TilingSpec(mode="independent", overlap=8))
PLAIN = replace(RECIPE, tiling=replace(RECIPE.tiling, targets="plain"))
SIZE = (48, 64)  # with its frame


def unheard(index, progress):
    """A report to nobody."""


def alone(pixels, cut, recipe, pool, report=unheard):
    """What comes of tiles that are optimised each by itself."""
    mode = Unsynchronised(cut, tiny_resolved(recipe), pool)
    (*_, end) = mode.states(mode.start(pixels), report, Due())
    return mode.result(end)


def every(steps, recipe=RECIPE):
    return replace(recipe, tiling=replace(recipe.tiling, sync_every=steps))


@pytest.fixture(scope="module")
def pool():
    return SerialPool(SPEC)


@pytest.fixture(scope="module")
def content():
    """A dark part and a bright one."""
    height, width = (side - 2 * FRAME for side in SIZE)
    inner = np.random.default_rng(0).random((height, width, 3), np.float32)
    inner[:, : width // 2] *= 0.2
    return Framed(inner)


@pytest.fixture(scope="module")
def pixels(content):
    return content.whole


@pytest.fixture(scope="module")
def style(pool):
    image = np.random.default_rng(1).random((3, 40, 40), np.float32)
    return only(pool.map([MeasureStyle(image, whole_tile(40, 40), tiny_resolved())])).targets


@pytest.fixture
def scale(content, style):
    return lambda grid, steps=4: Scale(content, style, steps, plan_tiles(*SIZE, grid, overlap=8, align=4))


# Targets


@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (3, 4)])
def test_the_mean_of_the_own_targets_is_the_style(pool, scale, pixels, grid):
    cut = scale(grid)
    targets = tile_targets(cut, tiny_resolved(RECIPE), measured_grams(pixels, cut, tiny_resolved(RECIPE), pool))
    for name in LAYERS.style:
        mean = sum(share * target[name] for share, target in zip(shares(cut.tiles), targets, strict=True))
        torch.testing.assert_close(mean, cut.style.grams[name], rtol=1e-5, atol=1e-6, check_dtype=False)


def test_tiles_that_differ_get_targets_that_differ_alike(pool, scale, pixels):
    cut = scale((1, 2))
    targets = tile_targets(cut, tiny_resolved(RECIPE), measured_grams(pixels, cut, tiny_resolved(RECIPE), pool))
    grams = dict(pool.map([MeasureGrams(gather(pixels, t.read), t.written, tiny_resolved()) for t in cut.tiles]))
    for name in LAYERS.style:
        torch.testing.assert_close(
            targets[0][name] - targets[1][name],
            grams[0][name] - grams[1][name],
            rtol=1e-4,
            atol=1e-5,
            check_dtype=False,
        )


def test_a_picture_that_has_the_style_leaves_its_tiles_as_they_are():
    grams = [{"a": torch.tensor([[1.0]])}, {"a": torch.tensor([[5.0]])}]
    assert own_targets({"a": torch.tensor([[4.0]])}, [0.25, 0.75], grams) == grams


@pytest.mark.parametrize("kind", ["gram", "w2"])
def test_a_picture_that_has_the_style_has_nothing_to_lose(pool, scale, pixels, kind):
    """No tile of it wants anything, however different the tiles are."""
    recipe, cut = replace(RECIPE, style_loss=kind, content_weight=0.0), scale((2, 2))
    grams = measured_grams(pixels, cut, tiny_resolved(recipe), pool)
    own = {name: sum(s * g[name] for s, g in zip(shares(cut.tiles), grams, strict=True)) for name in LAYERS.style}
    met = replace(cut, style=replace(cut.style, grams=own), steps=1)
    assert alone(pixels, met, recipe, pool).loss == pytest.approx(0, abs=1e-5)
    assert alone(pixels, replace(cut, steps=1), recipe, pool).loss > 1e-3


def test_plain_targets_are_the_styles_and_cost_no_measuring(scale, pixels):
    pool, cut = Scattered(SPEC), scale((2, 2))
    grams = measured_grams(pixels, cut, tiny_resolved(PLAIN), pool)
    assert pool.tasks == []
    assert tile_targets(cut, tiny_resolved(PLAIN), grams) == [cut.style.grams] * 4


def test_plain_and_own_targets_paint_different_pictures(pool, scale, pixels):
    own, plain = (alone(pixels, scale((1, 2)), recipe, pool) for recipe in (RECIPE, PLAIN))
    assert not np.allclose(own.pixels, plain.pixels, atol=1e-3)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 5)])
def test_shares_are_of_cores(scale, grid):
    tiles = scale(grid).tiles
    assert sum(shares(tiles)) == pytest.approx(1)
    assert shares(tiles)[0] == tiles[0].core.area / (SIZE[0] * SIZE[1])


# Each for itself


def test_one_tile_is_the_untiled_optimisation(pool, scale, pixels, content):
    cut = scale((1, 1))
    task = OptimiseTile(content.whole, pixels, cut.style, tiny_resolved(RECIPE), whole_tile(*SIZE), cut.steps)
    untiled = only(pool.map([task]))
    result = alone(pixels, cut, RECIPE, pool)
    np.testing.assert_allclose(result.pixels, untiled.pixels, atol=1e-6)
    assert result.loss == untiled.loss


def test_every_tile_reports_all_its_steps(pool, scale, pixels):
    seen = []
    alone(pixels, scale((2, 2)), RECIPE, pool, lambda i, p: seen.append((i, p.step)))
    assert seen == [(tile, step) for tile in range(4) for step in range(1, 5)]


@pytest.mark.parametrize("recipe", [RECIPE, PLAIN])
def test_results_in_any_order_blend_to_the_same_picture(pool, scale, pixels, recipe):
    expected = alone(pixels, scale((2, 3)), recipe, pool)
    for seed in range(3):
        result = alone(pixels, scale((2, 3)), recipe, Scattered(SPEC, 3, 0.5, seed))
        assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


def test_tiles_that_were_done_are_not_done_again(scale, pixels):
    pool, cut, seen = Scattered(SPEC, 2), scale((2, 3)), []
    mode = Unsynchronised(cut, tiny_resolved(RECIPE), pool)
    (*_, whole) = mode.states(mode.start(pixels), unheard, Due())
    assert sorted(whole.results) == list(range(6))
    pool.tasks = []
    start = replace(whole, results={index: whole.results[index] for index in (4, 0, 3)})
    assert start.done == [4, 0, 0, 4, 4, 0] and start.step is None
    states = list(mode.states(start, lambda index, progress: seen.append(index), Due()))
    assert [len(state.results) for state in states] == [4, 5, 6] and set(seen) == {1, 2, 5}
    assert sum(isinstance(task, OptimiseTile) for task in pool.tasks) == 3
    result, expected = mode.result(states[-1]), mode.result(whole)
    assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


def test_the_loss_is_the_mean_over_cores_and_no_pixel_is_left_out(scale):
    cut = scale((1, 2))
    tiles = [
        OptimisedTile(np.ones((3, tile.read.height, tile.read.width), np.float32), loss)
        for tile, loss in zip(cut.tiles, (1.0, 3.0), strict=True)
    ]
    result = blended(cut, 8, tiles)
    assert result.loss == pytest.approx(2) and result.blend_seconds >= 0
    np.testing.assert_allclose(result.pixels, 1, atol=1e-6)
    with pytest.raises(ValueError):  # half a picture is no result
        blended(cut, 8, tiles[:1])


# Synchronised


def synchronised(pixels, cut, recipe, pool, snapshot=None, report=unheard):
    """The result, and all states on the way to it."""
    mode = Synchronised(cut, tiny_resolved(recipe), pool)
    start = mode.restored(snapshot) if snapshot else mode.start(pixels)
    states = list(mode.states(start, report, Due()))
    return mode.result(states[-1] if states else start), states


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("steps", [4, 99])
def test_an_exchange_at_the_end_only_is_none(pool, scale, pixels, grid, optimizer, steps):
    recipe = every(steps, replace(RECIPE, optimizer=optimizer))
    expected = alone(pixels, scale(grid), recipe, pool)
    result, _ = synchronised(pixels, scale(grid), recipe, pool)
    assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


@pytest.mark.parametrize("every_", [1, 2, 3, 5])
def test_exchanges_fall_where_they_should_and_every_tile_reports_every_step(pool, scale, pixels, every_):
    seen = []
    report = lambda index, progress: seen.append((index, progress.step))  # noqa: E731
    _, states = synchronised(pixels, scale((1, 2), 5), every(every_), pool, report=report)
    steps = [state.step for state in states]
    assert steps == [*range(every_, 5, every_), 5]
    assert sorted(seen) == [(tile, step) for tile in range(2) for step in range(1, 6)]


EXCHANGING = [
    every(2),
    every(2, PLAIN),
    every(1, replace(RECIPE, optimizer="adam")),
    every(2, replace(RECIPE, style_loss="gram")),
]


@pytest.mark.parametrize("recipe", EXCHANGING)
def test_the_same_picture_whatever_the_order(pool, scale, pixels, recipe):
    expected, _ = synchronised(pixels, scale((1, 3), 5), recipe, pool)
    for seed in range(2):
        result, _ = synchronised(pixels, scale((1, 3), 5), recipe, Scattered(SPEC, 2, seed=seed))
        assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


@pytest.mark.parametrize("recipe", EXCHANGING)
def test_from_every_exchange_the_run_goes_on_as_if_undisturbed(scale, pixels, recipe):
    cut = scale((1, 3), 7)
    mode = Synchronised(cut, tiny_resolved(recipe), Scattered(SPEC, 2))
    kept, state = [], None
    for state in mode.states(mode.start(pixels), unheard, Due()):
        assert all(packed is not None for packed in state.states()) == (state.step < 7)  # nobody needs the last ones
        kept.append(pickle.dumps(state.snapshot(0)))
    expected = mode.result(state)
    assert len(kept) > 2
    for snapshot in map(pickle.loads, kept):
        result, _ = synchronised(pixels, cut, recipe, Scattered(SPEC, 3), snapshot)
        assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


def test_states_travel_only_when_they_are_asked_for(scale, pixels):
    pool, cut = Scattered(SPEC, 2), scale((1, 2), 6)
    mode = Synchronised(cut, tiny_resolved(every(2)), pool)
    for state in mode.states(mode.start(pixels), unheard, Due()):
        if state.step == 4:
            assert all(state.states())
    assert sum(isinstance(task, PackState) for task in pool.tasks) == 2
    assert all(task.round.state is None for task in pool.tasks if isinstance(task, OptimiseTile))


@pytest.mark.parametrize("loss", [0.3, 1.0])
def test_a_lost_worker_costs_what_its_optimiser_had_learnt_and_no_more(scale, pixels, content, loss):
    cut = scale((2, 2), 8)
    result, _ = synchronised(pixels, cut, every(2), Scattered(SPEC, 3, loss))
    before, after = ((whole_loss(content, cut, image), np.isfinite(image).all()) for image in (pixels, result.pixels))
    assert after[1] and after[0] < before[0]


def whole_loss(content, cut, image):
    """Of a picture as one objective."""
    worker = Worker(SPEC)
    reader = reader_on(worker, tiny_resolved(RECIPE))
    features = reader.read_content(worker.image(content.whole))
    loss = LocalObjective(reader, tiny_resolved(RECIPE), cut.style, features, whole_tile(*SIZE))
    return loss.value(worker.image(image))


def test_own_targets_follow_the_tiles(scale, pixels):
    """After an exchange a tile aims at what the picture lacks then, not at what it lacked at the start."""
    pool, cut = Scattered(SPEC, 2), scale((1, 2), 4)
    synchronised(pixels, cut, every(2), pool)
    share = shares(cut.tiles)
    first, second = ([t for t in pool.tasks if isinstance(t, OptimiseTile) and t.round.done == done] for done in (0, 2))
    for name in LAYERS.style:
        early, late = (
            sum(share[task.tile.index] * task.style.grams[name] for task in tasks) for tasks in (first, second)
        )
        torch.testing.assert_close(early, late, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(first[0].style.grams[name], second[0].style.grams[name], rtol=1e-3)
