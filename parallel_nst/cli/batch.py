"""`pnst batch`: a folder of pictures through a generator, or each painted by optimisation."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import typer

from parallel_nst.cli.options import RecipeFiles, Talk, Values, made_from, options_of
from parallel_nst.cli.progress import progress_bar, results_on
from parallel_nst.cli.texts import counted
from parallel_nst.errors import BadInput, printable
from parallel_nst.jobs.batch.manifest import MANIFEST
from parallel_nst.jobs.json_text import json_text
from parallel_nst.jobs.requests.batch import FolderJob, GeneratorOptions
from parallel_nst.recipe import Recipe

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.jobs.batch.job import FolderReport, FolderStatus

MOST_FAILURES = 20  # lines about them
BOTH = {"size", "style_size", "device", "dtype"}  # knobs of a recipe that generators heed too


@made_from(without=("tiling", "save_recipe", "style_weights"))
def batch_command(job: FolderJob, files: RecipeFiles, talk: Talk, given: Values) -> None:
    """Stylise many pictures: with a generator in one pass each, or by optimisation with --style alone.

    Run it again after a stop or a change: pictures that are done are skipped.
    """
    from parallel_nst.jobs.batch.job import paint_folder

    try:
        job = settled(job, given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with results_on() as say, progress_bar(quiet=talk.quiet) as (notify, show):
        report = paint_folder(
            job, notify, show and (lambda status: show(share(status), describe(status))), stdin=sys.stdin
        )
    for line in failures(report, job):
        print(f"pnst: {line}", file=sys.stderr)
    if talk.json:
        say(json_text(as_dict(report)))
    elif not talk.quiet:
        say(summary(report, job))
    if report.failed:
        raise typer.Exit(1)


def settled(job: FolderJob, given: Values) -> FolderJob:
    """The job with what generators take from the recipe's options; BadInput for an option that has no effect on what
    it paints with."""
    if job.optimises:
        refuse(given, [option.name for option in options_of(GeneratorOptions)], "a model; give --model too")
        return job
    if job.style is None:
        refuse(given, ["strength", "style_size"], "a style picture; give --style too")
    knobs = [option.name for option in options_of(Recipe, ("tiling",)) if option.name not in BOTH]
    what = "painting by optimisation; give --style without --model"
    refuse(given, [*knobs, "weights", "recipe", "preset"], what)
    sizes = {name: given[name] for name in ("size", "style_size") if given.get(name)}
    return replace(job, options=replace(job.options, dtype=job.recipe.dtype, **sizes))


def refuse(given: Values, names: list[str], what: str) -> None:
    """BadInput for the first of these options that is given. what: they are for."""
    for name in names:
        if name in given:
            raise BadInput(f"--{name.replace('_', '-')} is for {what}, or leave it out")


def share(status: FolderStatus) -> float:
    """Of the pictures, those that are over."""
    return (status.done + status.failed) / status.total


def describe(status: FolderStatus) -> str:
    """Done, failed, speed and time left."""
    failed = f"  {status.failed} failed" if status.failed else ""
    return f"{status.done + status.failed}/{status.total} pictures{failed}  {status.per_second:.2f}/s"


def failures(report: FolderReport, job: FolderJob) -> list[str]:
    """A line for each picture that failed, or for the first of very many."""
    lines = [printable(f"{entry.name}: {entry.error}") for entry in report.failures]
    if len(lines) <= MOST_FAILURES:
        return lines
    return [*lines[:MOST_FAILURES], f"and {len(lines) - MOST_FAILURES} more, all in {job.out / MANIFEST}"]


def summary(report: FolderReport, job: FolderJob) -> str:
    """One line."""
    ran, out = report.ran, printable(str(job.out))
    skipped = f", {report.skipped} already there" if report.skipped else ""
    failed = f", {report.failed} failed" if report.failed else ""
    pictures = f"{counted(ran.painted, 'picture')} painted with {report.model}"
    if not ran.workers:
        return f"{out}: {pictures}{skipped}{failed}, {report.seconds:.1f} s"
    workers = f"{counted(ran.workers, 'worker')} x {counted(ran.threads, 'thread')}"
    speed = f" ({ran.painted / ran.seconds:.2f}/s while painting)" if ran.painted else ""
    return f"{out}: {pictures}{skipped}{failed}, {workers}, {ran.dtype}, {report.seconds:.1f} s{speed}"


def as_dict(report: FolderReport) -> dict[str, Any]:
    """For JSON: counts, times, and every picture in order."""
    ran = asdict(report.ran) | {"painting_seconds": report.ran.seconds}
    return {
        **{name: value for name, value in ran.items() if name != "seconds"},
        "model": report.model,
        "skipped": report.skipped,
        "failed": report.failed,
        "seconds": report.seconds,
        "pictures": [asdict(entry) for entry in report.entries],
    }
