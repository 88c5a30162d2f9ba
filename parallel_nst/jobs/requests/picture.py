"""What is asked of a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from parallel_nst.errors import BadInput
from parallel_nst.files.bundled import STYLES, bundled_content, bundled_style
from parallel_nst.jobs.requests.common import (
    STYLE_HELP,
    InputOptions,
    OutputOptions,
    WorkerOptions,
    check_quality,
    painting_of,
)
from parallel_nst.recipe import INITS, Recipe
from parallel_nst.recipe.knobs import check_bounds, knob


@dataclass(frozen=True)
class PictureJob(InputOptions, WorkerOptions, OutputOptions):
    """What to stylise, and with what.

    output: None stands for CONTENT-STYLE.png, here. log: file of the losses. frames_every: pictures of
    the way, in a strip beside the output. preview_every: write a small picture beside the output every so
    many steps. checkpoint_every: write a snapshot beside it, from which `resume` goes on.
    """

    content: Path = knob(
        bundled_content, "picture to paint", "Pictures", shown="a bundled photograph", once=True, common=True
    )
    style: tuple[Path, ...] = knob(
        lambda: (bundled_style(),),
        f"{STYLE_HELP}; several: their mean, see --style-weights, or each in a region, see --mask",
        "Pictures",
        read=painting_of,
        each=True,
        shown=STYLES[0],
        common=True,
    )
    output: Path = knob(
        None,
        "where to write: PNG, JPEG, TIFF, WebP or BMP",
        "Pictures",
        shown="CONTENT-STYLE.png, here",
        once=True,
        common=True,
    )
    recipe: Recipe = field(default_factory=Recipe)
    mask: tuple[Path, ...] = knob(
        (),
        "picture that is white where a style is to be, one for each --style in their order; grey is in between",
        "Pictures",
        metavar="FILE",
        read=Path,
        each=True,
    )
    preview_every: int | None = knob(
        None, "write a small picture beside the output every so many steps", "Output", least=1
    )
    checkpoint_every: int | None = knob(
        None, "save the state of the run beside the output every so many steps", "Output", least=1
    )
    resume: bool = knob(False, "go on from the last checkpoint of a run that was stopped", "Output")
    log: Path | None = knob(None, "write the losses of every step as CSV, with a plot (PNG) beside it", "Output")
    frames_every: int | None = knob(
        None,
        "write pictures of the way, one every so many steps, side by side in a strip beside the output",
        "Output",
        least=1,
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.log is not None and self.log.suffix.lower() != ".csv":  # the plot has its name, with .png
            raise BadInput(f"log is {str(self.log)!r}; give a name that ends in .csv")
        if self.output is None:
            names = "-".join(dict.fromkeys(path.stem for path in self.style))
            object.__setattr__(self, "output", Path(f"{self.content.stem}-{names}.png"))
        check_quality(self.quality, self.output.suffix)

    @property
    def start(self) -> Path | None:
        """The picture to begin with, where that is neither the content nor a style."""
        return None if self.recipe.init in INITS else Path(self.recipe.init)

    @property
    def pictures(self) -> list[Path]:
        """What is painted, in whose manner, and what it begins with."""
        return [self.content, *self.style, *([self.start] if self.start else [])]

    @property
    def inputs(self) -> list[Path]:
        """All that is read of pictures."""
        return [*self.pictures, *self.mask]

    @property
    def preview(self) -> Path:
        return self.output.with_name(f"{self.output.stem}.preview.jpg")

    @property
    def strip(self) -> Path:
        return self.output.with_name(f"{self.output.stem}.frames.png")

    @property
    def snapshot(self) -> Path:
        return self.output.with_name(f"{self.output.name}.snapshot")
