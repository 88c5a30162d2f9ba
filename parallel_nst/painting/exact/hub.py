"""A picture in tiles as one objective: the untiled optimisation, computed in pieces by a pool.

Galerne, Raad, Lezama, Morel: Scaling Painting Style Transfer, 2022 (arXiv 2212.13459), find the exact gradient in
pieces too, but keep only the core of each piece's gradient and so need twice the margin. Here the halo's part of the
gradient is added to the neighbour's, which is the adjoint of having cut it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from parallel_nst.painting.exact.tasks import GramSums, ImageGradient, Piece
from parallel_nst.painting.gatys.objective import cotangents, total_loss
from parallel_nst.painting.gatys.sums import FeatureSums
from parallel_nst.painting.planning.scales import Scale
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.tiles.geometry import Tile, gather, scatter_add
from parallel_nst.workers.pool import Pinned, Pool
from parallel_nst.workers.worker import Task


class TiledObjective:
    """The loss of a whole picture, and its gradient, computed in tiles by a pool.

    A step has two halves. Every tile is measured over its core, the measures add up to those of the picture, and the
    loss is differentiated by them; then every tile sends that derivative back through its pixels, halo included, and
    the pieces are added. Cutting with a halo and adding back are adjoint, so value and gradient are those of the
    untiled picture where cores start on multiples of the deepest stride and the halo covers the deepest margin.
    Results are added in the order of tiles, whichever worker is first.
    """

    def __init__(self, scale: Scale, resolved: ResolvedRecipe, pool: Pool) -> None:
        self._scale, self._resolved, self._pool = scale, resolved, pool
        self._run = uuid4().hex
        self._content_sent = False
        self._kept = kept_tiles(len(scale.tiles), pool.size, scale.kept)

    def value(self, image: Tensor) -> float:
        sums = self._sums(image[0].numpy(), keep=())
        return float(total_loss(sums, self._scale.style, self._resolved))

    def value_and_gradient(self, image: Tensor) -> tuple[float, Tensor]:
        pixels = image[0].numpy()
        sums = self._sums(pixels, keep=self._kept)
        loss, by = cotangents(sums, self._scale.style, self._resolved)
        return loss, torch.from_numpy(self._gradient(pixels, by))[None]

    def _sums(self, pixels: np.ndarray, keep: Collection[int]) -> FeatureSums:
        """The picture's sums, added in float64."""
        met = self._content_sent
        light = [GramSums(self._piece(tile, pixels, met), tile.index in keep) for tile in self._tiles]
        each = (
            sums.to("cpu", torch.float64)
            for sums in self._in_order(light, lambda tile: GramSums(self._piece(tile, pixels), tile.index in keep))
        )
        total: FeatureSums = next(each)
        for sums in each:
            total = total + sums
        self._content_sent = True
        return total

    def _gradient(self, pixels: np.ndarray, by: FeatureSums) -> np.ndarray:
        """The gradient of the picture (3, H, W)."""
        shared = self._pool.share(by)
        light = [
            ImageGradient(self._piece(tile, None if tile.index in self._kept else pixels, met=True), shared)
            for tile in self._tiles
        ]
        pieces = self._in_order(light, lambda tile: ImageGradient(self._piece(tile, pixels), shared))
        gradient = np.zeros_like(pixels)
        for tile, piece in zip(self._tiles, pieces, strict=True):
            scatter_add(gradient, tile.read, piece)
        return gradient

    @property
    def _tiles(self) -> Sequence[Tile]:
        return self._scale.tiles

    def _piece(self, tile: Tile, pixels: np.ndarray | None, met: bool = False) -> Piece:
        """met: the tile's worker has seen its content."""
        return Piece(
            run=self._run,
            tile=tile,
            resolved=self._resolved,
            pixels=None if pixels is None else gather(pixels, tile.read),
            content=None if met else self._scale.content.read(tile.read),
        )

    def _in_order(self, light: Sequence[Task], full: Callable[[Tile], Task]) -> Iterator[Any]:
        """Results tile by tile. A worker that took the place of a lost one answers None to a light task and is given
        the full one; it may be lost in its turn, so the task is given until it is done."""
        early: dict[int, Any] = {}
        todo: Mapping[int, Task] = dict(enumerate(light))
        following = 0
        while todo:
            indices = list(todo)
            missing = {}
            for position, result in self._pool.map_pinned([Pinned(index, todo[index]) for index in indices]):
                index = indices[position]
                if result is None:
                    missing[index] = full(self._tiles[index])
                else:
                    early[index] = result
                while following in early:
                    yield early.pop(following)
                    following += 1
            todo = missing


def kept_tiles(count: int, workers: int, kept: int) -> frozenset[int]:
    """The tiles whose graphs are kept: the first `kept` of each worker, where tile i is pinned to worker i modulo
    `workers`."""
    return frozenset(index for index in range(count) if index // workers < kept)
