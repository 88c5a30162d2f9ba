"""The loss of a picture and its gradient, on ranks that each own a part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from parallel_nst.painting.exact.halo import Halo, Messages
from parallel_nst.painting.exact.pace import Pace
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.objective import Loss, cotangents, total_loss
from parallel_nst.painting.gatys.style import StyleTargets
from parallel_nst.painting.gatys.sums import FeatureSums, measure_sums, pull_back
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.painting.tiles.ownership import Ownership
from parallel_nst.workers.ranks.communicator import Communicator, sum_in_order

Graph = tuple[Tensor, FeatureSums]  # a tile's pixels, and its sums that can be differentiated by them


@dataclass(frozen=True)
class Measure:
    """What is measured on a tile, and with what. content: features of each own tile's content, by tile and layer;
    masks: likewise, where styles have regions."""

    reader: FeatureReader
    resolved: ResolvedRecipe
    style: StyleTargets
    content: Mapping[int, Mapping[str, Tensor]]
    masks: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)


class RankObjective:
    """An `Objective` over a rank's shard of the picture; all ranks evaluate at once, and all hear the same loss.

    kept: of how many tiles the graph is kept from the forward to the backward half of a step. The others are computed
    once more, so that the picture may be larger than the memory. pace: of this rank's arithmetic, where there are
    others.
    """

    def __init__(self, ownership: Ownership, ranks: Communicator, measure: Measure, kept: int) -> None:
        self._ownership, self._ranks, self._measure, self._kept = ownership, ranks, measure, kept
        self._halo = Halo(ownership, ranks)
        self._tiles = ownership.of(ranks.rank)
        self.size = ownership.size
        self.pace = Pace() if ranks.size > 1 else None
        self._counts: list[int] = []  # positions of each layer, and elements, of the whole picture

    def value(self, flat: Tensor) -> float:
        received = self._halo.fetch(flat)
        with torch.no_grad():
            total = self._total(self._sums(self._halo.read(flat, received, tile.index), tile) for tile in self._tiles)
            loss = total_loss(total, self._measure.style, self._measure.resolved)
        return self._agreed(float(loss))

    def value_and_gradient(self, flat: Tensor) -> tuple[float, Tensor]:
        received = self._halo.fetch(flat)
        graphs: dict[int, Graph] = {}
        total = self._total(self._forward(flat, received, graphs))
        loss, by = cotangents(total, self._measure.style, self._measure.resolved)
        by = by.to(flat.device, flat.dtype)
        gradient = self._halo.gradient(flat)
        for tile in self._tiles:
            image, sums = graphs.pop(tile.index) if tile.index in graphs else self._graph(flat, received, tile)
            with self._timed(image):
                back = pull_back(sums, image, by)
            gradient.add(tile.index, back)
            del image, sums, back
        return Loss(self._agreed(loss), loss.parts), gradient.result()

    def _forward(
        self, flat: Tensor, received: Messages, graphs: dict[int, tuple[Tensor, FeatureSums]]
    ) -> Iterator[FeatureSums]:
        """The sums of each own tile; fills `graphs` with those that are kept."""
        for tile in self._tiles[: self._kept]:
            graphs[tile.index] = self._graph(flat, received, tile)
            yield graphs[tile.index][1]
        for tile in self._tiles[self._kept :]:
            with torch.no_grad():
                yield self._sums(self._halo.read(flat, received, tile.index), tile)

    def _graph(self, flat: Tensor, received: Messages, tile: Tile) -> Graph:
        """A tile's pixels and its sums, to be differentiated."""
        image = self._halo.read(flat, received, tile.index).detach().requires_grad_()
        return image, self._sums(image, tile)

    def _sums(self, image: Tensor, tile: Tile) -> FeatureSums:
        measure, masks = self._measure, self._measure.masks.get(tile.index)
        with self._timed(image):
            return measure_sums(measure.reader, image, measure.content[tile.index], tile, masks)

    def _timed(self, image: Tensor) -> AbstractContextManager[None]:
        return self.pace.of(image) if self.pace else nullcontext()

    def _total(self, own: Iterator[FeatureSums]) -> FeatureSums:
        """The sums of the whole picture, in float64."""
        kinds: list[FeatureSums] = []
        counts: list[Tensor] = []

        def numbers() -> Iterator[Tensor]:
            for sums in own:
                counts.append(torch.tensor([*sums.positions.values(), sums.elements], dtype=torch.float64))
                kinds[:] = [sums.to(sums.variation.device)]  # without its graph
                yield torch.cat([value.detach().reshape(-1) for value in sums.tensors])

        total = sum_in_order(self._ranks, numbers(), self._ownership.counts)
        if not self._counts:
            self._counts = [int(n) for n in sum_in_order(self._ranks, counts, self._ownership.counts).tolist()]
        (like,), (*positions, elements) = kinds, self._counts
        values = torch.split(total, [value.numel() for value in like.tensors])
        summed = like.holding([value.view(one.shape) for value, one in zip(values, like.tensors, strict=True)])
        return replace(summed, positions=dict(zip(like.positions, positions, strict=True)), elements=elements)

    def _agreed(self, loss: float) -> float:
        """Rank 0's, so that all ranks decide alike where their processors round differently."""
        return float(self._ranks.gather(torch.tensor([loss], dtype=torch.float64))[0])
