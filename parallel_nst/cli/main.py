"""The command `pnst`: its commands, and how a run ends.

Each command is a few lines over a function of `jobs`, which can be called from Python; its options are made from that
job's record (see `cli.options`).
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.metadata import version as version_of
from typing import Annotated, NoReturn

import typer

from parallel_nst.cli.batch import batch_command
from parallel_nst.cli.cluster import cluster_app
from parallel_nst.cli.compare import compare_command
from parallel_nst.cli.interrupt import STOPPED, end_now, stop_code, was_stopped
from parallel_nst.cli.models import models_app
from parallel_nst.cli.options import GroupedCommand
from parallel_nst.cli.picture import run_command, tile_run_command
from parallel_nst.cli.plan import plan_command
from parallel_nst.cli.profile import profile_command
from parallel_nst.cli.serve import serve_command
from parallel_nst.cli.sweep import sweep_command
from parallel_nst.cli.train import train_app
from parallel_nst.errors import PnstError, message_of

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Neural style transfer in tiles, on the cores of this machine or on a Ray cluster.",
)


def tell_version(wanted: bool) -> None:
    """Print the version and end, if that is wanted."""
    if wanted:
        print(f"pnst {version_of('parallel-nst')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=tell_version, is_eager=True)
    ] = False,
) -> None:
    """What stands before a command."""


for name, command in {
    "tile-run": tile_run_command,
    "run": run_command,
    "batch": batch_command,
    "plan": plan_command,
    "compare": compare_command,
    "serve": serve_command,
    "sweep": sweep_command,
    "profile": profile_command,
}.items():
    app.command(name, cls=GroupedCommand)(command)
app.add_typer(train_app, name="train")
app.add_typer(models_app, name="models")
app.add_typer(cluster_app, name="cluster")


def main() -> None:
    """Run the command; a user's mistake is one line on stderr and exit code 2 (usage) or 1. Ctrl-C is 130, SIGTERM 143,
    a closed terminal 129."""
    try:
        code = app(standalone_mode=False, prog_name="pnst")
        if code == STOPPED:  # Typer keeps Ctrl-C to itself
            code = fail("stopped", stop_code())
    except typer.TyperException as error:
        message = error.format_message()
        code = fail(message.removeprefix("Invalid value: "), error.exit_code) if message else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = fail("stopped", stop_code())
    except MemoryError:
        code = fail("not enough memory; give a smaller --size or more tiles", 1)
    except (PnstError, ValueError, OSError, RuntimeError) as error:
        # A run that was stopped may end in another error, such as that the terminal can no longer be written to.
        code = fail("stopped", stop_code()) if was_stopped() else fail(message_of(error), 1)
    leave(code or 0)


def leave(code: int) -> NoReturn:
    """Exit. With Ray, at once after a stop (its exit handlers take a second), and where it is still starting or
    is dead, for which a run that failed need not wait."""
    rays = sys.modules.get("parallel_nst.workers.ray.cluster")  # not imported for this: it loads Ray
    if rays is not None and (code >= 128 or any(one.starting or one.dead for one in rays.CLUSTERS)):
        end_now(code)
    sys.exit(code)


def fail(message: str, code: int) -> int:
    """Say why on stderr, if there is anybody who hears it."""
    with suppress(OSError):
        print(f"pnst: {message}", file=sys.stderr, flush=True)
    return code
