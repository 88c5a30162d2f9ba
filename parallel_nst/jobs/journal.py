"""What is kept of a run's way: its losses as a table and a plot, and pictures of it in a strip."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_nst.files.images import Picture, write_image
from parallel_nst.files.whole_files import write_whole
from parallel_nst.jobs.sheets import Labelled, sheets
from parallel_nst.painting.gatys.objective import PARTS, parts_of
from parallel_nst.painting.scale_run import RunStatus

STRIP_SIDE, STRIP_COLUMNS = 256, 8
COLOURS = ("#4477aa", "#ee6677", "#ccbb44", "#228833", "#aa3377")  # apart for colour-blind eyes too (Paul Tol's set)

Row = Mapping[str, Any]


@dataclass
class LossLog:
    """The losses of every step, of the whole picture or, of independent tiles, of each. A loss is that before its
    step; its parts are weighted, so that they add up to it."""

    rows: list[Row] = field(default_factory=list)

    def add(self, status: RunStatus) -> None:
        tile = "" if status.tile is None else status.tile
        told = {"scale": status.scale, "tile": tile, "step": status.step, **parts_of(status.loss), "total": status.loss}
        self.rows.append(told)

    def write(self, path: Path) -> str | None:
        """As CSV, and a plot beside it; a line to tell where that could not be."""
        file = io.StringIO()
        table = csv.DictWriter(file, ["scale", "tile", "step", *PARTS, "total"], lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        files = {path: file.getvalue().encode()}
        try:
            files[path.with_suffix(".png")] = loss_plot(self.rows)
        except ModuleNotFoundError:
            write_whole(files)
            return f"{path}: no plot, for matplotlib is not installed; pip install 'parallel-nst[compare]'"
        write_whole(files)
        return None


def loss_plot(rows: list[Row]) -> bytes:
    """The parts of the loss and their sum by step, as a PNG file; steps of all scales one after the other, those of
    tiles as their mean. ModuleNotFoundError without matplotlib."""
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    steps: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        steps.setdefault((row["scale"], row["step"]), []).append(row)
    order = sorted(steps)
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, colour in zip(("total", *PARTS), ("black", *COLOURS), strict=False):
        values = [float(np.mean([row[name] for row in steps[key]])) for key in order]
        if any(value > 0 for value in values):
            axes.plot(range(1, len(order) + 1), values, label=name, color=colour, linewidth=1.2)
    for number, (before, after) in enumerate(pairwise(order), 1):
        if before[0] != after[0]:
            axes.axvline(number + 0.5, color="#bbbbbb", linewidth=0.8)
    if order:
        axes.set_yscale("log")
        axes.legend(fontsize="small")
    axes.set_xlabel("steps; grey lines: the next scale")
    axes.set_ylabel("loss, with its weight")
    made = io.BytesIO()
    figure.savefig(made, format="png")
    return made.getvalue()


@dataclass
class Strip:
    """Pictures of the way."""

    frames: list[Labelled] = field(default_factory=list)

    def add(self, pixels: NDArray[np.float32], step: int) -> None:
        self.frames.append(Labelled(f"step {step}", pixels))

    def write(self, path: Path) -> None:
        """Side by side, in rows; on several pictures, numbered, where one would be too large."""
        made = sheets(self.frames, STRIP_COLUMNS, STRIP_SIDE)
        for number, pixels in enumerate(made, 1):
            place = path if len(made) == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
            write_image(place, Picture(pixels))
