"""A picture in tiles that are optimised each by itself and blended at the end.

Tiles aim at targets of their own (see `own_targets`), or all at the style's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from parallel_nst.painting.independent.blended import blended
from parallel_nst.painting.independent.targets import measured_grams, tile_targets
from parallel_nst.painting.independent.tasks import OptimisedTile, tile_task
from parallel_nst.painting.mode import Due, Report
from parallel_nst.painting.planning.scales import Scale, ScaleResult, enlarged, unframed, unframed_size
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.painting.tiles.geometry import gather
from parallel_nst.workers.pool import Pool


@dataclass(frozen=True, eq=False)
class TilesDone:
    """The image that the scale began with, (3, H, W), and the tiles that are finished. See `ScaleState`."""

    scale: Scale
    pixels: np.ndarray
    results: Mapping[int, OptimisedTile]

    @property
    def step(self) -> None:
        return None

    @property
    def done(self) -> Sequence[int]:
        return [self.scale.steps * (tile.index in self.results) for tile in self.scale.tiles]

    def preview(self) -> np.ndarray:
        image = self.pixels.copy()
        for index, result in self.results.items():
            tile = self.scale.tiles[index]
            gather(image, tile.core)[:] = gather(result.pixels, tile.core.within(tile.read))
        return unframed(image)

    def snapshot(self, scale: int) -> Snapshot:
        tiles = {f"tile.{index}": torch.from_numpy(result.pixels) for index, result in self.results.items()}
        losses = {str(index): result.loss for index, result in self.results.items()}
        return Snapshot(scale, 0, {"pixels": torch.from_numpy(self.pixels), **tiles}, losses)


@dataclass(frozen=True)
class Unsynchronised:
    """See `Mode`."""

    scale: Scale
    resolved: ResolvedRecipe
    pool: Pool

    def start(self, pixels: np.ndarray, carried: Any = None) -> TilesDone:
        return TilesDone(self.scale, pixels, {})

    def follow(self, before: ScaleResult) -> TilesDone:
        return self.start(enlarged(before.pixels, unframed_size(self.scale.content.size)))

    def restored(self, snapshot: Snapshot) -> TilesDone:
        tiles = {int(index): value.numpy() for index, value in snapshot.under("tile").items()}
        results = {index: OptimisedTile(pixels, snapshot.numbers[str(index)]) for index, pixels in tiles.items()}
        return TilesDone(self.scale, snapshot.tensors["pixels"].numpy(), results)

    def states(self, start: TilesDone, report: Report, due: Due) -> Iterator[TilesDone]:
        scale, now = self.scale, start
        del start
        grams = measured_grams(now.pixels, scale, self.resolved, self.pool)
        targets = tile_targets(scale, self.resolved, grams)
        todo = [tile.index for tile in scale.tiles if tile.index not in now.results]
        tasks = [tile_task(now.pixels, scale, scale.tiles[index], targets[index], self.resolved) for index in todo]
        for position, result in self.pool.map(tasks, lambda position, progress: report(todo[position], progress)):
            now = replace(now, results={**now.results, todo[position]: result})
            yield now

    def result(self, end: TilesDone) -> ScaleResult:
        results = [end.results[tile.index] for tile in self.scale.tiles]
        return blended(self.scale, self.resolved.recipe.tiling.overlap, results)
