"""One scale in tiles: own targets, and one tile equal to no tiling."""

import numpy as np
import pytest
import torch
from networks import LAYERS, tiny_state

from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.tiled import Scale, own_targets, shares, stylize_independent
from parallel_nst.tiles import gather, plan_tiles
from parallel_nst.workers import MeasureGrams, MeasureStyle, OptimiseTile, SerialPool, WorkerSpec, only

RECIPE = Recipe(tiling=TilingSpec(overlap=8))


@pytest.fixture(scope="module")
def pool():
    return SerialPool(WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()}))


@pytest.fixture(scope="module")
def scale(pool):
    rng = np.random.default_rng(0)
    content = rng.random((3, 48, 64), np.float32)
    content[:, :, :32] *= 0.2  # a dark half and a bright one
    style = only(pool.map([MeasureStyle(rng.random((3, 40, 40), np.float32), "embedded", LAYERS)]))
    return Scale(content, content, style, steps=4)


def cut(grid):
    return plan_tiles(48, 64, grid, overlap=8, align=4)


def test_the_mean_of_the_own_targets_is_the_style(pool, scale):
    tiles = cut((2, 2))
    targets = list(own_targets(scale, tiles, RECIPE, LAYERS, pool))
    for name in LAYERS.style:
        mean = sum(share * target[name] for share, target in zip(shares(tiles), targets, strict=True))
        torch.testing.assert_close(mean, scale.style.grams[name], rtol=1e-5, atol=1e-6)


def test_tiles_that_differ_get_targets_that_differ_alike(pool, scale):
    tiles = cut((1, 2))
    targets = list(own_targets(scale, tiles, RECIPE, LAYERS, pool))
    grams = dict(pool.map([MeasureGrams(gather(scale.start, t.read), "embedded", LAYERS) for t in tiles]))
    for name in LAYERS.style:
        torch.testing.assert_close(
            targets[0][name] - targets[1][name], grams[0][name] - grams[1][name], rtol=1e-4, atol=1e-5
        )


def test_one_tile_is_the_untiled_optimisation(pool, scale):
    whole = OptimiseTile(scale.content, scale.start, scale.style, LAYERS, RECIPE, scale.steps)
    untiled = only(pool.map([whole]))
    result = stylize_independent(scale, cut((1, 1)), RECIPE, LAYERS, pool)
    np.testing.assert_allclose(result.pixels, untiled.pixels, atol=1e-6)
    assert result.loss == untiled.loss


def test_every_tile_reports_all_its_steps(pool, scale):
    seen = []
    stylize_independent(scale, cut((2, 2)), RECIPE, LAYERS, pool, lambda i, p: seen.append((i, p.step)))
    assert seen == [(tile, step) for tile in range(4) for step in range(1, 5)]


def test_results_in_any_order_blend_to_the_same_picture(pool, scale):
    class Backwards:
        spec, waited = pool.spec, 0.0

        def map(self, tasks, on_progress=None):
            return reversed(list(pool.map(tasks, on_progress)))

        def close(self):
            pass

    forwards = stylize_independent(scale, cut((2, 2)), RECIPE, LAYERS, pool)
    backwards = stylize_independent(scale, cut((2, 2)), RECIPE, LAYERS, Backwards())
    np.testing.assert_allclose(forwards.pixels, backwards.pixels, atol=1e-6)
    assert forwards.loss == backwards.loss
