"""What is asked of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from parallel_nst.errors import BadInput
from parallel_nst.files.size import Size
from parallel_nst.recipe import Recipe
from parallel_nst.recipe.knobs import REQUIRED, check_bounds, knob

LONGEST_SIDE = 1 << 20  # px


def parse_picture_size(text: str) -> Size:
    """'4096x3000' -> that width and height in px; '4096' -> a square."""
    parts = text.lower().split("x")
    if len(parts) <= 2 and all(is_count(part, LONGEST_SIDE) for part in parts):
        return Size(int(parts[-1]), int(parts[0]))
    raise BadInput(f"size is {text!r}; give width x height in px, such as 4096x3000, or one number for a square")


def is_count(text: str, most: int) -> bool:
    """Whether this is a whole number from 1 to `most`."""
    return text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most


@dataclass(frozen=True)
class PlanJob:
    """What is to be planned. memory: None is a worker's share of what there is, here or,
    with an address, on the cluster. speed: None is measured here. recipe: its size is that of `size`."""

    size: Size = knob(
        REQUIRED,
        "picture in px: width x height such as 16384x16384, or one number for a square",
        "Pictures",
        metavar="PX",
        read=parse_picture_size,
    )
    workers: int | None = knob(
        None, "number of workers", "Workers", least=1, most=100_000, shown="one for each core or GPU", common=True
    )
    memory: str | None = knob(
        None,
        "memory of one worker, such as 4GiB",
        "Workers",
        common=True,
        shown="its share of the machine's, or its GPU's",
    )
    speed: float | None = knob(
        None,
        "speed of one worker in GFLOP/s",
        "Workers",
        least=1e-3,
        most=1e9,
        shown="measured here, a few seconds",
    )
    address: str | None = knob(
        None,
        "Ray cluster whose workers to plan for, auto or host:port; RAY_ADDRESS in the environment does the same",
        "Workers",
        shown="this machine",
        variable="RAY_ADDRESS",
        yields_to=("memory",),
    )
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        check_bounds(self)
