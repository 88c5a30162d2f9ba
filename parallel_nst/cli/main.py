"""The command `pnst`: typer functions of a few lines over functions that can be called from Python.

Options that describe a stylisation are made from the fields of `Recipe`; their defaults and helps stand there.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()  # before the imports below, which are part of the start-up that a run reports

import contextlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from dataclasses import asdict  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any, NoReturn  # noqa: E402

import typer  # noqa: E402

from parallel_nst.cli.batch import batch_command  # noqa: E402
from parallel_nst.cli.compare import compare_command  # noqa: E402
from parallel_nst.cli.interrupt import STOPPED, end_now  # noqa: E402
from parallel_nst.cli.models import models_app  # noqa: E402
from parallel_nst.cli.options import (  # noqa: E402
    RUN_FLAGS,
    TILE_RUN_FLAGS,
    Flags,
    chosen_style,
    parsed,
    recipe_command,
    write_recipe,
)
from parallel_nst.cli.plan import plan_command  # noqa: E402
from parallel_nst.cli.progress import progress  # noqa: E402
from parallel_nst.cli.train import train_app  # noqa: E402
from parallel_nst.errors import message_of  # noqa: E402
from parallel_nst.files.bundled import bundled_content  # noqa: E402
from parallel_nst.recipe import Recipe  # noqa: E402

if TYPE_CHECKING:  # PyTorch takes seconds to load: not for a help text, nor before Ctrl-C is heard
    from parallel_nst.jobs.picture import PictureReport

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Neural style transfer in tiles, on the cores of this machine or on a Ray cluster.",
)


@app.command("run")
@recipe_command(RUN_FLAGS, records=(Recipe,))
def run_command(**options: Any) -> None:
    """Stylise a picture in one piece, in this process."""
    from parallel_nst.jobs.picture import untiled

    flags, recipe = parsed(options, RUN_FLAGS, Flags)
    stylize_and_report(flags, untiled(recipe))


@app.command("tile-run")
@recipe_command(TILE_RUN_FLAGS)
def tile_run_command(**options: Any) -> None:
    """Stylise a picture in overlapping tiles, several at a time."""
    flags, recipe = parsed(options, TILE_RUN_FLAGS, Flags)
    stylize_and_report(flags, recipe)


app.command("batch")(batch_command)
app.command("plan")(plan_command)
app.command("compare")(compare_command)
app.add_typer(models_app, name="models")
app.add_typer(train_app, name="train")


def stylize_and_report(flags: Flags, recipe: Recipe) -> None:
    """One picture, with progress on stderr and the summary on stdout."""
    from parallel_nst.jobs.picture import PictureJob, stylize_file

    content, style = flags.content or bundled_content(), chosen_style(flags.style)
    job = PictureJob(
        content=content,
        style=style,
        output=flags.output or Path(f"{content.stem}-{style.stem}.png"),
        recipe=recipe,
        weights=flags.weights,
        workers=flags.workers,
        address=flags.address or None,
        max_pixels=flags.max_pixels,
        quality=flags.quality,
        memory=flags.memory,
        in_process=flags.in_process,
        preview_every=flags.preview_every,
        checkpoint_every=flags.checkpoint_every,
        resume=flags.resume,
    )
    if flags.save_recipe:
        write_recipe(flags.save_recipe, recipe)
    stdout = sys.stdout
    # Ray reports the death of a worker on standard output, where only the summary belongs.
    with contextlib.redirect_stdout(sys.stderr), progress(quiet=flags.quiet) as (notify, on_status):
        report = stylize_file(job, notify, on_status, BEGAN)
    if flags.json:
        print(json.dumps({**asdict(report), "seconds": report.seconds, "recipe": asdict(recipe)}), file=stdout)
    elif not flags.quiet:
        print(summary(report), file=stdout)


def summary(report: PictureReport) -> str:
    """One line."""
    tiles = "1 tile" if report.tiles == 1 else f"{report.tiles} {report.mode} tiles"
    workers = (
        f"{report.workers} worker{'s' * (report.workers != 1)} x {report.threads} thread{'s' * (report.threads != 1)}"
    )
    seam = "" if report.step_ratio is None else f", border step ratio {report.step_ratio:.2f}"
    parts = ", ".join(
        f"{name.replace('startup', 'start-up')} {getattr(report, name):.1f}"
        for name in ("startup", "compute", "blend", "write", "shutdown")
    )
    return (
        f"{report.output}: {report.width}x{report.height} px, {tiles}, {workers}, {report.seconds:.1f} s ({parts}), "
        f"loss {report.loss:.4f}{seam}"
    )


def main() -> None:
    """Run the command; a user's mistake is one line on stderr and exit code 2 (usage) or 1, Ctrl-C is 130."""
    try:
        code = app(standalone_mode=False)
        if code == STOPPED:  # Typer keeps Ctrl-C to itself
            fail("stopped", STOPPED)
    except typer.TyperException as error:
        message = error.format_message()
        code = fail(message.removeprefix("Invalid value: "), error.exit_code) if message else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = fail("stopped", STOPPED)
    except MemoryError:
        code = fail("not enough memory; give a smaller --size or more tiles", 1)
    except (ValueError, OSError, RuntimeError) as error:
        code = fail(message_of(error), 1)
    leave(code or 0)


def leave(code: int) -> NoReturn:
    """Exit. With Ray, at once after Ctrl-C (its exit handlers take a second), and where it is still starting, for which
    a run that failed need not wait."""
    rays = sys.modules.get("parallel_nst.workers.ray.cluster")  # not imported for this: it loads Ray
    if rays is not None and (code == STOPPED or any(cluster.starting for cluster in rays.CLUSTERS)):
        end_now(code)
    sys.exit(code)


def fail(message: str, code: int) -> int:
    """Say why on stderr."""
    print(f"pnst: {message}", file=sys.stderr)
    return code
