"""Backbones: the convolutional networks whose features measure content and style.

A backbone is a chain of named blocks. Each block declares its window (kernel, stride, padding), and from these the
table `Backbone.layers` follows: for every layer its stride, margin and channels. Tiling reads that table; nothing
about a network's reach is typed in by hand.

Features of a picture in tiles are the picture's own, to rounding, and so is their gradient, with one exception: where
a picture is flat to the last bit, the places of a maximum are equal, and rounding decides which of them max pooling
gives the gradient to. Average pooling knows no such places.

Shape letters: N images, C channels, H and W in pixels; H_l = ceil or floor of H / stride at layer l.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from parallel_nst.errors import BadInput
from parallel_nst.networks.backbones.means import MeanPool2d
from parallel_nst.networks.weights.states import State, check_fit
from parallel_nst.recipe import Pooling

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Layer:
    """What a tiler must know of one layer.

    stride: image px between two neighbouring positions of the layer.
    margin: image px of context beyond a stride-aligned rectangle that its positions depend on, rounded up to `stride`.
    channels: C at this layer.
    """

    stride: int
    margin: int
    channels: int


@dataclass(frozen=True)
class Window:
    """The sliding window of a block: what one output position reads of its input.

    ceil: a last window that is not full counts too.
    """

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    ceil: bool = False

    def outputs(self, inputs: int) -> int:
        """Positions along a side that come out of so many; as in PyTorch, a window has to begin on the picture."""
        spare = self.stride - 1 if self.ceil else 0
        count = (inputs + 2 * self.padding - self.kernel + spare) // self.stride + 1
        return count - (self.ceil and (count - 1) * self.stride >= inputs + self.padding)

    def least(self, outputs: int) -> int:
        """The fewest inputs along a side that give so many outputs."""
        spare = self.stride - 1 if self.ceil else 0
        return max(1, (outputs - 1) * self.stride + self.kernel - 2 * self.padding - spare)


@dataclass(frozen=True)
class Block:
    """One named step of the chain; `channels` is what comes out.

    ahead: convolutions inside the module that run before its stride, at the positions of its input.
    """

    name: str
    module: nn.Module
    window: Window
    channels: int
    ahead: tuple[nn.Conv2d, ...] = ()


def layer_table(blocks: Iterable[Block]) -> dict[str, Layer]:
    """Walk the windows and accumulate, for each block, its stride and its reach to either side (Araujo et al.,
    Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, eq. 2 to 5)."""
    table: dict[str, Layer] = {}
    jump, left, right = 1, 0, 0
    for block in blocks:
        w = block.window
        left += w.padding * jump
        right += (w.kernel - 1 - w.padding) * jump
        jump *= w.stride
        reach = max(left, right - (jump - 1), 0)
        table[block.name] = Layer(jump, -(-reach // jump) * jump, block.channels)
    return table


class Backbone(nn.Module):
    """A frozen feature extractor: image (N, 3, H, W) in [0, 1], RGB -> features by layer name.

    Subclasses build their modules under the key names of their public weights and hand the chain to `_chain`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.blocks: list[Block] = []
        self.layers: dict[str, Layer] = {}

    def _chain(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.layers = layer_table(blocks)

    def pool_by(self, pooling: Pooling) -> None:
        """Take the maximum of each window, or its mean as Gatys et al. 2016 advise; auto: as it was trained. Windows
        stay as they are, so tiles do too."""
        if pooling != "auto":
            self._chain([replace(block, module=pooled(block.module, pooling)) for block in self.blocks])

    def check_layers(self, names: Iterable[str]) -> None:
        """BadInput for a name that is no layer of this backbone."""
        for name in names:
            if name not in self.layers:
                known = " ".join(n for n in self.layers if n.startswith(("relu", "fire")) or "_block" in n)
                raise BadInput(f"unknown layer {name!r}; this backbone has {known}")

    def least_side(self, names: Iterable[str]) -> int:
        """Image px along a side below which one of the named layers has no position at all."""
        order, least = list(self.layers), 1
        end = max((order.index(name) + 1 for name in names), default=0)
        for block in reversed(self.blocks[:end]):
            least = block.window.least(least)
        return least

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Rows and columns of every layer for an image of this size; 0 where a layer has no position."""
        found: dict[str, tuple[int, int]] = {}
        for block in self.blocks:
            height, width = (max(0, block.window.outputs(length)) for length in (height, width))
            found[block.name] = height, width
        return found

    def forward(self, image: Tensor, names: Iterable[str], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Features (N, C_l, H_l, W_l) of the named layers. The chain stops at the deepest of them. BadInput for an
        unknown layer and for an image that is too small.

        dtype: bfloat16 runs all but the first convolution in it. The first stays in the image's own precision: in
        bfloat16 the image's last bits would be lost, and with them the small steps that L-BFGS takes near the end. Its
        features are rounded, which loses nothing that the sums of the second would keep.
        """
        wanted = set(names)
        self.check_layers(wanted)
        height, width = image.shape[-2:]
        if min(height, width) < (least := self.least_side(wanted)):
            raise BadInput(f"an image of {width}x{height} px is too small for these layers; give at least {least} px")
        features: dict[str, Tensor] = {}
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        for number, block in enumerate(self.blocks):
            if len(features) == len(wanted):
                break
            half = number > 0 and dtype == torch.bfloat16
            with torch.autocast(image.device.type, torch.bfloat16, enabled=half):
                x = block.module(x.bfloat16() if half else x)
            if block.name in wanted:
                features[block.name] = x
        return features


def pooled(module: nn.Module, pooling: Pooling) -> nn.Module:
    """A pooling of the same window that takes the maximum or the mean; anything else as it is."""
    if not isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return module
    kind = nn.MaxPool2d if pooling == "max" else MeanPool2d
    return kind(module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)


def deepest(backbone: Backbone, names: Iterable[str]) -> Layer:
    """The layer of the greatest stride and margin among `names`: what a halo must cover."""
    chosen = [backbone.layers[name] for name in names]
    stride = max(layer.stride for layer in chosen)
    margin = max(layer.margin for layer in chosen)
    return Layer(stride, -(-margin // stride) * stride, max(layer.channels for layer in chosen))


def loaded(backbone: Backbone, state: State) -> Backbone:
    """`backbone` with these weights, without those of a classifier, which style transfer has no use for. BadWeights, in
    one line, where keys or shapes differ and for what is not finite."""
    features = {key: value for key, value in state.items() if not key.startswith(("classifier.", "fc."))}
    check_fit(backbone.state_dict(), features)
    backbone.load_state_dict(features, strict=False)  # but for the counts
    return backbone
