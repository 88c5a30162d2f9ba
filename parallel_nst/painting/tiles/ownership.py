"""Who owns what: every rank has the cores of some tiles, one after the other in a flat tensor, its shard."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TypeVar

import numpy as np
from torch import Tensor

from parallel_nst.files.size import Size
from parallel_nst.painting.tiles.geometry import Rect, Tile, grow

CHANNELS = 3
Flat = TypeVar("Flat", Tensor, np.ndarray)
CLOSE = 1e-12  # relative; times nearer to one another than this are the same
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
    def size(self) -> Size:
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

    def reaching(self, reach: int, align: int = 1) -> Ownership:
        """The same cores, of which each tile reads `reach` px more on every side, from and to multiples of `align`."""
        tiles = tuple(replace(tile, read=grow(tile.core, reach, align, *self.size)) for tile in self.tiles)
        return replace(self, tiles=tiles)


def deal(tiles: Sequence[Tile], speeds: Sequence[float]) -> Ownership:
    """Tiles dealt to ranks of these speeds so that the last to be ready is ready as early as can be; each rank gets at
    least one, so there are at most as many ranks as tiles."""
    return Ownership(tuple(tiles), tuple(dealt([tile.read.area for tile in tiles], speeds)))


def dealt(loads: Sequence[float], speeds: Sequence[float]) -> list[int]:
    """The first load of each rank and, at the end, how many there are, dealt in the same way.

    The time is found by halving, and each trial moves an end of the interval on to the next time at which anything
    would change: a few trials instead of one for every bit of a number.
    """
    speeds = speeds[: len(loads)]
    done = [0.0, *accumulate(loads)]
    low = max(done[-1] / sum(speeds), max(loads) / max(speeds))
    high = low + max(loads) / min(speeds)
    while high - low > CLOSE * high:
        first = filled(done, speeds, (low + high) / 2)
        spans = [(start, end, speed) for (start, end), speed in zip(pairwise(first), speeds, strict=True)]
        if first[-1] == len(loads):
            high = min((low + high) / 2, max((done[end] - done[start]) / speed for start, end, speed in spans))
        else:
            low = max((low + high) / 2, min((done[end + 1] - done[start]) / speed for start, end, speed in spans))
    return filled(done, speeds, high * (1 + CLOSE))


def filled(done: Sequence[float], speeds: Sequence[float], time: float) -> list[int]:
    """What is dealt when each rank takes what it can do in this time: at least one, and no more than leaves one for
    each that follows. done: the sum of all loads before each, and of all."""
    first = [0]
    for position, speed in enumerate(speeds):
        start, most = first[-1], len(done) - len(speeds) + position
        first.append(max(start + 1, min(most, bisect_right(done, done[start] + speed * time) - 1)))
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
