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

# Adam with a step as long as the range of pixels came back from 14 times its best loss within 4 steps, from 99 times
# within 11; L-BFGS finds back from any growth within 7. With ten times that step the loss stayed at 12 to 18 times.
GROWN = 10.0  # times the best loss so far, above which a loss has grown
PATIENCE = 20  # steps in a row with a loss that has grown, or is no number, after which the loop ends
WORRYING = 3  # such steps at the end that are worth a word


@dataclass(frozen=True)
class Setback:
    """That a loop has lost its way: the loss that it had come to after so many steps, and that of what was kept."""

    step: int
    loss: float
    kept: float


@dataclass(frozen=True)
class Minimum:
    """The image reached, and its loss."""

    image: Tensor
    loss: float


@dataclass(frozen=True)
class Iteration:
    """Where the loop stands after `step` steps: the image to evaluate next, the optimiser's state, the loss before the
    last step and the best image evaluated. worse: the steps in a row, up to the last, whose loss had grown (GROWN) or
    was no number. The next iteration takes over its memory."""

    image: Tensor
    state: Any
    best: Minimum
    step: int = 0
    loss: float = math.inf
    worse: int = 0

    @classmethod
    def start(cls, image: Tensor, state: Any, step: int = 0) -> Iteration:
        return cls(image, state, Minimum(image, math.inf), step)


class Objective(Protocol):
    """A loss to be minimised over an image."""

    def value(self, image: Tensor) -> float: ...

    def value_and_gradient(self, image: Tensor) -> tuple[float, Tensor]: ...


def minimise(objective: Objective, start: Iteration, optimizer: Optimizer, steps: int) -> Iterator[Iteration]:
    """Take optimiser steps from `start` until `steps` are done, one iteration each, or until the loss has grown, or was
    no number, for PATIENCE steps.

    Diverged where the very first loss is not finite: nothing leads away from there.
    """
    image, state, best, done, worse = start.image, start.state, start.best, start.step, start.worse
    del start
    for step in range(done + 1, steps + 1):
        if worse >= PATIENCE:
            return
        value, gradient = objective.value_and_gradient(image)
        if step == 1:
            check_finite(value)
        if value < best.loss:
            best = Minimum(image, value)
        worse = worse + 1 if grown(value, best.loss) else 0
        image, state = optimizer.step(state, image, value, gradient)
        yield Iteration(image, state, best, step, value, worse)


def finish(objective: Objective, end: Iteration) -> Minimum:
    """The last image or, if that is worse, the best image evaluated; the mean of all where the optimiser takes one and
    its loss has not grown; clamped to [0, 1].

    The clamp stands here and not inside the loop, where it would contradict the curvature that L-BFGS has learnt.
    Diverged where not even the best has a finite loss.
    """
    average = average_of(end.state)
    if average is not None and not grown((mean := clamped(objective, average)).loss, end.best.loss):
        return mean
    last = clamped(objective, end.image)
    if not last.loss <= end.best.loss:
        last = min(last, clamped(objective, end.best.image), key=lambda minimum: minimum.loss)
    check_finite(last.loss)
    return last


def grown(loss: float, best: float) -> bool:
    """Whether a loss is far above the best, or no number."""
    return not (math.isfinite(loss) and loss <= GROWN * best)


def setback(end: Iteration, kept: Minimum) -> Setback | None:
    """What is to be told of an end that has lost its way; None of others."""
    return Setback(end.step, end.loss, kept.loss) if end.worse >= WORRYING else None


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
