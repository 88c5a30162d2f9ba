"""What every process of a training does: build the objective, cut its share of the batches, run the loop, and on rank 0
write the result. A record that can be pickled, so that it runs here or anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Protocol

import torch
from torch import Tensor

from parallel_nst.errors import BadInput
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.networks.generators.files import save_generator
from parallel_nst.networks.weights.states import State
from parallel_nst.training.batches import Batches
from parallel_nst.training.cyclegan import CycleGAN
from parallel_nst.training.feedforward import Feedforward
from parallel_nst.training.fit import FitReport, FitSettings, TrainingCallbacks, TrainingStatus, fit
from parallel_nst.training.objective import TrainingObjective
from parallel_nst.training.pictures import CACHE_BYTES, PictureFiles
from parallel_nst.training.settings import CropSettings, CycleSettings, FeedforwardSettings
from parallel_nst.workers.ranks.place import Place

LEAST_SIZE = {"patchgan": 24, "conv5": 9}  # px of a crop: less leaves one position only to normalise over
SAMPLES = 4  # pictures, the first of each source, that samples are made of


class ObjectiveSpec(Protocol):
    """All that an objective is made of."""

    def build(self, steps: int, epoch_steps: int, place: Place) -> TrainingObjective:
        """For a training of so many steps, with so many in an epoch. BadInput, in one line, for what does not go
        together."""
        ...


@dataclass(frozen=True, eq=False)
class StyleSpec:
    """Of a generator for one style. style: (1, 3, H, W) in [0, 1]. weights: of the backbone. encoder, start: see
    `Feedforward`."""

    settings: FeedforwardSettings
    style: Tensor
    weights: State
    encoder: State | None = None
    start: State | None = None

    def build(self, steps: int, epoch_steps: int, place: Place) -> Feedforward:
        settings = self.settings
        backbone = build_backbone(settings.backbone, self.weights)
        layers = settings.layers_used
        backbone.check_layers((*layers.style, *layers.content))
        backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster
        return Feedforward(
            settings,
            self.style,
            backbone,
            steps=steps,
            encoder=self.encoder,
            start=self.start,
            device=place.device,
        )


@dataclass(frozen=True)
class CycleSpec:
    """Of two generators between two kinds of pictures."""

    settings: CycleSettings

    def build(self, steps: int, epoch_steps: int, place: Place) -> CycleGAN:
        return CycleGAN(self.settings, epoch_steps=epoch_steps, rank=place.rank, device=place.device)


def check_size(settings: CycleSettings, size: int) -> None:
    """BadInput, in one line, for crops of `size` px that are too small for the discriminators."""
    least = LEAST_SIZE[settings.discriminator]
    if size < least:
        raise BadInput(f"crops of {size} px are too small for {settings.discriminator}; give a size of {least} or more")


@dataclass(frozen=True, eq=False)
class TrainWork:
    """One process's part of a training.

    paths: of the pictures, by source. folder: of the run, the same for all. files: where the generators go, by name,
    with `described` in them.
    """

    spec: ObjectiveSpec
    paths: Mapping[str, Sequence[Path]]
    crop: CropSettings
    batch: int
    shuffle: bool
    seed: int
    settings: FitSettings
    folder: Path
    files: Mapping[str, Path]
    described: Mapping[str, str]

    def __call__(
        self, place: Place, on_status: Callable[[TrainingStatus], None], notify: Callable[[str], None]
    ) -> FitReport:
        """Train; errors as `fit`."""
        torch.manual_seed(self.seed + place.rank)
        sources, batches = self.batches(place)
        objective = self.spec.build(self.settings.steps, batches.steps_per_epoch, place)
        report = fit(
            objective,
            batches,
            self.settings,
            self.folder,
            place,
            inputs=self.inputs(sources) if self.settings.sample_every and place.rank == 0 else None,
            callbacks=TrainingCallbacks(on_step=on_status, notify=notify),
        )
        for skipped in (file for source in sources.values() for file in source.skipped):
            notify(f"{skipped.path}: {skipped.reason}; another was taken in its place")
        if place.rank == 0:
            for name, path in self.files.items():
                save_generator(objective.generators[name], path, self.described, half=True)
        return report

    def batches(self, place: Place) -> tuple[dict[str, PictureFiles], Batches]:
        """The pictures and this rank's share of the batches. BadInput for a batch that cannot be shared or is larger
        than a source."""
        room = CACHE_BYTES // place.ranks // len(self.paths)
        sources = {name: PictureFiles(paths, self.crop.load, room) for name, paths in self.paths.items()}
        batches = Batches(
            sources,
            self.batch,
            self.crop,
            self.seed,
            shuffle=self.shuffle,
            rank=place.rank,
            ranks=place.ranks,
        )
        return sources, batches

    def inputs(self, sources: Mapping[str, PictureFiles]) -> dict[str, Tensor]:
        """The first pictures of each source, cut from the centre: (SAMPLES, 3, S, S) or as many as all have."""
        cut = replace(self.crop, random=False, flip=False)
        count = min(SAMPLES, *(len(source) for source in sources.values()))
        return {
            name: torch.stack([cut(source[index], Random(0)) for index in range(count)])
            for name, source in sources.items()
        }
