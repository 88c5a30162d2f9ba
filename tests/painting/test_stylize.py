"""The public verb: pictures of every kind, tiled or whole, stopped and taken up again, and what they carry."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scattered import Scattered
from tiny_networks import LAYERS, tiny_backbone, tiny_state

from parallel_nst.errors import BadInput
from parallel_nst.files import scratch
from parallel_nst.files.images import Picture, fit, resize
from parallel_nst.files.size import Size
from parallel_nst.painting import style_targets as module
from parallel_nst.painting.exact import rank
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.objective import LocalObjective
from parallel_nst.painting.gatys.optimizers.choice import make_optimizer
from parallel_nst.painting.gatys.style import mixed
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import FRAME, enlarged, framed
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.scale_run import RunCallbacks
from parallel_nst.painting.sources import SourcePictures
from parallel_nst.painting.style_targets import content_powers, measured_style
from parallel_nst.painting.stylize import stylize_sources, whole_loss
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
    styles = style if isinstance(style, list) else [style or picture(seed=1)]
    sources = SourcePictures(content or picture(), styles)
    return stylize_sources(sources, recipe, pool, budget=budget(pool), **more)


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
        sources = SourcePictures(picture(), [picture(seed=1)])
        stylize_sources(sources, RECIPE, pool, budget=budget(pool, 1 << 20))
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
    callbacks = RunCallbacks(
        preview_every=2,
        on_preview=previews.append,
        snapshot_every=1,
        on_snapshot=lambda snapshot: kept.append(pickle.dumps(snapshot)),
    )
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
    style = framed(picture(*size).pixels, Size(*size[::-1]))
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
    pixels = framed(picture(20, 30).pixels, Size(30, 20)).whole
    image = torch.from_numpy(pixels)[None]
    step = make_optimizer(Recipe(optimizer=optimizer))
    state = step.init(image)
    for factor in (1.0, 0.5):
        image, state = step.step(state, image, factor, factor * image.clone())
    larger = enlarged(pixels, Size(60, 40))
    assert larger.shape == (3, 60 + 2 * FRAME, 40 + 2 * FRAME) and larger.dtype == np.float32
    assert enlarged(pixels, Size(30, 20)) is pixels


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_the_loss_of_a_whole_picture_does_not_ask_how_it_was_painted(recipe):
    pool = SerialPool(DOUBLE)
    content, style, generated = picture(), picture(seed=1), picture(48, 36, seed=2)
    worker = Worker(DOUBLE)
    backbone = worker.backbone("embedded")
    resolved, reader = resolve(recipe, backbone), FeatureReader(backbone, LAYERS, torch.float64)
    targets = measured_style(framed(style.pixels, style.size), resolved, pool)
    targets = replace(targets, content_powers=content_powers(content, resolved, pool))
    features = reader.read_content(worker.image(framed(content.pixels, Size(36, 48)).whole))
    tile = whole_tile(36 + 2 * FRAME, 48 + 2 * FRAME)
    local = LocalObjective(reader, resolved, targets, features, tile)
    expected = local.value(worker.image(framed(generated.pixels, Size(36, 48)).whole))
    assert whole_loss(content, style, generated, recipe, pool) == pytest.approx(expected, rel=1e-9)


def test_the_loss_of_a_whole_picture_tells_better_from_worse(pool):
    result = painted(replace(RECIPE, steps=10), pool, style=red())
    before, after = (whole_loss(picture(), red(), image, RECIPE, pool) for image in (picture(), result.picture))
    assert after < 0.8 * before


def test_what_a_picture_of_low_contrast_loses_counts_as_much(pool):
    """The content loss is in units of the content's own features, whatever the style's, but for a flat picture."""
    resolved, worker = resolve(RECIPE, tiny_backbone()), Worker(DOUBLE)
    reader = FeatureReader(worker.backbone("embedded"), LAYERS, torch.float64)
    content = picture(40, 30)
    targets = measured_style(framed(picture(seed=1).pixels, Size(30, 40)), resolved, pool)
    ours = replace(targets, content_powers=content_powers(content, resolved, pool))
    for name, features in reader.read_content(worker.image(framed(content.pixels, content.size).whole)).items():
        assert ours.content_unit(name) == pytest.approx(float(features.square().mean()), rel=1e-5)
        assert targets.content_unit(name) == targets.powers[name]
        nothing = replace(targets, content_powers={name: 0.0})
        assert nothing.content_unit(name) == pytest.approx(0.1 * targets.powers[name])


def test_absolute_losses_need_no_unit_of_the_content(pool):
    resolved = resolve(replace(RECIPE, loss_units="absolute"), tiny_backbone())
    assert content_powers(picture(40, 30), resolved, pool) == {}


def test_a_large_content_is_measured_small(pool):
    resolved = resolve(RECIPE, tiny_backbone())
    large = picture(600, 40)
    small = Picture(resize(large.pixels, fit(large.size, 256)))
    assert content_powers(large, resolved, pool) == content_powers(small, resolved, pool)


# Several styles, colours, another beginning


def test_targets_of_several_styles_are_the_mean_of_theirs(pool):
    resolved = resolve(RECIPE, tiny_backbone())
    one, two = (measured_style(framed(picture(seed=seed).pixels, Size(30, 40)), resolved, pool) for seed in (1, 2))
    both = mixed([one, two], [3.0, 1.0])
    for name in LAYERS.style:
        torch.testing.assert_close(both.grams[name], 0.75 * one.grams[name] + 0.25 * two.grams[name])
        assert both.powers[name] == pytest.approx(0.75 * one.powers[name] + 0.25 * two.powers[name])
        assert both.norms[name] == pytest.approx(float(both.grams[name][:-1, :-1].square().sum()))


@pytest.mark.parametrize("kind", ["gram", "w2"])
def test_the_same_style_twice_is_that_style(pool, kind):
    recipe = replace(RECIPE, style_loss=kind)
    once, twice = (painted(recipe, pool, style=style) for style in (red(), [red(), red()]))
    np.testing.assert_allclose(twice.picture.pixels, once.picture.pixels, atol=1e-3)
    other = painted(recipe, pool, style=[red(), picture(seed=1)])
    assert np.abs(other.picture.pixels - once.picture.pixels).max() > 0.01


def test_a_style_of_no_weight_does_not_count(pool):
    recipe = replace(RECIPE, style_weights=(1.0, 0.0))
    alone, beside = painted(RECIPE, pool, style=red()), painted(recipe, pool, style=[red(), picture(seed=1)])
    np.testing.assert_array_equal(beside.picture.pixels, alone.picture.pixels)


@pytest.mark.parametrize("kind", ["gram", "w2"])
def test_several_styles_in_tiles_are_those_in_one_piece(kind):
    pool, recipe = SerialPool(DOUBLE), replace(RECIPE, style_loss=kind, style_weights=(0.7, 0.3))
    cut = painted(recipe, pool, style=[red(), picture(seed=1)])
    whole = painted(replace(recipe, tiling=TilingSpec()), pool, style=[red(), picture(seed=1)])
    assert cut.tiles == 4 and whole.tiles == 1
    assert cut.loss == pytest.approx(whole.loss, rel=1e-7)
    np.testing.assert_allclose(cut.picture.pixels, whole.picture.pixels, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_the_mean_of_the_way_is_painted_in_every_mode(pool, recipe):
    """With a share of almost nothing it is the last picture; with a large one, another."""
    many = replace(recipe, steps=4, optimizer="adam", learning_rate=0.001)
    last, nearly, mean = (painted(replace(many, average=share), pool) for share in (0.0, 1e-7, 0.9))
    np.testing.assert_allclose(nearly.picture.pixels, last.picture.pixels, atol=1e-3)
    assert np.abs(mean.picture.pixels - last.picture.pixels).mean() > 1e-5


def test_the_mean_in_tiles_is_that_in_one_piece():
    pool, recipe = SerialPool(DOUBLE), replace(RECIPE, average=0.9, steps=4)
    cut, whole = painted(recipe, pool), painted(replace(recipe, tiling=TilingSpec()), pool)
    assert cut.loss == pytest.approx(whole.loss, rel=1e-7)
    np.testing.assert_allclose(cut.picture.pixels, whole.picture.pixels, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_colours_can_be_kept_in_every_mode(pool, recipe):
    content, weights = np.array([0.596, -0.274, -0.322], np.float32), np.array([0.299, 0.587, 0.114], np.float32)
    calm = Picture(0.4 + 0.2 * picture(48, 36).pixels)
    free, kept = (painted(replace(recipe, preserve_color=how), pool, calm) for how in ("off", "luminance"))
    assert np.abs((kept.picture.pixels - free.picture.pixels) @ weights).mean() < 0.02
    shifts = [np.abs((made.picture.pixels - calm.pixels) @ content).mean() for made in (kept, free)]
    assert shifts[0] < 0.2 * shifts[1]
    assert painted(replace(recipe, preserve_color="histogram"), pool, calm, red()).loss != free.loss


def test_a_picture_to_begin_with(pool):
    recipe = replace(RECIPE, init="start.png", steps=1, scales=1, tiling=TilingSpec())
    start = Picture(np.full((30, 40, 3), 0.5, np.float32))
    made = [stylize_sources(SourcePictures(picture(), [red()], one), recipe, pool) for one in (start, picture(seed=5))]
    assert np.abs(made[0].picture.pixels - made[1].picture.pixels).max() > 0.1


@pytest.mark.parametrize(
    ("recipe", "styles", "words"),
    [
        (replace(RECIPE, style_weights=(1.0, 2.0, 3.0)), 2, "style_weights has 3 numbers for 2 style pictures"),
        (replace(RECIPE, style_weights=(1.0, 2.0)), 1, "style_weights has 2 numbers for 1 style picture"),
        (replace(RECIPE, init="start.png"), 1, "init is 'start.png'"),
    ],
)
def test_pictures_that_do_not_fit_the_recipe(pool, recipe, styles, words):
    with pytest.raises(BadInput, match=words):
        painted(recipe, pool, style=[red()] * styles)


# A run that loses its way

ASTRAY = {"optimizer": "adam", "learning_rate": 1000.0, "loss_units": "absolute", "style_loss": "gram", "steps": 24}


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_a_run_that_diverges_is_stopped_with_the_best_picture_and_says_so(pool, recipe):
    """From a picture that is as good as can be: itself."""
    calm = Picture(np.full((30, 40, 3), 0.5, np.float32))
    calm.pixels[:, 20:] = 0.52
    recipe = replace(recipe, **ASTRAY, content_weight=1.0, scales=1)
    seen = []
    result = painted(recipe, pool, calm, calm, callbacks=RunCallbacks(on_status=seen.append))
    (note,) = result.notes
    assert note.startswith("scale 1 of 1: the loss grew to ") and "\n" not in note
    assert note.endswith(" was kept; give a smaller learning_rate")
    kept = float(note.split("best picture so far (loss ")[1].split(")")[0])
    assert kept == pytest.approx(result.loss, rel=0.5)  # of a tile, where they are independent
    assert "; stopped after 21 of 24 steps, and the best" in note
    alone = recipe.tiling.mode == "independent" and not recipe.tiling.sync_every
    assert ("in 4 of 4 tiles" in note) == alone
    assert max(status.step for status in seen) == 21
    assert np.abs(result.picture.pixels - 0.51).max() < 0.05  # and not at the ends of the range


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_a_run_that_finds_its_way_has_nothing_to_say(pool, recipe):
    assert painted(replace(recipe, steps=5), pool).notes == ()


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_a_run_that_diverges_goes_on_from_a_snapshot_to_the_same_end(pool, recipe):
    recipe, kept = replace(recipe, **ASTRAY, content_weight=1.0), []
    calm = Picture(np.full((30, 40, 3), 0.5, np.float32))
    every = RunCallbacks(snapshot_every=5, on_snapshot=kept.append)
    whole = painted(recipe, pool, calm, picture(seed=1), callbacks=every)
    for snapshot in (kept[0], kept[-1]):
        again = painted(recipe, pool, calm, picture(seed=1), resume=snapshot)
        assert np.array_equal(again.picture.pixels, whole.picture.pixels) and again.loss == whole.loss


# Large pictures


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no way to take room on the disk here")
@pytest.mark.parametrize("recipe", [*RECIPES, replace(RECIPE, preserve_color="luminance")], ids=[*NAMES, "coloured"])
@pytest.mark.parametrize("size", [(40, 30), (48, 36)])
def test_a_picture_in_files_is_the_one_in_memory(pool, monkeypatch, recipe, size):
    """To the bit, as what is on the way, and the content at its own size."""
    content = picture(*size, alpha=np.ones(size[::-1], np.float32))
    expected = painted(recipe, pool, content).picture
    monkeypatch.setattr(scratch, "LARGE", 1)
    pixels = scratch.room(content.pixels.shape, np.float32)
    pixels[:] = content.pixels
    result = painted(recipe, pool, replace(content, pixels=pixels)).picture
    assert np.array_equal(result.pixels, expected.pixels)
    assert scratch.in_file(result.pixels) == (recipe.tiling.mode == "exact")


def test_the_last_scale_hands_out_nothing_but_the_picture(monkeypatch):
    """What its optimiser has learnt, several times the picture, is for a scale that does not come."""
    names, handed = [], rank.arrays
    monkeypatch.setattr(rank, "arrays", lambda vectors: names.append(set(vectors)) or handed(vectors))
    painted(replace(RECIPE, steps=4, scales=3), SerialPool(SPEC))
    *before, last = names
    assert last == {"image"} and all({"image", "s0", "y0"} <= found for found in before)
