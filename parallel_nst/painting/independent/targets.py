"""What each of the independent tiles aims at."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from parallel_nst.painting.gatys.style import measure_style
from parallel_nst.painting.gatys.sums import Extent, Grams
from parallel_nst.painting.named_tensors import on_device
from parallel_nst.painting.planning.scales import Scale
from parallel_nst.painting.tiles.geometry import Tile, gather
from parallel_nst.recipe import LayerWeights, Recipe
from parallel_nst.workers.pool import Pool
from parallel_nst.workers.worker import Progress, Worker


@dataclass(frozen=True)
class MeasureGrams:
    """Gram means of the core of a tile at the style layers -> {layer: (C, C)}, on the CPU.

    pixels: of the tile's `read` rectangle; size: height and width of the whole picture.
    """

    pixels: np.ndarray
    tile: Tile
    size: Extent
    backbone: str
    layers: LayerWeights

    def run(self, worker: Worker) -> Generator[Progress, None, dict[str, Tensor]]:
        backbone, layers = worker.backbone(self.backbone), LayerWeights(style=self.layers.style)
        sums = measure_style(backbone, worker.image(self.pixels), self.tile, self.size, layers, worker.dtype)
        return on_device(sums.targets.grams, "cpu")
        yield


def measured_grams(pixels: np.ndarray, scale: Scale, recipe: Recipe, layers: LayerWeights, pool: Pool) -> list[Grams]:
    """Gram means of every tile of `pixels`; none are needed for plain targets."""
    if recipe.tiling.targets == "plain" or len(scale.tiles) == 1:
        return [{}] * len(scale.tiles)
    size = scale.content.size
    tasks = [
        MeasureGrams(gather(pixels, tile.read), tile.written, size, recipe.backbone, layers) for tile in scale.tiles
    ]
    grams: list[Grams] = [{}] * len(tasks)
    for index, measured in pool.map(tasks):
        grams[index] = measured
    return grams


def tile_targets(scale: Scale, recipe: Recipe, grams: Sequence[Grams]) -> list[Grams]:
    """What each tile aims at, given its Gram means: its own target, or the style's Gram means for all."""
    if recipe.tiling.targets == "plain" or len(scale.tiles) == 1:
        return [scale.style.grams] * len(scale.tiles)
    return own_targets(scale.style.grams, shares(scale.tiles), grams)


def own_targets(style: Grams, weights: Sequence[float], grams: Sequence[Grams]) -> list[Grams]:
    """A target for each tile: what it is now plus what the picture as a whole still lacks, G_t + (G_style - G).

    A tile thus keeps its own character, a sky its calm and a face its detail, where the plain target would make every
    tile a small copy of the painting. The mean of the targets, by these weights, is the style's own Gram mean.
    """
    deficit = {
        name: target - sum(weight * gram[name] for weight, gram in zip(weights, grams, strict=True))
        for name, target in style.items()
    }
    return [{name: gram[name] + lack for name, lack in deficit.items()} for gram in grams]


def shares(tiles: Sequence[Tile]) -> list[float]:
    """Each core's share of the picture; they add up to 1."""
    whole = sum(tile.core.area for tile in tiles)
    return [tile.core.area / whole for tile in tiles]
