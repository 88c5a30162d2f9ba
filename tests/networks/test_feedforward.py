"""The feed-forward objective on a tiny backbone and generators of a few channels."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from lessons import step_on
from tiny_networks import LAYERS, tiny_backbone
from torch.nn import functional as F

from parallel_nst.networks.generators.files import read_generator, save_generator
from parallel_nst.training.feedforward import (
    Feedforward,
    StyleObjective,
    content_loss,
    cosine,
    gram_means,
    measured_targets,
    style_losses,
    style_picture,
    variation,
)
from parallel_nst.training.settings import FeedforwardSettings

SIDE = 32
ARCHITECTURES = ("transformer", "aonet", "vgg16-decoder")
TINY = FeedforwardSettings(width=2, blocks=1, layers=LAYERS)


def noise(count, seed=0, side=SIDE, dtype=torch.float64):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def objective(dtype=torch.float64, encoder=None, steps=100, **settings):
    return Feedforward(
        replace(TINY, **settings), noise(1, 9, 48, dtype), tiny_backbone(dtype), steps=steps, encoder=encoder
    )


def gradients(module, pictures):
    module.zero_grad()
    module({"images": pictures})["total"].backward()
    return [weight.grad.clone() for weight in module.parameters() if weight.requires_grad]


def halves_differ(built):
    """Largest relative difference of the whole batch's gradient from the mean of its halves'."""
    module, pictures = built.phases[0].module, noise(4)
    whole, first, second = (gradients(module, part) for part in (pictures, pictures[:2], pictures[2:]))
    most = max(float(weight.abs().max()) for weight in whole)
    return max(float((w - (a + b) / 2).abs().max()) for w, a, b in zip(whole, first, second, strict=True)) / most


def train(built, steps):
    """Totals of so many steps on one batch."""
    (phase,), totals = built.phases, []
    for _ in range(steps):
        totals.append(step_on(phase, {"images": noise(2, 1, dtype=torch.float32)}))
    return totals


@pytest.mark.parametrize("formula", ["relative", "raw"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gradient_of_a_batch_is_the_mean_of_its_halves(architecture, formula):
    built = objective(architecture=architecture, formula=formula, tv_weight=0.1)
    assert halves_differ(built) < 1e-10


@pytest.mark.parametrize("architecture", ["transformer", "aonet"])
def test_batch_normalisation_mixes_the_pictures_of_a_batch(architecture):
    assert halves_differ(objective(architecture=architecture, norm="batch")) > 1e-4


@pytest.mark.parametrize("formula", ["relative", "raw"])
def test_the_style_and_the_content_themselves_miss_nothing(formula):
    backbone, settings = tiny_backbone(), replace(TINY, formula=formula)
    style, photos = noise(1, 9), noise(2)
    targets = measured_targets(backbone, style, settings)
    layers = [*LAYERS.style, *LAYERS.content]
    assert float(style_losses(backbone(style.repeat(2, 1, 1, 1), layers), targets, settings)) < 1e-20
    features = backbone(photos, layers)
    assert float(content_loss(features, features, targets, settings)) == 0
    assert float(style_losses(features, targets, settings)) > 1e-20


def test_a_black_picture_misses_the_whole_style():
    """Relative losses are in units of the style: 1 is what no features at all would miss."""
    backbone, style = tiny_backbone(), noise(1, 9)
    targets = measured_targets(backbone, style, TINY)
    nothing = {name: torch.zeros_like(value) for name, value in backbone(style, LAYERS.style).items()}
    assert float(style_losses(nothing, targets, TINY)) == pytest.approx(1, rel=1e-6)


def test_raw_losses_are_those_of_the_pytorch_examples():
    settings = replace(TINY, formula="raw", content_weight=3.0, style_weight=7.0)
    built, photos, style = objective(formula="raw", content_weight=3.0, style_weight=7.0), noise(2), noise(1, 9, 48)
    losses = built.phases[0].module({"images": photos})
    backbone = tiny_backbone()
    painted = built.generator(photos, clamp=False)

    def gram(features):
        count, channels, height, width = features.shape
        rows = features.reshape(count, channels, height * width)
        return rows.bmm(rows.transpose(1, 2)) / (channels * height * width)

    features, wanted = (backbone(x, [*LAYERS.style, *LAYERS.content]) for x in (painted, photos))
    goal = {name: gram(value).repeat(2, 1, 1) for name, value in backbone(style, LAYERS.style).items()}
    content = 3 * F.mse_loss(features["relu2_2"], wanted["relu2_2"])
    total = content + 7 * sum(F.mse_loss(gram(features[name]), goal[name]) for name in LAYERS.style)
    torch.testing.assert_close(losses["content"], content)
    torch.testing.assert_close(losses["total"], total)
    scaled = replace(settings, feature_scale=2.0)
    targets = [measured_targets(backbone, style, chosen) for chosen in (settings, scaled)]
    for loss, power in ((style_losses, 4), (lambda f, *rest: content_loss(f, wanted, *rest), 2)):
        plain, larger = (loss(features, *pair) for pair in zip(targets, (settings, scaled), strict=True))
        torch.testing.assert_close(larger, plain * 2**power)


def test_gram_matrices_are_of_each_picture_by_itself():
    features = torch.rand(3, 5, 4, 6, dtype=torch.float64)
    expected = torch.einsum("nahw,nbhw->nab", features, features) / 24
    torch.testing.assert_close(gram_means(features), expected)


def test_variation_by_hand():
    picture = torch.tensor([[0.0, 1.0], [2.0, -1.0]]).expand(2, 3, 2, 2)
    assert float(variation(picture)) == pytest.approx((1 + 9 + 4 + 4) / 4)


def test_losses_add_up_to_the_total():
    losses = objective(tv_weight=0.5).phases[0].module({"images": noise(2)})
    torch.testing.assert_close(losses["total"], sum(value for name, value in losses.items() if name != "total"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_phase_trains_the_generator_and_nothing_else(architecture):
    built = objective(architecture=architecture)
    (phase,) = built.phases
    assert isinstance(phase.module, StyleObjective)
    assert {id(w) for w in phase.module.parameters()} == {id(w) for w in built.generator.parameters()}
    assert {id(w) for group in phase.optimizer.param_groups for w in group["params"]} == {
        id(w) for w in built.generator.parameters()
    }
    assert not [name for name, _ in phase.module.named_buffers()]


@pytest.mark.parametrize(("architecture", "share"), [("transformer", 0.8), ("aonet", 0.8), ("vgg16-decoder", 0.9)])
def test_thirty_steps_lower_the_loss(architecture, share):
    totals = train(objective(torch.float32, architecture=architecture, width=4, learning_rate=1e-2), 30)
    assert totals[-1] < share * totals[0]


def test_a_seed_decides_all_and_the_global_random_numbers_are_left_alone():
    style, backbone = noise(1, 9, 48, torch.float32), tiny_backbone(torch.float32)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    runs = [train(Feedforward(replace(TINY, seed=seed), style, backbone, steps=9), 4) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pictures_begin_about_the_mean_colour_of_the_style(architecture):
    built = objective(architecture=architecture, width=4)
    painted = built.generator(noise(2), clamp=False).detach()
    colour = noise(1, 9, 48).mean((0, 2, 3))
    assert float((painted.mean((0, 2, 3)) - colour).abs().max()) < 0.2
    assert 0.01 < float(painted.std()) < 0.3


@pytest.mark.parametrize("settings", [{}, {"norm": "batch"}, {"architecture": "aonet"}], ids=str)
def test_what_is_trained_can_be_written_and_read(settings, tmp_path):
    built = objective(torch.float32, **settings)
    train(built, 2)
    save_generator(built.generators["generator"], tmp_path / "g.safetensors")
    read, _ = read_generator(tmp_path / "g.safetensors")
    pictures = noise(1, dtype=torch.float32)
    torch.testing.assert_close(read(pictures), built.sample({"images": pictures}))


def test_half_precision_stays_near_and_its_losses_are_float32():
    module = objective(torch.float32, width=4).phases[0].module
    pictures = {"images": noise(2, dtype=torch.float32)}
    exact = module(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module(pictures)
    rough["total"].backward()
    assert all(value.dtype == torch.float32 for value in rough.values())
    torch.testing.assert_close(rough["total"], exact["total"], rtol=0.05, atol=0)
    assert not torch.equal(rough["total"], exact["total"])


def test_samples_leave_no_trace():
    built = objective(torch.float32, norm="batch")
    before = copy.deepcopy(built.generator.state_dict())
    shown = built.sample({"images": noise(2, dtype=torch.float32)})
    assert shown.shape == (2, 3, SIDE, SIDE) and shown.min() >= 0 and shown.max() <= 1 and not shown.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in built.generator.state_dict().items())
    assert built.generator.training


def vgg16_weights(built):
    """Weights of VGG16's shape for this generator's encoder."""
    return {
        key.replace("encoder", "features"): torch.full_like(value, 0.01)
        for key, value in built.generator.state_dict().items()
        if key.startswith("encoder.") and int(key.split(".")[1]) not in (23, 30)
    }


def test_an_encoder_with_its_weights_stays_as_it_is_up_to_its_twentieth_layer():
    weights = vgg16_weights(objective(architecture="vgg16-decoder"))
    built = objective(torch.float32, weights, architecture="vgg16-decoder", learning_rate=1e-2)
    train(built, 2)
    state = built.generator.state_dict()
    same = {
        key: torch.equal(state[key.replace("features", "encoder")], value.float()) for key, value in weights.items()
    }
    assert {key for key, kept in same.items() if kept} >= {k for k in same if int(k.split(".")[1]) < 20}
    assert not all(same.values())


def test_weights_that_are_not_the_encoders_are_refused():
    weights = vgg16_weights(objective(architecture="vgg16-decoder"))
    with pytest.raises(ValueError, match="transformer-net has none"):
        objective(encoder=weights)
    weights.pop("features.5.weight")
    with pytest.raises(ValueError, match=r"lack features\.5\.weight"):
        objective(encoder=weights, architecture="vgg16-decoder")


def test_the_learning_rate_falls_along_a_cosine():
    share = cosine(100, 0.05)
    assert [share(step) for step in (0, 50, 100, 200)] == pytest.approx([1, 0.525, 0.05, 0.05])
    assert cosine(100, 1.0)(70) == 1


def test_a_style_picture_is_reduced_and_never_enlarged():
    pixels = np.random.default_rng(0).random((60, 90, 3), np.float32)
    assert style_picture(pixels, 30, 20).shape == (1, 3, 30, 45)
    assert style_picture(pixels, 200, 20).shape == style_picture(pixels, 0, 20).shape == (1, 3, 60, 90)
    np.testing.assert_array_equal(style_picture(pixels, 0, 20)[0].numpy(), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("style_size", [0, 40])
def test_a_style_picture_smaller_than_the_crops_is_refused(style_size):
    with pytest.raises(ValueError, match=r"the style picture is 90x60 px .* smaller than the crops of 64 px"):
        style_picture(np.zeros((60, 90, 3), np.float32), style_size, 64)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"architecture": "unet"}, "architecture is 'unet'; allowed: transformer, aonet, vgg16-decoder"),
        ({"formula": "cooked"}, "formula is 'cooked'; allowed: relative, raw"),
        ({"content_weight": 0.0, "style_weight": 0.0}, "are both 0"),
        ({"architecture": "vgg16-decoder", "norm": "batch"}, "knows only instance"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **wrong)


def test_layers_not_named_are_the_backbones_own():
    used = FeedforwardSettings(layers=replace(LAYERS, content={})).layers_used
    assert list(used.content) == ["relu3_3"] and used.style == LAYERS.style
