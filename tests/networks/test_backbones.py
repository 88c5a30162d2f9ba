"""Backbones: the table of layers says the truth about strides and margins."""

import pytest
import torch
from public_networks import NETWORKS, drawn, network_of
from tiny_networks import tiny_backbone

from parallel_nst.networks.backbones.base import Layer, deepest
from parallel_nst.networks.backbones.embedded import Embedded
from parallel_nst.networks.backbones.resnet import ResNet
from parallel_nst.networks.backbones.squeezenet import SqueezeNet
from parallel_nst.networks.backbones.vgg import VGG, VGG16_WIDTHS, VGG19_WIDTHS
from parallel_nst.painting.tiles.geometry import gather, plan_tiles, scatter_add

ROUNDING = 1e-12  # relative, in double precision: sums of other lengths are added up in another order


def random_image(height, width, dtype=torch.float64):
    return torch.rand(1, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


def features_and_gradient(backbone, names, image, cotangents):
    """Features, and the gradient of their products with `cotangents`: (name, features) -> numbers of their shape."""
    image = image.clone().requires_grad_()
    features = backbone(image, names)
    products = sum((value * cotangents(name, value)).sum() for name, value in features.items())
    return {name: value.detach() for name, value in features.items()}, torch.autograd.grad(products, image)[0]


def core_of_picture(tile, stride, height, width):
    """The positions of a picture's features that belong to a tile: all that are left where the picture ends."""
    core = tile.core
    return (
        ...,
        slice(core.top // stride, None if core.bottom == height else core.bottom // stride),
        slice(core.left // stride, None if core.right == width else core.right // stride),
    )


def tiling_error(backbone, names, image, grid, short=0):
    """Greatest relative error of features and of the gradient, put together from tiles; and how many tiles there are.

    short: by how many strides the halo falls short of the margin.
    """
    layer, size = deepest(backbone, names), image.shape[-2:]
    generator = torch.Generator().manual_seed(2)
    drawn_for = {n: torch.randn(f.shape, generator=generator) for n, f in backbone(image, names).items()}
    whole, gradient = features_and_gradient(backbone, names, image, lambda name, _: drawn_for[name])
    covered = {name: torch.zeros_like(value) for name, value in whole.items()}
    error, total = 0.0, torch.zeros_like(gradient).numpy()
    tiles = plan_tiles(*size, grid, halo=layer.margin - short * layer.stride, align=layer.stride)
    for tile in tiles:
        at = {name: core_of_picture(tile, backbone.layers[name].stride, *size) for name in names}
        inside = {name: (..., *tile.positions(backbone.layers[name].stride)) for name in names}

        def only_core(name, value, at=at, inside=inside):
            cotangent = torch.zeros_like(value)
            cotangent[inside[name]] = drawn_for[name][at[name]]
            return cotangent

        piece = torch.from_numpy(gather(image.numpy(), tile.read))
        features, back = features_and_gradient(backbone, names, piece, only_core)
        scatter_add(total, tile.read, back.numpy())
        for name, value in features.items():
            covered[name][at[name]] += 1
            error = max(error, relative(value[inside[name]] - whole[name][at[name]], whole[name]))
    assert all((value == 1).all() for value in covered.values())
    return error, relative(torch.from_numpy(total) - gradient, gradient), len(tiles)


def relative(difference, reference):
    """Greatest difference over the greatest value; 0 where there is nothing to compare."""
    return float(difference.abs().max() / reference.abs().max()) if difference.numel() else 0.0


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


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(("size", "grid"), [((35, 401), (1, 6)), ((25, 513), (1, 9)), ((161, 97), (4, 2))])
def test_tiles_with_their_halo_give_the_pictures_features_and_gradient(kind, size, grid):
    features, gradient, tiles = tiling_error(*network_of(kind), random_image(*size), grid)
    assert tiles > 4
    assert features <= ROUNDING
    assert gradient <= ROUNDING


@pytest.mark.parametrize("kind", NETWORKS)
def test_features_of_a_flat_picture_in_tiles_are_its_own(kind):
    """Features only: where a maximum has several equal places, rounding decides which of them gets the gradient."""
    flat = torch.full((1, 3, 35, 321), 1.0, dtype=torch.float64)
    assert tiling_error(*network_of(kind), flat, (1, 6))[0] <= ROUNDING


@pytest.mark.parametrize("kind", ["average", "embedded"])
def test_average_pooling_has_the_gradient_of_a_flat_picture_too(kind):
    flat = torch.full((1, 3, 35, 321), 1.0, dtype=torch.float64)
    assert tiling_error(*network_of(kind), flat, (1, 6))[1] <= ROUNDING


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_halo_one_stride_smaller_is_not_enough(kind):
    features, gradient, _ = tiling_error(*network_of(kind), random_image(35, 640), (1, 9), short=1)
    assert features > 1e-6
    assert gradient > 1e-6


@pytest.mark.parametrize("kind", NETWORKS)
def test_each_layer_by_itself_is_exact_at_its_own_margin(kind):
    backbone, _ = network_of(kind)
    image = random_image(23, 331)
    for name in backbone.layers:
        assert max(tiling_error(backbone, [name], image, (1, 4))[:2]) <= ROUNDING, name


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_remainder_of_a_side_by_the_stride_is_exact(kind):
    backbone, names = network_of(kind)
    least, stride = backbone.least_side(names), deepest(backbone, names).stride
    for remainder in range(stride):
        size = (least + remainder % 2, 8 * stride + remainder)
        assert max(tiling_error(backbone, names, random_image(*size), (1, 8))[:2]) <= ROUNDING, size


@pytest.mark.parametrize("kind", NETWORKS)
def test_below_its_least_side_a_layer_has_no_position(kind):
    backbone, _ = network_of(kind)
    for number, name in enumerate(backbone.layers):
        least = backbone.least_side([name])
        assert backbone(random_image(least, least + 1), [name])[name].shape[-2] == 1
        if least > 1:
            with pytest.raises(ValueError, match=rf"{least + 1}x{least - 1} px is too small.*at least {least} px"):
                backbone(random_image(least - 1, least + 1), [name])
            with pytest.raises(RuntimeError):
                x = random_image(least - 1, least + 1)
                for block in backbone.blocks[: number + 1]:
                    x = block.module(x)


@pytest.mark.parametrize(
    "backbone", [VGG(VGG16_WIDTHS), VGG(VGG19_WIDTHS), ResNet(), SqueezeNet()], ids=lambda b: type(b).__name__
)
def test_a_tile_of_one_pixel_with_its_halo_is_large_enough(backbone):
    assert all(backbone.least_side([name]) <= layer.margin + 1 for name, layer in backbone.layers.items())


def test_margins_of_vgg19_are_those_of_the_literature():
    layers = VGG(VGG19_WIDTHS).layers
    assert layers["relu5_1"] == Layer(stride=16, margin=80, channels=512)  # (receptive field 156 - 16) / 2 = 70
    assert layers["relu4_2"] == Layer(stride=8, margin=40, channels=512)  # (receptive field 84 - 8) / 2 = 38


def test_margins_of_resnet50_follow_from_its_receptive_fields():
    """Receptive fields 91, 267 and 427 px. Their middle is the first row of a position's stride, not its middle, so a
    position reaches (field - 1) / 2 upwards: 45, 133 and 213 px."""
    layers = ResNet().layers
    assert layers["conv3_block4"] == Layer(stride=8, margin=48, channels=512)
    assert layers["conv4_block6"] == Layer(stride=16, margin=144, channels=1024)
    assert layers["conv5_block3"] == Layer(stride=32, margin=224, channels=2048)


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
    handle = small_vgg.blocks[-1].module.register_forward_hook(lambda *_: calls.append(1))
    small_vgg(torch.rand(1, 3, 32, 32, dtype=torch.float64), ["relu1_1"])
    handle.remove()
    assert not calls


def test_an_unknown_layer_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'relu9_9'.*relu1_1"):
        tiny_backbone()(torch.rand(1, 3, 8, 8), ["relu9_9"])


@pytest.mark.parametrize("kind", NETWORKS)
def test_bfloat16_leaves_the_first_convolution_in_float32(kind):
    backbone, names = network_of(kind, torch.float32)
    image = random_image(64, 64, torch.float32).requires_grad_()
    first = backbone.blocks[0].name
    features = backbone(image, [first, *names], torch.bfloat16)
    exact = backbone(image, [first, *names])
    assert torch.equal(features[first], exact[first])
    for name in names[2:]:
        assert features[name].dtype == torch.bfloat16
        assert (features[name].float() - exact[name]).norm() < 0.1 * exact[name].norm()
    (gradient,) = torch.autograd.grad(features[names[-1]].float().square().sum(), image)
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize("kind", NETWORKS)
def test_channels_last_goes_through_and_changes_nothing(kind):
    backbone, names = network_of(kind)
    image = random_image(67, 70)
    plain = backbone(image, names)
    last = backbone.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last), names)
    for name, features in last.items():
        assert features.is_contiguous(memory_format=torch.channels_last)
        assert relative(features - plain[name], plain[name]) <= ROUNDING


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_layer_is_overwritten_by_those_after_it(kind):
    backbone, _ = network_of(kind)
    image = random_image(40, 44)
    together = backbone(image, backbone.layers)
    for name, features in together.items():
        assert torch.equal(features, backbone(image, [name])[name]), name


def test_squeezenet_has_torchvisions_keys():
    keys = SqueezeNet().state_dict()
    assert {"features.0.weight", "features.3.squeeze.weight", "features.12.expand3x3.bias"} <= set(keys)
    assert not any(key.startswith(("mean", "std")) for key in keys)


def test_resnet50_has_torchvisions_keys():
    keys = set(ResNet().state_dict())
    assert len(keys) == 320 - 2  # without fc.weight and fc.bias
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.1.bias", "layer4.2.bn3.num_batches_tracked"} <= keys
    assert not {"conv1.bias", "layer1.1.downsample.0.weight"} & keys


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [
        (VGG(VGG16_WIDTHS), 138_357_544 - 123_642_856),
        (VGG(VGG19_WIDTHS), 143_667_240 - 123_642_856),
        (ResNet(), 25_557_032 - 2_049_000),
        (SqueezeNet(), 1_248_424 - 513_000),
    ],
    ids=["vgg16", "vgg19", "resnet50", "squeezenet"],
)
def test_networks_have_the_published_number_of_parameters_less_those_of_the_classifier(backbone, parameters):
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


def test_folding_batch_normalisation_changes_no_feature():
    plain, folded = drawn(ResNet(4, (2, 1, 1, 1))).double(), drawn(ResNet(4, (2, 1, 1, 1))).double().fold()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    image = random_image(70, 50)
    for name, features in plain(image, plain.layers).items():
        assert relative(folded(image, [name])[name] - features, features) <= ROUNDING


def test_batch_normalisation_takes_the_running_statistics_even_in_training():
    backbone, names = network_of("resnet50")
    image = random_image(64, 64)
    before, state = backbone(image, names), {key: value.clone() for key, value in backbone.state_dict().items()}
    after = backbone.train()(image, names)
    assert all(torch.equal(before[name], after[name]) for name in names)
    assert all(torch.equal(state[key], value) for key, value in backbone.state_dict().items())


def test_a_new_residual_network_is_in_evaluation_mode():
    assert not any(module.training for module in ResNet(2, (1, 1)).modules())


def test_an_unknown_layer_of_a_residual_network_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'relu4_2'.*relu1 conv2_block1 conv3_block1"):
        ResNet(2, (1, 1)).check_layers(["relu4_2"])


@pytest.mark.parametrize("name", ["vgg", "resnet", "squeezenet", "embedded"])
@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_pooling_by_choice_keeps_windows_and_is_what_it_says(name, pooling):
    made = {
        "vgg": lambda: VGG(((4,), (6,), (6,))),
        "resnet": lambda: ResNet(4, (1, 1)),
        "squeezenet": SqueezeNet,
        "embedded": lambda: Embedded(((4,), (6,))),
    }[name]()
    windows = [(block.name, block.window) for block in made.blocks]
    table = made.layers
    made.pool_by(pooling)
    assert [(block.name, block.window) for block in made.blocks] == windows and made.layers == table
    x = torch.rand(1, 1, 13, 9)
    for block in made.blocks:
        if block.name.startswith("pool"):
            out, w = block.module(x), block.window
            assert out.shape[-2:] == (w.outputs(13), w.outputs(9))
            corner = x[..., : w.kernel - w.padding, : w.kernel - w.padding]
            expected = corner.max() if pooling == "max" else corner.sum() / w.kernel**2
            torch.testing.assert_close(out[0, 0, 0, 0], expected)
