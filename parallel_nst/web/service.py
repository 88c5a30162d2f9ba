"""Everything that a server consists of behind its addresses, opened and closed together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from parallel_nst.files.locks import folder_lock
from parallel_nst.recipe import Recipe
from parallel_nst.web.board import Board
from parallel_nst.web.catalogue import Catalogue
from parallel_nst.web.decoders import Decoders
from parallel_nst.web.instant import InstantStylizer, Painter
from parallel_nst.web.metrics import JobGauges, Metrics, PainterGauges
from parallel_nst.web.runner import OpenPool, Runner
from parallel_nst.web.settings import PictureSettings, ServeSettings
from parallel_nst.web.store import JobStore
from parallel_nst.workers.opening import Workload, open_pool
from parallel_nst.workers.pool import Pool

DAY = 86_400  # seconds
BETWEEN_CLEANINGS = 600.0  # seconds
MOST_INSTANT = 64  # requests of /v1/stylize that may wait


@dataclass(frozen=True, kw_only=True)
class PictureService:
    """What it takes to answer with pictures at once. incoming: folder for what is being read. ready: whether there is
    somebody who works."""

    settings: PictureSettings
    incoming: Path
    decoders: Decoders
    catalogue: Catalogue
    painter: Painter
    metrics: Metrics
    ready: Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Service(PictureService):
    """And to keep a queue of jobs."""

    settings: ServeSettings
    store: JobStore
    board: Board
    runner: Runner


@contextmanager
def opened(
    settings: ServeSettings, notify: Callable[[str], None] = lambda line: None, pool: OpenPool | None = None
) -> Iterator[Service]:
    """A server's parts at work. notify: takes each line that the user should be told. pool: how the workers are had;
    None: as the settings say. BadInput where another server uses the folder."""
    with ExitStack() as stack:
        store = stack.enter_context(opened_store(settings.folder))
        tell_recovery(store, notify)
        catalogue = catalogue_of(settings, notify)
        decoders = Decoders(settings.max_pixels)
        stack.callback(decoders.close)
        board = Board()
        instant = InstantStylizer(catalogue, MOST_INSTANT)
        stack.callback(instant.close)
        runner = Runner(store, board, instant, pool or (lambda: pool_of(settings, notify)))
        runner.start()
        stack.callback(runner.close)
        stack.callback(board.close)
        stack.enter_context(cleaning(store, settings.keep))
        yield Service(
            settings=settings,
            incoming=store.incoming,
            decoders=decoders,
            catalogue=catalogue,
            painter=instant,
            metrics=Metrics(PainterGauges(instant), JobGauges(store, board)),
            ready=lambda: runner.alive,
            store=store,
            board=board,
            runner=runner,
        )


@contextmanager
def opened_store(folder: Path) -> Iterator[JobStore]:
    """The jobs of a folder, which no other server has meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, f"{folder} is in use by another server; stop that one, or give another --folder"):
        store = JobStore(folder)
        try:
            yield store
        finally:
            store.close()


def catalogue_of(settings: PictureSettings, notify: Callable[[str], None]) -> Catalogue:
    """The generators of a server; a line for each that cannot be read."""
    catalogue = Catalogue(settings.models)
    for line in catalogue.left_out:
        notify(f"left out: {line}")
    return catalogue


def pool_of(settings: ServeSettings, notify: Callable[[str], None]) -> Pool:
    """The workers that the settings ask for."""
    return open_pool(
        Recipe(),
        workers=settings.workers,
        address=settings.address,
        in_process=settings.in_process,
        notify=notify,
        workload=Workload(),
    )


def tell_recovery(store: JobStore, notify: Callable[[str], None]) -> None:
    """Account for the jobs of an earlier server."""
    again, gone = store.recover()
    if again or gone:
        notify(f"of the last server's jobs {again} go on and {gone} are interrupted")


@contextmanager
def cleaning(store: JobStore, days: float | None) -> Iterator[None]:
    """Remove old jobs now and then, in a thread, until the block ends."""
    over = threading.Event()

    def clean(seconds: float) -> None:
        while not over.is_set():
            store.remove_older(seconds)
            over.wait(BETWEEN_CLEANINGS)

    if days is None:
        yield
        return
    thread = threading.Thread(target=clean, args=(days * DAY,), name="pnst-cleaning", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
