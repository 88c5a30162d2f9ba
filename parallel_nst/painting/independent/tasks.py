"""The optimisation of one tile by itself, as a task: in one go, or round by round.

Arrays are (3, H, W) in [0, 1], float32 or, where the worker's precision is that, float64.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from parallel_nst.painting.gatys.features import reader_on
from parallel_nst.painting.gatys.minimise import Iteration, Setback, finish, minimise, setback
from parallel_nst.painting.gatys.objective import LocalObjective
from parallel_nst.painting.gatys.optimizers.base import Optimizer
from parallel_nst.painting.gatys.optimizers.choice import make_optimizer
from parallel_nst.painting.gatys.optimizers.states import carry_state, pack, unpack
from parallel_nst.painting.gatys.style import StyleTargets
from parallel_nst.painting.gatys.sums import Grams
from parallel_nst.painting.named_tensors import copied, on_device
from parallel_nst.painting.planning.scales import Scale
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.tiles.geometry import Tile, gather
from parallel_nst.workers.worker import Progress, Worker


@dataclass(frozen=True)
class Round:
    """A part of an optimisation: from `done` steps to `until`.

    series: the worker keeps the optimiser's state for the next round of the same series and tile; an empty one keeps
    nothing. A round begins with what an earlier one has left; where there is none, with `state` (packed), or afresh.
    """

    series: str
    done: int
    until: int
    state: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class OptimisedTile:
    """pixels (3, H, W) and the loss they have: at the end in [0, 1]; before it also their Gram means. first: the loss
    of what was begun with."""

    pixels: np.ndarray
    loss: float
    grams: Grams = field(default_factory=dict)
    first: float = math.nan
    setback: Setback | None = None


@dataclass(frozen=True)
class OptimiseTile:
    """Gatys' optimisation of one tile by itself, from `start` -> OptimisedTile.

    content, start: of the tile's `read` rectangle; the losses are those of its core. steps: of the whole optimisation.
    round: the part of it that is to be done; None: all. masks: (K, h, w) of the same rectangle, where styles have
    regions.
    """

    content: np.ndarray
    start: np.ndarray
    style: StyleTargets
    resolved: ResolvedRecipe
    tile: Tile
    steps: int
    round: Round | None = None
    masks: np.ndarray | None = None

    def run(self, worker: Worker) -> Generator[Progress, None, OptimisedTile]:
        part = self.round or Round("", 0, self.steps)
        left = worker.left_by(part.series) if part.series else {}
        objective, optimizer = self.objective(worker, left), make_optimizer(self.resolved.recipe)
        image = worker.image(self.start)
        start = iteration = Iteration.start(image, self.first_state(part, left, optimizer, image), part.done)
        losses = []
        for iteration in minimise(objective, start, optimizer, part.until):
            losses.append(iteration.loss)
            yield Progress(iteration.step, self.steps, iteration.loss)
        if part.until == self.steps:
            best = finish(objective, iteration)
            lost = setback(iteration, best)
            return OptimisedTile(best.image[0].cpu().numpy(), best.loss, first=losses[0], setback=lost)
        # The image that the optimiser wants to see next goes on, with its memory: to hand on the best one instead, and
        # clamped, would tell it of a move that it never made. Losses right after an exchange can be compared with each
        # other; those later on are against stale targets.
        left["state", self.tile.index] = carry_state(iteration.state, losses[0])
        loss, grams = objective.measured(iteration.image)
        return OptimisedTile(iteration.image[0].cpu().numpy(), loss, on_device(grams, "cpu"), losses[0])

    def objective(self, worker: Worker, left: dict[Hashable, Any]) -> LocalObjective:
        """What is minimised, on this worker. The content's features are measured once a series."""
        reader = reader_on(worker, self.resolved)
        content = left.get(("content", self.tile.index))
        if content is None:
            content = left["content", self.tile.index] = reader.read_content(worker.image(self.content))
        style = replace(self.style, grams=on_device(self.style.grams, worker.device))
        masks = None if self.masks is None else reader.read_masks(worker.image(self.masks)[0])
        return LocalObjective(reader, self.resolved, style, content, self.tile, masks)

    def first_state(self, part: Round, left: dict[Hashable, Any], optimizer: Optimizer, image: Tensor) -> Any:
        """What the optimiser begins with, on the image's device."""
        state = left.pop(("state", self.tile.index), None)
        if state is not None:
            return state
        return optimizer.init(image) if part.state is None else unpack(copied(part.state, image.device))


def tile_task(pixels: np.ndarray, scale: Scale, tile: Tile, grams: Grams, resolved: ResolvedRecipe) -> OptimiseTile:
    """The optimisation of a tile of `pixels` towards these Gram means."""
    return OptimiseTile(
        content=scale.content.read(tile.read),
        start=gather(pixels, tile.read),
        style=replace(scale.style, grams=grams),
        resolved=resolved,
        tile=tile.written,
        steps=scale.steps,
        masks=scale.read_masks(tile.read),
    )


@dataclass(frozen=True)
class PackState:
    """What the last round of a series has left of a tile's optimiser -> named tensors on the CPU, a copy; None where
    there is nothing: after the last round, or because the worker was lost."""

    series: str
    index: int

    def run(self, worker: Worker) -> Generator[Progress, None, dict[str, Tensor] | None]:
        state = worker.left_by(self.series).get(("state", self.index))
        return None if state is None else copied(pack(state), "cpu")
        yield
