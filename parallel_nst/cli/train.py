"""`pnst train`: generators for one style, and CycleGAN between two folders of pictures.

The options of a training's settings stand here a second time, because the records they belong to lie beside PyTorch,
which takes seconds to load; a test compares the two.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from parallel_nst.cli.options import (
    LAYER_FLAGS,
    REQUIRED,
    SOURCE_FLAGS,
    TALK_FLAGS,
    Flag,
    check_flags,
    chosen_style,
    keyword,
    number_option,
    parse_layers,
    switch,
    whole_number,
)
from parallel_nst.cli.progress import progress_bar
from parallel_nst.files.bundled import STYLES

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.jobs.train.job import TrainJob, TrainReport
    from parallel_nst.training.fit import TrainingStatus
    from parallel_nst.training.presets import Preset

PRESET = "the preset's"  # default of an option that a preset has a value for
SIZE = ("--size", "--crop")
NAMES = {"learning_rate": ("--lr", "--learning-rate"), "architecture": ("--arch", "--architecture")}
SHARED_KNOBS = {"learning_rate": "Step size of Adam.", "norm": "Normalisation: instance or batch."}
FEEDFORWARD_KNOBS = {
    **SHARED_KNOBS,
    "architecture": "Generator: transformer (Johnson's), aonet or vgg16-decoder.",
    "width": "Channels of its first convolution; 0: its usual ones.",
    "blocks": "Residual blocks of transformer and aonet.",
    "backbone": "Network that measures content and style: embedded, vgg16, vgg19, resnet50 or squeezenet.",
    "formula": "relative: losses in units of the style's own features; raw: those of Johnson's code.",
    "feature_scale": "Of raw losses: features are multiplied by this.",
    "content_weight": "Weight of the content loss.",
    "style_weight": "Weight of the style loss.",
    "tv_weight": "Weight of the total variation loss (smoothness).",
    "style_size": "Shorter side in px that the style picture is reduced to; 0: its own.",
    "last_rate": "Share of the learning rate that is left at the end; 1: constant.",
    "seed": "Of the first weights and of the order of pictures.",
}
CYCLEGAN_KNOBS = {
    **SHARED_KNOBS,
    "generator": "Both generators: resnet9, resnet6 or dncnn.",
    "generator_width": "Channels of a generator's first convolution.",
    "depth": "Normalised convolutions of dncnn.",
    "discriminator": "Both discriminators: patchgan or conv5.",
    "discriminator_width": "Channels of a discriminator's first convolution; 0: its usual ones.",
    "cycle_weight": "Weight of the cycle loss.",
    "identity_weight": "Weight of the identity loss, in units of --cycle-weight.",
    "pool": "Generated pictures kept for the discriminators; 0: only the newest.",
    "beta1": "Adam's memory of gradients.",
    "decay": "How the learning rate falls: linear or exponential.",
    "constant_epochs": "Epochs before a linear decay.",
    "decay_epochs": "Epochs of a linear decay down to zero.",
    "decay_factor": "Factor of an exponential decay.",
    "decay_every": "Epochs between two factors of an exponential decay.",
    "seed": "Of the first weights, the pools and the order of pictures.",
}
FLOATS = (
    "learning_rate feature_scale content_weight style_weight tv_weight last_rate cycle_weight "
    "identity_weight beta1 decay_factor"
).split()
TEXTS = "norm architecture backbone formula generator discriminator decay".split()


def named(option: Any, names: Sequence[str]) -> Any:
    """The option under these names instead of its parameter's."""
    option.param_decls = tuple(names)
    return option


FEEDFORWARD_PRESETS = "default small johnson dash-app dash-app-vgg16".split()
CYCLEGAN_PRESETS = "official ece285 ece285-slow".split()


def preset_flag(names: Sequence[str]) -> Flag:
    """Of a training that has presets of these names; the first is the default."""
    return Flag(str, typer.Option(help=f"{', '.join(names)}; options given beside it win."), names[0])


OUT = Flag(
    Path, typer.Option(help="Folder of the run: checkpoints, losses, samples, result.", show_default=False), REQUIRED
)
RUN_FLAGS = {
    "steps": whole_number("Optimiser steps.", show_default=PRESET),
    "epochs": whole_number("Times that all pictures are seen, instead of --steps."),
    "batch": whole_number("Pictures of a step, over all workers.", show_default=PRESET),
    "size": Flag(int | None, named(number_option(int, help="Of crops, px.", show_default=PRESET), SIZE), least=1),
    "workers": whole_number("Processes that share each batch; 1 takes this one, with all cores.", default=1),
    "address": Flag(
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="Ray cluster, auto or host:port; its machines must share the folders.",
            show_default="a local Ray for this run, if there are several workers",
        ),
    ),
    "checkpoint_every": whole_number("Steps between two checkpoints.", default=500),
    "keep": whole_number("Checkpoints that stay, the newest.", default=2),
    "sample_every": Flag(
        int | None, number_option(int, help="Steps between two sample pictures; 0: none."), 500, least=0
    ),
    "resume": switch("--resume", "Go on from the newest checkpoint in --out."),
    "device": Flag(str, typer.Option(help="auto, cpu or cuda."), "auto"),
    "dtype": Flag(str, typer.Option(help="Of the losses: float32 or bfloat16; weights stay float32."), "float32"),
    "max_pixels": SOURCE_FLAGS["max_pixels"],
    **TALK_FLAGS,
}
FEEDFORWARD_FLAGS = {
    "style": Flag(
        Path | None,
        typer.Option(help=f"Picture to paint like, or a bundled one: {', '.join(STYLES)}.", show_default=STYLES[0]),
    ),
    "images": Flag(Path, typer.Option(help="Folder of pictures to train on.", show_default=False), REQUIRED),
    "out": OUT,
    "preset": preset_flag(FEEDFORWARD_PRESETS),
    "weights": SOURCE_FLAGS["weights"],
    "encoder": Flag(Path | None, typer.Option(help="File of VGG16's weights for the encoder of vgg16-decoder.")),
    **RUN_FLAGS,
}
CYCLEGAN_FLAGS = {
    "a": Flag(Path, typer.Option("--a", help="Folder of pictures of the one kind.", show_default=False), REQUIRED),
    "b": Flag(Path, typer.Option("--b", help="Folder of pictures of the other.", show_default=False), REQUIRED),
    "out": OUT,
    "preset": preset_flag(CYCLEGAN_PRESETS),
    "no_cycle": switch("--no-cycle", "Leave out the cycle loss."),
    **RUN_FLAGS,
}

train_app = typer.Typer(no_args_is_help=True, help="Train generators, in this process or on several workers.")


def train_command(
    flags: Mapping[str, Flag], knobs: Mapping[str, str], layers: bool
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that takes `**options` these flags and knobs as parameters, and those of layers if wanted."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = [keyword(name, flag.kind, flag.option, flag.default) for name, flag in flags.items()]
        parameters += [knob_parameter(name, help) for name, help in knobs.items()]
        for name in LAYER_FLAGS if layers else ():
            help = f"Layers of the {name.split('_')[0]} loss, such as relu1_1=1,relu3_1=0.5."
            parameters.append(keyword(name, str | None, typer.Option(help=help, show_default=PRESET), None))
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def knob_parameter(name: str, help: str) -> inspect.Parameter:
    """The option of a setting. None means not given, so that the preset decides."""
    names = NAMES.get(name, (f"--{name.replace('_', '-')}",))
    if name in TEXTS:
        return keyword(name, str | None, typer.Option(*names, help=help, show_default=PRESET), None)
    kind = float if name in FLOATS else int
    return keyword(name, kind | None, named(number_option(kind, help=help, show_default=PRESET), names), None)


@train_app.command("feedforward")
@train_command(FEEDFORWARD_FLAGS, FEEDFORWARD_KNOBS, layers=True)
def feedforward_command(**options: Any) -> None:
    """Train a generator that paints any picture like one painting."""
    options["style"] = chosen_style(options["style"])
    run(options, FEEDFORWARD_FLAGS, feedforward_job)


@train_app.command("cyclegan")
@train_command(CYCLEGAN_FLAGS, CYCLEGAN_KNOBS, layers=False)
def cyclegan_command(**options: Any) -> None:
    """Train two generators that turn pictures of one kind into those of another and back, without pairs."""
    run(options, CYCLEGAN_FLAGS, cyclegan_job)


def run(options: Mapping[str, Any], flags: Mapping[str, Flag], job_of: Callable[[Mapping[str, Any]], TrainJob]) -> None:
    """Train, with progress on stderr and the summary on stdout."""
    began = time.perf_counter()  # the imports are part of the start
    from parallel_nst.jobs.train.job import train
    from parallel_nst.training.checkpoint_files import steps_of

    try:
        check_flags(options, flags)
        job = job_of(options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    stdout = sys.stdout
    # Ray reports the death of a worker on standard output, where only the summary belongs.
    with contextlib.redirect_stdout(sys.stderr), progress_bar(quiet=options["quiet"]) as (notify, show):
        try:
            report = train(
                job, notify, show and (lambda status: show(status.step / status.steps, describe(status))), began
            )
        except KeyboardInterrupt:
            done = steps_of(job.out)
            notify(f"{job.out} holds step {done[0]}; go on with --resume" if done else f"{job.out} holds no checkpoint")
            raise
    if options["json"]:
        print(json.dumps({**asdict(report), "seconds": report.seconds, "recipe": job.preset.readable()}), file=stdout)
    elif not options["quiet"]:
        print(summary(report), file=stdout)


def feedforward_job(options: Mapping[str, Any]) -> TrainJob:
    """The job that the options mean; ValueError for a wrong value."""
    from parallel_nst.training.presets import FEEDFORWARD

    preset = chosen(options, FEEDFORWARD, FEEDFORWARD_KNOBS)
    layers = {key.split("_")[0]: parse_layers(options[key]) for key in LAYER_FLAGS if options[key] is not None}
    objective: Any = preset.objective
    preset = replace(preset, objective=replace(objective, layers=replace(objective.layers, **layers)))
    return job(options, preset, {"images": options["images"]}, ("style", "weights", "encoder"))


def cyclegan_job(options: Mapping[str, Any]) -> TrainJob:
    """As `feedforward_job`."""
    from parallel_nst.training.presets import CYCLEGAN

    preset = chosen(options, CYCLEGAN, CYCLEGAN_KNOBS)
    if options["no_cycle"]:
        objective: Any = preset.objective
        preset = replace(preset, objective=replace(objective, cycle=False))
    return job(options, preset, {"a": options["a"], "b": options["b"]}, ())


def job(options: Mapping[str, Any], preset: Preset, folders: Mapping[str, Path], more: tuple[str, ...]) -> TrainJob:
    """A job with the flags of its own name. more: those that not all trainings have."""
    from parallel_nst.jobs.train.job import TrainJob

    names = ("out", "workers", "device", "dtype", "checkpoint_every", "keep", "sample_every", "resume", "max_pixels")
    return TrainJob(
        preset=preset,
        folders=folders,
        address=options["address"] or None,
        **{name: options[name] for name in (*names, *more)},
    )


def chosen(options: Mapping[str, Any], presets: Mapping[str, Preset], knobs: Mapping[str, str]) -> Preset:
    """The preset, with whatever is given beside it. ValueError for a wrong value."""
    name = options["preset"]
    if name not in presets:
        raise ValueError(f"preset is {name!r}; allowed: {', '.join(presets)}")
    preset = presets[name]
    given = {knob: options[knob] for knob in knobs if options[knob] is not None}
    if options["steps"] and options["epochs"]:
        raise ValueError("--steps and --epochs exclude each other; give one of the two")
    objective: Any = preset.objective
    changed: dict[str, Any] = {"objective": replace(objective, **given), "crop": sized(preset, options["size"])}
    if options["batch"]:
        changed["batch"] = options["batch"]
    if options["steps"] or options["epochs"]:
        changed |= {"steps": options["steps"] or 0, "epochs": options["epochs"] or 0}
    return replace(preset, **changed)


def sized(preset: Preset, size: int | None) -> Any:
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
    workers = (
        f"{report.workers} worker{'s' * (report.workers != 1)} x {report.threads} thread{'s' * (report.threads != 1)}"
    )
    loss = next((f", loss {value:.4g}" for name, value in report.losses.items() if name.endswith("/total")), "")
    steps = f"{report.steps} steps" + (f", from {report.began} on" if report.began else "")
    parts = ", ".join(
        f"{name.replace('startup', 'start-up')} {getattr(report, name):.1f}"
        for name in ("startup", "training", "shutdown")
    )
    return (
        f"{', '.join(report.files)}: {steps}, {workers}, {report.seconds:.1f} s ({parts}), "
        f"{report.images_per_second:.2f} images/s, waiting for data {report.waiting:.0%}{loss}"
    )
