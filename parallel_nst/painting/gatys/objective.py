"""Gatys' method: what to aim at, how far off a picture is, and the loop that improves it.

Gatys, Ecker, Bethge: Image Style Transfer Using Convolutional Neural Networks, CVPR 2016. Images are (1, 3, H, W),
RGB, [0, 1]; Gram matrices are means over positions, (C, C).

The loss is a function of a few sums over the positions of a picture (`Sums`), and sums over disjoint pieces add up.
So the loss of a picture in pieces, and its gradient, are those of the whole: measure each piece, add, differentiate
the loss by the sums, and send that back through the pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.painting.gatys.losses import content_sums, cut, gram_sums, style_loss, variation_sums, wide
from parallel_nst.painting.gatys.optimizers import Optimizer
from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.recipe import LayerWeights, Recipe

Grams = Mapping[str, Tensor]
Extent = tuple[int, int]  # height and width in px


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
class Sums:
    """What the loss of a picture, or of a piece of one, is made of.

    grams: sum of outer products (C, C), by style layer. content: sum of squared differences, by content layer.
    variation: sum of squared differences of neighbouring pixels. positions: how many were summed over, by layer;
    elements: how many numbers the piece of the image has.
    """

    grams: Grams
    content: Mapping[str, Tensor]
    variation: Tensor
    positions: Mapping[str, int]
    elements: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            grams={name: gram + other.grams[name] for name, gram in self.grams.items()},
            content={name: value + other.content[name] for name, value in self.content.items()},
            variation=self.variation + other.variation,
            positions={name: count + other.positions[name] for name, count in self.positions.items()},
            elements=self.elements + other.elements,
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All that can be differentiated, in one order."""
        return [*self.grams.values(), *self.content.values(), self.variation]

    def holding(self, tensors: list[Tensor]) -> Sums:
        """The same record with other tensors, in the order of `tensors`."""
        values = iter(tensors)
        grams = {name: next(values) for name in self.grams}
        content = {name: next(values) for name in self.content}
        return replace(self, grams=grams, content=content, variation=next(values))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Sums:
        """Detached, on another device, in another precision."""
        return self.holding([value.detach().to(device, dtype) for value in self.tensors])


@dataclass(frozen=True)
class Minimum:
    """The image reached, and its loss."""

    image: Tensor
    loss: float


@dataclass(frozen=True)
class Iteration:
    """Where the loop stands after `step` steps: the image to evaluate next, the optimiser's state, the loss before the
    last step and the best image evaluated. The next iteration takes over its memory."""

    image: Tensor
    state: Any
    best: Minimum
    step: int = 0
    loss: float = math.inf

    @classmethod
    def start(cls, image: Tensor, state: Any, step: int = 0) -> Iteration:
        return cls(image, state, Minimum(image, math.inf), step)


class Objective(Protocol):
    """A loss to be minimised over an image."""

    def value(self, image: Tensor) -> float: ...

    def value_and_gradient(self, image: Tensor) -> tuple[float, Tensor]: ...


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


@torch.no_grad()
def measure_content(
    backbone: Backbone, content: Tensor, names: Mapping[str, float], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Features of the content layers, the targets of the content loss."""
    return dict(backbone(content, names, dtype))


def measure_sums(
    backbone: Backbone,
    image: Tensor,
    content: Mapping[str, Tensor],
    tile: Tile,
    size: Extent,
    layers: LayerWeights,
    dtype: torch.dtype,
) -> Sums:
    """Sums over the core of a tile of a picture of this size.

    image: the tile's `read` rectangle; content: features of the same rectangle of the content image.
    """
    features = backbone(image, {**layers.style, **layers.content}, dtype)
    core = {name: tile.positions(backbone.layers[name].stride, *size) for name in features}
    return Sums(
        grams={name: gram_sums(features[name], core[name]) for name in layers.style},
        content={
            name: content_sums(cut(features[name], core[name]), cut(content[name], core[name]))
            for name in layers.content
        },
        variation=variation_sums(image, tile.core.within(tile.read)),
        positions={name: math.prod(f[(..., *core[name])].shape[-2:]) for name, f in features.items()},
        elements=image.shape[1] * tile.core.area,
    )


def total_loss(sums: Sums, style: StyleTargets, recipe: Recipe, layers: LayerWeights) -> Tensor:
    """Style, content and total variation, each a mean over the whole picture and times its weight."""
    counts = sums.positions
    style_terms = {n: style_loss(sums.grams[n] / counts[n], style.grams[n], style.norms[n]) for n in layers.style}
    content_terms = {n: sums.content[n] / (counts[n] * style.powers[n]) for n in layers.content}
    total = recipe.style_weight * weighted_mean(style_terms, layers.style)
    total = total + recipe.content_weight * weighted_mean(content_terms, layers.content)
    return total + recipe.tv_weight * sums.variation / sums.elements


def weighted_mean(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Mean of the terms, weighted by layer."""
    return sum((weights[name] * term for name, term in terms.items()), torch.zeros(())) / sum(weights.values())


def cotangents(sums: Sums, style: StyleTargets, recipe: Recipe, layers: LayerWeights) -> tuple[float, Sums]:
    """The loss of these sums and its derivative by each of them."""
    leaves = sums.holding([value.detach().requires_grad_() for value in sums.tensors])
    loss = total_loss(leaves, style, recipe, layers)
    return float(loss.detach()), sums.holding(list(torch.autograd.grad(loss, leaves.tensors)))


def pull_back(sums: Sums, image: Tensor, by: Sums) -> Tensor:
    """Gradient by the image of a loss whose derivative by the image's `sums` is `by`."""
    outputs = [(value, weight) for value, weight in zip(sums.tensors, by.tensors, strict=True) if value.requires_grad]
    values, weights = zip(*outputs, strict=True)
    (gradient,) = torch.autograd.grad(values, image, weights)
    return gradient


@dataclass(frozen=True)
class LocalObjective:
    """The total loss of a tile by itself: of its core, with the rest of the image as context.

    size: of the picture that the tile is part of; images and `content` are of its `read` rectangle.
    """

    backbone: Backbone
    style: StyleTargets
    content: Mapping[str, Tensor]
    tile: Tile
    size: Extent
    recipe: Recipe
    layers: LayerWeights
    dtype: torch.dtype

    def sums(self, image: Tensor) -> Sums:
        return measure_sums(self.backbone, image, self.content, self.tile, self.size, self.layers, self.dtype)

    @torch.no_grad()
    def measured(self, image: Tensor) -> tuple[float, Grams]:
        """The loss, and the Gram means by style layer."""
        sums = self.sums(image)
        grams = {name: gram / sums.positions[name] for name, gram in sums.grams.items()}
        return float(total_loss(sums, self.style, self.recipe, self.layers)), grams

    def value(self, image: Tensor) -> float:
        return self.measured(image)[0]

    def value_and_gradient(self, image: Tensor) -> tuple[float, Tensor]:
        image = image.detach().requires_grad_()
        sums = self.sums(image)
        loss, by = cotangents(sums, self.style, self.recipe, self.layers)
        return loss, pull_back(sums, image, by)


def minimise(objective: Objective, start: Iteration, optimizer: Optimizer, steps: int) -> Iterator[Iteration]:
    """Take optimiser steps from `start` until `steps` are done, one iteration each."""
    image, state, best, done = start.image, start.state, start.best, start.step
    del start
    for step in range(done + 1, steps + 1):
        value, gradient = objective.value_and_gradient(image)
        if value < best.loss:
            best = Minimum(image, value)
        image, state = optimizer.step(state, image, value, gradient)
        yield Iteration(image, state, best, step, value)


def finish(objective: Objective, end: Iteration) -> Minimum:
    """The last image or, if that is worse, the best image evaluated; clamped to [0, 1].

    The clamp stands here and not inside the loop, where it would contradict the curvature that L-BFGS has learnt.
    """
    last = clamped(objective, end.image)
    if last.loss <= end.best.loss:
        return last
    return min(last, clamped(objective, end.best.image), key=lambda minimum: minimum.loss)


def clamped(objective: Objective, image: Tensor) -> Minimum:
    """The image in [0, 1], and its loss; a loss that is not a number counts as infinite."""
    image = image.clamp(0, 1)
    value = objective.value(image)
    return Minimum(image, math.inf if math.isnan(value) else value)
