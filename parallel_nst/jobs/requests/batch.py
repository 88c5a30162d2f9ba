"""What is asked of a folder of pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from parallel_nst.errors import BadInput
from parallel_nst.files.bundled import STYLES
from parallel_nst.jobs.requests.common import InputOptions, OutputOptions, WorkerOptions, check_quality, painting_of
from parallel_nst.recipe import Recipe
from parallel_nst.recipe.knobs import REQUIRED, check_bounds, knob

Statistics = Literal["exact", "thumbnail"]
Edges = Literal["published", "mirror"]


def folder_of(text: str) -> Path:
    """A folder by its name."""
    if not text:
        raise BadInput("OUT is empty; name a folder to write to, . for this one")
    return Path(text)


@dataclass(frozen=True)
class GeneratorOptions:
    """size: px of the longer side that pictures are brought to before; 0: as they are. style_size: of the style
    picture, as large as its strokes are to be. strength: of the style, 0 to 1. statistics: of normalisation in tiles.
    dtype: auto, float32 or bfloat16. edges: of the picture, as `Generator.edges` has them."""

    size: int = 0
    style_size: int = 512
    strength: float = knob(1.0, "of the style of --style with a model", least=0, most=1)
    statistics: Statistics = knob(
        "exact", "of normalisation, for pictures in tiles; a thumbnail's are sooner there", "Tiles"
    )
    dtype: str = "auto"
    edges: Edges = knob(
        "published",
        "of pictures, for generators: published, with the padding that the network was trained with, or mirror, which "
        "shows it a mirror image beyond them",
    )

    def __post_init__(self) -> None:
        if self.dtype == "float64":
            raise BadInput("dtype is float64; generators compute in float32 or bfloat16, give one of these or auto")
        check_bounds(self)


@dataclass(frozen=True)
class FolderJob(InputOptions, WorkerOptions, OutputOptions):
    """What to paint, with what, and where to put it.

    model: a generator by name or file, with `options`; None with a style: Gatys' optimisation with `recipe`; None
    without: the bundled generator. overwrite: replace files that no batch has written.
    """

    source: str = knob(
        REQUIRED,
        "folder of pictures, a picture, a quoted glob pattern, a .txt list of them, or - for a list on stdin",
        "Pictures",
        metavar="IN",
        argument=True,
    )
    out: Path = knob(REQUIRED, "folder to write to", "Pictures", metavar="OUT", read=folder_of, argument=True)
    model: str | None = knob(
        None,
        "generator: a name ('pnst models list') or a file of weights",
        "Pictures",
        shown="a bundled one",
        common=True,
    )
    style: Path | None = knob(
        None,
        "picture to paint like: for models that take one; without --model each picture is painted by optimisation. "
        f"Bundled: {', '.join(STYLES)}",
        "Pictures",
        read=painting_of,
        once=True,
        common=True,
    )
    options: GeneratorOptions = field(default_factory=GeneratorOptions)
    recipe: Recipe = field(default_factory=Recipe)
    format: str | None = knob(None, "of all outputs, such as png", "Output", shown="each picture's own")
    suffix: str = knob("", "put behind each name, such as -wave", "Output")
    overwrite: bool = knob(False, "replace files in OUT that no batch has written", "Output")

    def __post_init__(self) -> None:
        check_bounds(self)
        check_quality(self.quality, f".{self.format}")

    @property
    def dtype(self) -> str:
        return self.recipe.dtype if self.optimises else self.options.dtype

    @property
    def optimises(self) -> bool:
        """Whether pictures are painted by optimisation instead of a generator."""
        return self.model is None and self.style is not None
