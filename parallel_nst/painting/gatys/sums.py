"""Measures of a picture, or of a piece of one, that add up to those of the whole.

The loss is a function of a few sums over the positions of a picture (`FeatureSums`), and sums over disjoint pieces add
up. So the loss of a picture in pieces, and its gradient, are those of the whole: measure each piece, add, differentiate
the loss by the sums, and send that back through the pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.losses import (
    Core,
    content_sums,
    cut,
    excess_sums,
    masked_moment_sums,
    moment_sums,
    variation_sums,
)
from parallel_nst.painting.tiles.geometry import Tile

Grams = Mapping[str, Tensor]
"""By style layer: a Gram matrix with the features' mean beside it (see `losses.moment_sums`), (C + 1, C + 1). Where
masks give each style a region of its own, by layer and region (`region_key`)."""


def region_key(layer: str, region: int) -> str:
    """The name of a layer's measures in one region."""
    return f"{layer}@{region}"


@dataclass(frozen=True)
class FeatureSums:
    """What the loss of a picture, or of a piece of one, is made of.

    grams: sum of outer products (C + 1, C + 1), by style layer. content: sum of squared differences, by content layer.
    variation: sum of squared differences of neighbouring pixels. excess: sum of squared distances from the range of
    pixels. positions: how many were summed over, by layer; elements: how many numbers the piece of the image has.
    """

    grams: Grams
    content: Mapping[str, Tensor]
    variation: Tensor
    excess: Tensor
    positions: Mapping[str, int]
    elements: int

    def __add__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(
            grams={name: gram + other.grams[name] for name, gram in self.grams.items()},
            content={name: value + other.content[name] for name, value in self.content.items()},
            variation=self.variation + other.variation,
            excess=self.excess + other.excess,
            positions={name: count + other.positions[name] for name, count in self.positions.items()},
            elements=self.elements + other.elements,
        )

    @property
    def means(self) -> dict[str, Tensor]:
        """Mean moments, by style layer and region; zeros for a region that is nowhere in the piece."""
        return {key: gram / (self.positions.get(key) or mass_of(gram)) for key, gram in self.grams.items()}

    @property
    def tensors(self) -> list[Tensor]:
        """All that can be differentiated, in one order."""
        return [*self.grams.values(), *self.content.values(), self.variation, self.excess]

    def holding(self, tensors: list[Tensor]) -> FeatureSums:
        """The same record with other tensors, in the order of `tensors`."""
        values = iter(tensors)
        grams = {name: next(values) for name in self.grams}
        content = {name: next(values) for name in self.content}
        return replace(self, grams=grams, content=content, variation=next(values), excess=next(values))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> FeatureSums:
        """Detached, on another device, in another precision."""
        return self.holding([value.detach().to(device, dtype) for value in self.tensors])


def mass_of(sums: Tensor) -> Tensor:
    """The mass of a mask in its moment sums, never 0; a picture does not change it."""
    return sums[-1, -1].detach().clamp_min(torch.finfo(sums.dtype).tiny)


def measure_sums(
    reader: FeatureReader,
    image: Tensor,
    content: Mapping[str, Tensor],
    tile: Tile,
    masks: Mapping[str, Tensor] | None = None,
) -> FeatureSums:
    """Sums over the core of a tile of a picture.

    image: the tile's `read` rectangle; content: features of the same rectangle of the content image; masks: of the same
    rectangle (`FeatureReader.read_masks`), where styles have regions.
    """
    layers, features = reader.layers, reader.read(image)
    core = {name: reader.core(name, tile) for name in features}
    return FeatureSums(
        grams=style_sums(features, core, layers.style, masks),
        content={
            name: content_sums(cut(features[name], core[name]), cut(content[name], core[name]))
            for name in layers.content
        },
        variation=variation_sums(image, tile.core.within(tile.read)),
        excess=excess_sums(image, tile.core.within(tile.read)),
        positions={name: math.prod(f[(..., *core[name])].shape[-2:]) for name, f in features.items()},
        elements=image.shape[1] * tile.core.area,
    )


def style_sums(
    features: Mapping[str, Tensor], core: Mapping[str, Core], names: Iterable[str], masks: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Moment sums at these layers, of each region where there are masks."""
    if masks is None:
        return {name: moment_sums(features[name], core[name]) for name in names}
    stacks = {name: masked_moment_sums(features[name], masks[name], core[name]) for name in names}
    return {region_key(name, k): sums for name, stack in stacks.items() for k, sums in enumerate(stack)}


@torch.no_grad()
def measure_means(
    reader: FeatureReader, image: Tensor, tile: Tile, masks: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Mean moments over the core of a tile at the style layers. image: the tile's `read` rectangle."""
    features, zero = reader.read(image), torch.zeros(())
    core = {name: reader.core(name, tile) for name in features}
    counts = {name: math.prod(f[(..., *core[name])].shape[-2:]) for name, f in features.items()}
    return FeatureSums(style_sums(features, core, reader.layers.style, masks), {}, zero, zero, counts, 0).means


def pull_back(sums: FeatureSums, image: Tensor, by: FeatureSums) -> Tensor:
    """Gradient by the image of a loss whose derivative by the image's `sums` is `by`."""
    outputs = [(value, weight) for value, weight in zip(sums.tensors, by.tensors, strict=True) if value.requires_grad]
    values, weights = zip(*outputs, strict=True)
    (gradient,) = torch.autograd.grad(values, image, weights)
    return gradient
