"""Discriminators: official sizes and names, and how far a score looks."""

import pytest
import torch

from parallel_nst.networks.discriminators import DISCRIMINATORS, conv5, patchgan


def patch_side(discriminator, side):
    """Rows and columns of the picture that the score in the middle depends on."""
    pictures = torch.rand(1, 3, side, side, dtype=torch.float64).requires_grad_()
    scores = discriminator.double().eval()(pictures)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    seen = pictures.grad.abs().sum((0, 1)) > 0
    return int(seen.any(0).sum()), int(seen.any(1).sum())


def test_patchgan_has_the_official_keys_and_parameters():
    network = patchgan()
    assert sum(weight.numel() for weight in network.parameters()) == 2_764_737
    assert list(network.state_dict()) == [f"model.{n}.{kind}" for n in (0, 2, 5, 8, 11) for kind in ("weight", "bias")]
    assert network(torch.rand(2, 3, 256, 256)).shape == (2, 1, 30, 30)


def test_conv5_has_the_channels_of_its_source():
    shapes = [tuple(value.shape) for key, value in conv5().state_dict().items() if key.endswith("weight")]
    assert shapes == [(16, 3, 3, 3), (64, 16, 3, 3), (256, 64, 3, 3), (256, 256, 3, 3), (1, 256, 3, 3)]


@pytest.mark.parametrize(("build", "side"), [(patchgan, 70), (conv5, 47)])
def test_a_score_is_of_one_patch(build, side):
    """In evaluation mode batch normalisation looks at no other position."""
    assert patch_side(build("batch", 4), 128) == (side, side)


@pytest.mark.parametrize("build", DISCRIMINATORS.values(), ids=DISCRIMINATORS)
def test_pixels_enter_between_minus_one_and_one(build):
    network = build(width=4).double()
    pictures = torch.rand(1, 3, 40, 40, dtype=torch.float64)
    torch.testing.assert_close(network(pictures), network.model(pictures * 2 - 1))


@pytest.mark.parametrize("build", DISCRIMINATORS.values(), ids=DISCRIMINATORS)
def test_batch_normalisation_brings_weights_of_its_own_and_saves_a_bias(build):
    counts = {norm: len(list(build(norm, 4).parameters())) for norm in ("instance", "batch")}
    layers = sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in build("batch", 4).modules())
    assert counts["batch"] == counts["instance"] - layers + 2 * layers


@pytest.mark.parametrize("build", DISCRIMINATORS.values(), ids=DISCRIMINATORS)
def test_an_unknown_normalisation_is_refused(build):
    with pytest.raises(ValueError, match="unknown normalisation 'group'; known: instance, batch"):
        build("group")
