"""`pnst batch`: what it prints, how it ends, and what it says of options that do not go together."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Pnst, caller

from parallel_nst.cli import batch as cli_batch
from parallel_nst.cli import progress as cli_progress
from parallel_nst.files.images import Picture, write_image
from parallel_nst.networks.generators.files import save_generator
from parallel_nst.networks.generators.transformer import TransformerNet


@pytest.fixture
def pnst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Pnst:
    """Call `pnst batch` in a folder with two pictures in `in` and a tiny generator, on one worker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cli_progress, "PLAIN_SECONDS", math.inf)  # however slow the machine is
    for number in (1, 2):
        Path("in").mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).random((20, 24, 3), np.float32)
        write_image(f"in/{number}.png", Picture(pixels))
    torch.manual_seed(0)
    save_generator(TransformerNet(widths=(4, 4, 4), blocks=1), Path("tiny.safetensors"))
    return caller(monkeypatch, capfd, "batch", after=("--workers", "1"))


MODEL = ("--model", "tiny.safetensors")


def test_a_summary_in_one_line(pnst: Pnst) -> None:
    first, again = pnst("in", "out", *MODEL), pnst("in", "out", *MODEL)
    assert (first.code, again.code) == (0, 0)
    assert re.fullmatch(
        r"out: 2 pictures painted with tiny, 1 worker x \d+ threads?, \w+, [\d.]+ s \([\d.]+/s while painting\)\n",
        first.out,
    )
    assert re.fullmatch(r"out: 0 pictures painted with tiny, 2 already there, [\d.]+ s\n", again.out)


def test_a_bad_picture_is_one_line_and_an_exit_code(pnst: Pnst) -> None:
    Path("in/bad.jpg").write_bytes(b"nothing")
    run = pnst("in", "out", *MODEL)
    assert run.code == 1
    assert run.err.splitlines() == [line for line in run.err.splitlines() if line.startswith("pnst: bad.jpg: ")]
    assert len(run.err.splitlines()) == 1 and "1 failed" in run.out
    assert sorted(path.name for path in Path("out").iterdir()) == ["1.png", "2.png", "manifest.jsonl"]


def test_what_is_odd_about_a_picture_is_its_own_line(pnst: Pnst) -> None:
    """A name that a terminal would obey, a pipe in a list, a size that no memory holds."""
    Path("in/a\x1b[31m\n.png").write_bytes(b"")
    os.mkfifo("pipe.png")
    Path("list.txt").write_text("pipe.png\nin/1.png\n")
    lines = pnst("in", "out", *MODEL).err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("pnst: a\\x1b[31m .png: ") and "\x1b" not in lines[0]
    lines = pnst("list.txt", "listed", *MODEL).err.splitlines()
    assert len(lines) == 1 and "pipe.png: not a regular file" in lines[0]
    lines = pnst("in/1.png", "large", *MODEL, "--size", "99999999").err.splitlines()
    assert len(lines) == 1 and "give a smaller --size" in lines[0]


def test_of_very_many_failures_the_first_are_named(pnst: Pnst, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_batch, "MOST_FAILURES", 2)
    for number in range(5):
        Path(f"in/bad{number}.jpg").write_bytes(b"")
    lines = pnst("in", "out", *MODEL, "--quiet").err.splitlines()
    assert len(lines) == 3 and lines[-1] == "pnst: and 3 more, all in out/manifest.jsonl"


def test_json_has_every_picture_in_order(pnst: Pnst) -> None:
    write_image("in/10.png", Picture(np.zeros((8, 8, 3), np.float32)))
    report = json.loads(pnst("in", "out", *MODEL, "--json").out)
    assert [entry["name"] for entry in report["pictures"]] == ["1.png", "2.png", "10.png"]
    assert (report["painted"], report["skipped"], report["failed"]) == (3, 0, 0)


def test_a_list_on_stdin(pnst: Pnst) -> None:
    assert pnst("-", "out", *MODEL, "--suffix=-x", "--format", "jpg", stdin="in/2.png\n").code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["2-x.jpg", "manifest.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "out", *MODEL), ("nowhere",)),
        (("in", "in", *MODEL), ("in/1.png", "--suffix")),
        (("in", "tiny.safetensors", *MODEL), ("tiny.safetensors", "not a folder")),
        (("in", "out", "--model", "no-such"), ("no-such",)),
        (("in", "out", "--model", "in/1.png"), ("in/1.png",)),
        (("in", "out", *MODEL, "--style", "in/1.png"), ("style of its own", "leave out")),
        (("in", "out", *MODEL, "--format", "gif"), ("gif",)),
        (("in", "out", *MODEL, "--suffix", "a/b"), ("a/b",)),
        (("in", "out", *MODEL, "--quality", "0"), ("quality", "1 to 100")),
        (("in", "out", *MODEL, "--quality", "80", "--format", "png"), ("quality has no effect on .png",)),
        (("in", "out", *MODEL, "--memory", "much"), ("much",)),
        (("in", "out", *MODEL, "--steps", "3"), ("--steps", "optimisation")),
        (("in", "out", *MODEL, "--recipe", "x.toml"), ("x.toml",)),
        (("in", "out", *MODEL, "--dtype", "float64"), ("float64", "bfloat16")),
        (("in", "out", *MODEL, "--statistics", "guess"), ("guess", "thumbnail")),
        (("in", "out", *MODEL, "--size", "-3"), ("-3",)),
        (("in", "", *MODEL), ("OUT",)),
        (("", "out", *MODEL), ("IN",)),
        (("in", "out", *MODEL, "--strength", "0.5"), ("--strength", "--style")),
        (("in", "out", *MODEL, "--style-size", "64"), ("--style-size", "--style")),
        (("fifo.png", "out", *MODEL), ("fifo.png", "regular file")),
        (("in", "out", "--style", "in/1.png", "--strength", "0.5"), ("--strength", "--model")),
        (("in", "out", "--style", "nowhere.png"), ("nowhere.png",)),
        (("in", "out", "--style", "in/1.png", "--steps", "0"), ("steps", "0")),
    ],
)
def test_what_cannot_be_is_one_line_and_makes_nothing(
    pnst: Pnst, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    os.mkfifo("fifo.png")
    run = pnst(*arguments)
    assert run.code in (1, 2) and run.out == ""
    assert len(run.err.splitlines()) == 1 and run.err.startswith("pnst: ")
    assert all(word in run.err for word in words), run.err
    assert not Path("out").exists() and not Path("in/manifest.jsonl").exists()


def test_an_address_that_is_none_is_one_line(pnst: Pnst) -> None:
    run = pnst("in", "out", *MODEL, "--address", "nonsense")
    assert run.code == 1 and len(run.err.splitlines()) == 1 and "nonsense" in run.err
    assert [path.name for path in Path("out").iterdir()] == ["manifest.jsonl"]


def test_strength_is_checked_for_generators(pnst: Pnst) -> None:
    run = pnst("in", "out", *MODEL, "--style", "in/1.png", "--strength", "2")
    assert run.code == 2 and "strength" in run.err and "0 to 1" in run.err
