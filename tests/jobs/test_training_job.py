"""A training from folders to files, in this process, on pictures and networks of a few numbers."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_networks import LAYERS, tiny_state

from parallel_nst.files.locks import LOCK
from parallel_nst.jobs.requests.train import TrainJob
from parallel_nst.jobs.train import job as training
from parallel_nst.jobs.train.job import TrainReport, train
from parallel_nst.jobs.train.pictures import pictures_of
from parallel_nst.jobs.train.work import LEAST_SIZE, check_size
from parallel_nst.networks.generators.files import read_generator
from parallel_nst.recipe import LayerWeights
from parallel_nst.training.checkpoint_files import main_path, steps_of
from parallel_nst.training.cyclegan import CycleGAN
from parallel_nst.training.fit import TrainingStatus
from parallel_nst.training.presets import Preset
from parallel_nst.training.settings import CropSettings, CycleSettings, FeedforwardSettings
from parallel_nst.workers import opening as pools

SIDE = 32
CROP = CropSettings(SIDE, load=40, flip=True)
STYLE = FeedforwardSettings(width=2, blocks=1, layers=LAYERS)
CYCLE = CycleSettings(generator="resnet6", generator_width=2, discriminator="conv5", discriminator_width=2, pool=2)


def write_pictures(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (48, 40)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        values = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads would change the sums."""
    monkeypatch.setattr(pools, "usable_cores", lambda: 1)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of pictures, a style picture and a tiny backbone."""
    folder = tmp_path_factory.mktemp("material")
    write_pictures(folder / "a", 6)
    write_pictures(folder / "b", 5, seed=1)
    write_pictures(folder, 1, seed=2)
    (folder / "0.png").rename(folder / "painting.png")
    save_file(tiny_state(), folder / "tiny.safetensors")
    return folder


def style_job(material: Path, out: Path, **changes: Any) -> TrainJob:
    job = TrainJob(
        preset=Preset("a test", STYLE, CROP, batch=2, steps=6),
        out=out,
        folders={"images": material / "a"},
        style=material / "painting.png",
        weights=material / "tiny.safetensors",
        device="cpu",
        checkpoint_every=2,
        sample_every=3,
    )
    return replace(job, **changes)


def cycle_job(material: Path, out: Path, **changes: Any) -> TrainJob:
    job = TrainJob(
        preset=Preset("a test", CYCLE, CROP, batch=1, epochs=1),
        out=out,
        folders={"a": material / "a", "b": material / "b"},
        device="cpu",
        checkpoint_every=2,
        sample_every=0,
    )
    return replace(job, **changes)


JOBS = {"style": style_job, "cycle": cycle_job}
Make = Callable[..., TrainJob]


def run(job: TrainJob) -> tuple[TrainReport, list[str]]:
    lines: list[str] = []
    return train(job, lines.append), lines


def rows(out: Path) -> list[list[str]]:
    with (out / "losses.csv").open(encoding="utf-8") as file:
        return list(csv.reader(file))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in read_generator(path)[0].state_dict().items()}


# What comes out


def test_a_generator_for_one_style(material: Path, tmp_path: Path) -> None:
    job = style_job(material, tmp_path / "run")
    report, _ = run(job)
    assert report.files == (str(tmp_path / "run" / "painting.safetensors"),)
    generator, info = read_generator(Path(report.files[0]))
    assert info.architecture == "transformer-net"
    assert generator(torch.rand(1, 3, SIDE, SIDE)).shape == (1, 3, SIDE, SIDE)
    with safe_open(report.files[0], "pt") as file:
        described = file.metadata()
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118, no mapping
    assert json.loads(described["recipe"])["objective"]["width"] == STYLE.width
    assert (described["steps"], described["style"]) == ("6", "painting.png")
    assert (report.steps, report.began, report.workers, report.device) == (6, 0, 1, "cpu")
    assert report.pictures == {"images": 6}
    assert report.seconds == pytest.approx(report.startup + report.training + report.shutdown)
    assert len(rows(job.out)) == 1 + 6
    assert steps_of(job.out) == [6, 4]
    assert report.sheet is not None
    assert Path(report.sheet).exists()
    assert {path.name for path in (job.out / "samples").iterdir()} == {f"step-{n:08d}.png" for n in (0, 3, 6)}


def test_a_generator_begins_with_the_weights_of_another(material: Path, tmp_path: Path) -> None:
    first, _ = run(style_job(material, tmp_path / "first"))
    still = changed(seed=5, learning_rate=1e-12)
    second, _ = run(style_job(material, tmp_path / "second", preset=still, start=first.files[0]))
    before, after = (read_generator(Path(report.files[0]))[0].state_dict() for report in (first, second))
    assert all(torch.equal(before[key], value) for key, value in after.items())
    with pytest.raises(ValueError, match=r"other settings .*start_files"):
        run(style_job(material, tmp_path / "second", preset=still, resume=True))


def test_weights_to_begin_with_are_those_of_one_file(material: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give one of them"):
        style_job(material, tmp_path / "run", start="swirls", encoder=Path("vgg16.pth"))


def test_two_generators_of_cyclegan(material: Path, tmp_path: Path) -> None:
    report, _ = run(cycle_job(material, tmp_path / "run"))
    assert [Path(path).name for path in report.files] == ["a2b.safetensors", "b2a.safetensors"]
    assert {read_generator(Path(path))[1].architecture for path in report.files} == {"cyclegan-resnet"}
    assert (report.steps, report.pictures, report.sheet) == (6, {"a": 6, "b": 5}, None)


def test_progress_is_told_step_by_step(material: Path, tmp_path: Path) -> None:
    seen: list[TrainingStatus] = []
    train(style_job(material, tmp_path / "run"), lambda line: None, seen.append)
    assert [status.step for status in seen] == [1, 2, 3, 4, 5, 6]
    assert all(status.steps == 6 for status in seen)


# Going on


@pytest.mark.parametrize("kind", JOBS)
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(material: Path, tmp_path: Path, kind: str) -> None:
    def stop(status: TrainingStatus) -> None:
        if status.step == 5:
            raise KeyboardInterrupt

    whole, _ = run(JOBS[kind](material, tmp_path / "whole"))
    job = JOBS[kind](material, tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        train(job, lambda line: None, stop)
    assert steps_of(job.out)[0] == 4
    parts, _ = run(replace(job, resume=True))
    assert parts.began == 4
    assert rows(job.out) == rows(tmp_path / "whole")
    for one, other in zip(whole.files, parts.files, strict=True):
        first, second = weights(Path(one)), weights(Path(other))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_is_done_writes_its_result_again(material: Path, tmp_path: Path) -> None:
    job = style_job(material, tmp_path / "run")
    first, _ = run(job)
    before = weights(Path(first.files[0]))
    Path(first.files[0]).unlink()
    again, _ = run(replace(job, resume=True))
    assert (again.began, again.losses) == (6, {})
    assert all(torch.equal(before[name], value) for name, value in weights(Path(again.files[0])).items())


def test_resuming_nothing_begins_and_says_so(material: Path, tmp_path: Path) -> None:
    report, lines = run(style_job(material, tmp_path / "run", resume=True))
    assert report.began == 0
    assert any("holds no checkpoint" in line for line in lines)


@pytest.fixture(scope="module")
def finished(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that is done."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "usable_cores", lambda: 1)
        run(style_job(material, out))
    return out


def changed(**settings: Any) -> Preset:
    return Preset("a test", replace(STYLE, **settings), CROP, batch=2, steps=6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume": False}, r"holds a training at step 6; give --resume, or another folder"),
        ({"preset": changed(style_weight=2.0)}, r"other settings \(style_weight: 1\.0, now 2\.0\)"),
        ({"preset": changed(width=4)}, r"other settings \(width: 2, now 4\)"),
        ({"preset": replace(changed(), batch=3)}, r"other settings \(batch: 2, now 3\)"),
        ({"preset": replace(changed(last_rate=1.0), steps=4)}, r"other settings"),
        ({"dtype": "bfloat16"}, r"other settings \(dtype"),
    ],
)
def test_another_run_is_refused(
    material: Path, finished: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    job = style_job(material, shutil.copytree(finished, tmp_path / "run"), **{"resume": True, **changes})
    refused(job, message)
    assert steps_of(job.out) == [6, 4]


def test_checkpoints_of_another_architecture_are_refused(material: Path, tmp_path: Path) -> None:
    """Settings agree, weights do not: the file was changed by other means."""
    job = style_job(material, tmp_path / "run")
    run(job)
    path = main_path(job.out, 6)
    state = torch.load(path, weights_only=True)
    name, first = next(iter(state["networks"]["generator"].items()))
    state["networks"]["generator"][name] = first[:1].clone()
    torch.save(state, path)
    refused(replace(job, resume=True), r"another architecture \(generator\.")


# What is wrong is said in one line, before anything is trained


def refused(job: TrainJob, message: str) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        train(job, lambda line: None, lambda status: pytest.fail("it trains"))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_nothing(material: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(
        style_job(material, tmp_path / "run", folders={"images": tmp_path / "empty"}), r"no picture of at least 32 px"
    )
    refused(style_job(material, tmp_path / "run", folders={"images": tmp_path / "none"}), r"none is no folder")


def test_a_folder_made_for_a_run_that_cannot_be_is_taken_away(material: Path, tmp_path: Path) -> None:
    job = style_job(material, tmp_path / "runs" / "run", folders={"images": tmp_path / "none"})
    refused(job, r"none is no folder")
    refused(replace(job, folders={"images": material / "a"}, style=Path("none.png")), r"none\.png")
    assert not (tmp_path / "runs").exists()
    job.out.mkdir(parents=True)
    refused(job, r"none is no folder")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs", job.out]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_folder_is_for_one_run_at_a_time(material: Path, tmp_path: Path) -> None:
    job = style_job(material, tmp_path / "run")
    tried: list[int] = []

    def another(status: TrainingStatus) -> None:
        for resume in (False, True):
            refused(replace(job, resume=resume), r"run: another training is writing here; wait until it ends, or give")
        tried.append(status.step)

    train(job, lambda line: None, another)
    assert tried == [1, 2, 3, 4, 5, 6]
    assert not (job.out / LOCK).exists()
    assert run(replace(job, resume=True))[0].began == 6


def test_a_lock_that_was_left_is_no_hindrance(material: Path, tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    assert run(style_job(material, tmp_path))[0].steps == 6


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_where_there_are_no_locks_that_is_told(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    assert any("let no second training write" in line for line in run(style_job(material, tmp_path / "run"))[1])


@pytest.mark.parametrize("kind", LEAST_SIZE)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_crops_that_are_too_small_are_refused_and_no_others(kind: str, norm: str, material: Path) -> None:
    settings = replace(CYCLE, discriminator=kind, norm=norm)
    least = LEAST_SIZE[kind]
    message = rf"crops of {least - 1} px are too small for {kind}; give a size of {least} or more"
    with pytest.raises(ValueError, match=message):
        check_size(settings, least - 1)
    check_size(settings, least)

    def judged(size: int) -> torch.Tensor:
        return CycleGAN(settings, epoch_steps=1).networks["judge_a"](torch.rand(1, 3, size, size))

    assert judged(least).isfinite().all()
    with pytest.raises((ValueError, RuntimeError)):
        judged(least - 1)


def test_crops_that_are_too_small_are_found_before_training(material: Path, tmp_path: Path) -> None:
    preset = Preset("a test", CYCLE, CropSettings(8), batch=1, epochs=1)
    refused(cycle_job(material, tmp_path / "run", preset=preset), r"crops of 8 px are too small for conv5")


def test_too_few_pictures_and_batches_that_cannot_be(material: Path, tmp_path: Path) -> None:
    refused(style_job(material, tmp_path / "run", preset=replace(changed(), batch=7)), r"6 pictures .* fewer than .* 7")


def test_a_style_smaller_than_the_crops(material: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "small", 1, size=(30, 50))
    refused(style_job(material, tmp_path / "run", style=tmp_path / "small" / "0.png"), r"style picture is 30x50 px")
    refused(style_job(material, tmp_path / "run", preset=changed(style_size=16)), r"shorter side of 16 px")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style": None}, r"give --style"),
        ({"style": Path("none.png")}, r"none\.png"),
        ({"weights": Path("none.pth")}, r"none\.pth"),
        ({"encoder": Path("none.pth")}, r"none\.pth"),
        ({"start": "none.pth"}, r"none\.pth does not exist"),
        ({"start": "swirls"}, r"start with has not the shape of the transformer-net .*'widths': \[2, 4, 8\]"),
        ({"preset": changed(layers=LayerWeights(style={"relu9_9": 1.0}))}, r"relu9_9"),
        ({"preset": changed(backbone="vgg17")}, r"unknown backbone 'vgg17'"),
    ],
)
def test_what_cannot_be(material: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refused(style_job(material, tmp_path / "run", **changes), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, r"workers is 0; give a whole number of at least 1"),
        ({"device": "tpu"}, r"'tpu'; allowed: auto, cpu, cuda"),
        ({"dtype": "float16"}, r"dtype is 'float16'; allowed: float32, bfloat16"),
        ({"keep": 0}, r"keep is 0; give a whole number of at least 1"),
    ],
)
def test_a_job_that_cannot_be(material: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        style_job(material, tmp_path / "run", **changes)


@pytest.mark.parametrize(("name", "value", "most"), [("width", 9999999999, 1024), ("blocks", 10**9, 100)])
def test_settings_that_no_memory_holds_are_refused(name: str, value: int, most: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}; give a whole number from \d to {most}"):
        changed(**{name: value})


def test_an_out_that_is_a_file(material: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    refused(style_job(material, tmp_path / "run"), r"run: File exists; give another folder with --out")


def test_pictures_that_are_left_out_are_named(material: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(material / "a", folder)
    (folder / "broken.png").write_bytes(b"no picture")
    write_pictures(folder / "tiny", 7, size=(20, 50))
    report, lines = run(style_job(material, tmp_path / "run", folders={"images": folder}))
    assert report.pictures == {"images": 6}
    assert report.skipped == {"images": 8}
    told = "\n".join(lines)
    for text in (
        "8 pictures left out",
        "broken.png: not a picture of a known kind",
        "20x50 is smaller than 32 px",
        "and 3 more",
    ):
        assert text in told


@pytest.mark.parametrize("way", ["same", "inside", "link", "copy"])
def test_folders_that_overlap(material: Path, tmp_path: Path, way: str) -> None:
    a = tmp_path / "a"
    shutil.copytree(material / "a", a)
    b = {"same": a, "inside": a / "more"}.get(way, tmp_path / "b")
    if way != "same":
        shutil.copytree(material / "b", b)
    if way == "link":
        (b / "another.png").symlink_to(a / "0.png")
    if way == "copy":
        shutil.copy(a / "3.png", b / "renamed.png")
    message = r"renamed\.png is a copy of .*3\.png" if way == "copy" else r"in both folders"
    refused(cycle_job(material, tmp_path / "run", folders={"a": a, "b": b}), message)


# Several workers, as far as that goes without any


def test_several_workers_need_ray_train(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "parallel_nst.workers.ray.ranks", None)
    refused(style_job(material, tmp_path / "run", workers=2), r"pip install 'parallel-nst\[training\]'")


def test_what_the_ranks_would_refuse_is_refused_before_them(material: Path, finished: Path) -> None:
    pictured = pictures_of({"images": material / "a"}, SIDE, lambda line: None)

    def check(workers: int = 2, **changes: Any) -> None:
        job = style_job(material, finished, **{"resume": True, **changes})
        training.check_start(training.work_of(job, pictured, workers))

    check()
    with pytest.raises(ValueError, match=r"a batch of 2 cannot be shared by 3 workers; give a multiple of 3"):
        check(3)
    with pytest.raises(ValueError, match="other settings"):
        check(preset=changed(content_weight=3.0))
    with pytest.raises(ValueError, match="relu9_9"):
        check(preset=changed(layers=LayerWeights(style={"relu9_9": 1.0})))
