"""Has blending blurred a picture where its tiles overlap?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.painting.tiles.seams import lines, ratio


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
