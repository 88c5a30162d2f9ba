"""`pnst profile`: what networks are and cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from parallel_nst.cli.options import made_from
from parallel_nst.cli.texts import amount, duration
from parallel_nst.errors import BadInput
from parallel_nst.jobs.json_text import json_text, plain
from parallel_nst.jobs.requests.profile import ProfileJob
from parallel_nst.recipe.knobs import knob

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.jobs.profile import NetworkProfile

WIDE = 160  # columns of a table that goes to a file


@dataclass(frozen=True)
class ProfileTalk:
    """In which form."""

    json: bool = knob(False, "print one JSON array", "Output")
    markdown: bool = knob(False, "print a table in Markdown", "Output")

    def __post_init__(self) -> None:
        if self.json and self.markdown:
            raise BadInput("--json and --markdown exclude each other; give one of the two")


@made_from()
def profile_command(job: ProfileJob, talk: ProfileTalk) -> None:
    """Say what networks are and cost: parameters, arithmetic, memory, how far they look, seconds of a step here."""
    from parallel_nst.jobs.profile import markdown, profiles

    rows = profiles(job)
    if talk.json:
        print(json_text([plain(row) for row in rows]))
    elif talk.markdown:
        print(markdown(rows, job.size))
    else:
        console = Console()
        console = console if console.is_terminal else Console(width=WIDE)
        console.print(table_of(rows, job.size))


def table_of(rows: list[NetworkProfile], size: int) -> Table:
    """A row for each network."""
    table = Table(box=box.SIMPLE_HEAD)
    heads = f"network|kind|parameters|checkpoint|multiply-adds, {size} px|activations|sees|margin|stride|a step"
    for number, name in enumerate(heads.split("|")):
        table.add_column(name, justify="right" if number > 1 else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            row.kind,
            f"{row.parameters:,}",
            amount(row.checkpoint, "B"),
            amount(row.multiply_adds, ""),
            amount(row.activations, "B"),
            f"{row.receptive_field} px",
            f"{row.margin} px",
            f"{row.stride} px",
            duration(row.seconds),
        )
    return table
