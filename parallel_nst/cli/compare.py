"""`pnst compare`: serial against parallel on one picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from parallel_nst.cli.options import RecipeFiles, Talk, made_from
from parallel_nst.cli.progress import progress_bar, results_on
from parallel_nst.jobs.requests.compare import CompareJob

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.jobs.compare.records import Comparison

WIDE = 200  # columns of a table that goes to a file


@made_from(without=("mode", "save_recipe", "style_weights"), also=lambda job: {"mode": getattr(job, "modes", ())})
def compare_command(job: CompareJob, files: RecipeFiles, talk: Talk) -> None:
    """Measure serial against parallel on one picture: time, loss, seams, difference, traffic, memory.

    Each setting runs once to warm up and then in turn with the others, round by round; the files are written after each
    round.
    """
    from parallel_nst.jobs.compare.files import output_folder, write_files
    from parallel_nst.jobs.compare.job import compare

    written: list[Path] = []

    def write(comparison: Comparison) -> None:
        paths, notes = write_files(comparison, job.output)
        if not written:
            for note in notes:
                notify(note)
        written[:] = paths

    stdout = sys.stdout
    with output_folder(job.output, (job.content, job.style)):
        with results_on(), progress_bar(quiet=talk.quiet) as (notify, show):
            comparison = compare(job, notify, show, write)
        report(comparison, written, talk, stdout)


def report(comparison: Comparison, files: Sequence[Path], talk: Talk, stdout: Any) -> None:
    """The table and where the files are, or JSON, or nothing."""
    from parallel_nst.jobs.compare.tables import headline, remarks, to_json

    if talk.json:
        print(to_json(comparison), file=stdout)
    elif not talk.quiet:
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
