"""The scales of a picture, from coarse to fine: their sizes, their steps and how each is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from parallel_nst.files.images import fit, resize
from parallel_nst.files.scratch import in_file, let_go
from parallel_nst.files.size import Size
from parallel_nst.painting.gatys.minimise import Setback
from parallel_nst.painting.gatys.style import StyleTargets
from parallel_nst.painting.planning.tilings import Budget, context, exact_tiling, independent_tiling, sooner_alone
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.sources import SourcePictures
from parallel_nst.painting.tiles.geometry import Rect, Tile, gather, grid_of, plan_tiles
from parallel_nst.recipe import Recipe, scale_sizes, scale_steps
from parallel_nst.recipe.texts import parse_grid

# Px of mirror image around a picture while it is painted. Convolutions pad with zeros, and without a frame the
# statistics of that grey rim are corrected by painting a coloured line along the edge; so they are, to be seen at the
# right and the left edge, when the first convolutions replicate or reflect the edge instead. With 8 px nothing is left
# of it. 10 give a picture of one pixel enough neighbours for the deepest layer of any backbone.
FRAME = 10


@dataclass(frozen=True)
class ScalePlan:
    """One scale before it is run. style_size: of the style image at this scale; tiles: of the framed picture; exact:
    whether they are one objective; kept: see `Scale`."""

    size: Size
    style_size: Size
    steps: int
    tiles: list[Tile]
    exact: bool
    kept: int

    @property
    def picture_tiles(self) -> list[Tile]:
        """The tiles in the picture's own coordinates."""
        return [tile.moved(-FRAME) for tile in self.tiles]

    @property
    def work(self) -> int:
        """Arithmetic, in optimiser steps times px."""
        return self.steps * sum(tile.read.area for tile in self.tiles)


class Framed:
    """A picture (H, W, 3), or masks (H, W, K), seen with a frame of FRAME px of its mirror image. Nothing is copied
    until it is read."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self._rows, self._columns = (np.pad(np.arange(length), FRAME, mode="symmetric") for length in pixels.shape[:2])

    @property
    def size(self) -> Size:
        """Frame included."""
        return Size(len(self._rows), len(self._columns))

    @property
    def whole(self) -> np.ndarray:
        """All of it (3, H + 2 FRAME, W + 2 FRAME), a copy."""
        return np.ascontiguousarray(self.read(Rect(0, 0, *self.size)))

    def read(self, rect: Rect) -> np.ndarray:
        """A rectangle of it (3, h, w): a view where the frame is not touched and the picture is in memory, else a
        copy."""
        rows, columns = self._rows[rect.top : rect.bottom], self._columns[rect.left : rect.right]
        height, width = self._pixels.shape[:2]
        inside = rect.within(Rect(FRAME, FRAME, FRAME + height, FRAME + width))
        if inside.top < 0 or inside.left < 0 or inside.bottom > height or inside.right > width:
            found = self._pixels.transpose(2, 0, 1)[:, rows[:, None], columns]
        else:
            found = gather(self._pixels.transpose(2, 0, 1), inside)
        if not in_file(self._pixels):
            return found
        copy = np.ascontiguousarray(found)
        let_go(self._pixels)
        return copy

    def picture(self) -> np.ndarray:
        """(H, W, 3), without the frame, not a copy."""
        return self._pixels


@dataclass(frozen=True)
class Scale:
    """One scale's work: the content at this size, what to aim at, how far to go, and the cut.

    kept: how many tiles' graphs a worker may keep between the halves of an exact step; beyond, it computes them twice.
    masks: of as many channels as there are styles, where each has a region of its own. last: whether no scale follows
    that would want what the optimiser has learnt.
    """

    content: Framed
    style: StyleTargets
    steps: int
    tiles: Sequence[Tile]
    kept: int = 1
    masks: Framed | None = None
    last: bool = False

    def read_masks(self, rect: Rect) -> np.ndarray | None:
        """A rectangle of the masks (K, h, w); None where there are none."""
        return None if self.masks is None else self.masks.read(rect)


class PaintedImage(Protocol):
    """An image with its frame, wherever it lies; put together when it is asked for."""

    @property
    def size(self) -> Size:
        """Frame included."""
        ...

    @property
    def whole(self) -> np.ndarray:
        """(3, H + 2 FRAME, W + 2 FRAME)."""
        ...

    def read(self, rect: Rect) -> np.ndarray:
        """A rectangle of it (3, h, w), a view where that can be."""
        ...

    def picture(self) -> np.ndarray:
        """(H, W, 3), without the frame."""
        ...


@dataclass(frozen=True, eq=False)
class InOnePiece:
    """An image that lies here with its frame."""

    whole: np.ndarray

    @property
    def size(self) -> Size:
        return Size(*self.whole.shape[-2:])

    def read(self, rect: Rect) -> np.ndarray:
        return gather(self.whole, rect)

    def picture(self) -> np.ndarray:
        return unframed(self.whole)


@dataclass(frozen=True)
class ScaleResult:
    """image; loss; what the mode carries over to a next scale of its own kind; seconds spent blending.

    loss of independent tiles is the mean over tiles, weighted by area. With targets of their own it is an upper bound
    of the style loss of the whole, because the whole's deviation is the weighted mean of the tiles' deviations.
    setbacks: of the picture, or of some of its tiles. notes: what else happened, a line each.
    """

    image: PaintedImage
    loss: float
    carried: Any = None
    blend_seconds: float = 0.0
    setbacks: Sequence[Setback] = ()
    notes: Sequence[str] = ()

    @property
    def pixels(self) -> np.ndarray:
        """(3, H + 2 FRAME, W + 2 FRAME)."""
        return self.image.whole


def final_size(content: Size, recipe: Recipe) -> Size:
    """Of the generated picture."""
    return fit(content, recipe.size or max(content))


def plan_scales(content: Size, style: Size, resolved: ResolvedRecipe, budget: Budget) -> list[ScalePlan]:
    """Sizes, steps and tiles of every scale, coarse to fine. BadInput when a tile does not fit the memory."""
    recipe = resolved.recipe
    longest = recipe.size or max(content)
    sizes = scale_sizes(longest, recipe.scales)
    steps = scale_steps(recipe.steps, recipe.step_growth, len(sizes))
    plans = []
    for side, count in zip(sizes, steps, strict=True):
        size = fit(content, side)
        tiles, exact, kept = cut(size, resolved, budget, finest=side == longest)
        plans.append(ScalePlan(size, style_size_at(style, side, longest, recipe), count, tiles, exact, kept))
    return plans


def style_size_at(style: Size, side: int, longest: int, recipe: Recipe) -> Size:
    """Of a style picture while the generated one is `side` px long of `longest` in the end."""
    own = recipe.style_size * side / longest if recipe.style_size else min(side, max(style))
    return fit(style, max(1, round(own * recipe.style_scale)))


def cut(size: Size, resolved: ResolvedRecipe, budget: Budget, *, finest: bool) -> tuple[list[Tile], bool, int]:
    """The tiles of a scale, whether they are one objective, and how many graphs a worker may keep."""
    tiling, layer = resolved.recipe.tiling, resolved.deepest
    height, width = painted = framed_size(size)
    grid = None if tiling.tiles == "auto" else grid_of(tiling, height, width)
    if max(size) <= tiling.whole and not (grid and finest):
        return plan_tiles(height, width, (1, 1), align=layer.stride), True, 1
    if tiling.mode == "independent":
        grid = independent_tiling(painted, budget, resolved.recipe, layer, grid).grid
        halo = context(layer)
        return plan_tiles(height, width, grid, overlap=tiling.overlap, halo=halo, align=layer.stride), False, 0
    chosen = exact_tiling(painted, budget, resolved.recipe, layer, grid)
    if not finest and sooner_alone(painted, chosen, budget, resolved.recipe):
        return plan_tiles(height, width, (1, 1), align=layer.stride), True, 1
    return plan_tiles(height, width, chosen.grid, halo=layer.margin, align=layer.stride), True, chosen.kept


def most_tiles(content: Size, recipe: Recipe) -> int | None:
    """How many tiles a scale has at most; None where workers and memory decide."""
    if recipe.tiling.tiles == "auto":
        return 1 if max(final_size(content, recipe)) <= recipe.tiling.whole else None
    return math.prod(part or 1 for part in parse_grid(recipe.tiling.tiles))


def settled(content: Size, resolved: ResolvedRecipe, budget: Budget) -> ResolvedRecipe:
    """The recipe with the grid of its finest scale written down where independent tiles are cut by workers and memory.
    Exact tiles may be cut as one likes."""
    recipe, tiling = resolved.recipe, resolved.recipe.tiling
    size = final_size(content, recipe)
    if tiling.mode == "exact" or tiling.tiles != "auto" or max(size) <= tiling.whole:
        return resolved
    rows, columns = independent_tiling(framed_size(size), budget, recipe, resolved.deepest).grid
    return replace(resolved, recipe=replace(recipe, tiling=replace(tiling, tiles=f"{rows}x{columns}")))


def first_image(sources: SourcePictures, recipe: Recipe, size: Size) -> Framed:
    """What the coarsest scale starts from; a picture of another shape is stretched to this size."""
    if recipe.init == "noise":
        noise = np.random.default_rng(recipe.seed).normal(0.5, 0.2, (*size, 3))
        return Framed(np.clip(noise, 0, 1).astype(np.float32))
    begin = {"content": sources.content, "style": sources.style}.get(recipe.init, sources.start)
    assert begin is not None  # as `check_sources` has seen to
    return framed(begin.pixels, size)


def framed_size(size: Size) -> Size:
    """Of a picture of this size with its frame."""
    return Size(size.height + 2 * FRAME, size.width + 2 * FRAME)


def unframed_size(framed: Size) -> Size:
    """Of a picture without its frame."""
    return Size(framed.height - 2 * FRAME, framed.width - 2 * FRAME)


def framed(pixels: np.ndarray, size: Size) -> Framed:
    """(H, W, 3) resized to `size`, with its frame. A picture that has this size is not copied."""
    return Framed(pixels if pixels.shape[:2] == size else resize(pixels, size))


def enlarged(pixels: np.ndarray, size: Size) -> np.ndarray:
    """(3, H, W) with its frame, brought to `size` with its frame; as it is where it has that size."""
    image = framed(unframed(pixels), size)
    return pixels if image.size == pixels.shape[-2:] else image.whole.astype(pixels.dtype, copy=False)


def framed_masks(masks: Sequence[np.ndarray], size: Size) -> Framed | None:
    """Masks (H, W) of any size, resized and one behind the other, with their frame; None for none."""
    return Framed(np.stack([resize(mask, size) for mask in masks], -1)) if masks else None


def unframed(pixels: np.ndarray) -> np.ndarray:
    """(3, H + 2 FRAME, W + 2 FRAME) -> (H, W, 3)."""
    return np.ascontiguousarray(pixels[:, FRAME:-FRAME, FRAME:-FRAME].transpose(1, 2, 0))
