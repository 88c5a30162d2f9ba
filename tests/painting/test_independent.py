"""Tiles by themselves: own targets, one tile equal to no tiling, and what exchanging now and then changes."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scattered import Scattered
from tiny_networks import LAYERS, tiny_state

from parallel_nst.painting.gatys.objective import LocalObjective
from parallel_nst.painting.gatys.sums import measure_content
from parallel_nst.painting.independent.alone import Blended, first_exchange, stylize_independent, stylize_synchronised
from parallel_nst.painting.independent.targets import MeasureGrams, measured_grams, own_targets, shares, tile_targets
from parallel_nst.painting.independent.tasks import OptimisedTile, OptimiseTile
from parallel_nst.painting.planning.scales import Framed, Scale
from parallel_nst.painting.style_targets import MeasureStyle
from parallel_nst.painting.tiles.geometry import gather, plan_tiles, whole_tile
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.pool import SerialPool, only
from parallel_nst.workers.worker import Worker, WorkerSpec

SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})
RECIPE = Recipe(tiling=TilingSpec(mode="independent", overlap=8))
PLAIN = replace(RECIPE, tiling=replace(RECIPE.tiling, targets="plain"))
SIZE = (48, 64)  # with its frame


def every(steps, recipe=RECIPE):
    return replace(recipe, tiling=replace(recipe.tiling, sync_every=steps))


@pytest.fixture(scope="module")
def pool():
    return SerialPool(SPEC)


@pytest.fixture(scope="module")
def content():
    """A dark part and a bright one."""
    inner = np.random.default_rng(0).random((16, 32, 3), np.float32)
    inner[:, :16] *= 0.2
    return Framed(inner)


@pytest.fixture(scope="module")
def pixels(content):
    return content.whole


@pytest.fixture(scope="module")
def style(pool):
    image = np.random.default_rng(1).random((3, 40, 40), np.float32)
    return only(pool.map([MeasureStyle(image, whole_tile(40, 40), (40, 40), "embedded", LAYERS)])).targets


@pytest.fixture
def scale(content, style):
    return lambda grid, steps=4: Scale(content, style, steps, plan_tiles(*SIZE, grid, overlap=8, align=4))


# Targets


@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (3, 4)])
def test_the_mean_of_the_own_targets_is_the_style(pool, scale, pixels, grid):
    cut = scale(grid)
    targets = tile_targets(cut, RECIPE, measured_grams(pixels, cut, RECIPE, LAYERS, pool))
    for name in LAYERS.style:
        mean = sum(share * target[name] for share, target in zip(shares(cut.tiles), targets, strict=True))
        torch.testing.assert_close(mean, cut.style.grams[name], rtol=1e-5, atol=1e-6, check_dtype=False)


def test_tiles_that_differ_get_targets_that_differ_alike(pool, scale, pixels):
    cut = scale((1, 2))
    targets = tile_targets(cut, RECIPE, measured_grams(pixels, cut, RECIPE, LAYERS, pool))
    grams = dict(
        pool.map([MeasureGrams(gather(pixels, t.read), t.written, SIZE, "embedded", LAYERS) for t in cut.tiles])
    )
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


def test_plain_targets_are_the_styles_and_cost_no_measuring(scale, pixels):
    pool, cut = Scattered(SPEC), scale((2, 2))
    grams = measured_grams(pixels, cut, PLAIN, LAYERS, pool)
    assert pool.tasks == []
    assert tile_targets(cut, PLAIN, grams) == [cut.style.grams] * 4


def test_plain_and_own_targets_paint_different_pictures(pool, scale, pixels):
    own, plain = (stylize_independent(pixels, scale((1, 2)), recipe, LAYERS, pool) for recipe in (RECIPE, PLAIN))
    assert not np.allclose(own.pixels, plain.pixels, atol=1e-3)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 5)])
def test_shares_are_of_cores(scale, grid):
    tiles = scale(grid).tiles
    assert sum(shares(tiles)) == pytest.approx(1)
    assert shares(tiles)[0] == tiles[0].core.area / (SIZE[0] * SIZE[1])


# Each for itself


def test_one_tile_is_the_untiled_optimisation(pool, scale, pixels, content):
    cut = scale((1, 1))
    task = OptimiseTile(content.whole, pixels, cut.style, LAYERS, RECIPE, whole_tile(*SIZE), SIZE, cut.steps)
    untiled = only(pool.map([task]))
    result = stylize_independent(pixels, cut, RECIPE, LAYERS, pool)
    np.testing.assert_allclose(result.pixels, untiled.pixels, atol=1e-6)
    assert result.loss == untiled.loss


def test_every_tile_reports_all_its_steps(pool, scale, pixels):
    seen = []
    stylize_independent(pixels, scale((2, 2)), RECIPE, LAYERS, pool, lambda i, p: seen.append((i, p.step)))
    assert seen == [(tile, step) for tile in range(4) for step in range(1, 5)]


@pytest.mark.parametrize("recipe", [RECIPE, PLAIN])
def test_results_in_any_order_blend_to_the_same_picture(pool, scale, pixels, recipe):
    expected = stylize_independent(pixels, scale((2, 3)), recipe, LAYERS, pool)
    for seed in range(3):
        result = stylize_independent(pixels, scale((2, 3)), recipe, LAYERS, Scattered(SPEC, 3, 0.5, seed))
        np.testing.assert_allclose(result.pixels, expected.pixels, atol=1e-6)
        assert result.loss == expected.loss


def test_tiles_that_were_done_are_not_done_again(scale, pixels):
    pool, cut, found, seen = Scattered(SPEC, 2), scale((2, 3)), {}, []
    expected = stylize_independent(pixels, cut, RECIPE, LAYERS, pool, on_tile=found.__setitem__)
    assert sorted(found) == list(range(6))
    done = {index: found[index] for index in (4, 0, 3)}
    pool.tasks = []
    result = stylize_independent(
        pixels, cut, RECIPE, LAYERS, pool, lambda i, p: seen.append(i), done, lambda i, _: seen.append(i)
    )
    assert sum(isinstance(task, OptimiseTile) for task in pool.tasks) == 3
    assert set(seen) == {1, 2, 5}
    np.testing.assert_allclose(result.pixels, expected.pixels, atol=1e-6)
    assert result.loss == pytest.approx(expected.loss, rel=1e-12)


def test_the_loss_is_the_mean_over_cores_and_late_tiles_leave_no_pixel_out(scale):
    cut = scale((1, 2))
    blend = Blended(cut, 8)
    for tile, loss in zip(cut.tiles, (1.0, 3.0), strict=True):
        blend.add(tile.index, OptimisedTile(np.ones((3, tile.read.height, tile.read.width), np.float32), loss))
    result = blend.result()
    assert result.loss == pytest.approx(2) and result.blend_seconds >= 0
    np.testing.assert_allclose(result.pixels, 1, atol=1e-6)


def test_half_a_picture_is_no_result(scale):
    cut = scale((1, 2))
    blend = Blended(cut, 8)
    first = cut.tiles[0]
    blend.add(0, OptimisedTile(np.ones((3, first.read.height, first.read.width), np.float32), 1.0))
    with pytest.raises(ValueError, match="cover"):
        blend.result()


# Synchronised


def synchronised(pixels, cut, recipe, pool, start=None, **watch):
    start = start or first_exchange(pixels, cut, recipe, LAYERS, pool)
    return stylize_synchronised(start, cut, recipe, LAYERS, pool, **watch)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("steps", [4, 99])
def test_an_exchange_at_the_end_only_is_none(pool, scale, pixels, grid, optimizer, steps):
    recipe = every(steps, replace(RECIPE, optimizer=optimizer))
    alone = stylize_independent(pixels, scale(grid), recipe, LAYERS, pool)
    result = synchronised(pixels, scale(grid), recipe, pool)
    assert np.array_equal(result.pixels, alone.pixels) and result.loss == alone.loss


@pytest.mark.parametrize("every_", [1, 2, 3, 5])
def test_exchanges_fall_where_they_should_and_every_tile_reports_every_step(pool, scale, pixels, every_):
    steps, seen = [], []
    synchronised(
        pixels,
        scale((1, 2), 5),
        every(every_),
        pool,
        on_exchange=lambda exchange: steps.append(exchange.step),
        on_progress=lambda index, progress: seen.append((index, progress.step)),
    )
    assert steps == [*range(every_, 5, every_), 5]
    assert sorted(seen) == [(tile, step) for tile in range(2) for step in range(1, 6)]


@pytest.mark.parametrize("recipe", [every(2), every(2, PLAIN), every(1, replace(RECIPE, optimizer="adam"))])
def test_the_same_picture_whatever_the_order(pool, scale, pixels, recipe):
    expected = synchronised(pixels, scale((1, 3), 5), recipe, pool)
    for seed in range(2):
        result = synchronised(pixels, scale((1, 3), 5), recipe, Scattered(SPEC, 2, seed=seed))
        assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


@pytest.mark.parametrize("recipe", [every(2), every(2, PLAIN), every(1, replace(RECIPE, optimizer="adam"))])
def test_from_every_exchange_the_run_goes_on_as_if_undisturbed(scale, pixels, recipe):
    kept, cut = [], scale((1, 3), 7)
    expected = synchronised(
        pixels,
        cut,
        recipe,
        Scattered(SPEC, 2),
        on_exchange=lambda exchange: kept.append(pickle.dumps(exchange)),
        wants_states=lambda step: True,
    )
    assert len(kept) > 2
    for exchange in map(pickle.loads, kept):
        assert all(exchange.states) == (0 < exchange.step < 7)  # after the last step nobody needs them
        result = synchronised(pixels, cut, recipe, Scattered(SPEC, 3), exchange)
        assert np.array_equal(result.pixels, expected.pixels) and result.loss == expected.loss


def test_states_travel_only_when_they_are_wanted(scale, pixels):
    pool, states = Scattered(SPEC, 2), {}
    synchronised(
        pixels,
        scale((1, 2), 6),
        every(2),
        pool,
        on_exchange=lambda exchange: states.__setitem__(exchange.step, exchange.states),
        wants_states=lambda step: step == 4,
    )
    assert states[2] == states[6] == [None, None] and all(states[4])
    assert all(task.state is None for task in pool.tasks if isinstance(task, OptimiseTile))


@pytest.mark.parametrize("loss", [0.3, 1.0])
def test_a_lost_worker_costs_what_its_optimiser_had_learnt_and_no_more(scale, pixels, content, loss):
    cut = scale((2, 2), 8)
    result = synchronised(pixels, cut, every(2), Scattered(SPEC, 3, loss))
    before, after = ((whole_loss(content, cut, image), np.isfinite(image).all()) for image in (pixels, result.pixels))
    assert after[1] and after[0] < before[0]


def whole_loss(content, cut, image):
    """Of a picture as one objective."""
    worker = Worker(SPEC)
    backbone = worker.backbone("embedded")
    features = measure_content(backbone, worker.image(content.whole), LAYERS.content, torch.float32)
    loss = LocalObjective(backbone, cut.style, features, whole_tile(*SIZE), SIZE, RECIPE, LAYERS, torch.float32)
    return loss.value(worker.image(image))


def test_own_targets_follow_the_tiles(scale, pixels):
    """After an exchange a tile aims at what the picture lacks then, not at what it lacked at the start."""
    pool, cut = Scattered(SPEC, 2), scale((1, 2), 4)
    synchronised(pixels, cut, every(2), pool)
    share = shares(cut.tiles)
    first, second = ([t for t in pool.tasks if isinstance(t, OptimiseTile) and t.done == done] for done in (0, 2))
    for name in LAYERS.style:
        early, late = (
            sum(share[task.tile.index] * task.style.grams[name] for task in tasks) for tasks in (first, second)
        )
        torch.testing.assert_close(early, late, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(first[0].style.grams[name], second[0].style.grams[name], rtol=1e-3)
