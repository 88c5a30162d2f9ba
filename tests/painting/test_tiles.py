"""Tiles: partition, adjoint pair, blending, and the figures that find a seam."""

import itertools
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

from parallel_nst.painting.tiles.blend import Blend, feather_mask
from parallel_nst.painting.tiles.geometry import (
    Rect,
    gather,
    grid_of,
    plan_tiles,
    scatter_add,
    squarest_grid,
    whole_tile,
)
from parallel_nst.painting.tiles.seams import borders, step_ratio
from parallel_nst.recipe import TilingSpec

overlap_sharpness = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/sharpness.py"))["overlap_sharpness"]
SIZES = [(1, 1), (3, 200), (64, 64), (97, 131), (256, 100)]
GRIDS = [(1, 1), (2, 2), (3, 1), (2, 5)]
PLANS = [
    (height, width, grid, overlap, halo, align)
    for (height, width), grid in itertools.product(SIZES, GRIDS)
    for overlap, halo, align in [(0, 0, 1), (16, 0, 16), (7, 5, 8), (200, 32, 16)]
]


@pytest.mark.parametrize(("height", "width", "grid", "overlap", "halo", "align"), PLANS)
def test_cores_partition_and_rectangles_are_nested_and_aligned(height, width, grid, overlap, halo, align):
    tiles = plan_tiles(height, width, grid, overlap=overlap, halo=halo, align=align)
    count = np.zeros((height, width), int)
    for index, tile in enumerate(tiles):
        assert tile.index == index
        scatter_add(count, tile.core, np.ones((tile.core.height, tile.core.width), int))
        for inner, outer in ((tile.core, tile.write), (tile.write, tile.read)):
            assert 0 <= outer.top <= inner.top < inner.bottom <= outer.bottom <= height
            assert 0 <= outer.left <= inner.left < inner.right <= outer.right <= width
        assert tile.read.top % align == tile.read.left % align == tile.core.top % align == 0
    assert (count == 1).all()
    assert len(tiles) <= grid[0] * grid[1]


def test_four_tiles_of_a_photograph_by_number():
    first, *_, last = plan_tiles(768, 1024, (2, 2), overlap=64, align=16)
    assert (first.write.height, first.write.width) == (416, 544)
    assert (last.core.top, last.core.left, last.write.top, last.read.left) == (384, 512, 352, 480)


@pytest.mark.parametrize(
    ("count", "height", "width", "grid"),
    [
        (4, 768, 1024, (2, 2)),
        (6, 768, 1024, (2, 3)),
        (6, 1024, 768, (3, 2)),
        (8, 100, 800, (1, 8)),
        (7, 10, 10, (1, 7)),
    ],
)
def test_the_grid_has_the_squarest_tiles(count, height, width, grid):
    assert squarest_grid(count, height, width) in (grid, grid[::-1] if height == width else grid)
    assert grid_of(TilingSpec(tiles=f"{grid[0]}x{grid[1]}"), height, width) == grid


def test_a_whole_picture_is_one_tile_without_borders():
    tile = whole_tile(30, 40)
    assert tile.core == tile.write == tile.read == Rect(0, 0, 30, 40)
    assert tile.core.area == 1200 and borders([tile]) == ([], [])


def test_a_rectangle_within_another_and_back():
    inner, outer = Rect(10, 20, 30, 60), Rect(8, 16, 40, 64)
    assert inner.within(outer) == Rect(2, 4, 22, 44)
    assert (inner.height, inner.width, inner.area) == (20, 40, 800)
    assert inner.moved(-5).moved(5) == inner and inner.moved(3) == Rect(13, 23, 33, 63)


def test_what_a_tile_contributes_can_be_its_core():
    tile = plan_tiles(96, 96, (2, 2), overlap=8, halo=8, align=8)[3]
    assert tile.written.core == tile.written.write == tile.write != tile.core
    assert (tile.written.read, tile.written.index) == (tile.read, tile.index)


def test_a_moved_tile_is_the_same_tile_elsewhere():
    tile = plan_tiles(96, 96, (2, 2), overlap=8, halo=8, align=8)[3]
    moved = tile.moved(-16)
    assert moved.index == tile.index
    assert moved.read.within(moved.core) == tile.read.within(tile.core)
    assert moved.write.within(moved.core) == tile.write.within(tile.core)


@pytest.mark.parametrize("rounds_up", [True, False])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("stride", "align"), [(1, 8), (4, 8), (8, 8)])
def test_the_positions_of_the_cores_partition_a_layer(height, width, grid, stride, align, rounds_up):
    """Whether the layer drops what is left at the end of a picture or gives it a position of its own."""

    def positions(length):
        return -(-length // stride) if rounds_up else length // stride

    count = np.zeros((positions(height), positions(width)), int)
    for tile in plan_tiles(height, width, grid, halo=16, align=align):
        rows, columns = tile.positions(stride)
        top, left = tile.read.top // stride, tile.read.left // stride
        features = count[top : top + positions(tile.read.height), left : left + positions(tile.read.width)]
        features[rows, columns] += 1
    assert (count == 1).all()


def test_gather_is_a_view():
    image = np.zeros((3, 20, 20))
    assert np.shares_memory(gather(image, Rect(2, 3, 9, 8)), image)


def test_gather_and_scatter_add_are_adjoint():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 50, 70))
    tiles = plan_tiles(50, 70, (2, 3), overlap=8, halo=8, align=4)
    pieces = [rng.normal(size=(3, tile.read.height, tile.read.width)) for tile in tiles]
    scattered = np.zeros_like(image)
    for tile, piece in zip(tiles, pieces, strict=True):
        scatter_add(scattered, tile.read, piece)
    gathered = sum(float((gather(image, tile.read) * piece).sum()) for tile, piece in zip(tiles, pieces, strict=True))
    assert gathered == pytest.approx(float((image * scattered).sum()), rel=1e-12)


@pytest.mark.parametrize(("height", "width", "grid", "overlap", "halo", "align"), PLANS)
def test_blending_the_pieces_of_a_picture_gives_the_picture(height, width, grid, overlap, halo, align):
    image = np.random.default_rng(1).random((3, height, width), np.float32)
    blend = Blend((3, height, width), overlap)
    for tile in plan_tiles(height, width, grid, overlap=overlap, halo=halo, align=align):
        blend.add(tile, gather(image, tile.read))
    np.testing.assert_allclose(blend.result(), image, atol=1e-6)


def test_feather_weights_of_two_neighbours_add_up_to_one_and_fall_smoothly():
    left, right = plan_tiles(40, 200, (1, 2), overlap=32)
    total = np.zeros((40, 200), np.float32)
    for tile in (left, right):
        scatter_add(total, tile.write, feather_mask(tile, 32))
    np.testing.assert_allclose(total, 1, atol=1e-6)
    row = feather_mask(left, 32)[0]
    assert (row[:84] == 1).all() and row[-1] < 0.01 and (np.diff(row[84:]) < 0).all()


def test_a_picture_that_is_not_covered_is_no_result():
    first, *_ = plan_tiles(40, 200, (1, 2), overlap=32)
    blend = Blend((3, 40, 200), 32)
    blend.add(first, np.zeros((3, 40, first.read.width), np.float32))
    with pytest.raises(ValueError, match="cover"):
        blend.result()


@pytest.fixture
def texture():
    return np.random.default_rng(2).random((3, 128, 160)).astype(np.float32)


@pytest.fixture
def tiles():
    return plan_tiles(128, 160, (2, 2), overlap=32, align=16)


def test_borders_are_where_cores_meet(tiles):
    assert borders(tiles) == ([64], [80])


def test_step_ratio_is_one_without_a_seam_and_grows_with_it(texture, tiles):
    assert step_ratio(texture, tiles) == pytest.approx(1, abs=0.1)
    ratios = []
    for size in (0.3, 0.6):
        seam = texture.copy()
        seam[:, :, 80:] += size
        ratios.append(step_ratio(seam, tiles))
    assert 1.05 < ratios[0] < ratios[1]


def test_step_ratio_looks_across_borders_only(texture, tiles):
    elsewhere = texture.copy()
    elsewhere[:, :, 40:] += 5
    assert step_ratio(elsewhere, tiles) == pytest.approx(step_ratio(texture, tiles), abs=0.05)


def test_sharpness_is_one_for_texture_and_falls_where_it_is_blurred(texture, tiles):
    assert overlap_sharpness(texture, tiles, 32) == pytest.approx(1, abs=0.05)
    blurred = texture.copy()
    blurred[:, 48:80] = blurred[:, 48:80].mean()
    blurred[:, :, 64:96] = blurred[:, :, 64:96].mean()
    assert overlap_sharpness(blurred, tiles, 32) < 0.5


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 3, 200), (3, 128, 160)])
def test_figures_of_flat_and_thin_pictures_are_numbers_or_nan(shape):
    image = np.zeros(shape, np.float32)
    for tiles in (plan_tiles(*shape[1:], (1, 1)), plan_tiles(*shape[1:], (2, 2), overlap=32)):
        assert math.isnan(step_ratio(image, tiles))
        assert math.isnan(overlap_sharpness(image, tiles, 32))
