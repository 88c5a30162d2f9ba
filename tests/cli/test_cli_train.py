"""`pnst train`: its options, one line for every mistake, and what becomes of a run that is disturbed."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from command import Pnst, Run, caller
from PIL import Image
from safetensors.torch import save_file
from tiny_networks import LAYERS, tiny_state

from parallel_nst.cli.train import describe
from parallel_nst.jobs.requests.train import TrainJob
from parallel_nst.jobs.train import job as training
from parallel_nst.jobs.train.job import TrainReport
from parallel_nst.networks.generators.files import read_generator
from parallel_nst.training.checkpoint_files import steps_of
from parallel_nst.training.fit import TrainingStatus
from parallel_nst.training.presets import CYCLEGAN, FEEDFORWARD
from parallel_nst.training.settings import CycleSettings, FeedforwardSettings
from parallel_nst.workers import opening as pools

STYLE = ("train", "feedforward", "--style", "painting.png", "--images", "a", "--out", "run")
CYCLE = ("train", "cyclegan", "--a", "a", "--b", "b", "--out", "run")
TINY = {
    "--weights": "tiny.safetensors",
    "--style-layers": ",".join(LAYERS.style),
    "--content-layers": ",".join(LAYERS.content),
    "--width": 2,
    "--blocks": 1,
    "--size": 32,
    "--batch": 2,
    "--device": "cpu",
}
SMALL = tuple(str(part) for pair in TINY.items() for part in pair)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: two folders of pictures, a painting and a tiny backbone; one core."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(pools, "usable_cores", lambda: 1)
    rng = np.random.default_rng(0)
    for name, count in (("a", 6), ("b", 4)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (44, 52, 3), np.uint8)).save(tmp_path / name / f"{number}.png")
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save("painting.png")
    save_file(tiny_state(), "tiny.safetensors")
    return tmp_path


@pytest.fixture
def pnst(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Pnst:
    """Call the command with these arguments."""
    return caller(monkeypatch, capfd)


@pytest.fixture
def job_of(pnst: Pnst, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainJob]:
    """The job that arguments mean; nothing is trained."""
    jobs: list[TrainJob] = []

    def train(job: TrainJob, *others: Any) -> TrainReport:
        jobs.append(job)
        return TrainReport("run", ("x",), None, {}, {}, 1, 0, {}, 1, 1, "cpu", 1.0, 0.0, 1.0, 1.0, 1.0)

    def call(*arguments: object) -> TrainJob:
        run = pnst(*arguments)
        assert run.code == 0, run.err
        return jobs[-1]

    monkeypatch.setattr(training, "train", train)
    return call


def refused(run: Run, text: str, code: int) -> None:
    """One line on stderr, nothing on stdout."""
    lines = [line for line in run.err.splitlines() if line]
    assert (run.code, run.out, len(lines)) == (code, "", 1), run
    assert text in lines[0]


# Options


def test_helps_do_without_pytorch() -> None:
    source = (
        "import sys\nfrom parallel_nst.cli import main as cli\nsys.argv = ['pnst', 'train', 'cyclegan', '--help']\n"
        "try: cli.main()\nexcept SystemExit: print('torch' in sys.modules, 'ray' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "False False"


def test_options_beside_a_preset_win(job_of: Callable[..., TrainJob], folder: Path) -> None:
    assert job_of(*STYLE).preset == FEEDFORWARD["default"]
    assert job_of(*CYCLE).preset == CYCLEGAN["official"]
    johnson = job_of(
        *STYLE, "--preset", "johnson", "--lr", 0.5, "--arch", "aonet", "--style-layers", "relu1_1=2"
    ).preset
    assert isinstance(johnson.objective, FeedforwardSettings)
    assert (johnson.objective.learning_rate, johnson.objective.architecture) == (0.5, "aonet")
    assert johnson.objective.layers.style == {"relu1_1": 2.0}
    assert johnson.objective.content_weight == 1e5
    assert (johnson.epochs, johnson.steps) == (2, 0)
    by_steps = job_of(*STYLE, "--preset", "johnson", "--steps", 7, "--batch", 3).preset
    assert (by_steps.epochs, by_steps.steps, by_steps.batch) == (0, 7, 3)
    ece = job_of(*CYCLE, "--preset", "ece285", "--no-cycle", "--epochs", 3, "--generator", "resnet6").preset
    assert isinstance(ece.objective, CycleSettings)
    assert (ece.objective.cycle, ece.objective.generator, ece.epochs) == (False, "resnet6", 3)


def test_crops_keep_their_share_of_a_picture(job_of: Callable[..., TrainJob], folder: Path) -> None:
    crop = job_of(*CYCLE, "--size", 128).preset.crop
    assert (crop.size, crop.load) == (128, 143)
    assert job_of(*CYCLE).preset.crop == CYCLEGAN["official"].crop


def test_other_options(job_of: Callable[..., TrainJob], folder: Path) -> None:
    more = (
        "--workers",
        3,
        "--keep",
        4,
        "--checkpoint-every",
        5,
        "--sample-every",
        0,
        "--resume",
        "--dtype",
        "bfloat16",
    )
    job = job_of(*STYLE, *more, "--device", "cpu", "--address", "host:1")
    assert (job.workers, job.keep, job.checkpoint_every, job.sample_every) == (3, 4, 5, 0)
    assert (job.resume, job.dtype, job.device, job.address) == (True, "bfloat16", "cpu", "host:1")
    assert (job.style, job.folders, job.out) == (Path("painting.png"), {"images": Path("a")}, Path("run"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*STYLE, "--preset", "official"), "preset is 'official'; allowed: default, "),
        ((*STYLE, "--steps", 3, "--epochs", 1), "--steps and --epochs exclude each other"),
        ((*STYLE, "--steps", 0), "steps is 0; give a whole number of at least 1"),
        ((*STYLE, "--batch", "many"), "batch is 'many'; give a whole number"),
        ((*STYLE, "--workers", 0), "workers is 0"),
        ((*STYLE, "--sample-every", -1), "sample_every is -1"),
        ((*STYLE, "--device", "tpu"), "device is 'tpu'; allowed: auto, cpu, cuda"),
        ((*STYLE, "--arch", "unet"), "architecture is 'unet'; allowed: transformer, aonet, vgg16-decoder"),
        ((*STYLE, "--lr", "fast"), "learning_rate is 'fast'; give a number above 0"),
        ((*STYLE, "--style-layers", "relu1_1=x"), "layer weight is 'relu1_1=x'"),
        ((*CYCLE, "--generator", "unet"), "generator is 'unet'; allowed: resnet9, resnet6, dncnn"),
        ((*CYCLE, "--norm", "layer"), "norm is 'layer'; allowed: instance, batch"),
        ((*STYLE, "--width", 9999999999), "width is 9999999999; give a whole number from 0 to 1024"),
        ((*CYCLE, "--generator-width", 1025), "generator_width is 1025; give a whole number from 1 to 1024"),
        (STYLE[:-2], "--out"),
        ((*STYLE, "--feature-scale", 2), "--feature-scale has no effect with --formula relative; give --formula raw"),
        ((*STYLE, "--arch", "vgg16-decoder", "--blocks", 2), "give --architecture transformer or --architecture aonet"),
        ((*CYCLE, "--depth", 2), "--depth has no effect with --generator resnet9; give --generator dncnn"),
        ((*CYCLE, "--decay-factor", 0.5), "--decay-factor has no effect with --decay linear; give --decay exponential"),
        ((*CYCLE, "--no-cycle", "--cycle-weight", 5), "--cycle-weight has no effect with --no-cycle; leave one of the"),
        ((*STYLE, "--style", "b.png"), "--style is given 2 times, as painting.png and b.png; give it once"),
    ],
)
def test_a_wrong_option_is_one_line(pnst: Pnst, arguments: tuple[object, ...], text: str) -> None:
    refused(pnst(*arguments), text, 2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*STYLE, "--images", "none"), "none is no folder"),
        ((*STYLE, "--size", 256), "no picture of at least 256 px in a (6 left out"),
        ((*STYLE, *SMALL, "--batch", 7), "6 pictures (images) are fewer than a batch of 7"),
        ((*STYLE[:2], *STYLE[4:], *SMALL, "--style", "none.png"), "none.png"),
        ((*CYCLE, "--b", "a", "--size", 32), "6 pictures are in both folders"),
        ((*CYCLE, "--size", 8), "crops of 8 px are too small for patchgan; give a size of 24 or more"),
    ],
)
def test_wrong_material_is_one_line(pnst: Pnst, folder: Path, arguments: tuple[object, ...], text: str) -> None:
    refused(pnst(*arguments, "--quiet"), text, 1)
    assert not (folder / "run").exists()


def test_what_is_shown_of_a_step() -> None:
    losses = {"generators/total": 12.345678, "generators/fool": 1.0}
    assert describe(TrainingStatus(3, 10, losses, 0.0, 0.0)) == "step 3/10  loss 12.35"
    full = describe(TrainingStatus(3, 10, losses, 4.56, 0.25))
    assert full == "step 3/10  loss 12.35  4.6 images/s  waiting for data 25%"


# In this process


def test_a_small_run_and_going_on_with_it(pnst: Pnst, folder: Path) -> None:
    run = pnst(*STYLE, *SMALL, "--steps", 3, "--last-rate", 1)
    assert run.code == 0, run.err
    assert run.out.startswith("run/painting.safetensors: 3 steps, 1 worker x 1 thread, ")
    assert run.out.count("\n") == 1
    refused(pnst(*STYLE, *SMALL, "--steps", 5, "--last-rate", 1), "holds a training at step 3; give --resume", 1)
    more = pnst(*STYLE, *SMALL, "--steps", 5, "--last-rate", 1, "--resume", "--json")
    report = json.loads(more.out)
    assert (report["began"], report["steps"], report["recipe"]["objective"]["width"]) == (3, 5, 2)
    assert read_generator(folder / "run" / "painting.safetensors")[1].architecture == "transformer-net"


def test_cyclegan_from_the_command_line(pnst: Pnst, folder: Path) -> None:
    small = ("--generator", "dncnn", "--depth", 1, "--generator-width", 2, "--discriminator", "conv5")
    run = pnst(*CYCLE, *small, "--discriminator-width", 2, "--size", 32, "--epochs", 1, "--device", "cpu", "--quiet")
    assert (run.code, run.out, run.err) == (0, "", "")
    assert read_generator(folder / "run" / "a2b.safetensors")[1].architecture == "dncnn"


# Two workers and what may happen to them

LONG = ("--steps", 400, "--checkpoint-every", 10, "--sample-every", 0, "--workers", 2, "--json")
needs_ray_train = pytest.mark.skipif(find_spec("pyarrow") is None, reason="Ray Train is not installed")


@pytest.fixture
def program(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command as a program of its own; whatever is left of it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "parallel_nst", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


def losses(run: Path) -> list[tuple[int, float]]:
    """Step and total loss of all whole lines."""
    if not (run / "losses.csv").exists():
        return []
    lines = (run / "losses.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    return [(int(row[0]), float(row[1])) for row in list(csv.reader(whole))[1:]]


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    while not any(done >= step for done, _ in losses(run)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def train_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]


@needs_ray_train
@pytest.mark.slow
def test_a_run_whose_worker_is_killed_ends_like_one_that_was_left_alone(
    pnst: Pnst, program: Callable[..., subprocess.Popen[str]], folder: Path
) -> None:
    process = program(*STYLE, *SMALL, *LONG)
    wait_for_step(process, folder / "run", 25)
    newest = steps_of(folder / "run")[0]
    train_workers(process)[-1].kill()
    out, err = process.communicate()
    assert process.returncode == 0, err
    report = json.loads(out)
    assert newest <= report["began"] < 400
    assert "a worker was lost; all go on from the last checkpoint" in err
    rows = losses(folder / "run")
    assert [step for step, _ in rows] == list(range(1, 401))
    alone = pnst(
        "train", "feedforward", "--style", "painting.png", "--images", "a", "--out", "alone", *SMALL, "--steps", 400
    )
    assert alone.code == 0, alone.err
    assert [loss for _, loss in rows[:10]] == pytest.approx(
        [loss for _, loss in losses(folder / "alone")[:10]], rel=1e-3
    )
    ends = [statistics.mean(loss for _, loss in part[-100:]) for part in (rows, losses(folder / "alone"))]
    assert ends[0] == pytest.approx(ends[1], rel=0.05)
    assert read_generator(folder / "run" / "painting.safetensors")[1].parameters > 0


@needs_ray_train
@pytest.mark.slow
def test_after_ctrl_c_nothing_runs_and_the_run_can_be_gone_on_with(
    pnst: Pnst, program: Callable[..., subprocess.Popen[str]], folder: Path
) -> None:
    process = program(*STYLE, *SMALL, *LONG)
    wait_for_step(process, folder / "run", 25)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "go on with --resume" in err
    assert err.splitlines()[-1] == "pnst: stopped"
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    newest = steps_of(folder / "run")[0]
    more = pnst(*STYLE, *SMALL, *LONG, "--resume", "--workers", 1)
    assert more.code == 0, more.err
    assert json.loads(more.out)["began"] == newest
    assert [step for step, _ in losses(folder / "run")] == list(range(1, 401))
