"""Who owns what: every rank has the cores of some tiles, one after the other in a flat tensor, its shard."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TypeVar

import numpy as np
from torch import Tensor

from parallel_nst.painting.gatys.half_precision import Spread
from parallel_nst.painting.tiles.geometry import Extent, Rect, Tile, grow
from parallel_nst.workers.ranks.communicator import Communicator, sum_in_order

CHANNELS = 3
Flat = TypeVar("Flat", Tensor, np.ndarray)
ALIGNMENT = 16  # elements: a core begins where it would in memory of its own, so that the same instructions work on it


@dataclass(frozen=True)
class Ownership:
    """The tiles of a picture and whose they are: consecutive ones, so that neighbours meet on one rank.

    first: the first tile of each rank and, at the end, how many tiles there
    are.
    """

    tiles: tuple[Tile, ...]
    first: tuple[int, ...]

    @property
    def size(self) -> Extent:
        """Of the picture, height and width."""
        return self.tiles[0].size

    @property
    def ranks(self) -> int:
        return len(self.first) - 1

    @property
    def counts(self) -> list[int]:
        """Of tiles, by rank."""
        return [end - begin for begin, end in pairwise(self.first)]

    def of(self, rank: int) -> Sequence[Tile]:
        return self.tiles[self.first[rank] : self.first[rank + 1]]

    def shard(self, rank: int) -> Shard:
        """How its pixels lie."""
        return Shard({tile.index: tile.core for tile in self.of(rank)})

    def owner(self, index: int) -> int:
        """The rank that has this tile."""
        return bisect_right(self.first, index) - 1

    def reaching(self, reach: int) -> Ownership:
        """The same cores, of which each tile reads `reach` px more on every side."""
        tiles = tuple(replace(tile, read=grow(tile.core, reach, 1, *self.size)) for tile in self.tiles)
        return replace(self, tiles=tiles)


def deal(tiles: Sequence[Tile], speeds: Sequence[float]) -> Ownership:
    """Tiles dealt to ranks of these speeds so that the last to be ready is ready as early as can be; each rank gets at
    least one, so there are at most as many ranks as tiles."""
    speeds = speeds[: len(tiles)]
    loads = [tile.read.area for tile in tiles]
    # Any optimum is the sum of a run of tiles over a speed; halving comes near enough to tell one tile from the next.
    low, high = 0.0, sum(loads) / min(speeds)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if filled(loads, speeds, middle)[-1] == len(loads) else (middle, high)
    return Ownership(tuple(tiles), tuple(filled(loads, speeds, high)))


def filled(loads: Sequence[float], speeds: Sequence[float], time: float) -> list[int]:
    """The first tile of each rank and the end of the last one's, when each takes what it can do in this time: at least
    one, and no more than leaves one for each that follows."""
    first = [0]
    for position, speed in enumerate(speeds):
        end, most = first[-1] + 1, len(loads) - (len(speeds) - position - 1)
        while end < most and sum(loads[first[-1] : end + 1]) <= speed * time:
            end += 1
        first.append(end)
    return first


class Shard:
    """How cores, by number of their tile, lie one after the other in a flat array or tensor; between them there may be
    a few zeros."""

    def __init__(self, cores: Mapping[int, Rect]) -> None:
        self.cores = dict(cores)
        lengths = [CHANNELS * core.area for core in cores.values()]
        starts = [0, *accumulate(-(-length // ALIGNMENT) * ALIGNMENT for length in lengths)]
        self.slices = {
            index: slice(start, start + length)
            for index, start, length in zip(cores, starts[:-1], lengths, strict=True)
        }
        self.elements = starts[-1]

    def core(self, flat: Flat, index: int) -> Flat:
        """The core (3, h, w) of a tile, as a view."""
        core = self.cores[index]
        return flat[self.slices[index]].reshape(CHANNELS, core.height, core.width)


class RankSpread(Spread):
    """How the picture's vectors are spread over the ranks: a piece is a core, so that sums are the same to the bit
    whoever has which."""

    def __init__(self, ownership: Ownership, ranks: Communicator) -> None:
        self._ownership, self._ranks = ownership, ranks
        self._slices = list(ownership.shard(ranks.rank).slices.values())

    def pieces(self, own: int) -> Sequence[slice]:
        return self._slices

    def elements(self, own: int) -> int:
        return CHANNELS * math.prod(self._ownership.size)

    def total(self, parts: Iterable[Tensor]) -> Tensor:
        return sum_in_order(self._ranks, parts, self._ownership.counts)

    def largest(self, values: Tensor) -> Tensor:
        largest, *others = self._ranks.gather(values)
        for other in others:
            largest = largest.maximum(other)
        return largest

    def agreed(self, values: Tensor) -> Tensor:
        return self._ranks.gather(values)[0]


@dataclass(frozen=True)
class Crossing:
    """The rectangle of the picture that tile `reader` reads of the core of tile `core`."""

    reader: int
    core: int
    rect: Rect

    @property
    def elements(self) -> int:
        return CHANNELS * self.rect.area


def crossings(readers: Sequence[Tile], cores: Sequence[Tile]) -> list[Crossing]:
    """Where the tiles of one list read the cores of the other, by reader, then by core."""
    bounds = np.array([(t.core.top, t.core.left, t.core.bottom, t.core.right) for t in cores])
    found = []
    for tile in readers:
        read = tile.read
        starts = np.maximum(bounds[:, :2], (read.top, read.left))
        ends = np.minimum(bounds[:, 2:], (read.bottom, read.right))
        for position in np.flatnonzero((starts < ends).all(1)).tolist():
            rect = Rect(*starts[position].tolist(), *ends[position].tolist())
            found.append(Crossing(tile.index, cores[position].index, rect))
    return found
