"""The cuts of a picture that are worth a look: what the tiles of each grid read, and which worker gets which."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from parallel_nst.errors import BadInput
from parallel_nst.files.size import Size
from parallel_nst.painting.tiles.geometry import plan_tiles
from parallel_nst.painting.tiles.ownership import dealt

Grid = tuple[int, int]  # rows and columns
SMALLEST_CORE = 128  # px along a side; below it a tile is mostly halo
LONGEST_SIDES = 4.0  # ratio of a tile's sides above which its halo costs more than any balance between workers gains
EVERY_ROUND = 16  # up to so many tiles a worker each number is tried, above it steps of an eighth


class Lengths(NamedTuple):
    """Along one side in px, tile by tile: of their cores, and of what they read."""

    cores: list[int]
    reads: list[int]


@dataclass(frozen=True)
class Layout:
    """The tiles of a grid before they are dealt to so many workers."""

    rows: Lengths
    columns: Lengths
    workers: int

    @property
    def tiles(self) -> int:
        return len(self.rows.reads) * len(self.columns.reads)

    @property
    def largest_read(self) -> int:
        """Px that the largest tile reads."""
        return max(self.rows.reads) * max(self.columns.reads)

    @property
    def least(self) -> int:
        """Px that the worker with most to do reads at least, however they are dealt."""
        return max(self.largest_read, -(-sum(self.rows.reads) * sum(self.columns.reads) // self.workers))

    def cut(self) -> Cut:
        """Dealt."""
        reads, cores = np.outer(self.rows.reads, self.columns.reads), np.outer(self.rows.cores, self.columns.cores)
        return cut_in(reads.reshape(-1), cores.reshape(-1), self.workers)


@dataclass(frozen=True)
class Cut:
    """What the tiles of each worker read, (per_worker, workers) px with 0 where there is none: each has consecutive
    ones (`ownership.dealt`). largest_core, largest_read: px of the largest tile. owned: px of the cores of the worker
    that has most."""

    reads: np.ndarray
    largest_core: int
    largest_read: int
    owned: int


def possible_layouts(
    size: Size, workers: int, grid: Grid | None, *, overlap: int = 0, halo: int = 0, align: int
) -> dict[Grid, Layout]:
    """The cuts worth a look, by grid, those first that can leave the worker with most to do least; or the one asked
    for. BadInput for a picture or a crew of nothing."""
    height, width = size
    for name, value in (("height", height), ("width", width), ("workers", workers)):
        if value < 1:
            raise BadInput(f"{name} is {value}; give at least 1")
    grids = [grid] if grid else sorted(sensible_grids(height, width, workers))
    layouts = {one: layout_of(size, one, workers, overlap, halo, align) for one in grids}
    return dict(sorted(layouts.items(), key=lambda item: item[1].least))


def sensible_grids(height: int, width: int, workers: int) -> set[Grid]:
    """Grids of near-square tiles, at most k for each worker for k = 1, 2, ..., until tiles are SMALLEST_CORE px."""
    most_rows, most_columns = (max(1, length // SMALLEST_CORE) for length in (height, width))
    most = most_rows * most_columns
    grids = set()
    for tiles in {min(workers * k, most) for k in rounds(-(-most // workers))}:
        middle = math.sqrt(tiles * height / width)
        first, last = math.ceil(middle / math.sqrt(LONGEST_SIDES)), math.floor(middle * math.sqrt(LONGEST_SIDES)) + 1
        for rows in range(max(1, min(first, most_rows)), min(last, most_rows) + 1):
            grids.add((rows, min(max(1, tiles // rows), most_columns)))
    return grids


def rounds(most: int) -> Iterator[int]:
    """1, 2, 3, ... up to `most` or just above, in steps of an eighth from EVERY_ROUND on."""
    k = 1
    while k < most:
        yield k
        k += k // 8 if k >= EVERY_ROUND else 1
    yield k


def layout_of(size: Size, grid: Grid, workers: int, overlap: int, halo: int, align: int) -> Layout:
    """The tiles of a grid. Rows and columns are cut each for themselves, so that a side's tiles are all there is to
    lay out."""
    rows, columns = (lengths(*side, overlap, halo, align) for side in zip(size, grid, strict=True))
    return Layout(rows, columns, workers)


def cut_in(reads: np.ndarray, cores: np.ndarray, workers: int) -> Cut:
    """Of tiles, row by row, that read so many px and have cores of so many, for workers of one speed."""
    return cut_dealt(reads, cores, dealt(reads.tolist(), [1.0] * workers), workers)


def cut_dealt(reads: np.ndarray, cores: np.ndarray, first: Sequence[int], workers: int) -> Cut:
    """The same, dealt in this way; first: see `shared_out`."""
    return Cut(
        reads=shared_out(reads, first, workers),
        largest_core=int(cores.max()),
        largest_read=int(reads.max()),
        owned=int(np.add.reduceat(cores, first[:-1]).max()),
    )


@functools.lru_cache(maxsize=4096)
def lengths(length: int, count: int, overlap: int, halo: int, align: int) -> Lengths:
    """Of the tiles along one side."""
    tiles = plan_tiles(length, 1, (count, 1), overlap=overlap, halo=halo, align=align)
    return Lengths([tile.core.height for tile in tiles], [tile.read.height for tile in tiles])


def shared_out(values: np.ndarray, first: Sequence[int], workers: int) -> np.ndarray:
    """(tiles,) -> (tiles of a worker, workers), filled up with 0. first: the first tile of each worker that has any,
    and how many tiles there are."""
    shared = np.zeros((int(np.diff(first).max()), workers), values.dtype)
    for worker, (start, end) in enumerate(pairwise(first)):
        shared[: end - start, worker] = values[start:end]
    return shared
