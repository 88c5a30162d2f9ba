"""What every way of painting a scale offers to the run: states to go through, each of which can be looked at and kept.

The ways: `exact` (one objective over the whole picture), `independent` (each tile by itself).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from parallel_nst.painting.planning.scales import ScaleResult
from parallel_nst.painting.snapshots import Snapshot
from parallel_nst.workers.worker import Progress

Report = Callable[[int | None, Progress], None]  # (index of the tile or None for all of them, what it did)


@dataclass(frozen=True)
class Due:
    """After which steps of the scale the state will be looked at (`preview`), and after which it will be kept."""

    previews: frozenset[int] = frozenset()
    snapshots: frozenset[int] = frozenset()


class ScaleState(Protocol):
    """Where a scale stands between two steps. It can be looked at and kept until the next one comes."""

    @property
    def step(self) -> int | None:
        """Steps done by the whole picture; None while each tile is at a step of its own."""
        ...

    @property
    def done(self) -> Sequence[int]:
        """Steps done, tile by tile."""
        ...

    def preview(self) -> np.ndarray:
        """The image as it is now, (H, W, 3) in [0, 1]; a large one may be made smaller."""
        ...

    def snapshot(self, scale: int) -> Snapshot:
        """All that is needed to go on from here. scale: the number to write on it."""
        ...


State = TypeVar("State", bound=ScaleState)


class Mode(Protocol[State]):
    """A way to paint one scale."""

    def start(self, pixels: np.ndarray, carried: Any = None) -> State:
        """The first state. pixels: (3, H, W) with its frame. carried: what the scale before left for one of the same
        mode (`ScaleResult.carried`)."""
        ...

    def follow(self, before: ScaleResult) -> State:
        """The first state, after the scale before."""
        ...

    def restored(self, snapshot: Snapshot) -> State:
        """The state that a snapshot of this mode holds."""
        ...

    def states(self, start: State, report: Report, due: Due) -> Iterator[State]:
        """Those after `start`, which is let go of with the first of them. report: told of every step. due: what states
        will be asked for, where they are states of the whole picture."""
        ...

    def result(self, end: State) -> ScaleResult:
        """What comes of the last state."""
        ...
