"""ResNets of bottleneck blocks as backbones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from parallel_nst.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, Block, Window, loaded
from parallel_nst.networks.weights.states import State


class Bottleneck(nn.Module):
    """ResNet's residual block (He et al. 2015): 1x1, 3x3 and 1x1 convolutions beside a shortcut. The 3x3 one takes the
    stride, as in torchvision's weights."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.downsample.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.bn1(self.conv1(x)))
        y = torch.relu_(self.bn2(self.conv2(y)))
        return torch.relu_(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(Backbone):
    """ResNet of bottleneck blocks (He et al. 2015) without its classifier, under torchvision's key names. Batch
    normalisation takes the running statistics, always.

    width: C of the first convolution. blocks: how many make up conv2 to conv5; the defaults are those of ResNet-50.
    Layers: `conv1` with its normalisation, `relu1`, `pool1`, and `convI_blockJ`, block J of those at the Ith scale.
    """

    def __init__(self, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for number, count in enumerate(blocks, 1):
            strides = [1 if number == 1 else 2] + [1] * (count - 1)
            layer, narrow = nn.Sequential(), width << (number - 1)
            for stride in strides:
                layer.append(Bottleneck(inputs, narrow, stride))
                inputs = 4 * narrow
            self.add_module(f"layer{number}", layer)
        self._chain(self._blocks())
        self.train(False)

    def _blocks(self) -> list[Block]:
        channels = self.conv1.out_channels
        blocks = [
            Block("conv1", nn.Sequential(self.conv1, self.bn1), Window(7, 2, 3), channels),
            Block("relu1", nn.ReLU(), Window(), channels),
            Block("pool1", nn.MaxPool2d(3, 2, 1), Window(3, 2, 1), channels),
        ]
        layers = [layer for name, layer in self.named_children() if name.startswith("layer")]
        for number, layer in enumerate(layers, 2):
            for b, block in enumerate(layer.children(), 1):
                assert isinstance(block, Bottleneck)
                window, channels = Window(3, block.conv2.stride[0], 1), block.conv3.out_channels
                blocks.append(Block(f"conv{number}_block{b}", block, window, channels, (block.conv1,)))
        return blocks

    def train(self, mode: bool = True) -> ResNet:
        """Stays in evaluation mode: the statistics of one picture, or of one tile, are none to normalise by."""
        return super().train(False)

    def fold(self) -> ResNet:
        """Multiply every batch normalisation into the convolution before it, in place: the same features, with fewer
        passes over memory and about half as much to keep for the backward pass. Biases join the public key names."""
        for parent in list(self.modules()):
            for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    assert norm.running_mean is not None and norm.running_var is not None
                    conv.weight, conv.bias = fuse_conv_bn_weights(
                        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                    )
                    setattr(parent, name, nn.Identity())
        self._chain(self._blocks())
        return self


def build_resnet50(state: State) -> Backbone:
    """From torchvision's state dict, with or without its classifier; its normalisations folded."""
    backbone = ResNet()
    loaded(backbone, state)
    return backbone.fold()
