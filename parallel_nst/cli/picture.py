"""`pnst run` and `pnst tile-run`: one picture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from parallel_nst.cli import BEGAN
from parallel_nst.cli.options import RecipeFiles, Talk, made_from, write_recipe
from parallel_nst.cli.progress import progress, results_on
from parallel_nst.cli.texts import crew_text, parts_text
from parallel_nst.jobs.json_text import json_text, plain
from parallel_nst.jobs.requests.picture import PictureJob

if TYPE_CHECKING:  # PyTorch takes seconds to load: not for a help text, nor before Ctrl-C is heard
    from parallel_nst.jobs.picture import PictureReport


@made_from(without=("tiling", "workers", "address", "in_process", "workers_per_gpu", "memory"))
def run_command(job: PictureJob, files: RecipeFiles, talk: Talk) -> None:
    """Stylise a picture in one piece, in this process."""
    from parallel_nst.jobs.picture import untiled

    stylize_and_report(replace(job, workers=1, recipe=untiled(job.recipe)), files, talk)


@made_from()
def tile_run_command(job: PictureJob, files: RecipeFiles, talk: Talk) -> None:
    """Stylise a picture in overlapping tiles, several at a time."""
    stylize_and_report(job, files, talk)


def stylize_and_report(job: PictureJob, files: RecipeFiles, talk: Talk) -> None:
    """One picture, with progress on stderr and the summary on stdout."""
    from parallel_nst.jobs.picture import stylize_file

    if files.save_recipe:
        write_recipe(files.save_recipe, job.recipe)
    tiled = job.recipe.tiling.mode == "independent"
    with results_on() as say, progress(quiet=talk.quiet, tiled=tiled) as (notify, on_status):
        report = stylize_file(job, notify, on_status, BEGAN)
    if talk.json:
        say(json_text({**plain(report), "seconds": report.seconds, "recipe": job.recipe}))
    elif not talk.quiet:
        say(summary(report))


def summary(report: PictureReport) -> str:
    """One line."""
    tiles = "1 tile" if report.tiles == 1 else f"{report.tiles} {report.mode} tiles"
    seam = "" if report.step_ratio is None else f", border step ratio {report.step_ratio:.2f}"
    return (
        f"{report.output}: {report.width}x{report.height} px, {tiles}, "
        f"{crew_text(report.workers, report.threads, report.device)}, {report.seconds:.1f} s "
        f"({parts_text(report, 'startup compute blend write shutdown')}), loss {report.loss:.4f}{seam}"
    )
