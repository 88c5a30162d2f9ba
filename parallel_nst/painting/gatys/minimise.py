"""The loop that improves an image: one optimiser step after another, and what comes of it in the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from parallel_nst.errors import Diverged
from parallel_nst.painting.gatys.optimizers.averaging import average_of
from parallel_nst.painting.gatys.optimizers.base import Optimizer


@dataclass(frozen=True)
class Minimum:
    """The image reached, and its loss."""

    image: Tensor
    loss: float


@dataclass(frozen=True)
class Iteration:
    """Where the loop stands after `step` steps: the image to evaluate next, the optimiser's state, the loss before the
    last step and the best image evaluated. The next iteration takes over its memory."""

    image: Tensor
    state: Any
    best: Minimum
    step: int = 0
    loss: float = math.inf

    @classmethod
    def start(cls, image: Tensor, state: Any, step: int = 0) -> Iteration:
        return cls(image, state, Minimum(image, math.inf), step)


class Objective(Protocol):
    """A loss to be minimised over an image."""

    def value(self, image: Tensor) -> float: ...

    def value_and_gradient(self, image: Tensor) -> tuple[float, Tensor]: ...


def minimise(objective: Objective, start: Iteration, optimizer: Optimizer, steps: int) -> Iterator[Iteration]:
    """Take optimiser steps from `start` until `steps` are done, one iteration each.

    Diverged where the very first loss is not finite: nothing leads away from there.
    """
    image, state, best, done = start.image, start.state, start.best, start.step
    del start
    for step in range(done + 1, steps + 1):
        value, gradient = objective.value_and_gradient(image)
        if step == 1:
            check_finite(value)
        if value < best.loss:
            best = Minimum(image, value)
        image, state = optimizer.step(state, image, value, gradient)
        yield Iteration(image, state, best, step, value)


def finish(objective: Objective, end: Iteration) -> Minimum:
    """The last image or, if that is worse, the best image evaluated; the mean of all where the optimiser takes one and
    its loss is finite; clamped to [0, 1].

    The clamp stands here and not inside the loop, where it would contradict the curvature that L-BFGS has learnt.
    Diverged where not even the best has a finite loss.
    """
    average = average_of(end.state)
    if average is not None and math.isfinite((mean := clamped(objective, average)).loss):
        return mean
    last = clamped(objective, end.image)
    if not last.loss <= end.best.loss:
        last = min(last, clamped(objective, end.best.image), key=lambda minimum: minimum.loss)
    check_finite(last.loss)
    return last


def clamped(objective: Objective, image: Tensor) -> Minimum:
    """The image in [0, 1], and its loss; a loss that is not a number counts as infinite."""
    image = image.clamp(0, 1)
    value = objective.value(image)
    return Minimum(image, math.inf if math.isnan(value) else value)


def check_finite(loss: float) -> None:
    """Diverged, in one line, for a loss that is not a number or infinite."""
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss}, at every picture that was tried; the network's weights may hold values that are not "
            "finite, or a weight of the recipe may be too large: give other weights"
        )
