"""One picture from file to file."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from parallel_nst.images import check_output, read_image, write_image
from parallel_nst.networks.checkpoints import build_backbone, load_weights
from parallel_nst.pools import open_pool
from parallel_nst.recipe import Recipe
from parallel_nst.stylize import OnStatus, ScalePlan, chosen_layers, plan_scales, stylize

PICTURES = 4  # in memory at once, at least: content, start, sum of tiles, one to resize


@dataclass(frozen=True)
class PictureJob:
    """What to stylise, and with what.

    weights: a file of the backbone's weights; None: the registry's. workers, address: see `pools.open_pool`.
    max_pixels: None keeps Pillow's limit against decompression bombs.
    """

    content: Path
    style: Path
    output: Path
    recipe: Recipe
    weights: Path | None = None
    workers: int | None = 1
    address: str | None = None
    max_pixels: int | None = None
    quality: int = 95


@dataclass(frozen=True)
class PictureReport:
    """What came of it. Sizes in px; seconds of wall time; step_ratio is None without tile borders.

    startup: from the beginning of the program until the first step, and waiting for workers later.
    """

    output: str
    width: int
    height: int
    tiles: int
    workers: int
    threads: int
    loss: float
    step_ratio: float | None
    startup: float
    compute: float
    blend: float
    write: float
    shutdown: float

    @property
    def seconds(self) -> float:
        return self.startup + self.compute + self.blend + self.write + self.shutdown


def stylize_file(
    job: PictureJob, notify: Callable[[str], None], on_status: OnStatus | None = None, began: float | None = None
) -> PictureReport:
    """Read, stylise, write. notify: takes each line the user should be told. began: `time.perf_counter()` at the
    program's start. ValueError or OSError, in one line, for anything the user can put right."""
    began = time.perf_counter() if began is None else began
    check_output(job.output, inputs=[job.content, job.style])
    weights = load_weights(job.recipe.backbone, job.weights)
    backbone = build_backbone(job.recipe.backbone, weights)
    layers = chosen_layers(job.recipe, backbone)
    content = read_image(job.content, max_pixels=job.max_pixels)
    style = read_image(job.style, max_pixels=job.max_pixels)
    for path, picture in ((job.content, content), (job.style, style)):
        if picture.note:
            notify(f"{path}: {picture.note}")
    plans = plan_scales(content.size, style.size, job.recipe, layers, backbone)
    check_output(job.output, size=plans[-1].size)
    check_memory(plans[-1])
    tasks = max(len(plan.tiles) for plan in plans)
    pool, crew = open_pool(job.recipe, workers=job.workers, address=job.address, weights=weights, tasks=tasks)
    try:
        if crew.reason:
            notify(crew.reason)
        startup = time.perf_counter() - began
        result = stylize(content, style, job.recipe, pool, on_status)
        written = time.perf_counter()
        for note in write_image(job.output, result.picture, settings=job.recipe.to_toml(), quality=job.quality):
            notify(f"{job.output}: {note}")
        closing = time.perf_counter()
    finally:
        pool.close()
    width, height = result.picture.size
    return PictureReport(
        output=str(job.output),
        width=width,
        height=height,
        tiles=result.tiles,
        workers=crew.workers,
        threads=crew.threads,
        loss=result.loss,
        step_ratio=None if math.isnan(result.step_ratio) else float(result.step_ratio),
        startup=startup + pool.waited,
        compute=result.compute_seconds - pool.waited,
        blend=result.blend_seconds,
        write=closing - written,
        shutdown=time.perf_counter() - closing,
    )


def check_memory(plan: ScalePlan) -> None:
    """ValueError for a scale whose pictures alone are more than the memory of this machine."""
    if not hasattr(os, "sysconf"):
        return
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name, size in (("size", plan.size), ("style_size", plan.style_size)):
        need = PICTURES * 12 * math.prod(size)  # three channels of 4 bytes
        if need > have:
            raise ValueError(
                f"{name} is {max(size)}: {size[0]}x{size[1]} px take {need / 1e9:,.0f} GB or more, this machine has "
                f"{have / 1e9:,.0f}; give a smaller one"
            )


def untiled(recipe: Recipe) -> Recipe:
    """The same recipe in one piece."""
    return replace(recipe, tiling=replace(recipe.tiling, tiles="1"))
