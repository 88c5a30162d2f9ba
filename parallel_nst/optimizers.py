"""Optimisers over one image, as pairs of pure functions: `init(image)` gives a state, `step(state, image, loss,
gradient)` gives the next image to evaluate and the next state. One evaluation a step; nothing is changed in place.

Images and gradients are tensors of one shape and precision, usually (1, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parallel_nst.recipe import Recipe

FIRST_STEP = 0.02  # root mean square of the first move, in units of the pixel range
LARGEST_STEP = 0.1  # root mean square above which a move is shortened
JUMP = 0.2  # relative growth of the loss that counts as a failed move
SHORTEN = 0.25  # a failed move is tried again at this share of its length
FORGET = 3  # failures in a row after which the curvature pairs are dropped


class Optimizer(NamedTuple):
    """`init(image) -> state` and `step(state, image, loss, gradient) -> (next image, state)`."""

    init: Callable[[Tensor], Any]
    step: Callable[[Any, Tensor, float, Tensor], tuple[Tensor, Any]]


def make_optimizer(recipe: Recipe) -> Optimizer:
    """The optimiser that a recipe names."""
    return {"lbfgs": lambda: lbfgs(recipe.history), "adam": lambda: adam(recipe.learning_rate)}[recipe.optimizer]()


@dataclass(frozen=True)
class LBFGSState:
    """The last accepted point, the move made from it, and the curvature pairs (s, y), oldest first.

    Memory: 2 x history + 3 copies of the image.
    """

    image: Tensor
    gradient: Tensor | None = None
    loss: float = math.inf
    move: Tensor | None = None
    failures: int = 0
    pairs: tuple[tuple[Tensor, Tensor], ...] = ()


def lbfgs(history: int) -> Optimizer:
    """L-BFGS (Liu and Nocedal 1989; Nocedal and Wright, Numerical Optimization, algorithm 7.4) without line search.

    Four safeguards take the place of the search. The first move has the size of a visible change, where 1 / |g|_1
    would take many evaluations to reach one. A pair whose curvature is not clearly positive is left out. A move is
    never longer than LARGEST_STEP. When the loss jumps or is not finite, the step goes back and tries a shorter move.
    """

    def step(state: LBFGSState, image: Tensor, loss: float, gradient: Tensor) -> tuple[Tensor, LBFGSState]:
        if state.gradient is None:
            start = replace(state, image=image, loss=loss, gradient=gradient)
            return advance(start, -gradient * (FIRST_STEP / max(rms(gradient), 1e-30)))
        if not loss <= state.loss + JUMP * abs(state.loss):  # also true for NaN
            return retreat(state)
        pair = (image - state.image, gradient - state.gradient)
        pairs = (*state.pairs, pair)[-history:] if curved(*pair) else state.pairs
        start = LBFGSState(image=image, gradient=gradient, loss=loss, pairs=pairs)
        if not pairs:
            return advance(start, -gradient * (FIRST_STEP / max(rms(gradient), 1e-30)))
        return advance(start, -inverse_hessian(pairs, gradient))

    return Optimizer(init=lambda image: LBFGSState(image), step=step)


def advance(state: LBFGSState, move: Tensor) -> tuple[Tensor, LBFGSState]:
    """Leave the accepted point by `move`, shortened to LARGEST_STEP."""
    size = rms(move)
    if size > LARGEST_STEP:
        move = move * (LARGEST_STEP / size)
    return state.image + move, replace(state, move=move)


def retreat(state: LBFGSState) -> tuple[Tensor, LBFGSState]:
    """Back to the accepted point, and a shorter move from there; steepest descent once the pairs have failed."""
    assert state.move is not None and state.gradient is not None
    move, failures = state.move * SHORTEN, state.failures + 1
    if failures == FORGET:
        move = -state.gradient * (rms(move) / max(rms(state.gradient), 1e-30))
        state = replace(state, pairs=())
    return state.image + move, replace(state, move=move, failures=failures)


def curved(s: Tensor, y: Tensor) -> bool:
    """Whether the gradient has grown along the move, beyond what rounding could feign."""
    return dot(s, y) > 1e-6 * math.sqrt(dot(s, s) * dot(y, y))


def inverse_hessian(pairs: tuple[tuple[Tensor, Tensor], ...], gradient: Tensor) -> Tensor:
    """The two-loop recursion: approximate inverse Hessian times gradient (Nocedal and Wright, algorithm 7.4)."""
    q = gradient.clone()
    coefficients = []
    for s, y in reversed(pairs):
        a = dot(s, q) / dot(s, y)
        q.sub_(y, alpha=a)
        coefficients.append(a)
    s, y = pairs[-1]
    q.mul_(dot(s, y) / dot(y, y))
    for (s, y), a in zip(pairs, reversed(coefficients), strict=True):
        q.add_(s, alpha=a - dot(y, q) / dot(s, y))
    return q


@dataclass(frozen=True)
class AdamState:
    """Running means of the gradient and of its square, and the number of steps behind them."""

    mean: Tensor
    square: Tensor
    steps: int = 0


def adam(learning_rate: float, decay: tuple[float, float] = (0.9, 0.99)) -> Optimizer:
    """Adam (Kingma and Ba 2015, algorithm 1) on pixels in [0, 1], to which each new image is clamped.

    learning_rate: step size in units of the pixel range. Memory: 2 copies of the image.
    """

    def step(state: AdamState, image: Tensor, loss: float, gradient: Tensor) -> tuple[Tensor, AdamState]:
        count = state.steps + 1
        mean = state.mean.lerp(gradient, 1 - decay[0])
        square = state.square.lerp(gradient * gradient, 1 - decay[1])
        scale = (square / (1 - decay[1] ** count)).sqrt_().add_(1e-8)
        move = mean.div(scale).mul_(learning_rate / (1 - decay[0] ** count))
        return (image - move).clamp_(0, 1), AdamState(mean, square, count)

    return Optimizer(init=lambda image: AdamState(torch.zeros_like(image), torch.zeros_like(image)), step=step)


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product over all elements."""
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def rms(a: Tensor) -> float:
    """Root mean square over all elements."""
    return float(a.norm() / math.sqrt(a.numel()))
