"""What one rank does at one scale, from the first step to the last."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parallel_nst.files.size import Size
from parallel_nst.painting.exact.filtered import Broadened
from parallel_nst.painting.exact.kept import Kept
from parallel_nst.painting.exact.objective import Measure, RankObjective
from parallel_nst.painting.exact.parts import Part, Resampling, Vectors, vector
from parallel_nst.painting.exact.preview import PreviewPart, Reduction
from parallel_nst.painting.exact.spread import RankSpread
from parallel_nst.painting.gatys.features import reader_on
from parallel_nst.painting.gatys.half_precision import Spread
from parallel_nst.painting.gatys.minimise import Iteration, Minimum, Setback, finish, minimise, setback
from parallel_nst.painting.gatys.optimizers.base import Optimizer
from parallel_nst.painting.gatys.optimizers.choice import make_optimizer
from parallel_nst.painting.gatys.optimizers.states import NUMBERS, State, carried_names, pack, resize_state, unpack
from parallel_nst.painting.gatys.style import StyleTargets
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.snapshots import distinct
from parallel_nst.painting.tiles.ownership import Ownership, Shard
from parallel_nst.workers.freed_memory import LARGE, give_back
from parallel_nst.workers.pool import Handed, Shared
from parallel_nst.workers.ranks.communicator import Communicator
from parallel_nst.workers.worker import Progress, Worker

Numbers = Mapping[str, Tensor]  # small, the same on every rank


@dataclass(frozen=True)
class Carried:
    """What an optimiser has learnt at the scale before: its vectors, its numbers, and the way to this scale's size."""

    parts: Sequence[Part]
    numbers: Numbers
    resampling: Resampling


@dataclass(frozen=True)
class KeptHere:
    """The label of one rank's part of a `Kept`."""

    step: int
    numbers: Numbers
    aliases: Mapping[str, str]


@dataclass(frozen=True)
class Preview:
    """A rank's parts of a small picture."""

    step: int
    parts: Sequence[PreviewPart]


@dataclass(frozen=True)
class End:
    """The label of what a rank has at the end: its part of the picture, in [0, 1], and what a next scale wants.

    speed: see `Pace`; 0 for a rank that is alone."""

    numbers: Numbers
    setback: Setback | None
    speed: float


@dataclass(frozen=True)
class Course:
    """How many steps a scale has, and after which of them a preview is told and all that is needed to go on is handed
    out. carries: whether another scale follows, which wants what the optimiser has learnt."""

    steps: int
    previews: frozenset[int] = frozenset()
    keeps: frozenset[int] = frozenset()
    carries: bool = True


@dataclass(frozen=True)
class PaintShard:
    """A rank's work. content: of the rectangle that each own tile reads, by tile (3, h, w). graphs: see
    `RankObjective`. pixels: the first image on each own core, like the content; without it the image is made of what
    was `carried`, or goes on from what was `kept`. masks: of the same rectangles as the content, (K, h, w), where
    styles have regions. Each tile's arrays travel by themselves, so that nobody holds all of them twice."""

    ownership: Ownership
    content: Mapping[int, Shared]
    style: StyleTargets
    resolved: ResolvedRecipe
    graphs: int
    course: Course
    pixels: Mapping[int, Shared] = field(default_factory=dict)
    carried: Carried | None = None
    kept: Kept | None = None
    masks: Mapping[int, Shared] = field(default_factory=dict)

    def run(self, worker: Worker, ranks: Communicator) -> Generator[Any, None, float]:
        """Tells `Progress`, `Preview` and `Handed`, and returns the loss at the end. All that this holds has been read
        by then: who let go of it has its memory back."""
        shard, spread = self.ownership.shard(ranks.rank), RankSpread(self.ownership, ranks)
        objective = RankObjective(self.ownership, ranks, self._measure(worker), self.graphs)
        optimizer = make_optimizer(self.resolved.recipe, spread, Broadened(self.ownership, ranks))
        return painted(objective, self._start(worker, shard, spread), optimizer, self.course, shard)

    def _measure(self, worker: Worker) -> Measure:
        reader = reader_on(worker, self.resolved)
        content = {index: reader.read_content(worker.image(pixels.get())) for index, pixels in self.content.items()}
        masks = {index: reader.read_masks(worker.image(values.get())[0]) for index, values in self.masks.items()}
        return Measure(reader, self.resolved, self.style.to(worker.device), content, masks)

    def _start(self, worker: Worker, shard: Shard, spread: Spread) -> Iteration:
        """The first iteration, or the one that was kept."""
        if self.kept is not None:
            return resumed(self.kept, shard, worker.device)
        image = self._first_image(worker, shard)
        if self.carried is None:
            return Iteration.start(image, make_optimizer(self.resolved.recipe, spread).init(image))
        return Iteration.start(image, resized(self.carried, shard, spread, image))

    def _first_image(self, worker: Worker, shard: Shard) -> Tensor:
        if not self.pixels:
            assert self.carried is not None
            return enlarged(self.carried, shard).to(worker.device, worker.precision)
        image = torch.zeros(shard.elements, dtype=worker.precision, device=worker.device)
        for index, pixels in self.pixels.items():
            shard.core(image, index).copy_(torch.from_numpy(np.array(pixels.get())))
        return image


def painted(
    objective: RankObjective, start: Iteration, optimizer: Optimizer, course: Course, shard: Shard
) -> Generator[Progress | Preview | Handed, None, float]:
    """The steps of a rank, with what it tells of them; returns the loss at the end."""
    iteration, iterations = start, minimise(objective, start, optimizer, course.steps)
    large = start.image.device.type == "cpu" and start.image.nbytes >= LARGE
    del start
    for iteration in iterations:
        if large:
            give_back()
        yield Progress(iteration.step, course.steps, iteration.loss)
        if iteration.step in course.previews:
            yield Preview(iteration.step, preview_parts(iteration.image, shard, objective.size))
        if iteration.step in course.keeps:
            yield handed_out(iteration)
    best = finish(objective, iteration)
    packed = pack(iteration.state)
    carried = carried_names(packed) if course.carries else []
    vectors = {name: packed[name] for name in carried} | {"image": best.image}
    speed = objective.pace.speed if objective.pace else 0.0
    yield Handed(End(numbers_of(packed), setback(iteration, best), speed), arrays(vectors), lasting=True)
    return best.loss


def handed_out(iteration: Iteration) -> Handed:
    """All that is needed to go on."""
    state = pack(iteration.state)
    tensors = {"image": iteration.image, "best": iteration.best.image}
    tensors |= {f"state.{name}": value for name, value in state.items() if name not in NUMBERS}
    vectors, aliases = distinct(tensors)
    last = torch.tensor([iteration.loss, iteration.best.loss, iteration.worse], dtype=torch.float64)
    numbers = numbers_of(state) | {"last": last}
    return Handed(KeptHere(iteration.step, numbers, aliases), arrays(vectors))


def numbers_of(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a packed state is no vector."""
    return {name: value for name, value in packed.items() if name in NUMBERS}


def arrays(vectors: Mapping[str, Tensor]) -> Vectors:
    """The same on the CPU, sharing its memory."""
    return {name: value.cpu().numpy() for name, value in vectors.items()}


def resumed(kept: Kept, shard: Shard, device: torch.device) -> Iteration:
    """The iteration that was kept, whatever shards it was kept in."""
    parts = [part.open() for part in kept.parts]
    names = {name for part in parts for name in part.vectors}
    vectors = {name: vector(parts, name, shard).to(device) for name in sorted(names)}
    vectors |= {name: vectors[other] for name, other in kept.aliases.items()}
    state = {name.removeprefix("state."): value for name, value in vectors.items() if name.startswith("state.")}
    loss, best_loss, worse = kept.numbers["last"].tolist()
    best = Minimum(vectors["best"], best_loss)
    return Iteration(vectors["image"], unpack({**state, **kept.numbers}), best, kept.step, loss, int(worse))


def enlarged(carried: Carried, shard: Shard) -> Tensor:
    """The image of the scale before, brought to this scale's size, in [0, 1]."""
    parts = [part.open() for part in carried.parts]
    return vector(parts, "image", shard, replace(carried.resampling, cubic=True)).clamp_(0, 1)


def resized(carried: Carried, shard: Shard, spread: Spread, image: Tensor) -> State:
    """The optimiser's state for this scale's image."""
    parts, resampling = [part.open() for part in carried.parts], carried.resampling
    ratio = resampling.old.area / resampling.new.area
    return resize_state(carried.numbers, lambda name: vector(parts, name, shard, resampling).to(image), ratio, spread)


def preview_parts(image: Tensor, shard: Shard, size: Size) -> list[PreviewPart]:
    """Of all own cores; size: of the framed picture."""
    reduction = Reduction.of_framed(size)
    found = (reduction.part(shard.core(image, index), core) for index, core in shard.cores.items())
    return [part for part in found if part is not None]
