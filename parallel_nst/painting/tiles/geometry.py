"""Tile geometry, blending and the two figures that say whether a seam can be seen. Pure: numpy in, numpy out.

Arrays are (..., H, W). Coordinates are px of the picture being tiled, rows from the top, columns from the left, ends
exclusive. A tile has three rectangles, each inside the next:

core   the partition: every pixel is in exactly one core;
write  core and half of the overlap with each neighbour: what the tile contributes to the result;
read   write and the halo, its start on a multiple of `align`: what a worker is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from parallel_nst.recipe import TilingSpec, parse_grid

NEAR, FAR = 4, 16  # px from a border within which the ordinary steps of a picture are taken


@dataclass(frozen=True)
class Rect:
    """Rows [top, bottom) and columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def area(self) -> int:
        return self.height * self.width

    def within(self, outer: Rect) -> Rect:
        """The same rectangle in the coordinates of `outer`."""
        return Rect(self.top - outer.top, self.left - outer.left, self.bottom - outer.top, self.right - outer.left)

    def moved(self, by: int) -> Rect:
        """The same rectangle `by` px further down and right."""
        return Rect(self.top + by, self.left + by, self.bottom + by, self.right + by)


@dataclass(frozen=True)
class Tile:
    index: int
    core: Rect
    write: Rect
    read: Rect

    @property
    def written(self) -> Tile:
        """The same tile with all that it contributes as its core."""
        return Tile(self.index, self.write, self.write, self.read)

    def positions(self, stride: int, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns of a layer's features of `read` that belong to the core, in a picture of this size.

        stride: of the layer, which divides where `read` starts and, for cores that are to be a partition at every
        layer, where the core does. At the picture's end the core takes all positions that are left, of which there
        can be fewer or one more than core / stride.
        """
        core = self.core.within(self.read)
        rows = slice(core.top // stride, None if self.core.bottom == height else -(-core.bottom // stride))
        columns = slice(core.left // stride, None if self.core.right == width else -(-core.right // stride))
        return rows, columns

    def moved(self, by: int) -> Tile:
        """The same tile in a picture whose origin lies `by` px further up and left."""
        return Tile(self.index, self.core.moved(by), self.write.moved(by), self.read.moved(by))


def squarest_grid(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns, rows x columns = count, whose tiles are nearest to squares."""
    grids = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    return min(grids, key=lambda grid: abs(math.log((height / grid[0]) / (width / grid[1]))))


def grid_of(spec: TilingSpec, height: int, width: int) -> tuple[int, int]:
    """Rows and columns that a spec asks for on a picture of this size."""
    first, second = parse_grid(spec.tiles)
    return squarest_grid(first, height, width) if second is None else (first, second)


def plan_tiles(
    height: int, width: int, grid: tuple[int, int], *, overlap: int = 0, halo: int = 0, align: int = 1
) -> list[Tile]:
    """Cut a picture into about rows x columns tiles, row by row.

    overlap: px that neighbours share. halo: px of context around `write`, thrown away later.
    align: cores and reads start on its multiples (the deepest stride of a backbone), so that a tile's features lie on
    the picture's own grid. A picture with fewer than `align` px for each tile gets fewer tiles.
    """
    rows, columns = (spread(n, count, align) for n, count in zip((height, width), grid, strict=True))
    tiles: list[Tile] = []
    for top, bottom in rows:
        for left, right in columns:
            core = Rect(top, left, bottom, right)
            write = grow(core, overlap // 2, 1, height, width)
            tiles.append(Tile(len(tiles), core, write, grow(write, halo, align, height, width)))
    return tiles


def whole_tile(height: int, width: int) -> Tile:
    """A picture in one piece."""
    rect = Rect(0, 0, height, width)
    return Tile(0, rect, rect, rect)


def spread(length: int, count: int, align: int) -> list[tuple[int, int]]:
    """Cut [0, length) into at most `count` near-equal pieces that start on multiples of `align`."""
    cuts = {align * round(i * length / count / align) for i in range(1, count)}
    return list(pairwise([0, *sorted(cut for cut in cuts if 0 < cut < length), length]))


def grow(rect: Rect, by: int, align: int, height: int, width: int) -> Rect:
    """`rect` larger by `by` px on every side, its start and end moved outwards to multiples of `align`, inside the
    picture."""
    return Rect(
        max(0, (rect.top - by) // align * align),
        max(0, (rect.left - by) // align * align),
        min(height, -(-(rect.bottom + by) // align) * align),
        min(width, -(-(rect.right + by) // align) * align),
    )


def gather(image: np.ndarray, rect: Rect) -> np.ndarray:
    """The rectangle of `image` (..., H, W), as a view."""
    return image[..., rect.top : rect.bottom, rect.left : rect.right]


def scatter_add(image: np.ndarray, rect: Rect, values: np.ndarray) -> None:
    """Add `values` into the rectangle of `image`, in place: the adjoint of `gather`."""
    image[..., rect.top : rect.bottom, rect.left : rect.right] += values


def feather_mask(tile: Tile, overlap: int) -> np.ndarray:
    """Weights (h, w) of a tile's write rectangle: 1 in the middle, falling as a raised cosine across the overlap with
    each neighbour to near 0. A side on the picture's own edge does not fall."""
    if overlap < 2:
        return np.ones((tile.write.height, tile.write.width), np.float32)
    rows = ramp(tile.core.top, tile.core.bottom, tile.write.top, tile.write.bottom, overlap)
    columns = ramp(tile.core.left, tile.core.right, tile.write.left, tile.write.right, overlap)
    return np.outer(rows, columns)


def ramp(core_start: int, core_end: int, start: int, end: int, overlap: int) -> np.ndarray:
    """Weights along one side: half at the core's ends, where the tile goes on beyond them."""
    position = np.arange(start, end, dtype=np.float32) + 0.5
    weight: np.ndarray = np.ones(end - start, np.float32)
    for inwards, goes_on in ((position - core_start, start < core_start), (core_end - position, end > core_end)):
        if goes_on:
            share = np.clip(inwards / (overlap // 2 * 2) + 0.5, 0, 1)
            weight *= 0.5 - 0.5 * np.cos(np.pi * share)
    return weight


class Blend:
    """Weighted sum of tiles and sum of their weights, divided once at the end (as in demucs' overlapping chunks)."""

    def __init__(self, shape: tuple[int, ...], overlap: int) -> None:
        """shape: (C, H, W) of the picture."""
        self._total = np.zeros(shape, np.float32)
        self._weight = np.zeros(shape[-2:], np.float32)
        self._overlap = overlap

    def add(self, tile: Tile, values: np.ndarray) -> None:
        """Take in `values` (C, h, w) of the tile's read rectangle; the halo is dropped."""
        mask = feather_mask(tile, self._overlap)
        scatter_add(self._total, tile.write, gather(values, tile.write.within(tile.read)) * mask)
        scatter_add(self._weight, tile.write, mask)

    def result(self) -> np.ndarray:
        """The blended picture (C, H, W); ValueError if a pixel was never written."""
        if not (self._weight > 0).all():
            raise ValueError("the tiles do not cover the picture")
        self._total /= self._weight
        return self._total


def borders(tiles: Sequence[Tile]) -> tuple[list[int], list[int]]:
    """Inner core borders: the rows, then the columns, where one core ends and the next begins."""
    rows, columns = ({tile.core.top for tile in tiles}, {tile.core.left for tile in tiles})
    return sorted(rows)[1:], sorted(columns)[1:]


def lines(image: np.ndarray, tiles: Sequence[Tile]) -> Iterator[tuple[np.ndarray, int]]:
    """For every inner border: the picture turned so that the border runs along the last axis but one, and its
    position."""
    rows, columns = borders(tiles)
    turned = np.swapaxes(image, -1, -2)
    yield from ((image, column) for column in columns)
    yield from ((turned, row) for row in rows)


def step_ratio(image: np.ndarray, tiles: Sequence[Tile]) -> float:
    """Mean absolute step across the tile borders over the mean absolute step 4 to 16 px to either side.

    About 1 where no border can be seen; hold it against the untiled picture's own ratio at the same lines, because a
    horizon is not a seam. NaN when there is no border, or nothing but flat colour beside it.
    """
    across: list[float] = []
    beside: list[float] = []
    for turned, at in lines(image, tiles):
        band = turned[..., max(0, at - FAR - 1) : at + FAR + 1]
        steps = np.abs(np.diff(band, axis=-1)).mean(axis=tuple(range(band.ndim - 1)))
        distance = np.abs(np.arange(len(steps)) - (at - 1 - max(0, at - FAR - 1)))
        across.extend(steps[distance == 0])
        beside.extend(steps[(distance >= NEAR) & (distance <= FAR)])
    return ratio(across, beside)


def overlap_sharpness(image: np.ndarray, tiles: Sequence[Tile], overlap: int) -> float:
    """Mean absolute gradient inside the overlaps over that of equally wide bands on both sides of them.

    Below 1 where blending has blurred; hold it against the untiled picture's own figure at the same places.
    """
    inside: list[float] = []
    beside: list[float] = []
    half = max(1, overlap // 2)
    for turned, at in lines(image, tiles):
        inside.append(mean_gradient(turned[..., max(0, at - half) : at + half]))
        beside.append(mean_gradient(turned[..., max(0, at - 3 * half) : max(0, at - half)]))
        beside.append(mean_gradient(turned[..., at + half : at + 3 * half]))
    return ratio(inside, beside)


def mean_gradient(band: np.ndarray) -> float:
    """Mean absolute difference of neighbours along both axes; NaN for a band too thin to have any."""
    if min(band.shape[-2:]) < 2:
        return math.nan
    down, across = np.abs(np.diff(band, axis=-2)), np.abs(np.diff(band, axis=-1))
    return float(down.mean() + across.mean()) / 2


def ratio(inside: Sequence[float], beside: Sequence[float]) -> float:
    """Mean over mean, NaN entries left out; NaN when that is not defined."""
    above, below = ([v for v in values if not math.isnan(v)] for values in (inside, beside))
    if not above or not below or not sum(below):
        return math.nan
    return float((sum(above) / len(above)) / (sum(below) / len(below)))
