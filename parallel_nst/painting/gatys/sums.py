"""Measures of a picture, or of a piece of one, that add up to those of the whole.

The loss is a function of a few sums over the positions of a picture (`FeatureSums`), and sums over disjoint pieces add
up. So the loss of a picture in pieces, and its gradient, are those of the whole: measure each piece, add, differentiate
the loss by the sums, and send that back through the pieces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.losses import content_sums, cut, excess_sums, moment_sums, variation_sums
from parallel_nst.painting.tiles.geometry import Tile

Grams = Mapping[str, Tensor]
"""By style layer: a Gram matrix with the features' mean beside it (see `losses.moment_sums`), (C + 1, C + 1)."""


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


def measure_sums(reader: FeatureReader, image: Tensor, content: Mapping[str, Tensor], tile: Tile) -> FeatureSums:
    """Sums over the core of a tile of a picture.

    image: the tile's `read` rectangle; content: features of the same rectangle of the content image.
    """
    layers, features = reader.layers, reader.read(image)
    core = {name: reader.core(name, tile) for name in features}
    return FeatureSums(
        grams={name: moment_sums(features[name], core[name]) for name in layers.style},
        content={
            name: content_sums(cut(features[name], core[name]), cut(content[name], core[name]))
            for name in layers.content
        },
        variation=variation_sums(image, tile.core.within(tile.read)),
        excess=excess_sums(image, tile.core.within(tile.read)),
        positions={name: math.prod(f[(..., *core[name])].shape[-2:]) for name, f in features.items()},
        elements=image.shape[1] * tile.core.area,
    )


def pull_back(sums: FeatureSums, image: Tensor, by: FeatureSums) -> Tensor:
    """Gradient by the image of a loss whose derivative by the image's `sums` is `by`."""
    outputs = [(value, weight) for value, weight in zip(sums.tensors, by.tensors, strict=True) if value.requires_grad]
    values, weights = zip(*outputs, strict=True)
    (gradient,) = torch.autograd.grad(values, image, weights)
    return gradient
