"""One picture from file to file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.typing import NDArray

from parallel_nst.errors import BadInput
from parallel_nst.files.digests import digest_of, file_digest
from parallel_nst.files.images import Picture, check_output, fit, read_image, shrunk, write_image
from parallel_nst.files.size import Size
from parallel_nst.files.whole_files import remove_leftovers
from parallel_nst.jobs.journal import LossLog, Strip
from parallel_nst.jobs.requests.picture import PictureJob
from parallel_nst.networks.backbones.loading import build_backbone, load_weights
from parallel_nst.painting.masks import check_mask, mask_of
from parallel_nst.painting.planning.footprint import driver_bytes, optimiser_bytes, worker_share
from parallel_nst.painting.planning.memory import parse_memory
from parallel_nst.painting.planning.scales import final_size, most_tiles, settled, style_size_at
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.scale_run import OnStatus, RunCallbacks, RunStatus
from parallel_nst.painting.snapshots import Snapshot, load_snapshot, save_snapshot
from parallel_nst.painting.sources import SourcePictures, check_sources
from parallel_nst.painting.stylize import Stylised, budget_of, paint, stylize_sources
from parallel_nst.recipe import INITS, Recipe
from parallel_nst.workers.crew import ANY_NUMBER
from parallel_nst.workers.opening import Workload, open_pool
from parallel_nst.workers.pool import Pool, worker_memory

PREVIEW = 512  # px, longest side
PREVIEW_QUALITY = 85


@dataclass(frozen=True)
class PictureReport:
    """What came of it. Sizes in px; seconds of wall time; step_ratio is None without tile borders, which exact tiles
    have none of; device: that the networks ran on.

    startup: from the beginning of the program until the first step, and waiting for workers later.
    """

    output: str
    width: int
    height: int
    mode: str
    tiles: int
    workers: int
    threads: int
    device: str
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
    memory = None if job.memory is None else parse_memory(job.memory)
    check_outputs(job)
    remove_leftovers((job.output, job.preview, job.snapshot))
    weights = load_weights(job.recipe.backbone, job.weights)
    backbone = build_backbone(job.recipe.backbone, weights, job.recipe.pooling)
    resolved = resolve(job.recipe, backbone)
    sources = read_inputs(job, memory, notify)
    content = sources.content
    opened = open_pool(
        job.recipe,
        workers=job.workers,
        address=job.address,
        in_process=job.in_process,
        workers_per_gpu=job.workers_per_gpu,
        weights=weights,
        workload=workload_of(content.size, job.recipe),
        notify=notify,
    )
    with opened as pool:
        share = memory_share(job, memory, pool, content.size)
        budget = budget_of(pool, sources, resolved, backbone, share)
        resolved = settled(content.size, resolved, budget)
        identity = identity_of(job, resolved.recipe)
        resume = resumed(job, identity, notify) if job.resume else None
        losses, strip = LossLog(), Strip()
        callbacks = callbacks_of(job, identity, on_status, losses, strip)
        started = time.perf_counter()
        try:
            result = paint(sources, resolved, pool, budget, callbacks, resume)
        finally:  # what is known of a run that fails is worth most
            write_journal(job, losses, strip, notify)
        painted = time.perf_counter()
        for note in result.notes:
            notify(note)
        for note in write_image(
            job.output, result.picture, settings=resolved.recipe.to_toml(), quality=job.written_quality
        ):
            notify(f"{job.output}: {note}")
        job.snapshot.unlink(missing_ok=True)
        written = time.perf_counter()
    return report_of(job, result, pool, (began, started, painted, written, time.perf_counter()))


def workload_of(content: Size, recipe: Recipe) -> Workload:
    """What there is to do for a picture of this size."""
    return Workload(most_tiles(content, recipe) or ANY_NUMBER, pixels=math.prod(final_size(content, recipe)))


def stylize(
    content: Picture,
    style: Picture | Sequence[Picture],
    recipe: Recipe | None = None,
    pool: Pool | None = None,
    *,
    workers: int = 1,
    masks: Sequence[Picture] = (),
    on_status: OnStatus | None = None,
) -> Stylised:
    """Paint `content` in the manner of `style`, or of several, in one call. What the content carries (alpha, profile,
    EXIF, depth) is kept.

    recipe: None takes the defaults; a file that its `init` names is read. pool: from `open_pool`, for several pictures
    one after the other; None opens one of at most so many workers for this picture, one being this process, and closes
    it. masks: one for each style, white where it is to be. on_status: is told how far it is. PnstError, in one line,
    for anything that can be put right.
    """
    recipe = recipe or Recipe()
    callbacks = RunCallbacks(on_status=on_status)
    styles = [style] if isinstance(style, Picture) else style
    start = None if recipe.init in INITS else read_image(recipe.init)
    sources = SourcePictures(content, styles, start, [mask_of(mask) for mask in masks])
    if pool is not None:
        return stylize_sources(sources, recipe, pool, callbacks)
    with open_pool(recipe, workers=workers, workload=workload_of(content.size, recipe)) as own:
        return stylize_sources(sources, recipe, own, callbacks)


def read_inputs(job: PictureJob, memory: int | None, notify: Callable[[str], None]) -> SourcePictures:
    """The pictures, once it is known that what becomes of them can be held and written."""
    content, *styles = (read_picture(job, path, notify) for path in (job.content, *job.style))
    start = read_picture(job, job.start, notify) if job.start else None
    masks = [read_mask(job, path, content, notify) for path in job.mask]
    sources = SourcePictures(content, styles, start, masks)
    check_sources(sources, job.recipe)
    check_output(job.output, size=final_size(content.size, job.recipe))
    for style in styles:
        check_memory(content.size, style.size, job.recipe, memory)
    return sources


def read_picture(job: PictureJob, path: Path, notify: Callable[[str], None]) -> Picture:
    """One of a job's pictures."""
    picture = read_image(path, max_pixels=job.max_pixels)
    if picture.note:
        notify(f"{path}: {picture.note}")
    return picture


def read_mask(job: PictureJob, path: Path, content: Picture, notify: Callable[[str], None]) -> NDArray[np.float32]:
    """One of a job's masks, held against the content."""
    mask = mask_of(read_picture(job, path, notify))
    check_mask(f"mask {path}", mask, content.size)
    return mask


def report_of(
    job: PictureJob, result: Stylised, pool: Pool, times: tuple[float, float, float, float, float]
) -> PictureReport:
    """What came of a job. times: when it began, started painting, had painted, had written and had closed."""
    began, started, painted, written, closed = times
    height, width = result.picture.size
    return PictureReport(
        output=str(job.output),
        width=width,
        height=height,
        mode="exact" if result.exact else "independent",
        tiles=result.tiles,
        workers=pool.crew.workers,
        threads=pool.crew.threads,
        device=pool.spec.device,
        loss=result.loss,
        step_ratio=None if result.exact or math.isnan(result.step_ratio) else float(result.step_ratio),
        startup=started - began + pool.waited,
        compute=result.compute_seconds - pool.waited,
        blend=result.blend_seconds,
        write=written - painted,
        shutdown=closed - written,
    )


def check_memory(content: Size, style: Size, recipe: Recipe, memory: int | None) -> None:
    """ValueError for a picture whose optimisation alone takes more than the memory that was given, or that this machine
    has."""
    have = memory or int(psutil.virtual_memory().total)
    longest = recipe.size or max(content)
    sizes = fit(content, longest), style_size_at(style, longest, longest, recipe)
    for name, size in zip(("size", "style_size"), sizes, strict=True):
        need = driver_bytes(size, recipe) + (optimiser_bytes(size, recipe) if size == sizes[0] else 0)
        if need > have:
            whose = "--memory allows" if memory else "this machine has"
            smaller = "a smaller one" if driver_bytes(Size(1, 1), recipe) <= have else "more memory"
            raise BadInput(
                f"{name} is {max(size)}: {size} px take {need / 1e9:,.1f} GB or more, {whose} "
                f"{have / 1e9:,.1f}; give {smaller}"
            )


def memory_share(job: PictureJob, memory: int | None, pool: Pool, content: Size) -> int | None:
    """Bytes that a worker may take, of its own GPU or of its machine; None: its share of what this machine has."""
    crew, known = pool.crew, worker_memory(pool)
    if crew.device == "cuda":
        return min(filter(None, (memory, known)))
    if job.address is not None:
        return memory or known
    if memory is None:
        return None
    return worker_share(memory, final_size(content, job.recipe), job.recipe, crew.workers, ray=pool.mortal)


def identity_of(job: PictureJob, recipe: Recipe) -> str:
    """A digest of all that the picture depends on."""
    files = (*job.pictures, *([job.weights] if job.weights else []))
    masks = ["masks", *map(file_digest, job.mask)] if job.mask else []
    return digest_of(text.encode() for text in (recipe.digest(), *map(file_digest, files), *masks))


def resumed(job: PictureJob, identity: str, notify: Callable[[str], None]) -> Snapshot | None:
    """The snapshot beside the output; None, and a word about it, when there is none."""
    if not job.snapshot.exists():
        notify(f"{job.snapshot} is not there; starting from the beginning")
        return None
    snapshot = load_snapshot(job.snapshot, identity)
    notify(f"{job.snapshot}: going on at scale {snapshot.scale + 1} after step {snapshot.step}")
    return snapshot


def check_outputs(job: PictureJob) -> None:
    """BadInput or OSError, in one line, for a file that could not be written, or that would be an input's."""
    wanted = {job.preview: job.preview_every, job.strip: job.frames_every}
    for path in (job.output, *(path for path, every in wanted.items() if every)):
        check_output(path, inputs=job.inputs)
    if job.log is not None and not job.log.absolute().parent.is_dir():
        raise BadInput(f"{job.log} cannot be written: its folder is not there; make it, or name another")


def write_journal(job: PictureJob, losses: LossLog, strip: Strip, notify: Callable[[str], None]) -> None:
    """The losses and the strip, where they are wanted and there are any."""
    if job.log is not None and losses.rows and (note := losses.write(job.log)):
        notify(note)
    if strip.frames:
        strip.write(job.strip)


def callbacks_of(
    job: PictureJob, identity: str, on_status: OnStatus | None, losses: LossLog, strip: Strip
) -> RunCallbacks:
    """Progress, previews, frames and snapshots as the job wants them."""

    def heard(status: RunStatus) -> None:
        losses.add(status)
        if on_status is not None:
            on_status(status)

    return RunCallbacks(
        on_status=heard if job.log is not None else on_status,
        frames_every=job.frames_every or 0,
        on_frame=strip.add,
        preview_every=job.preview_every or 0,
        on_preview=lambda pixels: write_preview(job.preview, pixels),
        snapshot_every=job.checkpoint_every or 0,
        on_snapshot=lambda snapshot: save_snapshot(job.snapshot, snapshot, identity),
    )


def write_preview(path: Path, pixels: np.ndarray) -> None:
    """A small JPEG of an image (H, W, 3)."""
    write_image(path, Picture(shrunk(pixels, PREVIEW)), quality=PREVIEW_QUALITY)


def untiled(recipe: Recipe) -> Recipe:
    """The same recipe as one objective; in one piece where that fits the memory."""
    return replace(recipe, tiling=replace(recipe.tiling, mode="exact", tiles="auto"))
