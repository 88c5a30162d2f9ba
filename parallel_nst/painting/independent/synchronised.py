"""Independent tiles that exchange their overlaps and their Gram means every few steps.

Between exchanges a tile works with what it was told: the others' Gram means grow stale, nothing else does. Each keeps
what its optimiser has learnt over the exchange. A tile whose worker was lost goes on from the last exchange with a
fresh optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from parallel_nst.painting.gatys.minimise import PATIENCE, Setback, grown
from parallel_nst.painting.gatys.sums import Grams
from parallel_nst.painting.independent.blended import blended
from parallel_nst.painting.independent.targets import measured_grams, shares, tile_targets
from parallel_nst.painting.independent.tasks import PackState, Round, tile_task
from parallel_nst.painting.mode import Due, Report
from parallel_nst.painting.named_tensors import prefixed
from parallel_nst.painting.planning.scales import InOnePiece, Scale, ScaleResult, enlarged, unframed, unframed_size
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.workers.pool import Pinned, Pool

PackedState = Mapping[str, Tensor] | None  # None: there is none


@dataclass(frozen=True, eq=False)
class Exchange:
    """What synchronised tiles have between two rounds: the blended picture (3, H, W), the steps done, the loss and each
    tile's Gram means. states: asks for each tile's packed optimiser state. best: the best picture so far, each held
    against fresh targets once the next round begins, and its loss; worse: the steps since the loss has grown
    (`minimise.GROWN`). See `ScaleState`."""

    pixels: np.ndarray
    step: int
    loss: float
    grams: Sequence[Grams]
    states: Callable[[], Sequence[PackedState]]
    blend_seconds: float = 0.0
    best: tuple[np.ndarray, float] | None = None
    worse: int = 0

    @property
    def done(self) -> Sequence[int]:
        return [self.step] * len(self.grams)

    def preview(self) -> np.ndarray:
        return unframed(self.pixels.clip(0, 1))

    def snapshot(self, scale: int) -> Snapshot:
        tensors = {"pixels": torch.from_numpy(self.pixels)}
        for index, (grams, state) in enumerate(zip(self.grams, self.states(), strict=True)):
            tensors |= prefixed(f"grams.{index}", grams) | prefixed(f"state.{index}", state or {})
        numbers = {"loss": self.loss, "worse": float(self.worse)}
        if self.best is not None:
            tensors["best"], numbers["best"] = torch.from_numpy(self.best[0]), self.best[1]
        return Snapshot(scale, self.step, tensors, numbers)


@dataclass(frozen=True)
class Synchronised:
    """See `Mode`. series: the name under which workers keep what a tile's optimiser has learnt."""

    scale: Scale
    resolved: ResolvedRecipe
    pool: Pool
    series: str = field(default_factory=lambda: uuid4().hex)

    def start(self, pixels: np.ndarray, carried: Any = None) -> Exchange:
        grams = measured_grams(pixels, self.scale, self.resolved, self.pool)
        return Exchange(pixels, 0, 0.0, grams, lambda: [None] * len(grams))

    def follow(self, before: ScaleResult) -> Exchange:
        return self.start(enlarged(before.pixels, unframed_size(self.scale.content.size)))

    def restored(self, snapshot: Snapshot) -> Exchange:
        tiles = range(len(self.scale.tiles))
        states = [snapshot.under(f"state.{index}") or None for index in tiles]
        return Exchange(
            pixels=snapshot.tensors["pixels"].numpy(),
            step=snapshot.step,
            loss=snapshot.numbers["loss"],
            grams=[snapshot.under(f"grams.{index}") for index in tiles],
            states=lambda: states,
            best=best_in(snapshot),
            worse=int(snapshot.numbers["worse"]),
        )

    def states(self, start: Exchange, report: Report, due: Due) -> Iterator[Exchange]:
        now, states = start, start.states()
        del start
        while now.step < self.scale.steps and now.worse < PATIENCE:
            now = self._after_round(now, states, report)
            states = [None] * len(states)  # the workers have them
            yield now

    def result(self, end: Exchange) -> ScaleResult:
        if end.best is None or not (end.worse >= PATIENCE or grown(end.loss, end.best[1])):
            return ScaleResult(InOnePiece(end.pixels), end.loss, blend_seconds=end.blend_seconds)
        pixels, loss = end.best
        kept, lost = InOnePiece(pixels.clip(0, 1)), Setback(end.step, end.loss, loss)
        return ScaleResult(kept, loss, blend_seconds=end.blend_seconds, setbacks=[lost])

    def _after_round(self, now: Exchange, states: Sequence[PackedState], report: Report) -> Exchange:
        """The next exchange. states: what tiles are given of their optimisers."""
        scale, tiling = self.scale, self.resolved.recipe.tiling
        until = min(scale.steps, now.step + tiling.sync_every)
        targets = tile_targets(scale, self.resolved, now.grams)
        tasks = []
        for tile, target, state in zip(scale.tiles, targets, states, strict=True):
            task = tile_task(now.pixels, scale, tile, target, self.resolved)
            tasks.append(Pinned(tile.index, replace(task, round=Round(self.series, now.step, until, state))))
        results = dict(self.pool.map_pinned(tasks, report))
        tiles = [results[tile.index] for tile in scale.tiles]
        picture = blended(scale, tiling.overlap, tiles)
        blending = now.blend_seconds + picture.blend_seconds
        grams = [tile.grams for tile in tiles]
        first = sum(share * tile.first for share, tile in zip(shares(scale.tiles), tiles, strict=True))
        best = now.best if now.best and not first < now.best[1] else (now.pixels, first)
        worse = now.worse + until - now.step if grown(first, best[1]) else 0
        return Exchange(picture.pixels, until, picture.loss, grams, self._packed_states, blending, best, worse)

    def _packed_states(self) -> list[PackedState]:
        """What the workers have kept of each tile's optimiser."""
        tasks = [Pinned(tile.index, PackState(self.series, tile.index)) for tile in self.scale.tiles]
        packed = dict(self.pool.map_pinned(tasks))
        return [packed[tile.index] for tile in self.scale.tiles]


def best_in(snapshot: Snapshot) -> tuple[np.ndarray, float] | None:
    """The best picture that a snapshot has kept."""
    return (snapshot.tensors["best"].numpy(), snapshot.numbers["best"]) if "best" in snapshot.tensors else None
