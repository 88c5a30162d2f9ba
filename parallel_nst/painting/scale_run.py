"""One scale of a run, in whichever mode: what is said of it while it goes on, and when it is looked at and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from parallel_nst.painting.mode import Due, Mode, ScaleState, State
from parallel_nst.painting.planning.scales import ScalePlan
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.workers.worker import Progress


@dataclass(frozen=True)
class RunStatus:
    """How far a run is: number of the scale and of tiles done at it, the step and loss of the tile that reported (or of
    the whole picture), steps of the whole picture per second at this scale (0: not known yet), the share of all
    arithmetic that is done (0 to 1), and the index of the tile, None for the whole picture."""

    scale: int
    scales: int
    tiles_done: int
    tiles: int
    step: int
    steps: int
    loss: float
    share: float
    steps_per_second: float = 0.0
    tile: int | None = None


OnStatus = Callable[[RunStatus], None]


@dataclass(frozen=True)
class RunCallbacks:
    """What a caller wants to be told while a run goes on. Steps are counted over all scales.

    on_preview: the image (H, W, 3) every `preview_every` steps; on_frame: the same every `frames_every` steps, with the
    number of steps that are done; on_snapshot: where the run stands every
    `snapshot_every` steps. Independent tiles that are not synchronised give both with every tile instead.
    """

    on_status: OnStatus | None = None
    preview_every: int = 0
    on_preview: Callable[[np.ndarray], None] | None = None
    frames_every: int = 0
    on_frame: Callable[[np.ndarray, int], None] | None = None
    snapshot_every: int = 0
    on_snapshot: Callable[[Snapshot], None] | None = None


class ScaleRun:
    """One scale of a run."""

    def __init__(self, plans: Sequence[ScalePlan], number: int, callbacks: RunCallbacks) -> None:
        self.plan = plans[number]
        self._callbacks, self._number, self._scales = callbacks, number, len(plans)
        self._total = sum(plan.work for plan in plans)
        self._before = sum(plan.work for plan in plans[:number])
        self._steps_before = sum(plan.steps for plan in plans[:number])
        self._done = [0] * len(self.plan.tiles)
        self._began: tuple[float, int] | None = None  # time of the first report, and steps of all tiles by then

    def states(self, mode: Mode[State], start: State) -> Iterator[State]:
        """`start` and all states after it; callers of the run are told of each before it is passed on.

        A state is let go of when the next one comes, so that no copy of the picture outlives the step that needs it.
        """
        self._done = list(start.done)
        last = start.step or 0
        yield start
        states = mode.states(start, self._report, self._due())
        del start
        for state in states:
            self._show(state, last)
            last = state.step or 0
            yield state

    def _show(self, state: ScaleState, last: int) -> None:
        """Give a preview and a snapshot where they are due. last: steps that were done at the state before."""
        wanted = self._callbacks
        if wanted.on_preview and self._falls(wanted.preview_every, last, state.step):
            wanted.on_preview(state.preview())
        if wanted.on_frame and self._falls(wanted.frames_every, last, state.step):
            wanted.on_frame(state.preview(), self._steps_before + sum(state.done) // len(self._done))
        if wanted.on_snapshot and self._falls(wanted.snapshot_every, last, state.step):
            wanted.on_snapshot(state.snapshot(self._number))

    def _due(self) -> Due:
        """What states of the whole picture will be asked for."""
        wanted, steps = self._callbacks, range(1, self.plan.steps + 1)
        previews, frames, snapshots = (
            frozenset(step for step in steps if listener and self._falls(every, step - 1, step))
            for listener, every in (
                (wanted.on_preview, wanted.preview_every),
                (wanted.on_frame, wanted.frames_every),
                (wanted.on_snapshot, wanted.snapshot_every),
            )
        )
        return Due(previews | frames, snapshots)

    def _falls(self, every: int, before: int, step: int | None) -> bool:
        """Whether a multiple of `every` steps, counted over all scales, falls after step `before` and up to `step`.
        None: of tiles that are each at another step, every state counts."""
        first = self._steps_before
        return every > 0 and (step is None or (first + step) // every > (first + before) // every)

    def _report(self, index: int | None, progress: Progress) -> None:
        """Turn the progress of a tile, or of all, into the run's status."""
        plan, now = self.plan, time.perf_counter()
        for tile in range(len(self._done)) if index is None else [index]:
            self._done[tile] = progress.step
        steps = sum(self._done)
        self._began = self._began or (now, steps)
        seconds, count = now - self._began[0], steps - self._began[1]
        if self._callbacks.on_status is None:
            return
        work = self._before + sum(n * tile.read.area for n, tile in zip(self._done, plan.tiles, strict=True))
        self._callbacks.on_status(
            RunStatus(
                scale=self._number + 1,
                scales=self._scales,
                tiles_done=sum(step == plan.steps for step in self._done),
                tiles=len(plan.tiles),
                step=progress.step,
                steps=plan.steps,
                loss=progress.loss,
                share=work / self._total,
                steps_per_second=count / len(self._done) / seconds if count and seconds else 0.0,
                tile=index,
            )
        )
