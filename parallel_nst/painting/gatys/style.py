"""What a style image asks for, measured whole or in tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.losses import gram_part, moment_sums, wide
from parallel_nst.painting.gatys.sums import Grams, region_key
from parallel_nst.painting.named_tensors import on_device
from parallel_nst.painting.tiles.geometry import Tile

LEAST_CONTENT = 0.1  # of the style's power, that of the content counts as


@dataclass(frozen=True)
class StyleTargets:
    """What the style image asks for, and the units of the losses.

    grams: the Gram mean to reach, by style layer.
    norms: |G|^2 of the style image itself, by style layer; the loss of Gram matrices is in units of it.
    powers: mean square of the style image's features, by layer; the other losses of features are in units of it.
    regions: weight of each style where each has a region of its own; grams, norms and powers of style layers are then
    by region, too (`sums.region_key`).
    content_powers: mean square of the content image's features, by content layer; the content loss is in units of it,
    or of the style's where it was not measured.
    """

    grams: Grams
    norms: Mapping[str, float]
    powers: Mapping[str, float]
    regions: Sequence[float] = ()
    content_powers: Mapping[str, float] = field(default_factory=dict)

    def content_unit(self, name: str) -> float:
        """Of the content loss at a layer. A content of next to no features is not magnified without bounds."""
        power = self.powers[name]
        return max(self.content_powers.get(name, power), LEAST_CONTENT * power)

    def to(self, device: torch.device) -> StyleTargets:
        """The same on another device."""
        return replace(self, grams=on_device(self.grams, device))


def mixed(targets: Sequence[StyleTargets], weights: Sequence[float]) -> StyleTargets:
    """What several style pictures ask for together: the weighted mean of their measures, as if it were that of one
    picture put together from shares of them."""
    total = sum(weights)
    shares = [weight / total for weight in weights]
    grams = {
        name: torch.stack([share * one.grams[name] for share, one in zip(shares, targets, strict=True)]).sum(0)
        for name in targets[0].grams
    }
    return StyleTargets(grams, norms_of(grams), mixed_powers(targets, shares))


def mixed_powers(targets: Sequence[StyleTargets], shares: Sequence[float]) -> dict[str, float]:
    """The powers of several style pictures together."""
    return {
        name: sum(share * one.powers[name] for share, one in zip(shares, targets, strict=True))
        for name in targets[0].powers
    }


def regional(targets: Sequence[StyleTargets], weights: Sequence[float], areas: Sequence[float]) -> StyleTargets:
    """What several style pictures ask for, each in its own region. weights: only their ratios count. areas: the share
    of the picture that each mask covers."""
    mean = sum(weights) / len(weights)
    regions = [weight / mean for weight in weights]
    masses = [weight * area for weight, area in zip(regions, areas, strict=True)]
    total = sum(masses) or 1.0
    grams = {region_key(name, k): gram for k, one in enumerate(targets) for name, gram in one.grams.items()}
    powers = {region_key(name, k): one.powers[name] for k, one in enumerate(targets) for name in one.grams}
    norms = {region_key(name, k): norm for k, one in enumerate(targets) for name, norm in one.norms.items()}
    return StyleTargets(grams, norms, mixed_powers(targets, [mass / total for mass in masses]) | powers, regions)


def norms_of(grams: Grams) -> dict[str, float]:
    """|G|^2 of Gram means, by layer."""
    return {name: max(float(gram_part(gram).square().sum()), 1e-12) for name, gram in grams.items()}


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

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> StyleSums:
        """On another device, in another precision."""
        grams = {name: value.to(device, dtype) for name, value in self.grams.items()}
        powers = {name: value.to(device, dtype) for name, value in self.powers.items()}
        return replace(self, grams=grams, powers=powers)

    @property
    def targets(self) -> StyleTargets:
        grams = {name: (gram / self.positions[name]).to(gram.dtype) for name, gram in self.grams.items()}
        powers = {name: gram_part(gram).diagonal().mean() for name, gram in self.grams.items()} | dict(self.powers)
        return StyleTargets(
            grams=grams,
            norms=norms_of(grams),
            powers={name: max(float(power) / self.positions[name], 1e-12) for name, power in powers.items()},
        )


@torch.no_grad()
def measure_style(reader: FeatureReader, image: Tensor, tile: Tile) -> StyleSums:
    """Over the core of a tile of a style image. image: the tile's `read` rectangle."""
    cores = {name: features[(..., *reader.core(name, tile))] for name, features in reader.read(image).items()}
    return StyleSums(
        grams={name: moment_sums(cores[name]) for name in reader.layers.style},
        powers={name: wide(cores[name]).square().mean(1).sum() for name in reader.layers.content},
        positions={name: math.prod(core.shape[-2:]) for name, core in cores.items()},
    )
