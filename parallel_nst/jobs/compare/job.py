"""Serial against parallel on one picture: time, loss, seams, difference, traffic and memory.

What is fair here: every setting paints the same picture by the same recipe; the settings take turns in every round, so
that a busy minute of the machine hits all of them; and the best serial setting, not the slowest, is the one to beat.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from parallel_nst.errors import BadInput
from parallel_nst.files.images import Picture, read_image, shrunk
from parallel_nst.files.size import Size
from parallel_nst.jobs.compare.outlook import outlook
from parallel_nst.jobs.compare.records import (
    AMPLIFIED,
    FEWEST_TILES,
    SERIAL,
    Comparison,
    Measurement,
    Setting,
    Thumbnail,
    Timing,
)
from parallel_nst.jobs.compare.scene import Scene
from parallel_nst.jobs.machine import PeakMemory, release_memory, this_machine
from parallel_nst.jobs.requests.compare import CompareJob
from parallel_nst.networks.backbones.loading import build_backbone, load_weights
from parallel_nst.networks.weights.states import State
from parallel_nst.painting.planning.scales import FRAME, final_size, framed_size
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.scale_run import OnStatus, RunCallbacks
from parallel_nst.painting.stylize import Stylised, stylize, whole_loss
from parallel_nst.painting.tiles.geometry import Tile, grid_of, plan_tiles
from parallel_nst.painting.tiles.seams import step_ratio
from parallel_nst.recipe import Recipe
from parallel_nst.workers import opening as pools
from parallel_nst.workers.crew import Crew, plan_crew
from parallel_nst.workers.pool import Pool, SerialPool
from parallel_nst.workers.worker import WorkerSpec

THUMBNAIL = 400  # px, longest side

Show = Callable[[float, str], None]  # share of all runs that is done, 0 to 1, and what is going on
OnRound = Callable[[Comparison], None]  # takes what is known after a round


@dataclass(frozen=True)
class Observation:
    """One run: the picture and what it took."""

    result: Stylised
    timing: Timing
    crew: Crew
    moved: int


def compare(
    job: CompareJob, notify: Callable[[str], None], show: Show | None = None, on_round: OnRound | None = None
) -> Comparison:
    """Measure every setting of a job.

    The first round is not timed: it warms the machine up, gives the pictures, and has its memory watched, which would
    disturb a clock. notify: takes each line the user should be told; the first says how many runs there will be and
    about how long they take. on_round: takes the comparison after each timed round, so that one which is stopped has
    what was measured.

    ValueError or OSError, in one line, for anything the user can put right; pools are closed whatever happens.
    """
    scene = prepared(job, notify)
    settings = [*serial_settings(scene), *parallel_settings(job, scene)]
    notify(outlook(scene, settings, job.repeats + 1))
    turns = Turns(show, (job.repeats + 1) * len(settings))
    measured = observations(scene, settings, turns)
    timings: list[list[Timing]] = [[] for _ in settings]
    for number in range(1, job.repeats + 1):
        order = [*range(len(settings))] if number % 2 else [*reversed(range(len(settings)))]
        for index in order:
            release_memory()
            told = turns.begin(f"round {number}/{job.repeats}  {settings[index].name}")
            timings[index].append(run(scene, settings[index], told).timing)
        comparison = compared(job, scene, measured, timings)
        if on_round:
            on_round(comparison)
    return comparison


def compared(
    job: CompareJob, scene: Scene, measured: Sequence[Measurement], timings: Sequence[Sequence[Timing]]
) -> Comparison:
    """What is known after so many rounds. timings: of each setting, a round each."""
    return Comparison(
        job=job,
        machine=this_machine(),
        device=scene.device,
        dtype=scene.dtype,
        size=scene.size,
        tiles=len(scene.tiles),
        rounds=len(timings[0]),
        measurements=tuple(replace(m, timings=tuple(t)) for m, t in zip(measured, timings, strict=True)),
        content=thumbnail(scene.content.pixels),
        style=thumbnail(scene.style.pixels),
    )


def prepared(job: CompareJob, notify: Callable[[str], None]) -> Scene:
    """Read what a job names and lay its tiles; ValueError where there is nothing to compare."""
    recipe = with_tiles(job)
    weights = load_weights(recipe.backbone, job.weights)
    content, style = (read_image(path, max_pixels=job.max_pixels) for path in (job.content, job.style))
    for path, picture in ((job.content, content), (job.style, style)):
        if picture.note:
            notify(f"{path}: {picture.note}")
    size = final_size(content.size, recipe)
    tiles = laid_tiles(size, recipe, weights)
    if len(tiles) < 2:
        asked = recipe.tiling.tiles
        raise BadInput(f"tiles is {asked!r}, which is one tile on {size} px; give more to compare")
    device = pools.local_device(recipe.device)
    return Scene(
        content=content,
        style=style,
        recipe=recipe,
        weights=weights,
        device=device,
        dtype=pools.resolved_dtype(recipe.dtype, device),
        slots=torch.cuda.device_count() if device == "cuda" else pools.usable_cores(),
        size=size,
        tiles=tiles,
    )


def with_tiles(job: CompareJob) -> Recipe:
    """The job's recipe with a number of tiles: cut by workers and memory, settings would not do the same work."""
    tiling = job.recipe.tiling
    if tiling.tiles == "auto":
        tiling = replace(tiling, tiles=str(max(FEWEST_TILES, *job.workers)))
    return replace(job.recipe, tiling=tiling)


def laid_tiles(size: Size, recipe: Recipe, weights: State) -> list[Tile]:
    """The tiles of the finest scale in the picture's own coordinates, for their borders: without halo or overlap, which
    depend on the mode."""
    align = resolve(recipe, build_backbone(recipe.backbone, weights, recipe.pooling)).deepest.stride
    height, width = framed_size(size)
    tiles = plan_tiles(height, width, grid_of(recipe.tiling, height, width), align=align)
    return [tile.moved(-FRAME) for tile in tiles]


def serial_settings(scene: Scene) -> Iterator[Setting]:
    """The picture in one piece, in this process: with one thread, which all others are held against, and with all."""
    recipe = replace(scene.recipe, tiling=replace(scene.recipe.tiling, tiles="1"))
    most = 1 if scene.device == "cuda" else scene.slots
    yield from (Setting(SERIAL, 1, threads, recipe) for threads in sorted({1, most}))


def parallel_settings(job: CompareJob, scene: Scene) -> Iterator[Setting]:
    """In tiles, for every mode and number of workers; numbers that come to the same crew are one setting."""
    crews = [plan_crew(asked, len(scene.tiles), [scene.slots], scene.device) for asked in sorted(set(job.workers))]
    for mode in dict.fromkeys(job.modes):
        recipe = replace(scene.recipe, tiling=replace(scene.recipe.tiling, mode=mode))
        for workers, threads in dict.fromkeys((crew.workers, crew.threads) for crew in crews):
            limits = [limit(crew.reason) for crew in crews if crew.workers == workers and crew.reason]
            yield Setting(mode, workers, threads, recipe, tuple(limits))


def limit(reason: str) -> str:
    """'using 2 of 8 workers: there are 2 cores' -> '2 of 8: there are 2 cores'."""
    return reason.removeprefix("using ").replace(" workers:", ":", 1)


class Turns:
    """Counts runs, and says how far all of them are."""

    def __init__(self, show: Show | None, runs: int) -> None:
        self._show = show
        self._runs = runs
        self._begun = 0

    def begin(self, text: str) -> OnStatus | None:
        """The listener to the next run's status."""
        show, done = self._show, self._begun
        self._begun += 1
        if show is None:
            return None
        return lambda status: show((done + status.share) / self._runs, f"{text}  scale {status.scale}/{status.scales}")


def observations(scene: Scene, settings: Sequence[Setting], turns: Turns) -> list[Measurement]:
    """One run of each setting with all that is measured but the time. The first gives the picture that the others are
    held against; only that one is kept whole, so that large pictures can be compared."""
    found: list[Measurement] = []
    serial: NDArray[np.float32] | None = None
    for setting in settings:
        release_memory()
        with PeakMemory() as peak:
            observation = run(scene, setting, turns.begin(f"warm-up  {setting.name}"))
        if serial is None:
            serial = observation.result.picture.pixels
        found.append(observed(scene, setting, observation, serial, peak.bytes))
    return found


def run(scene: Scene, setting: Setting, on_status: OnStatus | None = None) -> Observation:
    """Paint the picture once, with a pool of its own that is closed whatever happens."""
    began = time.perf_counter()
    with opened(scene, setting) as pool:
        up = time.perf_counter()
        result = stylize(scene.content, scene.style, setting.recipe, pool, RunCallbacks(on_status))
        done = time.perf_counter()
    timing = Timing(
        startup=up - began + pool.waited,
        compute=done - up - pool.waited - result.blend_seconds,
        blend=result.blend_seconds,
        shutdown=time.perf_counter() - done,
    )
    return Observation(result, timing, pool.crew, pool.moved)


def opened(scene: Scene, setting: Setting) -> Pool:
    """The pool of a setting; a serial one is this process with its number of threads."""
    if setting.mode != SERIAL:
        work = pools.Workload(len(scene.tiles))
        return pools.open_pool(setting.recipe, workers=setting.workers, weights=scene.weights, workload=work)
    weights = {scene.recipe.backbone: scene.weights}
    return SerialPool(WorkerSpec(scene.device, scene.dtype, setting.threads, weights))


def observed(
    scene: Scene, setting: Setting, observation: Observation, serial: NDArray[np.float32], peak_memory: int
) -> Measurement:
    """A measurement without its timings. serial: the picture (H, W, 3) to hold this one against."""
    picture = observation.result.picture
    difference = np.abs(picture.pixels - serial)
    crew = observation.crew
    limits = (*setting.limits, *([limit(crew.reason)] if crew.reason else []))
    return Measurement(
        setting=replace(setting, limits=limits),
        workers=crew.workers,
        threads=crew.threads,
        timings=(),
        loss=judged(scene, picture),
        seam_ratio=seam_ratio(picture.pixels, serial, scene.tiles),
        mean_difference=float(difference.mean()) * 255,
        max_difference=float(difference.max()) * 255,
        moved=observation.moved,
        peak_memory=peak_memory,
        picture=thumbnail(picture.pixels),
        difference=thumbnail(difference, AMPLIFIED),
    )


def judged(scene: Scene, picture: Picture) -> float:
    """The loss of a generated picture as a whole, by one judge in float32 for all settings."""
    weights = {scene.recipe.backbone: scene.weights}
    judge = SerialPool(WorkerSpec(scene.device, "float32", pools.usable_cores(), weights))
    return whole_loss(scene.content, scene.style, picture, scene.recipe, judge)


def seam_ratio(pixels: NDArray[np.float32], serial: NDArray[np.float32], tiles: Sequence[Tile]) -> float:
    """Step ratio of a picture (H, W, 3) over that of the serial one at the same borders; NaN where the latter is 0 or
    not defined."""
    ours, theirs = (step_ratio(image.transpose(2, 0, 1), tiles) for image in (pixels, serial))
    return ours / theirs if theirs else math.nan


def thumbnail(pixels: NDArray[np.float32], times: float = 1) -> Thumbnail:
    """(H, W, 3) in [0, 1] -> at most THUMBNAIL px, multiplied, in 8 bits."""
    eight_bits: Thumbnail = np.round(np.clip(shrunk(pixels, THUMBNAIL) * times, 0, 1) * 255).astype(np.uint8)
    return eight_bits
