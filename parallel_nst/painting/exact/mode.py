"""A picture painted as one objective, seen from the program that has the workers: it hands out the picture, listens,
and collects; if a worker is lost, it lets all go on from what they have kept."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parallel_nst.errors import WorkerLost
from parallel_nst.files.size import Size
from parallel_nst.painting.exact.kept import Kept, kept_in, snapshot_of
from parallel_nst.painting.exact.parts import InParts, Part, Resampling
from parallel_nst.painting.exact.preview import PreviewPart, Reduction
from parallel_nst.painting.exact.rank import Carried, Course, End, KeptHere, Numbers, PaintShard, Preview
from parallel_nst.painting.mode import Due, Report
from parallel_nst.painting.planning.scales import (
    InOnePiece,
    PaintedImage,
    Scale,
    ScaleResult,
    enlarged,
    unframed_size,
)
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.painting.tiles.ownership import Ownership, Shard, deal
from parallel_nst.workers.pool import Events, Handed, HandedLost, Pool, RanksLost, Shared
from parallel_nst.workers.worker import Progress

KEEP_EVERY = 10  # steps after which ranks that may die keep what is needed to go on: about 2 % of their time
MAX_LOSSES = 3  # of workers without anything new being kept in between, after which a run is given up


@dataclass(frozen=True)
class Learnt:
    """What an optimiser has learnt over a framed picture of `size`, for the next scale."""

    parts: Sequence[Part]
    numbers: Numbers
    size: Size

    def at(self, size: Size) -> Carried:
        """For a framed picture of this size."""
        return Carried(self.parts, self.numbers, Resampling.of_framed(self.size, size))


@dataclass(frozen=True, eq=False)
class ExactState:
    """Where the optimisation of a picture in so many tiles stands. See `ScaleState`.

    first: the first image, None to make it of what the scale before has left, which is `carried`. before:
    the image of that scale, held here where workers that have its parts may die. shown: the picture, small, and kept:
    all that is needed to go on from here, where they are due. end: what came of it, after the last step.
    """

    step: int
    tiles: int
    first: PaintedImage | None = None
    carried: Carried | None = None
    before: np.ndarray | None = None
    shown: np.ndarray | None = None
    kept: Kept | None = None
    end: ScaleResult | None = None

    @property
    def done(self) -> Sequence[int]:
        return [self.step] * self.tiles

    def after(self, kept: Kept | None) -> ExactState:
        """The first state that goes on from what was kept; this one if nothing was."""
        return ExactState(kept.step, self.tiles, kept=kept) if kept else self

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


@dataclass(frozen=True)
class Exact:
    """See `Mode`. On as many ranks as there are workers; the bits depend neither on their number nor on what becomes of
    them."""

    scale: Scale
    resolved: ResolvedRecipe
    pool: Pool

    def start(self, pixels: np.ndarray, carried: Learnt | None = None) -> ExactState:
        learnt = carried.at(self.scale.content.size) if carried else None
        return ExactState(0, len(self.scale.tiles), InOnePiece(pixels), learnt)

    def follow(self, before: ScaleResult) -> ExactState:
        """After a scale in parts, each rank makes its own part of the first image from those."""
        size = self.scale.content.size
        if isinstance(before.carried, Learnt):
            spare = before.pixels if self.pool.mortal else None
            return ExactState(0, len(self.scale.tiles), carried=before.carried.at(size), before=spare)
        if before.image.size == size:
            return ExactState(0, len(self.scale.tiles), before.image)
        return self.start(enlarged(before.pixels, unframed_size(size)))

    def restored(self, snapshot: Snapshot) -> ExactState:
        kept = kept_in(snapshot, self.pool.share)
        return ExactState(kept.step, len(self.scale.tiles), kept=kept)

    def states(self, start: ExactState, report: Report, due: Due) -> Iterator[ExactState]:
        """As `Mode.states`. WorkerLost when workers die again and again."""
        hearing, losses = Hearing(self.scale, report, due, start.step), 0
        first: ExactState | None = start if self.pool.mortal else None
        again: ExactState | None = start  # where to begin if a worker is lost
        del start
        while again is not None:
            ownership = deal(self.scale.tiles, [1.0] * self.pool.muster(len(self.scale.tiles)))
            hearing.begin(ownership)
            events = self.pool.together(self._works(again, ownership, due))
            again = again if self.pool.mortal else None  # nobody needs the first image any longer
            try:
                for state in hearing.states(events):
                    again = again and again.after(hearing.kept)
                    yield state
                return
            except RanksLost as lost:
                if isinstance(lost, HandedLost) and again is first:  # nothing was kept yet: what it began with is lost
                    first = first and first.without_carried(self.scale.content.size, lost)
                again = first if isinstance(lost, HandedLost) else again and again.after(hearing.kept)
                losses = 1 if hearing.kept else losses + 1
                if losses > MAX_LOSSES:
                    raise WorkerLost(f"workers were lost {losses} times in a row: {lost}") from None

    def result(self, end: ExactState) -> ScaleResult:
        assert end.end is not None, "the scale has not come to its end"
        return end.end

    def _works(self, start: ExactState, ownership: Ownership, due: Due) -> list[PaintShard]:
        """What each rank is to do, from the first image or from what was kept."""
        scale = self.scale
        keeps = frozenset(range(KEEP_EVERY, scale.steps, KEEP_EVERY) if self.pool.mortal else ())
        return [
            PaintShard(
                ownership=ownership,
                content={tile.index: scale.content.read(tile.read) for tile in ownership.of(rank)},
                style=scale.style,
                resolved=self.resolved,
                graphs=scale.kept,
                course=Course(scale.steps, due.previews, due.snapshots | keeps),
                pixels={} if start.first is None else own_pixels(start.first, ownership.shard(rank)),
                carried=None if start.kept else start.carried,
                kept=start.kept,
                masks={tile.index: scale.masks.read(tile.read) for tile in ownership.of(rank)} if scale.masks else {},
            )
            for rank in range(ownership.ranks)
        ]


def own_pixels(image: PaintedImage, shard: Shard) -> dict[int, np.ndarray]:
    """The cores of a shard (3, h, w)."""
    return {index: image.read(core) for index, core in shard.cores.items()}


class Hearing:
    """Puts together what ranks tell, over all attempts at a scale. kept: what all of them have last handed out, in this
    attempt."""

    def __init__(self, scale: Scale, report: Report, due: Due, step: int) -> None:
        self._scale, self._report, self._due = scale, report, due
        self._reported = self._passed = step  # the last step that was reported, and whose state was passed on

    def begin(self, ownership: Ownership) -> None:
        """Another attempt: what some of the ranks had told in the one before is worth nothing."""
        self.kept: Kept | None = None
        self._ownership = ownership
        self._steps: deque[int] = deque()  # reported, but their states not passed on yet
        self._previews: dict[int, list[Sequence[PreviewPart]]] = defaultdict(list)
        self._keeps: dict[int, dict[int, Shared]] = defaultdict(dict)
        self._ends: dict[int, Handed] = {}
        self._shown: dict[int, np.ndarray] = {}
        self._snapshots: dict[int, Kept] = {}

    def states(self, events: Events) -> Iterator[ExactState]:
        """Each state once all that is due with it is there, the last one with its end."""
        while True:
            try:
                rank, event = next(events)
            except StopIteration as end:
                yield replace(self._state(self._reported), end=self._result(end.value[0]))
                return
            self._hear(rank, event)
            while self._steps and self._complete(self._steps[0]):
                self._passed = self._steps.popleft()
                yield self._state(self._passed)

    def _state(self, step: int) -> ExactState:
        shown, kept = self._shown.pop(step, None), self._snapshots.pop(step, None)
        return ExactState(step, len(self._scale.tiles), shown=shown, kept=kept)

    def _complete(self, step: int) -> bool:
        """Whether a state can be passed on; the last one waits for the end."""
        lacks_preview = step in self._due.previews and step not in self._shown
        lacks_snapshot = step in self._due.snapshots and step not in self._snapshots
        return step < self._scale.steps and not lacks_preview and not lacks_snapshot

    def _hear(self, rank: int, event: Any) -> None:
        match event:
            case Progress(step) if rank == 0:
                if step > self._reported:
                    self._reported = step
                    self._report(None, event)
                if step > self._passed:
                    self._steps.append(step)
            case Preview(step, parts):
                self._hear_preview(step, parts)
            case Handed(KeptHere() as label, vectors):
                self._hear_kept(rank, label, vectors)
            case Handed(End()):
                self._ends[rank] = event

    def _hear_preview(self, step: int, parts: Sequence[PreviewPart]) -> None:
        self._previews[step].append(parts)
        if len(self._previews[step]) == self._ownership.ranks and step > self._passed:
            each = [part for parts in self._previews.pop(step) for part in parts]
            self._shown[step] = Reduction.of_framed(self._ownership.size).picture(each)

    def _hear_kept(self, rank: int, label: KeptHere, vectors: Shared) -> None:
        self._keeps[label.step][rank] = vectors
        if len(self._keeps[label.step]) == self._ownership.ranks:
            self.kept = Kept(label.step, self._parts(self._keeps.pop(label.step)), label.numbers, label.aliases)
            if label.step in self._due.snapshots and label.step > self._passed:
                self._snapshots[label.step] = self.kept

    def _parts(self, vectors: dict[int, Shared]) -> list[Part]:
        return [Part(self._ownership.shard(rank), vectors[rank]) for rank in sorted(vectors)]

    def _result(self, loss: float) -> ScaleResult:
        parts = self._parts({rank: end.value for rank, end in self._ends.items()})
        size, end = self._ownership.size, self._ends[0].label
        if end.setback is not None:  # what the optimiser has learnt has led astray
            return ScaleResult(InParts(parts, size), loss, setbacks=[end.setback])
        return ScaleResult(InParts(parts, size), loss, Learnt(parts, end.numbers, size))
