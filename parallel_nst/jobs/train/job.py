"""A training from folders of pictures to files of generators: everything that can be wrong is found before a worker
starts, then the same work runs in this process or on the ranks of a group."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from parallel_nst.errors import BadInput
from parallel_nst.files.digests import file_digest
from parallel_nst.files.images import read_image
from parallel_nst.jobs.requests.train import TrainJob
from parallel_nst.jobs.train.folder import run_folder
from parallel_nst.jobs.train.pictures import Pictured, digest_or_none, names_in, pictures_of
from parallel_nst.jobs.train.work import CycleSpec, ObjectiveSpec, StyleSpec, TrainWork, check_size
from parallel_nst.networks.backbones.loading import load_weights
from parallel_nst.networks.generators.files import files_of as generator_files
from parallel_nst.networks.generators.files import read_generator
from parallel_nst.networks.generators.registry import resolve
from parallel_nst.networks.weights.states import read_state
from parallel_nst.training.checkpoint_files import steps_of
from parallel_nst.training.feedforward import style_picture
from parallel_nst.training.fit import FitReport, FitSettings, TrainingCallbacks, TrainingStatus, start
from parallel_nst.training.settings import CycleSettings, FeedforwardSettings
from parallel_nst.workers import opening as pools
from parallel_nst.workers.crew import Crew, CrewSpec
from parallel_nst.workers.freed_memory import keep_memory
from parallel_nst.workers.ranks.place import Place

NO_RAY_TRAIN = "several workers need Ray Train: pip install 'parallel-nst[training]', or give --workers 1"


@dataclass(frozen=True)
class TrainReport:
    """What came of it. files: of the generators. pictures, skipped: by source. began: the step that it went on from.
    losses: of the last step. images_per_second, waiting: see `TrainingSpeed`. startup: seconds until the loop began, in
    whatever process; shutdown: after it had ended."""

    out: str
    files: tuple[str, ...]
    sheet: str | None
    pictures: Mapping[str, int]
    skipped: Mapping[str, int]
    steps: int
    began: int
    losses: Mapping[str, float]
    workers: int
    threads: int
    device: str
    images_per_second: float
    waiting: float
    startup: float
    training: float
    shutdown: float

    @property
    def seconds(self) -> float:
        return self.startup + self.training + self.shutdown


def train(
    job: TrainJob,
    notify: Callable[[str], None],
    on_status: Callable[[TrainingStatus], None] | None = None,
    began: float | None = None,
) -> TrainReport:
    """Check, train, write. notify: takes each line the user should be told. began: `time.perf_counter()` at the
    program's start. ValueError, OSError or RuntimeError, in one line, for anything the user can put right; the run in
    `job.out` can then be gone on with, as it can after Ctrl-C."""
    began = time.perf_counter() if began is None else began
    callbacks = TrainingCallbacks(on_status or (lambda status: None), notify)
    with run_folder(job.out, job.resume, notify):
        pictured = pictures_of(job.folders, job.preset.crop.size, notify, job.max_pixels)
        train_on = train_here if job.alone else train_on_ranks
        return train_on(job, pictured, callbacks, began)


def train_here(job: TrainJob, pictured: Pictured, callbacks: TrainingCallbacks, began: float) -> TrainReport:
    """As `train`, in this process."""
    device, threads = pools.local_device(job.device), pools.usable_cores()
    torch.set_num_threads(threads)
    keep_memory()
    work = work_of(job, pictured, 1)
    tell_start(job, callbacks.notify)
    report = work(Place(device=torch.device(device)), callbacks.on_step, callbacks.notify)
    ended = time.perf_counter()
    crew = Crew(1, threads, device=device)
    return report_of(job, work, pictured, report, crew, (began, ended, ended))


def train_on_ranks(job: TrainJob, pictured: Pictured, callbacks: TrainingCallbacks, began: float) -> TrainReport:
    """As `train`, through Ray, which starts while the rest is checked."""
    try:
        from parallel_nst.workers.ray.ranks import run_on_ranks
    except ImportError:
        raise BadInput(NO_RAY_TRAIN) from None
    wanted = CrewSpec(job.workers, job.device, job.address)
    cluster, crew = pools.open_ray(wanted, pools.Workload())
    try:
        if crew.reason:
            callbacks.notify(crew.reason)
        work = work_of(job, pictured, crew.workers)
        check_start(work)
        tell_start(job, callbacks.notify)
        work = replace(work, settings=replace(work.settings, resume=True))  # after the death of a worker too
        report = run_on_ranks(work, cluster, crew, job.out, callbacks.on_step, callbacks.notify)
        ended = time.perf_counter()
    finally:
        cluster.close()
    return report_of(job, work, pictured, report, crew, (began, ended, time.perf_counter()))


def check_start(work: TrainWork) -> None:
    """BadInput, in one line, for whatever would keep the ranks from beginning: a folder with another run, a
    checkpoint of another architecture, settings that do not go together."""
    _, batches = work.batches(Place())
    objective = work.spec.build(work.settings.steps, batches.steps_per_epoch, Place())
    start(objective, work.settings, work.folder, Place(), lambda line: None)


def tell_start(job: TrainJob, notify: Callable[[str], None]) -> None:
    """Where a run goes on, if it is to."""
    if job.resume and not steps_of(job.out):
        notify(f"{job.out} holds no checkpoint; beginning at step 0")


def work_of(job: TrainJob, pictured: Pictured, workers: int) -> TrainWork:
    """What each of so many workers does. BadInput, in one line, for what does not go together."""
    preset, spec = job.preset, spec_of(job)
    plain = FitSettings(1)  # until it is known how long an epoch is
    work = TrainWork(
        spec=spec,
        paths=pictured.paths,
        crop=preset.crop,
        batch=preset.batch,
        shuffle=preset.shuffle,
        seed=preset.objective.seed,
        settings=plain,
        folder=job.out.resolve(),
        files=files_of(job),
        described={},
    )
    _, batches = work.batches(Place(ranks=workers))
    steps = preset.length(batches.steps_per_epoch)
    settings = FitSettings(
        steps, job.checkpoint_every, job.keep, job.sample_every, job.dtype, recipe_of(job, pictured, steps), job.resume
    )
    return replace(work, settings=settings, described=described(job, pictured, steps))


def spec_of(job: TrainJob) -> ObjectiveSpec:
    """What the objective is made of, read from its files."""
    settings = job.preset.objective
    if isinstance(settings, CycleSettings):
        check_size(settings, job.preset.crop.size)
        return CycleSpec(settings)
    if job.style is None:
        raise BadInput("no style is given; give --style PICTURE")
    picture = read_image(job.style, max_pixels=job.max_pixels)
    style = style_picture(picture.pixels, settings.style_size, job.preset.crop.size)
    encoder = None if job.encoder is None else read_state(job.encoder)
    first = None if job.start is None else read_generator(start_files(job.start))[0].state_dict()
    return StyleSpec(settings, style, load_weights(settings.backbone, job.weights), encoder, first)


def start_files(name: str) -> list[Path]:
    """Of the generator of this name or path."""
    found = resolve(name)
    return generator_files([found] if isinstance(found, Path) else found)


def files_of(job: TrainJob) -> dict[str, Path]:
    """Where the generators are written, by their names in the objective."""
    if job.style is not None:
        return {"generator": job.out.resolve() / f"{job.style.stem}.safetensors"}
    return {name: job.out.resolve() / f"{name}.safetensors" for name in ("a2b", "b2a")}


def recipe_of(job: TrainJob, pictured: Pictured, steps: int) -> dict[str, Any]:
    """All that the numbers of a run depend on, which one that goes on with it must share. How long it lasts is part of
    it only where the learning rate depends on it."""
    preset, settings = job.preset, job.preset.objective
    falls = isinstance(settings, FeedforwardSettings) and settings.last_rate != 1
    return {
        **asdict(settings),
        **{f"crop_{name}": value for name, value in asdict(preset.crop).items()},
        "batch": preset.batch,
        "shuffle": preset.shuffle,
        "style_file": digest_or_none(job.style),
        "weights_file": digest_or_none(job.weights),
        "encoder_file": digest_or_none(job.encoder),
        **{f"pictures_{name}": names_in(job.folders[name], paths) for name, paths in pictured.paths.items()},
        **({"schedule_steps": steps} if falls else {}),
        **({} if job.start is None else {"start_files": [file_digest(path) for path in start_files(job.start)]}),
    }


def described(job: TrainJob, pictured: Pictured, steps: int) -> dict[str, str]:
    """What a generator's file says of how it was made."""
    return {
        "source": f"parallel_nst {version('parallel-nst')}",
        "recipe": job.preset.to_json(),
        "steps": str(steps),
        "style": "" if job.style is None else job.style.name,
        "style_sha256": digest_or_none(job.style),
        "pictures": json.dumps({name: len(paths) for name, paths in pictured.paths.items()}),
    }


def report_of(
    job: TrainJob,
    work: TrainWork,
    pictured: Pictured,
    report: FitReport,
    crew: Crew,
    times: tuple[float, float, float],
) -> TrainReport:
    """What came of a job. times: when it began, when the work had ended and when all had."""
    began, ended, closed = times
    return TrainReport(
        out=str(job.out),
        files=tuple(str(job.out / path.name) for path in work.files.values()),
        sheet=None if report.sheet is None else str(job.out / report.sheet.name),
        pictures={name: len(paths) for name, paths in pictured.paths.items()},
        skipped={name: len(entries) for name, entries in pictured.skipped.items()},
        steps=report.steps,
        began=report.began,
        losses=report.losses,
        workers=crew.workers,
        threads=crew.threads,
        device=crew.device,
        images_per_second=report.images_per_second,
        waiting=report.waiting,
        startup=ended - began - report.seconds,
        training=report.seconds,
        shutdown=closed - ended,
    )
