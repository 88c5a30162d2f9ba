"""Tiles: how a picture is cut, and pieces of it taken out and added back. Pure: numpy in, numpy out.

Arrays are (..., H, W). Coordinates are px of the picture being tiled, rows from the top, columns from the left, ends
exclusive. A tile has three rectangles, each inside the next:

core   the partition: every pixel is in exactly one core;
write  core and half of the overlap with each neighbour: what the tile contributes to the result;
read   write and the halo, its start on a multiple of `align`: what a worker is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from parallel_nst.files.size import Size
from parallel_nst.recipe import TilingSpec
from parallel_nst.recipe.texts import parse_grid


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

    def common(self, other: Rect) -> Rect | None:
        """What two rectangles share; None for nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Rect(top, left, bottom, right) if top < bottom and left < right else None

    def moved(self, by: int) -> Rect:
        """The same rectangle `by` px further down and right."""
        return Rect(self.top + by, self.left + by, self.bottom + by, self.right + by)


@dataclass(frozen=True)
class Tile:
    """One of the tiles of a picture: its number, its rectangles, and the picture's height and width."""

    index: int
    core: Rect
    write: Rect
    read: Rect
    size: Size

    @property
    def written(self) -> Tile:
        """The same tile with all that it contributes as its core."""
        return Tile(self.index, self.write, self.write, self.read, self.size)

    def positions(self, stride: int) -> tuple[slice, slice]:
        """The rows and columns of a layer's features of `read` that belong to the core.

        stride: of the layer, which divides where `read` starts and, for cores that are to be a partition at every
        layer, where the core does. At the picture's end the core takes all positions that are left, of which there
        can be fewer or one more than core / stride.
        """
        core = self.core.within(self.read)
        rows = slice(core.top // stride, None if self.core.bottom == self.size.height else -(-core.bottom // stride))
        columns = slice(core.left // stride, None if self.core.right == self.size.width else -(-core.right // stride))
        return rows, columns

    def moved(self, by: int) -> Tile:
        """The same tile in the picture with a frame of `by` px around it; below 0, with so many px taken off."""
        size = Size(self.size.height + 2 * by, self.size.width + 2 * by)
        return Tile(self.index, self.core.moved(by), self.write.moved(by), self.read.moved(by), size)


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
            tiles.append(Tile(len(tiles), core, write, grow(write, halo, align, height, width), Size(height, width)))
    return tiles


def whole_tile(height: int, width: int) -> Tile:
    """A picture in one piece."""
    rect = Rect(0, 0, height, width)
    return Tile(0, rect, rect, rect, Size(height, width))


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
