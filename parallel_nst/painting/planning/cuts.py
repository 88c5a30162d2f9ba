"""The cuts of a picture that are worth a look: what the tiles of each grid read, and which worker gets which."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from parallel_nst.errors import BadInput
from parallel_nst.painting.tiles.geometry import Extent, plan_tiles
from parallel_nst.painting.tiles.ownership import dealt

Grid = tuple[int, int]  # rows and columns
SMALLEST_CORE = 128  # px along a side; below it a tile is mostly halo
LONGEST_SIDES = 4.0  # ratio of a tile's sides above which its halo costs more than any balance between workers gains
EVERY_ROUND = 16  # up to so many tiles a worker each number is tried, above it steps of an eighth


@dataclass(frozen=True)
class Cut:
    """What the tiles of each worker read, (per_worker, workers) px with 0 where there is none: each has consecutive
    ones (`ownership.dealt`). largest_core, largest_read: px of the largest tile. owned: px of the cores of the worker
    that has most."""

    reads: np.ndarray
    largest_core: int
    largest_read: int
    owned: int


def possible_cuts(
    size: Extent, workers: int, grid: Grid | None, *, overlap: int = 0, halo: int = 0, align: int
) -> dict[Grid, Cut]:
    """The cuts worth a look, by grid, or the one asked for. BadInput for a picture or a crew of nothing."""
    height, width = size
    for name, value in (("height", height), ("width", width), ("workers", workers)):
        if value < 1:
            raise BadInput(f"{name} is {value}; give at least 1")
    grids = [grid] if grid else sorted(sensible_grids(height, width, workers))
    return {one: cut_of(height, width, one, workers, overlap, halo, align) for one in grids}


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


def cut_of(height: int, width: int, grid: Grid, workers: int, overlap: int, halo: int, align: int) -> Cut:
    """The tiles of a grid. Rows and columns are cut each for themselves, so that a side's tiles are all there is to
    lay out."""
    (core_rows, read_rows), (core_columns, read_columns) = (
        lengths(length, count, overlap, halo, align) for length, count in zip((height, width), grid, strict=True)
    )
    reads, cores = (
        np.outer(rows, columns).reshape(-1) for rows, columns in ((read_rows, read_columns), (core_rows, core_columns))
    )
    return cut_in(reads, cores, workers)


def cut_in(reads: np.ndarray, cores: np.ndarray, workers: int) -> Cut:
    """Of tiles that read so many px and have cores of so many."""
    first = dealt(reads.tolist(), [1.0] * workers)
    return Cut(
        reads=shared_out(reads, first, workers),
        largest_core=int(cores.max()),
        largest_read=int(reads.max()),
        owned=int(np.add.reduceat(cores, first[:-1]).max()),
    )


@functools.lru_cache(maxsize=4096)
def lengths(length: int, count: int, overlap: int, halo: int, align: int) -> tuple[list[int], list[int]]:
    """Along one side, how long the tiles' cores are and what they read."""
    tiles = plan_tiles(length, 1, (count, 1), overlap=overlap, halo=halo, align=align)
    return [tile.core.height for tile in tiles], [tile.read.height for tile in tiles]


def shared_out(values: np.ndarray, first: Sequence[int], workers: int) -> np.ndarray:
    """(tiles,) -> (tiles of a worker, workers), filled up with 0. first: the first tile of each worker that has any,
    and how many tiles there are."""
    shared = np.zeros((int(np.diff(first).max()), workers), values.dtype)
    for worker, (start, end) in enumerate(pairwise(first)):
        shared[: end - start, worker] = values[start:end]
    return shared
