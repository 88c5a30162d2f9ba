"""Gatys on one image: the objective, its gradient, and the loop."""

from dataclasses import replace

import pytest
import torch
from networks import LAYERS, tiny_backbone

from parallel_nst.gatys import (
    Progress,
    measure_content,
    measure_grams,
    measure_style,
    minimise,
    objective,
    value_and_gradient,
)
from parallel_nst.optimizers import Optimizer, lbfgs, make_optimizer
from parallel_nst.recipe import Recipe

DTYPE = torch.float64
RECIPE = Recipe(style_weight=1.0, content_weight=0.1, tv_weight=0.01)


def picture(seed, size=(24, 20)):
    return torch.rand(1, 3, *size, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def setting():
    backbone = tiny_backbone()
    style = measure_style(backbone, picture(1, (30, 30)), LAYERS, DTYPE)
    content = measure_content(backbone, picture(2), LAYERS.content, DTYPE)
    return backbone, style, content


def loss_of(setting, recipe=RECIPE):
    backbone, style, content = setting
    return objective(backbone, style, content, recipe, LAYERS, DTYPE)


def finish(events):
    """All events of a generator and its value."""
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value


def test_gradient_is_the_derivative_of_the_loss(setting):
    loss, image = loss_of(setting), picture(3)
    _, gradient = value_and_gradient(loss, image)
    direction = picture(4) - 0.5
    ahead, behind = loss(image + 1e-5 * direction), loss(image - 1e-5 * direction)
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-5)


def test_each_loss_is_zero_where_it_should_be(setting):
    backbone, _, content = setting
    only_content = loss_of(setting, replace(RECIPE, style_weight=0.0, tv_weight=0.0))
    assert float(only_content(picture(2))) == 0
    own = measure_style(backbone, picture(3), LAYERS, DTYPE)
    only_style = objective(backbone, own, content, replace(RECIPE, content_weight=0.0, tv_weight=0.0), LAYERS, DTYPE)
    assert float(only_style(picture(3))) == pytest.approx(0, abs=1e-20)


def test_weights_scale_their_losses(setting):
    image = picture(3)
    parts = [
        float(loss_of(setting, replace(RECIPE, style_weight=s, content_weight=c, tv_weight=0.0))(image))
        for s, c in ((1, 0), (0, 1), (2, 3))
    ]
    assert parts[2] == pytest.approx(2 * parts[0] + 3 * parts[1])


def test_losses_do_not_change_when_the_network_is_louder(setting):
    """Style and content losses are ratios, so they travel between networks."""
    backbone, *_ = setting
    louder = tiny_backbone()
    for stage in louder.stages[:1]:
        stage.module.weight.mul_(3), stage.module.bias.mul_(3)
    for stage in louder.stages[2:]:
        if hasattr(stage.module, "bias"):
            stage.module.bias.mul_(3)
    recipe = replace(RECIPE, tv_weight=0.0)
    values = []
    for network in (backbone, louder):
        style = measure_style(network, picture(1, (30, 30)), LAYERS, DTYPE)
        content = measure_content(network, picture(2), LAYERS.content, DTYPE)
        values.append(float(objective(network, style, content, recipe, LAYERS, DTYPE)(picture(3))))
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_measured_grams_are_those_of_the_style(setting):
    backbone, style, _ = setting
    grams = measure_grams(backbone, picture(1, (30, 30)), LAYERS.style, DTYPE)
    for name, gram in grams.items():
        torch.testing.assert_close(gram, style.grams[name])


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_minimise_lowers_the_loss_and_says_so(setting, name):
    loss, start = loss_of(setting), picture(2)
    events, best = finish(minimise(loss, start, make_optimizer(Recipe(optimizer=name)), 30))
    assert events[0] == Progress(1, 30, float(loss(start)))
    assert [event.step for event in events] == list(range(1, 31))
    assert best.loss < 0.7 * events[0].loss
    assert float(loss(best.image)) == pytest.approx(best.loss)
    assert best.image.min() >= 0 and best.image.max() <= 1


def test_a_loss_that_grows_is_never_the_result(setting):
    def away(state, image, loss, gradient):
        return image + gradient.sign(), state

    loss, start = loss_of(setting), picture(2)
    _, best = finish(minimise(loss, start, Optimizer(init=lambda image: None, step=away), 5))
    assert best.loss <= float(loss(start))
    assert torch.equal(best.image, start)


def test_same_start_same_result(setting):
    results = [finish(minimise(loss_of(setting), picture(2), lbfgs(5), 10))[1] for _ in range(2)]
    assert torch.equal(results[0].image, results[1].image)
