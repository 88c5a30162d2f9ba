"""Adam in two pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel_nst.painting.gatys.half_precision import (
    UNDIVIDED,
    Spread,
    Vector,
    chunks,
    exponent,
    halved,
    peak,
    wide,
)
from parallel_nst.painting.gatys.optimizers.base import Optimizer
from parallel_nst.painting.gatys.preconditioner import Filter, unchanged


@dataclass(frozen=True, eq=False)
class AdamState:
    """Running means of the gradient and of its square, and the number of steps behind them.

    Memory: 1.5 P (2 P in full precision). With the caller's image and gradient, 3.5 P at most.
    """

    mean: Vector
    square: Tensor
    steps: int = 0


def adam(
    learning_rate: float,
    decay: tuple[float, float] = (0.9, 0.99),
    *,
    fall: float = 1.0,
    spread: Spread = UNDIVIDED,
    through: Filter = unchanged,
) -> Optimizer:
    """Adam (Kingma and Ba 2015, algorithm 1) on pixels in [0, 1], to which each new image is clamped.

    learning_rate: step size in units of the pixel range. fall: factor that it has lost after 100 steps, a little with
    each. What is not finite in a gradient is left out.
    """

    def init(image: Tensor) -> AdamState:
        square = torch.zeros_like(image, memory_format=torch.contiguous_format)
        return AdamState(Vector(square.to(halved(square.dtype), copy=True)), square)

    def step(state: AdamState, image: Tensor, loss: float, gradient: Tensor) -> tuple[Tensor, AdamState]:
        image, gradient = image.contiguous(), gradient.contiguous()
        if not math.isfinite(peak(gradient, spread)):
            gradient.nan_to_num_(0, 0, 0)
        gradient = through(gradient)
        count, old = state.steps + 1, state.mean.exponent
        new = exponent(max(peak(gradient, spread), peak(state.mean.values, spread) * 2.0**old))
        rate = learning_rate * fall ** (state.steps / 100) / (1 - decay[0] ** count)
        for g, half, square in chunks(gradient, state.mean.values, state.square):
            mean = torch.lerp(wide(half) * 2.0**old, g, 1 - decay[0])
            square.lerp_(g * g, 1 - decay[1])
            scale = (square / (1 - decay[1] ** count)).sqrt_().add_(1e-8)
            half.copy_(mean * 2.0**-new)
            torch.div(mean, scale, out=g)
        following = through(gradient).mul_(-rate).add_(image).clamp_(0, 1)
        return following, AdamState(Vector(state.mean.values, new), state.square, count)

    return Optimizer(init=init, step=step)
