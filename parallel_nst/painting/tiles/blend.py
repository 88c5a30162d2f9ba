"""Blending: tiles with an overlap put together by feather masks. Pure: numpy in, numpy out."""

from __future__ import annotations

import numpy as np

from parallel_nst.painting.tiles.geometry import Tile, gather, scatter_add


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
