"""A picture painted as one objective, seen from the program that has the workers: it hands out the picture, listens,
and collects; if a worker is lost, or its memory does not suffice, it lets all go on from what they have kept."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from parallel_nst.errors import OutOfMemory
from parallel_nst.painting.exact.attempts import Attempts
from parallel_nst.painting.exact.kept import Kept, kept_in
from parallel_nst.painting.exact.pace import dealt_by_speed
from parallel_nst.painting.exact.parts import InParts, Part
from parallel_nst.painting.exact.preview import PreviewPart, Reduction
from parallel_nst.painting.exact.rank import Course, End, KeptHere, PaintShard, Preview
from parallel_nst.painting.exact.state import ExactState, Learnt
from parallel_nst.painting.mode import Due, Report
from parallel_nst.painting.planning.scales import (
    InOnePiece,
    PaintedImage,
    Scale,
    ScaleResult,
    enlarged,
    unframed_size,
)
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.painting.tiles.geometry import Rect
from parallel_nst.painting.tiles.ownership import Ownership
from parallel_nst.workers.pool import Events, Handed, Made, Pool, RanksLost, Shared, Works
from parallel_nst.workers.worker import Progress

KEEP_EVERY = 10  # steps after which ranks that may die keep what is needed to go on: about 2 % of their time


@dataclass(frozen=True)
class Exact:
    """See `Mode`. On as many ranks as there are workers; the bits depend neither on their number nor on what becomes of
    them.

    budget: what the scale was cut for; without it tiles are not cut finer where the memory does not suffice, and not
    dealt by speed.
    """

    scale: Scale
    resolved: ResolvedRecipe
    pool: Pool
    budget: Budget | None = None

    def start(self, pixels: np.ndarray, carried: Learnt | None = None) -> ExactState:
        image = InOnePiece(pixels)
        if carried is None:
            return ExactState(0, len(self.scale.tiles), image)
        learnt = carried.at(self.scale.content.size)
        return ExactState(0, len(self.scale.tiles), image, learnt, speeds=carried.speeds)

    def follow(self, before: ScaleResult) -> ExactState:
        """After a scale in parts, each rank makes its own part of the first image from those."""
        size = self.scale.content.size
        if isinstance(learnt := before.carried, Learnt):
            spare = before.pixels if self.pool.mortal else None
            return ExactState(0, len(self.scale.tiles), None, learnt.at(size), spare, learnt.speeds)
        if before.image.size == size:
            return ExactState(0, len(self.scale.tiles), before.image)
        return self.start(enlarged(before.pixels, unframed_size(size)))

    def restored(self, snapshot: Snapshot) -> ExactState:
        kept = kept_in(snapshot, self.pool.share)
        return ExactState(kept.step, len(self.scale.tiles), kept=kept)

    def states(self, start: ExactState, report: Report, due: Due) -> Iterator[ExactState]:
        """As `Mode.states`. WorkerLost when workers die again and again; OutOfMemory when no tiles are small enough."""
        hearing = Hearing(self.scale, report, due, start.step)
        attempts = Attempts(start, self.scale, self.resolved, self.pool, self.budget)
        del start
        while True:
            scale, ranks = attempts.scale, self.pool.muster(len(attempts.scale.tiles))
            ownership = dealt_by_speed(scale, ranks, attempts.speeds, self.budget, self.resolved.recipe)
            hearing.begin(ownership)
            events = self.pool.together(self._works(scale, attempts.handed_out(), ownership, due))
            try:
                for state in hearing.states(events):
                    attempts.passed(hearing.kept)
                    yield state
                return
            except OutOfMemory as lack:
                hearing.notes.append(attempts.cut_finer(lack, hearing.kept))
            except RanksLost as lost:
                attempts.begin_again(lost, hearing.kept)

    def result(self, end: ExactState) -> ScaleResult:
        assert end.end is not None, "the scale has not come to its end"
        return end.end

    def _works(self, scale: Scale, start: ExactState, ownership: Ownership, due: Due) -> Works:
        """What each rank is to do, from the first image or from what was kept."""
        first = start.first
        keeps = frozenset(range(KEEP_EVERY, scale.steps, KEEP_EVERY) if self.pool.mortal else ())
        course = Course(scale.steps, due.previews, due.snapshots | keeps, carries=not scale.last)

        def shared(picture: PaintedImage, rect: Rect) -> Shared:
            return self.pool.share(Made(partial(picture.read, rect)))

        def work(rank: int) -> PaintShard:
            tiles, cores = ownership.of(rank), ownership.shard(rank).cores.items()
            return PaintShard(
                ownership=ownership,
                content={tile.index: shared(scale.content, tile.read) for tile in tiles},
                style=scale.style,
                resolved=self.resolved,
                graphs=scale.kept,
                course=course,
                pixels={} if first is None else {index: shared(first, core) for index, core in cores},
                carried=None if start.kept else start.carried,
                kept=start.kept,
                masks={tile.index: shared(scale.masks, tile.read) for tile in tiles} if scale.masks else {},
            )

        return Works(ownership.ranks, work)


class Hearing:
    """Puts together what ranks tell, over all attempts at a scale. kept: what all of them have last handed out, in this
    attempt. notes: what became of the attempts before, for the result."""

    def __init__(self, scale: Scale, report: Report, due: Due, step: int) -> None:
        self._scale, self._report, self._due = scale, report, due
        self.notes: list[str] = []
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
            return ScaleResult(InParts(parts, size), loss, setbacks=[end.setback], notes=self.notes)
        if self._scale.last:
            return ScaleResult(InParts(parts, size), loss, notes=self.notes)
        speeds = [self._ends[rank].label.speed for rank in range(self._ownership.ranks)]
        return ScaleResult(InParts(parts, size), loss, Learnt(parts, end.numbers, size, speeds), notes=self.notes)
