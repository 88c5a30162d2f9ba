"""A comparison as files in a folder: CSV, JSON, a plot and a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from parallel_nst.errors import BadInput
from parallel_nst.files.images import check_output
from parallel_nst.files.whole_files import told_in_one_line, write_whole
from parallel_nst.jobs.compare.page import page
from parallel_nst.jobs.compare.plot import plot_png
from parallel_nst.jobs.compare.records import Comparison
from parallel_nst.jobs.compare.tables import to_csv, to_json

CSV, JSON, PLOT, PAGE = (f"comparison.{suffix}" for suffix in ("csv", "json", "png", "html"))
NO_PLOT = "no plot: matplotlib is missing; install it with: pip install 'parallel-nst[compare]'"


@contextmanager
def output_folder(folder: Path, inputs: tuple[Path, ...]) -> Iterator[None]:
    """Find out before the long measurement whether files can be written there.

    The folder is made if it is missing, and taken away again if nothing has come into it. ValueError or OSError, in one
    line, for a place that cannot be written to, or where a file would take the place of an input.
    """
    made = make_folder(folder)
    try:
        for name in (CSV, JSON, PLOT, PAGE):
            if any((folder / name).exists() and path.exists() and path.samefile(folder / name) for path in inputs):
                raise BadInput(f"{folder / name}: would overwrite an input: choose another output")
        check_output(folder / PLOT)
        yield
    finally:
        if made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def make_folder(folder: Path) -> bool:
    """Make a folder; whether it was missing. ValueError when it cannot be made or is no folder."""
    if folder.is_dir():
        return False
    try:
        folder.mkdir()
    except OSError as error:
        reason = "not a folder" if folder.exists() else f"the folder cannot be made ({error.strerror})"
        raise BadInput(f"{folder}: {reason}: choose another output") from None
    return True


def write_files(comparison: Comparison, folder: Path) -> tuple[list[Path], list[str]]:
    """Write all files into a folder that is there, in place of those of an earlier round: their paths, and notes for
    the user. OSError when writing fails."""
    notes = []
    try:
        plot = plot_png(comparison)
    except ModuleNotFoundError:
        plot, notes = None, [NO_PLOT]
    files = {
        CSV: to_csv(comparison).encode(),
        JSON: to_json(comparison).encode(),
        PAGE: page(comparison, plot).encode(),
        **({PLOT: plot} if plot else {}),
    }
    if plot is None:
        (folder / PLOT).unlink(missing_ok=True)  # of an earlier comparison
    contents = {folder / name: data for name, data in files.items()}
    with told_in_one_line(folder, "free some space or choose another output"):
        write_whole(contents)
    return [*contents], notes
