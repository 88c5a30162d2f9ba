"""A finer cut, where the memory that a plan counts on is not there after all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from parallel_nst.errors import BadInput, OutOfMemory
from parallel_nst.painting.planning.cuts import Cut, Grid, possible_layouts
from parallel_nst.painting.planning.footprint import exact_bytes, held_bytes
from parallel_nst.painting.planning.scales import Scale
from parallel_nst.painting.planning.tilings import Budget, exact_tiling, largest_picture
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.tiles.geometry import Tile, plan_tiles

SHARES = (1 / 2, 3 / 4, 7 / 8)  # of what tiles take now, the first of them that some tiles keep within


def finer(scale: Scale, resolved: ResolvedRecipe, budget: Budget) -> Scale:
    """The same scale in tiles that take half the memory of those that it has, or a little more than that where no tiles
    are so small, by the plan's own reckoning. What no cut changes is left out of it.

    OutOfMemory, in one line that says what would fit, where no tiles take clearly less.
    """
    size, layer = scale.content.size, resolved.deepest
    for share in SHARES:
        less = replace(budget, memory=reduced(scale, resolved, budget, share))
        with suppress(BadInput):
            tiling = exact_tiling(size, less, resolved.recipe, layer)
            tiles = plan_tiles(*size, tiling.grid, halo=layer.margin, align=layer.stride)
            return replace(scale, tiles=tiles, kept=tiling.kept)
    raise nothing_fits(scale, resolved, budget)


def nothing_fits(scale: Scale, resolved: ResolvedRecipe, budget: Budget) -> OutOfMemory:
    """What is said where even the tiles that a scale has take too much, and no others will do: a picture that takes
    half as much would fit, as far as can be known."""
    size, cut = scale.content.size, cut_of(scale, resolved, budget.workers)
    half = replace(budget, memory=exact_bytes(budget.profile, cut, scale.kept, resolved.recipe) // 2)
    largest = largest_picture(size, half, resolved.recipe, resolved.deepest)
    what = f"the memory of a worker does not suffice for {size} px, nor in {len(scale.tiles)} tiles"
    smaller = f"a size of about {largest} px" if largest else "a smaller size"
    return OutOfMemory(f"{what}; give more workers, or {smaller}")


def reduced(scale: Scale, resolved: ResolvedRecipe, budget: Budget, share: float) -> int:
    """Bytes of a worker whose tiles take this share of what they take now."""
    cut = cut_of(scale, resolved, budget.workers)
    held = held_bytes(budget.profile, cut, resolved.recipe)
    return int(held + share * (exact_bytes(budget.profile, cut, scale.kept, resolved.recipe) - held))


def cut_of(scale: Scale, resolved: ResolvedRecipe, workers: int) -> Cut:
    """How the tiles that a scale has are dealt."""
    layer, grid = resolved.deepest, grid_in(scale.tiles)
    layouts = possible_layouts(scale.content.size, workers, grid, halo=layer.margin, align=layer.stride)
    return layouts[grid].cut()


def grid_in(tiles: Sequence[Tile]) -> Grid:
    """Rows and columns of the tiles of a picture."""
    return len({tile.core.top for tile in tiles}), len({tile.core.left for tile in tiles})
