"""Backbones: the convolutional networks whose features measure content and style.

A backbone is a chain of named stages. Each stage declares its window (kernel, stride, padding), and from these the
table `Backbone.layers` follows: for every layer its stride, margin and channels. Tiling reads that table; nothing
about a network's reach is typed in by hand.

Features of a picture in tiles are the picture's own, to rounding, and so is their gradient, with one exception: where
a picture is flat to the last bit, the places of a maximum are equal, and rounding decides which of them max pooling
gives the gradient to. Average pooling knows no such places.

Shape letters: N images, C channels, H and W in pixels; H_l = ceil or floor of H / stride at layer l.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

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
    """The sliding window of a stage: what one output position reads of its input.

    ceil: a last window that is not full counts too.
    """

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    ceil: bool = False

    def least(self, outputs: int) -> int:
        """The fewest inputs along a side that give so many outputs."""
        spare = self.stride - 1 if self.ceil else 0
        return max(1, (outputs - 1) * self.stride + self.kernel - 2 * self.padding - spare)


@dataclass(frozen=True)
class Stage:
    """One named step of the chain; `channels` is what comes out."""

    name: str
    module: nn.Module
    window: Window
    channels: int


def layer_table(stages: Iterable[Stage]) -> dict[str, Layer]:
    """Walk the windows and accumulate, for each stage, its stride and its reach to either side (Araujo et al.,
    Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, eq. 2 to 5)."""
    table: dict[str, Layer] = {}
    jump, left, right = 1, 0, 0
    for stage in stages:
        w = stage.window
        left += w.padding * jump
        right += (w.kernel - 1 - w.padding) * jump
        jump *= w.stride
        reach = max(left, right - (jump - 1), 0)
        table[stage.name] = Layer(jump, -(-reach // jump) * jump, stage.channels)
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
        self.stages: list[Stage] = []
        self.layers: dict[str, Layer] = {}

    def _chain(self, stages: list[Stage]) -> None:
        self.stages = stages
        self.layers = layer_table(stages)

    def check_layers(self, names: Iterable[str]) -> None:
        """Raise ValueError for a name that is no layer of this backbone."""
        for name in names:
            if name not in self.layers:
                known = " ".join(n for n in self.layers if n.startswith(("relu", "fire")) or "_block" in n)
                raise ValueError(f"unknown layer {name!r}; this backbone has {known}")

    def least_side(self, names: Iterable[str]) -> int:
        """Image px along a side below which one of the named layers has no position at all."""
        order, least = list(self.layers), 1
        end = max((order.index(name) + 1 for name in names), default=0)
        for stage in reversed(self.stages[:end]):
            least = stage.window.least(least)
        return least

    def forward(self, image: Tensor, names: Iterable[str], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Features (N, C_l, H_l, W_l) of the named layers. The chain stops at the deepest of them. ValueError for an
        unknown layer and for an image that is too small.

        dtype: bfloat16 runs all but the first convolution in it. The first stays in the image's own precision: in
        bfloat16 the image's last bits would be lost, and with them the small steps that L-BFGS takes near the end. Its
        features are rounded, which loses nothing that the sums of the second would keep.
        """
        wanted = set(names)
        self.check_layers(wanted)
        height, width = image.shape[-2:]
        if min(height, width) < (least := self.least_side(wanted)):
            raise ValueError(f"an image of {width}x{height} px is too small for these layers; give at least {least} px")
        features: dict[str, Tensor] = {}
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        for number, stage in enumerate(self.stages):
            if len(features) == len(wanted):
                break
            half = number > 0 and dtype == torch.bfloat16
            with torch.autocast(image.device.type, torch.bfloat16, enabled=half):
                x = stage.module(x.bfloat16() if half else x)
            if stage.name in wanted:
                features[stage.name] = x
        return features


class VGG(Backbone):
    """VGG (Simonyan and Zisserman 2014) up to its last convolution, under torchvision's key names `features.N`.

    widths: the channels of each convolution, block by block.
    """

    def __init__(self, widths: Sequence[Sequence[int]], pool: str = "max") -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        stages = vgg_stages(widths, nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2), Window(2, 2))
        self.features = nn.Sequential(*(stage.module for stage in stages))
        self._chain(stages)


class Embedded(Backbone):
    """The backbone inside this package: VGG-shaped, narrow, average pooling that keeps odd rows (so that a picture of
    any size, down to one pixel, has features). Key names `blockI.convJ.weight|bias`.

    The first convolution replicates the border instead of padding with grey, as in the style transfer of Crowson: it
    removes the frame that zero padding paints around a picture.
    """

    def __init__(self, widths: Sequence[Sequence[int]]) -> None:
        super().__init__((0.45, 0.45, 0.45), (0.25, 0.25, 0.25))
        stages = vgg_stages(widths, nn.AvgPool2d(2, ceil_mode=True), Window(2, 2, ceil=True))
        first = stages[0].module
        assert isinstance(first, nn.Conv2d)
        first.padding_mode = "replicate"
        first._reversed_padding_repeated_twice = [1, 1, 1, 1]
        convs = iter(stage.module for stage in stages if isinstance(stage.module, nn.Conv2d))
        for b, block in enumerate(widths, 1):
            self.add_module(f"block{b}", nn.ModuleDict({f"conv{c}": next(convs) for c in range(1, len(block) + 1)}))
        self._chain(stages)

    @staticmethod
    def widths_of(state: Mapping[str, Tensor]) -> list[list[int]]:
        """Channels of each convolution, block by block, read from the shapes of weights."""
        widths: list[list[int]] = []
        while any(key.startswith(f"block{len(widths) + 1}.") for key in state):
            block: list[int] = []
            while (weight := state.get(f"block{len(widths) + 1}.conv{len(block) + 1}.weight")) is not None:
                block.append(weight.shape[0])
            widths.append(block)
        return widths


def vgg_stages(widths: Sequence[Sequence[int]], pool: nn.Module, window: Window) -> list[Stage]:
    """`convB_C`, `reluB_C` and `poolB` for block B and convolution C, both from one."""
    stages: list[Stage] = []
    channels = 3
    for b, block in enumerate(widths, 1):
        if b > 1:
            stages.append(Stage(f"pool{b - 1}", pool, window, channels))
        for c, width in enumerate(block, 1):
            conv = nn.Conv2d(channels, width, 3, padding=1)
            stages.append(Stage(f"conv{b}_{c}", conv, Window(3, 1, 1), width))
            stages.append(Stage(f"relu{b}_{c}", nn.ReLU(), Window(), width))
            channels = width
    return stages


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
        stages = [
            Stage("conv1", nn.Conv2d(3, 96, 7, stride=2), Window(7, 2), 96),
            Stage("relu1", nn.ReLU(), Window(), 96),
        ]
        channels = 96
        for number, expand in zip(range(2, 10), (64, 64, 128, 128, 192, 192, 256, 256), strict=True):
            if number in (2, 5, 9):
                name = f"pool{1 if number == 2 else number - 1}"
                stages.append(Stage(name, nn.MaxPool2d(3, 2, ceil_mode=True), pool, channels))
            fire = Fire(channels, expand // 4, expand)
            channels = 2 * expand
            stages.append(Stage(f"fire{number}", fire, Window(3, 1, 1), channels))
        self.features = nn.Sequential(*(stage.module for stage in stages))
        self._chain(stages)


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
    Layers: `conv1` with its normalisation, `relu1`, `pool1`, and `convI_blockJ`, the output of block J of stage I.
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
        self._chain(self._stages())
        self.train(False)

    def _stages(self) -> list[Stage]:
        channels = self.conv1.out_channels
        stages = [
            Stage("conv1", nn.Sequential(self.conv1, self.bn1), Window(7, 2, 3), channels),
            Stage("relu1", nn.ReLU(), Window(), channels),
            Stage("pool1", nn.MaxPool2d(3, 2, 1), Window(3, 2, 1), channels),
        ]
        layers = [layer for name, layer in self.named_children() if name.startswith("layer")]
        for number, layer in enumerate(layers, 2):
            for b, block in enumerate(layer.children(), 1):
                assert isinstance(block, Bottleneck)
                window = Window(3, block.conv2.stride[0], 1)
                stages.append(Stage(f"conv{number}_block{b}", block, window, block.conv3.out_channels))
        return stages

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
        self._chain(self._stages())
        return self


VGG16_WIDTHS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
VGG19_WIDTHS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


def deepest(backbone: Backbone, names: Iterable[str]) -> Layer:
    """The layer of the greatest stride and margin among `names`: what a halo must cover."""
    chosen = [backbone.layers[name] for name in names]
    stride = max(layer.stride for layer in chosen)
    margin = max(layer.margin for layer in chosen)
    return Layer(stride, -(-margin // stride) * stride, max(layer.channels for layer in chosen))
