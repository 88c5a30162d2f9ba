"""A picture painted as one objective: the untiled optimisation, whatever it is cut into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from parallel_nst.painting.exact.hub import TiledObjective
from parallel_nst.painting.gatys.minimise import Iteration, Minimum, finish, minimise
from parallel_nst.painting.gatys.optimizers import State, make_optimizer, pack, resize_state, unpack
from parallel_nst.painting.mode import Report
from parallel_nst.painting.named_tensors import prefixed
from parallel_nst.painting.planning.scales import FRAME, Framed, Scale, ScaleResult
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.painting.tiles.geometry import Extent
from parallel_nst.workers.pool import Pool
from parallel_nst.workers.worker import Progress


@dataclass(frozen=True, eq=False)
class ExactState:
    """Where the optimisation of a picture in so many tiles stands. See `ScaleState`."""

    iteration: Iteration
    tiles: int

    @property
    def step(self) -> int:
        return self.iteration.step

    @property
    def done(self) -> Sequence[int]:
        return [self.step] * self.tiles

    def preview(self) -> np.ndarray:
        return self.iteration.image[0].numpy().clip(0, 1)

    def snapshot(self, scale: int) -> Snapshot:
        now = self.iteration
        tensors = {"image": now.image, "best": now.best.image, **prefixed("state", pack(now.state))}
        return Snapshot(scale, now.step, tensors, {"loss": now.loss, "best_loss": now.best.loss})


@dataclass(frozen=True, eq=False)
class CarriedState:
    """What the optimiser has learnt at a scale, for the next one. size: of the framed picture there."""

    state: State
    size: Extent

    def at(self, size: Extent) -> State:
        """The same for a framed picture of another size."""
        if size == self.size:
            return self.state
        before, after = (prod(length - 2 * FRAME for length in each) for each in (self.size, size))
        return resize_state(self.state, lambda values: resized(values, size), before / after)


class Exact:
    """See `Mode`."""

    def __init__(self, scale: Scale, resolved: ResolvedRecipe, pool: Pool) -> None:
        self._scale = scale
        self._optimizer = make_optimizer(resolved.recipe)
        self._objective = TiledObjective(scale, resolved, pool)

    def start(self, pixels: np.ndarray, carried: CarriedState | None = None) -> ExactState:
        image = torch.from_numpy(pixels)[None]
        state = carried.at(self._scale.content.size) if carried else self._optimizer.init(image)
        return self._state(Iteration.start(image, state))

    def restored(self, snapshot: Snapshot) -> ExactState:
        best = Minimum(snapshot.tensors["best"], snapshot.numbers["best_loss"])
        image, state = snapshot.tensors["image"], unpack(snapshot.under("state"))
        return self._state(Iteration(image, state, best, snapshot.step, snapshot.numbers["loss"]))

    def states(self, start: ExactState, report: Report) -> Iterator[ExactState]:
        iterations = minimise(self._objective, start.iteration, self._optimizer, self._scale.steps)
        del start
        for iteration in iterations:
            report(None, Progress(iteration.step, self._scale.steps, iteration.loss))
            yield self._state(iteration)

    def result(self, end: ExactState) -> ScaleResult:
        best = finish(self._objective, end.iteration)
        carried = CarriedState(end.iteration.state, self._scale.content.size)
        return ScaleResult(best.image[0].numpy(), best.loss, carried)

    def _state(self, iteration: Iteration) -> ExactState:
        return ExactState(iteration, len(self._scale.tiles))


def resized(values: Tensor, size: Extent) -> Tensor:
    """(1, 3, H, W) of any values with a frame, to height and width `size` with its frame; bilinear, so that nothing
    overshoots."""
    inner = [length - 2 * FRAME for length in size]
    values = interpolate(values[..., FRAME:-FRAME, FRAME:-FRAME], inner, mode="bilinear")
    return torch.from_numpy(Framed(values[0].permute(1, 2, 0).numpy()).whole)[None]
