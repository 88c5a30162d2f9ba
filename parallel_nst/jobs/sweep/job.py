"""Many stylisations of one picture: every combination of some settings, each a file of its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parallel_nst.errors import BadInput, BadWeights
from parallel_nst.files.digests import digest_of, file_digest
from parallel_nst.files.images import Picture, read_image, write_image
from parallel_nst.files.whole_files import write_whole
from parallel_nst.jobs.plan import plan
from parallel_nst.jobs.requests.plan import PlanJob
from parallel_nst.jobs.requests.sweep import SweepJob
from parallel_nst.jobs.sheets import Labelled, sheets
from parallel_nst.jobs.sweep.axes import Axis, Cell, cells_of, parse_axis
from parallel_nst.jobs.sweep.chart import ratio_chart
from parallel_nst.jobs.sweep.page import ShownCell, page
from parallel_nst.jobs.sweep.tasks import PaintCell, PaintedCell
from parallel_nst.networks.backbones.loading import load_weights
from parallel_nst.networks.weights.states import State
from parallel_nst.painting.gatys.objective import PARTS
from parallel_nst.painting.planning.scales import final_size
from parallel_nst.workers.crew import CrewSpec
from parallel_nst.workers.opening import Workload, open_workers
from parallel_nst.workers.pool import Failed, Pool

RESULTS, PAGE, SHEET, CHART = "results.csv", "sweep.html", "contact.png", "ratio.png"
FIGURES = {f"loss_{name}": name for name in PARTS}  # columns, apart from the axes' names

Notify = Callable[[str], None]
Show = Callable[[float, str], None]  # share of the cells that are over, and what is said of them
Row = dict[str, Any]


@dataclass(frozen=True)
class SweepReport:
    """What came of it. files: written beside the cells'."""

    cells: int
    painted: int
    skipped: int
    failed: int
    seconds: float
    files: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Sweep:
    """A job with its cells and the files that they become."""

    job: SweepJob
    axes: Sequence[Axis]
    cells: Sequence[Cell]
    content: Picture
    styles: Mapping[Path, Picture]
    files: Mapping[int, Path]

    @property
    def columns(self) -> list[str]:
        return ["cell", *(axis.name for axis in self.axes), "file", "seconds", "loss", *FIGURES, "error"]


def sweep(job: SweepJob, notify: Notify, show: Show | None = None) -> SweepReport:
    """Paint the cells that are not there yet, each by one worker, and write the results after each. BadInput or
    OSError, in one line, for what can be put right before; a cell that fails is a row with its reason."""
    asked = prepared(job, notify)
    rows = earlier_rows(asked)
    todo = [cell for cell in asked.cells if cell.number not in rows]
    skipped = len(rows)
    notify(outlook(asked, todo))
    if todo:
        paint_cells(asked, todo, rows, notify, show)
    files = write_overview(asked, rows, notify)
    done = [rows[cell.number] for cell in todo]
    failed = sum(bool(row["error"]) for row in done)
    seconds = sum(float(row["seconds"]) for row in done)
    every = [rows[number] for number in sorted(rows)]
    return SweepReport(len(asked.cells), len(done) - failed, skipped, failed, seconds, tuple(map(str, files)), every)


def prepared(job: SweepJob, notify: Notify) -> Sweep:
    """All that is read before anything is painted."""
    axes = [parse_axis(text) for text in job.axis]
    cells = cells_of(axes, job.recipe, job.style)
    content = read_image(job.content, max_pixels=job.max_pixels)
    styles = {path: read_image(path, max_pixels=job.max_pixels) for path in {cell.style for cell in cells}}
    for picture in (content, *styles.values()):
        if picture.note:
            notify(picture.note)
    job.output.mkdir(parents=True, exist_ok=True)
    digests = {path: file_digest(path) for path in {job.content, *styles}}
    if job.weights is not None:
        digests[job.weights] = file_digest(job.weights)
    files = {cell.number: job.output / file_of(cell, digests, job) for cell in cells}
    return Sweep(job, axes, cells, content, styles, files)


def file_of(cell: Cell, digests: Mapping[Path, str], job: SweepJob) -> str:
    """A name that says which cell it is and, by a digest of all that its picture depends on, that it is the same."""
    recipe = replace(cell.recipe, device="auto").digest()
    parts = [recipe, digests[job.content], digests[cell.style], digests[job.weights] if job.weights else ""]
    return f"{cell.slug}-{digest_of(part.encode() for part in parts)[:8]}.png"


def earlier_rows(asked: Sweep) -> dict[int, Row]:
    """Of the cells whose files are there, from the results that were written with them."""
    path = asked.job.output / RESULTS
    known: dict[str, Row] = {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            known = {row["file"]: row for row in csv.DictReader(file) if row.get("file") and not row.get("error")}
    rows = {}
    for cell in asked.cells:
        name = asked.files[cell.number]
        if name.is_file() and name.name in known:
            kept = {key: known[name.name].get(key, "") for key in ("file", "seconds", "loss", *FIGURES, "error")}
            rows[cell.number] = {"cell": cell.number, **texts_of(asked, cell), **kept}
    return rows


def texts_of(asked: Sweep, cell: Cell) -> dict[str, str]:
    return {axis.name: text for axis, text in zip(asked.axes, cell.texts, strict=True)}


def outlook(asked: Sweep, todo: Sequence[Cell]) -> str:
    """How many cells there are, and about how long those that are left take on this machine."""
    beginning = f"{len(asked.cells)} cells, {len(asked.cells) - len(todo)} already there"
    if not todo:
        return beginning
    try:
        seconds = sum(seconds_of_cells(asked, todo))
    except BadWeights:  # no network, no time; the cells say why
        return beginning
    return f"{beginning}; about {seconds:,.0f} s for the others, if all cores of this machine are free"


def seconds_of_cells(asked: Sweep, cells: Sequence[Cell]) -> Iterator[float]:
    """Of each, on all cores; speed is measured once for a network."""
    speeds: dict[tuple[str, str], float] = {}
    times: dict[str, float] = {}
    for cell in cells:
        key = cell.recipe.backbone, cell.recipe.pooling
        if cell.recipe.digest() not in times:
            size = final_size(asked.content.size, cell.recipe)
            speed = speeds[key] / 1e9 if key in speeds else None
            made = plan(PlanJob(size=size, workers=1, speed=speed, recipe=cell.recipe))
            speeds[key], times[cell.recipe.digest()] = made.speed, made.forecast.seconds
        yield times[cell.recipe.digest()]


def paint_cells(asked: Sweep, todo: Sequence[Cell], rows: dict[int, Row], notify: Notify, show: Show | None) -> None:
    """Those that are left, on a pool; fills `rows`."""
    job = asked.job
    states, lacking = states_for(todo, job)
    for cell in todo:
        if cell.recipe.backbone in lacking:
            rows[cell.number] = row_of(asked, cell, PaintedCell(error=lacking[cell.recipe.backbone]))
    ready = [cell for cell in todo if cell.number not in rows]
    write_results(asked, rows)
    if not ready:
        return
    spec = CrewSpec(job.workers, job.recipe.device, job.address, job.in_process, job.workers_per_gpu)
    with open_workers(spec, Workload(len(ready)), states, job.recipe.dtype, notify) as pool:
        for count, (cell, painted) in enumerate(painted_cells(asked, ready, pool), 1):
            keep(asked, cell, painted, rows)
            for note in painted.notes:
                notify(f"cell {cell.number}: {note}")
            if show is not None:
                show(count / len(ready), f"cell {count}/{len(ready)}")


def states_for(cells: Sequence[Cell], job: SweepJob) -> tuple[dict[str, State], dict[str, str]]:
    """Weights of all backbones, and why there are none, by name."""
    states: dict[str, State] = {}
    lacking: dict[str, str] = {}
    for name in dict.fromkeys(cell.recipe.backbone for cell in cells):
        own = job.weights if name == job.recipe.backbone else None
        try:
            states[name] = load_weights(name, own)
        except BadInput as error:
            lacking[name] = str(error)
    return states, lacking


def painted_cells(asked: Sweep, cells: Sequence[Cell], pool: Pool) -> Iterator[tuple[Cell, PaintedCell]]:
    """What came of each, as they finish."""
    content = pool.share(asked.content)
    tasks = [PaintCell(content, asked.styles[cell.style], cell.recipe) for cell in cells]
    for index, result in pool.map(tasks):
        yield cells[index], PaintedCell(error=result.reason) if isinstance(result, Failed) else result


def keep(asked: Sweep, cell: Cell, painted: PaintedCell, rows: dict[int, Row]) -> None:
    """Write a cell's picture with its settings inside, and the results so far."""
    if painted.picture is not None:
        write_image(asked.files[cell.number], painted.picture, settings=cell.recipe.to_toml())
    rows[cell.number] = row_of(asked, cell, painted)
    write_results(asked, rows)


def row_of(asked: Sweep, cell: Cell, painted: PaintedCell) -> Row:
    """A cell's line of the results."""
    there = painted.picture is not None
    figures = {column: painted.parts.get(name, "") for column, name in FIGURES.items()}
    return {
        "cell": cell.number,
        **texts_of(asked, cell),
        "file": asked.files[cell.number].name if there else "",
        "seconds": round(painted.seconds, 3),
        "loss": painted.loss if there else "",
        **figures,
        "error": painted.error,
    }


def write_results(asked: Sweep, rows: Mapping[int, Row]) -> None:
    """The table so far, in the order of the cells."""
    file = io.StringIO()
    table = csv.DictWriter(file, asked.columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows[number] for number in sorted(rows))
    write_whole({asked.job.output / RESULTS: file.getvalue().encode()})


def write_overview(asked: Sweep, rows: Mapping[int, Row], notify: Notify) -> list[Path]:
    """Results, chart, contact sheets and page."""
    job = asked.job
    shown = [shown_cell(asked, cell, rows[cell.number]) for cell in asked.cells]
    columns = len(asked.axes[-1].values)
    made = sheets([Labelled(one.text, one.pixels) for one in shown], columns, job.thumbnail)
    paths = [job.output / (SHEET if len(made) == 1 else f"contact-{number}.png") for number in range(1, len(made) + 1)]
    for path, pixels in zip(paths, made, strict=True):
        write_image(path, Picture(pixels))
    write_whole({job.output / PAGE: page(job, asked.axes, shown).encode()})
    return [job.output / RESULTS, *write_chart(asked, rows, notify), *paths, job.output / PAGE]


def write_chart(asked: Sweep, rows: Mapping[int, Row], notify: Notify) -> list[Path]:
    """The chart, where there is anything to draw and something to draw it with."""
    path = asked.job.output / CHART
    try:
        drawn = ratio_chart(asked.axes, [rows[number] for number in sorted(rows)])
    except ModuleNotFoundError:
        notify(f"{path}: not drawn, for matplotlib is not installed; pip install 'parallel-nst[compare]'")
        return []
    if drawn is None:
        return []
    write_whole({path: drawn})
    return [path]


def shown_cell(asked: Sweep, cell: Cell, row: Row) -> ShownCell:
    """A cell as sheet and page have it."""
    values = ", ".join(f"{name} {text}" for name, text in texts_of(asked, cell).items())
    if row["error"]:
        return ShownCell(cell.texts, f"{values}: {row['error']}", "", None)
    pixels = read_image(asked.files[cell.number]).pixels
    return ShownCell(cell.texts, f"{values}: loss {float(row['loss']):.4g}", row["file"], pixels)
