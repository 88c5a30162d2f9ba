"""Many pictures from files to files: what there is to do, doing it with any model over any pool, and a manifest of what
was done, so that a batch that was stopped goes on where it was."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from parallel_nst.errors import BadInput
from parallel_nst.files.whole_files import remove_leftovers
from parallel_nst.jobs.batch.inputs import find_inputs
from parallel_nst.jobs.batch.manifest import Entry, Manifest
from parallel_nst.jobs.batch.methods import Method, gatys_method, generator_method
from parallel_nst.jobs.batch.outputs import BatchPicture, plan_outputs
from parallel_nst.jobs.batch.pending import decide, earlier_outputs
from parallel_nst.jobs.batch.stamps import Settings, stamp_of
from parallel_nst.jobs.batch.stylizers import Stylizer
from parallel_nst.jobs.batch.tasks import FileOutcome, FileWork, PaintFiles, Writing
from parallel_nst.jobs.requests.batch import FolderJob
from parallel_nst.painting.planning.footprint import PROCESS, RAY
from parallel_nst.painting.planning.memory import machine_memory, memory_text, parse_memory
from parallel_nst.recipe import Recipe
from parallel_nst.workers.crew import CrewSpec
from parallel_nst.workers.opening import Workload, open_workers
from parallel_nst.workers.pool import Failed, Pool, worker_memory

UNSTAMPED = (".bmp",)  # formats that cannot say what they were made from
TASK_BYTES = 4 << 20  # of the files of one task; a larger one goes by itself
ROUNDS = 4  # tasks of each worker at least, where there are so many pictures: none waits long for the last


@dataclass(frozen=True)
class FolderStatus:
    """How far a batch is: pictures painted, failed, and to be done at all; pictures a second."""

    done: int
    failed: int
    total: int
    per_second: float


@dataclass(frozen=True)
class BatchRun:
    """Who painted, in which precision, how many pictures, in how many seconds from the first task to the last result,
    waiting for workers left out."""

    painted: int = 0
    dtype: str = ""
    workers: int = 0
    threads: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class FolderReport:
    """What came of a batch. entries: of all its pictures, in order. skipped: how many were there already; failed: how
    many could not be painted. seconds: from beginning to end. ran: see `BatchRun`."""

    entries: tuple[Entry, ...]
    skipped: int
    failed: int
    model: str
    seconds: float
    ran: BatchRun

    @property
    def failures(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.state == "failed"]


Notify = Callable[[str], None]
OnFolder = Callable[[FolderStatus], None]


def paint_folder(
    job: FolderJob, notify: Notify, on_status: OnFolder | None = None, stdin: TextIO | None = None
) -> FolderReport:
    """Paint all pictures that need it. notify: takes each line the user should be told. ValueError or OSError, in one
    line, for what concerns the batch as a whole; what concerns one picture stands in its entry."""
    began = time.perf_counter()
    memory_given(job)  # what is wrong with it is said before anything is done
    made = earlier_outputs(job.out, job.suffix, stamp_of)
    sources = find_inputs(job.source, stdin, out=job.out)
    pictures = plan_outputs(sources, job.out, job.format, job.suffix, made=made)
    method = method_of(job)
    writing = Writing(
        f"{method.digest}-{job.written_quality}", settings_of(job, method), job.written_quality, job.max_pixels
    )
    with Manifest.open(job.out) as manifest:
        for note in manifest.notes:
            notify(note)
        todo = sorted_out(pictures, manifest, writing.recipe, overwrite=job.overwrite)
        remove_leftovers(picture.output for picture in pictures)
        ran = paint_all(job, method, writing, todo, manifest, notify, on_status) if todo else BatchRun()
        entries = tuple(manifest.entries[picture.name] for picture in pictures)
    failed = sum(entry.state == "failed" for entry in entries)
    skipped = len(pictures) - ran.painted - failed
    return FolderReport(entries, skipped, failed, method.name, time.perf_counter() - began, ran)


def method_of(job: FolderJob) -> Method:
    """What the job paints with; BadInput, in one line, for what is wrong with it."""
    if job.optimises:
        assert job.style is not None
        return gatys_method(job.recipe, job.style, job.weights, job.max_pixels)
    return generator_method(job.model, job.style, job.options, job.max_pixels)


def settings_of(job: FolderJob, method: Method) -> Settings:
    """What an output's metadata tell of how it was made."""
    named = {"model": method.name} | ({} if job.style is None else {"style": job.style.name})
    return {**named, **(flat(job.recipe) if job.optimises else asdict(job.options))}


def flat(recipe: Recipe) -> Settings:
    """The plain knobs of a recipe."""
    return {name: value for name, value in asdict(recipe).items() if isinstance(value, str | int | float | bool)}


def sorted_out(
    pictures: Sequence[BatchPicture], manifest: Manifest, recipe: str, *, overwrite: bool
) -> list[BatchPicture]:
    """Those to be painted; what is known of the others without painting is noted in the manifest."""
    todo = []
    for picture in pictures:
        decision = decide(picture, manifest.entries.get(picture.name), recipe, overwrite=overwrite, stamp_of=stamp_of)
        if decision.entry is not None:
            manifest.append(decision.entry)
        if decision.paint:
            todo.append(picture)
            if picture.output.suffix.lower() in UNSTAMPED and not os.path.lexists(picture.output):
                manifest.append(begun(picture, recipe))
    return todo


def begun(picture: BatchPicture, recipe: str) -> Entry:
    """Said of a picture before it is painted, so that after a kill what lies at its output is known for a batch's."""
    error = "the batch was stopped before it was known to be done"
    return Entry(picture.name, str(picture.source.path), "failed", recipe=recipe, error=error, made_before=True)


def paint_all(
    job: FolderJob,
    method: Method,
    writing: Writing,
    todo: Sequence[BatchPicture],
    manifest: Manifest,
    notify: Notify,
    on_status: OnFolder | None,
) -> BatchRun:
    """Paint these, each noted in the manifest as soon as it is there."""
    wanted = CrewSpec(job.workers, job.recipe.device, job.address, job.in_process, job.workers_per_gpu)
    with open_workers(wanted, Workload(len(todo), "picture"), method.weights, job.dtype, notify) as pool:
        stylizer = method.stylizer(pool.spec, memory_of_one(job, pool))
        progress = BatchProgress(len(todo), on_status)
        for picture, outcome in outcomes(todo, pool, stylizer, writing):
            manifest.append(entry_of(picture, outcome, writing.recipe))
            progress.count(outcome)
        return BatchRun(progress.done, stylizer.dtype, pool.size, pool.crew.threads, progress.seconds - pool.waited)


def memory_given(job: FolderJob) -> int | None:
    """Bytes that all workers may take; BadInput for a text that is no size."""
    return None if job.memory is None else parse_memory(job.memory)


def memory_of_one(job: FolderJob, pool: Pool) -> int:
    """Bytes that a worker may take: its share of what is given, or of what there is; of its own GPU, all."""
    memory, crew, known = memory_given(job), pool.crew, worker_memory(pool)
    if known is not None:
        return known if memory is None else memory if crew.device == "cpu" else min(memory, known)
    ray = int(RAY) if crew.workers > 1 and not job.in_process else 0
    have = memory or machine_memory()
    share = (have - ray) // crew.workers
    if share <= PROCESS:
        raise BadInput(
            f"{memory_text(have)} of memory are too little for {crew.workers} workers, each of which takes "
            f"{memory_text(PROCESS)} before its first picture; give more --memory or fewer --workers"
        )
    return share


def outcomes(
    todo: Sequence[BatchPicture], pool: Pool, stylizer: Stylizer, writing: Writing
) -> Iterator[tuple[BatchPicture, FileOutcome]]:
    """What came of each picture, as they finish. Where a task took its workers with it, its pictures are tried one by
    one, so that only the one that is to blame fails."""
    shared, batch = pool.share(stylizer), secrets.token_hex(8)
    groups = grouped(todo, stylizer.at_once, pool.size)
    while groups:
        again: list[list[BatchPicture]] = []
        tasks = [PaintFiles([work_of(picture) for picture in group], shared, writing, batch) for group in groups]
        for index, result in pool.map(tasks, keep_going=True):
            group = groups[index]
            if not isinstance(result, Failed):
                yield from zip(group, result, strict=True)
            elif len(group) > 1:
                again += [[picture] for picture in group]
            else:
                yield group[0], FileOutcome(f"its worker died each time ({result.reason}); is there memory for it?")
        groups = again


def work_of(picture: BatchPicture) -> FileWork:
    """For a worker, whose current folder is another on a cluster."""
    return FileWork(picture.source.path.absolute(), picture.output.absolute())


def grouped(todo: Sequence[BatchPicture], at_once: int, workers: int) -> list[list[BatchPicture]]:
    """Neighbours together, at most `at_once`, so that pictures of one size can be painted in one pass; large files
    alone, and no task so long that at the end one worker is left with it."""
    most = max(1, min(at_once, len(todo) // (workers * ROUNDS)))
    groups: list[list[BatchPicture]] = []
    room = 0
    for picture in todo:
        size = size_of(picture.source.path)
        if not groups or len(groups[-1]) == most or size > room:
            groups.append([])
            room = TASK_BYTES
        groups[-1].append(picture)
        room -= size
    return groups


def size_of(path: Path) -> int:
    """Bytes of a file; 0 for one that is gone, which its worker will say."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


def entry_of(picture: BatchPicture, outcome: FileOutcome, recipe: str) -> Entry:
    """What the manifest says of a picture."""
    return Entry(
        name=picture.name,
        source=str(picture.source.path),
        state="failed" if outcome.error else "done",
        input_digest=outcome.digest,
        size=outcome.size,
        mtime_ns=outcome.modified,
        recipe=recipe,
        seconds=round(outcome.seconds, 3),
        error=outcome.error,
        width=outcome.width,
        height=outcome.height,
        notes=outcome.notes,
    )


class BatchProgress:
    """Counts pictures and says how far the batch is."""

    def __init__(self, total: int, on_status: OnFolder | None) -> None:
        self.done = self.failed = 0
        self._total, self._on_status, self._began = total, on_status, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the first task could begin."""
        return time.perf_counter() - self._began

    def count(self, outcome: FileOutcome) -> None:
        """One more."""
        self.failed += outcome.error is not None
        self.done += outcome.error is None
        if self._on_status:
            speed = (self.done + self.failed) / self.seconds
            self._on_status(FolderStatus(self.done, self.failed, self._total, speed))
