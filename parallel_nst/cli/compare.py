"""`pnst compare`: serial against parallel on one picture."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from parallel_nst.cli.options import (
    REQUIRED,
    SOURCE_FLAGS,
    TALK_FLAGS,
    Flag,
    chosen_style,
    parsed,
    recipe_command,
    whole_number,
)
from parallel_nst.cli.progress import progress_bar
from parallel_nst.files.bundled import STYLES

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.jobs.compare.records import CompareJob, Comparison
    from parallel_nst.recipe import Mode, Recipe

WIDE = 200  # columns of a table that goes to a file

COMPARE_FLAGS = {
    "content": Flag(Path, typer.Argument(help="Picture to paint.", show_default=False), default=REQUIRED),
    "style": Flag(
        Path,
        typer.Argument(help=f"Picture to paint it like, or a bundled one: {', '.join(STYLES)}.", show_default=False),
        default=REQUIRED,
    ),
    "workers": Flag(str, typer.Option(help="Numbers of workers to measure."), default="1,2,4,8"),
    "modes": Flag(str, typer.Option(help="Ways of tiling to measure."), default="exact,independent"),
    "repeats": whole_number("Timed rounds, in each of which every setting runs once.", default=3),
    "output": Flag(
        Path | None,
        typer.Option(help="Folder for CSV, JSON, plot, page.", show_default="CONTENT-STYLE-compare, here"),
    ),
    **SOURCE_FLAGS,
    **TALK_FLAGS,
}


@dataclass(frozen=True)
class CompareFlags:
    """Options of `compare` that are not part of the recipe."""

    content: Path
    style: Path
    workers: str
    modes: str
    repeats: int
    output: Path | None
    weights: Path | None
    recipe: Path | None
    max_pixels: int | None
    quiet: bool
    json: bool


@recipe_command(COMPARE_FLAGS, without=("mode",))
def compare_command(**options: Any) -> None:
    """Measure serial against parallel on one picture: time, loss, seams, difference, traffic, memory.

    Each setting runs once to warm up and then in turn with the others, round by round.
    """
    from parallel_nst.jobs.compare.files import output_folder, write_files
    from parallel_nst.jobs.compare.job import compare

    flags, recipe = parsed(options, COMPARE_FLAGS, CompareFlags)
    job = job_of(flags, recipe)
    folder = flags.output or Path(f"{job.content.stem}-{job.style.stem}-compare")
    stdout = sys.stdout
    with output_folder(folder, (job.content, job.style)):
        # Ray reports the death of a worker on standard output, where only the table belongs.
        with contextlib.redirect_stdout(sys.stderr), progress_bar(quiet=flags.quiet) as (notify, show):
            comparison = compare(job, notify, show)
            files, notes = write_files(comparison, folder)
            for note in notes:
                notify(note)
        report(comparison, files, flags, stdout)


def job_of(flags: CompareFlags, recipe: Recipe) -> CompareJob:
    """The job that the flags mean; a wrong value is a usage error."""
    from parallel_nst.jobs.compare.records import CompareJob

    try:
        return CompareJob(
            content=flags.content,
            style=chosen_style(flags.style),
            recipe=recipe,
            workers=parse_workers(flags.workers),
            modes=cast("tuple[Mode, ...]", tuple(part.strip() for part in flags.modes.split(","))),  # checked there
            repeats=flags.repeats,
            weights=flags.weights,
            max_pixels=flags.max_pixels,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_workers(text: str) -> tuple[int, ...]:
    """'1,2,4' -> (1, 2, 4); ValueError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"workers is {text!r}; give whole numbers of at least 1 with commas between, such as 1,2,4")
    return tuple(int(part) for part in parts)


def report(comparison: Comparison, files: Sequence[Path], flags: CompareFlags, stdout: Any) -> None:
    """The table and where the files are, or JSON, or nothing."""
    from parallel_nst.jobs.compare.tables import headline, remarks, to_json

    if flags.json:
        print(to_json(comparison), file=stdout)
    elif not flags.quiet:
        console = Console(file=stdout, width=None if stdout.isatty() else WIDE, highlight=False, markup=False)
        console.print(headline(comparison))
        console.print(table(comparison))
        for line in (*remarks(comparison), *(f"{path}" for path in files)):
            console.print(line, soft_wrap=True)


def table(comparison: Comparison) -> Table:
    """A row for each setting."""
    from parallel_nst.jobs.compare.tables import SCREEN, screen_row

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(SCREEN):
        drawn.add_column(heading, justify="right" if number else "left")
    for measurement in comparison.measurements:
        drawn.add_row(*screen_row(comparison, measurement))
    return drawn
