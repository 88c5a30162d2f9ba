"""Picture + Recipe + Pool -> Picture: the scales from coarse to fine, whole or in tiles."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from parallel_nst.files.images import Picture, resize
from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.painting.color import with_colours_of
from parallel_nst.painting.exact.mode import Exact
from parallel_nst.painting.gatys.minimise import Setback
from parallel_nst.painting.gatys.style import StyleTargets, mixed, regional
from parallel_nst.painting.independent.synchronised import Synchronised
from parallel_nst.painting.independent.unsynchronised import Unsynchronised
from parallel_nst.painting.masks import mask_of
from parallel_nst.painting.mode import Mode, State
from parallel_nst.painting.planning.footprint import worker_share
from parallel_nst.painting.planning.memory import machine_memory
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import (
    Framed,
    Scale,
    ScalePlan,
    ScaleResult,
    final_size,
    first_image,
    framed,
    framed_masks,
    plan_scales,
    style_size_at,
)
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import ResolvedRecipe, resolve
from parallel_nst.painting.scale_run import RunCallbacks, ScaleRun
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.painting.sources import SourcePictures
from parallel_nst.painting.style_targets import content_powers, measured_style
from parallel_nst.painting.tiles.seams import step_ratio
from parallel_nst.recipe import Recipe
from parallel_nst.workers.pool import Pool, worker_memory
from parallel_nst.workers.worker import WorkerSpec


@dataclass(frozen=True)
class Stylised:
    """The generated picture and what is to be said about it.

    loss: at the finest scale. step_ratio: at the tile borders (see `tiles.seams`), NaN without borders.
    tiles: at the finest scale; exact: whether they were one objective. notes: what the user should be told, a line
    each.
    """

    picture: Picture
    loss: float
    step_ratio: float
    tiles: int
    exact: bool
    compute_seconds: float
    blend_seconds: float
    notes: tuple[str, ...] = ()


def stylize(
    content: Picture,
    style: Picture | Sequence[Picture],
    recipe: Recipe,
    pool: Pool,
    callbacks: RunCallbacks | None = None,
    *,
    masks: Sequence[Picture] = (),
) -> Stylised:
    """As `stylize_sources`, of a picture in the manner of another or of several. masks: one for each style, white where
    it is to be."""
    styles = [style] if isinstance(style, Picture) else style
    sources = SourcePictures(content, styles, masks=[mask_of(mask) for mask in masks])
    return stylize_sources(sources, recipe, pool, callbacks)


def stylize_sources(
    sources: SourcePictures,
    recipe: Recipe,
    pool: Pool,
    callbacks: RunCallbacks | None = None,
    *,
    budget: Budget | None = None,
    resume: Snapshot | None = None,
) -> Stylised:
    """Paint the content in the manner of the styles. What the content carries (alpha, profile, EXIF, depth) is kept.

    budget: what tiles are cut for; None: the pool's workers and what this machine has (see `budget_for`). resume: where
    an earlier run with the same pictures and recipe was stopped. BadInput for an unknown layer, or when nothing fits
    the memory; Diverged where the loss never is finite.
    """
    backbone = build_backbone(recipe.backbone, pool.spec.weights[recipe.backbone], recipe.pooling)
    resolved = resolve(recipe, backbone)
    budget = budget or budget_of(pool, sources, resolved, backbone)
    return paint(sources, resolved, pool, budget, callbacks, resume)


def paint(
    sources: SourcePictures,
    resolved: ResolvedRecipe,
    pool: Pool,
    budget: Budget,
    callbacks: RunCallbacks | None = None,
    resume: Snapshot | None = None,
) -> Stylised:
    """As `stylize_sources`, for those who have resolved the recipe themselves."""
    began = time.perf_counter()
    content, sources = sources.content, sources.prepared(resolved.recipe)
    plans = plan_scales(content.size, sources.style.size, resolved, budget)
    powers = content_powers(content, resolved, pool)
    before: Snapshot | ScaleResult = resume or beginning(sources, resolved.recipe, plans[0], pool.spec)
    first = resume.scale if resume else 0
    del resume
    blending, notes = 0.0, list[str]()
    for number in range(first, len(plans)):
        plan, finest = plans[number], number == len(plans) - 1
        mode = mode_of(
            plan, replace(scale_of(sources, plan, resolved, pool, powers), last=finest), resolved, pool, budget
        )
        states = ScaleRun(plans, number, callbacks or RunCallbacks()).states(mode, begun(mode, before))
        del before  # what the scale begins with belongs to it, so that it goes with the first step
        before = mode.result(last(states))
        blending += before.blend_seconds
        said = [setback_note(before.setbacks, plan, resolved.recipe)] if before.setbacks else []
        notes += [f"scale {number + 1} of {len(plans)}: {note}" for note in (*before.notes, *said)]
    assert isinstance(before, ScaleResult)
    image, loss = before.image.picture().astype(np.float32, copy=False), before.loss
    del before, mode, states  # the workers' parts, and all that the scale held, before more is made of the picture
    kept = with_colours_of(content.pixels, image) if resolved.recipe.preserve_color == "luminance" else image
    return Stylised(
        picture=carried(content, kept),
        loss=loss,
        step_ratio=step_ratio(image.transpose(2, 0, 1), plans[-1].picture_tiles),
        tiles=len(plans[-1].tiles),
        exact=plans[-1].exact,
        compute_seconds=time.perf_counter() - began - blending,
        blend_seconds=blending,
        notes=tuple(notes),
    )


def setback_note(setbacks: Sequence[Setback], plan: ScalePlan, recipe: Recipe) -> str:
    """What is said of a scale that has lost its way, or some of whose tiles have."""
    worst = max(setbacks, key=lambda lost: math.inf if math.isnan(lost.loss) else lost.loss)
    where = "" if plan.exact or recipe.tiling.sync_every else f" in {len(setbacks)} of {len(plan.tiles)} tiles"
    how = f"grew to {worst.loss:.4g}" if math.isfinite(worst.loss) else "ceased to be a number"
    when = f"stopped after {worst.step} of {plan.steps} steps, and the" if worst.step < plan.steps else "the"
    advice = "a smaller learning_rate" if recipe.optimizer == "adam" else "smaller weights"
    return f"the loss {how}{where}; {when} best picture so far (loss {worst.kept:.4g}) was kept; give {advice}"


def beginning(sources: SourcePictures, recipe: Recipe, plan: ScalePlan, spec: WorkerSpec) -> ScaleResult:
    """What the coarsest scale begins with, in the workers' precision."""
    image = first_image(sources, recipe, plan.size)
    return ScaleResult(Framed(image.picture().astype(np.float64)) if spec.dtype == "float64" else image, math.nan)


def mode_of(
    plan: ScalePlan, scale: Scale, resolved: ResolvedRecipe, pool: Pool, budget: Budget | None = None
) -> Mode[Any]:
    """How a scale is painted. budget: what exact tiles were cut for."""
    if plan.exact:
        return Exact(scale, resolved, pool, budget)
    return (Synchronised if resolved.recipe.tiling.sync_every else Unsynchronised)(scale, resolved, pool)


def begun(mode: Mode[State], before: Snapshot | ScaleResult) -> State:
    """The first state of a scale, after the scale before it or from a snapshot within it."""
    return mode.restored(before) if isinstance(before, Snapshot) else mode.follow(before)


def last(states: Iterator[State]) -> State:
    """The last of some states, of which there is at least one; none is kept longer than until the next."""
    return deque(states, maxlen=1)[0]


def budget_of(
    pool: Pool, sources: SourcePictures, resolved: ResolvedRecipe, backbone: Backbone, memory: int | None = None
) -> Budget:
    """What tiles are cut for on the workers that a pool has. memory: bytes of one worker, where they were given."""
    memory = memory or worker_memory(pool)
    budget = budget_for(sources, resolved, backbone, pool.spec, pool.size, memory, ray=pool.mortal)
    return replace(budget, threads_alone=pool.threads_alone)


def budget_for(
    sources: SourcePictures,
    resolved: ResolvedRecipe,
    backbone: Backbone,
    spec: WorkerSpec,
    workers: int,
    memory: int | None = None,
    *,
    ray: bool = False,
) -> Budget:
    """What tiles are cut for. memory: bytes of one worker; None: its share of what this machine has beside the driver
    and, where Ray runs the workers, Ray's own processes.

    A pool of one worker is this process, and the optimiser's pictures are its own.
    """
    if memory is None:
        size = final_size(sources.content.size, resolved.recipe)
        have = machine_memory() - 4 * len(sources.masks) * size.area  # float32 masks of the scale, beside the picture
        memory = worker_share(have, size, resolved.recipe, workers, ray=ray)
    layers, dtype = resolved.layers, getattr(torch, spec.dtype)
    costs = profile(backbone, layers.style, layers.content, dtype)
    kept = len(sources.masks) * mask_bytes(backbone, layers.style)
    return Budget(workers, memory, replace(costs, content=costs.content + kept))


def mask_bytes(backbone: Backbone, layers: Iterable[str]) -> float:
    """What a tile keeps of a mask, as it came and at the style layers, for each px."""
    return 4 * (1 + sum(1 / backbone.layers[name].stride ** 2 for name in layers))


def scale_of(
    sources: SourcePictures, plan: ScalePlan, resolved: ResolvedRecipe, pool: Pool, powers: Mapping[str, float]
) -> Scale:
    """The work of one scale. The style pictures are measured at this scale too. powers: see `content_powers`."""
    recipe, side = resolved.recipe, max(plan.size)
    longest = max(final_size(sources.content.size, recipe))
    measured = []
    for style in sources.styles:
        size = style_size_at(style.size, side, longest, recipe)
        measured.append(measured_style(framed(style.pixels, size), resolved, pool))
    masks = framed_masks(sources.masks, plan.size)
    targets = combined(measured, recipe.style_weights or [1.0] * len(measured), masks)
    targets = replace(targets, content_powers=powers)
    return Scale(framed(sources.content.pixels, plan.size), targets, plan.steps, plan.tiles, plan.kept, masks)


def combined(targets: Sequence[StyleTargets], weights: Sequence[float], masks: Framed | None) -> StyleTargets:
    """What the styles ask for together: each in its region or, without masks, their mean."""
    if masks is not None:
        return regional(targets, weights, masks.whole.mean((1, 2), dtype=np.float64).tolist())
    return mixed(targets, weights) if len(targets) > 1 else targets[0]


def whole_loss(content: Picture, style: Picture, generated: Picture, recipe: Recipe, pool: Pool) -> float:
    """The loss of a generated picture as one objective over all of it, at the finest scale, however it was made."""
    backbone = build_backbone(recipe.backbone, pool.spec.weights[recipe.backbone], recipe.pooling)
    resolved = resolve(replace(recipe, tiling=replace(recipe.tiling, mode="exact", tiles="auto")), backbone)
    sources = SourcePictures(content, [style])
    budget = budget_of(pool, sources, resolved, backbone)
    plan = plan_scales(content.size, style.size, resolved, budget)[-1]
    scale = scale_of(sources, plan, resolved, pool, content_powers(content, resolved, pool))
    mode = Exact(replace(scale, steps=0, last=True), resolved, pool, budget)
    start = mode.start(framed(generated.pixels, plan.size).whole)
    return mode.result(last(ScaleRun([replace(plan, steps=0)], 0, RunCallbacks()).states(mode, start))).loss


def carried(content: Picture, image: np.ndarray) -> Picture:
    """`image` (H, W, 3) with what the content picture carries."""
    alpha = content.alpha
    if alpha is not None:
        alpha = resize(alpha, Size(*image.shape[:2]))
    return replace(content, pixels=image, alpha=alpha)
