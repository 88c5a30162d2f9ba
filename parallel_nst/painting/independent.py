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

from parallel_nst.painting.gatys.objective import Grams
from parallel_nst.painting.planning.scales import Scale, ScaleResult
from parallel_nst.painting.tasks import MeasureGrams, OptimisedTile, OptimiseTile
from parallel_nst.painting.tiles.geometry import Blend, Tile, gather
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


def measured_grams(pixels: np.ndarray, scale: Scale, recipe: Recipe, layers: LayerWeights, pool: Pool) -> list[Grams]:
    """Gram means of every tile of `pixels`; none are needed for plain targets."""
    if recipe.tiling.targets == "plain" or len(scale.tiles) == 1:
        return [{}] * len(scale.tiles)
    size = scale.content.size
    tasks = [
        MeasureGrams(gather(pixels, tile.read), tile.written, size, recipe.backbone, layers) for tile in scale.tiles
    ]
    grams: list[Grams] = [{}] * len(tasks)
    for index, measured in pool.map(tasks):
        grams[index] = measured
    return grams


def tile_targets(scale: Scale, recipe: Recipe, grams: Sequence[Grams]) -> list[Grams]:
    """What each tile aims at, given its Gram means: its own target, or the style's Gram means for all."""
    if recipe.tiling.targets == "plain" or len(scale.tiles) == 1:
        return [scale.style.grams] * len(scale.tiles)
    return own_targets(scale.style.grams, shares(scale.tiles), grams)


def own_targets(style: Grams, weights: Sequence[float], grams: Sequence[Grams]) -> list[Grams]:
    """A target for each tile: what it is now plus what the picture as a whole still lacks, G_t + (G_style - G).

    A tile thus keeps its own character, a sky its calm and a face its detail, where the plain target would make every
    tile a small copy of the painting. The mean of the targets, by these weights, is the style's own Gram mean.
    """
    deficit = {
        name: target - sum(weight * gram[name] for weight, gram in zip(weights, grams, strict=True))
        for name, target in style.items()
    }
    return [{name: gram[name] + lack for name, lack in deficit.items()} for gram in grams]


def shares(tiles: Sequence[Tile]) -> list[float]:
    """Each core's share of the picture; they add up to 1."""
    whole = sum(tile.core.area for tile in tiles)
    return [tile.core.area / whole for tile in tiles]
