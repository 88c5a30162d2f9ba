"""Does a picture of 100 megapixels come through on this machine, in the memory and the time that the plan states?

`pnst tile-run` takes real steps of exact tiles at the finest scale, from the content; all its processes are watched
from outside. The plan is made right before, on the same machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import page
from memory import MIB, watched
from tiles import PHASES

from parallel_nst.files.bundled import bundled_content, bundled_style
from parallel_nst.files.images import Picture, read_image, resize, stored_size, write_image
from parallel_nst.files.size import Size
from parallel_nst.jobs.requests.plan import parse_picture_size


def pnst(*words: object) -> list[str]:
    """A command line."""
    return [sys.executable, "-m", "parallel_nst", *map(str, words), "--json"]


def planned(options: argparse.Namespace) -> dict[str, Any]:
    """What `pnst plan` says of it."""
    size: Size = options.size
    call = pnst("plan", "--size", f"{size.width}x{size.height}", *recipe(options))
    return dict(json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout))


def recipe(options: argparse.Namespace) -> list[object]:
    """What plan and run have in common."""
    return ["--workers", options.workers, "--scales", 1, "--steps", options.steps, "--optimizer", options.optimizer]


def painted(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], float, dict[str, float]]:
    """What the command reports; MiB of all processes at their worst moment, and of their kinds at theirs."""
    content, output = folder / "content.jpg", folder / f"out{options.suffix}"
    write_image(content, Picture(resize(read_image(options.content).pixels, options.size)))
    given = ["--content", content, "--style", options.style, "--output", output, "--size", "full", "--quiet"]
    given += ["--max-pixels", 1 << 30]
    run = subprocess.Popen(pnst("tile-run", *given, *recipe(options)), stdout=subprocess.PIPE, text=True)
    total, peaks = watched(run)
    assert run.stdout is not None and stored_size(output, max_pixels=1 << 30) == options.size
    return dict(json.loads(run.stdout.read())), total, peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--content", type=Path, default=bundled_content())
    parser.add_argument("--style", type=Path, default=bundled_style())
    parser.add_argument("--size", type=parse_picture_size, default=Size(8400, 12000), help="width x height")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--suffix", default=".tif", help="of the output")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that the program works")
    options = parser.parse_args()
    if options.quick:
        options.size, options.steps = Size(280, 400), 2
    plan = planned(options)
    with tempfile.TemporaryDirectory() as folder:
        report, total, peaks = painted(options, Path(folder))
    scale, seconds = plan["scales"][-1], {name: report[name] for name in PHASES}
    workers, driver = plan["worker_bytes"] * options.workers / MIB, plan["driver_bytes"] / MIB
    rows = [
        ["all processes, MiB", f"{total:.0f}", f"{driver + workers:.0f}"],
        ["driver, MiB", f"{peaks['driver']:.0f}", f"{driver:.0f}"],
        ["workers, MiB", f"{peaks['workers']:.0f}", f"{workers:.0f}"],
        ["Ray itself, MiB", f"{peaks['Ray itself']:.0f}", ""],
        ["computation, s", f"{seconds['compute']:.0f}", f"{plan['seconds']:.0f}"],
    ]
    others = ", ".join(f"{name} {seconds[name]:.0f}" for name in seconds if name != "compute")
    parts = [
        f"`pnst tile-run --workers {options.workers} --size full --scales 1 --steps {options.steps} --optimizer "
        f"{options.optimizer}` on a picture of {options.size} px ({options.size.area / 1e6:.0f} megapixels), written "
        f"as {options.suffix}: {scale['tiles']} tiles, {scale['kept']} graphs kept, {scale['overhead']:.2f} times the "
        "arithmetic of one piece. The plan leaves room for Ray, but does not count it. Other parts of the run, s: "
        f"{others}.",
        page.table(["", "measured", "planned"], rows),
    ]
    print(page.write(__file__, "A picture of 100 megapixels", parts, quick=options.quick))


if __name__ == "__main__":
    main()
