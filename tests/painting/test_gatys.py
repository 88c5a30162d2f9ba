"""Gatys on one image: sums, losses, the gradient, and the loop."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_networks import LAYERS, tiny_backbone

from parallel_nst.errors import Diverged
from parallel_nst.networks.backbones.base import deepest
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.minimise import (
    GROWN,
    PATIENCE,
    Iteration,
    Minimum,
    finish,
    minimise,
    setback,
)
from parallel_nst.painting.gatys.objective import RANGE_WEIGHT, LocalObjective, cotangents, total_loss, weighted_mean
from parallel_nst.painting.gatys.optimizers.averaging import averaging
from parallel_nst.painting.gatys.optimizers.base import Optimizer
from parallel_nst.painting.gatys.optimizers.choice import make_optimizer
from parallel_nst.painting.gatys.optimizers.lbfgs import lbfgs
from parallel_nst.painting.gatys.style import StyleSums, measure_style
from parallel_nst.painting.gatys.sums import pull_back
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.tiles.geometry import plan_tiles, whole_tile
from parallel_nst.recipe import LayerWeights, Recipe

DTYPE = torch.float64
RECIPE = Recipe(style_weight=1.0, content_weight=0.1, tv_weight=0.01)
CUTS = [((24, 20), (2, 2)), ((25, 19), (2, 3)), ((7, 33), (1, 4)), ((40, 40), (3, 3)), ((3, 2), (1, 1))]


def picture(seed, size=(24, 20)):
    return torch.rand(1, 3, *size, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


def style_of(backbone, image, layers=LAYERS):
    size = image.shape[-2:]
    return measure_style(FeatureReader(backbone, layers, DTYPE), image, whole_tile(*size)).targets


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


def objective(backbone, style=None, recipe=RECIPE, layers=LAYERS, size=(24, 20)):
    """style: a picture; None: one of its own size."""
    targets = style_of(backbone, picture(1, (30, 30)) if style is None else style, layers)
    reader = FeatureReader(backbone, layers, DTYPE)
    content = reader.read_content(picture(2, size))
    resolved = resolve(replace(recipe, layers=layers), backbone)
    return LocalObjective(reader, resolved, targets, content, whole_tile(*size))


def loop(loss, start, optimizer, steps):
    """All iterations and what comes of them."""
    first = Iteration.start(start, optimizer.init(start))
    iterations = list(minimise(loss, first, optimizer, steps))
    return iterations, finish(loss, iterations[-1])


def cut_in(tile, image):
    return image[..., tile.read.top : tile.read.bottom, tile.read.left : tile.read.right]


@pytest.mark.parametrize("kind", ["gram", "w2"])
def test_gradient_is_the_derivative_of_the_loss(backbone, kind):
    loss, image = objective(backbone, recipe=replace(RECIPE, style_loss=kind)), picture(3)
    value, gradient = loss.value_and_gradient(image)
    direction = picture(4) - 0.5
    ahead, behind = loss.value(image + 1e-5 * direction), loss.value(image - 1e-5 * direction)
    assert float((gradient * direction).sum()) == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)
    assert value == loss.value(image)


@pytest.mark.parametrize(
    "layers", [LAYERS, LayerWeights({"relu1_1": 1.0, "relu2_2": 3.0, "pool2": 0.0}, {"relu1_2": 2.0, "relu3_1": 1.0})]
)
def test_by_halves_the_gradient_is_that_of_autograd(backbone, layers):
    loss, image = objective(backbone, layers=layers), (2 * picture(3) - 0.5).requires_grad_()
    whole = total_loss(loss.sums(image), loss.style, loss.resolved)
    (expected,) = torch.autograd.grad(whole, image)
    sums = loss.sums(image)
    value, by = cotangents(sums, loss.style, loss.resolved)
    torch.testing.assert_close(pull_back(sums, image, by), expected, rtol=1e-12, atol=1e-18)
    assert value == pytest.approx(float(whole.detach()), rel=1e-14)
    assert all(not tensor.requires_grad for tensor in by.tensors)


def test_a_single_pixel_has_a_gradient(backbone):
    """It has no neighbours, so that its total variation does not hang on it."""
    loss = objective(backbone, size=(1, 1))
    value, gradient = loss.value_and_gradient(picture(3, (1, 1)))
    assert math.isfinite(value) and torch.isfinite(gradient).all() and gradient.abs().max() > 0


@pytest.mark.parametrize(("size", "grid"), CUTS)
def test_sums_over_cores_add_up_to_those_of_the_whole(backbone, size, grid):
    layer = deepest(backbone, {**LAYERS.style, **LAYERS.content})
    tiles = plan_tiles(*size, grid, halo=layer.margin, align=layer.stride)
    image, content = 2 * picture(3, size) - 0.5, picture(2, size)  # parts of it are out of range
    untiled = objective(backbone, size=size)
    whole = untiled.sums(image)
    total = None
    for tile in tiles:
        features = untiled.reader.read_content(cut_in(tile, content))
        part = replace(untiled, content=features, tile=tile).sums(cut_in(tile, image))
        total = part if total is None else total + part
    assert total.positions == whole.positions and total.elements == whole.elements == image.numel()
    for found, expected in zip(total.tensors, whole.tensors, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize(("size", "grid"), CUTS)
def test_a_style_measured_in_tiles_is_the_style_measured_whole(backbone, size, grid):
    layer = deepest(backbone, {**LAYERS.style, **LAYERS.content})
    tiles = plan_tiles(*size, grid, halo=layer.margin, align=layer.stride)
    image = picture(3, size)
    parts = [measure_style(FeatureReader(backbone, LAYERS, DTYPE), cut_in(tile, image), tile) for tile in tiles]
    found, expected = sum_of(parts).targets, style_of(backbone, image)
    for name in LAYERS.style:
        torch.testing.assert_close(found.grams[name], expected.grams[name], rtol=1e-12, atol=1e-15)
    assert found.norms == pytest.approx(expected.norms, rel=1e-12)
    assert found.powers == pytest.approx(expected.powers, rel=1e-12)


def sum_of(parts) -> StyleSums:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def test_a_black_style_has_units_that_can_be_divided_by(backbone):
    silent = tiny_backbone()
    for block in silent.blocks:
        if hasattr(block.module, "bias"):
            block.module.bias.zero_(), block.module.weight.zero_()
    targets = style_of(silent, picture(1))
    assert all(norm > 0 for norm in (*targets.norms.values(), *targets.powers.values()))


def test_sums_keep_their_order_and_their_counts(backbone):
    sums = objective(backbone).sums(picture(3))
    doubled = sums.holding([2 * tensor for tensor in sums.tensors])
    assert (doubled.positions, doubled.elements) == (sums.positions, sums.elements)
    for name in LAYERS.style:
        assert torch.equal(doubled.grams[name], 2 * sums.grams[name])
    assert torch.equal(doubled.content["relu2_2"], 2 * sums.content["relu2_2"])
    assert torch.equal(doubled.variation, 2 * sums.variation)
    assert torch.equal(doubled.excess, 2 * sums.excess)
    assert {tensor.dtype for tensor in sums.to("cpu", torch.float32).tensors} == {torch.float32}


def test_means_and_covariances_are_measured_in_units_of_the_style(backbone):
    """Twice as strong features of both pictures have the same loss."""
    recipe = replace(RECIPE, style_loss="w2", content_weight=0.0, tv_weight=0.0)
    loss = objective(backbone, recipe=recipe, layers=LayerWeights({"relu1_1": 1.0}, LAYERS.content))
    grams = {name: gram.clone() for name, gram in loss.style.grams.items()}
    grams["relu1_1"][:-1, :-1] *= 4
    grams["relu1_1"][:-1, -1] *= 2
    grams["relu1_1"][-1, :-1] *= 2
    powers = {name: 4 * power for name, power in loss.style.powers.items()}
    stronger = replace(loss.style, grams=grams, powers=powers)
    sums = loss.sums(picture(3))
    twice = replace(sums, grams={"relu1_1": sums.grams["relu1_1"] / loss.style.grams["relu1_1"] * grams["relu1_1"]})
    expected = total_loss(sums, loss.style, loss.resolved)
    torch.testing.assert_close(total_loss(twice, stronger, loss.resolved), expected)


def test_each_loss_is_zero_where_it_should_be(backbone):
    only_content = objective(backbone, recipe=replace(RECIPE, style_weight=0.0, tv_weight=0.0))
    assert only_content.value(picture(2)) == 0
    only_style = replace(RECIPE, content_weight=0.0, tv_weight=0.0)
    for kind, rounding in (("gram", 1e-20), ("w2", 1e-12)):
        loss = objective(backbone, picture(3), recipe=replace(only_style, style_loss=kind))
        assert loss.value(picture(3)) == pytest.approx(0, abs=rounding)
    only_variation = objective(backbone, recipe=replace(RECIPE, style_weight=1e-300, content_weight=0.0))
    assert only_variation.value(torch.full_like(picture(3), 0.5)) == pytest.approx(0, abs=1e-20)


def test_total_variation_is_a_mean_over_the_pictures_numbers(backbone):
    image = picture(3)
    recipes = [replace(RECIPE, tv_weight=weight) for weight in (0.0, 7.0)]
    without, with_it = (objective(backbone, recipe=recipe).value(image) for recipe in recipes)
    mean = (image.diff(dim=-1).square().sum() + image.diff(dim=-2).square().sum()) / image.numel()
    assert with_it - without == pytest.approx(7 * float(mean))


def test_weights_scale_their_losses(backbone):
    parts = [
        objective(backbone, recipe=replace(RECIPE, style_weight=s, content_weight=c, tv_weight=0.0)).value(picture(3))
        for s, c in ((1, 0), (0, 1), (2, 3))
    ]
    assert parts[2] == pytest.approx(2 * parts[0] + 3 * parts[1])


def test_what_is_out_of_range_is_paid_for_in_units_of_the_weights(backbone):
    loss, image = objective(backbone), 2 * picture(3) - 0.5
    sums, excess = loss.sums(image), float((image - image.clamp(0, 1)).square().mean())
    free = float(total_loss(replace(sums, excess=0 * sums.excess), loss.style, loss.resolved))
    assert loss.value(image) - free == pytest.approx(RANGE_WEIGHT * 1.1 * excess)


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_what_is_written_is_what_was_optimised(backbone, name):
    """A style of stark contrasts draws the picture out of its range; the clamp at the end costs next to nothing."""
    loss = objective(backbone, picture(1, (30, 30)).round())
    iterations, best = loop(loss, picture(2), make_optimizer(Recipe(optimizer=name)), 60)
    assert best.loss < 1.05 * iterations[-1].best.loss
    assert best.loss < 0.2 * iterations[0].loss


def test_layers_are_weighed_against_one_another():
    terms = {"a": torch.tensor(1.0), "b": torch.tensor(5.0)}
    assert float(weighted_mean(terms, {"a": 3.0, "b": 1.0})) == pytest.approx(2)


def test_losses_do_not_change_when_the_network_is_louder(backbone):
    """Style and content losses are ratios, so they travel between networks."""
    louder = tiny_backbone()
    for block in louder.blocks[:1]:
        block.module.weight.mul_(3), block.module.bias.mul_(3)
    for block in louder.blocks[2:]:
        if hasattr(block.module, "bias"):
            block.module.bias.mul_(3)
    recipe = replace(RECIPE, tv_weight=0.0)
    values = [objective(network, recipe=recipe).value(picture(3)) for network in (backbone, louder)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_the_grams_of_a_picture_are_those_it_would_have_as_a_style(backbone):
    found, expected = objective(backbone).measured(picture(3))[1], style_of(backbone, picture(3)).grams
    assert set(found) == set(LAYERS.style)
    for name, gram in expected.items():
        torch.testing.assert_close(found[name], gram)


def test_a_tile_is_judged_by_its_core_alone(backbone):
    """What lies around it is context: it counts as far as the layers see, and not beyond."""
    size = (64, 64)
    tile = plan_tiles(*size, (2, 2), halo=24, align=4)[0]
    loss = objective(backbone, size=size)
    loss = replace(loss, content=loss.reader.read_content(cut_in(tile, picture(2, size))), tile=tile)
    image = cut_in(tile, picture(3, size))
    _, gradient = loss.value_and_gradient(image)
    reach = deepest(backbone, {**LAYERS.style, **LAYERS.content}).margin
    beyond = gradient[..., tile.core.bottom + reach :, :]
    assert beyond.numel() and not beyond.any()
    assert gradient[..., tile.core.bottom + 1, : tile.core.right].any()


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_minimise_lowers_the_loss_and_says_so(backbone, name):
    loss, start = objective(backbone), picture(2)
    iterations, best = loop(loss, start, make_optimizer(Recipe(optimizer=name)), 30)
    assert iterations[0].loss == loss.value(picture(2))
    assert [iteration.step for iteration in iterations] == list(range(1, 31))
    assert best.loss < 0.7 * iterations[0].loss
    assert loss.value(best.image) == pytest.approx(best.loss)
    assert best.image.min() >= 0 and best.image.max() <= 1


def test_a_loss_that_grows_is_never_the_result(backbone):
    def away(state, image, loss, gradient):
        return image + gradient.sign(), state

    loss, start = objective(backbone), picture(2)
    _, best = loop(loss, start, Optimizer(init=lambda image: None, step=away), 5)
    assert best.loss <= loss.value(start)
    assert torch.equal(best.image, start)


def test_what_is_not_a_number_is_never_the_result(backbone):
    def astray(state, image, loss, gradient):
        return torch.full_like(image, math.nan), state

    loss, start = objective(backbone), picture(2)
    _, best = loop(loss, start, Optimizer(init=lambda image: None, step=astray), 3)
    assert torch.equal(best.image, start) and math.isfinite(best.loss)


def test_the_clamp_is_counted_in(backbone):
    """Of an image out of range the loss is that of its clamped self, not of what was evaluated."""
    loss = objective(backbone)
    outside = 3 * picture(3) - 1
    best = finish(loss, Iteration(outside, None, Minimum(outside, -1.0)))
    assert torch.equal(best.image, outside.clamp(0, 1)) and best.loss == loss.value(best.image)


def test_the_loop_goes_on_where_it_was_stopped(backbone):
    loss, optimizer = objective(backbone), lbfgs(5)
    _, whole = loop(loss, picture(2), optimizer, 8)
    (*_, middle) = minimise(loss, Iteration.start(picture(2), optimizer.init(picture(2))), optimizer, 3)
    rest = list(minimise(loss, middle, optimizer, 8))
    assert [iteration.step for iteration in rest] == [4, 5, 6, 7, 8]
    assert torch.equal(finish(loss, rest[-1]).image, whole.image)


def test_same_start_same_result(backbone):
    results = [loop(objective(backbone), picture(2), lbfgs(5), 10)[1] for _ in range(2)]
    assert torch.equal(results[0].image, results[1].image)


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_a_loss_that_never_is_a_number_is_an_error_at_once(name):
    """Of weights that are not finite, say: no step leads away from there."""
    broken = tiny_backbone()
    broken.blocks[0].module.weight[0, 0, 0, 0] = math.nan
    optimizer = make_optimizer(Recipe(optimizer=name))
    steps = minimise(objective(broken), Iteration.start(picture(3), optimizer.init(picture(3))), optimizer, 5)
    with pytest.raises(Diverged, match="loss is nan") as caught:
        next(steps)
    assert "\n" not in str(caught.value)


def test_an_end_without_any_loss_is_an_error(backbone):
    nowhere = torch.full_like(picture(3), math.nan)
    with pytest.raises(Diverged):
        finish(objective(backbone), Iteration.start(nowhere, None))


def test_a_loss_that_is_lost_on_the_way_is_none(backbone):
    """What was found before it is kept."""
    loss, start = objective(backbone), picture(2)
    steps = iter([start * math.nan])
    optimizer = Optimizer(lambda image: None, lambda state, image, value, gradient: (next(steps, start), state))
    _, best = loop(loss, start, optimizer, 4)
    assert math.isfinite(best.loss)


# A loop that has lost its way


def straying(value):
    """An optimiser that leaves for pictures of this loss, as far as the picture goes, and stays there."""
    return Optimizer(lambda image: None, lambda state, image, loss, gradient: (torch.full_like(image, value), state))


@pytest.mark.parametrize("value", [1e3, math.nan, math.inf])
def test_a_loss_that_has_grown_for_long_ends_the_loop_and_the_best_is_kept(backbone, value):
    loss, start = objective(backbone), picture(2)
    iterations, best = loop(loss, start, straying(value), 500)
    assert len(iterations) == PATIENCE + 1 and iterations[-1].worse == PATIENCE
    assert torch.equal(best.image, start)
    told = setback(iterations[-1], best)
    assert told is not None and (told.step, told.kept) == (PATIENCE + 1, best.loss)
    assert math.isnan(told.loss) or told.loss > GROWN * best.loss


def test_a_loss_that_is_found_again_is_no_setback(backbone):
    loss, start, step = objective(backbone), picture(2), iter(range(100))
    bad = torch.full_like(start, math.nan)
    back = Optimizer(lambda image: None, lambda s, image, v, g: (bad if next(step) < PATIENCE - 1 else start, s))
    iterations, best = loop(loss, start, back, 30)
    assert len(iterations) == 30 and setback(iterations[-1], best) is None


def test_a_loop_that_was_ended_does_not_begin_again(backbone):
    loss = objective(backbone)
    iterations, best = loop(loss, picture(2), straying(math.nan), 500)
    assert list(minimise(loss, iterations[-1], straying(0.5), 500)) == []
    assert torch.equal(finish(loss, iterations[-1]).image, best.image)


def test_a_mean_of_pictures_that_went_astray_is_not_the_result(backbone):
    loss, start = objective(backbone), picture(2)
    _, best = loop(loss, start, averaging(straying(1e3), 0.9), 10)
    assert torch.equal(best.image, start)
