"""Generators of CycleGAN (Zhu et al. 2017, arXiv 1703.10593), pixels -1 to 1: the ResNet of the official code and the
shallow DnCNN."""

from __future__ import annotations

from torch import Tensor, nn

from parallel_nst.networks.convolutions import Conv2d
from parallel_nst.networks.generators.base import SIGNED, Generator, Residual, Steps, Style, through
from parallel_nst.networks.moments import Norm


class ResNetGenerator(Generator):
    """Two steps down, residual blocks, two up, under the official key names `model.N`.

    width: channels of the first convolution. blocks: residual blocks, 9 for 256 px and 6 for 128 px in the paper.
    norm: instance, or batch, which learns a scale and a shift and is fixed in use.
    """

    def __init__(self, width: int = 64, blocks: int = 9, norm: str = "instance") -> None:
        chosen = {} if norm == "instance" else {"norm": norm}
        super().__init__("cyclegan-resnet", {"width": width, "blocks": blocks, **chosen}, SIGNED, SIGNED)
        self.model = nn.Sequential(nn.ReflectionPad2d(3), *normalised(Conv2d(3, width, 7), norm))
        for wide in (width, 2 * width):
            self.model.extend(normalised(Conv2d(wide, 2 * wide, 3, 2, 1), norm))
        self.model.extend([residual(4 * width, norm) for _ in range(blocks)])
        for wide in (4 * width, 2 * width):
            self.model.extend(normalised(nn.ConvTranspose2d(wide, wide // 2, 3, 2, 1, 1), norm))
        self.model.extend([nn.ReflectionPad2d(3), Conv2d(width, 3, 7), nn.Tanh()])


def normalised(conv: nn.Conv2d | nn.ConvTranspose2d, norm: str) -> list[nn.Module]:
    """A convolution, its normalisation, ReLU."""
    return [conv, normalisation(conv.out_channels, norm), nn.ReLU(True)]


def normalisation(channels: int, norm: str) -> nn.Module:
    """Instance normalisation without weights, or batch normalisation with."""
    return nn.BatchNorm2d(channels) if norm == "batch" else Norm(channels, affine=False)


def residual(channels: int, norm: str) -> Residual:
    """A block with reflection padding and without dropout."""
    block = Residual()
    first, second = (Conv2d(channels, channels, 3) for _ in range(2))
    last = normalisation(channels, norm)
    block.conv_block = nn.Sequential(
        nn.ReflectionPad2d(1), *normalised(first, norm), nn.ReflectionPad2d(1), second, last
    )
    return block


class DnCNN(Generator):
    """x + a chain of 3x3 convolutions with batch normalisation (after Zhang et al. 2017, arXiv 1608.03981), at full
    resolution throughout. Keys `conv.N` and `bn.N`. In evaluation mode a pixel depends on its surroundings alone.

    depth: convolutions with a normalisation between the first and the last. width: channels.
    eps: of the normalisations. skip: whether the input is added at the end.
    """

    def __init__(self, depth: int = 6, width: int = 64, eps: float = 1e-5, skip: bool = True) -> None:
        super().__init__("dncnn", {"depth": depth, "width": width, "eps": eps, "skip": skip}, SIGNED, SIGNED)
        self.conv = nn.ModuleList(Conv2d(3 if n == 0 else width, width, 3, padding=1) for n in range(depth + 1))
        self.conv.append(Conv2d(width, 3, 3, padding=1))
        self.bn = nn.ModuleList(nn.BatchNorm2d(width, eps) for _ in range(depth))
        self._skip = skip

    def layers(self) -> list[nn.Module]:
        first, *middle, last = self.conv
        chain = [first, nn.ReLU(True)]
        for conv, norm in zip(middle, self.bn, strict=True):
            chain += [conv, norm, nn.ReLU(True)]
        return [*chain, last]

    def steps(self, x: Tensor, style: Style | None) -> Steps:
        y = yield from through(self.layers(), x)
        return x + y if self._skip else y
