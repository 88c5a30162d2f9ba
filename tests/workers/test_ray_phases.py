"""A worker is killed in every phase of every kind of work: the result is that of a run that was left alone."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_networks import LAYERS, tiny_state

from parallel_nst.files.digests import file_digest
from parallel_nst.files.images import Picture, write_image
from parallel_nst.jobs.batch import job as folder
from parallel_nst.jobs.batch.job import paint_folder
from parallel_nst.jobs.batch.manifest import MANIFEST
from parallel_nst.jobs.requests.batch import FolderJob
from parallel_nst.jobs.requests.train import TrainJob
from parallel_nst.jobs.train.job import train
from parallel_nst.networks.generators.files import save_generator
from parallel_nst.networks.generators.transformer import TransformerNet
from parallel_nst.painting.stylize import Stylised, stylize
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.training.presets import Preset
from parallel_nst.training.settings import CropSettings, FeedforwardSettings
from parallel_nst.workers import opening
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.ray import actors
from parallel_nst.workers.ray import pool as ray_pool
from parallel_nst.workers.ray.cluster import RayCluster
from parallel_nst.workers.ray.pool import RayPool
from parallel_nst.workers.worker import WorkerSpec

# Ray neither waits for the processes that it kills nor closes its log files.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray Data's, about itself
]

BATCH = {
    "reading": "parallel_nst.jobs.batch.tasks:read_image",
    "painting": "parallel_nst.networks.generators.transformer:TransformerNet.forward",
    "writing": "parallel_nst.jobs.batch.tasks:write_image",
    "renaming": "parallel_nst.files.whole_files:os.replace",
    "telling": "parallel_nst.workers.ray.actors:TaskFinished.__init__",
}
INDEPENDENT = {
    "measuring": "parallel_nst.painting.independent.targets:MeasureGrams.run",
    "beginning": "parallel_nst.painting.independent.tasks:OptimiseTile.run",
    "a step": "parallel_nst.painting.gatys.objective:LocalObjective.value_and_gradient",
    "finishing": "parallel_nst.painting.independent.tasks:finish",
}
EXACT = {
    "measuring": "parallel_nst.painting.style_targets:MeasureStyle.run",
    "meeting": "parallel_nst.workers.ray.actors:ProcessCommunicator.__init__",
    "beginning": "parallel_nst.painting.exact.rank:PaintShard.run",
    "a step": "parallel_nst.painting.exact.halo:Halo.fetch",
    "keeping": "parallel_nst.painting.exact.rank:handed_out",
    "finishing": "parallel_nst.painting.exact.rank:finish",
}
TRAINING = {
    "beginning": "parallel_nst.training.fit:start",
    "a step": "parallel_nst.training.fit:take_turn",
    "a checkpoint": "parallel_nst.training.checkpoint_files:write_whole",
}
LATER = {"a step": "4", "a checkpoint": "3"}  # calls at which workers die, where not the first
PLACES = [*BATCH.values(), *INDEPENDENT.values(), *EXACT.values(), *TRAINING.values()]
SPEC = WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()})


class Deaths:
    """A folder that says where a worker is to die, and the lines that a run has told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []

    @contextmanager
    def at(self, place: str, phase: str) -> Iterator[None]:
        """One worker dies in this block."""
        self.told.clear()
        file = self.folder / place
        file.write_text(LATER.get(phase, ""))
        try:
            yield
            assert not file.exists(), "nobody has died"
        finally:
            file.unlink(missing_ok=True)

    def said(self) -> str:
        """The only line."""
        (line,) = self.told
        return line


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deaths]:
    """For all workers of a Ray that is started later."""
    found = Deaths(tmp_path_factory.mktemp("deaths"))
    deadly = str(Path(__file__).parents[1] / "deadly")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PNST_TEST_DEATHS", str(found.folder))
        patch.setenv("PNST_TEST_PLACES", " ".join(PLACES))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (deadly, os.environ.get("PYTHONPATH")))))
        patch.setattr(actors, "REPLACE_SECONDS", 600.0)  # on a busy machine an actor takes a minute to come up
        patch.setattr(ray_pool, "START_SECONDS", 600.0)
        yield found


@pytest.fixture(scope="module")
def cluster(deaths: Deaths) -> Iterator[RayCluster]:
    opened = RayCluster(None, 2)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pool(cluster: RayCluster, deaths: Deaths) -> Iterator[RayPool]:
    opened = RayPool(cluster, SPEC, Crew(2, 1), notify=deaths.told.append)
    yield opened
    for slot in opened._slots:
        slot.dismiss()


# Pictures


def paint(pool: RayPool | SerialPool, mode: Any) -> Stylised:
    """A small picture in four tiles, at two sizes; exact ranks keep what they have at its tenth step."""
    random = np.random.default_rng(5)
    content, style = (Picture(random.random((64, 80, 3), np.float32)) for _ in range(2))
    tiling = TilingSpec(mode=mode, tiles="2x2", whole=0, overlap=16)
    recipe = Recipe(size=80, scales=2, steps=12, step_growth=1, layers=LAYERS, tiling=tiling, device="cpu")
    return stylize(content, style, recipe, pool)


@pytest.mark.parametrize(
    ("mode", "phase", "place"),
    [*(("independent", *one) for one in INDEPENDENT.items()), *(("exact", *one) for one in EXACT.items())],
)
def test_a_picture_is_the_same(deaths: Deaths, pool: RayPool, mode: str, phase: str, place: str) -> None:
    expected = paint(SerialPool(SPEC), mode)
    with deaths.at(place, phase):
        found = paint(pool, mode)
    np.testing.assert_array_equal(found.picture.pixels, expected.picture.pixels)
    assert found.loss == expected.loss
    tasks = mode == "independent" or phase == "measuring"
    next_ = r"; its task is done again on a new one \(try 2 of 3\)" if tasks else "; all go on from what they have kept"
    assert re.search(next_, deaths.said())


# Folders


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> FolderJob:
    """Some small pictures and a tiny generator."""
    place = tmp_path_factory.mktemp("batch")
    (place / "in").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).random((20, 24, 3), np.float32)
        write_image(place / "in" / f"{number}.png", Picture(pixels))
    save_generator(TransformerNet(widths=(4, 4, 4), blocks=1), place / "tiny.safetensors")
    return FolderJob(str(place / "in"), place / "alone", str(place / "tiny.safetensors"), workers=2)


def painted(job: FolderJob, told: list[str]) -> dict[str, str]:
    """Digests of all visible pictures, by name."""
    report = paint_folder(job, told.append, stdin=io.StringIO())
    assert (report.failed, len(report.entries)) == (0, 6)
    files = [file for file in job.out.iterdir() if file.name != MANIFEST and not file.name.startswith(".")]
    return {file.name: file_digest(file) for file in files}


@pytest.mark.parametrize(("phase", "place"), BATCH.items())
def test_a_folder_is_the_same(
    deaths: Deaths, pool: RayPool, batch: FolderJob, phase: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "open_workers", lambda *arguments: nullcontext(pool))
    expected = painted(batch, [])
    job = replace(batch, out=batch.out.with_name(phase))
    with deaths.at(place, phase):
        assert painted(job, deaths.told) == expected
    assert re.search(r"; its task is done again on a new one \(try 2 of 3\)", deaths.said())
    assert painted(job, []) == expected  # the next batch, which has nothing to do but to tidy up
    assert not list(job.out.glob(".*.pnst"))


# Trainings; the last tests, for what they leave of Ray Train


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """Of a tiny generator on some pictures, by two workers."""
    place = tmp_path_factory.mktemp("lesson")
    (place / "pictures").mkdir()
    pictures = [place / "painting.png", *(place / "pictures" / f"{number}.png" for number in range(6))]
    for number, path in enumerate(pictures):
        write_image(path, Picture(np.random.default_rng(number).random((40, 48, 3), np.float32)))
    save_file(tiny_state(), place / "tiny.safetensors")
    settings = FeedforwardSettings(width=2, blocks=1, layers=LAYERS)
    return TrainJob(
        preset=Preset("a test", settings, CropSettings(32, load=40, flip=True), batch=2, steps=6),
        out=place / "alone",
        folders={"images": place / "pictures"},
        style=place / "painting.png",
        weights=place / "tiny.safetensors",
        device="cpu",
        workers=2,
        checkpoint_every=2,
        sample_every=3,
    )


@pytest.fixture
def ray_here(cluster: RayCluster, pool: RayPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings use the Ray that is there, without the pool's workers, and leave it there."""
    for slot in pool._slots:
        slot.dismiss()
    monkeypatch.setattr(opening, "open_ray", lambda *arguments: (cluster, Crew(2, 1)))
    monkeypatch.setattr(cluster, "close", lambda: None)


@pytest.fixture(scope="module")
def taught() -> dict[str, Any]:
    """What a training that nothing has happened to has learnt."""
    return {}


def learnt(job: TrainJob, told: list[str]) -> tuple[dict[str, Any], Sequence[Sequence[str]]]:
    """The generator's weights, and the losses of all steps."""
    report = train(job, told.append)
    with (job.out / "losses.csv").open(encoding="utf-8") as file:
        return {name: values.numpy() for name, values in load_file(report.files[0]).items()}, list(csv.reader(file))


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="Ray Train is not installed")
@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(("phase", "place"), TRAINING.items())
def test_a_training_learns_the_same(
    deaths: Deaths, lesson: TrainJob, taught: dict[str, Any], phase: str, place: str
) -> None:
    if not taught:
        taught["alone"] = learnt(lesson, [])
    with deaths.at(place, phase):
        weights, losses = learnt(replace(lesson, out=lesson.out.with_name(phase)), deaths.told)
    expected, expected_losses = taught["alone"]
    assert weights.keys() == expected.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    assert losses == expected_losses
    assert "a worker was lost; all go on from the last checkpoint" in deaths.told
