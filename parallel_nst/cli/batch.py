"""`pnst batch`: a folder of pictures through a generator, or each painted by optimisation."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from parallel_nst.cli.options import (
    LAYER_FLAGS,
    REQUIRED,
    SOURCE_FLAGS,
    TALK_FLAGS,
    TILE_RUN_FLAGS,
    Flag,
    chosen_style,
    number_option,
    parsed,
    recipe_command,
    switch,
)
from parallel_nst.cli.progress import progress_bar
from parallel_nst.errors import printable
from parallel_nst.files.bundled import STYLES
from parallel_nst.jobs.batch.manifest import MANIFEST
from parallel_nst.recipe import Recipe

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.jobs.batch.job import FolderJob, FolderReport, FolderStatus

MOST_FAILURES = 20  # lines about them
BOTH = {"size", "style_size", "device", "dtype"}  # knobs of a recipe that generators heed too

BATCH_FLAGS = {
    "source": Flag(
        str,
        typer.Argument(
            metavar="IN",
            help="Folder of pictures, a picture, a quoted glob pattern, a .txt list of them, or - for a list on stdin.",
            show_default=False,
        ),
        default=REQUIRED,
    ),
    "out": Flag(str, typer.Argument(metavar="OUT", help="Folder to write to.", show_default=False), default=REQUIRED),
    "model": Flag(
        str | None,
        typer.Option(help="Generator: a name ('pnst models list') or a file of weights.", show_default="a bundled one"),
    ),
    "style": Flag(
        Path | None,
        typer.Option(
            help="Picture to paint like: for models that take one; without --model each picture is painted by "
            f"optimisation. Bundled: {', '.join(STYLES)}."
        ),
    ),
    "strength": Flag(float | None, number_option(float, help="Of the style of --style with a model, 0 to 1."), None),
    "statistics": Flag(
        str | None,
        typer.Option(
            help="Of normalisation, for pictures in tiles: exact, or of a thumbnail, which is sooner.",
            show_default="exact",
        ),
    ),
    "edges": Flag(
        str | None,
        typer.Option(
            help="Of pictures, for generators: published, with the padding that the network was trained with, or "
            "mirror, which shows it a mirror image beyond them.",
            show_default="published",
        ),
    ),
    "format": Flag(str | None, typer.Option(help="Of all outputs, such as png.", show_default="each picture's own")),
    "suffix": Flag(str, typer.Option(help="Put behind each name, such as -wave."), default=""),
    "overwrite": switch("--overwrite", "Replace files in OUT that no batch has written."),
    **{name: TILE_RUN_FLAGS[name] for name in ("quality", "workers", "address", "in_process", "memory")},
    **SOURCE_FLAGS,
    **TALK_FLAGS,
}


@dataclass(frozen=True)
class BatchFlags:
    """Options of `batch` that are not part of the recipe."""

    source: str
    out: str
    model: str | None
    style: Path | None
    strength: float | None
    statistics: str | None
    edges: str | None
    format: str | None
    suffix: str
    overwrite: bool
    quality: int
    workers: int | None
    address: str | None
    in_process: bool
    memory: str | None
    weights: Path | None
    recipe: Path | None
    max_pixels: int | None
    quiet: bool
    json: bool


@recipe_command(BATCH_FLAGS, records=(Recipe,))
def batch_command(**options: Any) -> None:
    """Stylise many pictures: with a generator in one pass each, or by optimisation with --style alone.

    Run it again after a stop or a change: pictures that are done are skipped.
    """
    from parallel_nst.jobs.batch.job import paint_folder

    flags, recipe = parsed(options, BATCH_FLAGS, BatchFlags)
    job = job_of(flags, recipe, options)
    stdout = sys.stdout
    # Ray reports the death of a worker on standard output, where only the summary belongs.
    with contextlib.redirect_stdout(sys.stderr), progress_bar(quiet=flags.quiet) as (notify, show):
        report = paint_folder(
            job, notify, show and (lambda status: show(share(status), describe(status))), stdin=sys.stdin
        )
    for line in failures(report, job):
        print(f"pnst: {line}", file=sys.stderr)
    if flags.json:
        print(json.dumps(as_dict(report)), file=stdout)
    elif not flags.quiet:
        print(summary(report, job), file=stdout)
    if report.failed:
        raise typer.Exit(1)


def job_of(flags: BatchFlags, recipe: Recipe, options: Mapping[str, Any]) -> FolderJob:
    """The job that the flags mean; what does not go together is a usage error."""
    from parallel_nst.jobs.batch.job import FolderJob
    from parallel_nst.jobs.batch.methods import GeneratorOptions

    optimises = flags.model is None and flags.style is not None
    if not flags.out:
        raise typer.BadParameter("OUT is empty; name a folder to write to, . for this one")
    given = [name for name in ("strength", "statistics", "edges") if optimises and options[name] is not None]
    if not optimises:
        for name in ("strength", "style_size"):
            if flags.style is None and options[name] is not None:
                raise typer.BadParameter(
                    f"--{name.replace('_', '-')} is for a style picture; give --style too, or leave it out"
                )
        knobs = {spec.name for spec in fields(Recipe) if "help" in spec.metadata} - BOTH
        given = [name for name in (*sorted(knobs), *LAYER_FLAGS, "weights", "recipe") if options[name] is not None]
    if given:
        what = "a model; give --model too" if optimises else "painting by optimisation; give --style without --model"
        raise typer.BadParameter(f"--{given[0].replace('_', '-')} is for {what}, or leave it out")
    try:
        generator = GeneratorOptions(
            size=recipe.size if options["size"] is not None else 0,
            style_size=recipe.style_size or GeneratorOptions.style_size,
            strength=1.0 if flags.strength is None else flags.strength,
            statistics=cast(Any, flags.statistics or GeneratorOptions.statistics),  # checked there
            dtype="auto" if optimises else recipe.dtype,
            edges=cast(Any, flags.edges or GeneratorOptions.edges),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return FolderJob(
        source=flags.source,
        out=Path(flags.out),
        model=flags.model,
        style=None if flags.style is None else chosen_style(flags.style),
        options=generator,
        recipe=recipe,
        weights=flags.weights,
        workers=flags.workers,
        address=flags.address or None,
        in_process=flags.in_process,
        memory=flags.memory,
        format=flags.format,
        suffix=flags.suffix,
        quality=flags.quality,
        overwrite=flags.overwrite,
        max_pixels=flags.max_pixels,
    )


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
    pictures = f"{ran.painted} picture{'s' * (ran.painted != 1)} painted with {report.model}"
    if not ran.workers:
        return f"{out}: {pictures}{skipped}{failed}, {report.seconds:.1f} s"
    workers = f"{ran.workers} worker{'s' * (ran.workers != 1)} x {ran.threads} thread{'s' * (ran.threads != 1)}"
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
