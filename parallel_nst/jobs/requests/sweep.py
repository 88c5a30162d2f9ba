"""What is asked of a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from parallel_nst.errors import BadInput
from parallel_nst.jobs.requests.common import STYLE_HELP, InputOptions, WorkerOptions, painting_of
from parallel_nst.recipe import Recipe
from parallel_nst.recipe.knobs import REQUIRED, check_bounds, knob


@dataclass(frozen=True)
class SweepJob(InputOptions, WorkerOptions):
    """What to paint in every combination of some settings.

    recipe: of what is not varied. axis: NAME=VALUE,VALUE each. output: None stands for CONTENT-sweep, here. thumbnail:
    px of the longer side of pictures on the sheet and the page.
    """

    content: Path = knob(REQUIRED, "picture to paint", "Pictures", argument=True)
    style: Path = knob(REQUIRED, STYLE_HELP, "Pictures", read=painting_of, argument=True)
    recipe: Recipe = field(default_factory=Recipe)
    axis: tuple[str, ...] = knob(
        (),
        "what to vary, such as content-weight=0.01,0.05, backbone=embedded,vgg19 or style=@folder; several cross",
        "Pictures",
        metavar="NAME=VALUES",
        common=True,
    )
    output: Path = knob(
        None,
        "folder for cells, results, sheet, page",
        "Output",
        shown="CONTENT-sweep, here",
        once=True,
        common=True,
    )
    thumbnail: int = knob(320, "px of the longer side of pictures on sheet and page", "Output", least=16, most=2048)

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.axis:
            raise BadInput("a sweep needs something to vary; give --axis NAME=VALUE,VALUE")
        if self.output is None:
            object.__setattr__(self, "output", Path(f"{self.content.stem}-sweep"))
