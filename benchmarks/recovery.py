"""How long does a run take longer when one of its workers is killed?

The same work is done undisturbed and with a SIGKILL for one of two workers when half of it is done, in turn, on a Ray
that is up. Each result is compared with that of the undisturbed run.
"""

from __future__ import annotations

import io
import os
import signal
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import page
import psutil
import scene as scenes

from parallel_nst.files.digests import file_digest
from parallel_nst.files.images import Picture, resize, write_image
from parallel_nst.files.size import Size
from parallel_nst.jobs.batch.inputs import find_inputs
from parallel_nst.jobs.batch.job import method_of, outcomes
from parallel_nst.jobs.batch.outputs import plan_outputs
from parallel_nst.jobs.batch.tasks import Writing
from parallel_nst.jobs.requests.batch import FolderJob
from parallel_nst.painting.scale_run import RunCallbacks, RunStatus
from parallel_nst.painting.stylize import stylize
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import Pool
from parallel_nst.workers.ray.cluster import RayCluster
from parallel_nst.workers.ray.pool import RayPool
from parallel_nst.workers.worker import WorkerSpec

MEMORY = 2 << 30  # bytes of a worker that paints a folder
HALF = 0.5

OnShare = Callable[[float], None]  # takes the share of the work that is done


class Killer:
    """Kills a worker when half of the work is done, once."""

    def __init__(self) -> None:
        self.killed = False

    def __call__(self, share: float) -> None:
        if share < HALF or self.killed:
            return
        self.killed = True
        children = psutil.Process().children(recursive=True)
        os.kill(min(child.pid for child in children if "RayWorker" in child.name()), signal.SIGKILL)


@dataclass(frozen=True)
class PaintPicture:
    """A picture in four tiles at one size."""

    content: Picture
    style: Picture
    recipe: Recipe

    def __call__(self, pool: Pool, on_share: OnShare) -> Any:
        def heard(status: RunStatus) -> None:
            on_share(status.share)

        painted = stylize(self.content, self.style, self.recipe, pool, RunCallbacks(on_status=heard))
        return painted.picture.pixels.tobytes()


@dataclass(frozen=True)
class PaintFolder:
    """A folder of pictures by the bundled generator."""

    folder: Path

    def __call__(self, pool: Pool, on_share: OnShare) -> Any:
        with tempfile.TemporaryDirectory() as out:
            job = FolderJob(str(self.folder), Path(out))
            pictures = plan_outputs(find_inputs(job.source, io.StringIO(), out=job.out), job.out, None, "")
            stylizer = method_of(job).stylizer(pool.spec, MEMORY)
            writing = Writing("", {}, job.written_quality, None)
            for done, (_, outcome) in enumerate(outcomes(pictures, pool, stylizer, writing), 1):
                assert outcome.error is None, outcome.error
                on_share(done / len(pictures))
            return [file_digest(picture.output) for picture in pictures]


Work = PaintPicture | PaintFolder


def timed(work: Work, pool: Pool, on_share: OnShare) -> tuple[float, Any]:
    """Seconds, and what came of it. Both workers are up before."""
    up = pool.muster(2)
    assert up == 2, f"only {up} of 2 workers are up"
    began = time.perf_counter()
    result = work(pool, on_share)
    return time.perf_counter() - began, result


def works(options: Any, folder: Path, side: int, steps: int, count: int) -> dict[str, Work]:
    """What is done, by name."""
    content, style = scenes.pictures(options)
    recipe = Recipe(size=side, scales=1, steps=steps, device="cpu", tiling=TilingSpec(tiles="2x2", whole=0))
    independent = replace(recipe, tiling=replace(recipe.tiling, mode="independent"))
    for number in range(count):
        pixels = resize(content.pixels, Size(side - number % 7, side))
        write_image(folder / f"{number}.jpg", Picture(pixels))
    return {
        f"exact, {side} px in 2x2 tiles, {steps} steps": PaintPicture(content, style, recipe),
        f"independent, {side} px in 2x2 tiles, {steps} steps": PaintPicture(content, style, independent),
        f"batch, {count} pictures of {side} px": PaintFolder(folder),
    }


def main() -> None:
    parser = scenes.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", type=int, default=512, help="of the pictures, px")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pictures", type=int, default=40, help="of the folder")
    options = parser.parse_args()
    side, steps, count, repeats = options.side, options.steps, options.pictures, options.repeats
    if options.quick:
        side, steps, count, repeats = 128, 24, 12, 1
    spec = WorkerSpec("cpu", "float32", 1, {"embedded": scenes.weights("embedded")})
    seconds: dict[str, dict[bool, list[float]]] = defaultdict(lambda: {False: [], True: []})
    same: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as folder, RayPool(RayCluster(None, 2), spec, Crew(2, 1)) as pool:
        for name, work in works(options, Path(folder), side, steps, count).items():
            timed(work, pool, lambda share: None)  # to warm up
            for _ in range(repeats):
                results = {}
                for kill in (False, True):
                    taken, results[kill] = timed(work, pool, Killer() if kill else lambda share: None)
                    seconds[name][kill].append(taken)
                    print(name, "killed" if kill else "undisturbed", f"{taken:.1f} s", flush=True)
                same[name] = same.get(name, True) and results[False] == results[True]
    rows = []
    for name, found in seconds.items():
        lost = [killed - alone for alone, killed in zip(found[False], found[True], strict=True)]
        rows.append(
            [
                name,
                page.spread(found[False]),
                page.spread(found[True]),
                page.spread(lost),
                page.spread(scenes.ratios(found[True], found[False]), 2),
                "the same" if same[name] else "another",
            ]
        )
    parts = [
        f"Two workers of one thread; one is killed when half of the work is done, and replaced while the other goes on "
        f"or, where they paint one picture together, waits. {repeats} runs of each kind in turn after one to warm up; "
        "median (least to greatest). A new worker has to load Python, PyTorch and its network: "
        f"{statistics.median(start_seconds(spec, repeats)):.1f} s from the call until it is up on this machine, with "
        "nobody else at work.",
        page.table(["work", "s undisturbed", "s with a death", "s lost", "times", "result"], rows),
    ]
    print(page.write(__file__, "What the death of a worker costs", parts, quick=options.quick))


def start_seconds(spec: WorkerSpec, repeats: int) -> list[float]:
    """Seconds until a new worker is up, on a Ray that is up."""
    taken = []
    with RayPool(RayCluster(None, 2), spec, Crew(2, 1)) as pool:
        pool.muster(2)
        for _ in range(repeats):
            pool._slots[0].dismiss()
            began = time.perf_counter()
            pool.muster(2)
            taken.append(time.perf_counter() - began)
    return taken


if __name__ == "__main__":
    main()
