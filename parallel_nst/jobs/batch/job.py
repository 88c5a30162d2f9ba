"""Many pictures from files to files: what there is to do, doing it with any model over any pool, and a manifest of what
was done, so that a batch that was stopped goes on where it was."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from parallel_nst.jobs.batch.inputs import Target, find_inputs, plan_outputs
from parallel_nst.jobs.batch.manifest import Entry, Manifest
from parallel_nst.jobs.batch.models import GeneratorOptions, Model, gatys_model, generator_model
from parallel_nst.jobs.batch.resume import clear_leftovers, decide, earlier_outputs
from parallel_nst.jobs.batch.stylizers import Painter
from parallel_nst.jobs.batch.tasks import FileWork, Outcome, PaintFiles, Writing, stamp_of
from parallel_nst.painting.planning.footprint import PROCESS, RAY
from parallel_nst.painting.planning.memory import machine_memory, memory_text, parse_memory
from parallel_nst.recipe import Recipe
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.opening import open_workers
from parallel_nst.workers.pool import Failed, Pool

UNSTAMPED = (".bmp",)  # formats that cannot say what they were made from
TASK_BYTES = 4 << 20  # of the files of one task; a larger one goes by itself
ROUNDS = 4  # tasks of each worker at least, where there are so many pictures: none waits long for the last


@dataclass(frozen=True)
class FolderJob:
    """What to paint, with what, and where to put it.

    source: a folder, picture, glob pattern, list of files, or - for a list on stdin. model: a generator by name or
    file, with `options`; None with a style: Gatys' optimisation with `recipe`; None without: the bundled generator.
    weights: a file of the backbone's. workers, address, in_process: see `pools.open_workers`. memory: what all workers
    together may take, such as 4GiB; on a cluster, each. format: of all outputs, such as png; None: each picture's own.
    suffix: behind each name. overwrite: replace files that no batch has written.
    """

    source: str
    out: Path
    model: str | None = None
    style: Path | None = None
    options: GeneratorOptions = field(default_factory=GeneratorOptions)
    recipe: Recipe = field(default_factory=Recipe)
    weights: Path | None = None
    workers: int | None = None
    address: str | None = None
    in_process: bool = False
    memory: str | None = None
    format: str | None = None
    suffix: str = ""
    quality: int = 95
    overwrite: bool = False
    max_pixels: int | None = None

    @property
    def dtype(self) -> str:
        return self.recipe.dtype if self.optimises else self.options.dtype

    @property
    def optimises(self) -> bool:
        """Whether pictures are painted by optimisation instead of a generator."""
        return self.model is None and self.style is not None


@dataclass(frozen=True)
class FolderStatus:
    """How far a batch is: pictures painted, failed, and to be done at all; pictures a second; seconds left."""

    done: int
    failed: int
    total: int
    per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Ran:
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
    many could not be painted. seconds: from beginning to end."""

    entries: tuple[Entry, ...]
    skipped: int
    failed: int
    model: str
    seconds: float
    ran: Ran

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
    memory = None if job.memory is None else parse_memory(job.memory)
    made = earlier_outputs(job.out, job.suffix, stamp_of)
    sources = find_inputs(job.source, stdin, out=job.out)
    targets = plan_outputs(sources, job.out, job.format, job.suffix, made=made)
    model = model_of(job)
    writing = Writing(f"{model.digest}-{job.quality}", settings_of(job, model), job.quality, job.max_pixels)
    with Manifest.open(job.out) as manifest:
        for note in manifest.notes:
            notify(note)
        todo = sorted_out(targets, manifest, writing.recipe, overwrite=job.overwrite)
        clear_leftovers(targets)
        ran = paint_all(job, model, writing, todo, memory, manifest, notify, on_status) if todo else Ran()
        entries = tuple(manifest.entries[target.name] for target in targets)
    failed = sum(entry.state == "failed" for entry in entries)
    skipped = len(targets) - ran.painted - failed
    return FolderReport(entries, skipped, failed, model.name, time.perf_counter() - began, ran)


def model_of(job: FolderJob) -> Model:
    """What the job paints with; ValueError, in one line, for what is wrong with it."""
    if job.optimises:
        assert job.style is not None
        return gatys_model(job.recipe, job.style, job.weights, job.max_pixels)
    return generator_model(job.model, job.style, job.options, job.max_pixels)


def settings_of(job: FolderJob, model: Model) -> dict[str, str | int | float | bool]:
    """What an output's metadata tell of how it was made."""
    settings: dict[str, str | int | float | bool] = {"model": model.name}
    if job.style is not None:
        settings["style"] = job.style.name
    return settings | (flat(job.recipe) if job.optimises else asdict(job.options))


def flat(recipe: Recipe) -> dict[str, str | int | float | bool]:
    """The plain knobs of a recipe."""
    return {name: value for name, value in asdict(recipe).items() if isinstance(value, str | int | float | bool)}


def sorted_out(targets: Sequence[Target], manifest: Manifest, recipe: str, *, overwrite: bool) -> list[Target]:
    """Those to be painted; what is known of the others without painting is noted in the manifest."""
    todo = []
    for target in targets:
        decision = decide(target, manifest.entries.get(target.name), recipe, overwrite=overwrite, found=stamp_of)
        if decision.entry is not None:
            manifest.append(decision.entry)
        if decision.paint:
            todo.append(target)
            if target.output.suffix.lower() in UNSTAMPED and not os.path.lexists(target.output):
                manifest.append(begun(target, recipe))
    return todo


def begun(target: Target, recipe: str) -> Entry:
    """Said of a picture before it is painted, so that after a kill what lies at its output is known for a batch's."""
    error = "the batch was stopped before it was known to be done"
    return Entry(target.name, str(target.source.path), "failed", recipe=recipe, error=error, made_before=True)


def paint_all(
    job: FolderJob,
    model: Model,
    writing: Writing,
    todo: Sequence[Target],
    memory: int | None,
    manifest: Manifest,
    notify: Notify,
    on_status: OnFolder | None,
) -> Ran:
    """Paint these, each noted in the manifest as soon as it is there."""
    pool, crew = open_workers(
        model.weights,
        job.recipe.device,
        job.dtype,
        workers=job.workers,
        address=job.address,
        tasks=len(todo),
        in_process=job.in_process,
        task="picture",
    )
    try:
        if crew.reason:
            notify(crew.reason)
        painter = model.painter(pool.spec, memory_of_one(job, memory, crew))
        meter = Meter(len(todo), on_status)
        for target, outcome in outcomes(todo, pool, painter, writing):
            manifest.append(entry_of(target, outcome, writing.recipe))
            meter.count(outcome)
        return Ran(meter.done, painter.dtype, crew.workers, crew.threads, meter.seconds - pool.waited)
    finally:
        pool.close()


def memory_of_one(job: FolderJob, memory: int | None, crew: Crew) -> int:
    """Bytes that a worker may take: its share of what is given, or of what there is."""
    if job.address is not None:
        return memory or crew.memory or machine_memory()
    ray = int(RAY) if crew.workers > 1 and not job.in_process else 0
    have = memory or machine_memory()
    share = (have - ray) // crew.workers
    if share <= PROCESS:
        raise ValueError(
            f"{memory_text(have)} of memory are too little for {crew.workers} workers, each of which takes "
            f"{memory_text(PROCESS)} before its first picture; give more --memory or fewer --workers"
        )
    return share


def outcomes(
    todo: Sequence[Target], pool: Pool, painter: Painter, writing: Writing
) -> Iterator[tuple[Target, Outcome]]:
    """What came of each picture, as they finish. Where a task took its workers with it, its pictures are tried one by
    one, so that only the one that is to blame fails."""
    shared, batch = pool.share(painter), secrets.token_hex(8)
    groups = grouped(todo, painter.at_once, pool.size)
    while groups:
        again: list[list[Target]] = []
        tasks = [PaintFiles([work_of(target) for target in group], shared, writing, batch) for group in groups]
        for index, result in pool.map(tasks, keep_going=True):
            group = groups[index]
            if not isinstance(result, Failed):
                yield from zip(group, result, strict=True)
            elif len(group) > 1:
                again += [[target] for target in group]
            else:
                yield group[0], Outcome(f"its worker died each time ({result.reason}); is there memory for it?")
        groups = again


def work_of(target: Target) -> FileWork:
    """For a worker, whose current folder is another on a cluster."""
    return FileWork(target.source.path.absolute(), target.output.absolute())


def grouped(todo: Sequence[Target], at_once: int, workers: int) -> list[list[Target]]:
    """Neighbours together, at most `at_once`, so that pictures of one size can be painted in one pass; large files
    alone, and no task so long that at the end one worker is left with it."""
    most = max(1, min(at_once, len(todo) // (workers * ROUNDS)))
    groups: list[list[Target]] = []
    room = 0
    for target in todo:
        size = size_of(target.source.path)
        if not groups or len(groups[-1]) == most or size > room:
            groups.append([])
            room = TASK_BYTES
        groups[-1].append(target)
        room -= size
    return groups


def size_of(path: Path) -> int:
    """Bytes of a file; 0 for one that is gone, which its worker will say."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


def entry_of(target: Target, outcome: Outcome, recipe: str) -> Entry:
    """What the manifest says of a picture."""
    return Entry(
        name=target.name,
        source=str(target.source.path),
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


class Meter:
    """Counts pictures and says how far the batch is."""

    def __init__(self, total: int, on_status: OnFolder | None) -> None:
        self.done = self.failed = 0
        self._total, self._on_status, self._began = total, on_status, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the first task could begin."""
        return time.perf_counter() - self._began

    def count(self, outcome: Outcome) -> None:
        """One more."""
        self.failed += outcome.error is not None
        self.done += outcome.error is None
        if self._on_status:
            past, seconds = self.done + self.failed, self.seconds
            left = (self._total - past) * seconds / past
            self._on_status(FolderStatus(self.done, self.failed, self._total, past / seconds, left))
