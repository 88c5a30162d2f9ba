"""What a backbone costs: arithmetic and memory of a pass through it, for each pixel.

Arithmetic follows from the windows that a backbone declares. Memory is counted, tensor by tensor, in the passes
themselves, with their products left out, since no number matters. Both are taken for two small pictures, and the line
through the two gives the cost of a pixel and what is the same for all sizes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from parallel_nst.networks.backbones.base import Backbone, Block
from parallel_nst.painting.gatys.losses import Core, content_sums, cut, gram_sums

SIDES = (128, 192)  # px of the two pictures; multiples of the deepest stride of every backbone


@dataclass(frozen=True)
class Rates:
    """FLOP and bytes for each px of an image.

    flops: of a forward pass to the deepest layer and of the Gram products, a multiply-add counting two.
    graph: what a forward pass with Gram sums keeps for its backward pass. peak: what is alive at the worst moment of
    forward and backward, the graph among it. forward_peak: the same of a forward pass without gradient.
    """

    flops: float
    graph: float
    peak: float
    forward_peak: float


@dataclass(frozen=True)
class Profile(Rates):
    """Costs of one backbone, read to certain layers in one precision; the rates are those of a px that is summed over.

    halo: rates of a px that is read for context only. content: bytes of the features of the content layers, for each
    px. parameters: numbers in all weights. fixed: bytes at the worst moment of forward and backward that do not grow
    with the image; the weights themselves are not counted.
    """

    halo: Rates
    content: float
    parameters: int
    fixed: float


@dataclass(frozen=True)
class Counts(Rates):
    """The same, counted on one picture as a whole."""

    content: int


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors that are made while it is active. `now`: bytes alive; `most`: at the worst moment so far.

    It sees what PyTorch's operations return, not the buffers that a kernel takes and gives back within one of them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.most = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would load its compiler, which takes a second, only to keep it away from here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            self._meet(value, made=False)
        result = self.run(func, args, kwargs)
        self._meet(result, made=True)
        return result

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation returns."""
        return func(*args, **kwargs)

    def _meet(self, value: Any, *, made: bool) -> None:
        """Take note of all storages in `value`; those that are `made` here and not views of earlier ones count."""
        if isinstance(value, list | tuple):
            for inner in value:
                self._meet(inner, made=made)
        elif isinstance(value, Tensor):
            storage = value.untyped_storage()
            key, size = storage._cdata, storage.nbytes() if made else 0
            if key not in self._known:
                self._known.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class UnfilledBytes(LiveBytes):  # type: ignore[no-untyped-call]
    """Counts as `LiveBytes` does, but products and changes of precision return tensors of their shape in which nothing
    is written: bytes in a hundredth of the time."""

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        return UNFILLED[func](*args, **kwargs) if func in UNFILLED else func(*args, **kwargs)


def unfilled_convolution(x: Tensor, weight: Tensor, _bias: Tensor | None, *window: Any) -> Tensor:
    """As `aten.convolution`, for one that is not transposed."""
    stride, padding, dilation = window[:3]
    reads = [by * (kernel - 1) + 1 for by, kernel in zip(dilation, weight.shape[2:], strict=True)]
    sides = [
        (length + 2 * pad - read) // step + 1
        for length, pad, read, step in zip(x.shape[2:], padding, reads, stride, strict=True)
    ]
    shape = (x.shape[0], weight.shape[0], *sides)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def unfilled_gradients(_gradient: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
    """As `aten.convolution_backward`: of the input, of the weights and of the bias where they are wanted."""
    likes = (x, weight, weight[:, 0, 0, 0])
    return tuple(torch.empty_like(like) if want else None for like, want in zip(likes, rest[-1], strict=True))


def unfilled_product(a: Tensor, b: Tensor) -> Tensor:
    """As `aten.mm` and `aten.bmm`."""
    return a.new_empty(*a.shape[:-1], b.shape[-1])


def unfilled_copy(x: Tensor, **kinds: Any) -> Tensor:
    """As `aten._to_copy`."""
    return torch.empty_like(x, **{name: kind for name, kind in kinds.items() if name != "non_blocking"})


aten = torch.ops.aten
UNFILLED: Mapping[Any, Callable[..., Any]] = {
    aten.convolution.default: unfilled_convolution,
    aten.convolution_backward.default: unfilled_gradients,
    aten.mm.default: unfilled_product,
    aten.bmm.default: unfilled_product,
    aten._to_copy.default: unfilled_copy,
}


def profile(
    backbone: Backbone, style_layers: Collection[str], content_layers: Collection[str], dtype: torch.dtype
) -> Profile:
    """Cost of measuring Gram sums at the style layers and squared differences at the content layers, and of
    differentiating them by the image. BadInput for an unknown layer."""
    passes = Passes(backbone, style_layers, content_layers, dtype)
    backbone.check_layers((*style_layers, *content_layers))
    small, large = (passes.counted(side, summed=True) for side in SIDES)
    bare = [passes.counted(side, summed=False) for side in SIDES]
    peak = per_px(small.peak, large.peak)
    return Profile(
        **slopes(small, large),
        halo=Rates(**slopes(*bare)),
        content=per_px(small.content, large.content),
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        fixed=max(0.0, small.peak - peak * SIDES[0] ** 2),
    )


def slopes(small: Rates, large: Rates) -> dict[str, float]:
    """The rates between two pictures."""
    names = ("flops", "graph", "peak", "forward_peak")
    return {name: per_px(getattr(small, name), getattr(large, name)) for name in names}


def per_px(small: float, large: float) -> float:
    """What each px costs that the larger picture has more."""
    return (large - small) / (SIDES[1] ** 2 - SIDES[0] ** 2)


def forward_flops(backbone: Backbone, names: Collection[str], height: int, width: int) -> int:
    """FLOP of the convolutions of a forward pass over a picture of this size to the deepest of the named layers."""
    order, sizes = list(backbone.layers), backbone.sizes(height, width)
    end = max((order.index(name) + 1 for name in names), default=0)
    flops, inputs = 0, height * width
    for block in backbone.blocks[:end]:
        outputs = prod(sizes[block.name])
        flops += block_flops(block, inputs, outputs)
        inputs = outputs
    return flops


def block_flops(block: Block, inputs: int, outputs: int) -> int:
    """FLOP of a block's convolutions, at so many positions of its input and its output. Each position of a convolution
    takes as many multiply-adds as it has weights."""
    total = 0
    for conv in block.module.modules():
        if isinstance(conv, nn.Conv2d):
            ahead = any(conv is one for one in block.ahead)
            total += 2 * conv.weight.numel() * (inputs if ahead else outputs)
    return total


def gram_flops(backbone: Backbone, style_layers: Collection[str], height: int, width: int) -> int:
    """FLOP of the Gram products of the style layers on a picture of this size."""
    sizes = backbone.sizes(height, width)
    return sum(2 * backbone.layers[name].channels ** 2 * prod(sizes[name]) for name in style_layers)


@dataclass(frozen=True)
class Passes:
    """Passes through a backbone to certain layers in one precision, to be counted.

    live: what counts their bytes.
    """

    backbone: Backbone
    style_layers: Collection[str]
    content_layers: Collection[str]
    dtype: torch.dtype
    live: Callable[[], LiveBytes] = UnfilledBytes

    def counted(self, side: int, *, summed: bool) -> Counts:
        """The costs on a picture of `side` x `side` px whose positions are all summed over, or none."""
        image = torch.full((1, 3, side, side), 0.5, device=next(self.backbone.parameters()).device)
        targets = self.targets(image)
        with torch.no_grad(), self.live() as forward:
            self.sums(image, targets, summed=summed)
        image.requires_grad_()
        with self.live() as live:
            outputs = self.sums(image, targets, summed=summed)
            graph = live.now
            gradients = [torch.ones_like(output) for output in outputs]
            total = torch.stack([(a * b).sum() for a, b in zip(outputs, gradients, strict=True)]).sum()
            torch.autograd.grad(total, image)  # handing it the gradients would load an algebra system
        content = sum(target.untyped_storage().nbytes() for target in targets.values())
        return Counts(self.flops(side, summed=summed), graph, live.most, forward.most, content)

    def flops(self, side: int, *, summed: bool) -> int:
        """Of a forward pass and, where positions are summed over, of the Gram products."""
        names = {*self.style_layers, *self.content_layers}
        grams = gram_flops(self.backbone, self.style_layers, side, side) if summed else 0
        return forward_flops(self.backbone, names, side, side) + grams

    def targets(self, image: Tensor) -> dict[str, Tensor]:
        """What stands for the features of a content picture."""
        sizes, layers = self.backbone.sizes(*image.shape[-2:]), self.backbone.layers
        shapes = {name: (1, layers[name].channels, *sizes[name]) for name in self.content_layers}
        return {
            name: torch.empty(shape, dtype=self.dtype, device=image.device, memory_format=torch.channels_last)
            for name, shape in shapes.items()
        }

    def sums(self, image: Tensor, targets: Mapping[str, Tensor], *, summed: bool) -> list[Tensor]:
        """All that is summed over a picture (1, 3, H, W)."""
        features = self.backbone(image, {*self.style_layers, *self.content_layers}, self.dtype)
        grams = [gram_sums(features[name], core(features[name], summed)) for name in self.style_layers]
        content = [content_sums(part(features[n], summed), part(targets[n], summed)) for n in self.content_layers]
        pixels = part(image, summed)
        excess = squared(pixels - pixels.clamp(0, 1))
        return [*grams, *content, squared(pixels.diff(dim=-1)), squared(pixels.diff(dim=-2)), excess]


def core(features: Tensor, summed: bool) -> Core:
    """All positions but the last row and column, or none. Without its halo a tile's core is not one block of memory,
    so that a matrix product copies it; that shows only if something is left out."""
    return slice(0, features.shape[-2] - 1 if summed else 0), slice(0, features.shape[-1] - 1)


def part(features: Tensor, summed: bool) -> Tensor:
    """The core's positions."""
    return cut(features, core(features, summed))


def squared(values: Tensor) -> Tensor:
    """Sum of squares."""
    return values.square().sum()
