"""The command `pnst`: its options, what it prints, and one line for every mistake."""

from __future__ import annotations

import json
import math
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from command import Pnst, Run, caller
from PIL import Image
from safetensors.torch import save_file

from parallel_nst import __version__
from parallel_nst.cli import main as cli
from parallel_nst.cli import progress as cli_progress
from parallel_nst.cli.texts import crew_text
from parallel_nst.files.images import read_image, read_settings
from parallel_nst.jobs import picture
from parallel_nst.jobs.picture import PictureReport
from parallel_nst.jobs.requests.picture import PictureJob
from parallel_nst.painting.scale_run import RunStatus
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.recipe.knobs import knob_of
from parallel_nst.workers import opening as pools

SMALL = ("--size", "32", "--steps", "1", "--scales", "1")
FIELDS = [spec for record in (Recipe, TilingSpec) for spec in fields(record) if knob_of(spec)]
COMMANDS = [command.name for command in cli.app.registered_commands]


def random_image(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two pictures and no network; one core, so that no Ray is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PNST_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request._opener", None)  # the first call's proxies would hold for all tests after this
    monkeypatch.setattr(pools, "usable_cores", lambda: 1)
    monkeypatch.setattr(cli_progress, "PLAIN_SECONDS", math.inf)  # however slow the machine is
    random_image(64, 48).save("content.png")
    random_image(40, 48, seed=1).save("style.png")
    return tmp_path


@pytest.fixture
def pnst(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Pnst:
    """Call the command with these arguments."""
    return caller(monkeypatch, capfd)


@pytest.fixture
def paint(pnst: Pnst) -> Pnst:
    """`pnst tile-run` of the two pictures, small and quick; options given later win."""
    names = ("--content", "content.png", "--style", "style.png", "--output", "out.png")

    def call(*options: object) -> Run:
        kept = [one for name in range(0, len(names), 2) for one in names[name : name + 2] if names[name] not in options]
        return pnst("tile-run", *kept, *SMALL, "--workers", 1, *options)

    return call


def settings(path: str = "out.png") -> Recipe:
    text = read_settings(path)
    assert text is not None
    return Recipe.from_toml(text)


# Help and version


def test_the_version_is_that_of_the_package(pnst: Pnst) -> None:
    assert pnst("--version") == Run(0, f"pnst {__version__}\n", "")


def test_help_is_in_groups_with_the_common_ones_first(pnst: Pnst, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run = pnst("tile-run", "--help")
    assert run.code == 0
    panels = re.findall(r"^╭─ (\w+) ─", run.out, re.MULTILINE)
    assert panels == ["Pictures", "Look", "Steps", "Tiles", "Workers", "Output"]
    first = re.findall(r"^╭─ \w+ ─.*\n│ +(--[a-z-]+)", run.out, re.MULTILINE)
    assert first == ["--content", "--content-weight", "--steps", "--mode", "--workers", "--quality"]


def test_every_setting_is_shown_with_its_default_and_help(pnst: Pnst, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    text = " ".join(pnst("tile-run", "--help").out.split())
    assert len(FIELDS) > 20
    for spec in FIELDS:
        told = knob_of(spec)
        assert told is not None
        help = told.help[0].upper() + told.help[1:]
        pattern = rf"--{spec.name.replace('_', '-')} .*?{re.escape(help)}\. "
        default = told.shown or str(spec.default)
        assert re.search(pattern + rf"\[default: \({re.escape(default)}\)\]", text), spec.name


def test_a_shell_gets_its_completion(pnst: Pnst, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    run = pnst("--show-completion", "bash")
    assert run.code == 0 and "_PNST_COMPLETE=complete_bash" in run.out


def test_without_a_command_the_help_is_shown(pnst: Pnst) -> None:
    run = pnst()
    assert len(COMMANDS) >= 5
    assert all(command in run.out + run.err for command in COMMANDS)


def test_the_help_loads_no_pytorch() -> None:
    source = "import sys, parallel_nst.cli.main; print('torch' in sys.modules, 'ray' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


# What a run prints and writes


def test_the_summary_is_one_line(paint: Pnst) -> None:
    run = paint()
    assert (run.code, run.err) == (0, "")
    assert re.fullmatch(r"out\.png: 32x24 px, 1 tile, 1 worker x 1 thread, [^\n]+\n", run.out)


def test_json_is_one_object(paint: Pnst) -> None:
    run = paint("--json")
    report = json.loads(run.out)
    assert run.out.count("\n") == 1
    assert (report["output"], report["width"], report["height"], report["workers"]) == ("out.png", 32, 24, 1)
    parts = ("startup", "compute", "blend", "write", "shutdown")
    assert report["seconds"] == pytest.approx(sum(report[part] for part in parts))
    assert report["recipe"]["size"] == 32


def test_every_flag_reaches_the_job(paint: Pnst, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[PictureJob] = []

    def take(job: PictureJob, *rest: object) -> None:
        jobs.append(job)
        raise ValueError("seen")

    monkeypatch.setattr(picture, "stylize_file", take)
    long_run = ("--memory", "4GiB", "--preview-every", 3, "--checkpoint-every", 5, "--resume", "--workers", 7)
    refused(paint(*long_run), "seen")
    refused(
        paint("--output", "out.jpg", "--quality", 30, "--max-pixels", 9, "--weights", "w.pth", "--address", "auto"),
        "seen",
    )
    one, two = jobs
    assert (one.memory, one.preview_every, one.checkpoint_every, one.resume, one.workers) == ("4GiB", 3, 5, True, 7)
    assert (two.memory, two.preview_every, two.checkpoint_every, two.resume) == (None, None, None, False)
    assert (two.quality, two.max_pixels, two.weights, two.address) == (30, 9, Path("w.pth"), "auto")
    assert (one.content, one.style, one.output) == (Path("content.png"), (Path("style.png"),), Path("out.png"))


def test_progress_says_the_speed_once_it_is_known() -> None:
    status = RunStatus(2, 3, 1, 4, 5, 10, 0.25, 0.5)
    assert cli_progress.describe(status, tiled=True) == "scale 2/3  tiles 1/4  step 5/10  loss 0.2500"
    quick = replace(status, steps_per_second=1.26)
    assert cli_progress.describe(quick, tiled=True).endswith("loss 0.2500  1.3 steps/s")


def test_progress_counts_tiles_only_where_they_finish_one_by_one() -> None:
    """Tiles of one objective are all done at once, with the last step; a scale in one piece has none to count."""
    status = RunStatus(2, 3, 0, 4, 5, 10, 0.25, 0.5)
    assert cli_progress.describe(status, tiled=False) == "scale 2/3  step 5/10  loss 0.2500"
    assert cli_progress.describe(replace(status, tiles=1), tiled=True) == "scale 2/3  step 5/10  loss 0.2500"


def test_exact_tiles_have_no_border_to_speak_of(paint: Pnst) -> None:
    tiles = ("--tiles", 2, "--size", 64)
    assert "border" not in paint(*tiles).out
    assert json.loads(paint(*tiles, "--json").out)["step_ratio"] is None
    assert "border step ratio" in paint(*tiles, "--mode", "independent", "--overlap", 4).out


def test_a_loss_that_is_none_is_null_in_json(paint: Pnst, monkeypatch: pytest.MonkeyPatch) -> None:
    def report(*rest: object) -> PictureReport:
        return PictureReport("o.png", 1, 1, "exact", 1, 1, 1, "cpu", float("inf"), None, 0.0, 0.0, 0.0, 0.0, 0.0)

    monkeypatch.setattr(picture, "stylize_file", report)
    run = paint("--json")
    assert json.loads(run.out, parse_constant=lambda name: pytest.fail(name))["loss"] is None


def test_workers_on_gpus_have_no_threads_to_speak_of() -> None:
    assert crew_text(2, 1, "cuda") == "2 GPU workers"
    assert crew_text(1, 2, "cpu") == "1 worker x 2 threads"


def test_without_a_terminal_progress_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show = cli_progress.plain_progress()
    show(0.5, "early")
    monkeypatch.setattr(cli_progress, "PLAIN_SECONDS", 0.0)
    show(0.0, "nothing done")
    show(0.25, "later")
    assert re.fullmatch(r" 25%  later  \d+ s left\n", capsys.readouterr().err)


def test_quiet_prints_nothing(paint: Pnst) -> None:
    assert paint("--quiet", "--workers", 8) == Run(0, "", "")
    assert Path("out.png").exists()


def test_fewer_workers_than_asked_for_are_explained(paint: Pnst) -> None:
    run = paint("--workers", 8, "--tiles", 1)
    assert run.err == "pnst: using 1 of 8 workers: there is 1 tile\n"
    run = paint("--workers", 8, "--tiles", "2x2")
    assert run.err == "pnst: using 1 of 8 workers: there is 1 core\n"


def test_rows_and_columns(paint: Pnst) -> None:
    run = paint("--tiles", "2x3", "--size", 96, "--json")
    assert json.loads(run.out)["tiles"] == 6


def test_the_output_remembers_its_settings(paint: Pnst) -> None:
    independent = ("--mode", "independent", "--tiles", "2", "--overlap", 4)
    assert paint(*independent, "--content-weight", "0.5").code == 0
    tiling = TilingSpec(mode="independent", tiles="2", overlap=4)
    expected = Recipe(size=32, steps=1, scales=1, content_weight=0.5, tiling=tiling)
    assert settings() == expected


def test_saved_settings_are_read_again_and_options_win(paint: Pnst, pnst: Pnst) -> None:
    assert paint("--save-recipe", "own.toml", "--tv-weight", "0.25", "--style-layers", "relu1_1=0.5,relu2_1").code == 0
    saved = Recipe.load(Path("own.toml"))
    assert saved == settings()
    assert (saved.tv_weight, saved.layers.style) == (0.25, {"relu1_1": 0.5, "relu2_1": 1.0})
    names = ("--content", "content.png", "--style", "style.png", "--output", "again.png", "--workers", 1)
    assert pnst("tile-run", *names, "--recipe", "own.toml", "--tv-weight", "0.5").code == 0
    again = settings("again.png")
    assert again.tv_weight == 0.5
    assert (again.layers, again.size) == (saved.layers, 32)


def test_ray_address_in_the_environment_is_honoured(paint: Pnst, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    refused(paint(), "no Ray answers at 127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert paint().code == 0


def test_what_is_typed_beats_the_environment(paint: Pnst, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert paint("--in-process").code == 0
    assert paint("--address", "").code == 0
    refused(paint("--address", "127.0.0.1:2"), "no Ray answers at 127.0.0.1:2")
    refused(paint("--address", "127.0.0.1:2", "--in-process"), "--in-process and --address exclude each other")


# Pictures of every kind


def alpha_ramp(width: int, height: int) -> Image.Image:
    image = random_image(width, height, "RGBA")
    image.putalpha(Image.linear_gradient("L").resize((width, height)))
    return image


def deep(path: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (24, 32, 3), np.uint16)
    assert cv2.imwrite(path, values)


KINDS: dict[str, tuple[Callable[[], object], tuple[int, int]]] = {
    "one pixel": (lambda: random_image(1, 1).save("kind.png"), (32, 32)),
    "a long strip": (lambda: random_image(20000, 3).save("kind.png"), (32, 1)),
    "grey": (lambda: random_image(30, 20, "L").save("kind.png"), (32, 21)),
    "alpha": (lambda: alpha_ramp(32, 32).save("kind.png"), (32, 32)),
    "palette": (lambda: random_image(32, 24).quantize(16).save("kind.png"), (32, 24)),
    "16 bits": (lambda: deep("kind.png"), (32, 24)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_kind(pnst: Pnst, kind: str) -> None:
    make, size = KINDS[kind]
    make()
    run = pnst("run", "--content", "kind.png", "--style", "style.png", "--output", "out.png", *SMALL)
    assert (run.code, run.err) == (0, "")
    before, after = read_image("kind.png"), read_image("out.png")
    assert (after.size.width, after.size.height) == size
    assert after.depth == before.depth == (16 if kind == "16 bits" else 8)
    assert (after.alpha is None) == (before.alpha is None) == (kind != "alpha")
    if before.alpha is not None and after.alpha is not None:
        np.testing.assert_allclose(after.alpha, before.alpha, atol=1 / 255)


# Mistakes


def truncated_jpeg() -> None:
    random_image(200, 200).save("cut.jpg")
    Path("cut.jpg").write_bytes(Path("cut.jpg").read_bytes()[:5000])


def huge_png() -> None:
    """A header of 60000x60000 px and nothing behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    Path("huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))


def write(name: str, text: str = "") -> Callable[[], object]:
    return lambda: Path(name).write_text(text, encoding="utf-8")


def other_weights() -> None:
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, "other.safetensors")


MISTAKES: list[tuple[str, str, Callable[[], object] | None]] = [
    # options | what the message must say (regular expression) | preparation
    ("--content nowhere.png", r"nowhere\.png: no such file: check the name", None),
    ("--content place", r"place: a folder, not a picture", lambda: Path("place").mkdir()),
    ("--content empty.png", r"empty\.png: the file is empty", write("empty.png")),
    ("--content cut.jpg", r"cut\.jpg: damaged or cut short .*whole copy", truncated_jpeg),
    ("--content text.png", r"text\.png: not a picture of a known kind \(JPEG, PNG", write("text.png", "hello")),
    ("--style nowhere.png", r"nowhere\.png: no such file", None),
    ("--content huge.png", r"huge\.png: 60000x60000 .*above the limit of \d+: pass --max-pixels", huge_png),
    ("--max-pixels 10", r"content\.png: 64x48 is 3072 pixels, above the limit of 10", None),
    ("--output nowhere/out.png", r"nowhere/out\.png: the folder .* does not exist: create it", None),
    ("--output style.png/out.png", r"style\.png/out\.png: .*style\.png is not a folder", None),
    ("--output out.xyz", r"out\.xyz: suffix '\.xyz' .*\.png \.jpg", None),
    ("--output out", r"out: suffix '' .*\.png \.jpg", None),
    ("--output content.png", r"content\.png: would overwrite the input content\.png: choose another", None),
    ("--tiles 0", r"tiles is '0'; give a number from 1 to 10000, rows x columns such as 2x3, or auto", None),
    ("--tiles 99999999999999x2", r"tiles is '99999999999999x2'; give a number from 1 to 10000", None),
    ("--scales 100000", r"scales is 100000; give a whole number from 0 to 40", None),
    ("--tiles 2x0", r"tiles is '2x0'; give", None),
    ("--tiles abc", r"tiles is 'abc'; give", None),
    ("--tiles -1", r"tiles is '-1'; give", None),
    ("--overlap 8", r"--overlap has no effect with --mode exact; give --mode independent, or leave it out", None),
    ("--style style.png --style b.png", r"b\.png: no such file: check the name", None),
    ("--content a.png --content b.png", r"--content is given 2 times, as a\.png and b\.png; give it once", None),
    ("--style-weight -1", r"style_weight is -1\.0; give a number of at least 0", None),
    ("--content-weight nan", r"content_weight is nan; give a number of at least 0", None),
    ("--tv-weight inf", r"tv_weight is inf; give a number of at least 0", None),
    ("--style-weight heavy", r"style_weight is 'heavy'; give a number of at least 0", None),
    ("--style-weight 0 --content-weight 0", r"both 0; give at least one", None),
    ("--style-layers relu9_9", r"unknown layer 'relu9_9'; this backbone has relu1_1 ", None),
    ("--style-layers relu1_1=x", r"layer weight is 'relu1_1=x'; give NAME=NUMBER", None),
    ("--content-layers relu1_1=-1", r"relu1_1 is -1\.0; .*at least 0", None),
    ("--backbone resnet", r"unknown backbone 'resnet'; known: embedded, .*vgg19", None),
    ("--backbone vgg19", r"no weights of vgg19 here .*--weights FILE or put it at \S+, or use --backbone", None),
    ("--recipe own.toml", r"own\.toml: unknown key 'stepz'; known keys: size, ", write("own.toml", "stepz = 3")),
    ("--recipe own.toml", r"own\.toml: steps is 'ten'; give a whole number", write("own.toml", "steps = 'ten'")),
    ("--recipe own.toml", r"own\.toml: not valid TOML: .*line 1", write("own.toml", "steps = = 3")),
    ("--recipe own.toml", r"own\.toml: tiling is 3; give a table \[tiling\]", write("own.toml", "tiling = 3")),
    ("--recipe nowhere.toml", r"nowhere\.toml: No such file or directory; check the name", None),
    ("--save-recipe nowhere/own.toml", r"nowhere/own\.toml: settings not written .*folder that exists", None),
    ("--save-recipe content.png", r"save_recipe is 'content\.png'; give a name that ends in \.toml", None),
    ("--weights other.safetensors", r"other\.safetensors does not hold the weights of embedded: key", other_weights),
    (
        "--weights text.pth",
        r"text\.pth is a text file, not weights",
        write("text.pth", "hello"),
    ),
    ("--weights empty.pth", r"empty\.pth is empty; give a file of weights", write("empty.pth")),
    ("--weights nowhere.pth", r"nowhere\.pth is no file; give a file of weights", None),
    ("--address 127.0.0.1:1", r"no Ray answers at 127\.0\.0\.1:1 .*'ray start --head'", None),
    ("--address head", r"address is 'head'; give auto or host:port", None),
    ("--address ray://head:10001", r"address is 'ray://head:10001'; give auto or host:port", None),
    ("--stepz 3", r"[Nn]o such option: --stepz", None),
    ("--steps", r"'--steps' requires an argument", None),
    ("--steps 0", r"steps is 0; give a whole number of at least 1", None),
    ("--steps few", r"steps is 'few'; give a whole number of at least 1", None),
    ("--steps 1.5", r"steps is '1\.5'; give a whole number", None),
    ("--workers 0", r"workers is 0; give a whole number of at least 1", None),
    ("--workers all", r"workers is 'all'; give a whole number of at least 1", None),
    ("--quality 101", r"quality is 101; give a whole number from 1 to 100", None),
    ("--quality 90", r"quality has no effect on \.png files; give it with \.jpg or \.webp, or leave it out", None),
    ("--preview-every 0", r"preview_every is 0; give a whole number of at least 1", None),
    ("--checkpoint-every often", r"checkpoint_every is 'often'; give a whole number of at least 1", None),
    ("--memory 4", r"memory is '4'; give a size with its unit, such as 4GiB", None),
    ("--mode magic", r"mode is 'magic'; allowed: independent, exact", None),
    ("--targets best", r"targets is 'best'; allowed: own, plain", None),
    ("--mode independent --sync-every -1", r"sync_every is -1; give a whole number of at least 0", None),
    ("--max-pixels 0", r"max_pixels is 0; give a whole number of at least 1", None),
    ("--size 0", r"size is '0'; give a number of px of at least 1, or full", None),
    ("--size -5", r"size is '-5'; give", None),
    ("--size 10000000", r"10000000x7500000 is too large, PNG holds at most 1000000", None),
    ("--size 1000000 --output out.tif", r"size is 1000000: 1000000x750000 px take [\d,.]+ GB .*smaller", None),
    ("--style-size 1000000", r"style_size is 1000000: \d+x1000000 px take", None),
    ("--dtype float16", r"dtype is 'float16'; allowed: auto, float32, bfloat16", None),
    ("--optimizer sgd", r"optimizer is 'sgd'; allowed: lbfgs, adam", None),
    ("--device tpu", r"device is 'tpu'; allowed: auto, cpu, cuda", None),
    ("more.png", r"unexpected extra argument.*more\.png", None),
]


@pytest.mark.parametrize("tiling", ["", "--tiles 2", "--mode independent --tiles 2"])
def test_each_style_is_painted_where_its_mask_is_white(paint: Pnst, tiling: str) -> None:
    for name, box in (("left.png", (0, 0, 32, 48)), ("right.png", (32, 0, 64, 48))):
        mask = Image.new("L", (64, 48))
        mask.paste(255, box)
        mask.save(name)
    Image.new("RGB", (40, 48), "red").save("style.png")
    styles = ("--style", "style.png", "--mask", "left.png", "--style", "blue.png", "--mask", "right.png")
    Image.new("RGB", (40, 48), "blue").save("blue.png")
    run = paint(*styles, "--steps", 12, "--content-weight", 0, *tiling.split())
    assert run.code == 0, run.err
    pixels = read_image(Path("out.png")).pixels
    assert pixels[:, :10, 0].mean() > pixels[:, :10, 2].mean() and pixels[:, -10:, 2].mean() > pixels[:, -10:, 0].mean()


def test_masks_go_with_styles_that_are_painted_by_optimisation(pnst: Pnst, paint: Pnst) -> None:
    random_image(64, 48, "L").save("mask.png")
    twice = ("--mask", "mask.png", "--mask", "mask.png")
    refused(paint(*twice), "masks are 2 for 1 style pictures; give one mask for each style, or none")
    refused(pnst("compare", "content.png", "style.png", "--mask", "mask.png"), "No such option: --mask")
    refused(pnst("batch", "content.png", "out", "--mask", "mask.png"), "No such option: --mask")


def refused(run: Run, message: str) -> None:
    """One line that says this, on stderr alone."""
    assert run.code in (1, 2)
    assert run.out == ""
    assert re.fullmatch(r"pnst: [^\n]+\n", run.err), run.err
    assert re.search(message, run.err), run.err


@pytest.mark.parametrize(("options", "message", "prepare"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(
    paint: Pnst, folder: Path, options: str, message: str, prepare: Callable[[], object] | None
) -> None:
    if prepare:
        prepare()
    before = contents(folder)
    refused(paint(*options.split()), message)
    assert contents(folder) == before


def contents(folder: Path) -> dict[Path, Any]:
    """Every file with what is in it; the cache folder may come into being, empty."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


COMPARE_MISTAKES: list[tuple[str, str]] = [
    ("--workers a,b", r"workers is 'a,b'; give whole numbers of at least 1 with commas between, such as 1,2,4"),
    ("--workers 0", r"workers is '0'; give whole numbers"),
    ("--workers 1,", r"workers is '1,'; give whole numbers"),
    ("--workers=", r"workers is ''; give whole numbers"),
    ("--repeats 0", r"repeats is 0; give a whole number of at least 1"),
    ("--repeats often", r"repeats is 'often'; give a whole number of at least 1"),
    ("--modes exact,magic", r"modes is 'magic'; allowed: independent, exact"),
    ("--modes=", r"modes is ''; allowed: independent, exact"),
    ("--tiles 1", r"tiles is '1', which is one tile on 32x24 px; give more to compare"),
    ("--output style.png", r"style\.png: not a folder: choose another output"),
    ("--output no/where", r"no/where: the folder cannot be made \(No such file or directory\): choose another output"),
    ("--mode exact", r"[Nn]o such option: --mode"),
    ("--content content.png", r"[Nn]o such option: --content"),
    ("--steps few", r"steps is 'few'; give a whole number of at least 1"),
    ("--backbone vgg19", r"no weights of vgg19 here"),
    ("--modes exact --overlap 8", r"--overlap has no effect with --mode exact; give --mode independent, or leave"),
]


@pytest.mark.parametrize(("options", "message"), COMPARE_MISTAKES, ids=[row[0] for row in COMPARE_MISTAKES])
def test_a_mistake_of_a_comparison_is_one_line_and_leaves_nothing(
    pnst: Pnst, folder: Path, options: str, message: str
) -> None:
    before = {*folder.rglob("*")}
    refused(pnst("compare", "content.png", "style.png", *SMALL, "--tiles", 4, *options.split()), message)
    assert {*folder.rglob("*")} - {folder / "cache"} == before


def test_pictures_to_compare_must_be_there(pnst: Pnst) -> None:
    refused(pnst("compare", "nowhere.png", "style.png"), r"nowhere\.png: no such file")
    refused(pnst("compare", "content.png"), r"Missing argument '(?i:style)'")


def test_an_interrupted_comparison_leaves_nothing(pnst: Pnst, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*rest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("parallel_nst.jobs.compare.job.stylize", stop)
    monkeypatch.setattr(cli, "leave", sys.exit)  # which ends this process at once where Ray is loaded
    run = pnst("compare", "content.png", "style.png", *SMALL, "--tiles", 4)
    assert (run.code, run.out, run.err.splitlines()[1:]) == (cli.STOPPED, "", ["pnst: stopped"])
    assert not (folder / "content-style-compare").exists()


def test_a_comparison_on_one_core(pnst: Pnst, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parallel_nst.jobs.compare.job.release_memory", lambda: None)  # slow among a test run's objects
    options = ("--tiles", 4, "--overlap", 4, "--workers", "1,2")
    run = pnst("compare", "content.png", "style.png", *SMALL, *options)
    assert run.code == 0, run.err
    for text in ("serial, 1 thread (best)", "exact, 1 worker", "independent, 1 worker", "32x24 px, 4 tiles, 1 round"):
        assert text in run.out
    assert "workers 1 of 2: there is 1 core" in run.out
    assert re.match(r"pnst: 6 runs: 3 settings, once to warm up and 1 time timed; about \d+ s in all\n", run.err)
    assert "2 workers" not in run.out
    written = folder / "content-style-compare"
    assert {"comparison.csv", "comparison.json", "comparison.html"} <= {path.name for path in written.iterdir()}
    exact = ("--tiles", 4, "--workers", "1,2", "--modes", "exact")
    quiet = pnst("compare", "content.png", "swirls", *SMALL, *exact, "--json", "--output", "out")
    assert json.loads(quiet.out) == json.loads((folder / "out" / "comparison.json").read_text())


def test_an_unknown_command_is_one_line(pnst: Pnst) -> None:
    refused(pnst("tile-rum"), r"No such command 'tile-rum'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(paint: Pnst) -> None:
    refused(paint("--device", "cuda"), r"device is cuda, but PyTorch finds no CUDA device here; use --device cpu")
