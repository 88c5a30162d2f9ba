"""Generators: any size, equal to plain formulations of the same networks, and in tiles equal to the untiled picture."""

from typing import get_args

import pytest
import torch
from small_generators import NARROW, in_tiles, narrow, picture
from torch import nn
from torch.nn import functional as F

from parallel_nst.networks.convolutions import SamePad2d
from parallel_nst.networks.generators.base import Edges, mirrored
from parallel_nst.networks.generators.cyclegan import DnCNN, ResNetGenerator
from parallel_nst.networks.generators.microast import MicroAST, adapted
from parallel_nst.networks.generators.transformer import TransformerNet, VGGDecoder
from parallel_nst.networks.moments import MomentSums, moments_of, worst_gap
from parallel_nst.painting.generators.tiles import (
    exact_statistics,
    finish_together,
    piece_of,
    piece_sums,
    plan_pieces,
    thumbnail_statistics,
)

EDGED = [*((name, "published") for name in NARROW), ("fast-style-transfer", "mirror"), ("microast", "mirror")]
ROUNDING = 1e-10  # float64, through some twenty layers


def style_for(generator):
    return generator.encode_style(picture(48, 40, seed=7)) if generator.takes_style else None


@pytest.mark.parametrize("edges", get_args(Edges))
@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 70), (33, 30), (64, 48)])
def test_any_size_in_the_same_size_out(name, height, width, edges):
    generator = narrow(name)
    generator.edges = edges
    stylised = generator(picture(height, width), style_for(generator))
    assert stylised.shape == (1, 3, height, width)
    assert stylised.isfinite().all() and stylised.min() >= 0 and stylised.max() <= 1


@pytest.mark.parametrize("name", NARROW)
def test_pictures_of_a_batch_do_not_mix(name):
    generator = narrow(name)
    style, pictures = style_for(generator), [picture(40, 36, seed) for seed in (1, 2)]
    batch = generator(torch.cat(pictures), style)
    alone = torch.cat([generator(p, style) for p in pictures])
    assert (batch - alone).abs().max() < ROUNDING


@pytest.mark.parametrize(("name", "edges"), EDGED)
@pytest.mark.parametrize(("height", "width"), [(131, 101), (64, 128), (98, 91)])
def test_tiles_with_exact_statistics_equal_the_untiled_picture(name, height, width, edges):
    generator = narrow(name)
    generator.edges = edges
    style, content = style_for(generator), picture(height, width)
    untiled = generator(content, style)
    assert untiled.std() > 0.02  # there is something to be equal to
    assert (in_tiles(generator, content, 44, style=style) - untiled).abs().max() < ROUNDING


@pytest.mark.parametrize(("name", "edges"), EDGED)
def test_one_pass_with_all_tiles_held_measures_what_many_passes_measure(name, edges):
    generator = narrow(name)
    generator.edges = edges
    style, content = style_for(generator), picture(90, 101)
    tiles = plan_pieces(generator, 90, 101, 40)
    runs = [generator.start(piece_of(generator, content, tile), style) for tile in tiles]
    held = finish_together(runs, tiles)
    passes = exact_statistics(generator, content, tiles, style)
    assert worst_gap(held, passes) < ROUNDING
    whole = thumbnail_statistics(generator, content, 101, style)  # not reduced at all
    assert worst_gap(held, whole) < ROUNDING


def test_sums_of_pieces_from_different_workers_add_up():
    generator = narrow("transformer-net")
    content, tiles = picture(80, 80), plan_pieces(generator, 80, 80, 40)
    known = exact_statistics(generator, content, tiles)
    pieces = [piece_of(generator, content, tile) for tile in tiles]
    parts = [piece_sums(generator, piece, tile, known[:3]) for piece, tile in zip(pieces, tiles, strict=True)]
    assert worst_gap([sum(parts[1:], parts[0]).moments()], known[3:4]) < ROUNDING
    assert piece_sums(generator, pieces[0], tiles[0], known) is None


def test_statistics_of_each_tile_alone_show_in_the_picture():
    generator, content = narrow("transformer-net"), picture(160, 160)
    tiles = plan_pieces(generator, 160, 160, 80)
    alone = generator.generate(piece_of(generator, content, tiles[0])).clamp(0, 1)[..., :80, :80]
    assert (alone - generator(content)[..., :80, :80]).abs().mean() > 0.01


def test_a_thumbnail_comes_near_and_the_nearer_the_larger_it_is():
    generator, content = narrow("transformer-net"), picture(192, 160)
    exact = thumbnail_statistics(generator, content, 192)
    gaps = [worst_gap(exact, thumbnail_statistics(generator, content, side)) for side in (24, 96, 176)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    approximate = in_tiles(generator, content, 96, thumbnail_statistics(generator, content, 176))
    assert 0 < (approximate - generator(content)).abs().mean() < 0.1


def measured_reach(generator):
    """Px from the furthest input that changes an output pixel, over all positions of the pixel within a stride.

    All weights are positive and so are all activations, so that no path is cut off by a ReLU; the moments are fixed.
    """
    for parameter in generator.parameters():
        parameter.copy_((torch.rand_like(parameter) + 0.5) / max(1, parameter[0].numel()))
    style = style_for(generator)
    return max(measured_on(generator, style, over) for over in range(generator.stride if generator.any_size else 1))


def measured_on(generator, style, over):
    """Of a picture whose sides are `over` px over a multiple of the stride."""
    size = 2 * generator.reach + 8 * generator.stride + over
    extended = (torch.rand(1, 3, size, size, dtype=torch.float64) * 0.1 + 0.8).requires_grad_()
    run = generator.start(extended, style)
    while run.waiting is not None:
        still = moments_of(run.waiting.detach())
        run.advance(type(still)(still.count, still.mean * 0, still.mean.square()))
    middle = size // 2 // generator.stride * generator.stride
    reach = 0
    for at in range(middle, middle + generator.stride):
        (gradient,) = torch.autograd.grad(run.result[0, :, at, middle].sum(), extended, retain_graph=True)
        rows = gradient.abs().sum((0, 1, 3)).nonzero()
        reach = max(reach, at - int(rows.min()), int(rows.max()) - at)
    return reach


@pytest.mark.parametrize("name", NARROW)
def test_reach_is_what_gradients_measure(name):
    generator = narrow(name)
    measured = measured_reach(generator)
    if name == "vgg-decoder":  # a maximum passes one of its four inputs on
        assert generator.reach - generator.stride < measured <= generator.reach
    else:
        assert measured == generator.reach


def test_reach_and_stride_of_the_published_sizes():
    published = {TransformerNet(): 57, TransformerNet("fast-style-transfer"): 57, ResNetGenerator(): 84, DnCNN(): 8}
    assert {generator: generator.reach for generator in published} == published
    assert [generator.stride for generator in (TransformerNet(), DnCNN(), VGGDecoder(), MicroAST())] == [4, 1, 8, 4]


def test_published_numbers_of_parameters():
    for generator, count in ((TransformerNet(), 1_679_235), (ResNetGenerator(), 11_378_179)):
        assert sum(parameter.numel() for parameter in generator.parameters()) == count


def reflected(x, state, name, stride=1):
    weight = state[f"{name}.conv2d.weight"]
    return F.conv2d(
        F.pad(x, (weight.shape[-1] // 2,) * 4, mode="reflect"), weight, state[f"{name}.conv2d.bias"], stride
    )


def plain_transformer_net(x, state, blocks):
    """The network of the PyTorch examples, written down straight."""

    def norm(x, name):
        return F.instance_norm(x, weight=state[f"{name}.weight"], bias=state[f"{name}.bias"])

    x = x * 255
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        x = torch.relu(norm(reflected(x, state, f"conv{number}", stride), f"in{number}"))
    for number in range(1, blocks + 1):
        y = torch.relu(norm(reflected(x, state, f"res{number}.conv1"), f"res{number}.in1"))
        x = x + norm(reflected(y, state, f"res{number}.conv2"), f"res{number}.in2")
    for number in (1, 2):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = torch.relu(norm(reflected(x, state, f"deconv{number}"), f"in{number + 3}"))
    return (reflected(x, state, "deconv3") / 255).clamp(0, 1)


def test_transformer_net_is_that_of_the_pytorch_examples():
    generator, content = narrow("transformer-net"), picture(64, 48)
    assert (generator(content) - plain_transformer_net(content, generator.state_dict(), 1)).abs().max() < ROUNDING


def same(x, weight, stride):
    """A convolution with TensorFlow's "same" padding: ceil(side / stride) outputs, the odd px of padding at the end."""
    pads = []
    for length in (x.shape[-1], x.shape[-2]):
        total = max(0, (-(-length // stride) - 1) * stride + weight.shape[-1] - length)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride)


def same_transposed(x, weight, stride):
    """TensorFlow's transposed convolution: the gradient of `same` by its input."""
    target = torch.zeros(1, weight.shape[1], stride * x.shape[-2], stride * x.shape[-1], dtype=x.dtype)
    with torch.enable_grad():
        target.requires_grad_()
        return torch.autograd.grad(same(target, weight, stride), target, x)[0]


def plain_fast_style(x, state, blocks):
    """The network of fast-style-transfer, written down straight; odd sides come out longer."""

    def norm(x, name):
        return F.instance_norm(x, weight=state[f"{name}.weight"], bias=state[f"{name}.bias"], eps=1e-3)

    x = x * 255
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        x = torch.relu(norm(same(x, state[f"conv{number}.conv2d.weight"], stride), f"in{number}"))
    for number in range(1, blocks + 1):
        y = torch.relu(norm(same(x, state[f"res{number}.conv1.conv2d.weight"], 1), f"res{number}.in1"))
        x = x + norm(same(y, state[f"res{number}.conv2.conv2d.weight"], 1), f"res{number}.in2")
    for number in (1, 2):
        x = torch.relu(norm(same_transposed(x, state[f"deconv{number}.conv2d.weight"], 2), f"in{number + 3}"))
    x = norm(same(x, state["deconv3.conv2d.weight"], 1), "in6")
    return (torch.tanh(x) * 150 + 127.5) / 255


@pytest.mark.parametrize("edges", get_args(Edges))
@pytest.mark.parametrize(("height", "width"), [(32, 48), (30, 41), (45, 31), (33, 50), (7, 6)])
def test_the_tensorflow_form_pads_as_tensorflow_does(height, width, edges):
    """By default the picture is the published network's own, whatever its size."""
    generator, content = narrow("fast-style-transfer"), picture(height, width)
    assert generator.edges == "published" and generator.extend(content) is content
    generator.edges = edges
    extended = generator.extend(content)
    plain = plain_fast_style(extended, generator.state_dict(), 1)
    assert (generator.generate(extended) - plain).abs().max() < ROUNDING
    ours = generator(content)
    assert (ours - generator.crop(plain, height, width).clamp(0, 1)).abs().max() < ROUNDING


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (9, 1), (3, 2), (4, 2), (5, 3), (2, 4)])
def test_same_padding_gives_as_many_positions_as_tensorflow(kernel, stride):
    pad, weight = SamePad2d(kernel, stride), torch.rand(1, 1, kernel, kernel, dtype=torch.float64)
    for length in range(1, 20):
        x = torch.rand(1, 1, length, 12, dtype=torch.float64)
        y = F.conv2d(pad(x), weight, stride=stride)
        assert y.shape[-2:] == (-(-length // stride), -(-12 // stride))
        assert torch.equal(y, same(x, weight, stride))


@pytest.mark.parametrize("name", NARROW)
def test_a_mirrored_frame_is_as_wide_as_the_network_looks(name):
    generator, content = narrow(name), picture(40, 36)
    generator.edges = "mirror"
    assert generator.frame == generator.reach
    height, width = generator.extended_size(40, 36)
    assert height >= 40 + 2 * generator.reach and height % generator.stride == width % generator.stride == 0
    assert torch.equal(generator.crop(generator.extend(content), 40, 36), content)


def test_the_frame_of_the_content_is_not_put_around_a_style():
    generator, style = narrow("microast"), picture(40, 36)
    plain = generator.encode_style(style)
    generator.edges = "mirror"
    assert all(torch.equal(value, plain[name]) for name, value in generator.encode_style(style).items())


def test_the_frame_keeps_zero_padding_out_of_the_picture():
    """A flat picture stays flat up to its edges; without the frame it would get a border."""
    generator = narrow("fast-style-transfer")
    flat = torch.full((1, 3, 64, 64), 0.6, dtype=torch.float64)

    def unevenness(edges):
        generator.edges = edges
        stylised = generator(flat)
        return (stylised[..., :4, 8:-8] - stylised[..., 28:32, 8:-8]).abs().max()

    assert unevenness("mirror") < 0.1 * unevenness("published")


def official_resnet(width, blocks):
    """CycleGAN's generator from PyTorch's own modules, with the official numbering."""

    class Block(nn.Module):
        def __init__(self, c):
            super().__init__()
            norm, pad = nn.InstanceNorm2d, nn.ReflectionPad2d
            self.conv_block = nn.Sequential(
                pad(1), nn.Conv2d(c, c, 3), norm(c), nn.ReLU(), pad(1), nn.Conv2d(c, c, 3), norm(c)
            )

        def forward(self, x):
            return x + self.conv_block(x)

    chain = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU()]
    for c in (width, 2 * width):
        chain += [nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), nn.InstanceNorm2d(2 * c), nn.ReLU()]
    chain += [Block(4 * width) for _ in range(blocks)]
    for c in (4 * width, 2 * width):
        conv = nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1)
        chain += [conv, nn.InstanceNorm2d(c // 2), nn.ReLU()]
    return nn.Sequential(*chain, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())


def test_resnet_is_the_official_one_with_its_key_names():
    generator, content = narrow("cyclegan-resnet"), picture(48, 40)
    official = nn.Sequential()
    official.model = official_resnet(4, 2).double()
    official.load_state_dict(generator.state_dict(), strict=True)
    assert (generator(content) - (official.model(content * 2 - 1) + 1) / 2).abs().max() < ROUNDING
    keys = ResNetGenerator().state_dict()
    for key in ("model.1", "model.7", "model.10.conv_block.1", "model.18.conv_block.5", "model.22", "model.26"):
        assert f"{key}.weight" in keys
    assert "model.23.bias" in ResNetGenerator(blocks=6).state_dict()


def test_moments_agree_with_pytorch_and_sums_add():
    x = picture(20, 30) * 3 + 100
    moments = moments_of(x)
    variance, mean = torch.var_mean(x, (2, 3), correction=0)
    assert torch.allclose(moments.mean, mean) and torch.allclose(moments.variance, variance)
    assert torch.allclose(moments.unbiased(), x.var((2, 3)))
    halves = (
        MomentSums.of(x, slice(7))
        + MomentSums.of(x, slice(7, None), slice(11))
        + MomentSums.of(x, slice(7, None), slice(11, None))
    )
    assert halves.count == 600 and torch.allclose(halves.moments().variance, variance, rtol=1e-9)


def test_adaptive_normalisation_gives_the_styles_moments():
    style = {
        "strength": torch.tensor(1.0),
        "mean1": torch.randn(1, 3).double(),
        "deviation1": torch.rand(1, 3).double(),
    }
    content = picture(30, 30)
    moments = moments_of(adapted(content, moments_of(content), style, 1))
    assert torch.allclose(moments.mean, style["mean1"])
    assert torch.allclose(moments.unbiased().sqrt(), style["deviation1"], rtol=1e-3)  # up to the epsilon
    unchanged = adapted(content, moments_of(content), style | {"strength": torch.tensor(0.0)}, 1)
    assert torch.allclose(unchanged, content)


def test_a_style_changes_the_picture_and_its_strength_is_bounded():
    generator, content = narrow("microast"), picture(40, 40)
    one, other = (generator(content, generator.encode_style(picture(40, 40, seed))) for seed in (3, 4))
    assert (one - other).abs().mean() > 1e-3
    with pytest.raises(ValueError, match="strength 2 is not between 0 and 1"):
        generator.encode_style(content, 2)


def test_a_style_is_asked_for_where_needed_and_refused_elsewhere():
    with pytest.raises(ValueError, match="microast wants a style picture"):
        narrow("microast")(picture(20, 20))
    with pytest.raises(ValueError, match="transformer-net has its own style"):
        narrow("transformer-net")(picture(20, 20), {})


def test_the_number_of_statistics_must_fit():
    generator = narrow("transformer-net")
    extended = generator.extend(picture(20, 20))
    statistics = thumbnail_statistics(generator, picture(20, 20))
    with pytest.raises(ValueError, match="6 layers of statistics are too few"):
        generator.generate(extended, statistics[:-1])
    with pytest.raises(ValueError, match="more statistics than"):
        generator.generate(extended, [*statistics, statistics[0]])
    with pytest.raises(ValueError, match="still waits"):
        _ = generator.start(extended).result


@pytest.mark.parametrize("name", NARROW)
def test_every_weight_learns(name):
    generator = narrow(name).requires_grad_(True).train()
    style = generator.encode_style(picture(40, 40, seed=5)) if generator.takes_style else None
    generator(picture(32, 32), style, clamp=False).square().sum().backward()
    for key, value in generator.named_parameters():
        if key.endswith("weight"):
            assert value.grad is not None and value.grad.abs().max() > 0, key


def test_half_precision_is_near():
    generator, content = narrow("transformer-net", dtype=torch.float32), picture(40, 40, dtype=torch.float32)
    exact = generator(content)
    assert (generator.bfloat16()(content.bfloat16()) - exact).abs().mean() < 0.05


def test_reflection_goes_on_for_ever():
    assert mirrored(3, 5, 11).tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1]
    assert mirrored(1, 2, 4).tolist() == [0, 0, 0, 0]
