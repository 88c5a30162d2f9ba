"""Is a picture in tiles on two workers done sooner than in one piece on all cores, and what does it cost?

The commands run in turn, as a user runs them, on the same picture with the same scales and steps. Times are what the
command itself reports; wall time and memory are taken from outside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import page
import psutil

TILED = ["tile-run", "--tiles", "4", "--workers", "2"]
COMMANDS = {
    "one piece, all cores": ["run"],
    "two exact tiles, two workers": ["tile-run", "--tiles", "2", "--workers", "2"],
    "four exact tiles, two workers": TILED,
    "four exact tiles, two threads": [*TILED, "--in-process"],
    "four independent tiles, two workers": [*TILED, "--mode", "independent"],
}
PHASES = ("startup", "compute", "blend", "write", "shutdown")


def memory(process: psutil.Process) -> dict[str, float]:
    """MiB of the driver, of the workers and of Ray's own processes; pages that several share are counted in parts
    (PSS)."""
    used: dict[str, float] = defaultdict(float)
    for member in [process, *process.children(recursive=True)]:
        try:
            name = " ".join(member.cmdline()[:1])
            kind = "driver" if member == process else "workers" if "RayWorker" in name else "Ray itself"
            used[kind] += member.memory_full_info().pss / 2**20
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return used


def measure(command: list[str], options: list[str], *, watch: bool = False) -> dict[str, Any]:
    """One run: the command's own report, wall seconds and, if watched, the peaks of memory. Watching reads the page
    tables of a dozen processes, so a watched run is not a timed one."""
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-m", "parallel_nst", *command, *options, "--json", "--output", f"{folder}/out.png"]
        began = time.perf_counter()
        run = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        peaks: dict[str, float] = defaultdict(float)
        total = 0.0
        while watch and run.poll() is None:
            used = memory(psutil.Process(run.pid))
            total = max(total, sum(used.values()))
            for kind, value in used.items():
                peaks[kind] = max(peaks[kind], value)
            time.sleep(0.5)
        text, _ = run.communicate()
        wall = time.perf_counter() - began
        assert run.returncode == 0
        return {**json.loads(text), "wall": wall, "peaks": dict(peaks), "peak": total}


def speedups(whole: list[dict[str, Any]], tiled: list[dict[str, Any]], key: str) -> list[float]:
    """Run by run."""
    return [a[key] / b[key] for a, b in zip(whole, tiled, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("options", nargs="*", help="passed on to pnst, after --")
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in COMMANDS}
    for _ in range(arguments.repeats):
        for name, command in COMMANDS.items():
            runs[name].append(measure(command, arguments.options))
            print(name, f"{runs[name][-1]['wall']:.1f} s")
    watched = {name: measure(command, arguments.options, watch=True) for name, command in COMMANDS.items()}
    whole, *tiled = runs.values()
    first = whole[0]
    given = " and " + " ".join(Path(option).name for option in arguments.options) if arguments.options else ""
    parts = [
        "Tiles on two workers of one thread each against one piece on all cores: the same picture, scales and "
        f"steps; {first['width']}x{first['height']} px, pnst's defaults{given}, "
        f"{arguments.repeats} runs of each in turn. Median (least to greatest).",
        *(
            f"Speed-up of {name}: of the whole command {page.spread(speedups(whole, results, 'wall'), 2)}, of the "
            f"computation alone {page.spread(speedups(whole, results, 'compute'), 2)}."
            for name, results in zip(list(COMMANDS)[1:], tiled, strict=True)
        ),
        page.table(
            ["", "wall s", *(f"{phase} s" for phase in PHASES), "all but compute s", "loss", "border step ratio"],
            [
                [
                    name,
                    page.spread([r["wall"] for r in results]),
                    *(page.spread([r[phase] for r in results]) for phase in PHASES),
                    page.spread([r["seconds"] - r["compute"] for r in results]),
                    page.spread([r["loss"] for r in results], 4),
                    "-" if results[0]["step_ratio"] is None else page.spread([r["step_ratio"] for r in results], 3),
                ]
                for name, results in runs.items()
            ],
        ),
        "Peak memory, MiB (proportional set size, sampled twice a second in a run of its own; the parts peak at "
        "different moments).",
        page.table(
            ["", "all processes", "driver", "workers", "Ray itself"],
            [
                [name, f"{run['peak']:.0f}"]
                + [f"{run['peaks'].get(kind, 0.0):.0f}" for kind in ("driver", "workers", "Ray itself")]
                for name, run in watched.items()
            ],
        ),
    ]
    print(page.write(__file__, "Tiles against one piece", parts))


if __name__ == "__main__":
    main()
