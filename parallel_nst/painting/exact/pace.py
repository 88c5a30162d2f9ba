"""How fast ranks are, each by its own arithmetic, and what comes of it: who gets how many tiles at the next scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from parallel_nst.painting.planning.cuts import cut_dealt
from parallel_nst.painting.planning.footprint import exact_bytes
from parallel_nst.painting.planning.scales import Scale
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.tiles.ownership import Ownership, deal
from parallel_nst.recipe import Recipe

CLEAR = 1.25  # times the slowest rank's speed, from which on the fastest one's is no accident


class Pace:
    """Px that went through the network in one direction, and seconds of that; what a rank waits for others is none of
    it."""

    def __init__(self) -> None:
        self._pixels, self._seconds = 0, 0.0

    @contextmanager
    def of(self, image: Tensor) -> Iterator[None]:
        """Around the arithmetic of an image (1, 3, h, w)."""
        began = perf_counter()
        yield
        if image.device.type == "cuda":
            torch.cuda.synchronize(image.device)
        self._seconds += perf_counter() - began
        self._pixels += image.shape[2] * image.shape[3]

    @property
    def speed(self) -> float:
        """Px a second; 0 where nothing was measured."""
        return self._pixels / self._seconds if self._seconds else 0.0


def dealt_by_speed(
    scale: Scale, ranks: int, speeds: Sequence[float], budget: Budget | None, recipe: Recipe
) -> Ownership:
    """The tiles of a scale for so many ranks: as many for each as it is fast, where speeds were measured of so many,
    differ clearly, and leave each within its memory; else alike."""
    alike = deal(scale.tiles, [1.0] * ranks)
    if budget is None or len(speeds) != ranks or max(speeds) < CLEAR * min(speeds) or min(speeds) <= 0:
        return alike
    uneven = deal(scale.tiles, speeds)
    reads, cores = np.array([(tile.read.area, tile.core.area) for tile in scale.tiles]).T
    cut = cut_dealt(reads, cores, uneven.first, ranks)
    return uneven if exact_bytes(budget.profile, cut, scale.kept, recipe) <= budget.memory else alike
