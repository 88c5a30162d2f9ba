"""Picture + Recipe + Pool -> Picture: the scales from coarse to fine, whole or in tiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parallel_nst.gatys import Progress
from parallel_nst.images import Picture, fit, resize
from parallel_nst.networks.backbones import Backbone, deepest
from parallel_nst.networks.checkpoints import backbone_entry, build_backbone
from parallel_nst.recipe import LayerWeights, Recipe, scale_sizes, scale_steps
from parallel_nst.tiled import Scale, ScaleResult, stylize_independent
from parallel_nst.tiles import Tile, grid_of, plan_tiles, step_ratio
from parallel_nst.workers import MeasureStyle, OnProgress, Pool, only

Size = tuple[int, int]  # width and height in px

# Px of mirror image around a picture while it is painted. Convolutions pad with zeros, and without a frame the
# statistics of that grey rim are corrected by painting a coloured line along the edge. It also gives a picture of one
# pixel enough neighbours for the deepest layer of any backbone.
FRAME = 16


@dataclass(frozen=True)
class ScalePlan:
    """One scale before it is run. style_size: of the style image at this scale; tiles: of the framed picture."""

    size: Size
    style_size: Size
    steps: int
    tiles: list[Tile]

    @property
    def picture_tiles(self) -> list[Tile]:
        """The tiles in the picture's own coordinates."""
        return [tile.moved(-FRAME) for tile in self.tiles]

    @property
    def work(self) -> int:
        """Arithmetic, in optimiser steps times px."""
        return self.steps * sum(tile.read.area for tile in self.tiles)


@dataclass(frozen=True)
class Status:
    """How far a run is: number of the scale and of tiles done at it, the step and loss of the tile that reported, and
    the share of all arithmetic that is done (0 to 1)."""

    scale: int
    scales: int
    tiles_done: int
    tiles: int
    step: int
    steps: int
    loss: float
    share: float


@dataclass(frozen=True)
class Stylised:
    """The generated picture and what is to be said about it.

    loss: at the finest scale. step_ratio: at the tile borders (see `tiles.step_ratio`), NaN without borders.
    """

    picture: Picture
    loss: float
    step_ratio: float
    tiles: int
    compute_seconds: float
    blend_seconds: float


OnStatus = Callable[[Status], None]


def stylize(
    content: Picture, style: Picture, recipe: Recipe, pool: Pool, on_status: OnStatus | None = None
) -> Stylised:
    """Paint `content` in the manner of `style`. What the content carries (alpha, profile, EXIF, depth) is kept.

    ValueError for an unknown layer.
    """
    began = time.perf_counter()
    backbone = build_backbone(recipe.backbone, pool.spec.weights[recipe.backbone])
    layers = chosen_layers(recipe, backbone)
    plans = plan_scales(content.size, style.size, recipe, layers, backbone)
    image = first_image(content, style, recipe, plans[0].size)
    blending = 0.0
    for number, plan in enumerate(plans):
        report = reporter(plans, number, on_status) if on_status else None
        result = run_scale(content, style, image, plan, recipe, layers, pool, report)
        image = unframed(result.pixels)
        blending += result.blend_seconds
    ratio = step_ratio(image.transpose(2, 0, 1), plans[-1].picture_tiles)
    seconds = time.perf_counter() - began - blending
    return Stylised(carried(content, image), result.loss, ratio, len(plans[-1].tiles), seconds, blending)


def run_scale(
    content: Picture,
    style: Picture,
    image: np.ndarray,
    plan: ScalePlan,
    recipe: Recipe,
    layers: LayerWeights,
    pool: Pool,
    report: OnProgress | None,
) -> ScaleResult:
    """One scale from the image of the one before; the resulting pixels still have their frame."""
    painting = framed(style.pixels, plan.style_size)
    targets = only(pool.map([MeasureStyle(painting, recipe.backbone, layers)]))
    scale = Scale(
        content=framed(content.pixels, plan.size),
        start=framed(image, plan.size),
        style=targets,
        steps=plan.steps,
    )
    return stylize_independent(scale, plan.tiles, recipe, layers, pool, report)


def chosen_layers(recipe: Recipe, backbone: Backbone) -> LayerWeights:
    """The recipe's layers, or the backbone's own where it names none; ValueError for an unknown one."""
    own = backbone_entry(recipe.backbone).layers
    layers = LayerWeights(recipe.layers.style or own.style, recipe.layers.content or own.content)
    backbone.check_layers((*layers.style, *layers.content))
    return layers


def plan_scales(
    content: Size, style: Size, recipe: Recipe, layers: LayerWeights, backbone: Backbone
) -> list[ScalePlan]:
    """Sizes, steps and tiles of every scale, coarse to fine."""
    longest = recipe.size or max(content)
    sizes = scale_sizes(longest, recipe.scales)
    steps = scale_steps(recipe.steps, recipe.step_growth, len(sizes))
    align = deepest(backbone, {**layers.style, **layers.content}).stride
    plans = []
    for side, count in zip(sizes, steps, strict=True):
        size = fit(content, side)
        width, height = (length + 2 * FRAME for length in size)
        whole = side < longest and side <= recipe.tiling.whole
        grid = (1, 1) if whole else grid_of(recipe.tiling, height, width)
        tiles = plan_tiles(height, width, grid, overlap=recipe.tiling.overlap, align=align)
        style_side = max(1, round((recipe.style_size or longest) * side / longest))
        plans.append(ScalePlan(size, fit(style, style_side), count, tiles))
    return plans


def first_image(content: Picture, style: Picture, recipe: Recipe, size: Size) -> np.ndarray:
    """What the coarsest scale starts from, (H, W, 3)."""
    if recipe.init == "noise":
        noise = np.random.default_rng(recipe.seed).normal(0.5, 0.2, (size[1], size[0], 3))
        return np.clip(noise, 0, 1).astype(np.float32)
    return resize((content if recipe.init == "content" else style).pixels, size)


def framed(pixels: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, 3) resized to `size`, with a frame of mirror image, as (3, H + 2 FRAME, W + 2 FRAME)."""
    mirrored = np.pad(resize(pixels, size), ((FRAME, FRAME), (FRAME, FRAME), (0, 0)), mode="symmetric")
    return np.ascontiguousarray(mirrored.transpose(2, 0, 1))


def unframed(pixels: np.ndarray) -> np.ndarray:
    """(3, H + 2 FRAME, W + 2 FRAME) -> (H, W, 3)."""
    return np.ascontiguousarray(pixels[:, FRAME:-FRAME, FRAME:-FRAME].transpose(1, 2, 0))


def carried(content: Picture, image: np.ndarray) -> Picture:
    """`image` (H, W, 3) with what the content picture carries."""
    alpha = content.alpha
    if alpha is not None:
        alpha = resize(alpha, (image.shape[1], image.shape[0]))
    return replace(content, pixels=image, alpha=alpha)


def reporter(plans: Sequence[ScalePlan], number: int, on_status: OnStatus) -> OnProgress:
    """Turns a task's progress at one scale into the run's status."""
    plan = plans[number]
    total = sum(p.work for p in plans)
    before = sum(p.work for p in plans[:number])
    done = [0] * len(plan.tiles)

    def report(index: int, progress: Progress) -> None:
        done[index] = progress.step
        work = before + sum(step * tile.read.area for step, tile in zip(done, plan.tiles, strict=True))
        finished = sum(step == plan.steps for step in done)
        on_status(
            Status(
                scale=number + 1,
                scales=len(plans),
                tiles_done=finished,
                tiles=len(plan.tiles),
                step=progress.step,
                steps=plan.steps,
                loss=progress.loss,
                share=work / total,
            )
        )

    return report
