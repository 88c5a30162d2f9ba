"""`pnst train`: generators for one style, and CycleGAN between two folders of pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from parallel_nst.cli.options import GroupedCommand, Talk, Values, made_from
from parallel_nst.cli.progress import progress_bar, results_on
from parallel_nst.cli.texts import crew_text, parts_text
from parallel_nst.errors import BadInput
from parallel_nst.files.bundled import bundled_style
from parallel_nst.jobs.json_text import json_text, plain
from parallel_nst.jobs.requests.train import CycleMaterial, FeedforwardMaterial, TrainJob, TrainLength
from parallel_nst.training.presets import CYCLEGAN, FEEDFORWARD, Preset
from parallel_nst.training.settings import CropSettings, CycleSettings, FeedforwardSettings

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.jobs.train.job import TrainReport
    from parallel_nst.training.fit import TrainingStatus

train_app = typer.Typer(no_args_is_help=True, help="Train generators, in this process or on several workers.")


def feedforward_bases(given: Values) -> Mapping[str, Any]:
    """The preset that options change, and where the pictures are."""
    return {"preset": preset_of(given, FEEDFORWARD), "folders": {"images": given["images"]}}


def cyclegan_bases(given: Values) -> Mapping[str, Any]:
    """As `feedforward_bases`."""
    return {"preset": preset_of(given, CYCLEGAN), "folders": {"a": given["a"], "b": given["b"]}}


@train_app.command("feedforward", cls=GroupedCommand)
@made_from(kinds={"objective": FeedforwardSettings}, bases=feedforward_bases)
def feedforward_command(job: TrainJob, material: FeedforwardMaterial, length: TrainLength, talk: Talk) -> None:
    """Train a generator that paints any picture like one painting."""
    run(replace(job, style=job.style or bundled_style()), length, talk)


@train_app.command("cyclegan", cls=GroupedCommand)
@made_from(without=("style", "weights", "encoder", "start"), kinds={"objective": CycleSettings}, bases=cyclegan_bases)
def cyclegan_command(job: TrainJob, material: CycleMaterial, length: TrainLength, talk: Talk) -> None:
    """Train two generators that turn pictures of one kind into those of another and back, without pairs."""
    run(job, length, talk)


def run(job: TrainJob, length: TrainLength, talk: Talk) -> None:
    """Train, with progress on stderr and the summary on stdout."""
    began = time.perf_counter()  # the imports are part of the start
    from parallel_nst.jobs.train.job import train
    from parallel_nst.training.checkpoint_files import steps_of

    job = replace(job, preset=of_length(job.preset, length))
    with results_on() as say, progress_bar(quiet=talk.quiet) as (notify, show):
        try:
            report = train(
                job, notify, show and (lambda status: show(status.step / status.steps, describe(status))), began
            )
        except KeyboardInterrupt:
            done = steps_of(job.out)
            notify(f"{job.out} holds step {done[0]}; go on with --resume" if done else f"{job.out} holds no checkpoint")
            raise
    if talk.json:
        say(json_text({**plain(report), "seconds": report.seconds, "recipe": job.preset.readable()}))
    elif not talk.quiet:
        say(summary(report))


def preset_of(given: Values, presets: Mapping[str, Preset]) -> Preset:
    """The preset that is named, or the first; BadInput for a name that there is not."""
    name = given.get("preset", next(iter(presets)))
    if name not in presets:
        raise BadInput(f"preset is {name!r}; allowed: {', '.join(presets)}")
    return presets[name]


def of_length(preset: Preset, length: TrainLength) -> Preset:
    """The preset with what is given of how long, and on how much at a time."""
    changed: dict[str, Any] = {"batch": length.batch or preset.batch, "crop": sized(preset, length.size)}
    if length.steps or length.epochs:
        changed |= {"steps": length.steps or 0, "epochs": length.epochs or 0}
    return replace(preset, **changed)


def sized(preset: Preset, size: int | None) -> CropSettings:
    """The preset's crops at another size: pictures are reduced by as much."""
    crop = preset.crop
    if size is None:
        return crop
    return replace(crop, size=size, load=None if crop.load is None else round(crop.load * size / crop.size))


def describe(status: TrainingStatus) -> str:
    """Steps done, loss of the first phase, speed, and the share of waiting for data if it is worth a word."""
    total = next(value for name, value in status.losses.items() if name.endswith("/total"))
    speed = f"  {status.images_per_second:.1f} images/s" if status.images_per_second else ""
    waiting = f"  waiting for data {status.waiting:.0%}" if status.waiting >= 0.05 else ""
    return f"step {status.step}/{status.steps}  loss {total:.4g}{speed}{waiting}"


def summary(report: TrainReport) -> str:
    """One line."""
    loss = next((f", loss {value:.4g}" for name, value in report.losses.items() if name.endswith("/total")), "")
    steps = f"{report.steps} steps" + (f", from {report.began} on" if report.began else "")
    return (
        f"{', '.join(report.files)}: {steps}, {crew_text(report.workers, report.threads, report.device)}, "
        f"{report.seconds:.1f} s ({parts_text(report, 'startup training shutdown')}), "
        f"{report.images_per_second:.2f} images/s, waiting for data {report.waiting:.0%}{loss}"
    )
