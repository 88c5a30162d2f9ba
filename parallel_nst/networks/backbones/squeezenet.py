"""SqueezeNet as a backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from parallel_nst.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, Block, Window, loaded
from parallel_nst.networks.weights.states import State


class Fire(nn.Module):
    """SqueezeNet's module (Iandola et al. 2016): squeeze by 1x1, expand by 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.squeeze(x))
        return torch.relu_(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(Backbone):
    """SqueezeNet 1.0 (Iandola et al. 2016) without its classifier, under torchvision's key names `features.N`.

    Layers: `conv1`, `relu1`, `pool1`, `fire2` to `fire9`, `pool4`, `pool8`.
    """

    def __init__(self) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        pool = Window(3, 2, ceil=True)
        blocks = [
            Block("conv1", nn.Conv2d(3, 96, 7, stride=2), Window(7, 2), 96),
            Block("relu1", nn.ReLU(), Window(), 96),
        ]
        channels = 96
        for number, expand in zip(range(2, 10), (64, 64, 128, 128, 192, 192, 256, 256), strict=True):
            if number in (2, 5, 9):
                name = f"pool{1 if number == 2 else number - 1}"
                blocks.append(Block(name, nn.MaxPool2d(3, 2, ceil_mode=True), pool, channels))
            fire = Fire(channels, expand // 4, expand)
            channels = 2 * expand
            blocks.append(Block(f"fire{number}", fire, Window(3, 1, 1), channels))
        self.features = nn.Sequential(*(block.module for block in blocks))
        self._chain(blocks)


def build_squeezenet(state: State) -> Backbone:
    """From torchvision's state dict, with or without its classifier."""
    return loaded(SqueezeNet(), state)
