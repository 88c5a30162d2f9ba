"""`pnst sweep`: one picture in every combination of some settings."""

from __future__ import annotations

import typer

from parallel_nst.cli.options import RecipeSource, Talk, made_from
from parallel_nst.cli.progress import progress_bar, results_on
from parallel_nst.cli.texts import counted
from parallel_nst.jobs.json_text import json_text, plain
from parallel_nst.jobs.requests.sweep import SweepJob


@made_from(without=("style_weights", "memory"))
def sweep_command(job: SweepJob, begin: RecipeSource, talk: Talk) -> None:
    """Paint a picture in every combination of some settings, each a file of its own.

    Run it again after a stop: cells that are there are not painted again, those that failed are.
    """
    from parallel_nst.jobs.sweep.job import sweep

    with results_on() as say, progress_bar(quiet=talk.quiet) as (notify, show):
        report = sweep(job, notify, show)
    if talk.json:
        say(json_text(plain(report)))
    elif not talk.quiet:
        skipped = f", {report.skipped} already there" if report.skipped else ""
        failed = f", {report.failed} failed (see error in results.csv)" if report.failed else ""
        say(f"{job.output}: {counted(report.painted, 'cell')} painted{skipped}{failed}, {report.seconds:.1f} s")
        say("\n".join(report.files))
    if report.failed:
        raise typer.Exit(1)
