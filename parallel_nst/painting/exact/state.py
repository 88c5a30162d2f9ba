"""Where a picture stands that is painted as one objective, and what one scale leaves to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from parallel_nst.errors import WorkerLost
from parallel_nst.files.size import Size
from parallel_nst.painting.exact.kept import Kept, snapshot_of
from parallel_nst.painting.exact.parts import Part, Resampling
from parallel_nst.painting.exact.rank import Carried, Numbers
from parallel_nst.painting.planning.scales import InOnePiece, PaintedImage, ScaleResult, enlarged, unframed_size
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.workers.pool import HandedLost


@dataclass(frozen=True)
class Learnt:
    """What an optimiser has learnt over a framed picture of `size`, for the next scale. speeds: of the ranks."""

    parts: Sequence[Part]
    numbers: Numbers
    size: Size
    speeds: Sequence[float] = ()

    def at(self, size: Size) -> Carried:
        """For a framed picture of this size."""
        return Carried(self.parts, self.numbers, Resampling.of_framed(self.size, size))


@dataclass(frozen=True, eq=False)
class ExactState:
    """Where the optimisation of a picture in so many tiles stands. See `ScaleState`.

    first: the first image, None to make it of what the scale before has left, which is `carried`. before: the image
    of that scale, held here where workers that have its parts may die. speeds: of the ranks, as they were measured at
    that scale. shown: the picture, small, and kept: all that is needed to go on from here, where they are due. end:
    what came of it, after the last step.
    """

    step: int
    tiles: int
    first: PaintedImage | None = None
    carried: Carried | None = None
    before: np.ndarray | None = None
    speeds: Sequence[float] = ()
    shown: np.ndarray | None = None
    kept: Kept | None = None
    end: ScaleResult | None = None

    @property
    def done(self) -> Sequence[int]:
        return [self.step] * self.tiles

    def without_carried(self, size: Size, lost: HandedLost) -> ExactState:
        """The first image alone, where what was carried to this scale is lost. size: of the framed picture. WorkerLost
        where it is a run that goes on whose picture is lost."""
        if self.kept is not None:
            raise WorkerLost(f"{lost}, and with it the picture so far; --resume goes on from the last checkpoint")
        first = self.first if self.before is None else InOnePiece(enlarged(self.before, unframed_size(size)))
        return replace(self, first=first, before=None, carried=None)

    def preview(self) -> np.ndarray:
        assert self.shown is not None, "no preview was due"
        return self.shown

    def snapshot(self, scale: int) -> Snapshot:
        assert self.kept is not None, "no snapshot was due"
        try:
            return snapshot_of(self.kept, scale)
        except HandedLost as lost:
            raise WorkerLost(f"no checkpoint could be written: {lost}; --resume goes on from the one before") from None
