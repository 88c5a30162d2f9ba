"""Serial against parallel: who is measured, against whom, and what is written about it."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import LAYERS, tiny_state

from parallel_nst.files.size import Size
from parallel_nst.jobs.compare import job as comparing
from parallel_nst.jobs.compare import outlook as outlooks
from parallel_nst.jobs.compare.files import CSV, JSON, PAGE, PLOT, output_folder, write_files
from parallel_nst.jobs.compare.job import (
    compare,
    limit,
    parallel_settings,
    prepared,
    seam_ratio,
    serial_settings,
    thumbnail,
)
from parallel_nst.jobs.compare.page import page
from parallel_nst.jobs.compare.records import SERIAL, Comparison, Measurement, Setting, Timing
from parallel_nst.jobs.compare.tables import (
    MEANINGS,
    SCREEN,
    in_bytes,
    record,
    remarks,
    screen_row,
    spread,
    to_csv,
    to_json,
)
from parallel_nst.jobs.machine import Machine, PeakMemory, release_memory, this_machine
from parallel_nst.jobs.requests.compare import CompareJob
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.tiles.geometry import plan_tiles
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers import opening as pools
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.worker import WorkerSpec

MB = 1 << 20
RECIPE = Recipe(
    size=48, steps=2, scales=2, layers=LAYERS, dtype="float32", tiling=TilingSpec(tiles="4", overlap=8, whole=40)
)


# What is made of measurements


def timing(seconds: float) -> Timing:
    """A quarter of a second each for start-up, blending and shut-down."""
    return Timing(startup=0.25, compute=seconds - 0.75, blend=0.25, shutdown=0.25)


def patch(value: int, size: int = 8) -> np.ndarray:
    return np.full((size, size + 4, 3), value, np.uint8)


def measurement(mode: str, workers: int, threads: int, *seconds: float, **figures: object) -> Measurement:
    known = {
        "setting": Setting(mode, workers, threads, RECIPE),
        "workers": workers,
        "threads": threads,
        "timings": tuple(map(timing, seconds)),
        "loss": 0.5,
        "seam_ratio": 1.01,
        "mean_difference": 0.25,
        "max_difference": 3.0,
        "moved": 4_000_000,
        "peak_memory": 1_200_000_000,
        "picture": patch(100),
        "difference": patch(3),
    }
    return Measurement(**{**known, **figures})  # type: ignore[arg-type]


@pytest.fixture
def comparison() -> Comparison:
    """One thread takes 10 s, two take 6 s; two workers of one thread 4 s."""
    limits = ("2 of 4: there are 2 cores", "2 of 8: there are 2 cores")
    exact = measurement("exact", 2, 1, 5, 4, 3)
    return Comparison(
        job=CompareJob(Path("a/<b>&.png"), Path("b/swirls.jpg"), RECIPE),
        machine=Machine("Linux", "A <fast> processor", 2, 8_000_000_000, {"Python": "3.14"}),
        device="cpu",
        dtype="float32",
        size=Size(36, 48),
        tiles=4,
        rounds=3,
        measurements=(
            measurement(SERIAL, 1, 1, 9, 11, 10, mean_difference=0.0, max_difference=0.0, moved=0),
            measurement(SERIAL, 1, 2, 6, 6, 6),
            measurement("exact", 1, 2, 7, 7, 7, seam_ratio=math.nan),
            replace(exact, setting=replace(exact.setting, limits=limits)),
        ),
        content=patch(50),
        style=patch(60),
    )


def test_the_best_serial_setting_is_the_one_to_beat(comparison: Comparison) -> None:
    one, two, _, exact = comparison.measurements
    assert comparison.baseline is two
    assert [comparison.speedup(m) for m in (one, two, exact)] == pytest.approx([0.6, 1.0, 1.5])
    assert comparison.speedup(exact, "painting") == pytest.approx(5.5 / 3.5)


def test_efficiency_is_speed_up_for_every_core(comparison: Comparison) -> None:
    one, two, _, exact = comparison.measurements
    assert [comparison.efficiency(m) for m in (one, two, exact)] == pytest.approx([1.2, 1.0, 1.5])


def test_a_parallel_setting_is_never_the_baseline(comparison: Comparison) -> None:
    alone = replace(comparison, measurements=comparison.measurements[::3])
    assert alone.baseline.setting.mode == SERIAL


def test_the_parts_of_a_round_add_up_to_its_seconds() -> None:
    one = Timing(1.0, 2.0, 4.0, 8.0)
    assert (one.seconds, one.painting) == (15.0, 6.0)


def test_csv_and_json_say_the_same(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    data = json.loads(to_json(comparison))
    assert len(rows) == len(data["settings"]) == 4
    for row, setting in zip(rows, data["settings"], strict=True):
        assert [*row] == [*MEANINGS] == [*data["meanings"]]
        assert row == {key: "" if setting[key] is None else str(setting[key]) for key in row}
    assert [row["best_serial"] for row in rows] == ["False", "True", "False", "False"]
    assert (data["width"], data["height"], data["tiles"]) == (48, 36, 4)


def test_json_has_every_round(comparison: Comparison) -> None:
    setting = json.loads(to_json(comparison))["settings"][0]
    sums = [sum(part.values()) for part in setting["rounds"]]
    assert sums == pytest.approx([9, 11, 10])
    assert (setting["seconds"], setting["seconds_min"], setting["seconds_max"]) == (10, 9, 11)


def test_a_figure_that_is_not_defined_is_left_out(comparison: Comparison) -> None:
    third = comparison.measurements[2]
    assert record(comparison, third)["seam_ratio"] is None
    assert screen_row(comparison, third)[SCREEN.index("Seams")] == ""
    lost = replace(comparison, measurements=(*comparison.measurements[:2], replace(third, loss=math.inf)))
    assert json.loads(to_json(lost))["settings"][2]["loss"] is None


def test_rows_of_the_screen_fit_their_headings(comparison: Comparison) -> None:
    row = dict(zip(SCREEN, screen_row(comparison, comparison.measurements[0]), strict=True))
    assert (row["Setting"], row["Ran"], row["Seconds"]) == ("serial, 1 thread", "1 x 1", "10.0 (9.0-11.0)")
    assert "best" in screen_row(comparison, comparison.baseline)[0]


def test_limits_are_said_once_each(comparison: Comparison) -> None:
    both = replace(comparison, measurements=(*comparison.measurements, comparison.measurements[-1]))
    assert remarks(both) == ["workers 2 of 4: there are 2 cores", "workers 2 of 8: there are 2 cores"]


def test_small_texts() -> None:
    assert [in_bytes(n) for n in (0, 12_300, 3_400_000, 5.61e9)] == ["0", "12.3 kB", "3.4 MB", "5.61 GB"]
    assert [spread([2.0]), spread([3.0, 1.0, 2.0])] == ["2.0", "2.0 (1.0-3.0)"]
    assert limit("using 2 of 8 workers: there are 2 cores") == "2 of 8: there are 2 cores"


# The page and the files


def embedded(text: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', text)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_page_holds_its_pictures_and_nothing_else_is_loaded(comparison: Comparison) -> None:
    text = page(comparison, None)
    pictures = embedded(text)
    assert len(pictures) == 2 + 4 + 3  # content and style, results, and what differs from the first
    assert {picture.size for picture in pictures} == {(12, 8)}
    middles = [np.asarray(picture)[4, 4, 0] for picture in pictures]
    assert middles == pytest.approx([50, 60, *[100] * 4, *[3] * 3], abs=2)
    assert len(re.findall(r"<img ", text)) == len(pictures)
    assert "http" not in text


def test_the_page_escapes_names_and_gives_every_figure(comparison: Comparison) -> None:
    text = page(comparison, None)
    assert "&lt;b&gt;&amp;.png" in text and "<b>" not in text
    assert "A &lt;fast&gt; processor" in text and "<fast>" not in text
    for m in comparison.measurements:
        assert all(f"<td>{cell}</td>" in text for cell in screen_row(comparison, m))
    assert "2 of 8: there are 2 cores" in text


def test_without_matplotlib_everything_else_is_written(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (tmp_path / PLOT).write_bytes(b"of an earlier comparison")
    files, notes = write_files(comparison, tmp_path)
    assert {*files} == {*tmp_path.iterdir()} == {tmp_path / name for name in (CSV, JSON, PAGE)}
    (note,) = notes
    assert "pip install 'parallel-nst[compare]'" in note
    assert (tmp_path / CSV).read_text() == to_csv(comparison)


def test_with_matplotlib_there_is_a_plot_on_the_page_too(comparison: Comparison, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files, notes = write_files(comparison, tmp_path)
    assert tmp_path / PLOT in files and not notes
    plot = Image.open(io.BytesIO((tmp_path / PLOT).read_bytes()))
    assert plot.format == "PNG" and plot.width > 600
    assert plot.size in {picture.size for picture in embedded((tmp_path / PAGE).read_text())}


def test_files_appear_together_or_not_at_all(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CSV).write_bytes(b"old")
    write, calls = Path.write_bytes, itertools.count()

    def fails_later(path: Path, data: bytes) -> int:
        if next(calls):
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fails_later)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\): free some space"):
        write_files(comparison, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CSV]
    assert (tmp_path / CSV).read_bytes() == b"old"


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "new", ()):
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()
    with output_folder(tmp_path / "new", ()):
        (tmp_path / "new" / CSV).touch()
    assert (tmp_path / "new" / CSV).exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("file", "not a folder"), ("file/in", "cannot be made"), ("no/where", "cannot be made"), ("", "an input")],
)
def test_a_place_that_cannot_be_written_to(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / PAGE).touch()
    with pytest.raises(ValueError, match=message), output_folder(tmp_path / name, (tmp_path / PAGE,)):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"file", PAGE}


# What is measured


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompareJob:
    """A job with the tiny network, on two cores."""
    rng = np.random.default_rng(0)
    for name, size in (("content.png", (30, 40)), ("style.png", (32, 32))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / name)
    monkeypatch.setattr(pools, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # see conftest
    monkeypatch.setattr(comparing, "release_memory", lambda: None)  # slow where there are as many objects as here
    monkeypatch.setattr(comparing, "load_weights", lambda name, path: tiny_state())
    monkeypatch.setattr(outlooks, "measured_speed", lambda *of: 1e9)
    return CompareJob(tmp_path / "content.png", tmp_path / "style.png", RECIPE, repeats=2)


class Ledger:
    """Stands in for `open_pool`: pools of one that say they have many workers, and what became of them."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, int]] = []
        self.open = 0

    def __call__(self, recipe: Recipe, *, workers: int, weights: object, workload: pools.Workload) -> SerialPool:
        assert workload.tasks == 4
        ledger = self

        class Watched(SerialPool):
            def close(self) -> None:
                ledger.open -= 1

        self.opened.append((recipe.tiling.mode, workers))
        self.open += 1
        pool = Watched(WorkerSpec("cpu", "float32", 1, {"embedded": tiny_state()}))
        pool.moved, pool.waited = 1000 * workers, 0.001
        pool.crew = Crew(workers, 2 // workers)
        return pool


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    book = Ledger()
    monkeypatch.setattr(pools, "open_pool", book)
    return book


def quiet(line: str) -> None:
    """Nothing to be told but how long it will be."""
    assert " runs: " in line


def test_serial_is_measured_with_one_thread_and_with_all(job: CompareJob, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [*serial_settings(prepared(job, quiet))]
    assert [(s.name, s.threads, s.recipe.tiling.tiles) for s in settings] == [
        ("serial, 1 thread", 1, "1"),
        ("serial, 2 threads", 2, "1"),
    ]
    monkeypatch.setattr(pools, "usable_cores", lambda: 1)
    assert [s.name for s in serial_settings(prepared(job, quiet))] == ["serial, 1 thread"]


def test_workers_that_cannot_be_had_are_measured_once_and_marked(job: CompareJob) -> None:
    settings = [*parallel_settings(replace(job, workers=(8, 1, 2, 4, 2)), prepared(job, quiet))]
    assert [(s.mode, s.workers, s.threads) for s in settings] == [
        (mode, *crew) for mode in job.modes for crew in ((1, 2), (2, 1))
    ]
    assert settings[0].limits == ()
    assert settings[1].limits == ("2 of 4: there are 2 cores", "2 of 8: there are 2 cores")


def test_automatic_tiles_are_the_same_for_all_settings(job: CompareJob) -> None:
    auto = replace(RECIPE, size=200, tiling=replace(RECIPE.tiling, tiles="auto"))
    scene = prepared(replace(job, recipe=auto, workers=(1, 6)), quiet)
    assert len(scene.tiles) == 6
    assert {s.recipe.tiling.tiles for s in parallel_settings(job, scene)} == {"6"}


def test_one_tile_is_nothing_to_compare(job: CompareJob) -> None:
    one = replace(RECIPE, tiling=replace(RECIPE.tiling, tiles="1"))
    with pytest.raises(ValueError, match="tiles is '1', which is one tile on 48x36 px; give more"):
        prepared(replace(job, recipe=one), quiet)


def test_settings_take_turns_in_every_round(job: CompareJob, ledger: Ledger) -> None:
    compare(replace(job, workers=(1, 2), modes=("exact",)), quiet)
    one, two = ("exact", 1), ("exact", 2)
    assert ledger.opened == [one, two, one, two, two, one]
    assert ledger.open == 0


def test_it_says_first_how_many_runs_there_will_be(job: CompareJob, ledger: Ledger) -> None:
    heard: list[str] = []

    def hear(line: str) -> None:
        assert not ledger.opened
        heard.append(line)

    compare(replace(job, workers=(1, 2), modes=("exact",)), hear)
    (line,) = heard
    assert re.fullmatch(r"12 runs: 4 settings, once to warm up and 2 times timed; about \d+ s in all", line)


def test_how_long_it_will_be_follows_from_the_work(job: CompareJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the speed is half the time, but for the start of Ray."""
    scene = prepared(replace(job, modes=("exact",), workers=(1,)), quiet)
    settings = [*serial_settings(scene)]
    reader = FeatureReader(build_backbone("embedded", tiny_state()), LAYERS, torch.float32)
    costs = profile(reader.backbone, LAYERS.style, LAYERS.content, torch.float32)
    slow, quick = (outlooks.seconds_of(scene, settings[0], reader, costs, speed) for speed in (1e6, 2e6))
    assert slow / quick == pytest.approx(2, rel=0.01)
    ray = replace(settings[0], mode="exact", workers=2)
    assert outlooks.seconds_of(scene, ray, reader, costs, 1e15) == pytest.approx(outlooks.RAY_SECONDS, rel=0.01)


def test_long_times_are_rounded() -> None:
    assert [outlooks.in_words(seconds) for seconds in (0.2, 40, 600, 9000)] == ["1 s", "40 s", "10 min", "2.5 h"]


def test_what_is_known_is_told_after_each_round(job: CompareJob, ledger: Ledger) -> None:
    rounds: list[Comparison] = []
    last = compare(replace(job, workers=(1,), modes=("exact",), repeats=2), quiet, on_round=rounds.append)
    assert [comparison.rounds for comparison in rounds] == [1, 2]
    assert [len(m.timings) for comparison in rounds for m in comparison.measurements] == [1, 1, 1, 2, 2, 2]
    assert rounds[-1] is last
    assert json.loads(to_json(rounds[0]))["repeats"] == 1


def test_one_round_is_timed_unless_more_are_asked_for() -> None:
    assert CompareJob(Path("a.png"), Path("b.png")).repeats == 1


def test_gpus_count_as_one_each_whatever_the_cores(job: CompareJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four GPUs on a machine of many cores: two workers take two, with a thread each."""
    scene = replace(prepared(job, quiet), device="cuda", slots=4)
    settings = [*parallel_settings(replace(job, workers=(1, 2, 4), modes=("exact",)), scene)]
    assert [(s.workers, s.threads) for s in settings] == [(1, 1), (2, 1), (4, 1)]
    assert [s.name for s in serial_settings(scene)] == ["serial, 1 thread"]


def test_what_is_found(job: CompareJob, ledger: Ledger) -> None:
    found = compare(job, quiet)
    assert [m.setting.name for m in found.measurements] == [
        "serial, 1 thread",
        "serial, 2 threads",
        *(f"{mode}, {count}" for mode in job.modes for count in ("1 worker", "2 workers")),
    ]
    assert (found.size, found.tiles) == ((36, 48), 4)
    for m in found.measurements:
        assert len(m.timings) == 2 and all(t.seconds > 0 for t in m.timings)
        assert m.moved == (0 if m.setting.mode == SERIAL else 1000 * m.workers)
        assert m.peak_memory > 10 * MB
        assert np.isfinite(m.loss) and m.seam_ratio > 0
    first = found.measurements[0]
    assert (first.mean_difference, first.max_difference, first.seam_ratio) == (0, 0, 1)


def test_exact_is_the_serial_picture_and_independent_is_not(job: CompareJob, ledger: Ledger) -> None:
    found = {m.setting.mode: m for m in compare(replace(job, workers=(1,), repeats=1), quiet).measurements}
    assert found["exact"].mean_difference < 0.2 < found["independent"].mean_difference
    assert found["exact"].loss == pytest.approx(found[SERIAL].loss, rel=1e-3)


def test_how_far_it_is_rises_to_the_end(job: CompareJob, ledger: Ledger) -> None:
    seen: list[tuple[float, str]] = []
    compare(replace(job, repeats=1, workers=(1,)), quiet, lambda share, text: seen.append((share, text)))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert seen[0][1].startswith("warm-up  serial, 1 thread") and f"round 1/1  {job.modes[-1]}, 1 worker" in seen[-1][1]


def test_an_interruption_closes_the_pool(job: CompareJob, ledger: Ledger) -> None:
    def stop(share: float, text: str) -> None:
        if "exact" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(job, quiet, stop)
    assert ledger.opened and ledger.open == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": ()}, "workers are"),
        ({"workers": (1, 0)}, "at least 1"),
        ({"modes": ()}, "allowed: independent, exact"),
        ({"modes": ("exact", "magic")}, "modes is 'magic'"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_a_job_that_makes_no_sense(job: CompareJob, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(job, **change)  # type: ignore[arg-type]


def test_a_seam_shows_in_the_ratio() -> None:
    tiles = plan_tiles(40, 40, (1, 2))
    rng = np.random.default_rng(0)
    smooth = rng.random((40, 40, 3)).astype(np.float32) * 0.1
    cut = smooth.copy()
    cut[:, 20:] += 0.5
    assert seam_ratio(smooth, smooth, tiles) == 1
    assert seam_ratio(cut, smooth, tiles) > 3
    assert math.isnan(seam_ratio(cut, np.zeros_like(cut), tiles))


def test_thumbnails_keep_the_shape_and_brighten() -> None:
    assert thumbnail(np.zeros((100, 1000, 3), np.float32)).shape == (40, 400, 3)
    assert thumbnail(np.zeros((5, 7, 3), np.float32)).shape == (5, 7, 3)
    assert (thumbnail(np.full((4, 4, 3), 0.1, np.float32), 8) == 204).all()
    assert (thumbnail(np.full((4, 4, 3), 0.2, np.float32), 8) == 255).all()


# The machine


@pytest.fixture
def child() -> Iterator[int]:
    """A process of ours that holds 60 MB."""
    source = f"held = b'1' * {60 * MB}; print(len(held), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def peak() -> int:
    with PeakMemory() as memory:
        pass
    return memory.bytes


def test_memory_of_this_process_and_of_those_it_started_counts(request: pytest.FixtureRequest) -> None:
    release_memory()  # or the array below might take memory that counts already
    before = peak()
    held = np.ones(40 * MB, np.uint8)
    alone = peak()
    request.getfixturevalue("child")
    assert alone - before > 0.9 * held.nbytes
    assert peak() - alone > 55 * MB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_memory_that_was_kept_is_given_back() -> None:
    SerialPool(WorkerSpec("cpu", "float32", 1, {}))  # lets glibc keep what is freed
    held = [np.ones(MB, np.uint8) for _ in range(60)]
    full = peak()
    del held
    release_memory()
    assert full - peak() > 50 * MB


def test_the_machine_has_a_name_and_versions() -> None:
    machine = this_machine()
    assert machine.cores >= 1 and machine.memory > 100 * MB and machine.processor
    assert {"Python", "torch", "ray", "numpy"} <= {*machine.versions}


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_from_end_to_end_with_ray(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("content.png", "style.png"):
        Image.fromarray(rng.integers(0, 256, (80, 96, 3), np.uint8)).save(tmp_path / name)
    command = "content.png style.png --size 96 --steps 2 --scales 1 --tiles 4 --overlap 8 --workers 1,2"
    run = subprocess.run(
        [sys.executable, "-m", "parallel_nst", "compare", *command.split(), "--output", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {row["setting"]: row for row in csv.DictReader((tmp_path / "out" / CSV).read_text().splitlines())}
    assert {"serial, 1 thread", "exact, 1 worker", "independent, 1 worker"} <= {*rows}
    assert all(name in run.stdout for name in rows)
    assert len(embedded((tmp_path / "out" / PAGE).read_text())) >= 2 + 2 * len(rows) - 1
    if "exact, 2 workers" in rows:
        for mode in ("exact", "independent"):
            assert int(rows[f"{mode}, 2 workers"]["moved_bytes"]) > 3 * 4 * 96 * 80
        assert float(rows["exact, 2 workers"]["mean_difference"]) < 1
