"""A picture in tiles that are optimised each by itself and blended; they may exchange what they need now and then.

Arrays are (3, H, W) in [0, 1]; Gram matrices are means over positions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

import numpy as np
from torch import Tensor

from parallel_nst.painting.gatys.sums import Grams
from parallel_nst.painting.independent.targets import measured_grams, shares, tile_targets
from parallel_nst.painting.independent.tasks import OptimisedTile, OptimiseTile
from parallel_nst.painting.planning.scales import Scale, ScaleResult
from parallel_nst.painting.tiles.blend import Blend
from parallel_nst.painting.tiles.geometry import Tile, gather
from parallel_nst.recipe import LayerWeights, Recipe
from parallel_nst.workers.pool import OnProgress, Pinned, Pool

OnTile = Callable[[int, OptimisedTile], None]


def stylize_independent(
    pixels: np.ndarray,
    scale: Scale,
    recipe: Recipe,
    layers: LayerWeights,
    pool: Pool,
    on_progress: OnProgress | None = None,
    done: Mapping[int, OptimisedTile] | None = None,
    on_tile: OnTile | None = None,
) -> ScaleResult:
    """Optimise each tile by itself, from its part of `pixels`, and blend them with feather masks.

    Tiles aim at targets of their own (see `own_targets`), or all at the style's. done: tiles of an earlier run that
    was stopped.
    """
    done = done or {}
    targets = tile_targets(scale, recipe, measured_grams(pixels, scale, recipe, layers, pool))
    todo = [tile.index for tile in scale.tiles if tile.index not in done]
    tasks = [tile_task(pixels, scale, scale.tiles[index], targets[index], recipe, layers) for index in todo]
    blend = Blended(scale, recipe.tiling.overlap)
    for index, result in done.items():
        blend.add(index, result)
    report = None if on_progress is None else lambda position, progress: on_progress(todo[position], progress)
    for position, result in pool.map(tasks, report):
        blend.add(todo[position], result)
        if on_tile:
            on_tile(todo[position], result)
    return blend.result()


@dataclass(frozen=True)
class Exchange:
    """What synchronised tiles have between two rounds: the blended picture, the steps done, each tile's Gram means,
    and each tile's packed optimiser state where it was asked for."""

    pixels: np.ndarray
    step: int
    loss: float
    grams: Sequence[Grams]
    states: Sequence[Mapping[str, Tensor] | None]


def first_exchange(pixels: np.ndarray, scale: Scale, recipe: Recipe, layers: LayerWeights, pool: Pool) -> Exchange:
    """What synchronised tiles begin with."""
    grams = measured_grams(pixels, scale, recipe, layers, pool)
    return Exchange(pixels, 0, 0.0, grams, [None] * len(scale.tiles))


def stylize_synchronised(
    start: Exchange,
    scale: Scale,
    recipe: Recipe,
    layers: LayerWeights,
    pool: Pool,
    on_progress: OnProgress | None = None,
    on_exchange: Callable[[Exchange], None] | None = None,
    wants_states: Callable[[int], bool] = lambda step: False,
) -> ScaleResult:
    """Independent tiles that exchange their overlaps and Gram means every `recipe.tiling.sync_every` steps.

    Between exchanges a tile works with what it was told: the others' Gram means grow stale, nothing else does. Each
    keeps what its optimiser has learnt over the exchange. A tile whose worker was lost goes on from the last exchange
    with a fresh optimiser. wants_states: whether `on_exchange` is to get the optimisers' states after a step.
    """
    series, state, blending = uuid4().hex, start, 0.0
    while state.step < scale.steps:
        until = min(scale.steps, state.step + recipe.tiling.sync_every)
        targets = tile_targets(scale, recipe, state.grams)
        tasks = [
            replace(
                tile_task(state.pixels, scale, tile, target, recipe, layers),
                series=series,
                done=state.step,
                until=until,
                state=packed,
                wants_state=wants_states(until),
            )
            for tile, target, packed in zip(scale.tiles, targets, state.states, strict=True)
        ]
        blend = Blended(scale, recipe.tiling.overlap)
        for index, tile in pool.map_pinned([Pinned(index, task) for index, task in enumerate(tasks)], on_progress):
            blend.add(index, tile)
        result = blend.result()
        blending += result.blend_seconds
        state = Exchange(result.pixels, until, result.loss, blend.grams, blend.states)
        if on_exchange:
            on_exchange(state)
        state = replace(state, states=[None] * len(scale.tiles))  # the workers have them
    return ScaleResult(state.pixels, state.loss, blend_seconds=blending)


def tile_task(
    pixels: np.ndarray, scale: Scale, tile: Tile, grams: Grams, recipe: Recipe, layers: LayerWeights
) -> OptimiseTile:
    """The optimisation of a tile of `pixels` towards these Gram means."""
    return OptimiseTile(
        content=scale.content.read(tile.read),
        start=gather(pixels, tile.read),
        style=replace(scale.style, grams=grams),
        layers=layers,
        recipe=recipe,
        tile=tile.written,
        size=scale.content.size,
        steps=scale.steps,
    )


class Blended:
    """A picture put together from independent tiles as they come in, in whatever order."""

    def __init__(self, scale: Scale, overlap: int) -> None:
        self._tiles = scale.tiles
        self._blend = Blend((3, *scale.content.size), overlap)
        self._results: dict[int, tuple[float, Grams, Mapping[str, Tensor] | None]] = {}
        self._seconds = 0.0

    def add(self, index: int, result: OptimisedTile) -> None:
        began = time.perf_counter()
        self._results[index] = result.loss, result.grams, result.state
        self._blend.add(self._tiles[index], result.pixels)
        self._seconds += time.perf_counter() - began

    def result(self) -> ScaleResult:
        began = time.perf_counter()
        pixels = self._blend.result()
        loss = sum(w * self._results[tile.index][0] for w, tile in zip(shares(self._tiles), self._tiles, strict=True))
        return ScaleResult(pixels, loss, blend_seconds=self._seconds + time.perf_counter() - began)

    @property
    def grams(self) -> list[Grams]:
        return [self._results[tile.index][1] for tile in self._tiles]

    @property
    def states(self) -> list[Mapping[str, Tensor] | None]:
        return [self._results[tile.index][2] for tile in self._tiles]
