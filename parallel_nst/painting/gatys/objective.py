"""Gatys' method: how far off a picture is, as a number, and which way it improves.

Gatys, Ecker, Bethge: Image Style Transfer Using Convolutional Neural Networks, CVPR 2016. Images are (1, 3, H, W),
RGB, [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.losses import gram_loss, gram_part, wasserstein_loss
from parallel_nst.painting.gatys.style import StyleTargets
from parallel_nst.painting.gatys.sums import FeatureSums, Grams, measure_sums, pull_back, region_key
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.recipe import Recipe

# Weight of the mean squared distance from [0, 1], in units of the weights of style and content. A picture of VGG19 that
# was left free on the way lost up to a fifth of what was reached to the clamp at the end; with 3 it is 4 %, with 10 at
# most 1 %, and before the clamp it is as good.
RANGE_WEIGHT = 10.0


PARTS = ("style", "content", "variation", "range")  # of a loss


class Loss(float):
    """A loss as a number that knows its parts, each times its weight: they add up to it."""

    parts: tuple[float, ...]

    def __new__(cls, total: float, parts: tuple[float, ...]) -> Loss:
        made = super().__new__(cls, total)
        made.parts = parts
        return made

    def __getnewargs__(self) -> tuple[float, tuple[float, ...]]:  # type: ignore[override]
        return float(self), self.parts


def parts_of(loss: float) -> dict[str, float]:
    """The parts of a loss that knows them, by name."""
    return dict(zip(PARTS, loss.parts, strict=True)) if isinstance(loss, Loss) else {}


def total_loss(sums: FeatureSums, style: StyleTargets, resolved: ResolvedRecipe) -> Tensor:
    """All parts together."""
    return added(loss_parts(sums, style, resolved))


def added(parts: list[Tensor]) -> Tensor:
    """Their sum."""
    return sum(parts[1:], parts[0])


def loss_parts(sums: FeatureSums, style: StyleTargets, resolved: ResolvedRecipe) -> list[Tensor]:
    """Style, content, total variation and what keeps the picture near the range of pixels, which is 0 in [0, 1]
    (`PARTS`), each a mean over the whole picture and times its weight. The last stands beside relative units alone:
    papers have none."""
    recipe, layers, counts = resolved.recipe, resolved.layers, sums.positions
    style_terms = style_losses(sums, style, resolved)
    relative = recipe.loss_units == "relative"
    content_terms = {
        n: sums.content[n] / (counts[n] * (style.content_unit(n) if relative else 1)) for n in layers.content
    }
    together = weighted_mean if relative else weighted_sum
    range_weight = RANGE_WEIGHT * (recipe.style_weight + recipe.content_weight) if relative else 0.0
    return [
        recipe.style_weight * together(style_terms, layers.style),
        recipe.content_weight * together(content_terms, layers.content),
        recipe.tv_weight * sums.variation / sums.elements,
        range_weight * sums.excess / sums.elements,
    ]


def style_losses(sums: FeatureSums, style: StyleTargets, resolved: ResolvedRecipe) -> dict[str, Tensor]:
    """The style loss of each layer. Where styles have regions, the sum over these, each with its weight and its share
    of the picture: a px counts as much in a small region as in a large one, and as much beside the content as in a
    picture without regions; what no mask covers has no style."""
    recipe, names, means = resolved.recipe, resolved.layers.style, sums.means
    if not style.regions:
        return {name: style_loss(means[name], style, name, recipe) for name in names}
    terms = {}
    for name in names:
        keys = {region_key(name, k): weight for k, weight in enumerate(style.regions)}
        shares = {key: weight * sums.grams[key][-1, -1].detach() / sums.positions[name] for key, weight in keys.items()}
        terms[name] = added([share * style_loss(means[key], style, key, recipe) for key, share in shares.items()])
    return terms


def style_loss(moments: Tensor, style: StyleTargets, name: str, recipe: Recipe) -> Tensor:
    """What mean moments (C + 1, C + 1) miss of those of the style by this name, as the recipe measures it. In absolute
    units that is the mean square over the Gram matrix, or for w2 the mean over channels."""
    target, relative = style.grams[name], recipe.loss_units == "relative"
    if recipe.style_loss == "w2":
        loss = wasserstein_loss(moments, target, style.powers[name])
        return loss / style.powers[name] if relative else loss
    gram = gram_part(moments)
    return gram_loss(gram, gram_part(target), style.norms[name] if relative else float(gram.numel()))


def weighted_mean(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Mean of the terms, weighted by layer."""
    return weighted_sum(terms, weights) / sum(weights.values())


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the terms, weighted by layer."""
    return sum((weights[name] * term for name, term in terms.items()), torch.zeros(()))


def cotangents(sums: FeatureSums, style: StyleTargets, resolved: ResolvedRecipe) -> tuple[Loss, FeatureSums]:
    """The loss of these sums and its derivative by each of them."""
    leaves = sums.holding([value.detach().requires_grad_() for value in sums.tensors])
    with one_thread():
        parts = loss_parts(leaves, style, resolved)
        loss = added(parts)
        told = Loss(float(loss.detach()), tuple(float(part.detach()) for part in parts))
        return told, sums.holding(list(torch.autograd.grad(loss, leaves.tensors)))


@contextmanager
def one_thread() -> Iterator[None]:
    """For the small matrices of a loss. Eigenvalues are found in thousands of tiny parallel pieces, at whose ends
    threads wait for each other: 0.2 ms for 64 channels on one thread, 140 on two that share their cores with others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class LocalObjective:
    """The total loss of a tile by itself: of its core, with the rest of the image as context.

    Images, `content` and `masks` are of the tile's `read` rectangle.
    """

    reader: FeatureReader
    resolved: ResolvedRecipe
    style: StyleTargets
    content: Mapping[str, Tensor]
    tile: Tile
    masks: Mapping[str, Tensor] | None = None

    def sums(self, image: Tensor) -> FeatureSums:
        return measure_sums(self.reader, image, self.content, self.tile, self.masks)

    @torch.no_grad()
    def measured(self, image: Tensor) -> tuple[float, Grams]:
        """The loss, and the Gram means by style layer."""
        sums = self.sums(image)
        return float(total_loss(sums, self.style, self.resolved)), sums.means

    def value(self, image: Tensor) -> float:
        return self.measured(image)[0]

    def value_and_gradient(self, image: Tensor) -> tuple[float, Tensor]:
        image = image.detach().requires_grad_()
        sums = self.sums(image)
        loss, by = cotangents(sums, self.style, self.resolved)
        return loss, pull_back(sums, image, by)
