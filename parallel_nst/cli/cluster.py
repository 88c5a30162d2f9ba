"""`pnst cluster`: what a cluster would be started from, and one that is there."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from parallel_nst.cli.options import GroupedCommand, made_from
from parallel_nst.cli.texts import counted
from parallel_nst.jobs.json_text import json_text
from parallel_nst.jobs.requests.cluster import CheckJob
from parallel_nst.recipe.knobs import knob

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
