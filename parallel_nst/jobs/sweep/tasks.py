"""A cell of a sweep as a task of a pool."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field

from parallel_nst.errors import message_of
from parallel_nst.files.images import Picture
from parallel_nst.painting.gatys.objective import parts_of
from parallel_nst.painting.scale_run import RunCallbacks, RunStatus
from parallel_nst.painting.sources import SourcePictures
from parallel_nst.painting.stylize import stylize_sources
from parallel_nst.recipe import Recipe
from parallel_nst.workers.pool import SerialPool, Shared
from parallel_nst.workers.worker import Progress, Worker


@dataclass(frozen=True, eq=False)
class PaintedCell:
    """What came of a cell. picture: None where there is none, and `error` says why. parts: of the loss of the last
    step, by name; loss: of the picture. seconds: of painting. notes: what the user should be told of it."""

    picture: Picture | None = None
    loss: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaintCell:
    """A stylisation by one worker -> PaintedCell; what goes wrong with it is its result, so that others go on."""

    content: Shared
    style: Picture
    recipe: Recipe

    def run(self, worker: Worker) -> Generator[Progress, None, PaintedCell]:
        began, last = time.perf_counter(), dict[str, float]()

        def heard(status: RunStatus) -> None:
            last.update(parts_of(status.loss))

        try:
            sources = SourcePictures(self.content.get(), [self.style])
            pool = SerialPool(worker.spec, worker)
            made = stylize_sources(sources, self.recipe, pool, RunCallbacks(on_status=heard))
        except (ValueError, RuntimeError, MemoryError) as error:
            return PaintedCell(error=message_of(error), seconds=time.perf_counter() - began)
        return PaintedCell(made.picture, made.loss, last, time.perf_counter() - began, notes=made.notes)
        yield
