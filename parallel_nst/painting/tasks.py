"""Tasks: what a worker can be asked to do. See `workers` for what makes a record a task.

Arrays are (3, H, W) in [0, 1], float32 or, where the worker's precision is that, float64.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parallel_nst.painting.gatys.objective import (
    Extent,
    Iteration,
    LocalObjective,
    StyleSums,
    StyleTargets,
    Sums,
    finish,
    measure_content,
    measure_style,
    measure_sums,
    minimise,
    pull_back,
)
from parallel_nst.painting.gatys.optimizers import Optimizer, carry_state, make_optimizer, pack, unpack
from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.recipe import LayerWeights, Recipe
from parallel_nst.workers.pool import Shared
from parallel_nst.workers.worker import Progress, Worker


@dataclass(frozen=True)
class MeasureStyle:
    """Measures of a tile of a style image -> StyleSums, on the CPU, in float64 so that many can be added.

    pixels: of the tile's `read` rectangle; size: height and width of the whole.
    """

    pixels: np.ndarray
    tile: Tile
    size: Extent
    backbone: str
    layers: LayerWeights

    def run(self, worker: Worker) -> Generator[Progress, None, StyleSums]:
        backbone = worker.backbone(self.backbone)
        sums = measure_style(backbone, worker.image(self.pixels), self.tile, self.size, self.layers, worker.dtype)
        return StyleSums(
            on_device(sums.grams, "cpu", torch.float64), on_device(sums.powers, "cpu", torch.float64), sums.positions
        )
        yield  # a generator, like every task


@dataclass(frozen=True)
class MeasureGrams:
    """Gram means of the core of a tile at the style layers -> {layer: (C, C)}, on the CPU.

    pixels: of the tile's `read` rectangle; size: height and width of the whole picture.
    """

    pixels: np.ndarray
    tile: Tile
    size: Extent
    backbone: str
    layers: LayerWeights

    def run(self, worker: Worker) -> Generator[Progress, None, dict[str, Tensor]]:
        backbone, layers = worker.backbone(self.backbone), LayerWeights(style=self.layers.style)
        sums = measure_style(backbone, worker.image(self.pixels), self.tile, self.size, layers, worker.dtype)
        return on_device(sums.targets.grams, "cpu")
        yield


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


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in memory of their own: an optimiser works in place, and a task can be run again."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def on_device(
    tensors: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The same tensors on another device, in another precision."""
    return {name: tensor.to(device, dtype) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Piece:
    """A tile of a picture that is optimised as one.

    run: of which run and scale; what a worker has kept of another is dropped. size: of the picture, height and width.
    pixels, content: the tile's `read` rectangle of the image and of the content image (3, h, w). None: the worker has
    met it before; one that has not, because it took the place of one that died, gives None for a result.
    """

    run: str
    tile: Tile
    size: Extent
    backbone: str
    layers: LayerWeights
    pixels: np.ndarray | None
    content: np.ndarray | None


@dataclass(frozen=True)
class GramSums:
    """First half of a step: the sums over a tile's core -> Sums on the CPU, or None (see `Piece`).

    keep: keep the graph for `ImageGradient`.
    """

    piece: Piece
    keep: bool

    def run(self, worker: Worker) -> Generator[Progress, None, Sums | None]:
        with torch.set_grad_enabled(self.keep):
            measured = measure_piece(worker, self.piece)
        if measured is None:
            return None
        if self.keep:
            worker.left_by(self.piece.run)["graph", self.piece.tile.index] = measured
        return measured[1].to("cpu")
        yield


@dataclass(frozen=True)
class ImageGradient:
    """Second half: the gradient over a tile's `read` rectangle -> (3, h, w) float32, or None (see `Piece`).

    by: derivative of the loss by the whole picture's sums. Takes the graph that `GramSums` kept, else makes it again.
    """

    piece: Piece
    by: Shared

    def run(self, worker: Worker) -> Generator[Progress, None, np.ndarray | None]:
        left = worker.left_by(self.piece.run)
        measured = left.pop(("graph", self.piece.tile.index), None) or measure_piece(worker, self.piece)
        if measured is None:
            return None
        image, sums = measured
        gradient = pull_back(sums, image, self.by.get().to(worker.device, image.dtype))
        return gradient[0].cpu().numpy()
        yield


def measure_piece(worker: Worker, piece: Piece) -> tuple[Tensor, Sums] | None:
    """A tile's image and its sums; None when the worker lacks its pixels or its content."""
    left = worker.left_by(piece.run)
    left.pop(("graph", piece.tile.index), None)
    content, backbone = left.get(("content", piece.tile.index)), worker.backbone(piece.backbone)
    if content is None and piece.content is not None:
        content = measure_content(backbone, worker.image(piece.content), piece.layers.content, worker.dtype)
        left["content", piece.tile.index] = content
    if content is None or piece.pixels is None:
        return None
    image = worker.image(piece.pixels).requires_grad_()
    return image, measure_sums(backbone, image, content, piece.tile, piece.size, piece.layers, worker.dtype)
