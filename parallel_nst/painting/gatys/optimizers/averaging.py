"""The mean of the images that another optimiser comes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parallel_nst.painting.gatys.optimizers.base import Optimizer


@dataclass(frozen=True, eq=False)
class AveragingState:
    """State of another optimiser, and the running mean of the images that it has come by: `total` over `weight`.

    Memory: 1 P more than the other's.
    """

    inner: Any
    total: Tensor
    weight: float


def averaging(optimizer: Optimizer, decay: float) -> Optimizer:
    """The same steps, with an exponential mean of the images after them (Polyak averaging), whose bias towards zero is
    taken out by the weights' own sum, as in Adam and in the style transfer of Crowson. What steps leave of noise around
    the minimum is gone in the mean. A scale begins a mean of its own: what is carried to it is the other's state.
    """

    def step(state: Any, image: Tensor, loss: float, gradient: Tensor) -> tuple[Tensor, AveragingState]:
        if not isinstance(state, AveragingState):
            state = AveragingState(state, torch.zeros_like(image, memory_format=torch.contiguous_format), 0.0)
        following, inner = optimizer.step(state.inner, image, loss, gradient)
        state.total.lerp_(following, 1 - decay)
        return following, AveragingState(inner, state.total, decay * state.weight + 1 - decay)

    return Optimizer(init=optimizer.init, step=step)


def average_of(state: Any) -> Tensor | None:
    """The mean image of a state that has one."""
    return state.total / state.weight if isinstance(state, AveragingState) else None
