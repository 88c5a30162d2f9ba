"""What a backbone costs: arithmetic and memory of a pass through it, for each pixel.

Measured, not derived: the passes run on two small pictures while every multiplication and every tensor is counted, and
the line through the two counts gives the cost of a pixel and what is the same for all sizes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from parallel_nst.networks.backbones.base import Backbone
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

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._meet((args, kwargs), made=False)
        result = func(*args, **(kwargs or {}))
        self._meet(result, made=True)
        return result

    def _meet(self, values: Any, *, made: bool) -> None:
        """Take note of all storages in `values`; those that are `made` here and not views of earlier ones count."""
        for value in tree_iter(values):
            if isinstance(value, Tensor):
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


def profile(
    backbone: Backbone, style_layers: Collection[str], content_layers: Collection[str], dtype: torch.dtype
) -> Profile:
    """Cost of measuring Gram sums at the style layers and squared differences at the content layers, and of
    differentiating them by the image. ValueError for an unknown layer."""
    layers = (style_layers, content_layers)
    small, large = (count(backbone, *layers, dtype, side, summed=True) for side in SIDES)
    bare = [count(backbone, *layers, dtype, side, summed=False) for side in SIDES]
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


def count(
    backbone: Backbone,
    style_layers: Collection[str],
    content_layers: Collection[str],
    dtype: torch.dtype,
    side: int,
    *,
    summed: bool,
) -> Counts:
    """The costs on a picture of `side` x `side` px whose positions are all summed over, or none."""
    names = {*style_layers, *content_layers}
    image = torch.full((1, 3, side, side), 0.5, device=next(backbone.parameters()).device)
    with torch.no_grad():
        targets = dict(backbone(image, content_layers, dtype))

    def sums() -> list[Tensor]:
        features = backbone(image, names, dtype)
        grams = [gram_sums(features[name], core(features[name], summed)) for name in style_layers]
        content = [content_sums(part(features[n], summed), part(targets[n], summed)) for n in content_layers]
        return [*grams, *content, squared(part(image, summed).diff(dim=-1)), squared(part(image, summed).diff(dim=-2))]

    with torch.no_grad():
        flops, forward_peak = counted_flops(sums), counted_peak(sums)
    image.requires_grad_()
    with LiveBytes() as live:
        outputs = sums()
        graph = live.now
        torch.autograd.grad(outputs, image, [torch.ones_like(output) for output in outputs])
    content = sum(target.untyped_storage().nbytes() for target in targets.values())
    return Counts(flops, graph, live.most, forward_peak, content)


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


def counted_flops(run: Callable[[], object]) -> int:
    """FLOP of the matrix products and convolutions of `run`."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def counted_peak(run: Callable[[], object]) -> int:
    """Bytes alive at the worst moment of `run`."""
    with LiveBytes() as live:
        run()
    return int(live.most)
