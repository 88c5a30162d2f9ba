"""The training loop: any objective, any batches, one process or one of many; plain PyTorch that knows no cluster.

A run that was stopped goes on from its newest checkpoint. On one CPU process the outcome is then the same to the bit as
if it had not been stopped: batches depend on their number alone, and everything else is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parallel_nst.errors import BadInput, Diverged
from parallel_nst.training.batches import Prefetched, Stream
from parallel_nst.training.checkpoint_files import steps_of
from parallel_nst.training.checkpoints import load_newest, save_checkpoint
from parallel_nst.training.objective import TOTAL, Batch, Phase, TrainingObjective
from parallel_nst.training.records import Records, write_sheet
from parallel_nst.workers.ranks.place import Place

DTYPES = ("float32", "bfloat16")
RECENT = 20  # steps that the speed shown during a run is taken over


@dataclass(frozen=True)
class FitSettings:
    """How long to train, and what to leave on the way.

    steps: in all, those before a resume included. checkpoint_every, sample_every: steps; the last step always has
    both, 0 samples none at all. keep: checkpoints that stay, the newest. dtype: `bfloat16` computes the losses under
    autocast, weights and optimisers stay float32. recipe: settings, as JSON has them, that the numbers depend on; a
    checkpoint of another recipe is refused. resume: go on from the newest whole checkpoint; begin where there is none.
    """

    steps: int
    checkpoint_every: int = 1000
    keep: int = 2
    sample_every: int = 500
    dtype: str = "float32"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.checkpoint_every, self.keep) < 1 or self.sample_every < 0:
            raise BadInput(
                f"steps {self.steps}, checkpoint_every {self.checkpoint_every}, keep {self.keep}, "
                f"sample_every {self.sample_every}: must be at least 1, and the last at least 0"
            )
        if self.dtype not in DTYPES:
            raise BadInput(f"dtype {self.dtype} is unknown: choose one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class TrainingStatus:
    """After a step. losses: mean over ranks, by `phase/loss`. images_per_second: of all ranks, lately; 0 until known.
    waiting: share of the time so far in which data was not ready."""

    step: int
    steps: int
    losses: Mapping[str, float]
    images_per_second: float
    waiting: float


@dataclass(frozen=True)
class FitReport:
    """What came of a run. began: the step that it went on from. losses: of the last step, empty if there was none to
    do. seconds: all. images_per_second, waiting: see `TrainingSpeed`. sheet: the contact sheet, if there is one."""

    steps: int
    began: int
    seconds: float
    images_per_second: float
    waiting: float
    losses: Mapping[str, float]
    sheet: Path | None


class TrainingSpeed:
    """Speed of the steps, without what lies between them (samples, checkpoints), and without the first, in which
    memory is set up and the first batch is made."""

    def __init__(self, pictures: int) -> None:
        """pictures: in each step, over all ranks."""
        self._pictures = pictures
        self._steps = -1  # the first does not count
        self._seconds = self._waited = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float, waited: float) -> None:
        """One step: all its seconds, and those of them in which it waited for data."""
        self._steps += 1
        if self._steps:
            self._seconds += seconds
            self._waited += waited
            self._recent.append(seconds)

    @property
    def images_per_second(self) -> float:
        """Over all steps but the first; 0 until there is a second."""
        return self._pictures * self._steps / self._seconds if self._seconds else 0.0

    @property
    def lately(self) -> float:
        """Images per second over the last steps."""
        return self._pictures * len(self._recent) / sum(self._recent) if self._recent else 0.0

    @property
    def waiting(self) -> float:
        """Share of the time in which data was not ready."""
        return self._waited / self._seconds if self._seconds else 0.0


@dataclass(frozen=True)
class TrainingCallbacks:
    """What is told while training. on_step: after each step, on rank 0. notify: lines that the user should see, on
    rank 0."""

    on_step: Callable[[TrainingStatus], None] = lambda status: None
    notify: Callable[[str], None] = lambda line: None


def fit(
    objective: TrainingObjective,
    stream: Stream,
    settings: FitSettings,
    folder: Path,
    place: Place | None = None,
    *,
    inputs: Batch | None = None,
    callbacks: TrainingCallbacks | None = None,
) -> FitReport:
    """Train to the last step. Every rank calls this with its own place and its own slice of the batches.

    folder: of checkpoints, losses and samples, the same for all ranks. inputs: what samples are made of, None for no
    samples.

    Raises BadInput, in one line, for a folder that holds checkpoints when not resuming, for checkpoints of other
    settings, another architecture or all damaged; Diverged for a loss that is not finite; OSError for what cannot be
    written.
    """
    began = time.perf_counter()
    place, callbacks = place or Place(), callbacks or TrainingCallbacks()
    notify = callbacks.notify if place.rank == 0 else lambda line: None
    first = start(objective, settings, folder, place, notify)
    speed, losses = TrainingSpeed(stream.batch), dict[str, float]()
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(Prefetched(stream, first, settings.steps))
        records = stack.enter_context(Records(folder, first, notify)) if place.rank == 0 else None
        run = TrainingRun(objective, settings, folder, place, inputs, records, callbacks)
        if first == 0:
            run.sample(0)
        for step, losses in run.steps(batches, first, speed):
            run.after(step, losses, speed)
    sheet = write_sheet(folder) if place.rank == 0 else None
    seconds = time.perf_counter() - began
    return FitReport(settings.steps, first, seconds, speed.images_per_second, speed.waiting, losses, sheet)


def start(
    objective: TrainingObjective,
    settings: FitSettings,
    folder: Path,
    place: Place,
    notify: Callable[[str], None],
) -> int:
    """Make the folder or go on from what it holds; returns the step to begin at."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; give a folder for checkpoints and records")
    found = steps_of(folder)
    place.meet()  # all have looked before any writes
    if found and not settings.resume:
        raise BadInput(f"{folder} holds a training at step {found[0]}; resume it, or give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    step = load_newest(folder, objective, recipe_of(settings), place, notify) if settings.resume else 0
    if step > settings.steps:
        raise BadInput(f"{folder} holds step {step}, beyond the {settings.steps} asked for; ask for more steps")
    return step


def recipe_of(settings: FitSettings) -> dict[str, Any]:
    """What a checkpoint must have in common with a run that goes on from it."""
    return {**settings.recipe, "dtype": settings.dtype}


class TrainingRun:
    """One process's part of a training under way."""

    def __init__(
        self,
        objective: TrainingObjective,
        settings: FitSettings,
        folder: Path,
        place: Place,
        inputs: Batch | None,
        records: Records | None,
        callbacks: TrainingCallbacks,
    ) -> None:
        """records: None on all ranks but 0."""
        self.objective, self.settings, self.folder, self.place = objective, settings, folder, place
        self.records, self.callbacks = records, callbacks
        self.inputs = None if inputs is None or records is None or not settings.sample_every else inputs
        self.modules = [(phase, place.wrap(phase.module)) for phase in objective.phases]

    def steps(self, batches: Prefetched, first: int, speed: TrainingSpeed) -> Iterator[tuple[int, dict[str, float]]]:
        """Do one step after the other; yields how many are done and the losses of the last."""
        began, waited = time.perf_counter(), 0.0
        for step, batch in enumerate(batches, first + 1):
            losses = self.step(step, on_device(batch, self.place.device))
            speed.add(time.perf_counter() - began, batches.waited - waited)
            yield step, losses
            began, waited = time.perf_counter(), batches.waited

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """All phases in their turns; returns the losses' means over ranks. Diverged if one is not finite."""
        turns = [take_turn(phase, module, batch, self.autocast) for phase, module in self.modules]
        losses = {name: value for turn in turns for name, value in turn.items()}
        values = self.place.mean(torch.stack([value.float() for value in losses.values()])).tolist()
        means = dict(zip(losses, values, strict=True))
        wrong = [f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)]
        if wrong:
            low = " or in float32 (--dtype)" if self.settings.dtype != "float32" else ""
            advice = f"start again in another folder (--out) with a lower learning rate (--lr){low}"
            raise Diverged(f"step {step}: the loss {wrong[0]}; {advice}")
        return means

    def autocast(self) -> torch.autocast:
        """A context in which the losses are computed."""
        low = self.settings.dtype == "bfloat16"
        return torch.autocast(self.place.device.type, dtype=torch.bfloat16, enabled=low)

    def after(self, step: int, losses: Mapping[str, float], speed: TrainingSpeed) -> None:
        """Records, sample, checkpoint and news of a step that is done."""
        last = step == self.settings.steps
        if self.records is not None:
            self.records.add(step, losses)
            self.callbacks.on_step(TrainingStatus(step, self.settings.steps, losses, speed.lately, speed.waiting))
        if last or (self.settings.sample_every and step % self.settings.sample_every == 0):
            self.sample(step)
        if last or step % self.settings.checkpoint_every == 0:
            self.checkpoint(step)

    def sample(self, step: int) -> None:
        """A sample picture, on rank 0 if there are inputs."""
        if self.inputs is not None and self.records is not None:
            with torch.no_grad():
                pictures = self.objective.sample(on_device(self.inputs, self.place.device))
            self.records.add_sample(step, pictures)

    def checkpoint(self, step: int) -> None:
        """A checkpoint, when the records say no less."""
        if self.records is not None:
            self.records.sync()
        save_checkpoint(self.folder, step, self.objective, recipe_of(self.settings), self.place, self.settings.keep)


def take_turn(
    phase: Phase, module: nn.Module, batch: Batch, autocast: Callable[[], torch.autocast]
) -> dict[str, Tensor]:
    """One optimiser step of a phase. module: the phase's, perhaps wrapped. Losses by `phase/loss`, without gradient."""
    phase.optimizer.zero_grad(set_to_none=True)
    with autocast():
        losses = module(batch)
    losses[TOTAL].backward()
    if phase.clip is not None:
        nn.utils.clip_grad_norm_(phase.module.parameters(), phase.clip)
    phase.optimizer.step()
    if phase.schedule is not None:
        phase.schedule.step()
    return {f"{phase.name}/{name}": value.detach() for name, value in losses.items()}


def on_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Pictures on the device as float32 in [0, 1]; uint8 travels and is divided there."""
    moved = {name: pictures.to(device, non_blocking=True) for name, pictures in batch.items()}
    return {name: value.float() / 255 if value.dtype == torch.uint8 else value for name, value in moved.items()}
