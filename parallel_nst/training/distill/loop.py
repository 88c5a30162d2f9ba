"""The training itself: what is weighed, how often is looked, what is written in the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.networks.backbones.embedded import Embedded
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.networks.generators.base import Generator
from parallel_nst.networks.weights.quantised import dequantised, quantised, save_quantised
from parallel_nst.training.distill.distiller import Distiller
from parallel_nst.training.distill.photographs import batches, split
from parallel_nst.training.distill.settings import DistillSettings
from parallel_nst.training.distill.student import NormalisedStudent
from parallel_nst.training.fit import FitSettings, TrainingCallbacks, TrainingStatus, fit
from parallel_nst.training.objective import TOTAL, Batch, Losses, Phase

MEASURED = 20  # batches that the teacher's statistics are taken from, behind those that are trained on
CLIP = 5.0  # largest norm of the gradient
CHECKPOINT_EVERY = 100  # steps
EVALUATE_EVERY = 500  # steps

log = logging.getLogger(__name__)


def learning_rate(step: int, settings: DistillSettings) -> float:
    """Linear warm-up, then a half cosine down to zero."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + float(np.cos(np.pi * min(progress, 1.0))))


@torch.no_grad()
def evaluate(model: Distiller, photos: list[np.ndarray], settings: DistillSettings) -> dict[str, float]:
    """Errors by tap on fixed crops of held-out photographs."""
    model.eval()
    stream = batches(photos, replace(settings, recoloured=0.0, noisy=0.0), seed=1)
    errors = torch.stack([model(stream.at(step)["images"])[0] for step in range(10)]).mean(0)
    model.train()
    return {tap: round(float(e), 4) for (tap, _), e in zip(model.taps, errors, strict=True)}


class Lesson(nn.Module):
    """The distiller as a phase's module: the sum of the taps' errors, of features and of Gram matrices."""

    def __init__(self, model: Distiller) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Losses:
        errors, gaps = self.model(batch["images"].contiguous(memory_format=torch.channels_last))
        losses = {tap: e for (tap, _), e in zip(self.model.taps, errors, strict=True)}
        losses |= {f"{tap}/gram": gap for (tap, _), gap in zip(self.model.taps, gaps, strict=True)}
        return {TOTAL: errors.sum() + self.model.settings.gram_weight * gaps.sum(), **losses}


class Distillation:
    """The objective that the loop trains: one network, one optimiser, nothing to look at."""

    def __init__(self, model: Distiller, settings: DistillSettings) -> None:
        rate, decay = settings.learning_rate, settings.weight_decay
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
        schedule = LambdaLR(optimizer, lambda step: learning_rate(step, settings) / rate)
        self.networks: Mapping[str, nn.Module] = {"distiller": model}
        self.generators: Mapping[str, Generator] = {}
        self.phases: Sequence[Phase] = [Phase("distil", Lesson(model), optimizer, schedule, clip=CLIP)]

    def memory(self) -> Mapping[str, Any]:
        """Nothing: all is in the network."""
        return {}

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Nothing to take back."""

    def sample(self, inputs: Batch) -> Tensor:
        """The crops themselves: features are nothing to look at."""
        return inputs["images"]


def distill(
    settings: DistillSettings,
    photos: list[np.ndarray],
    teacher: Backbone,
    work: Path,
    begin: Embedded | None = None,
) -> Distiller:
    """Train to the last step, going on from the folder `work` if it holds a checkpoint of the same settings.

    begin: a backbone of the same widths whose weights to begin with; None begins with random ones.
    """
    torch.manual_seed(settings.seed)
    training, held_out = split(photos, settings)
    model = Distiller(settings, teacher)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stream = batches(training, settings, settings.seed)
    samples = [stream.at(settings.steps + number)["images"] for number in range(MEASURED)]
    model.measure(samples)
    if begin is not None and isinstance(model.student, NormalisedStudent):
        model.student.begin_as(begin, samples[0])
    every = FitSettings(
        settings.steps, CHECKPOINT_EVERY, sample_every=0, dtype=settings.dtype, recipe=asdict(settings), resume=True
    )
    callbacks = TrainingCallbacks(
        on_step=lambda status: tell(status, model, held_out, settings),
        notify=lambda line: log.info("%s", line),
    )
    fit(Distillation(model, settings), stream, every, work, callbacks=callbacks)
    log.info("final held out: %s", evaluate(model, held_out, settings))
    return model


def tell(status: TrainingStatus, model: Distiller, held_out: list[np.ndarray], settings: DistillSettings) -> None:
    """Errors by tap every hundred steps, those on held-out photographs every five hundred."""
    if status.step % CHECKPOINT_EVERY == 0 or status.step == status.steps:
        errors = " ".join(
            f"{status.losses[f'distil/{tap}']:.3f} ({status.losses[f'distil/{tap}/gram']:.3f})"
            for tap, _ in settings.taps
        )
        log.info("step %d of %d, %.1f crops/s: %s", status.step, status.steps, status.images_per_second, errors)
    if status.step % EVALUATE_EVERY == 0:
        log.info("held out: %s", evaluate(model, held_out, settings))


def export(model: Distiller, held_out: list[np.ndarray], settings: DistillSettings, output: Path) -> dict[str, float]:
    """Write the student in 8 bits, with settings and errors in the file, and return the errors as a user has them."""
    assert isinstance(model.student, NormalisedStudent)
    folded = model.student.fold()
    model.student = build_backbone("embedded", dequantised(quantised(folded.state_dict())))
    errors = evaluate(model, held_out, settings)
    save_quantised(
        folded.state_dict(), output, {"settings": json.dumps(asdict(settings)), "errors": json.dumps(errors)}
    )
    return errors
