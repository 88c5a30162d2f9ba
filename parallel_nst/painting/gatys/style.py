"""What a style image asks for, measured whole or in tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.painting.gatys.losses import gram_sums, wide
from parallel_nst.painting.gatys.sums import Extent, Grams
from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.recipe import LayerWeights


@dataclass(frozen=True)
class StyleTargets:
    """What the style image asks for.

    grams: the Gram mean to reach, by style layer.
    norms: |G|^2 of the style image itself, by style layer; the style loss is in units of it.
    powers: mean square of the style image's features, by content layer; the content loss is in units of it.
    """

    grams: Grams
    norms: Mapping[str, float]
    powers: Mapping[str, float]


@dataclass(frozen=True)
class StyleSums:
    """What `StyleTargets` are made of, for a piece of the style image; disjoint pieces add up.

    grams: sum of outer products, by style layer. powers: sum of the channels' mean square, by content layer.
    """

    grams: Grams
    powers: Mapping[str, Tensor]
    positions: Mapping[str, int]

    def __add__(self, other: StyleSums) -> StyleSums:
        return StyleSums(
            grams={name: gram + other.grams[name] for name, gram in self.grams.items()},
            powers={name: power + other.powers[name] for name, power in self.powers.items()},
            positions={name: count + other.positions[name] for name, count in self.positions.items()},
        )

    @property
    def targets(self) -> StyleTargets:
        grams = {name: (gram / self.positions[name]).to(gram.dtype) for name, gram in self.grams.items()}
        return StyleTargets(
            grams=grams,
            norms={name: max(float(gram.square().sum()), 1e-12) for name, gram in grams.items()},
            powers={name: max(float(power) / self.positions[name], 1e-12) for name, power in self.powers.items()},
        )


@torch.no_grad()
def measure_style(
    backbone: Backbone, image: Tensor, tile: Tile, size: Extent, layers: LayerWeights, dtype: torch.dtype
) -> StyleSums:
    """Over the core of a tile of a style image of this size. image: the tile's `read` rectangle."""
    features = backbone(image, {**layers.style, **layers.content}, dtype)
    cores = {n: f[(..., *tile.positions(backbone.layers[n].stride, *size))] for n, f in features.items()}
    return StyleSums(
        grams={name: gram_sums(cores[name]) for name in layers.style},
        powers={name: wide(cores[name]).square().mean(1).sum() for name in layers.content},
        positions={name: math.prod(core.shape[-2:]) for name, core in cores.items()},
    )
