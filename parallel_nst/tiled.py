"""One scale of a picture, cut into tiles, over any pool.

Arrays are (3, H, W) float32 in [0, 1]; Gram matrices are means over positions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from parallel_nst.gatys import StyleTargets
from parallel_nst.recipe import LayerWeights, Recipe
from parallel_nst.tiles import Blend, Tile, gather
from parallel_nst.workers import MeasureGrams, OnProgress, OptimiseTile, Pool

Grams = Mapping[str, Tensor]


@dataclass(frozen=True)
class Scale:
    """One scale's work: the content at this size, the image to start from, and what to aim at."""

    content: np.ndarray
    start: np.ndarray
    style: StyleTargets
    steps: int


@dataclass(frozen=True)
class ScaleResult:
    """pixels (3, H, W); loss; seconds spent putting tiles together.

    loss is the mean over tiles, weighted by area. With targets of their own it is an upper bound of the style loss of
    the whole, because the whole's deviation is the weighted mean of the tiles' deviations.
    """

    pixels: np.ndarray
    loss: float
    blend_seconds: float


def stylize_independent(
    scale: Scale,
    tiles: Sequence[Tile],
    recipe: Recipe,
    layers: LayerWeights,
    pool: Pool,
    on_progress: OnProgress | None = None,
) -> ScaleResult:
    """Optimise each tile by itself and blend them with feather masks.

    Every tile aims at a target of its own (see `own_targets`); one tile aims at the style itself.
    """
    targets = [scale.style.grams] if len(tiles) == 1 else own_targets(scale, tiles, recipe, layers, pool)
    tasks = [
        OptimiseTile(
            content=gather(scale.content, tile.read),
            start=gather(scale.start, tile.read),
            style=replace(scale.style, grams=grams),
            layers=layers,
            recipe=recipe,
            steps=scale.steps,
        )
        for tile, grams in zip(tiles, targets, strict=True)
    ]
    blend = Blend(scale.start.shape, recipe.tiling.overlap)
    losses = [0.0] * len(tiles)
    seconds = 0.0
    for index, tile in pool.map(tasks, on_progress):
        losses[index] = tile.loss
        began = time.perf_counter()
        blend.add(tiles[index], tile.pixels)
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    pixels = blend.result()
    seconds += time.perf_counter() - began
    return ScaleResult(pixels, sum(w * loss for w, loss in zip(shares(tiles), losses, strict=True)), seconds)


def own_targets(
    scale: Scale, tiles: Sequence[Tile], recipe: Recipe, layers: LayerWeights, pool: Pool
) -> Iterator[Grams]:
    """A target for each tile: what it is now plus what the picture as a whole still lacks, G_t + (G_style - G).

    A tile thus keeps its own character, a sky its calm and a face its detail, where the plain target would make every
    tile a small copy of the painting. The area-weighted mean of the targets is the style's own Gram mean.
    """
    tasks = [MeasureGrams(gather(scale.start, tile.read), recipe.backbone, layers) for tile in tiles]
    grams: list[Grams] = [{}] * len(tiles)
    for index, measured in pool.map(tasks):
        grams[index] = measured
    weights = shares(tiles)
    for name in layers.style:
        whole = sum(weight * gram[name] for weight, gram in zip(weights, grams, strict=True))
        deficit = scale.style.grams[name] - whole
        grams = [{**gram, name: gram[name] + deficit} for gram in grams]
    return iter(grams)


def shares(tiles: Sequence[Tile]) -> list[float]:
    """Each core's share of the picture; they add up to 1."""
    whole = sum(tile.core.area for tile in tiles)
    return [tile.core.area / whole for tile in tiles]
