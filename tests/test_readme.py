"""What the README says to type works; only the sizes are made small."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from parallel_nst.cli import main as cli
from parallel_nst.files.images import Picture, write_image
from parallel_nst.workers import opening

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["--size", "48", "--steps", "1", "--scales", "1"]
TRAINING = ["--size", "32", "--steps", "1", "--batch", "2"]
SMALLER = {
    "plan": ["--speed", "100"],
    "compare": SMALL,
    "batch": ["--size", "48"],
    "batch --style": SMALL,
    "models": [],
    "sweep": SMALL,
    "train feedforward": [*TRAINING, "--width", "4", "--blocks", "1", "--style-size", "32"],
    "train cyclegan": [*TRAINING, "--generator-width", "4", "--discriminator-width", "4"],
}
ALONE = ("tile-run", "compare", "batch", "sweep", "train")  # Ray is tested elsewhere


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the README speaks of."""
    rng = np.random.default_rng(0)
    many = [f"{folder}/{number}.jpg" for folder in ("photos", "horses", "zebras") for number in range(4)]
    for name in ("photo.jpg", "painting.jpg", *many):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_image(path, Picture(rng.random((40, 50, 3), np.float32)))
    for name in ("face.png", "around.png"):
        write_image(tmp_path / name, Picture(rng.random((20, 25, 3), np.float32)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_as_written_one_after_the_other(folder, monkeypatch, capsys):
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 5
    for command in commands:
        program, verb, *options = shlex.split(command)
        assert program == "pnst"
        one = ["--workers", "1"] if verb in ALONE else []
        kinds = (f"{verb} {options[0]}" if options else verb, f"{verb} --style" if "--style" in options else verb, verb)
        small = next((SMALLER[kind] for kind in kinds if kind in SMALLER), SMALL)
        monkeypatch.setattr("sys.argv", ["pnst", verb, *options, *small, *one])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0, capsys.readouterr().err
    made = "coffee-swirls.png out.png large.tif mine.toml again.png regions.png painted by-optimisation runs"
    assert set(made.split()) <= {path.name for path in folder.iterdir()}
    assert len(list((folder / "painted").glob("*.jpg"))) == len(list((folder / "by-optimisation").glob("*.jpg"))) == 4


def test_the_python_example_runs(folder, monkeypatch, capsys):
    monkeypatch.setattr(opening, "usable_cores", lambda: 1)
    (example,) = blocks("python")
    code = example.replace("size=512", "size=48, steps=1, scales=1").replace("workers=2", "workers=1")
    assert code != example
    exec(compile(code, "README.md", "exec"), {})
    made = {"out.png", "painted-photo.jpg", "painted-painting.jpg"}
    assert made <= {path.name for path in folder.iterdir()}
    assert capsys.readouterr().out == "1 workers with 1 threads each\n"


def found(pattern, least):
    """What a pattern finds in the README; a check that finds nothing checks nothing."""
    matches = re.findall(pattern, README, re.MULTILINE)
    assert len(matches) >= least, pattern
    return matches


def test_what_it_points_to_is_there():
    for path in found(r"\]\(([^)]+)\)", 10) + found(r"`((?:examples|benchmarks)/[^`]+)`", 2):
        assert (ROOT / path).exists(), path


def test_make_targets_it_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in found(r"^make ([a-z-]+)", 5):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_options_it_names_exist():
    """In the text, and in every command that it shows."""
    names = {name for command in commands() for param in command.params for name in param.opts}
    assert set(found(r"`(--[a-z-]+)", 15)) <= names | {"--version", "--install-completion"}
    shown = re.findall(r"^pnst .*", README, re.MULTILINE)
    assert len(shown) >= 15
    assert {option for line in shown for option in re.findall(r" (--[a-z-]+)", line)} <= names


def commands():
    """Every command of the program."""
    waiting, ends = [get_command(cli.app)], []
    while waiting:
        one = waiting.pop()
        inner = getattr(one, "commands", None)
        ends += [] if inner else [one]
        waiting += (inner or {}).values()
    assert len(ends) >= 10
    return ends
