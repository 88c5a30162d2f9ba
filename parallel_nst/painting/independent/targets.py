"""What each of the independent tiles aims at."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from parallel_nst.painting.gatys.features import reader_on
from parallel_nst.painting.gatys.sums import Grams, measure_means, region_key
from parallel_nst.painting.named_tensors import on_device
from parallel_nst.painting.planning.scales import Framed, Scale
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.tiles.geometry import Tile, gather
from parallel_nst.recipe import LayerWeights
from parallel_nst.workers.pool import Pool
from parallel_nst.workers.worker import Progress, Worker


@dataclass(frozen=True)
class MeasureGrams:
    """Gram means of the core of a tile at the style layers -> `Grams`, on the CPU.

    pixels: of the tile's `read` rectangle, and so are the masks (K, h, w), where styles have regions.
    """

    pixels: np.ndarray
    tile: Tile
    resolved: ResolvedRecipe
    masks: np.ndarray | None = None

    def run(self, worker: Worker) -> Generator[Progress, None, dict[str, Tensor]]:
        reader = reader_on(worker, self.resolved)
        reader = replace(reader, layers=LayerWeights(style=reader.layers.style))
        masks = None if self.masks is None else reader.read_masks(worker.image(self.masks)[0])
        return on_device(measure_means(reader, worker.image(self.pixels), self.tile, masks), "cpu")
        yield


def measured_grams(pixels: np.ndarray, scale: Scale, resolved: ResolvedRecipe, pool: Pool) -> list[Grams]:
    """Gram means of every tile of `pixels`; none are needed for plain targets."""
    if plain(scale, resolved):
        return [{}] * len(scale.tiles)
    tasks = [
        MeasureGrams(gather(pixels, tile.read), tile.written, resolved, scale.read_masks(tile.read))
        for tile in scale.tiles
    ]
    grams: list[Grams] = [{}] * len(tasks)
    for index, measured in pool.map(tasks):
        grams[index] = measured
    return grams


def tile_targets(scale: Scale, resolved: ResolvedRecipe, grams: Sequence[Grams]) -> list[Grams]:
    """What each tile aims at, given its Gram means: its own target, or the style's Gram means for all."""
    if plain(scale, resolved):
        return [scale.style.grams] * len(scale.tiles)
    if scale.masks is None:
        return own_targets(scale.style.grams, shares(scale.tiles), grams)
    targets: list[dict[str, Tensor]] = [{} for _ in scale.tiles]
    for region, weights in enumerate(region_shares(scale.masks, scale.tiles)):
        style = {key: scale.style.grams[key] for key in (region_key(n, region) for n in resolved.layers.style)}
        for target, own in zip(targets, own_targets(style, weights, grams), strict=True):
            target.update(own)
    return list(targets)


def plain(scale: Scale, resolved: ResolvedRecipe) -> bool:
    """Whether all tiles aim at the style itself; one tile by itself always does."""
    return resolved.recipe.tiling.targets == "plain" or len(scale.tiles) == 1


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


def region_shares(masks: Framed, tiles: Sequence[Tile]) -> list[list[float]]:
    """Of each mask's mass, the share that lies in each core."""
    masses = np.stack([masks.read(tile.core).sum((1, 2), dtype=np.float64) for tile in tiles], 1)
    found: list[list[float]] = (masses / np.maximum(masses.sum(1, keepdims=True), np.finfo(float).tiny)).tolist()
    return found


def shares(tiles: Sequence[Tile]) -> list[float]:
    """Each core's share of the picture; they add up to 1."""
    whole = sum(tile.core.area for tile in tiles)
    return [tile.core.area / whole for tile in tiles]
