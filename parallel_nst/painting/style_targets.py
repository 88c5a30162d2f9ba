"""What a style image asks for at a scale, and how strong the content's features are, measured by a pool."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch

from parallel_nst.files.images import Picture, fit
from parallel_nst.painting.gatys.features import reader_on
from parallel_nst.painting.gatys.style import StyleSums, StyleTargets, measure_style
from parallel_nst.painting.planning.scales import Framed, framed
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.tiles.geometry import Tile, plan_tiles
from parallel_nst.workers.pool import Pool
from parallel_nst.workers.worker import Progress, Worker

CONTENT_SIDE = 256  # px, longest side that a content image is measured at
STYLE_TILE = 1024  # px, side above which a style image is measured in tiles


@dataclass(frozen=True)
class MeasureStyle:
    """Measures of a tile of a style image -> StyleSums, on the CPU, in float64 so that many can be added.

    pixels: of the tile's `read` rectangle.
    """

    pixels: np.ndarray
    tile: Tile
    resolved: ResolvedRecipe

    def run(self, worker: Worker) -> Generator[Progress, None, StyleSums]:
        sums = measure_style(reader_on(worker, self.resolved), worker.image(self.pixels), self.tile)
        return sums.to("cpu", torch.float64)
        yield  # a generator, like every task


def measured_style(style: Framed, resolved: ResolvedRecipe, pool: Pool) -> StyleTargets:
    """What the style image asks for; a large one is measured in tiles, which changes nothing but rounding."""
    height, width = style.size
    grid = -(-height // STYLE_TILE), -(-width // STYLE_TILE)
    tiles = plan_tiles(height, width, grid, halo=resolved.deepest.margin, align=resolved.deepest.stride)
    tasks = [MeasureStyle(style.read(tile.read), tile, resolved) for tile in tiles]
    parts: list[StyleSums] = [result for _, result in sorted(pool.map(tasks), key=lambda part: part[0])]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.targets


def content_powers(content: Picture, resolved: ResolvedRecipe, pool: Pool) -> dict[str, float]:
    """Mean square of a content image's features, by content layer (see `StyleTargets`): a picture of low contrast has
    weak ones, and would lose its subject if what it lost were measured by the style's. Of the picture made small, once
    for all scales: so it does not depend on how the picture is cut. Absolute losses need none."""
    if resolved.recipe.loss_units == "absolute":
        return {}
    small = framed(content.pixels, fit(content.size, min(CONTENT_SIDE, max(content.size))))
    powers = measured_style(small, resolved, pool).powers
    return {name: powers[name] for name in resolved.layers.content}
