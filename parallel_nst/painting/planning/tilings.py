"""How a picture is cut for the workers and the memory there are.

Sizes are px, height before width, with whatever frame is painted around the picture. Memory is in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from parallel_nst.errors import BadInput
from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.base import Layer
from parallel_nst.painting.planning.cuts import Cut, Grid, Layout, cut_in, possible_layouts
from parallel_nst.painting.planning.footprint import GRAPH_FACTOR, exact_bytes, graph_bytes, independent_bytes
from parallel_nst.painting.planning.memory import memory_text
from parallel_nst.painting.planning.profile import Profile
from parallel_nst.recipe import Recipe

HALVINGS = 7  # of a size that does not fit: to a hundredth of it
# What does not get faster with the threads of one process (Amdahl's law): embedded backbone, 362 to 2048 px, 1.4 to
# 1.65 times as fast on two threads. And what ranks take beyond their px, for messages, waiting and cut features: 20 to
# 35 % at 724 to 2048 px on two. Seconds a step, one process and two ranks: 0.24 and 0.28 at 724 px, 0.42 and 0.48 at
# 1024, 0.75 and 0.80 at 1448, 1.75 and 1.54 at 2048.
UNSHARED = 0.35
BETWEEN_RANKS = 1.25


@dataclass(frozen=True)
class Budget:
    """What tiles are cut for. workers: how many; memory: bytes that one may take; profile: of the backbone.
    threads_alone: of the process that paints a scale in one piece, in those of a worker."""

    workers: int
    memory: int
    profile: Profile
    threads_alone: float = 1.0

    @property
    def speed_alone(self) -> float:
        """Of that process, in speeds of a worker."""
        return self.threads_alone / (1 + UNSHARED * (self.threads_alone - 1))


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


def exact_tiling(size: Size, budget: Budget, recipe: Recipe, layer: Layer, grid: Grid | None = None) -> Tiling:
    """The cut for exact tiling on which the slowest worker has least to do and every worker stays within its memory.

    recipe: of the optimiser. layer: what the halo must cover (`ResolvedRecipe.deepest`). grid: take this cut; only the
    number of graphs to keep is left to choose. BadInput, in one line, where nothing fits.
    """
    layouts = possible_layouts(size, budget.workers, grid, halo=layer.margin, align=layer.stride)
    best = least_work(exact_tilings(size, layouts, budget, recipe))
    if best is None:
        need = min(exact_bytes(budget.profile, layout.cut(), 0, recipe) for layout in layouts.values())
        largest = None if grid else largest_picture(size, budget, recipe, layer)
        more = f", more workers, or a size of about {largest} px" if largest else ""
        raise BadInput(too_little(size, budget, need, grid) + more)
    return best


def sooner_alone(size: Size, tiling: Tiling, budget: Budget, recipe: Recipe) -> bool:
    """Whether one process that has the threads of several workers paints a picture sooner than they do in these tiles.
    It must fit what a worker may take, too."""
    whole = cut_in(np.array([size.area]), np.array([size.area]), 1)
    fits = exact_bytes(budget.profile, whole, 1, recipe) <= budget.memory
    return budget.threads_alone > 1 and fits and 2 * size.area / budget.speed_alone < BETWEEN_RANKS * tiling.slowest


def exact_tilings(
    size: Size, layouts: Mapping[Grid, Layout], budget: Budget, recipe: Recipe
) -> Iterator[tuple[int, Tiling | None]]:
    """What the slowest worker has to do at least, and what comes of it; None where that does not fit the memory."""
    profile, memory = budget.profile, budget.memory
    for grid, layout in layouts.items():
        cut, tiling = layout.cut(), None
        if exact_bytes(profile, cut, 0, recipe) <= memory:
            kept = most_kept(cut, memory, profile, recipe)
            tiling = tiling_of(size.area, grid, cut, kept, exact_bytes(profile, cut, kept, recipe))
        yield 2 * layout.least, tiling


def least_work(tilings: Iterable[tuple[int, Tiling | None]]) -> Tiling | None:
    """The tiling whose slowest worker has least to do, and of equal ones that with the fewest tiles. What can be no
    better is not even made: they come in the order of what the slowest has to do at least."""
    best = None
    for least, tiling in tilings:
        if best and least > best.slowest:
            break
        if tiling and (best is None or order(tiling) < order(best)):
            best = tiling
    return best


def order(tiling: Tiling) -> tuple[int, int, Grid]:
    """The lower the better."""
    return tiling.slowest, tiling.tiles, tiling.grid


def too_little(size: Size, budget: Budget, need: int, grid: Grid | None) -> str:
    """Why nothing fits, in one line, and what would."""
    tiles = f"in {grid[0]}x{grid[1]} tiles" if grid else "however they are cut"
    crew = f"{budget.workers} worker{'s' * (budget.workers != 1)}"
    return (
        f"{size} px {tiles} on {crew} need {memory_text(need)} of memory a worker, and there are "
        f"{memory_text(budget.memory)}; give {'more tiles, ' if grid else ''}more memory"
    )


def largest_picture(size: Size, budget: Budget, recipe: Recipe, layer: Layer) -> Size | None:
    """Height and width, in the same ratio, of about the largest picture that fits, found by halving; None where hardly
    any does. What grows with the picture is the content features that a worker holds of all its tiles."""
    fits, fails = 0.0, 1.0
    for _ in range(HALVINGS):
        ratio = (fits + fails) / 2
        smaller = Size(max(1, int(size.height * ratio)), max(1, int(size.width * ratio)))
        layouts = possible_layouts(smaller, budget.workers, None, halo=layer.margin, align=layer.stride).values()
        if any(exact_bytes(budget.profile, layout.cut(), 0, recipe) <= budget.memory for layout in layouts):
            fits = ratio
        else:
            fails = ratio
    return Size(int(size.height * fits), int(size.width * fits)) if fits else None


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


def independent_tiling(size: Size, budget: Budget, recipe: Recipe, layer: Layer, grid: Grid | None = None) -> Tiling:
    """The cut for independent tiles on which the slowest worker has least to do, at least a tile for each worker where
    the picture has room for them. A worker holds one tile at a time, with its optimiser.

    recipe: of overlap and optimiser. layer: the deepest, see `context`. grid: take this cut. BadInput, in one line,
    where nothing fits.
    """
    overlap, halo = recipe.tiling.overlap, context(layer)
    layouts = possible_layouts(size, budget.workers, grid, overlap=overlap, halo=halo, align=layer.stride)
    layouts = {one: layout for one, layout in layouts.items() if layout.tiles >= budget.workers} or layouts
    best = least_work(independent_tilings(size, layouts, budget, recipe))
    if best is None:
        need = min(independent_bytes(budget.profile, layout.largest_read, recipe) for layout in layouts.values())
        raise BadInput(too_little(size, budget, need, grid))
    return best


def independent_tilings(
    size: Size, layouts: Mapping[Grid, Layout], budget: Budget, recipe: Recipe
) -> Iterator[tuple[int, Tiling | None]]:
    """As `exact_tilings`."""
    for grid, layout in layouts.items():
        need, tiling = independent_bytes(budget.profile, layout.largest_read, recipe), None
        if need <= budget.memory:
            cut = layout.cut()
            tiling = tiling_of(size.area, grid, cut, len(cut.reads), need)
        yield 2 * layout.least, tiling


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
