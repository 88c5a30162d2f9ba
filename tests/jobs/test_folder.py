"""A folder of pictures through a generator or by optimisation: what is painted, skipped, failed; and going on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from parallel_nst.files.digests import file_digest
from parallel_nst.files.images import Picture, read_image, read_settings, write_image
from parallel_nst.jobs.batch import job as folder
from parallel_nst.jobs.batch.inputs import InputFile
from parallel_nst.jobs.batch.job import FolderReport, FolderStatus, grouped, paint_folder, work_of
from parallel_nst.jobs.batch.manifest import MANIFEST
from parallel_nst.jobs.batch.outputs import BatchPicture
from parallel_nst.jobs.batch.stamps import stamp_of
from parallel_nst.jobs.batch.tasks import PaintFiles
from parallel_nst.jobs.requests.batch import FolderJob, GeneratorOptions
from parallel_nst.networks.generators.files import save_generator
from parallel_nst.networks.generators.microast import MicroAST
from parallel_nst.networks.generators.transformer import TransformerNet
from parallel_nst.recipe import Recipe
from parallel_nst.workers.pool import Failed, SerialPool

torch.manual_seed(0)
GENERATOR = TransformerNet(widths=(4, 4, 4), blocks=1)


@pytest.fixture
def job(tmp_path: Path) -> FolderJob:
    """Two pictures and one in a folder below, a tiny generator, one worker."""
    for number, name in enumerate(["frame10.png", "frame9.jpg", "deep/er/x.webp"]):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, picture(number))
    save_generator(GENERATOR, tmp_path / "tiny.safetensors")
    return FolderJob(str(tmp_path / "in"), tmp_path / "out", str(tmp_path / "tiny.safetensors"), workers=1)


def picture(seed: int, height: int = 20, width: int = 24) -> Picture:
    return Picture(np.random.default_rng(seed).random((height, width, 3), np.float32))


def paint(job: FolderJob, stdin: str = "") -> FolderReport:
    return paint_folder(job, lambda line: None, stdin=io.StringIO(stdin))


def counts(report: FolderReport) -> tuple[int, int, int]:
    return report.ran.painted, report.skipped, report.failed


def outputs(job: FolderJob) -> dict[str, str]:
    """Digests of all that lies in OUT but the manifest, by name."""
    files = [path for path in sorted(job.out.rglob("*")) if path.is_file() and path.name != MANIFEST]
    return {path.relative_to(job.out).as_posix(): file_digest(path) for path in files}


def test_a_tree_of_pictures_comes_out_as_a_tree(job: FolderJob) -> None:
    report = paint(job)
    assert counts(report) == (3, 0, 0)
    assert list(outputs(job)) == ["deep/er/x.webp", "frame10.png", "frame9.jpg"]
    assert [entry.name for entry in report.entries] == ["deep/er/x.webp", "frame9.jpg", "frame10.png"]
    made = read_image(job.out / "frame10.png")
    source = torch.from_numpy(read_image(Path(job.source) / "frame10.png").pixels).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = GENERATOR(source)[0].permute(1, 2, 0).numpy()
    assert np.abs(made.pixels - expected).mean() < 1.5 / 255
    assert stamp_of(job.out / "frame10.png") == (report.entries[2].input_digest, report.entries[2].recipe)
    assert 'model = "tiny"' in (read_settings(job.out / "frame10.png") or "")


def test_a_second_run_has_nothing_to_do_and_starts_no_worker(job: FolderJob, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(job)
    before = outputs(job)
    monkeypatch.setattr(folder, "open_workers", None)
    report = paint(job)
    assert counts(report) == (0, 3, 0) and outputs(job) == before


@pytest.mark.parametrize("change", ["input", "quality", "model", "missing", "new"])
def test_what_has_changed_is_painted_again(job: FolderJob, change: str) -> None:
    paint(job)
    expected = (1, 2, 0)
    if change == "input":
        write_image(Path(job.source) / "frame9.jpg", picture(7))
    elif change == "quality":
        job, expected = replace(job, quality=80), (3, 0, 0)
    elif change == "model":
        torch.manual_seed(1)
        save_generator(TransformerNet(widths=(4, 4, 4), blocks=1), Path(job.model or ""))
        expected = (3, 0, 0)
    elif change == "missing":
        (job.out / "frame9.jpg").unlink()
    else:
        write_image(Path(job.source) / "frame11.png", picture(8))
        expected = (1, 3, 0)
    assert counts(paint(job)) == expected
    assert counts(paint(job)) == (0, sum(expected), 0)


def test_the_time_of_an_input_alone_changes_nothing(job: FolderJob) -> None:
    paint(job)
    os.utime(Path(job.source) / "frame9.jpg", ns=(1, 1))
    assert counts(paint(job)) == (0, 3, 0)


def test_bad_pictures_fail_by_themselves_and_are_tried_again(job: FolderJob) -> None:
    bad = Path(job.source) / "a.png"
    bad.write_bytes(b"<html>")
    report = paint(job)
    assert counts(report) == (3, 0, 1)
    assert [entry.name for entry in report.failures] == ["a.png"]
    assert counts(paint(job)) == (0, 3, 1)
    write_image(bad, picture(4))
    assert counts(paint(job)) == (1, 3, 0)


def test_a_file_that_no_batch_has_written_is_not_replaced(job: FolderJob) -> None:
    job.out.mkdir()
    write_image(job.out / "frame9.jpg", picture(9))
    before = file_digest(job.out / "frame9.jpg")
    report = paint(job)
    assert counts(report) == (2, 0, 1) and "--overwrite" in (report.failures[0].error or "")
    assert file_digest(job.out / "frame9.jpg") == before
    assert counts(paint(replace(job, overwrite=True))) == (1, 2, 0)
    assert file_digest(job.out / "frame9.jpg") != before
    assert counts(paint(job)) == (0, 3, 0)


def test_a_lost_manifest_is_made_again_from_the_pictures(job: FolderJob) -> None:
    paint(job)
    before = outputs(job)
    (job.out / MANIFEST).unlink()
    assert counts(paint(job)) == (0, 3, 0)
    assert outputs(job) == before


def test_left_overs_of_a_killed_worker_go(job: FolderJob) -> None:
    job.out.mkdir()
    (job.out / ".frame9.jpg.0123456789abcdef.pnst").write_bytes(b"half")
    (job.out / ".other.jpg.0123456789abcdef.pnst").write_bytes(b"of another program")
    paint(job)
    assert list(outputs(job)) == [
        ".other.jpg.0123456789abcdef.pnst",
        "deep/er/x.webp",
        "frame10.png",
        "frame9.jpg",
    ]


def test_a_list_on_stdin_and_a_format_for_all(job: FolderJob) -> None:
    names = "\n".join(str(Path(job.source) / name) for name in ("frame9.jpg", "frame10.png"))
    report = paint(replace(job, source="-", format="png", suffix="-x"), names)
    assert [entry.name for entry in report.entries] == ["frame9-x.png", "frame10-x.png"]
    assert list(outputs(job)) == ["frame10-x.png", "frame9-x.png"]


def test_pictures_are_brought_to_a_size(job: FolderJob) -> None:
    report = paint(replace(job, options=GeneratorOptions(size=12)))
    assert {(entry.width, entry.height) for entry in report.entries} == {(12, 10)}


def test_status_counts_up_to_the_total(job: FolderJob) -> None:
    (Path(job.source) / "a.png").write_bytes(b"")
    seen: list[FolderStatus] = []
    paint_folder(job, lambda line: None, seen.append)
    assert [status.done + status.failed for status in seen] == [1, 2, 3, 4]
    assert (seen[-1].done, seen[-1].failed, seen[-1].total) == (3, 1, 4) and seen[-1].per_second > 0


def test_threads_and_one_process_paint_the_same(job: FolderJob) -> None:
    paint(job)
    other = replace(job, out=job.out.with_name("out2"), workers=2, in_process=True)
    paint(other)
    assert outputs(other) == outputs(job)


def test_a_style_picture_with_a_generator_that_takes_one(job: FolderJob, tmp_path: Path) -> None:
    save_generator(MicroAST((2, 4, 8)), tmp_path / "any.safetensors")
    style = tmp_path / "style.png"
    write_image(style, picture(5, 40, 30))
    job = replace(job, model=str(tmp_path / "any.safetensors"), style=style)
    assert counts(paint(job)) == (3, 0, 0)
    write_image(style, picture(6, 40, 30))
    assert counts(paint(job)) == (3, 0, 0), "another style is another setting"
    assert counts(paint(replace(job, options=GeneratorOptions(strength=0.5)))) == (3, 0, 0)


def test_without_a_model_each_picture_is_painted_by_optimisation(job: FolderJob, tmp_path: Path) -> None:
    write_image(tmp_path / "style.png", picture(5, 40, 30))
    source = str(Path(job.source) / "frame10.png")
    recipe = Recipe(size=24, steps=2, scales=1)
    job = replace(job, source=source, model=None, style=tmp_path / "style.png", recipe=recipe)
    report = paint(job)
    assert counts(report) == (1, 0, 0)
    assert all(entry.notes and entry.notes[0].startswith("loss ") for entry in report.entries)
    assert "steps = 2" in (read_settings(job.out / "frame10.png") or "")
    assert counts(paint(replace(job, recipe=replace(job.recipe, steps=3)))) == (1, 0, 0)


def refused(job: FolderJob) -> str:
    """Why a whole batch cannot be; nothing is left of it."""
    with pytest.raises((ValueError, OSError)) as error:
        paint(job)
    assert not job.out.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_batch_that_cannot_be_is_refused_in_one_line_before_anything_is_made(job: FolderJob, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save_generator(MicroAST((2, 4, 8)), tmp_path / "any.safetensors")
    style = Path(job.source) / "frame10.png"
    assert "no pictures" in refused(replace(job, source=str(tmp_path / "empty")))
    assert "nowhere" in refused(replace(job, source=str(tmp_path / "nowhere")))
    assert "no-such-model" in refused(replace(job, model="no-such-model"))
    assert "style of its own" in refused(replace(job, style=style))
    assert "wants a style picture" in refused(replace(job, model=str(tmp_path / "any.safetensors")))
    assert "lots" in refused(replace(job, memory="lots"))
    assert "xyz" in refused(replace(job, format="xyz"))


@pytest.mark.parametrize(
    "options", [{"dtype": "float64"}, {"strength": 1.5}, {"strength": "much"}, {"statistics": "guessed"}]
)
def test_options_out_of_bounds_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        GeneratorOptions(**options)  # type: ignore[arg-type]


def targets(folder: Path, sizes: Sequence[int]) -> list[BatchPicture]:
    """Files of so many bytes."""
    found = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.png"
        with path.open("wb") as file:
            file.truncate(size)
        found.append(BatchPicture(InputFile(path, Path(path.name)), folder / "out" / path.name, path.name))
    return found


@pytest.mark.parametrize(
    ("sizes", "at_once", "workers", "lengths"),
    [
        ([10] * 64, 8, 2, [8] * 8),
        ([10] * 16, 8, 2, [2] * 8),
        ([10] * 3, 8, 2, [1] * 3),
        ([10] * 64, 1, 2, [1] * 64),
        ([5 << 20] * 3 + [10] * 61, 8, 2, [1] * 3 + [8] * 7 + [5]),
        ([3 << 20] * 32, 8, 1, [1] * 32),
    ],
)
def test_neighbours_make_a_task_but_large_files_go_alone(
    tmp_path: Path, sizes: list[int], at_once: int, workers: int, lengths: list[int]
) -> None:
    todo = targets(tmp_path, sizes)
    groups = grouped(todo, at_once, workers)
    assert [target for group in groups for target in group] == todo
    assert [len(group) for group in groups] == lengths


def test_workers_are_given_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their current folder is that in which Ray was started."""
    monkeypatch.chdir(tmp_path)
    work = work_of(BatchPicture(InputFile(Path("in/a.png"), Path("a.png")), Path("out/a.png"), "a.png"))
    assert (work.source, work.output) == (tmp_path / "in/a.png", tmp_path / "out/a.png")


def test_workers_without_room_for_a_picture_are_refused_before_the_first(job: FolderJob) -> None:
    with pytest.raises(ValueError, match=r"300 MiB of memory .* 1 workers.*; give more --memory or fewer --workers"):
        paint(replace(job, memory="300MiB"))


class Deadly(SerialPool):
    """A pool whose worker dies of one picture."""

    def map(self, tasks, on_progress=None, *, keep_going=False):  # type: ignore[no-untyped-def]
        assert keep_going
        for index, task in enumerate(tasks):
            assert isinstance(task, PaintFiles)
            if any(work.source.name == "deadly.png" for work in task.files):
                yield index, Failed("killed")
            else:
                yield from ((index, result) for _, result in super().map([task]))


def test_a_picture_that_kills_its_worker_takes_no_other_with_it(
    job: FolderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        write_image(Path(job.source) / f"b{number}.png", picture(number))
    write_image(Path(job.source) / "deadly.png", picture(0))
    opened = folder.open_workers

    def deadly(*args, **options):  # type: ignore[no-untyped-def]
        return Deadly(opened(*args, **options).spec)

    monkeypatch.setattr(folder, "open_workers", deadly)
    report = paint(job)
    assert counts(report) == (15, 0, 1)
    assert [(entry.name, "killed" in (entry.error or "")) for entry in report.failures] == [("deadly.png", True)]


KILLED = """
import sys
from parallel_nst.__main__ import main
main()
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("after", [1, 4])
def test_a_batch_that_is_killed_goes_on_where_it_was(job: FolderJob, workers: int, after: int) -> None:
    """SIGKILL once some pictures are there: what is there is whole and is not painted again."""
    for number in range(10):
        write_image(Path(job.source) / f"b{number}.png", picture(number, 200, 200))
    command = ["batch", job.source, str(job.out), "--model", str(job.model), "--workers", str(workers), "--quiet"]
    run = subprocess.Popen([sys.executable, "-c", KILLED, *command], start_new_session=True)
    deadline = time.monotonic() + 120
    while len(painted(job)) < after and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    family = psutil.Process(run.pid).children(recursive=True)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    for process in family:  # Ray's workers are in groups of their own, and one may be about to write
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=60)
    there = {path: (file_digest(path), path.stat().st_mtime_ns) for path in painted(job)}
    assert len(there) >= after
    for path in there:
        read_image(path)
    report = paint(job)
    assert report.failed == 0 and report.ran.painted + report.skipped == 13
    assert {path: (file_digest(path), path.stat().st_mtime_ns) for path in there} == there
    assert report.ran.painted == 13 - len(there)
    assert not list(job.out.rglob("*.pnst"))
    lines = [json.loads(line) for line in (job.out / MANIFEST).read_text().splitlines()]
    assert {line["name"] for line in lines if line["state"] == "done"} == {entry.name for entry in report.entries}


def painted(job: FolderJob) -> list[Path]:
    """Outputs that are there."""
    if not job.out.exists():
        return []
    return [path for path in job.out.rglob("*") if path.is_file() and path.suffix in (".png", ".jpg", ".webp")]
