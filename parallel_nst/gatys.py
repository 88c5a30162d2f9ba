"""Gatys' method on one image or one tile: what to aim at, how far off an image is, and the loop that improves it.

Gatys, Ecker, Bethge: Image Style Transfer Using Convolutional Neural Networks, CVPR 2016. Images are (1, 3, H, W),
RGB, [0, 1]; Gram matrices are means over positions, (C, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel_nst.losses import content_loss, gram_mean, style_loss, total_variation, wide
from parallel_nst.networks.backbones import Backbone
from parallel_nst.optimizers import Optimizer
from parallel_nst.recipe import LayerWeights, Recipe

Grams = Mapping[str, Tensor]


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
class Progress:
    """One optimiser step done: `step` of `steps`, and the loss before it."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class Minimum:
    """The image reached, and its loss."""

    image: Tensor
    loss: float


@torch.no_grad()
def measure_grams(
    backbone: Backbone, image: Tensor, names: Mapping[str, float], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Gram mean (C, C) of each named layer."""
    return {name: gram_mean(f) for name, f in backbone(image, names, dtype).items()}


@torch.no_grad()
def measure_style(backbone: Backbone, style: Tensor, layers: LayerWeights, dtype: torch.dtype) -> StyleTargets:
    """Targets from a style image."""
    features = backbone(style, {**layers.style, **layers.content}, dtype)
    grams = {name: gram_mean(features[name]) for name in layers.style}
    return StyleTargets(
        grams=grams,
        norms={name: max(float(gram.square().sum()), 1e-12) for name, gram in grams.items()},
        powers={name: max(float(wide(features[name]).square().mean()), 1e-12) for name in layers.content},
    )


@torch.no_grad()
def measure_content(
    backbone: Backbone, content: Tensor, names: Mapping[str, float], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Features of the content layers, the targets of the content loss."""
    return dict(backbone(content, names, dtype))


def objective(
    backbone: Backbone,
    style: StyleTargets,
    content: Mapping[str, Tensor],
    recipe: Recipe,
    layers: LayerWeights,
    dtype: torch.dtype,
) -> Callable[[Tensor], Tensor]:
    """The total loss as a function of the image: style, content and total variation, each times its weight."""

    def loss(image: Tensor) -> Tensor:
        features = backbone(image, {**layers.style, **layers.content}, dtype)
        style_terms = {n: style_loss(gram_mean(features[n]), style.grams[n], style.norms[n]) for n in layers.style}
        content_terms = {n: content_loss(features[n], content[n]) / style.powers[n] for n in layers.content}
        total = recipe.style_weight * weighted_mean(style_terms, layers.style)
        total = total + recipe.content_weight * weighted_mean(content_terms, layers.content)
        return total + recipe.tv_weight * total_variation(image) if recipe.tv_weight else total

    return loss


def weighted_mean(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Mean of the terms, weighted by layer."""
    return sum((weights[name] * term for name, term in terms.items()), torch.zeros(())) / sum(weights.values())


def value_and_gradient(loss: Callable[[Tensor], Tensor], image: Tensor) -> tuple[float, Tensor]:
    """Loss and its gradient with respect to the image."""
    image = image.detach().requires_grad_()
    value = loss(image)
    (gradient,) = torch.autograd.grad(value, image)
    return float(value.detach()), gradient


def minimise(
    loss: Callable[[Tensor], Tensor], image: Tensor, optimizer: Optimizer, steps: int
) -> Generator[Progress, None, Minimum]:
    """Take `steps` optimiser steps from `image`, saying so after each, and return the best image seen, clamped to
    [0, 1].

    The clamp stands here and not inside the loop, where it would contradict the curvature that L-BFGS has learnt.
    """
    state = optimizer.init(image)
    best = Minimum(image, math.inf)
    for step in range(1, steps + 1):
        value, gradient = value_and_gradient(loss, image)
        if value < best.loss:
            best = Minimum(image, value)
        image, state = optimizer.step(state, image, value, gradient)
        yield Progress(step, steps, value)
    last = clamped(loss, image)
    return last if last.loss <= best.loss else min(last, clamped(loss, best.image), key=lambda end: end.loss)


@torch.no_grad()
def clamped(loss: Callable[[Tensor], Tensor], image: Tensor) -> Minimum:
    """The image in [0, 1], and its loss; a loss that is not a number counts as infinite."""
    image = image.clamp(0, 1)
    value = float(loss(image))
    return Minimum(image, math.inf if math.isnan(value) else value)
