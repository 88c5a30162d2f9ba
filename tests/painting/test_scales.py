"""The scales of a picture: its frame, their sizes and steps, and how each is cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import LAYERS, tiny_backbone, tiny_state

from parallel_nst.files.images import Picture
from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.base import deepest
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import (
    FRAME,
    Framed,
    final_size,
    first_image,
    framed,
    framed_size,
    most_tiles,
    plan_scales,
    settled,
    unframed,
)
from parallel_nst.painting.planning.tilings import Budget, exact_tiling, sooner_alone
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.sources import SourcePictures
from parallel_nst.painting.tiles.geometry import Rect
from parallel_nst.painting.tiles.seams import borders
from parallel_nst.recipe import LayerWeights, Recipe, TilingSpec

RECIPE = Recipe(size=48, steps=2, step_growth=0.5, scales=2, layers=LAYERS, tiling=TilingSpec(tiles="4", whole=40))
LARGE = Recipe(size=800, scales=4, layers=LAYERS, tiling=TilingSpec(mode="independent", overlap=16, whole=300))
LAYER = deepest(tiny_backbone(), {**LAYERS.style, **LAYERS.content})
PLENTY = 1 << 36


def budget(workers=2, memory=PLENTY):
    return Budget(workers, memory, profile(tiny_backbone(torch.float32), LAYERS.style, LAYERS.content, torch.float32))


def plans(size, recipe=RECIPE, style=(50, 50), **more):
    return plan_scales(Size(*size), Size(*style), resolve(recipe, tiny_backbone()), budget(**more))


def pixels_of(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


# The frame


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (15, 17), (33, 20)])
def test_a_framed_picture_is_padded_with_its_mirror_image(size):
    pixels = pixels_of(*size)
    expected = np.pad(pixels, ((FRAME, FRAME), (FRAME, FRAME), (0, 0)), mode="symmetric").transpose(2, 0, 1)
    picture = Framed(pixels)
    assert picture.size == expected.shape[1:]
    assert np.array_equal(picture.whole, expected)
    rng = np.random.default_rng(1)
    for _ in range(60):
        (top, bottom), (left, right) = (sorted(rng.choice(n + 1, 2, replace=False)) for n in picture.size)
        assert np.array_equal(picture.read(Rect(top, left, bottom, right)), expected[:, top:bottom, left:right])


def test_inside_a_picture_nothing_is_copied():
    pixels = pixels_of(20, 30)
    picture = Framed(pixels)
    everything = Rect(FRAME, FRAME, FRAME + 20, FRAME + 30)
    assert np.shares_memory(picture.read(everything), pixels)
    assert np.shares_memory(picture.read(Rect(FRAME + 3, FRAME + 4, FRAME + 9, FRAME + 5)), pixels)
    assert not np.shares_memory(picture.read(Rect(FRAME - 1, FRAME, FRAME + 20, FRAME + 30)), pixels)
    assert not np.shares_memory(picture.whole, pixels)


def test_frames_come_off_as_they_went_on():
    pixels = pixels_of(17, 23)
    assert np.array_equal(unframed(framed(pixels, Size(17, 23)).whole), pixels)


def test_only_a_picture_of_another_size_is_resized():
    pixels = pixels_of(17, 23)
    everything = Rect(FRAME, FRAME, FRAME + 17, FRAME + 23)
    assert np.shares_memory(framed(pixels, Size(17, 23)).read(everything), pixels)
    assert framed(pixels, Size(34, 46)).size == (34 + 2 * FRAME, 46 + 2 * FRAME)


# Sizes, steps, layers, the first image


def test_coarse_scales_are_whole_and_the_finest_is_in_tiles():
    coarse, fine = plans((300, 400))
    assert (coarse.size, len(coarse.tiles), coarse.steps, coarse.exact) == ((26, 34), 1, 3, True)
    assert (fine.size, len(fine.tiles), fine.steps, fine.exact) == ((36, 48), 4, 2, True)
    assert (coarse.style_size, fine.style_size) == ((34, 34), (48, 48))


def test_scales_above_the_threshold_are_in_tiles_too():
    recipe = replace(RECIPE, tiling=replace(RECIPE.tiling, whole=20))
    assert [len(plan.tiles) for plan in plans((300, 400), recipe)] == [4, 4]


def test_a_coarse_scale_is_whole_where_one_process_paints_it_sooner():
    """With the threads of all workers, and unless it is the finest."""
    resolved = resolve(replace(RECIPE, tiling=replace(RECIPE.tiling, whole=20)), tiny_backbone())
    for threads, expected in ((1, [4, 4]), (2, [1, 4]), (8, [1, 4])):
        found = plan_scales(Size(300, 400), Size(50, 50), resolved, replace(budget(), threads_alone=threads))
        assert [len(plan.tiles) for plan in found] == expected


@pytest.mark.parametrize(
    ("side", "workers", "memory", "expected"),
    [(100, 2, PLENTY, True), (4000, 2, PLENTY, False), (4000, 16, PLENTY, False), (400, 2, 450 << 20, False)],
)
def test_workers_are_sooner_where_they_are_many_or_their_halos_thin(side, workers, memory, expected):
    size, given = Size(side, side), replace(budget(workers, memory), threads_alone=workers)
    assert sooner_alone(size, exact_tiling(size, given, RECIPE, LAYER), given, RECIPE) == expected


def test_without_a_number_of_tiles_a_small_picture_stays_whole():
    assert [len(plan.tiles) for plan in plans((300, 400), replace(RECIPE, size=40, tiling=TilingSpec(whole=40)))] == [
        1,
        1,
    ]


def test_full_takes_the_contents_own_size():
    recipe = replace(RECIPE, size=0)
    assert plans((45, 123), recipe)[-1].size == final_size(Size(45, 123), recipe) == (45, 123)


@pytest.mark.parametrize("size", [(1, 1), (4000, 3), (3, 4000), (640, 480)])
def test_the_finest_scale_has_the_final_size(size):
    assert plans(size)[-1].size == final_size(Size(*size), RECIPE)


def test_a_style_is_never_enlarged_unless_asked_to_be():
    assert [p.style_size for p in plans((300, 400), style=(20, 40))] == [(17, 34), (20, 40)]
    assert [p.style_size for p in plans((300, 400), style=(12, 9))] == [(12, 9), (12, 9)]
    asked = replace(RECIPE, style_size=48)
    assert [p.style_size for p in plans((300, 400), asked, style=(20, 40))] == [(17, 34), (24, 48)]


def test_style_size_is_its_own():
    assert [p.style_size for p in plans((300, 400), replace(RECIPE, style_size=96))] == [(68, 68), (96, 96)]


def test_the_scale_of_the_style_multiplies_its_size_at_every_scale():
    half, twice = (replace(RECIPE, style_scale=factor) for factor in (0.5, 2.0))
    assert [p.style_size for p in plans((300, 400), half)] == [(17, 17), (24, 24)]
    assert [p.style_size for p in plans((300, 400), twice, style=(20, 40))] == [(34, 68), (40, 80)]


def test_work_counts_every_px_that_is_read():
    plan = plans((300, 400))[-1]
    assert plan.work == plan.steps * sum(tile.read.area for tile in plan.tiles)


def test_a_recipe_without_layers_takes_the_backbones_own():
    five_blocks = build_backbone("embedded", tiny_state(widths=((2, 2), (2, 2), (2, 2, 2), (2, 2, 2), (2, 2))))
    resolved = resolve(replace(RECIPE, layers=LayerWeights(content={"relu1_1": 1.0})), five_blocks)
    own = resolved.layers
    assert "relu5_1" in own.style and own.content == {"relu1_1": 1.0}


def test_an_unknown_layer_is_refused():
    with pytest.raises(ValueError, match="'relu8_1'"):
        resolve(replace(RECIPE, layers=LayerWeights(style={"relu8_1": 1.0})), tiny_backbone())


def test_the_first_image_is_what_was_asked_for():
    content, style = Picture(np.full((9, 8, 3), 0.25, np.float32)), Picture(np.full((5, 5, 3), 0.75, np.float32))
    sources = SourcePictures(content, [style], Picture(np.full((3, 7, 3), 0.5, np.float32)))
    for init, value in (("content", 0.25), ("style", 0.75), ("other.png", 0.5)):
        image = first_image(sources, replace(RECIPE, init=init), Size(30, 20)).picture()
        assert image.shape == (30, 20, 3)
        np.testing.assert_allclose(image, value, atol=1e-6)
    noises = [replace(RECIPE, init="noise", seed=seed) for seed in (1, 1, 2)]
    noise = [first_image(sources, recipe, Size(30, 20)).picture() for recipe in noises]
    assert np.array_equal(noise[0], noise[1]) and not np.array_equal(noise[0], noise[2])
    assert noise[0].min() >= 0 and noise[0].max() <= 1 and noise[0].std() > 0.1 and noise[0].dtype == np.float32


def test_a_picture_that_has_the_size_is_not_copied_to_begin_with():
    content = Picture(np.full((9, 8, 3), 0.25, np.float32))
    assert first_image(SourcePictures(content, [content]), RECIPE, Size(9, 8)).picture() is content.pixels


# The cut


def test_tiles_lie_where_the_picture_has_its_borders():
    tiles = plans((300, 400))[-1].picture_tiles
    rows, columns = borders(tiles)
    assert len(rows) == len(columns) == 1
    assert abs(rows[0] - 18) <= 2 and abs(columns[0] - 24) <= 2


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_exact_tiles_have_the_halo_that_the_layers_ask_for(workers):
    recipe = replace(LARGE, tiling=TilingSpec(whole=300))
    for plan in plans((700, 900), recipe, workers=workers):
        height, width = framed_size(plan.size)
        assert plan.exact and plan.kept >= 1
        for tile in plan.tiles:
            assert tile.core.top % LAYER.stride == tile.core.left % LAYER.stride == 0
            assert tile.core.top - tile.read.top >= min(tile.core.top, LAYER.margin)
            assert tile.read.right - tile.core.right >= min(width - tile.core.right, LAYER.margin)
            assert tile.read.bottom - tile.core.bottom >= min(height - tile.core.bottom, LAYER.margin)


def test_independent_tiles_share_their_overlap_and_have_no_halo():
    *_, fine = plans((700, 900), LARGE, workers=4)
    assert not fine.exact and len(fine.tiles) >= 4
    first, second = fine.tiles[:2]
    assert first.write.right - second.write.left == 16
    assert all(tile.read.area >= tile.write.area for tile in fine.tiles)
    assert [plan.exact for plan in plans((700, 900), LARGE)] == [True, False, False, False]


@pytest.mark.parametrize("mode", ["exact", "independent"])
def test_less_memory_makes_smaller_tiles_and_too_little_is_one_line(mode):
    recipe = replace(LARGE, scales=1, tiling=replace(LARGE.tiling, mode=mode))
    (roomy,), (tight,) = (plans((700, 900), recipe, workers=1, memory=memory) for memory in (PLENTY, 500 << 20))
    assert max(t.read.area for t in tight.tiles) < max(t.read.area for t in roomy.tiles)
    with pytest.raises(ValueError, match="more memory") as caught:
        plans((700, 900), recipe, memory=100 << 20)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tiles", ["auto", "1", "5", "2x3"])
@pytest.mark.parametrize("mode", ["exact", "independent"])
@pytest.mark.parametrize("size", [(700, 900), (3, 300), (100, 200)])
def test_no_scale_has_more_tiles_than_were_announced(tiles, mode, size):
    recipe = replace(LARGE, size=0, tiling=replace(LARGE.tiling, tiles=tiles, mode=mode))
    most = most_tiles(Size(*size), recipe)
    assert (most is None) == (tiles == "auto" and max(size) > recipe.tiling.whole)
    if most is not None:
        assert max(len(plan.tiles) for plan in plans(size, recipe)) <= most


def test_independent_tiles_that_were_chosen_are_written_down():
    def settle(recipe, workers=3):
        return settled(Size(700, 900), resolve(recipe, tiny_backbone()), budget(workers)).recipe

    found = settle(LARGE)
    assert found.tiling.tiles != "auto" and replace(found, tiling=replace(found.tiling, tiles="auto")) == LARGE
    assert settle(found) == found
    here = plans((700, 900), LARGE, workers=3)[-1].tiles
    assert plans((700, 900), found, workers=1)[-1].tiles == here
    assert plans((700, 900), LARGE, workers=12)[-1].tiles != here
    for other in (
        TilingSpec(mode="exact"),
        TilingSpec(mode="independent", tiles="3"),
        TilingSpec("independent", whole=900),
    ):
        recipe = replace(LARGE, tiling=other)
        assert settle(recipe) == recipe
