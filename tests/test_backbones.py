"""Backbones: the table of layers says the truth about strides and margins."""

import pytest
import torch
from networks import tiny_backbone

from parallel_nst.networks.backbones import VGG, VGG19_WIDTHS, Layer, SqueezeNet, deepest


@pytest.fixture(scope="module")
def small_vgg():
    torch.manual_seed(0)
    return VGG(((4,), (4,), (4,), (4,))).double()


def reach(backbone, name, size=96):
    """Image rows and columns that the middle position of a layer depends on, found by differentiation."""
    image = torch.rand(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = backbone(image.requires_grad_(), [name])[name]
    middle = features.shape[-1] // 2
    # Softplus-like sums let no path die behind a ReLU or a maximum: average over channels and a few draws.
    features[0, :, middle, middle].sum().backward()
    touched = image.grad.abs().sum((0, 1)).nonzero()
    return middle, touched.min().item(), touched.max().item()


@pytest.mark.parametrize("name", ["relu1_1", "pool1", "relu2_1", "relu3_1", "relu4_1"])
def test_vgg_reads_no_further_than_its_margin(small_vgg, name):
    layer = small_vgg.layers[name]
    middle, first, last = reach(small_vgg, name)
    start = middle * layer.stride
    assert start - layer.margin <= first
    assert last < start + layer.stride + layer.margin


@pytest.mark.parametrize("name", ["relu1_2", "relu2_2", "relu3_1"])
def test_features_of_a_tile_with_its_margin_are_the_pictures_own(name):
    backbone = tiny_backbone()
    layer = backbone.layers[name]
    image = torch.rand(1, 3, 80, 72, dtype=torch.float64)
    start, end = 32, 48
    halo = layer.margin
    tile = image[..., start - halo : end + halo, start - halo : end + halo]
    cut = halo // layer.stride
    inside = slice(cut, cut + (end - start) // layer.stride)
    whole = backbone(image, [name])[name][..., start // layer.stride : end // layer.stride, :]
    whole = whole[..., start // layer.stride : end // layer.stride]
    torch.testing.assert_close(backbone(tile, [name])[name][..., inside, inside], whole, rtol=1e-12, atol=1e-12)


def test_margins_of_vgg19_are_those_of_the_literature():
    layers = VGG(VGG19_WIDTHS).layers
    assert layers["relu5_1"] == Layer(stride=16, margin=80, channels=512)  # (receptive field 156 - 16) / 2 = 70
    assert layers["relu4_2"] == Layer(stride=8, margin=40, channels=512)  # (receptive field 84 - 8) / 2 = 38


def test_deepest_covers_every_layer():
    layers = tiny_backbone()
    assert deepest(layers, ["relu1_1", "relu3_1"]).stride == 4
    assert deepest(layers, ["relu1_1", "relu3_1"]).margin >= max(v.margin for v in layers.layers.values())


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (3, 5), (33, 31)])
def test_the_embedded_backbone_takes_any_size(size):
    backbone = tiny_backbone()
    features = backbone(torch.rand(1, 3, *size, dtype=torch.float64), ["relu3_1"])["relu3_1"]
    assert features.shape[-2:] == tuple(-(-length // 4) for length in size)


def test_the_chain_stops_at_the_deepest_layer_asked_for(small_vgg):
    calls = []
    handle = small_vgg.stages[-1].module.register_forward_hook(lambda *_: calls.append(1))
    small_vgg(torch.rand(1, 3, 32, 32, dtype=torch.float64), ["relu1_1"])
    handle.remove()
    assert not calls


def test_an_unknown_layer_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'relu9_9'.*relu1_1"):
        tiny_backbone()(torch.rand(1, 3, 8, 8), ["relu9_9"])


def test_bfloat16_leaves_the_first_convolution_in_float32():
    backbone = tiny_backbone(torch.float32)
    image = torch.rand(1, 3, 32, 32)
    features = backbone(image, ["relu1_1", "relu3_1"], torch.bfloat16)
    assert features["relu1_1"].dtype == torch.float32
    assert features["relu3_1"].dtype == torch.bfloat16
    exact = backbone(image, ["relu3_1"])["relu3_1"]
    torch.testing.assert_close(features["relu3_1"].float(), exact, rtol=0.05, atol=0.05)


def test_squeezenet_has_torchvisions_keys():
    keys = SqueezeNet().state_dict()
    assert {"features.0.weight", "features.3.squeeze.weight", "features.12.expand3x3.bias"} <= set(keys)
    assert not any(key.startswith(("mean", "std")) for key in keys)
