"""What each job is asked, as records.

The command line makes its options from their fields: name, type, default, bounds, help and place on the help page stand
here, in `recipe` and in `training.settings`, each once.

Free of PyTorch and Ray, which take seconds to load: help pages are made from this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from parallel_nst.errors import BadInput
from parallel_nst.files.bundled import STYLES, bundled_content, bundled_style
from parallel_nst.recipe import INITS, REQUIRED, Mode, Recipe, check_bounds, knob
from parallel_nst.training.presets import CYCLEGAN, FEEDFORWARD, Preset

Statistics = Literal["exact", "thumbnail"]
Edges = Literal["published", "mirror"]
TrainDevice = Literal["auto", "cpu", "cuda"]
TrainDtype = Literal["float32", "bfloat16"]

LONGEST_SIDE = 1 << 20  # px
STYLE_HELP = f"picture to paint it like, or a bundled one: {', '.join(STYLES)}"
PRESETS_OF = "the preset's"  # default of what a preset has a value for


def painting_of(text: str) -> Path:
    """The style picture that a text means: a file before a bundled painting of that name."""
    return bundled_style(text) if text in STYLES and not Path(text).is_file() else Path(text)


def folder_of(text: str) -> Path:
    """A folder by its name."""
    if not text:
        raise BadInput("OUT is empty; name a folder to write to, . for this one")
    return Path(text)


def parse_worker_counts(text: str) -> tuple[int, ...]:
    """'1,2,4' -> (1, 2, 4)."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise BadInput(f"workers is {text!r}; give whole numbers of at least 1 with commas between, such as 1,2,4")
    return tuple(int(part) for part in parts)


def parse_modes(text: str) -> tuple[Mode, ...]:
    """'exact,independent' -> both; what is none is refused by the record."""
    return cast("tuple[Mode, ...]", tuple(part.strip() for part in text.split(",")))


def parse_picture_size(text: str) -> tuple[int, int]:
    """'4096x3000' -> width and height in px; '4096' -> a square."""
    parts = text.lower().split("x")
    if len(parts) <= 2 and all(is_count(part, LONGEST_SIDE) for part in parts):
        return int(parts[0]), int(parts[-1])
    raise BadInput(f"size is {text!r}; give width x height in px, such as 4096x3000, or one number for a square")


def is_count(text: str, most: int) -> bool:
    """Whether this is a whole number from 1 to `most`."""
    return text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """What is read beside the pictures. weights: None takes the registry's. max_pixels: None keeps Pillow's limit
    against decompression bombs."""

    weights: Path | None = knob(None, "file with the backbone's weights")
    max_pixels: int | None = knob(None, "accept input pictures up to so many px", "Pictures", least=1)


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Who works: see `workers.opening.open_workers`. memory: what the run may take, such as 4GiB; on a cluster, each
    worker; None: what there is."""

    workers: int | None = knob(
        None, "workers at most", "Workers", least=1, shown="one for each core or GPU", common=True
    )
    address: str | None = knob(
        None,
        "Ray cluster, auto or host:port; RAY_ADDRESS in the environment does the same",
        "Workers",
        shown="a local Ray for this run",
        variable="RAY_ADDRESS",
        yields_to=("in_process",),
    )
    in_process: bool = knob(
        False,
        "workers are threads of this process: sooner there than Ray's, but none can be replaced",
        "Workers",
    )
    memory: str | None = knob(
        None, "memory to stay within, such as 4GiB; on a cluster, of each worker", "Workers", shown="what is free"
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How pictures are written."""

    quality: int = knob(95, "of JPEG and WebP", "Output", least=1, most=100)


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
        f"{STYLE_HELP}; several: their mean, see --style-weights",
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

    @property
    def start(self) -> Path | None:
        """The picture to begin with, where that is neither the content nor a style."""
        return None if self.recipe.init in INITS else Path(self.recipe.init)

    @property
    def inputs(self) -> list[Path]:
        """The pictures that are read."""
        return [self.content, *self.style, *([self.start] if self.start else [])]

    @property
    def preview(self) -> Path:
        return self.output.with_name(f"{self.output.stem}.preview.jpg")

    @property
    def strip(self) -> Path:
        return self.output.with_name(f"{self.output.stem}.frames.png")

    @property
    def snapshot(self) -> Path:
        return self.output.with_name(f"{self.output.name}.snapshot")


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

    @property
    def dtype(self) -> str:
        return self.recipe.dtype if self.optimises else self.options.dtype

    @property
    def optimises(self) -> bool:
        """Whether pictures are painted by optimisation instead of a generator."""
        return self.model is None and self.style is not None


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


@dataclass(frozen=True)
class ProfileJob:
    """Which networks to measure, on a square of how many px."""

    names: tuple[str, ...] = knob(
        REQUIRED,
        "backbones, discriminators, types of generators (such as cyclegan-resnet), names or files of generators",
        "Pictures",
        metavar="NAME...",
        argument=True,
    )
    size: int = knob(256, "side of the picture in px", "Pictures", least=32, most=8192)

    def __post_init__(self) -> None:
        check_bounds(self)


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


@dataclass(frozen=True)
class PlanJob:
    """What is to be planned. size: width and height in px. memory: None is a worker's share of what there is, here or,
    with an address, on the cluster. speed: None is measured here. recipe: its size is that of `size`."""

    size: tuple[int, int] = knob(
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


@dataclass(frozen=True)
class TrainJob(InputOptions):
    """What to train, on what, and where.

    preset: all numbers. out: on a cluster a folder that all its machines share, like those of the pictures. folders: of
    pictures, {"images": ...} for one style and {"a": ..., "b": ...} for CycleGAN. encoder: None begins it at random.
    workers, address: one worker without an address is this process, without Ray. checkpoint_every, keep, sample_every,
    dtype: see `FitSettings`.
    """

    preset: Preset
    out: Path = knob(REQUIRED, "folder of the run: checkpoints, losses, samples, result", "Pictures", common=True)
    folders: Mapping[str, Path] = field(default_factory=dict)
    style: Path | None = knob(None, STYLE_HELP, "Pictures", read=painting_of, shown=STYLES[0], once=True, common=True)
    encoder: Path | None = knob(None, "file of VGG16's weights for the encoder of vgg16-decoder", "Network")
    workers: int = knob(
        1, "processes that share each batch; 1 takes this one, with all cores", "Workers", least=1, common=True
    )
    address: str | None = knob(
        None,
        "Ray cluster, auto or host:port, whose machines must share the folders; RAY_ADDRESS in the environment does "
        "the same",
        "Workers",
        shown="a local Ray for this run, if there are several workers",
        variable="RAY_ADDRESS",
    )
    device: TrainDevice = knob("auto", "where the networks run", "Workers")
    dtype: TrainDtype = knob("float32", "precision of the losses; weights stay float32", "Workers")
    checkpoint_every: int = knob(500, "steps between two checkpoints", "Output", least=1)
    keep: int = knob(2, "checkpoints that stay, the newest", "Output", least=1)
    sample_every: int = knob(500, "steps between two sample pictures; 0: none", "Output", least=0)
    resume: bool = knob(False, "go on from the newest checkpoint in --out", "Output")

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def alone(self) -> bool:
        """Whether this process trains by itself."""
        return self.workers == 1 and self.address is None


@dataclass(frozen=True)
class FeedforwardMaterial:
    """What a generator for one style is trained on, and by which recipe."""

    images: Path = knob(REQUIRED, "folder of pictures to train on", "Pictures", common=True)
    preset: str = knob(
        next(iter(FEEDFORWARD)),
        f"settings to begin with: {', '.join(FEEDFORWARD)}; options given beside it win",
        "Pictures",
        metavar="NAME",
    )


@dataclass(frozen=True)
class CycleMaterial:
    """What two generators are trained on, and by which recipe."""

    a: Path = knob(REQUIRED, "folder of pictures of the one kind", "Pictures", common=True)
    b: Path = knob(REQUIRED, "folder of pictures of the other", "Pictures", common=True)
    preset: str = knob(
        next(iter(CYCLEGAN)),
        f"settings to begin with: {', '.join(CYCLEGAN)}; options given beside it win",
        "Pictures",
        metavar="NAME",
    )


@dataclass(frozen=True)
class TrainLength:
    """How long, and on how much at a time; None: as the preset has it."""

    steps: int | None = knob(None, "optimiser steps", "Steps", least=1, shown=PRESETS_OF)
    epochs: int | None = knob(None, "times that all pictures are seen, instead of --steps", "Steps", least=1)
    batch: int | None = knob(None, "pictures of a step, over all workers", "Steps", least=1, shown=PRESETS_OF)
    size: int | None = knob(
        None, "side of the crops in px", "Pictures", least=1, shown=PRESETS_OF, flags=("--crop", "--size")
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.steps and self.epochs:
            raise BadInput("--steps and --epochs exclude each other; give one of the two")
