"""`pnst plan`: what a run will need, without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from parallel_nst.cli.options import RecipeSource, made_from
from parallel_nst.cli.texts import amount, counted, duration
from parallel_nst.jobs.json_text import json_text, plain
from parallel_nst.jobs.requests.plan import PlanJob
from parallel_nst.recipe.knobs import knob

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.jobs.plan import Plan
    from parallel_nst.painting.planning.forecast import Forecast

WIDE = 160  # columns of a table that goes to a file
# Of the recipe: what a plan does not depend on, and its size, which is the job's own.
FREE = (
    "size style_weight content_weight tv_weight loss_units learning_rate learning_rate_decay init seed tiling.targets "
    "style_weights preserve_color"
).split()


@dataclass(frozen=True)
class PlanTalk(RecipeSource):
    """What is read and printed beside the job's own options."""

    json: bool = knob(False, "print the plan as one JSON object", "Output")


@made_from(without=[f"recipe.{name}" for name in FREE])
def plan_command(job: PlanJob, talk: PlanTalk) -> None:
    """Say what a run will need: tiles, arithmetic, memory, traffic and time. Nothing is painted."""
    from parallel_nst.jobs.plan import plan

    made = plan(job)
    if talk.json:
        print(json_text(as_dict(made)))
    else:
        show(made, Console())


def as_dict(plan: Plan) -> dict[str, object]:
    """For JSON; sizes in px, memory in bytes, speed in FLOP/s."""
    needs = plan.forecast
    return {
        "width": plan.job.size.width,
        "height": plan.job.size.height,
        "workers": plan.workers,
        "threads": plan.threads,
        "device": plan.device,
        "backbone": plan.recipe.backbone,
        "dtype": plan.dtype,
        "mode": plan.recipe.tiling.mode,
        "optimizer": plan.recipe.optimizer,
        "memory": plan.memory,
        "speed": plan.speed,
        **plain(needs),
        "steps": needs.steps,
        "flops": needs.flops,
        "seconds": needs.seconds,
        "notes": plan.notes,
    }


def show(plan: Plan, console: Console) -> None:
    """A heading, a table of the scales, and what holds for all of them."""
    from parallel_nst.painting.planning.memory import memory_text

    needs, recipe = plan.forecast, plan.recipe
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDE)
    workers = f"{memory_text(needs.worker_bytes)} a worker of {memory_text(plan.memory)}, "
    if not needs.worker_bytes:
        workers = "no workers needed, "
    lines = [
        f"memory  {workers}{memory_text(needs.driver_bytes)} the driver",
        f"halo    {needs.halo} px around each tile",
        f"speed   {plan.speed / 1e9:,.0f} GFLOP/s a worker",
        f"in all  {needs.steps} steps, {amount(needs.flops, 'FLOP')}, {duration(needs.seconds)} without start-up and "
        "transfers",
        *plan.notes,
    ]
    who = counted(plan.workers, "GPU worker" if plan.device == "cuda" else "worker")
    console.print(
        f"{plan.job.size} px on {who}, {recipe.tiling.mode} tiles, {recipe.backbone} in "
        f"{plan.dtype}, {recipe.optimizer}",
        highlight=False,
    )
    console.print(table_of(needs))
    console.print("\n".join(lines), highlight=False)


def table_of(needs: Forecast) -> Table:
    """One row a scale; arithmetic, traffic and time of one step."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("size", "steps", "tiles", "a worker", "graphs kept", "a step", "overhead", "moved", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for scale in needs.scales:
        table.add_row(
            f"{scale.width}x{scale.height}",
            str(scale.steps),
            str(scale.tiles),
            str(scale.per_worker),
            str(scale.kept),
            amount(scale.flops, "FLOP"),
            f"{scale.overhead:.2f}",
            amount(scale.moved, "B"),
            duration(scale.seconds),
        )
    return table
