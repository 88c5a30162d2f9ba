"""What is asked of a comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

from parallel_nst.errors import BadInput
from parallel_nst.jobs.requests.common import STYLE_HELP, InputOptions, painting_of
from parallel_nst.recipe import Mode, Recipe
from parallel_nst.recipe.knobs import REQUIRED, check_bounds, knob


def parse_worker_counts(text: str) -> tuple[int, ...]:
    """'1,2,4' -> (1, 2, 4)."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise BadInput(f"workers is {text!r}; give whole numbers of at least 1 with commas between, such as 1,2,4")
    return tuple(int(part) for part in parts)


def parse_modes(text: str) -> tuple[Mode, ...]:
    """'exact,independent' -> both; what is none is refused by the record."""
    return cast("tuple[Mode, ...]", tuple(part.strip() for part in text.split(",")))


@dataclass(frozen=True)
class CompareJob(InputOptions):
    """What to compare on which picture.

    recipe: its tiles are those of every parallel setting; `auto` is one for each of the most workers asked for, and at
    least `jobs.compare.records.FEWEST_TILES`. output: None stands for CONTENT-STYLE-compare, here.
    """

    content: Path = knob(REQUIRED, "picture to paint", "Pictures", argument=True)
    style: Path = knob(REQUIRED, STYLE_HELP, "Pictures", read=painting_of, argument=True)
    recipe: Recipe = field(default_factory=Recipe)
    workers: tuple[int, ...] = knob(
        (1, 2, 4, 8), "numbers of workers to measure", "Workers", metavar="INTEGERS", read=parse_worker_counts
    )
    modes: tuple[Mode, ...] = knob(
        ("exact", "independent"), "ways of tiling to measure", "Tiles", metavar="MODES", read=parse_modes
    )
    repeats: int = knob(1, "timed rounds, in each of which every setting runs once", "Workers", least=1)
    output: Path = knob(
        None, "folder for CSV, JSON, plot, page", "Output", shown="CONTENT-STYLE-compare, here", once=True, common=True
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.workers or min(self.workers) < 1:
            raise BadInput(f"workers are {self.workers}; give numbers of at least 1")
        unknown = [mode for mode in self.modes if mode not in get_args(Mode)]
        if unknown or not self.modes:
            raise BadInput(f"modes is {','.join(unknown)!r}; allowed: {', '.join(get_args(Mode))}")
        if self.output is None:
            object.__setattr__(self, "output", Path(f"{self.content.stem}-{self.style.stem}-compare"))
