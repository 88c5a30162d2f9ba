"""Attempts at a scale: from where it goes on when a worker fails, and in which tiles."""

from __future__ import annotations

from parallel_nst.errors import OutOfMemory, WorkerLost
from parallel_nst.painting.exact.kept import Kept
from parallel_nst.painting.exact.state import ExactState
from parallel_nst.painting.planning.finer import finer, grid_in, nothing_fits
from parallel_nst.painting.planning.scales import Scale
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.workers.pool import HandedLost, Pool, RanksLost

MAX_LOSSES = 3  # of workers without anything new being kept in between, after which a run is given up
MAX_CUTS = 6  # of a scale, each in tiles that take less memory


class Attempts:
    """scale: as it is cut for the next attempt. speeds: of its ranks, where they are those that were measured."""

    def __init__(
        self, start: ExactState, scale: Scale, resolved: ResolvedRecipe, pool: Pool, budget: Budget | None
    ) -> None:
        self.scale, self.speeds = scale, start.speeds
        self._resolved, self._pool, self._budget = resolved, pool, budget
        self._first = start if pool.mortal else None
        self._start: ExactState | None = start  # of the next attempt; None: nobody has any longer what it needs
        self._planned = len(scale.tiles)
        self._losses = self._cuts = 0

    def handed_out(self) -> ExactState:
        """What the next attempt begins with. Workers in this process's own memory, which are not lost, have it to
        themselves from then on."""
        start = self._start
        assert start is not None
        if not self._pool.mortal and self._pool.crew.device == "cpu":
            self._start = None
        return start

    def passed(self, kept: Kept | None) -> None:
        """A state was reached, and all have last handed out this."""
        if not self._pool.mortal:
            self._start = None
        self._go_on_from(kept)

    def begin_again(self, lost: RanksLost, kept: Kept | None) -> None:
        """From what was kept or, if that is lost too, from what the scale began with. WorkerLost when workers are lost
        again and again."""
        self.speeds = ()  # another worker has come
        if isinstance(lost, HandedLost):
            if self._start is self._first:  # nothing was kept yet: what it began with is lost
                self._first = self._first and self._first.without_carried(self.scale.content.size, lost)
            self._start = self._first
        else:
            self._go_on_from(kept)
        self._losses = 1 if kept else self._losses + 1
        if self._losses > MAX_LOSSES:
            raise WorkerLost(f"workers were lost {self._losses} times in a row: {lost}") from None

    def cut_finer(self, lack: OutOfMemory, kept: Kept | None) -> str:
        """In tiles that take less memory, from what was kept or the beginning; says so. OutOfMemory when none are small
        enough, or when there is nothing to go on from."""
        self._go_on_from(kept)
        if self._start is None or self._budget is None:
            raise lack
        self.speeds = ()  # who is fast had more to hold
        self._cuts += 1
        if self._cuts > MAX_CUTS:
            raise nothing_fits(self.scale, self._resolved, self._budget) from None
        self.scale = finer(self.scale, self._resolved, self._budget)
        rows, columns = grid_in(self.scale.tiles)
        what = str(lack).partition(";")[0]
        return f"{what}; it went on from step {self._start.step} in {rows}x{columns} tiles"

    def _go_on_from(self, kept: Kept | None) -> None:
        if kept is not None:
            self._start = ExactState(kept.step, self._planned, kept=kept)
