"""How much memory does a picture in exact tiles take, how does that grow with the picture, and is it what was planned?

`pnst tile-run` paints pictures of several sizes, one scale each, and all its processes are watched from outside. L-BFGS
takes two steps more than it remembers, so that its history is full.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import page
import psutil
from tiles import memory

from parallel_nst.files.bundled import bundled_content, bundled_style
from parallel_nst.files.images import Picture, read_image, resize, write_image
from parallel_nst.files.size import Size
from parallel_nst.jobs.requests.plan import PlanJob
from parallel_nst.recipe import Recipe, TilingSpec

STEPS = {"lbfgs": Recipe().history + 2, "adam": 3}
SAMPLE_SECONDS = 0.1
PIXEL = 12  # bytes of three channels in float32
MIB = 1 << 20


@dataclass(frozen=True)
class Run:
    """total, peaks: MiB of all processes together and, each at its own worst moment, of
    the driver, the workers and Ray itself."""

    optimizer: str
    size: Size
    report: dict[str, Any]
    total: float
    peaks: dict[str, float]

    @property
    def pixels(self) -> int:
        return self.size.area


def measured(content: Picture, megapixels: float, optimizer: str, options: argparse.Namespace) -> Run:
    """One picture of so many megapixels, whose file has that size too."""
    side = math.sqrt(megapixels * 1e6 / content.size.area)
    size = Size(*(round(length * side) for length in content.size))
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "content.jpg"
        write_image(picture, Picture(resize(content.pixels, size)))
        given = {
            "content": picture,
            "style": options.style,
            "output": Path(folder) / "out.png",
            "size": "full",
            "mode": "exact",
            "workers": options.workers,
            "memory": f"{options.memory}GiB",
            "optimizer": optimizer,
            "steps": STEPS[optimizer],
            "scales": 1,
        }
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        run = subprocess.Popen(
            [sys.executable, "-m", "parallel_nst", "tile-run", *words, "--json", "--quiet"],
            stdout=subprocess.PIPE,
            text=True,
        )
        total, peaks = watched(run)
    assert run.stdout is not None
    return Run(optimizer, size, json.loads(run.stdout.read()), total, peaks)


def watched(run: subprocess.Popen[str]) -> tuple[float, dict[str, float]]:
    """The greatest sum and the greatest parts until it ends."""
    total, peaks, process = 0.0, defaultdict(float), psutil.Process(run.pid)
    while run.poll() is None:
        used = memory(process)
        total = max(total, sum(used.values()))
        for kind, value in used.items():
            peaks[kind] = max(peaks[kind], value)
        time.sleep(SAMPLE_SECONDS)
    if run.returncode:
        sys.exit(f"pnst ended with {run.returncode}")
    return total, peaks


def planned(run: Run, options: argparse.Namespace) -> tuple[float, float]:
    """MiB of the driver and of all workers, as `pnst plan` prints them."""
    from parallel_nst.jobs.plan import plan  # loads PyTorch, whose pages the runs above would share
    from parallel_nst.painting.planning.footprint import driver_bytes

    recipe = Recipe(
        size=max(run.size),
        steps=STEPS[run.optimizer],
        scales=1,
        optimizer=run.optimizer,
        tiling=TilingSpec(mode="exact"),
    )
    driver = driver_bytes(run.size, recipe)
    share = int((options.memory * 2**30 - driver) / run.report["workers"])
    job = PlanJob(run.size, run.report["workers"], f"{share / MIB:.3f}MiB", 100.0, recipe=recipe)
    needs = plan(job).forecast
    return needs.driver_bytes / MIB, needs.worker_bytes * run.report["workers"] / MIB


def growth(runs: list[Run]) -> str:
    """The line through the driver's peaks, in words."""
    slope, intercept = np.polyfit([run.pixels for run in runs], [run.peaks["driver"] * MIB for run in runs], 1)
    return f"{runs[0].optimizer}: {slope / PIXEL:.1f} x the picture + {intercept / MIB:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--content", type=Path, default=bundled_content())
    parser.add_argument("--style", type=Path, default=bundled_style())
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4.5, 9, 18])
    parser.add_argument("--memory", type=float, default=6.0, help="GiB that pnst is told to stay within")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="tiny, to see that the program works")
    options = parser.parse_args()
    if options.quick:
        options.megapixels = [0.1, 0.3]
    content = read_image(options.content)
    runs = []
    for megapixels, optimizer in itertools.product(options.megapixels, STEPS):
        run = measured(content, megapixels, optimizer, options)
        runs.append(run)
        print(run.optimizer, run.size, f"{run.total:.0f} MiB", run.peaks, flush=True)
    rows = []
    for run in runs:
        driver, workers = planned(run, options)
        rows.append(
            [
                run.optimizer,
                str(run.size),
                run.report["tiles"],
                f"{run.report['seconds']:.0f}",
                f"{run.total:.0f}",
                f"{run.peaks['driver']:.0f}",
                f"{driver:.0f}",
                f"{run.peaks['workers']:.0f}",
                f"{workers:.0f}",
                f"{run.peaks['Ray itself']:.0f}",
            ]
        )
    lines = [growth([run for run in runs if run.optimizer == optimizer]) for optimizer in STEPS]
    parts = [
        f"`pnst tile-run --mode exact --workers {options.workers} --memory {options.memory:g}GiB --scales 1` on "
        f"{options.content.stem}, whose file is first brought to each size; {STEPS['lbfgs']} steps of lbfgs, which "
        f"then remembers its {Recipe().history} pairs, {STEPS['adam']} of adam. Proportional set size, MiB, sampled "
        "about ten times a second; the parts peak at different moments, so that they add up to more than all. Planned: "
        "what `pnst plan` prints for the same memory; of Ray's own processes it knows nothing.",
        f"All processes at {runs[-1].pixels / 1e6:.1f} megapixels: "
        + ", ".join(f"{run.optimizer} {run.total / 1024:.2f} GiB" for run in runs[-len(STEPS) :])
        + ". Driver, by the line through the sizes, in float32 copies of the picture: "
        + "; ".join(lines)
        + ".",
        page.table(
            ["", "px", "tiles", "s", "all", "driver", "planned", "workers", "planned", "Ray itself"],
            rows,
        ),
    ]
    print(page.write(__file__, "Memory of exact tiles", parts, quick=options.quick))


if __name__ == "__main__":
    main()
