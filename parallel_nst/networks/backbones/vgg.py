"""VGG-shaped backbones: blocks of 3x3 convolutions with a pooling between them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from parallel_nst.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, Block, Window, loaded
from parallel_nst.networks.backbones.caffe import from_caffe
from parallel_nst.networks.backbones.means import MeanPool2d
from parallel_nst.networks.weights.states import State

VGG16_WIDTHS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
VGG19_WIDTHS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


class VGG(Backbone):
    """VGG (Simonyan and Zisserman 2014) up to its last convolution, under torchvision's key names `features.N`.

    widths: the channels of each convolution, block by block.
    """

    def __init__(self, widths: Sequence[Sequence[int]], pool: str = "max") -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        blocks = vgg_blocks(widths, nn.MaxPool2d(2) if pool == "max" else MeanPool2d(2), Window(2, 2))
        self.features = nn.Sequential(*(block.module for block in blocks))
        self._chain(blocks)


def vgg_blocks(widths: Sequence[Sequence[int]], pool: nn.Module, window: Window) -> list[Block]:
    """`convB_C`, `reluB_C` and `poolB` for block B and convolution C, both from one."""
    blocks: list[Block] = []
    channels = 3
    for b, row in enumerate(widths, 1):
        if b > 1:
            blocks.append(Block(f"pool{b - 1}", pool, window, channels))
        for c, width in enumerate(row, 1):
            conv = nn.Conv2d(channels, width, 3, padding=1)
            blocks.append(Block(f"conv{b}_{c}", conv, Window(3, 1, 1), width))
            blocks.append(Block(f"relu{b}_{c}", nn.ReLU(), Window(), width))
            channels = width
    return blocks


def build_vgg16(state: State) -> Backbone:
    """From torchvision's state dict or Caffe's (see `caffe`), with or without its classifier."""
    return loaded(VGG(VGG16_WIDTHS), from_caffe(state, VGG16_WIDTHS))


def build_vgg19(state: State) -> Backbone:
    """As `build_vgg16`."""
    return loaded(VGG(VGG19_WIDTHS), from_caffe(state, VGG19_WIDTHS))
