"""Generators small enough for tests, and the files that they come in."""

import torch
from torch import nn
from torch.nn import functional as F

from parallel_nst.networks.generators.cyclegan import DnCNN, ResNetGenerator
from parallel_nst.networks.generators.microast import MicroAST
from parallel_nst.networks.generators.transformer import FORMS, TransformerNet, VGGDecoder
from parallel_nst.painting.generators.tiles import exact_statistics, generate_tiles, plan_pieces

NARROW = {
    **{form: lambda form=form: TransformerNet(form, (4, 5, 6), 1) for form in FORMS},
    "cyclegan-resnet": lambda: ResNetGenerator(4, 2),
    "dncnn": lambda: DnCNN(2, 5),
    "vgg-decoder": lambda: VGGDecoder((4, 0, 6, 0, 8, -1, 8, -1)),
    "microast": lambda: MicroAST((4, 8, 16)),
}


def narrow(name, seed=0, dtype=torch.float64):
    """A small generator with drawn weights, scaled so that its pictures have contrast."""
    torch.manual_seed(seed)
    generator = NARROW[name]().to(dtype).eval().requires_grad_(False)
    convolutions = [m for m in generator.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    for conv in convolutions:
        conv.weight.normal_(0, (2 / conv.weight[0].numel()) ** 0.5)
    for value in generator.parameters():
        if value.dim() == 1:
            value.add_(torch.randn_like(value) * 0.2)
    last = convolutions[-1]
    if name in ("transformer-net", "aonet", "vgg-decoder"):  # pixels 0 to 255 without a tanh to keep them there
        last.weight.mul_(30)
        last.bias.fill_(128)
    return generator


def picture(height, width, seed=1, dtype=torch.float64):
    """Smooth blobs and noise, so that parts of a picture differ in their statistics."""
    noise = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=noise, dtype=dtype)
    fine = torch.rand(1, 3, height, width, generator=noise, dtype=dtype)
    return 0.8 * F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1) + 0.2 * fine


def in_tiles(generator, content, side, statistics=None, style=None):
    """The stylised picture in tiles of about `side` px, with the exact statistics where none are given."""
    tiles = plan_pieces(generator, *content.shape[-2:], side)
    if statistics is None:
        statistics = exact_statistics(generator, content, tiles, style)
    return generate_tiles(generator, content, tiles, statistics, style)


def same_pictures(one, other, tolerance=1e-5):
    content = picture(32, 40, dtype=torch.float32)
    styles = [g.encode_style(content) if g.takes_style else None for g in (one, other)]
    difference = (one(content, styles[0]) - other(content, styles[1])).abs().max()
    return bool(difference < tolerance)


def small(name):
    return narrow(name, dtype=torch.float32)


def as_variables(generator):
    """The state of a TensorFlow-form generator as arrays in the order in which TensorFlow made them."""
    arrays = []
    state = generator.state_dict()
    for key in state:
        if key.endswith("conv2d.weight"):
            arrays.append(state[key].permute(2, 3, 1, 0).contiguous().numpy())
        elif ".weight" in key or key.endswith("bias"):
            arrays.append(state[key].numpy())
    for at in range(0, len(arrays), 3):  # scale and shift change places
        arrays[at + 1], arrays[at + 2] = arrays[at + 2], arrays[at + 1]
    return {"Variable" if n == 0 else f"Variable_{n}": array for n, array in enumerate(arrays)}


def microast_files(folder):
    generator = small("microast")
    names = ("content_encoder", "style_encoder", "modulator", "decoder")
    paths = [folder / f"{name}_iter_9.pth.tar" for name in names]
    for name, path in zip(names, paths, strict=True):
        torch.save(generator.get_submodule(name).state_dict(), path)
    return generator, paths
