"""Picture + Recipe + Pool -> Picture: the scales from coarse to fine, whole or in tiles."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from parallel_nst.files.images import Picture, resize
from parallel_nst.networks.backbones.base import Backbone, deepest
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.painting.exact import TiledObjective
from parallel_nst.painting.gatys.objective import StyleSums, StyleTargets
from parallel_nst.painting.gatys.optimizers import resize_state
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import (
    FRAME,
    Budget,
    Framed,
    Scale,
    ScalePlan,
    ScaleResult,
    Size,
    chosen_layers,
    final_size,
    first_image,
    framed,
    plan_scales,
    unframed,
)
from parallel_nst.painting.planning.tilings import machine_memory, worker_share
from parallel_nst.painting.scale_run import Beginning, Stage, Watch
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.painting.tasks import MeasureStyle
from parallel_nst.painting.tiles.geometry import plan_tiles, step_ratio
from parallel_nst.recipe import LayerWeights, Recipe
from parallel_nst.workers.pool import Pool
from parallel_nst.workers.worker import WorkerSpec

STYLE_TILE = 1024  # px, side above which a style image is measured in tiles


@dataclass(frozen=True)
class Stylised:
    """The generated picture and what is to be said about it.

    loss: at the finest scale. step_ratio: at the tile borders (see `tiles.step_ratio`), NaN without borders.
    tiles: at the finest scale; exact: whether they were one objective.
    """

    picture: Picture
    loss: float
    step_ratio: float
    tiles: int
    exact: bool
    compute_seconds: float
    blend_seconds: float


def stylize(
    content: Picture,
    style: Picture,
    recipe: Recipe,
    pool: Pool,
    watch: Watch | None = None,
    *,
    budget: Budget | None = None,
    resume: Snapshot | None = None,
) -> Stylised:
    """Paint `content` in the manner of `style`. What the content carries (alpha, profile, EXIF, depth) is kept.

    budget: what tiles are cut for; None: the pool's workers and what this machine has (see `budget_for`). resume: where
    an earlier run with the same pictures and recipe was stopped. ValueError for an unknown layer, or when nothing fits
    the memory.
    """
    began = time.perf_counter()
    backbone = build_backbone(recipe.backbone, pool.spec.weights[recipe.backbone])
    layers = chosen_layers(recipe, backbone)
    budget = budget or budget_for(content.size, recipe, layers, backbone, pool.spec, pool.size)
    plans = plan_scales(content.size, style.size, recipe, layers, backbone, budget)
    first = resume.scale if resume else 0
    begin = Beginning(snapshot=resume)
    if resume is None:
        coarsest = plans[0].size
        first_pixels = framed(first_image(content, style, recipe, coarsest), coarsest).whole
        begin = Beginning(first_pixels.astype(precision(pool.spec), copy=False))
    del resume
    blending = 0.0
    for number in range(first, len(plans)):
        stage = Stage(plans, number, watch or Watch())
        scale = scale_of(content, style, plans[number], recipe, layers, backbone, pool)
        result = stage.run(begin, scale, recipe, layers, pool)
        blending += result.blend_seconds
        loss, begin = result.loss, enlarged(result, plans[min(number + 1, len(plans) - 1)].size)
        del result, scale
    assert begin.pixels is not None
    image = unframed(begin.pixels)
    ratio = step_ratio(image.transpose(2, 0, 1), plans[-1].picture_tiles)
    seconds = time.perf_counter() - began - blending
    tiles, exact = len(plans[-1].tiles), plans[-1].exact
    image = image.astype(np.float32, copy=False)
    return Stylised(carried(content, image), loss, ratio, tiles, exact, seconds, blending)


def precision(spec: WorkerSpec) -> type[np.floating[Any]]:
    """Of the image while it is painted."""
    return np.float64 if spec.dtype == "float64" else np.float32


def budget_for(
    content: Size,
    recipe: Recipe,
    layers: LayerWeights,
    backbone: Backbone,
    spec: WorkerSpec,
    workers: int,
    memory: int | None = None,
) -> Budget:
    """What tiles are cut for. memory: bytes of one worker; None: its share of what this machine has beside the driver.

    A pool of one worker is this process, and the optimiser's pictures are its own.
    """
    if memory is None:
        width, height = final_size(content, recipe)
        memory = worker_share(machine_memory(), height, width, recipe, workers)
    dtype = getattr(torch, spec.dtype)
    return Budget(workers, memory, profile(backbone, layers.style, layers.content, dtype))


def scale_of(
    content: Picture,
    style: Picture,
    plan: ScalePlan,
    recipe: Recipe,
    layers: LayerWeights,
    backbone: Backbone,
    pool: Pool,
) -> Scale:
    """The work of one scale. The style image is measured at this scale too."""
    targets = measured_style(framed(style.pixels, plan.style_size), recipe, layers, backbone, pool)
    return Scale(framed(content.pixels, plan.size), targets, plan.steps, plan.tiles, plan.kept)


def measured_style(style: Framed, recipe: Recipe, layers: LayerWeights, backbone: Backbone, pool: Pool) -> StyleTargets:
    """What the style image asks for; a large one is measured in tiles, which changes nothing but rounding."""
    height, width = style.size
    layer = deepest(backbone, {**layers.style, **layers.content})
    grid = -(-height // STYLE_TILE), -(-width // STYLE_TILE)
    tiles = plan_tiles(height, width, grid, halo=layer.margin, align=layer.stride)
    tasks = [MeasureStyle(style.read(tile.read), tile, style.size, recipe.backbone, layers) for tile in tiles]
    parts: list[StyleSums] = [result for _, result in sorted(pool.map(tasks), key=lambda part: part[0])]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.targets


def enlarged(result: ScaleResult, size: Size) -> Beginning:
    """What the next scale begins with: the image and the optimiser's state, both brought to its size. After the last
    scale, where the size is the same, the image as it is."""
    height, width = (length - 2 * FRAME for length in result.pixels.shape[-2:])
    if (width, height) == size:
        return Beginning(result.pixels)
    pixels = framed(unframed(result.pixels), size).whole.astype(result.pixels.dtype, copy=False)
    if result.state is None:
        return Beginning(pixels)
    ratio = (height * width) / (size[0] * size[1])
    return Beginning(pixels, resize_state(result.state, lambda values: resized(values, size), ratio))


def resized(values: Tensor, size: Size) -> Tensor:
    """(1, 3, H + 2 FRAME, W + 2 FRAME) of any values to `size` with its frame; bilinear, so that nothing overshoots."""
    inner = interpolate(values[..., FRAME:-FRAME, FRAME:-FRAME], (size[1], size[0]), mode="bilinear")
    return torch.from_numpy(Framed(inner[0].permute(1, 2, 0).numpy()).whole)[None]


def whole_loss(content: Picture, style: Picture, generated: Picture, recipe: Recipe, pool: Pool) -> float:
    """The loss of a generated picture as one objective over all of it, at the finest scale, however it was made."""
    backbone = build_backbone(recipe.backbone, pool.spec.weights[recipe.backbone])
    layers = chosen_layers(recipe, backbone)
    exact = replace(recipe, tiling=replace(recipe.tiling, mode="exact", tiles="auto"))
    budget = budget_for(content.size, exact, layers, backbone, pool.spec, pool.size)
    plan = plan_scales(content.size, style.size, exact, layers, backbone, budget)[-1]
    scale = scale_of(content, style, plan, exact, layers, backbone, pool)
    image = torch.from_numpy(framed(generated.pixels, plan.size).whole)[None]
    return TiledObjective(scale, exact, layers, pool).value(image)


def carried(content: Picture, image: np.ndarray) -> Picture:
    """`image` (H, W, 3) with what the content picture carries."""
    alpha = content.alpha
    if alpha is not None:
        alpha = resize(alpha, (image.shape[1], image.shape[0]))
    return replace(content, pixels=image, alpha=alpha)
