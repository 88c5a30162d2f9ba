"""How many pictures a second does one process train on with one core, one with all cores, and one on each core?"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import page
from photographs import write_photographs

from parallel_nst.files.bundled import bundled_style
from parallel_nst.workers.opening import usable_cores

PICTURES = 48
ONE_CORE = "1 worker x 1 thread"


def trained(folder: Path, workers: int, cores: int, options: argparse.Namespace) -> dict[str, float]:
    """The report of one training as a program of its own, on so many cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    with tempfile.TemporaryDirectory() as out:
        names = {
            "style": bundled_style(),
            "images": folder,
            "out": out,
            "arch": options.arch,
            "steps": options.steps,
            "batch": options.batch,
            "size": options.size,
            "style-size": max(256, options.size),
            "workers": workers,
            "device": "cpu",
            "checkpoint-every": options.steps,
            "sample-every": 0,
        }
        arguments = [str(part) for name, value in names.items() for part in (f"--{name}", value)]
        run = subprocess.run(
            [sys.executable, "-m", "parallel_nst", "train", "feedforward", "--json", "--quiet", *arguments],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
    report: dict[str, float] = json.loads(run.stdout)
    return report


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    parser.add_argument("--arch", default="transformer")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.quick:
        options.steps, options.size, options.rounds = 4, 64, 1
    options.batch = -(-options.batch // usable_cores()) * usable_cores()  # every worker gets as many
    return options


def main() -> None:
    options, cores = arguments(), usable_cores()
    settings = {
        ONE_CORE: (1, 1),
        f"1 worker x {cores} threads": (1, cores),
        f"{cores} workers x 1 thread": (cores, cores),
    }
    reports: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), max(PICTURES, options.batch))
        for _ in range(options.rounds):
            for name, (workers, used) in settings.items():
                reports[name].append(trained(Path(folder), workers, used, options))
    speeds = {name: [run["images_per_second"] for run in runs] for name, runs in reports.items()}
    alone = statistics.median(speeds[ONE_CORE])
    rows = []
    for name, (_, used) in settings.items():
        speed, runs = statistics.median(speeds[name]), reports[name]
        rows.append(
            [
                name,
                page.spread(speeds[name], 2),
                f"{speed / alone:.2f}",
                f"{speed / alone / used:.0%}",
                page.spread([100 * run["waiting"] for run in runs]),
                *(page.spread([run[key] for run in runs]) for key in ("startup", "training", "shutdown")),
            ]
        )
    parts = [
        f"`pnst train feedforward --arch {options.arch}` with the embedded backbone, float32, {options.steps} steps of "
        f"{options.batch} crops of {options.size} px; {options.rounds} runs of each in turn, median (least to most). "
        "The first step is not part of the speed. Several workers are Ray Train's, which start with a Ray of their own "
        "and share each batch. Efficiency: speed over that of one core, a core. Start: from the first line of the "
        "program to the first step. Waiting: share of the time in which no batch was ready.",
        page.table(
            [
                "",
                "images/s",
                "times one core",
                "efficiency",
                "waiting for data, %",
                "start, s",
                "training, s",
                "end, s",
            ],
            rows,
        ),
    ]
    print(page.write(__file__, "What several workers bring in training", parts, quick=options.quick))


if __name__ == "__main__":
    main()
