"""How the vectors of a picture are spread over its ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

from parallel_nst.painting.gatys.half_precision import Spread
from parallel_nst.painting.tiles.ownership import CHANNELS, Ownership
from parallel_nst.workers.ranks.communicator import Communicator, sum_in_order


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
