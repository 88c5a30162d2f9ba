"""Generators of CycleGAN (Zhu et al. 2017, arXiv 1703.10593), pixels -1 to 1: the ResNet of the official code and the
shallow DnCNN."""

from __future__ import annotations

from torch import Tensor, nn

from parallel_nst.networks.generators import SIGNED, Generator, Residual, Steps, Style, through
from parallel_nst.networks.moments import Norm


class ResNetGenerator(Generator):
    """Two steps down, residual blocks, two up, under the official key names `model.N`, with instance normalisation.

    width: channels of the first convolution. blocks: residual blocks, 9 for 256 px and 6 for 128 px in the paper.
    """

    def __init__(self, width: int = 64, blocks: int = 9) -> None:
        super().__init__("cyclegan-resnet", {"width": width, "blocks": blocks}, SIGNED, SIGNED)
        self.model = nn.Sequential(nn.ReflectionPad2d(3), *normalised(nn.Conv2d(3, width, 7)))
        for wide in (width, 2 * width):
            self.model.extend(normalised(nn.Conv2d(wide, 2 * wide, 3, 2, 1)))
        self.model.extend([residual(4 * width) for _ in range(blocks)])
        for wide in (4 * width, 2 * width):
            self.model.extend(normalised(nn.ConvTranspose2d(wide, wide // 2, 3, 2, 1, 1)))
        self.model.extend([nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()])


def normalised(conv: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """A convolution, its normalisation without weights, ReLU."""
    return [conv, Norm(conv.out_channels, affine=False), nn.ReLU(True)]


def residual(channels: int) -> Residual:
    """A block with reflection padding and without dropout."""
    block = Residual()
    first, second = (nn.Conv2d(channels, channels, 3) for _ in range(2))
    last = Norm(channels, affine=False)
    block.conv_block = nn.Sequential(nn.ReflectionPad2d(1), *normalised(first), nn.ReflectionPad2d(1), second, last)
    return block


class DnCNN(Generator):
    """x + a chain of 3x3 convolutions with batch normalisation (after Zhang et al. 2017, arXiv 1608.03981), at full
    resolution throughout. Keys `conv.N` and `bn.N`. In evaluation mode a pixel depends on its surroundings alone.

    depth: convolutions with a normalisation between the first and the last. width: channels.
    eps: of the normalisations. skip: whether the input is added at the end.
    """

    def __init__(self, depth: int = 6, width: int = 64, eps: float = 1e-5, skip: bool = True) -> None:
        super().__init__("dncnn", {"depth": depth, "width": width, "eps": eps, "skip": skip}, SIGNED, SIGNED)
        self.conv = nn.ModuleList(nn.Conv2d(3 if n == 0 else width, width, 3, padding=1) for n in range(depth + 1))
        self.conv.append(nn.Conv2d(width, 3, 3, padding=1))
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
