"""How a picture is cut for the workers and the memory there are, and what a run will need, before it is run.

Sizes are px, height before width, with whatever frame is painted around the picture. Memory is in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_nst.networks.backbones.base import Layer
from parallel_nst.painting.planning.cuts import Cut, Grid, possible_cuts
from parallel_nst.painting.planning.footprint import GRAPH_FACTOR, exact_bytes, graph_bytes, independent_bytes
from parallel_nst.painting.planning.memory import memory_text
from parallel_nst.painting.planning.profile import Profile
from parallel_nst.recipe import Recipe

HALVINGS = 7  # of a size that does not fit: to a hundredth of it


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


def exact_tiling(
    height: int,
    width: int,
    workers: int,
    memory_per_worker: int,
    profile: Profile,
    layer: Layer,
    grid: Grid | None = None,
) -> Tiling:
    """The cut for exact tiling on which the slowest worker has least to do and every worker stays within its memory.

    layer: what the halo must cover (`backbones.deepest`). grid: take this cut; only the number of graphs to keep is
    left to choose. ValueError, in one line, where nothing fits.
    """
    cuts = possible_cuts(height, width, workers, grid, halo=layer.margin, align=layer.stride)
    needs = {one: exact_bytes(profile, cut, 0) for one, cut in cuts.items()}
    if (need := min(needs.values())) > memory_per_worker:
        largest = None if grid else largest_picture(height, width, workers, memory_per_worker, profile, layer)
        more = f", more workers, or a size of about {largest[0]}x{largest[1]} px" if largest else ""
        raise ValueError(too_little(height, width, workers, memory_per_worker, need, grid) + more)
    tilings = []
    for one in (one for one, size in needs.items() if size <= memory_per_worker):
        kept = most_kept(cuts[one], memory_per_worker, profile)
        tilings.append(tiling_of(height * width, one, cuts[one], kept, exact_bytes(profile, cuts[one], kept)))
    return min(tilings, key=lambda tiling: (tiling.slowest, tiling.tiles))


def too_little(height: int, width: int, workers: int, have: int, need: int, grid: Grid | None) -> str:
    """Why nothing fits, in one line, and what would."""
    tiles = f"in {grid[0]}x{grid[1]} tiles" if grid else "however they are cut"
    crew = f"{workers} worker{'s' * (workers != 1)}"
    return (
        f"{width}x{height} px {tiles} on {crew} need {memory_text(need)} of memory a worker, and there are "
        f"{memory_text(have)}; give {'more tiles, ' if grid else ''}more memory"
    )


def largest_picture(
    height: int, width: int, workers: int, memory: int, profile: Profile, layer: Layer
) -> tuple[int, int] | None:
    """Width and height, in the same ratio, of about the largest picture that fits, found by halving; None where hardly
    any does. What grows with the picture is the content features that a worker holds of all its tiles."""
    fits, fails = 0.0, 1.0
    for _ in range(HALVINGS):
        ratio = (fits + fails) / 2
        rows, columns = max(1, int(height * ratio)), max(1, int(width * ratio))
        cuts = possible_cuts(rows, columns, workers, None, halo=layer.margin, align=layer.stride)
        if min(exact_bytes(profile, cut, 0) for cut in cuts.values()) <= memory:
            fits = ratio
        else:
            fails = ratio
    return (int(width * fits), int(height * fits)) if fits else None


def most_kept(cut: Cut, memory: int, profile: Profile) -> int:
    """The most graphs with which a worker stays within its memory, if it does with none."""
    if exact_bytes(profile, cut, len(cut.reads)) <= memory:
        return len(cut.reads)
    spare = memory - exact_bytes(profile, cut, 0)
    return min(len(cut.reads) - 1, int(spare / (GRAPH_FACTOR * graph_bytes(profile, cut))))


def independent_tiling(
    height: int,
    width: int,
    workers: int,
    memory_per_worker: int,
    profile: Profile,
    recipe: Recipe,
    align: int,
    grid: Grid | None = None,
    halo: int = 0,
) -> Tiling:
    """The cut for independent tiles on which the slowest worker has least to do, at least a tile for each worker where
    the picture has room for them. A worker holds one tile at a time, with its optimiser.

    recipe: of overlap and optimiser. align: the deepest stride. halo: px of context around what a tile contributes.
    grid: take this cut. ValueError, in one line, where nothing fits.
    """
    cuts = possible_cuts(height, width, workers, grid, overlap=recipe.tiling.overlap, halo=halo, align=align)
    cuts = {one: cut for one, cut in cuts.items() if np.count_nonzero(cut.reads) >= workers} or cuts
    needs = {one: independent_bytes(profile, cut.largest_read, recipe) for one, cut in cuts.items()}
    if (need := min(needs.values())) > memory_per_worker:
        raise ValueError(too_little(height, width, workers, memory_per_worker, need, grid))
    tilings = [
        tiling_of(height * width, one, cuts[one], len(cuts[one].reads), size)
        for one, size in needs.items()
        if size <= memory_per_worker
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
