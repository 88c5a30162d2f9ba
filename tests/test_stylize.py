"""The public verb: scales, sizes of every kind, and what the picture carries."""

from dataclasses import replace

import numpy as np
import pytest
from networks import LAYERS, tiny_state

from parallel_nst.images import Picture
from parallel_nst.networks.checkpoints import build_backbone
from parallel_nst.recipe import LayerWeights, Recipe, TilingSpec
from parallel_nst.stylize import FRAME, chosen_layers, framed, plan_scales, stylize, unframed
from parallel_nst.tiles import borders
from parallel_nst.workers import SerialPool, WorkerSpec

RECIPE = Recipe(size=48, steps=2, scales=2, layers=LAYERS, tiling=TilingSpec(tiles="4", overlap=8, whole=40))


@pytest.fixture(scope="module")
def pool():
    return SerialPool(WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()}))


def picture(width=40, height=30, seed=0, **carried):
    return Picture(np.random.default_rng(seed).random((height, width, 3), np.float32), **carried)


def plans(size, recipe=RECIPE, style=(50, 50)):
    return plan_scales(size, style, recipe, LAYERS, build_backbone("embedded", tiny_state()))


def test_coarse_scales_are_whole_and_the_finest_is_in_tiles():
    coarse, fine = plans((400, 300))
    assert (coarse.size, len(coarse.tiles), coarse.steps) == ((34, 26), 1, 3)
    assert (fine.size, len(fine.tiles), fine.steps) == ((48, 36), 4, 2)
    assert (coarse.style_size, fine.style_size) == ((34, 34), (48, 48))


def test_scales_above_the_threshold_are_in_tiles_too():
    recipe = replace(RECIPE, tiling=replace(RECIPE.tiling, whole=20))
    assert [len(plan.tiles) for plan in plans((400, 300), recipe)] == [4, 4]


def test_full_takes_the_contents_own_size():
    assert plans((123, 45), replace(RECIPE, size=0))[-1].size == (123, 45)


def test_style_size_is_its_own():
    assert [p.style_size for p in plans((400, 300), replace(RECIPE, style_size=96))] == [(68, 68), (96, 96)]


@pytest.mark.parametrize("size", [(1, 1), (200, 3), (3, 200), (40, 30), (17, 31)])
@pytest.mark.parametrize("init", ["content", "noise", "style"])
def test_pictures_of_every_size_come_out(pool, size, init):
    result = stylize(picture(*size), picture(9, 9, seed=1), replace(RECIPE, init=init), pool)
    assert max(result.picture.size) == 48
    assert np.isfinite(result.picture.pixels).all()
    assert result.picture.pixels.min() >= 0 and result.picture.pixels.max() <= 1


def test_what_the_content_carries_is_kept(pool):
    alpha = np.linspace(0, 1, 40 * 30, dtype=np.float32).reshape(30, 40)
    content = picture(alpha=alpha, icc=b"profile", exif=b"exif", dpi=(300.0, 300.0), depth=16)
    result = stylize(content, picture(seed=1), RECIPE, pool).picture
    assert (result.icc, result.exif, result.dpi, result.depth) == (b"profile", b"exif", (300.0, 300.0), 16)
    assert result.alpha is not None and result.alpha.shape == (36, 48)
    assert result.alpha[0, 0] < 0.1 < 0.9 < result.alpha[-1, -1]


def test_status_rises_to_the_end(pool):
    seen = []
    stylize(picture(), picture(seed=1), RECIPE, pool, seen.append)
    shares = [status.share for status in seen]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    last = seen[-1]
    assert (last.scale, last.scales, last.tiles_done, last.tiles, last.step, last.steps) == (2, 2, 4, 4, 2, 2)


def test_the_same_recipe_gives_the_same_picture(pool):
    results = [stylize(picture(), picture(seed=1), replace(RECIPE, init="noise", seed=s), pool) for s in (5, 5, 6)]
    assert np.array_equal(results[0].picture.pixels, results[1].picture.pixels)
    assert not np.array_equal(results[0].picture.pixels, results[2].picture.pixels)


def test_style_moves_the_picture_towards_the_style(pool):
    red = Picture(np.random.default_rng(1).random((40, 40, 3), np.float32) * np.float32([1, 0.1, 0.1]))
    recipe = replace(RECIPE, steps=15, content_weight=0.0)
    result = stylize(picture(), red, recipe, pool).picture.pixels
    before, after = (pixels[..., 0].mean() - pixels[..., 2].mean() for pixels in (picture().pixels, result))
    assert after > before + 0.1


def test_a_recipe_without_layers_takes_the_backbones_own():
    own = chosen_layers(replace(RECIPE, layers=LayerWeights(content={"relu1_1": 1.0})), five_blocks())
    assert "relu5_1" in own.style and own.content == {"relu1_1": 1.0}


def test_an_unknown_layer_is_refused_before_anything_runs(pool):
    recipe = replace(RECIPE, layers=LayerWeights(style={"relu8_1": 1.0}))
    with pytest.raises(ValueError, match="'relu8_1'"):
        stylize(picture(), picture(seed=1), recipe, pool)


def five_blocks():
    return build_backbone("embedded", tiny_state(widths=((2, 2), (2, 2), (2, 2, 2), (2, 2, 2), (2, 2))))


def test_frames_come_off_as_they_went_on():
    pixels = picture(23, 17).pixels
    with_frame = framed(pixels, (23, 17))
    assert with_frame.shape == (3, 17 + 2 * FRAME, 23 + 2 * FRAME)
    assert np.array_equal(unframed(with_frame), pixels)


def test_tiles_lie_where_the_picture_has_its_borders():
    tiles = plans((400, 300))[-1].picture_tiles
    rows, columns = borders(tiles)
    assert len(rows) == len(columns) == 1
    assert abs(rows[0] - 18) <= 2 and abs(columns[0] - 24) <= 2
