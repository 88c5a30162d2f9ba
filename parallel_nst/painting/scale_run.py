"""One scale of a run, in whichever mode: what is said of it while it goes on, and how it is stopped and taken up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parallel_nst.painting.exact.hub import first_iteration, stylize_exact
from parallel_nst.painting.gatys.minimise import Iteration, Minimum
from parallel_nst.painting.gatys.optimizers import pack, unpack
from parallel_nst.painting.independent.alone import Exchange, first_exchange, stylize_independent, stylize_synchronised
from parallel_nst.painting.independent.tasks import OptimisedTile
from parallel_nst.painting.named_tensors import prefixed
from parallel_nst.painting.planning.scales import Scale, ScalePlan, ScaleResult, unframed
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.painting.tiles.geometry import gather
from parallel_nst.recipe import LayerWeights, Recipe
from parallel_nst.workers.pool import Pool
from parallel_nst.workers.worker import Progress


@dataclass(frozen=True)
class RunStatus:
    """How far a run is: number of the scale and of tiles done at it, the step and loss of the tile that reported (or of
    the whole picture), steps of the whole picture per second at this scale (0: not known yet), and the share of all
    arithmetic that is done (0 to 1)."""

    scale: int
    scales: int
    tiles_done: int
    tiles: int
    step: int
    steps: int
    loss: float
    share: float
    steps_per_second: float = 0.0


OnStatus = Callable[[RunStatus], None]


@dataclass(frozen=True)
class RunCallbacks:
    """What a caller wants to be told while a run goes on. Steps are counted over all scales.

    on_preview: the image (H, W, 3) every `preview_every` steps; on_snapshot: where the run stands every
    `snapshot_every` steps. Independent tiles that are not synchronised give both with every tile instead.
    """

    on_status: OnStatus | None = None
    preview_every: int = 0
    on_preview: Callable[[np.ndarray], None] | None = None
    snapshot_every: int = 0
    on_snapshot: Callable[[Snapshot], None] | None = None


@dataclass
class Beginning:
    """What a scale begins with: an image with its frame and an optimiser's state from the scale before, or a snapshot
    taken within the scale."""

    pixels: np.ndarray | None = None
    state: Any = None
    snapshot: Snapshot | None = None

    def taken(self) -> Beginning:
        """The same; this one lets go of it, so that nobody holds a large picture's memory for longer than it serves."""
        taken = Beginning(self.pixels, self.state, self.snapshot)
        self.pixels = self.state = self.snapshot = None
        return taken


class ScaleRun:
    """One scale of a run."""

    def __init__(self, plans: Sequence[ScalePlan], number: int, watch: RunCallbacks) -> None:
        self.plan = plans[number]
        self._watch, self._number, self._scales = watch, number, len(plans)
        self._total = sum(plan.work for plan in plans)
        self._before = sum(plan.work for plan in plans[:number])
        self._steps_before = sum(plan.steps for plan in plans[:number])
        self._done = [0] * len(self.plan.tiles)
        self._began: tuple[float, int] | None = None  # time of the first report, and steps of all tiles by then

    def run(self, begin: Beginning, scale: Scale, recipe: Recipe, layers: LayerWeights, pool: Pool) -> ScaleResult:
        """Paint it. What it begins with is taken over."""
        if self.plan.exact:
            return stylize_exact(exact_start(begin.taken(), recipe), scale, recipe, layers, pool, self._after_step)
        if recipe.tiling.sync_every:
            return self._run_synchronised(begin.taken(), scale, recipe, layers, pool)
        return self._run_independent(begin.taken(), scale, recipe, layers, pool)

    def _run_independent(
        self, begin: Beginning, scale: Scale, recipe: Recipe, layers: LayerWeights, pool: Pool
    ) -> ScaleResult:
        pixels = begun(begin)
        done = finished_tiles(begin.snapshot) if begin.snapshot else {}
        results = dict(done)
        shown = pixels.copy() if self._watch.preview_every else pixels

        def show(index: int, result: OptimisedTile) -> None:
            tile = scale.tiles[index]
            gather(shown, tile.core)[:] = gather(result.pixels, tile.core.within(tile.read))

        for index, result in done.items():
            self._done[index] = self.plan.steps
            if self._watch.preview_every:
                show(index, result)

        def after_tile(index: int, result: OptimisedTile) -> None:
            if self._watch.snapshot_every and self._watch.on_snapshot:
                results[index] = result
                self._watch.on_snapshot(self._snapshot(0, *tile_tensors(pixels, results)))
            if self._watch.preview_every and self._watch.on_preview:
                show(index, result)
                self._watch.on_preview(unframed(shown))

        return stylize_independent(pixels, scale, recipe, layers, pool, self._report, done, after_tile)

    def _run_synchronised(
        self, begin: Beginning, scale: Scale, recipe: Recipe, layers: LayerWeights, pool: Pool
    ) -> ScaleResult:
        if begin.snapshot:
            start = exchange_of(begin.snapshot, len(scale.tiles))
        else:
            start = first_exchange(begun(begin), scale, recipe, layers, pool)
        last = start.step
        self._done = [start.step] * len(scale.tiles)

        def wants_states(step: int) -> bool:
            return self._falls(self._watch.snapshot_every, last, step)

        def after_exchange(exchange: Exchange) -> None:
            nonlocal last
            if self._watch.on_snapshot and wants_states(exchange.step):
                self._watch.on_snapshot(self._snapshot(exchange.step, *exchange_tensors(exchange)))
            if self._watch.on_preview and self._falls(self._watch.preview_every, last, exchange.step):
                self._watch.on_preview(unframed(exchange.pixels).clip(0, 1))
            last = exchange.step

        return stylize_synchronised(
            start, scale, recipe, layers, pool, self._report, after_exchange, wants_states=wants_states
        )

    def _after_step(self, iteration: Iteration) -> None:
        """Of the whole picture."""
        self._report(None, Progress(iteration.step, self.plan.steps, iteration.loss))
        step = iteration.step
        if self._watch.on_preview and self._falls(self._watch.preview_every, step - 1, step):
            self._watch.on_preview(unframed(iteration.image[0].numpy()).clip(0, 1))
        if self._watch.on_snapshot and self._falls(self._watch.snapshot_every, step - 1, step):
            self._watch.on_snapshot(self._snapshot(step, *iteration_tensors(iteration)))

    def _falls(self, every: int, before: int, step: int) -> bool:
        """Whether a multiple of `every` steps, counted over all scales, falls after step `before` and up to `step`."""
        first = self._steps_before
        return every > 0 and (first + step) // every > (first + before) // every

    def _snapshot(self, step: int, tensors: dict[str, Tensor], numbers: dict[str, float]) -> Snapshot:
        return Snapshot(self._number, step, tensors, numbers)

    def _report(self, index: int | None, progress: Progress) -> None:
        """Turn the progress of a tile, or of all, into the run's status."""
        plan, now = self.plan, time.perf_counter()
        for tile in range(len(self._done)) if index is None else [index]:
            self._done[tile] = progress.step
        steps = sum(self._done)
        self._began = self._began or (now, steps)
        seconds, count = now - self._began[0], steps - self._began[1]
        if self._watch.on_status is None:
            return
        work = self._before + sum(n * tile.read.area for n, tile in zip(self._done, plan.tiles, strict=True))
        self._watch.on_status(
            RunStatus(
                scale=self._number + 1,
                scales=self._scales,
                tiles_done=sum(step == plan.steps for step in self._done),
                tiles=len(plan.tiles),
                step=progress.step,
                steps=plan.steps,
                loss=progress.loss,
                share=work / self._total,
                steps_per_second=count / len(self._done) / seconds if count and seconds else 0.0,
            )
        )


def begun(begin: Beginning) -> np.ndarray:
    """The image that a scale begins with."""
    if begin.snapshot:
        return begin.snapshot.tensors["pixels"].numpy()
    assert begin.pixels is not None
    return begin.pixels


def exact_start(begin: Beginning, recipe: Recipe) -> Iteration:
    """The iteration that a snapshot holds, or the first one."""
    if begin.snapshot is None:
        return first_iteration(begun(begin), recipe, begin.state)
    snapshot = begin.snapshot
    best = Minimum(snapshot.tensors["best"], snapshot.numbers["best_loss"])
    image, state = snapshot.tensors["image"], unpack(snapshot.under("state"))
    return Iteration(image, state, best, snapshot.step, snapshot.numbers["loss"])


def iteration_tensors(iteration: Iteration) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What `exact_start` takes up."""
    tensors = {"image": iteration.image, "best": iteration.best.image}
    numbers = {"loss": iteration.loss, "best_loss": iteration.best.loss}
    return {**tensors, **prefixed("state", pack(iteration.state))}, numbers


def tile_tensors(
    pixels: np.ndarray, results: Mapping[int, OptimisedTile]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What `finished_tiles` takes up, and the image that the scale began with."""
    tiles = {f"tile.{index}": torch.from_numpy(result.pixels) for index, result in results.items()}
    return {"pixels": torch.from_numpy(pixels), **tiles}, {str(i): result.loss for i, result in results.items()}


def finished_tiles(snapshot: Snapshot) -> dict[int, OptimisedTile]:
    """The tiles that an earlier run had done."""
    tiles = snapshot.under("tile")
    return {int(index): OptimisedTile(value.numpy(), snapshot.numbers[index]) for index, value in tiles.items()}


def exchange_tensors(exchange: Exchange) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What `exchange_of` takes up."""
    tensors = {"pixels": torch.from_numpy(exchange.pixels)}
    for index, (grams, state) in enumerate(zip(exchange.grams, exchange.states, strict=True)):
        tensors |= prefixed(f"grams.{index}", grams) | prefixed(f"state.{index}", state or {})
    return tensors, {"loss": exchange.loss}


def exchange_of(snapshot: Snapshot, tiles: int) -> Exchange:
    """The exchange that a snapshot holds."""
    return Exchange(
        pixels=snapshot.tensors["pixels"].numpy(),
        step=snapshot.step,
        loss=snapshot.numbers["loss"],
        grams=[snapshot.under(f"grams.{index}") for index in range(tiles)],
        states=[snapshot.under(f"state.{index}") or None for index in range(tiles)],
    )
