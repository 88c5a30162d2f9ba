"""Discriminators: how much a picture looks like those of a domain, patch by patch.

A discriminator takes pictures (N, 3, H, W), RGB in [0, 1], and gives scores (N, 1, h, w), one for each patch that its
windows see, near 1 for real ones under the least-squares losses of CycleGAN. In the network pixels are -1 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from parallel_nst.errors import BadInput

NORMS = ("instance", "batch")
SLOPE = 0.2  # of the leaky ReLUs below zero


class Discriminator(nn.Module):
    """A chain of layers under `model`, the key names of the official checkpoints."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores (N, 1, h, w) of pictures (N, 3, H, W) in [0, 1]."""
        scores: Tensor = self.model(pictures * 2 - 1)
        return scores


def patchgan(norm: str = "instance", width: int = 64, layers: int = 3) -> Discriminator:
    """The 70x70 PatchGAN of Isola et al. 2017 (arXiv 1611.07004) as CycleGAN's official code has it: 4x4 convolutions,
    `layers` of them halving; keys `model.0`, `2`, `5`, `8` and `11`; 2,764,737 parameters at the defaults.

    width: channels of the first convolution, doubled by each of the next up to eightfold. Pictures need 24 px a side,
    else instance normalisation has one position only.
    """
    channels = [width * min(2**n, 8) for n in range(layers + 1)]
    chain: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(SLOPE, True)]
    for number, (inputs, outputs) in enumerate(pairwise(channels), 1):
        stride = 2 if number < layers else 1
        chain += normalised(nn.Conv2d(inputs, outputs, 4, stride, 1, bias=norm == "instance"), norm)
    return Discriminator(*chain, nn.Conv2d(channels[-1], 1, 4, 1, 1))


def conv5(norm: str = "instance", width: int = 16) -> Discriminator:
    """Five 3x3 convolutions, 3 -> 16 -> 64 -> 256 -> 256 -> 1 channels at the default width, all but the last
    normalised. The source names no strides; here the first three halve, so that a score is of a patch of 47x47 px."""
    chain: list[nn.Module] = []
    sizes = ((3, width, 2), (width, 4 * width, 2), (4 * width, 16 * width, 2), (16 * width, 16 * width, 1))
    for inputs, outputs, stride in sizes:
        chain += normalised(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=norm == "instance"), norm)
    return Discriminator(*chain, nn.Conv2d(16 * width, 1, 3, 1, 1))


def normalised(conv: nn.Conv2d, norm: str) -> list[nn.Module]:
    """A convolution, its normalisation, a leaky ReLU. Instance normalisation has no weights of its own; batch
    normalisation has, and makes the convolution's bias superfluous."""
    if norm not in NORMS:
        raise BadInput(f"unknown normalisation {norm!r}; known: {', '.join(NORMS)}")
    layer = nn.InstanceNorm2d if norm == "instance" else nn.BatchNorm2d
    return [conv, layer(conv.out_channels), nn.LeakyReLU(SLOPE, True)]


DISCRIMINATORS: dict[str, Callable[..., Discriminator]] = {"patchgan": patchgan, "conv5": conv5}
