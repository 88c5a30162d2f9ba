"""The figure that says whether a seam can be seen. Pure: numpy in, numbers out. Arrays are (..., H, W)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from parallel_nst.painting.tiles.geometry import Tile

NEAR, FAR = 4, 16  # px from a border within which the ordinary steps of a picture are taken


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


def ratio(inside: Sequence[float], beside: Sequence[float]) -> float:
    """Mean over mean, NaN entries left out; NaN when that is not defined."""
    above, below = ([v for v in values if not math.isnan(v)] for values in (inside, beside))
    if not above or not below or not sum(below):
        return math.nan
    return float((sum(above) / len(above)) / (sum(below) / len(below)))
