"""How a picture is cut for the workers and the memory there are.

Sizes are px, height before width, with whatever frame is painted around the picture. Memory is in bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parallel_nst.errors import BadInput
from parallel_nst.networks.backbones.base import Layer
from parallel_nst.painting.planning.cuts import Cut, Grid, possible_cuts
from parallel_nst.painting.planning.footprint import GRAPH_FACTOR, exact_bytes, graph_bytes, independent_bytes
from parallel_nst.painting.planning.memory import memory_text
from parallel_nst.painting.planning.profile import Profile
from parallel_nst.painting.tiles.geometry import Extent
from parallel_nst.recipe import Recipe

HALVINGS = 7  # of a size that does not fit: to a hundredth of it


@dataclass(frozen=True)
class Budget:
    """What tiles are cut for. workers: how many; memory: bytes that one may take; profile: of the backbone."""

    workers: int
    memory: int
    profile: Profile


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut.

    grid: for `plan_tiles`. tiles: how many there are; per_worker: how many a worker has at most. kept: graphs that a
    worker keeps from the first pass to the second, those of its first tiles. bytes: predicted for a worker at its worst
    moment. px: of all tiles with their halo or overlap, each of which is computed forward and backward; again: px of
    the tiles that are computed forward once more because their graph is not kept (of independent tiles: none).
    slowest: passes x px of the worker that has most to do.
    overhead: arithmetic over that of the picture in one piece, 1 where nothing is lost.
    """

    grid: Grid
    tiles: int
    per_worker: int
    kept: int
    bytes: int
    px: int
    again: int
    slowest: int
    overhead: float


def exact_tiling(size: Extent, budget: Budget, recipe: Recipe, layer: Layer, grid: Grid | None = None) -> Tiling:
    """The cut for exact tiling on which the slowest worker has least to do and every worker stays within its memory.

    recipe: of the optimiser. layer: what the halo must cover (`ResolvedRecipe.deepest`). grid: take this cut; only the
    number of graphs to keep is left to choose. BadInput, in one line, where nothing fits.
    """
    profile, memory = budget.profile, budget.memory
    cuts = possible_cuts(size, budget.workers, grid, halo=layer.margin, align=layer.stride)
    needs = {one: exact_bytes(profile, cut, 0, recipe) for one, cut in cuts.items()}
    if (need := min(needs.values())) > memory:
        largest = None if grid else largest_picture(size, budget, recipe, layer)
        more = f", more workers, or a size of about {largest[1]}x{largest[0]} px" if largest else ""
        raise BadInput(too_little(size, budget, need, grid) + more)
    tilings = []
    for one in (one for one, bytes_needed in needs.items() if bytes_needed <= memory):
        kept = most_kept(cuts[one], memory, profile, recipe)
        tilings.append(tiling_of(math.prod(size), one, cuts[one], kept, exact_bytes(profile, cuts[one], kept, recipe)))
    return min(tilings, key=lambda tiling: (tiling.slowest, tiling.tiles))


def too_little(size: Extent, budget: Budget, need: int, grid: Grid | None) -> str:
    """Why nothing fits, in one line, and what would."""
    tiles = f"in {grid[0]}x{grid[1]} tiles" if grid else "however they are cut"
    crew = f"{budget.workers} worker{'s' * (budget.workers != 1)}"
    return (
        f"{size[1]}x{size[0]} px {tiles} on {crew} need {memory_text(need)} of memory a worker, and there are "
        f"{memory_text(budget.memory)}; give {'more tiles, ' if grid else ''}more memory"
    )


def largest_picture(size: Extent, budget: Budget, recipe: Recipe, layer: Layer) -> Extent | None:
    """Height and width, in the same ratio, of about the largest picture that fits, found by halving; None where hardly
    any does. What grows with the picture is the content features that a worker holds of all its tiles."""
    fits, fails = 0.0, 1.0
    for _ in range(HALVINGS):
        ratio = (fits + fails) / 2
        smaller = max(1, int(size[0] * ratio)), max(1, int(size[1] * ratio))
        cuts = possible_cuts(smaller, budget.workers, None, halo=layer.margin, align=layer.stride)
        if min(exact_bytes(budget.profile, cut, 0, recipe) for cut in cuts.values()) <= budget.memory:
            fits = ratio
        else:
            fails = ratio
    return (int(size[0] * fits), int(size[1] * fits)) if fits else None


def most_kept(cut: Cut, memory: int, profile: Profile, recipe: Recipe) -> int:
    """The most graphs with which a worker stays within its memory, if it does with none."""
    if exact_bytes(profile, cut, len(cut.reads), recipe) <= memory:
        return len(cut.reads)
    spare = memory - exact_bytes(profile, cut, 0, recipe)
    return min(len(cut.reads) - 1, int(spare / (GRAPH_FACTOR * graph_bytes(profile, cut))))


def context(layer: Layer) -> int:
    """Px that an independent tile sees beyond what it contributes: half of what the deepest layer reaches, where most
    of its weight lies. Without it a tile paints against the grey that convolutions see beyond its edge."""
    return -(-layer.margin // (2 * layer.stride)) * layer.stride


def independent_tiling(size: Extent, budget: Budget, recipe: Recipe, layer: Layer, grid: Grid | None = None) -> Tiling:
    """The cut for independent tiles on which the slowest worker has least to do, at least a tile for each worker where
    the picture has room for them. A worker holds one tile at a time, with its optimiser.

    recipe: of overlap and optimiser. layer: the deepest, see `context`. grid: take this cut. BadInput, in one line,
    where nothing fits.
    """
    overlap, halo = recipe.tiling.overlap, context(layer)
    cuts = possible_cuts(size, budget.workers, grid, overlap=overlap, halo=halo, align=layer.stride)
    cuts = {one: cut for one, cut in cuts.items() if np.count_nonzero(cut.reads) >= budget.workers} or cuts
    needs = {one: independent_bytes(budget.profile, cut.largest_read, recipe) for one, cut in cuts.items()}
    if (need := min(needs.values())) > budget.memory:
        raise BadInput(too_little(size, budget, need, grid))
    tilings = [
        tiling_of(math.prod(size), one, cuts[one], len(cuts[one].reads), bytes_needed)
        for one, bytes_needed in needs.items()
        if bytes_needed <= budget.memory
    ]
    return min(tilings, key=lambda tiling: (tiling.slowest, tiling.tiles))


def tiling_of(picture: int, grid: Grid, cut: Cut, kept: int, size: int) -> Tiling:
    """The record of a cut of a picture of so many px. All tiles are computed forward and backward, those past the first
    `kept` of each worker forward again."""
    px, again = int(cut.reads.sum()), int(cut.reads[kept:].sum())
    return Tiling(
        grid=grid,
        tiles=int(np.count_nonzero(cut.reads)),
        per_worker=len(cut.reads),
        kept=kept,
        bytes=size,
        px=px,
        again=again,
        slowest=int((2 * cut.reads.sum(0) + cut.reads[kept:].sum(0)).max()),
        overhead=(2 * px + again) / (2 * picture),
    )
