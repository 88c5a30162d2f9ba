"""What a style image asks for at a scale, measured by a pool."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch

from parallel_nst.networks.backbones.base import Backbone, deepest
from parallel_nst.painting.gatys.style import StyleSums, StyleTargets, measure_style
from parallel_nst.painting.gatys.sums import Extent
from parallel_nst.painting.named_tensors import on_device
from parallel_nst.painting.planning.scales import (
    Framed,
)
from parallel_nst.painting.tiles.geometry import Tile, plan_tiles
from parallel_nst.recipe import LayerWeights, Recipe
from parallel_nst.workers.pool import Pool
from parallel_nst.workers.worker import Progress, Worker


@dataclass(frozen=True)
class MeasureStyle:
    """Measures of a tile of a style image -> StyleSums, on the CPU, in float64 so that many can be added.

    pixels: of the tile's `read` rectangle; size: height and width of the whole.
    """

    pixels: np.ndarray
    tile: Tile
    size: Extent
    backbone: str
    layers: LayerWeights

    def run(self, worker: Worker) -> Generator[Progress, None, StyleSums]:
        backbone = worker.backbone(self.backbone)
        sums = measure_style(backbone, worker.image(self.pixels), self.tile, self.size, self.layers, worker.dtype)
        return StyleSums(
            on_device(sums.grams, "cpu", torch.float64), on_device(sums.powers, "cpu", torch.float64), sums.positions
        )
        yield  # a generator, like every task


STYLE_TILE = 1024  # px, side above which a style image is measured in tiles


def measured_style(style: Framed, recipe: Recipe, layers: LayerWeights, backbone: Backbone, pool: Pool) -> StyleTargets:
    """What the style image asks for; a large one is measured in tiles, which changes nothing but rounding."""
    height, width = style.size
    layer = deepest(backbone, {**layers.style, **layers.content})
    grid = -(-height // STYLE_TILE), -(-width // STYLE_TILE)
    tiles = plan_tiles(height, width, grid, halo=layer.margin, align=layer.stride)
    tasks = [MeasureStyle(style.read(tile.read), tile, style.size, recipe.backbone, layers) for tile in tiles]
    parts: list[StyleSums] = [result for _, result in sorted(pool.map(tasks), key=lambda part: part[0])]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.targets
