"""`pnst cluster`: what a cluster would be started from, and one that is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from parallel_nst.cli.options import GroupedCommand, made_from
from parallel_nst.cli.texts import counted
from parallel_nst.jobs.json_text import json_text
from parallel_nst.jobs.requests.cluster import CheckJob, StatusJob
from parallel_nst.recipe.knobs import knob

if TYPE_CHECKING:  # Ray is loaded only where it is used
    from parallel_nst.jobs.cluster.status import ClusterStatus
    from parallel_nst.workers.ray.nodes import Node

WIDE = 160  # columns of a table that goes to a file

cluster_app = typer.Typer(no_args_is_help=True, help="Ray clusters: the files they start from, and how one is.")


@dataclass(frozen=True)
class ClusterTalk:
    """In which form."""

    json: bool = knob(False, "print JSON", "Output")


@cluster_app.command("check", cls=GroupedCommand)
@made_from()
def check_command(job: CheckJob, talk: ClusterTalk) -> None:
    """Say what is wrong with configurations and manifests, without starting anything; if anything is, end with 1."""
    from parallel_nst.jobs.cluster.check import check

    faults = check(job)
    if talk.json:
        print(json_text(faults))
    else:
        print("\n".join(faults or [f"nothing wrong in {counted(len(job.files), 'file')}"]))
    if faults:
        raise typer.Exit(1)


@cluster_app.command("status", cls=GroupedCommand)
@made_from()
def status_command(job: StatusJob, talk: ClusterTalk) -> None:
    """Say what machines a cluster has and what on them would make a run fail; if anything would, end with 1."""
    from parallel_nst.jobs.cluster.status import status

    found = status(job)
    if talk.json:
        print(json_text(found))
    else:
        show(found)
    if found.faults:
        raise typer.Exit(1)


def show(status: ClusterStatus) -> None:
    """A row for each machine, then the faults."""
    console = Console()
    console = console if console.is_terminal else Console(width=WIDE)
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("machine", "CPUs", "GPUs", "memory", "objects", "Python", "Ray", "PyTorch", "pnst"):
        table.add_column(name, justify="left" if name == "machine" else "right", no_wrap=True)
    for node in status.nodes:
        table.add_row(*row_of(node))
    console.print(table)
    print("\n".join(status.faults or ["nothing would make a run fail"]))


def row_of(node: Node) -> list[str]:
    """A machine in the order of the columns."""
    software = node.software
    versions = [software.python, software.ray, software.torch, software.pnst] if software else [None] * 4
    sizes = [f"{size / 2**30:.1f} GiB" for size in (node.memory, node.store)]
    return [
        f"{node.address} ({node.name})",
        str(node.cpus),
        f"{node.gpus:g}",
        *sizes,
        *(text or "-" for text in versions),
    ]
