"""Tasks: what a worker can be asked to do. See `workers` for what makes a record a task.

Arrays are (3, H, W) in [0, 1], float32 or, where the worker's precision is that, float64.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from parallel_nst.painting.gatys.minimise import Iteration, finish, minimise
from parallel_nst.painting.gatys.objective import LocalObjective
from parallel_nst.painting.gatys.optimizers import Optimizer, carry_state, make_optimizer, pack, unpack
from parallel_nst.painting.gatys.style import StyleTargets
from parallel_nst.painting.gatys.sums import Extent, measure_content
from parallel_nst.painting.named_tensors import copied, on_device
from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.recipe import LayerWeights, Recipe
from parallel_nst.workers.worker import Progress, Worker


@dataclass(frozen=True)
class OptimiseTile:
    """Gatys' optimisation of one tile by itself, from `start` -> OptimisedTile.

    content, start: of the tile's `read` rectangle; the losses are those of its core. size: height and width of the
    whole picture.

    steps: of the whole optimisation; done: how many are behind; until: stop after so many for now (None: at the end).
    series: where it is not empty, the worker keeps the optimiser's state for the next task of the same series and tile.
    A task begins with what an earlier one has left; where there is none, with `state` (packed), or afresh.
    wants_state: return the state, packed.
    """

    content: np.ndarray
    start: np.ndarray
    style: StyleTargets
    layers: LayerWeights
    recipe: Recipe
    tile: Tile
    size: Extent
    steps: int
    series: str = ""
    done: int = 0
    until: int | None = None
    state: Mapping[str, Tensor] | None = None
    wants_state: bool = False

    def run(self, worker: Worker) -> Generator[Progress, None, OptimisedTile]:
        left = worker.left_by(self.series) if self.series else {}
        objective = self.objective(worker, left)
        optimizer = make_optimizer(self.recipe)
        image = worker.image(self.start)
        until = self.steps if self.until is None else self.until
        start = iteration = Iteration.start(image, self.first_state(left, optimizer, image), self.done)
        losses = []
        for iteration in minimise(objective, start, optimizer, until):
            losses.append(iteration.loss)
            yield Progress(iteration.step, self.steps, iteration.loss)
        if until == self.steps:
            best = finish(objective, iteration)
            return OptimisedTile(best.image[0].cpu().numpy(), best.loss)
        # The image that the optimiser wants to see next goes on, with its memory: to hand on the best one instead, and
        # clamped, would tell it of a move that it never made.
        loss, grams = objective.measured(iteration.image)
        # Losses right after an exchange can be compared with each other; those later on are against stale targets.
        state = carry_state(iteration.state, losses[0])
        left["state", self.tile.index] = state
        packed = copied(pack(state)) if self.wants_state else None
        return OptimisedTile(iteration.image[0].cpu().numpy(), loss, on_device(grams, "cpu"), packed)

    def objective(self, worker: Worker, left: dict[Hashable, Any]) -> LocalObjective:
        """What is minimised, on this worker. The content's features are measured once a series."""
        backbone = worker.backbone(self.recipe.backbone)
        content = left.get(("content", self.tile.index))
        if content is None:
            content = measure_content(backbone, worker.image(self.content), self.layers.content, worker.dtype)
            left["content", self.tile.index] = content
        return LocalObjective(
            backbone=backbone,
            style=replace(self.style, grams=on_device(self.style.grams, worker.device)),
            content=content,
            tile=self.tile,
            size=self.size,
            recipe=self.recipe,
            layers=self.layers,
            dtype=worker.dtype,
        )

    def first_state(self, left: dict[Hashable, Any], optimizer: Optimizer, image: Tensor) -> Any:
        """What the optimiser begins with."""
        state = left.pop(("state", self.tile.index), None)
        if state is not None:
            return state
        return optimizer.init(image) if self.state is None else unpack(copied(self.state))


@dataclass(frozen=True)
class OptimisedTile:
    """pixels (3, H, W) and the loss they have: at the end in [0, 1]; before it also their Gram means and, where it was
    asked for, the optimiser's state, packed."""

    pixels: np.ndarray
    loss: float
    grams: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] | None = None
