"""What is asked of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from parallel_nst.errors import BadInput
from parallel_nst.files.bundled import STYLES
from parallel_nst.jobs.requests.common import STYLE_HELP, InputOptions, painting_of
from parallel_nst.recipe.knobs import REQUIRED, check_bounds, knob
from parallel_nst.training.presets import CYCLEGAN, FEEDFORWARD, Preset

TrainDevice = Literal["auto", "cpu", "cuda"]
TrainDtype = Literal["float32", "bfloat16"]
PRESETS_OF = "the preset's"  # default of what a preset has a value for


@dataclass(frozen=True)
class TrainJob(InputOptions):
    """What to train, on what, and where.

    preset: all numbers. out: on a cluster a folder that all its machines share, like those of the pictures. folders: of
    pictures, {"images": ...} for one style and {"a": ..., "b": ...} for CycleGAN. encoder, start: None: random.
    workers, address: one worker without an address is this process, without Ray. checkpoint_every, keep, sample_every,
    dtype: see `FitSettings`.
    """

    preset: Preset
    out: Path = knob(REQUIRED, "folder of the run: checkpoints, losses, samples, result", "Pictures", common=True)
    folders: Mapping[str, Path] = field(default_factory=dict)
    style: Path | None = knob(None, STYLE_HELP, "Pictures", read=painting_of, shown=STYLES[0], once=True, common=True)
    encoder: Path | None = knob(None, "file of VGG16's weights for the encoder of vgg16-decoder", "Network")
    start: str | None = knob(
        None, "generator whose weights the training begins with, a name or a file", "Network", metavar="MODEL"
    )
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
        if self.encoder and self.start:
            raise BadInput("--encoder and --start both say what the weights begin with; give one of them")

    @property
    def alone(self) -> bool:
        """Whether this process trains by itself."""
        return self.workers == 1 and self.address is None


def preset_knob(presets: Mapping[str, Preset]) -> Any:
    """The settings to begin with, the first of these unless another is named."""
    names = ", ".join(presets)
    return knob(
        next(iter(presets)), f"settings to begin with: {names}; options given beside it win", "Pictures", metavar="NAME"
    )


@dataclass(frozen=True)
class FeedforwardMaterial:
    """What a generator for one style is trained on, and by which recipe."""

    images: Path = knob(REQUIRED, "folder of pictures to train on", "Pictures", common=True)
    preset: str = preset_knob(FEEDFORWARD)


@dataclass(frozen=True)
class CycleMaterial:
    """What two generators are trained on, and by which recipe."""

    a: Path = knob(REQUIRED, "folder of pictures of the one kind", "Pictures", common=True)
    b: Path = knob(REQUIRED, "folder of pictures of the other", "Pictures", common=True)
    preset: str = preset_knob(CYCLEGAN)


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
