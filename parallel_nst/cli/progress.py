"""How far a run is, on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.painting.scale_run import OnStatus, RunStatus

PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal to draw a bar on

Notify = Callable[[str], None]
Show = Callable[[float, str], None]  # share of the work that is done, 0 to 1, and what is going on


@contextlib.contextmanager
def results_on() -> Iterator[Callable[[str], None]]:
    """A way to print results on standard output, which is for them alone: while a job runs, what others print there
    (Ray reports the death of a worker so) goes to stderr."""
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield lambda text: print(text, file=stdout)


@contextlib.contextmanager
def progress(*, quiet: bool, tiled: bool) -> Iterator[tuple[Notify, OnStatus | None]]:
    """A way to tell the user a line and one to show how far one stylisation is; nothing when quiet. tiled: whether
    tiles finish one by one."""
    with progress_bar(quiet=quiet) as (notify, show):
        yield notify, None if show is None else lambda status: show(status.share, describe(status, tiled=tiled))


@contextlib.contextmanager
def progress_bar(*, quiet: bool) -> Iterator[tuple[Notify, Show | None]]:
    """A way to tell the user a line and one to show how far the work is: a bar on a terminal, a line now and then
    elsewhere, nothing when quiet."""
    console = Console(stderr=True)
    if quiet:
        yield (lambda line: None), None
    elif not console.is_terminal:
        yield (lambda line: print(f"pnst: {line}", file=sys.stderr)), plain_progress()
    else:
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("starting", total=1.0)

            def show(share: float, text: str) -> None:
                bar.update(task, completed=share, description=text)

            yield (lambda line: console.print(f"pnst: {line}", markup=False, highlight=False)), show


def describe(status: RunStatus, *, tiled: bool) -> str:
    """Scale, tiles done where they finish one by one, steps done, loss, and speed where it is known."""
    tiles = f"tiles {status.tiles_done}/{status.tiles}  " if tiled and status.tiles > 1 else ""
    speed = f"  {status.steps_per_second:.1f} steps/s" if status.steps_per_second > 0 else ""
    return (
        f"scale {status.scale}/{status.scales}  {tiles}step {status.step}/{status.steps}  loss {status.loss:.4f}{speed}"
    )


def plain_progress() -> Show:
    """Prints a line every PLAIN_SECONDS, with the time left."""
    began = said = time.perf_counter()

    def show(share: float, text: str) -> None:
        nonlocal said
        now = time.perf_counter()
        if now - said >= PLAIN_SECONDS and share > 0:
            said = now
            left = (now - began) * (1 / share - 1)
            print(f"{share:4.0%}  {text}  {left:.0f} s left", file=sys.stderr)

    return show
