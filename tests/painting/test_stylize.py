"""The public verb: pictures of every kind, tiled or whole, stopped and taken up again, and what they carry."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scattered import Scattered
from tiny_networks import LAYERS, tiny_backbone, tiny_state

from parallel_nst.files.images import Picture
from parallel_nst.painting import style_targets as module
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.objective import LocalObjective
from parallel_nst.painting.gatys.optimizers import make_optimizer
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import FRAME, framed
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.scale_run import RunCallbacks
from parallel_nst.painting.style_targets import measured_style
from parallel_nst.painting.stylize import enlarged, stylize, whole_loss
from parallel_nst.painting.tiles.geometry import whole_tile
from parallel_nst.recipe import LayerWeights, Recipe, TilingSpec
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.worker import Worker, WorkerSpec

SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})
DOUBLE = replace(SPEC, dtype="float64")
ROOM = 8 << 30  # bytes, whatever else runs on this machine
RECIPE = Recipe(size=48, steps=2, step_growth=0.5, scales=2, layers=LAYERS, tiling=TilingSpec(tiles="4", whole=40))
ALONE = replace(RECIPE, tiling=replace(RECIPE.tiling, mode="independent", overlap=8))
SYNCHRONISED = replace(ALONE, tiling=replace(ALONE.tiling, sync_every=1))
RECIPES = [RECIPE, ALONE, SYNCHRONISED]
NAMES = ["exact", "alone", "synchronised"]
COSTS = profile(tiny_backbone(torch.float32), LAYERS.style, LAYERS.content, torch.float32)


@pytest.fixture(scope="module")
def pool():
    return SerialPool(SPEC)


def picture(width=40, height=30, seed=0, **carried):
    return Picture(np.random.default_rng(seed).random((height, width, 3), np.float32), **carried)


def red():
    return Picture(np.random.default_rng(1).random((40, 40, 3), np.float32) * np.float32([1, 0.1, 0.1]))


def budget(pool, memory=ROOM):
    return Budget(pool.size, memory, COSTS)


def painted(recipe, pool, content=None, style=None, **more):
    return stylize(content or picture(), style or picture(seed=1), recipe, pool, budget=budget(pool), **more)


# Pictures of every kind


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
@pytest.mark.parametrize("size", [(1, 1), (200, 3), (3, 200), (40, 30), (17, 31)])
@pytest.mark.parametrize("init", ["content", "noise", "style"])
def test_pictures_of_every_size_come_out(pool, recipe, size, init):
    result = painted(replace(recipe, init=init), pool, picture(*size), picture(9, 9, seed=1))
    assert max(result.picture.size) == 48
    assert np.isfinite(result.picture.pixels).all() and result.picture.pixels.dtype == np.float32
    assert result.picture.pixels.min() >= 0 and result.picture.pixels.max() <= 1


def test_what_the_content_carries_is_kept(pool):
    alpha = np.linspace(0, 1, 40 * 30, dtype=np.float32).reshape(30, 40)
    content = picture(alpha=alpha, icc=b"profile", exif=b"exif", dpi=(300.0, 300.0), depth=16)
    result = painted(RECIPE, pool, content).picture
    assert (result.icc, result.exif, result.dpi, result.depth) == (b"profile", b"exif", (300.0, 300.0), 16)
    assert result.alpha is not None and result.alpha.shape == (36, 48)
    assert result.alpha[0, 0] < 0.1 < 0.9 < result.alpha[-1, -1]


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_status_rises_to_the_end(pool, recipe):
    seen = []
    painted(recipe, pool, callbacks=RunCallbacks(on_status=seen.append))
    shares = [status.share for status in seen]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    last = seen[-1]
    assert (last.scale, last.scales, last.tiles_done, last.tiles, last.step, last.steps) == (2, 2, 4, 4, 2, 2)


def test_what_is_said_of_the_result(pool):
    for recipe in RECIPES:
        result = painted(recipe, pool)
        assert (result.tiles, result.exact) == (4, recipe is RECIPE)
        assert result.loss > 0 and result.step_ratio > 0
        assert result.compute_seconds >= 0 and (result.blend_seconds > 0) == (recipe is not RECIPE)
    assert np.isnan(painted(replace(RECIPE, tiling=TilingSpec()), pool).step_ratio)


def test_the_same_recipe_gives_the_same_picture(pool):
    results = [painted(replace(RECIPE, init="noise", seed=seed), pool) for seed in (5, 5, 6)]
    assert np.array_equal(results[0].picture.pixels, results[1].picture.pixels)
    assert not np.array_equal(results[0].picture.pixels, results[2].picture.pixels)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_style_moves_the_picture_towards_the_style(pool, recipe):
    result = painted(replace(recipe, steps=15, content_weight=0.0), pool, style=red()).picture.pixels
    before, after = (pixels[..., 0].mean() - pixels[..., 2].mean() for pixels in (picture().pixels, result))
    assert after > before + 0.1


def test_an_unknown_layer_is_refused_before_anything_runs(pool):
    recipe = replace(RECIPE, layers=LayerWeights(style={"relu8_1": 1.0}))
    with pytest.raises(ValueError, match="'relu8_1'"):
        painted(recipe, pool)


def test_too_little_memory_is_refused_before_anything_runs():
    pool = Scattered(SPEC)
    with pytest.raises(ValueError, match="more memory"):
        stylize(picture(), picture(seed=1), RECIPE, pool, budget=budget(pool, 1 << 20))
    assert pool.tasks == []


# Exact tiles change nothing, and neither does where they run


def test_exact_tiles_paint_the_untiled_picture():
    results = [
        painted(replace(RECIPE, size=70, steps=4, tiling=TilingSpec(tiles=tiles, whole=20)), SerialPool(DOUBLE))
        for tiles in ("1", "4", "2x3")
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result.picture.pixels, results[0].picture.pixels, atol=1e-5)
        assert result.loss == pytest.approx(results[0].loss, rel=1e-6)


def test_workers_that_come_and_go_paint_the_same_picture(pool):
    expected = painted(RECIPE, pool)
    result = painted(RECIPE, Scattered(SPEC, 3, 0.5))
    assert np.array_equal(result.picture.pixels, expected.picture.pixels) and result.loss == expected.loss


# Stopped and taken up again


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_from_every_snapshot_of_every_scale_the_run_ends_in_the_same_picture(pool, recipe, optimizer):
    kept, previews = [], []
    recipe = replace(recipe, steps=3, optimizer=optimizer)
    callbacks = RunCallbacks(None, 2, previews.append, 1, lambda snapshot: kept.append(pickle.dumps(snapshot)))
    expected = painted(recipe, pool, callbacks=callbacks)
    snapshots = [pickle.loads(each) for each in kept]
    assert {snapshot.scale for snapshot in snapshots} == {0, 1} and previews
    for snapshot in snapshots:
        result = painted(recipe, pool, resume=snapshot)
        assert np.array_equal(result.picture.pixels, expected.picture.pixels)
        assert result.loss == pytest.approx(expected.loss, rel=1e-12)


# The parts


@pytest.mark.parametrize("size", [(70, 45), (33, 90), (1, 1)])
def test_a_large_style_is_measured_in_tiles_as_in_one_piece(monkeypatch, size):
    style = framed(picture(*size).pixels, size)
    worker = Worker(DOUBLE)
    backbone = worker.backbone("embedded")
    whole = measured_style(style, resolve(RECIPE, backbone), SerialPool(DOUBLE))
    monkeypatch.setattr(module, "STYLE_TILE", 20)
    pool = Scattered(DOUBLE)
    tiled = measured_style(style, resolve(RECIPE, backbone), pool)
    assert len(pool.tasks) > 3
    for name in LAYERS.style:
        torch.testing.assert_close(tiled.grams[name], whole.grams[name], rtol=1e-12, atol=1e-15)
    assert tiled.norms == pytest.approx(whole.norms, rel=1e-12)
    assert tiled.powers == pytest.approx(whole.powers, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_the_next_scale_begins_with_the_image_and_the_state_of_the_last(optimizer):
    pixels = framed(picture(20, 30).pixels, (20, 30)).whole
    image = torch.from_numpy(pixels)[None]
    step = make_optimizer(Recipe(optimizer=optimizer))
    state = step.init(image)
    for factor in (1.0, 0.5):
        image, state = step.step(state, image, factor, factor * image.clone())
    larger = enlarged(pixels, (40, 60))
    assert larger.shape == (3, 60 + 2 * FRAME, 40 + 2 * FRAME) and larger.dtype == np.float32
    assert enlarged(pixels, (20, 30)) is pixels


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_the_loss_of_a_whole_picture_does_not_ask_how_it_was_painted(recipe):
    pool = SerialPool(DOUBLE)
    content, style, generated = picture(), picture(seed=1), picture(48, 36, seed=2)
    worker = Worker(DOUBLE)
    backbone = worker.backbone("embedded")
    resolved, reader = resolve(recipe, backbone), FeatureReader(backbone, LAYERS, torch.float64)
    targets = measured_style(framed(style.pixels, style.size), resolved, pool)
    features = reader.read_content(worker.image(framed(content.pixels, (48, 36)).whole))
    tile = whole_tile(36 + 2 * FRAME, 48 + 2 * FRAME)
    local = LocalObjective(reader, resolved, targets, features, tile)
    expected = local.value(worker.image(framed(generated.pixels, (48, 36)).whole))
    assert whole_loss(content, style, generated, recipe, pool) == pytest.approx(expected, rel=1e-9)


def test_the_loss_of_a_whole_picture_tells_better_from_worse(pool):
    result = painted(replace(RECIPE, steps=10), pool, style=red())
    before, after = (whole_loss(picture(), red(), image, RECIPE, pool) for image in (picture(), result.picture))
    assert after < 0.8 * before
