"""The preconditioner of a picture that lies in shards."""

from __future__ import annotations

import torch
from torch import Tensor

from parallel_nst.painting.exact.halo import Halo, window
from parallel_nst.painting.gatys.preconditioner import GRID, REACH, broadened
from parallel_nst.painting.tiles.ownership import Ownership
from parallel_nst.workers.ranks.communicator import Communicator


class Broadened:
    """`preconditioner.broadened` of a picture that is spread over ranks: to rounding that of the picture in one piece,
    and the same to the bit whoever has which tile."""

    def __init__(self, ownership: Ownership, ranks: Communicator) -> None:
        seeing = ownership.reaching(REACH, GRID)
        self._halo = Halo(seeing, ranks)
        self._seen = {tile.index: tile.read for tile in seeing.tiles}

    def __call__(self, flat: Tensor) -> Tensor:
        """Of this rank's own pixels; all ranks do this at once. A picture in one tile is filtered in its own memory,
        others in as much again."""
        received, shard = self._halo.fetch(flat), self._halo.shard
        if len(self._seen) == 1:
            for index in shard.cores:
                broadened(self._halo.read(flat, received, index))
            return flat
        filtered = torch.zeros_like(flat)
        for index, core in shard.cores.items():
            seen = broadened(self._halo.read(flat, received, index))
            shard.core(filtered, index).copy_(window(seen[0], core.within(self._seen[index])))
        return filtered
