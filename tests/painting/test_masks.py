"""Styles in regions: masked moments, the same picture however it is cut, and masks that cannot be used."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_exact import Setting, pixels_of
from tiny_networks import LAYERS, tiny_resolved, tiny_state

from parallel_nst.errors import BadInput
from parallel_nst.files.images import Picture
from parallel_nst.files.size import Size
from parallel_nst.painting.gatys.features import averaged
from parallel_nst.painting.gatys.losses import ALL, masked_moment_sums, moment_sums
from parallel_nst.painting.gatys.style import measure_style, regional
from parallel_nst.painting.independent.targets import measured_grams, region_shares, tile_targets
from parallel_nst.painting.masks import check_mask, mask_of
from parallel_nst.painting.planning.scales import Framed, framed_masks
from parallel_nst.painting.scale_run import RunCallbacks
from parallel_nst.painting.sources import SourcePictures, check_sources
from parallel_nst.painting.stylize import stylize, stylize_sources
from parallel_nst.painting.tiles.geometry import whole_tile
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.worker import WorkerSpec

DTYPE = torch.float64
SPEC = WorkerSpec("cpu", "float64", 1, {"embedded": tiny_state()})
ROUNDING = {"gram": 1e-12, "w2": 1e-10}  # eigenvalues lose a few digits more
CORES = [ALL, (slice(1, 4), slice(2, None))]


def features_of(seed=0, dtype=DTYPE):
    return torch.rand(1, 5, 6, 7, dtype=DTYPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def soft(height, width, kinds=2, seed=5):
    """Soft masks (H, W, K) that do not add up to anything."""
    return np.random.default_rng(seed).random((height, width, kinds)) ** 2


# Moments


@pytest.mark.parametrize("core", CORES)
def test_masked_moments_are_outer_sums_of_roots(core):
    features, masks = features_of(), torch.from_numpy(soft(6, 7).transpose(2, 0, 1))
    for mask, found in zip(masks, masked_moment_sums(features, masks, core), strict=True):
        rows = features[(..., *core)][0].flatten(1).T
        roots = mask[core].sqrt().flatten()[:, None]
        weighted = torch.cat([roots * rows, roots], 1)
        torch.testing.assert_close(found, weighted.T @ weighted, rtol=1e-13, atol=0)
        assert float(found[-1, -1]) == pytest.approx(float(mask[core].sum()))


@pytest.mark.parametrize("core", CORES)
def test_a_mask_of_ones_changes_nothing_and_one_of_zeros_leaves_nothing(core):
    masks = torch.stack([torch.ones(6, 7, dtype=DTYPE), torch.zeros(6, 7, dtype=DTYPE)])
    ones, zeros = masked_moment_sums(features_of(), masks, core)
    torch.testing.assert_close(ones, moment_sums(features_of(), core), rtol=1e-13, atol=0)
    assert not zeros.any()


@pytest.mark.parametrize("core", CORES)
def test_the_gradient_of_masked_moments_is_that_of_finite_differences(core):
    masks = torch.from_numpy(soft(6, 7).transpose(2, 0, 1))
    masks[0, 2] = 0
    assert torch.autograd.gradcheck(
        lambda x: masked_moment_sums(x, masks, core)[:, :-1], features_of().requires_grad_()
    )  # the corner is the mask's own mass, which no feature changes


def test_long_layers_are_weighted_in_pieces(monkeypatch):
    features, masks = features_of().requires_grad_(), torch.from_numpy(soft(6, 7).transpose(2, 0, 1))

    def both():
        sums = masked_moment_sums(features, masks)
        return sums, torch.autograd.grad(sums.square().sum(), features)[0]

    whole = both()
    monkeypatch.setattr("parallel_nst.painting.gatys.losses.PIECE", 5)
    for found, expected in zip(both(), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)


def test_in_half_precision_moments_are_of_one_mask():
    """A constant mask scales all moments alike, although its root is rounded."""
    features = features_of(dtype=torch.bfloat16)
    (sums,) = masked_moment_sums(features, torch.full((1, 6, 7), 0.3))
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums / sums[-1, -1], moment_sums(features) / 42, rtol=0.01, atol=0)


@pytest.mark.parametrize(("stride", "size"), [(1, (5, 7)), (2, (2, 3)), (2, (3, 4)), (4, (2, 2)), (4, (1, 1))])
def test_a_position_has_the_mean_of_its_pixels(stride, size):
    mask = torch.from_numpy(soft(5, 7, 1).transpose(2, 0, 1))
    found = averaged(mask, stride, Size(*size))
    assert found.shape == (1, *size)
    assert float(found[0, 0, 0]) == pytest.approx(float(mask[0, :stride, :stride].mean()))
    assert float(averaged(torch.ones(1, 5, 7), stride, Size(*size)).min()) == 1


# One objective, however it is cut


class Masked(Setting):
    """Two styles in regions."""

    def __init__(self, size, recipe=None, masks=None, styles=(1, 4)):
        super().__init__(size, recipe=recipe or Recipe(tv_weight=0.3, content_weight=0.1, style_loss="gram"))
        each = []
        for seed in styles:
            image = torch.from_numpy(Framed(pixels_of(seed, 30, 34)).whole)[None]
            each.append(measure_style(self.reader, image, whole_tile(50, 54)).targets)
        self.masks = Framed(soft(*size, len(styles)) if masks is None else masks)
        self.style = regional(each, [1.0] * len(each), self.masks.whole.mean((1, 2)).tolist())

    def local(self):
        masks = self.reader.read_masks(torch.from_numpy(self.masks.whole))
        return replace(super().local(), masks=masks)

    def scale(self, grid, kept=1, **cut):
        return replace(super().scale(grid, kept, **cut), masks=self.masks)


@pytest.mark.parametrize("kind", ["gram", "w2"])
@pytest.mark.parametrize(("ranks", "grid"), [(1, (2, 2)), (2, (1, 2)), (3, (3, 2)), (4, (4, 5))])
@pytest.mark.parametrize("size", [(17, 31), (48, 33)])
def test_a_masked_picture_in_tiles_is_that_in_one_piece(kind, ranks, grid, size):
    setting = Masked(size, Recipe(tv_weight=0.3, content_weight=0.1, style_loss=kind))
    found = setting.painted(grid, ranks)
    whole = setting.painted_whole()
    expected = whole.image[0].numpy()
    assert found.loss == pytest.approx(whole.loss, rel=ROUNDING[kind])
    assert np.linalg.norm(found.pixels - expected) < ROUNDING[kind] * np.linalg.norm(expected)


@pytest.mark.parametrize("units", ["relative", "absolute"])
@pytest.mark.parametrize("kind", ["gram", "w2"])
def test_the_masked_gradient_is_the_derivative_of_the_loss(kind, units):
    loss, image = (setting := Masked((17, 31), Recipe(style_loss=kind, loss_units=units))).local(), setting.image
    value, gradient = loss.value_and_gradient(image)
    direction = torch.from_numpy(pixels_of(9, *image.shape[2:]).transpose(2, 0, 1))[None] - 0.5
    ahead, behind = loss.value(image + 1e-5 * direction), loss.value(image - 1e-5 * direction)
    assert float((gradient * direction).sum()) == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)
    assert value == loss.value(image)


@pytest.mark.parametrize("kind", ["gram", "w2"])
def test_one_style_with_a_mask_of_ones_is_no_mask(kind):
    recipe = Recipe(tv_weight=0.3, style_loss=kind)
    plain = Setting((17, 31), recipe=recipe).painted((2, 2))
    masked = Masked((17, 31), recipe, np.ones((17, 31, 1)), styles=(1,)).painted((2, 2))
    assert masked.loss == pytest.approx(plain.loss, rel=1e-9)
    np.testing.assert_allclose(masked.pixels, plain.pixels, rtol=0, atol=1e-8)


def test_a_style_with_two_halves_of_a_picture_is_met_where_each_half_meets_it():
    """The regions' losses are those of the halves, by their share of the picture."""
    masks = np.zeros((40, 64, 2))
    masks[:, :16, 0] = masks[:, 16:, 1] = 1
    loss = Masked((40, 64), masks=masks, styles=(1, 1)).local()
    sums = loss.sums(Masked((40, 64)).image)
    total = sum(float(sums.grams[f"relu1_1@{k}"][-1, -1]) for k in range(2))
    assert total == pytest.approx(sums.positions["relu1_1"])
    both = sums.grams["relu1_1@0"] + sums.grams["relu1_1@1"]
    whole = Setting((40, 64)).local().sums(Masked((40, 64)).image)
    torch.testing.assert_close(both, whole.grams["relu1_1"], rtol=1e-12, atol=0)


def test_equal_styles_in_masks_that_add_up_paint_much_as_one_style():
    part = soft(40, 64, 1)
    setting = Masked((40, 64), masks=np.concatenate([part, 1 - part], 2), styles=(1, 1))
    masked, plain = setting.local().value(setting.image), Setting((40, 64)).local().value(setting.image)
    assert plain <= masked < 1.5 * plain  # each region is held to the style by itself


@pytest.mark.parametrize("kind", ["gram", "w2"])
def test_what_no_mask_covers_has_no_style(kind):
    masks = np.zeros((64, 64, 1))
    masks[:20] = 1
    setting = Masked((64, 64), Recipe(style_loss=kind, content_weight=0.0), masks, styles=(1,))
    _, gradient = setting.local().value_and_gradient(setting.image * 0.9)
    assert gradient[..., :30, :].abs().max() > 0
    assert gradient[..., 60:74, :].abs().max() == 0  # the frame's mirror image of the first rows lies further down


@pytest.mark.parametrize("kind", ["gram", "w2"])
@pytest.mark.parametrize("value", [1.0, 1 / 65535])
def test_a_region_of_one_pixel_gives_finite_numbers(kind, value):
    masks = np.zeros((17, 31, 2))
    masks[8, 15, 0], masks[..., 1] = value, 1
    setting = Masked((17, 31), Recipe(style_loss=kind), masks)
    loss, gradient = setting.local().value_and_gradient(setting.image)
    assert np.isfinite(loss) and gradient.isfinite().all()


def test_a_style_that_weighs_more_counts_more():
    masks = np.ones((17, 31, 2))
    setting = Masked((17, 31), Recipe(content_weight=0.0, style_loss="gram"), masks)
    targets = setting.style

    def value(weights):
        local = replace(setting.local(), style=replace(targets, regions=weights))
        return local.value(setting.image.clamp(0, 1))

    assert value((2.0, 0.0)) + value((0.0, 2.0)) == pytest.approx(2 * value((1.0, 1.0)))


# Independent tiles


def halves(height, width):
    """Masks (H, W, 2): the left part, and the right."""
    masks = np.zeros((height, width, 2), np.float32)
    masks[:, : width // 3, 0] = masks[:, width // 3 :, 1] = 1
    return masks


def test_the_mean_of_the_own_targets_is_each_regions_style():
    """Weighted by how much of a mask lies in each tile."""
    setting, recipe = Masked((48, 64)), Recipe(tiling=TilingSpec(mode="independent"))
    cut, resolved = setting.scale((2, 3)), tiny_resolved(recipe)
    cut = replace(cut, masks=Framed(halves(48, 64)))
    pixels = setting.image[0].numpy()
    grams = measured_grams(pixels, cut, resolved, SerialPool(SPEC))
    targets = tile_targets(cut, resolved, grams)
    for region, weights in enumerate(region_shares(cut.masks, cut.tiles)):
        assert sum(weights) == pytest.approx(1) and (weights[2 - 2 * region] == 0)
        for name in LAYERS.style:
            key = f"{name}@{region}"
            mean = sum(weight * target[key] for weight, target in zip(weights, targets, strict=True))
            torch.testing.assert_close(mean, cut.style.grams[key], rtol=1e-9, atol=1e-12)


RECIPE = Recipe(size=48, steps=2, step_growth=0.5, scales=2, layers=LAYERS, tiling=TilingSpec(tiles="4", whole=40))
ALONE = replace(RECIPE, tiling=replace(RECIPE.tiling, mode="independent", overlap=8))
PLAIN = replace(ALONE, tiling=replace(ALONE.tiling, targets="plain"))
SYNCHRONISED = replace(ALONE, tiling=replace(ALONE.tiling, sync_every=1))
WHOLE = replace(RECIPE, tiling=TilingSpec())
RECIPES = {"exact": RECIPE, "alone": ALONE, "plain": PLAIN, "synchronised": SYNCHRONISED, "whole": WHOLE}


def picture(height=30, width=40, seed=0):
    return Picture(np.random.default_rng(seed).random((height, width, 3), np.float32))


def coloured(*channels):
    return Picture(np.random.default_rng(1).random((40, 40, 3), np.float32) * np.float32(channels))


def white_where(masks):
    """As pictures."""
    return [Picture(np.repeat(masks[..., k : k + 1], 3, 2)) for k in range(masks.shape[2])]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("kind", ["gram", "w2"])
def test_each_side_takes_the_colours_of_its_style(recipe, kind):
    recipe = replace(recipe, steps=15, content_weight=0.0, style_loss=kind)
    masks = white_where(halves(60, 80))  # of another size than the content
    styles = [coloured(1, 0.1, 0.1), coloured(0.1, 0.1, 1)]
    result = stylize(picture(), styles, recipe, SerialPool(SPEC), masks=masks).picture.pixels
    left, right = result[:, :10].mean((0, 1)), result[:, -20:].mean((0, 1))
    assert left[0] > left[2] + 0.1 and right[2] > right[0] + 0.1


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_mask_of_ones_paints_the_picture_of_one_style(recipe):
    pool, ones = SerialPool(SPEC), white_where(np.ones((3, 4, 1), np.float32))
    plain = stylize(picture(), picture(seed=1), recipe, pool)
    masked = stylize(picture(), picture(seed=1), recipe, pool, masks=ones)
    assert masked.loss == pytest.approx(plain.loss, rel=1e-6)
    np.testing.assert_allclose(masked.picture.pixels, plain.picture.pixels, atol=1e-5)


@pytest.mark.parametrize("name", ["exact", "alone", "synchronised"])
def test_a_masked_run_goes_on_from_a_snapshot(name):
    masks, pool, kept = [mask_of(mask) for mask in white_where(halves(30, 40))], SerialPool(SPEC), []
    sources = SourcePictures(picture(), [picture(seed=1), picture(seed=2)], masks=masks)
    paint = lambda **more: stylize_sources(sources, RECIPES[name], pool, **more)  # noqa: E731
    whole = paint(callbacks=RunCallbacks(snapshot_every=1, on_snapshot=kept.append))
    assert len(kept) > 3
    for snapshot in kept[:: len(kept) - 2]:
        again = paint(resume=snapshot)
        assert np.array_equal(again.picture.pixels, whole.picture.pixels) and again.loss == whole.loss


def test_tiles_without_a_style_have_none_of_it():
    """In double precision, too, no number comes of a mask that is nowhere in a tile."""
    masks = np.zeros((30, 40, 2), np.float32)
    masks[:4, :4, 0] = masks[4:, :, 1] = 1
    for recipe in RECIPES.values():
        made = stylize(
            picture(), [picture(seed=1), picture(seed=2)], recipe, SerialPool(SPEC), masks=white_where(masks)
        )
        assert np.isfinite(made.loss) and np.isfinite(made.picture.pixels).all()


# Masks that cannot be used


def test_a_mask_is_the_lightness_of_a_picture():
    mask = mask_of(Picture(np.float32([[[1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5]]])))
    np.testing.assert_allclose(mask, [[1, 0, 0.5]], atol=1e-6)


@pytest.mark.parametrize("size", [(100, 75), (4, 3), (302, 225), (50, 38), (3, 2)])
def test_masks_of_any_size_and_the_contents_shape_are_taken(size):
    check_mask("mask 1", np.ones(size[::-1], np.float32), Size(300, 400))


@pytest.mark.parametrize(
    ("mask", "line"),
    [
        (
            np.ones((75, 110)),
            "mask 1 has 110x75 px, and the content 400x300; give a mask of the same ratio of width and height, of any "
            "size",
        ),
        (
            np.zeros((3, 4)),
            "mask 1 is black all over, so that its style would be nowhere; paint white where it is to be",
        ),
        (np.full((3, 4), 1.5), "mask 1 has values outside 0 to 1 or is no plane; give rows of numbers from 0 to 1"),
        (np.full((3, 4), np.nan), "mask 1 has values outside 0 to 1 or is no plane; give rows of numbers from 0 to 1"),
        (np.ones((3, 4, 3)), "mask 1 has values outside 0 to 1 or is no plane; give rows of numbers from 0 to 1"),
    ],
)
def test_a_mask_that_is_none_is_refused_in_one_line(mask, line):
    with pytest.raises(BadInput) as caught:
        check_mask("mask 1", mask, Size(300, 400))
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("styles", "masks", "recipe", "line"),
    [
        (1, 2, RECIPE, "masks are 2 for 1 style pictures; give one mask for each style, or none"),
        (3, 2, RECIPE, "masks are 2 for 3 style pictures; give one mask for each style, or none"),
        (
            1,
            1,
            replace(RECIPE, style_weight=0.0),
            "masks have no effect with style_weight 0; give it a value above 0, or leave them out",
        ),
    ],
)
def test_masks_that_do_not_fit_the_styles_are_refused(styles, masks, recipe, line):
    sources = SourcePictures(picture(), [picture()] * styles, masks=[np.ones((3, 4), np.float32)] * masks)
    with pytest.raises(BadInput) as caught:
        check_sources(sources, recipe)
    assert str(caught.value) == line


def test_masks_are_resized_and_framed_together():
    masks = [np.ones((3, 4), np.float32), np.zeros((30, 40), np.float32)]
    found = framed_masks(masks, Size(6, 8)).whole
    assert found.shape[0] == 2 and found[0].min() == 1 and found[1].max() == 0
    assert framed_masks([], Size(6, 8)) is None
