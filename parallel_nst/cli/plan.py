"""`pnst plan`: what a run will need, without running it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from parallel_nst.recipe import Recipe, TilingSpec

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.painting.planning.forecast import Forecast

LONGEST_SIDE = 1 << 20  # px
MOST_WORKERS = 100_000
WIDE = 160  # columns of a table that goes to a file
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Question:
    """What is to be planned. size: width and height in px; memory: bytes a worker may take (None: this machine's
    share); speed: FLOP/s of a worker (None: measure it here)."""

    size: tuple[int, int]
    workers: int
    memory: int | None
    speed: float | None
    recipe: Recipe


@dataclass(frozen=True)
class Answer:
    """The forecast, what it was made for, and what was assumed."""

    question: Question
    dtype: str
    memory: int
    speed: float
    forecast: Forecast
    notes: tuple[str, ...]


def plan_command(
    size: Annotated[
        str, typer.Option(help="Picture in px: width x height such as 16384x16384, or one number for a square.")
    ],
    workers: Annotated[str, typer.Option(help="Number of workers.", metavar="INTEGER")] = "1",
    memory: Annotated[
        str | None, typer.Option(help="Memory of one worker, such as 4GiB.", show_default="its share of this machine's")
    ] = None,
    speed: Annotated[
        str | None,
        typer.Option(
            help="Speed of one worker in GFLOP/s.", metavar="FLOAT", show_default="measured here, a few seconds"
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Network that measures content and style.", show_default=Recipe.backbone)
    ] = None,
    mode: Annotated[str | None, typer.Option(help="exact or independent tiles.", show_default=TilingSpec.mode)] = None,
    tiles: Annotated[
        str | None, typer.Option(help="Number of tiles, rows x columns, or auto.", show_default=TilingSpec.tiles)
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="lbfgs or adam.", show_default=Recipe.optimizer)] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="Optimiser steps at the finest scale.", metavar="INTEGER", show_default=str(Recipe.steps)),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file of settings; options given beside it win.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON object.")] = False,
) -> None:
    """Say what a run will need: tiles, arithmetic, memory, traffic and time. Nothing is painted."""
    chosen = {"backbone": backbone, "optimizer": optimizer, "steps": steps}
    try:
        question = asked(size, workers, memory, speed, recipe, chosen, {"mode": mode, "tiles": tiles})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    answer = answered(question)
    if json:
        print(as_json(answer))
    else:
        show(answer, Console())


def asked(
    size: str,
    workers: str,
    memory: str | None,
    speed: str | None,
    path: Path | None,
    chosen: dict[str, str | None],
    tiling: dict[str, str | None],
) -> Question:
    """The options as values; ValueError, in one line, for a wrong one."""
    from parallel_nst.painting.planning.memory import parse_memory

    width, height = parse_picture(size)
    base = Recipe.load(path) if path else Recipe()
    values: dict[str, Any] = {name: text for name, text in chosen.items() if text is not None}
    if str(values.get("steps", "")).isdecimal():
        values["steps"] = int(values["steps"])
    cut: dict[str, Any] = {name: text for name, text in tiling.items() if text is not None}
    return Question(
        size=(width, height),
        workers=parse_workers(workers),
        memory=None if memory is None else parse_memory(memory),
        speed=None if speed is None else parse_speed(speed),
        recipe=replace(base, **values, size=max(width, height), tiling=replace(base.tiling, **cut)),
    )


def parse_picture(text: str) -> tuple[int, int]:
    """'4096x3000' -> width and height in px; '4096' -> a square."""
    parts = text.lower().split("x")
    if len(parts) <= 2 and all(is_count(part, LONGEST_SIDE) for part in parts):
        return int(parts[0]), int(parts[-1])
    raise ValueError(f"size is {text!r}; give width x height in px, such as 4096x3000, or one number for a square")


def parse_workers(text: str) -> int:
    """A number of at least 1."""
    if is_count(text, MOST_WORKERS):
        return int(text)
    raise ValueError(f"workers is {text!r}; give a whole number from 1 to {MOST_WORKERS}")


def is_count(text: str, most: int) -> bool:
    """Whether this is a whole number from 1 to `most`."""
    return text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most


def parse_speed(text: str) -> float:
    """GFLOP/s -> FLOP/s."""
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 1e-3 <= speed <= 1e9:
        raise ValueError(f"speed is {text!r}; give a number of GFLOP/s above 0, such as 300")
    return speed * 1e9


def answered(question: Question) -> Answer:
    """Plan the scales as a run would, and forecast them. ValueError when nothing fits the memory."""
    import torch

    from parallel_nst.painting.gatys.features import FeatureReader
    from parallel_nst.painting.planning.forecast import forecast, measured_speed, untrained
    from parallel_nst.painting.planning.profile import profile
    from parallel_nst.painting.planning.scales import plan_scales
    from parallel_nst.painting.planning.tilings import Budget
    from parallel_nst.painting.resolved import resolve
    from parallel_nst.workers.opening import resolved_dtype, usable_cores

    recipe, cores = question.recipe, usable_cores()
    backbone = untrained(recipe.backbone)
    resolved, dtype = resolve(recipe, backbone), resolved_dtype(recipe.dtype, "cpu")
    reader = FeatureReader(backbone, resolved.layers, getattr(torch, dtype))
    costs = profile(backbone, reader.layers.style, reader.layers.content, reader.dtype)
    memory, notes = memory_of_worker(question, cores)
    budget = Budget(question.workers, memory, costs)
    plans = plan_scales(question.size, question.size, resolved, budget)
    speed = question.speed
    if speed is None:
        threads = max(1, cores // min(question.workers, cores))
        speed = measured_speed(reader, threads)
        notes += (f"speed: measured here, {threads} thread{'s' * (threads != 1)} a worker",)
    needs = forecast(plans, resolved, budget, speed)
    return Answer(question, dtype, memory, speed, needs, notes + driver_note(needs.driver_bytes))


def memory_of_worker(question: Question, cores: int) -> tuple[int, tuple[str, ...]]:
    """Bytes that a worker may take, and what was assumed. Workers beyond this machine's cores are taken to be on other
    machines of its kind."""
    from parallel_nst.painting.planning.footprint import driver_bytes, worker_share
    from parallel_nst.painting.planning.memory import machine_memory, memory_text

    if question.memory is not None:
        return question.memory, ()
    have = machine_memory()
    if question.workers > cores:
        share = have // cores
        return share, (
            f"memory: {memory_text(share)} a worker, as if they were on machines like this one, {cores} on each",
        )
    picture = question.size[1], question.size[0], question.recipe
    driver = driver_bytes(*picture)
    if driver >= have:
        raise ValueError(
            f"{question.size[0]}x{question.size[1]} px take {memory_text(driver)} of memory beside the workers, and "
            f"this machine has {memory_text(have)}; give --memory to plan for another one, or a smaller --size"
        )
    share = worker_share(have, *picture, question.workers)
    return share, (f"memory: {memory_text(share)} a worker is what this machine has",)


def driver_note(need: int) -> tuple[str, ...]:
    """A word where this machine could not be the driver."""
    from parallel_nst.painting.planning.memory import machine_memory, memory_text

    have = machine_memory()
    return (f"driver: this machine has only {memory_text(have)}",) if need > have else ()


def as_json(answer: Answer) -> str:
    """One object; sizes in px, memory in bytes, speed in FLOP/s."""
    question, needs = answer.question, answer.forecast
    return json.dumps(
        {
            "width": question.size[0],
            "height": question.size[1],
            "workers": question.workers,
            "backbone": question.recipe.backbone,
            "dtype": answer.dtype,
            "mode": question.recipe.tiling.mode,
            "optimizer": question.recipe.optimizer,
            "memory": answer.memory,
            "speed": answer.speed,
            **asdict(needs),
            "steps": needs.steps,
            "flops": needs.flops,
            "seconds": needs.seconds,
            "notes": answer.notes,
        }
    )


def show(answer: Answer, console: Console) -> None:
    """A heading, a table of the scales, and what holds for all of them."""
    from parallel_nst.painting.planning.memory import memory_text

    question, needs = answer.question, answer.forecast
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDE)
    plural = "s" * (question.workers != 1)
    workers = f"{memory_text(needs.worker_bytes)} a worker of {memory_text(answer.memory)}, "
    if not needs.worker_bytes:
        workers = "no workers needed, "
    lines = [
        f"memory  {workers}{memory_text(needs.driver_bytes)} the driver",
        f"halo    {needs.halo} px around each tile",
        f"speed   {answer.speed / 1e9:,.0f} GFLOP/s a worker",
        f"in all  {needs.steps} steps, {amount(needs.flops, 'FLOP')}, {duration(needs.seconds)} without start-up and "
        "transfers",
        *answer.notes,
    ]
    recipe = question.recipe
    heading = (
        f"{question.size[0]}x{question.size[1]} px on {question.workers} worker{plural}, {recipe.tiling.mode} tiles, "
        f"{recipe.backbone} in {answer.dtype}, {recipe.optimizer}"
    )
    console.print(heading, highlight=False)
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


def amount(value: float, unit: str) -> str:
    """'1.5 TFLOP'."""
    for letter in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5 or letter == "E":
            break
        value /= 1000
    return f"{value:.3g} {letter}{unit}"


def duration(seconds: float) -> str:
    """'0.35 s', '1 h 20 min'."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    first = next(i for i, (length, _) in enumerate(UNITS) if seconds >= length)
    length, name = UNITS[first]
    smaller, smaller_name = UNITS[first + 1]
    whole, rest = divmod(round(seconds / smaller), length // smaller)
    return f"{whole} {name} {rest} {smaller_name}"
