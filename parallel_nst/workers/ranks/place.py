"""Where one process stands among those that train together; by itself unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Place:
    """One process of a training.

    rank, ranks: its number, from 0, and how many they are. device: of this process.
    wrap: put round each phase's module (`DistributedDataParallel`).
    mean: of a tensor over all ranks, given to each (`all_reduce`); also used to wait for one another.
    """

    rank: int = 0
    ranks: int = 1
    device: torch.device = CPU
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    mean: Callable[[Tensor], Tensor] = lambda value: value

    def meet(self, value: float = 0.0) -> float:
        """Wait until all ranks are here; returns the mean of their values."""
        return float(self.mean(torch.tensor([value], dtype=torch.float64, device=self.device)).item())
