"""Works the queue: paintings one after the other on the pool, models beside them on the instant stylizer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch

from parallel_nst.errors import ClusterUnavailable, PnstError, WorkerLost, message_of
from parallel_nst.files.digests import digest_of, file_digest
from parallel_nst.files.images import Picture, fit, read_image, resize, write_image
from parallel_nst.files.size import Size
from parallel_nst.jobs.picture import check_memory, write_preview
from parallel_nst.painting.scale_run import RunCallbacks, RunStatus
from parallel_nst.painting.snapshots import Snapshot, load_snapshot, save_snapshot
from parallel_nst.painting.sources import SourcePictures
from parallel_nst.painting.stylize import stylize_sources
from parallel_nst.recipe import Recipe
from parallel_nst.web.board import Board, Live
from parallel_nst.web.instant import InstantRequest, InstantStylizer
from parallel_nst.web.requests import model_text, recipe_of
from parallel_nst.web.store import JobFiles, JobStore, Kind, QueuedJob
from parallel_nst.workers.pool import Pool

PREVIEW_EVERY = 4  # steps
SNAPSHOT_EVERY = {512: 5, 2048: 10}  # steps, by longest side: a snapshot is a dozen pictures large
SNAPSHOT_ELSE = 20
NO_LIMIT = 1 << 40  # px: of the server's own files, which it has measured when they came

OpenPool = Callable[[], Pool]


class Halted(Exception):
    """The job that runs is to end now: it was cancelled, or the server ends."""


class Runner:
    """A thread for each kind of job."""

    def __init__(self, store: JobStore, board: Board, instant: InstantStylizer, open_pool: OpenPool) -> None:
        self._store, self._board, self._instant, self._open_pool = store, board, instant, open_pool
        self._pool: Pool | None = None
        self._cancelled: set[str] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, args=(kind, run), name=f"pnst-{kind}", daemon=True)
            for kind, run in (("painting", self._paint), ("model", self._generate))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def look(self) -> None:
        """There is a new job in the store."""
        with self._changed:
            self._changed.notify_all()

    def cancel(self, job: str) -> bool:
        """Whether a job was waiting or running; one that runs lets go of the workers after its step."""
        if not self._store.cancel(job):
            return False
        self._cancelled.add(job)
        self._board.touch(job)
        return True

    def close(self) -> None:
        """End after the step that is being done; the job goes on when the next server starts."""
        self._stopping = True
        self.look()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self, kind: Kind, run: Callable[[QueuedJob], Size]) -> None:
        while True:
            with self._changed:
                job = None if self._stopping else self._store.claim(kind)
                if job is None and not self._stopping:
                    self._changed.wait(1.0)
            if self._stopping:
                if job is not None:
                    self._store.put_back(job.id, blameless=True)
                break
            if job is not None:
                self._run(job, run)
        if kind == "painting":
            self._close_pool()

    def _run(self, job: QueuedJob, run: Callable[[QueuedJob], Size]) -> None:
        """One job, however it ends."""
        self._board.touch(job.id)
        try:
            size = run(job)
            self._store.end(job.id, "done", size=size)
        except Halted:
            if self._stopping:
                self._store.put_back(job.id, blameless=True)
        except (PnstError, ValueError, OSError) as error:
            if isinstance(error, (WorkerLost, ClusterUnavailable)):
                self._close_pool()
            self._store.end(job.id, "failed", message_of(error))
        except (MemoryError, RuntimeError) as error:
            told = "not enough memory; give a smaller size" if is_memory(error) else message_of(error)
            self._store.end(job.id, "failed", told)
        except Exception as error:
            self._store.end(job.id, "failed", f"{type(error).__name__}: {message_of(error)}")
        finally:
            self._cancelled.discard(job.id)
            self._board.drop(job.id)
            if not self._stopping:
                with suppress(OSError):
                    self._store.files(job.id).snapshot.unlink(missing_ok=True)

    def _check(self, job: QueuedJob) -> None:
        """Halted where the job is not to go on."""
        if self._stopping or job.id in self._cancelled:
            raise Halted

    def _paint(self, job: QueuedJob) -> Size:
        """Gatys' optimisation; the size of the result."""
        files, recipe = self._store.files(job.id), recipe_of(job.settings["recipe"])
        content, style = read_image(files.content, max_pixels=NO_LIMIT), read_image(files.style, max_pixels=NO_LIMIT)
        check_memory(content.size, style.size, recipe, None)
        identity = identity_of(files, recipe)
        pool = self._pool = self._pool or self._open_pool()
        watch = Watch(self._board, job.id)

        def on_status(status: RunStatus) -> None:
            self._check(job)
            watch.tell(status)

        callbacks = RunCallbacks(
            on_status=on_status,
            preview_every=PREVIEW_EVERY,
            on_preview=lambda pixels: write_preview(files.preview, pixels),
            snapshot_every=snapshot_every(recipe.size),
            on_snapshot=lambda snapshot: save_snapshot(files.snapshot, snapshot, identity),
        )
        self._check(job)
        sources = SourcePictures(content, [style])
        made = stylize_sources(sources, recipe, pool, callbacks, resume=resumed(files, identity))
        return self._written(job, made.picture, recipe.to_toml())

    def _generate(self, job: QueuedJob) -> Size:
        """One pass of a generator; the size of the result."""
        files, settings = self._store.files(job.id), job.settings
        content = read_image(files.content, max_pixels=NO_LIMIT)
        style = read_image(files.style, max_pixels=NO_LIMIT) if files.style.exists() else None
        content = sized(content, settings["size"])
        future = self._instant.submit(
            InstantRequest(settings["model"], content, style, settings["strength"]), patient=True
        )
        try:
            picture = future.result()
        except CancelledError:
            raise Halted from None
        return self._written(job, picture, model_text(settings))

    def _written(self, job: QueuedJob, picture: Picture, settings: str) -> Size:
        """Write the result, unless nobody wants it any more."""
        self._check(job)
        files = self._store.files(job.id)
        write_preview(files.preview, picture.pixels)
        write_image(files.result, picture, settings=settings)
        return picture.size

    def _close_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


class Watch:
    """Turns the status of a run into how far it is and how long it will take."""

    def __init__(self, board: Board, job: str) -> None:
        self._board, self._job = board, job
        self._began: tuple[float, float] | None = None  # time and share of the first step

    def tell(self, status: RunStatus) -> None:
        now = time.monotonic()
        began, first = self._began = self._began or (now, status.share)
        done = status.share - first
        left = (now - began) / done * (1 - status.share) if done > 0 else None
        live = Live(status.share, status.scale, status.scales, status.step, status.steps, status.loss, left)
        self._board.update(self._job, live)


def snapshot_every(size: int) -> int:
    """Steps between two snapshots of a picture whose longer side has `size` px."""
    return next((steps for longest, steps in SNAPSHOT_EVERY.items() if size <= longest), SNAPSHOT_ELSE)


def identity_of(files: JobFiles, recipe: Recipe) -> str:
    """A digest of all that the picture depends on."""
    parts = (recipe.digest(), file_digest(files.content), file_digest(files.style))
    return digest_of(text.encode() for text in parts)


def resumed(files: JobFiles, identity: str) -> Snapshot | None:
    """Where an earlier server left off; None where it did not get so far."""
    if not files.snapshot.exists():
        return None
    try:
        return load_snapshot(files.snapshot, identity)
    except ValueError:
        return None


def sized(picture: Picture, longest: int) -> Picture:
    """A picture with its longer side brought to `longest` px."""
    if longest == max(picture.size):
        return picture
    size = fit(picture.size, longest)
    alpha = None if picture.alpha is None else resize(picture.alpha, size)
    return replace(picture, pixels=np.ascontiguousarray(resize(picture.pixels, size)), alpha=alpha)


def is_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
