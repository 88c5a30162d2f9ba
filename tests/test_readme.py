"""What the README says to type works; only the sizes are made small."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from parallel_nst import cli
from parallel_nst.images import Picture, write_image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["--size", "48", "--steps", "1", "--scales", "1"]
SMALLER = {"plan": ["--speed", "100"], "compare": [*SMALL, "--repeats", "1"]}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the two files that the README speaks of."""
    rng = np.random.default_rng(0)
    for name in ("photo.jpg", "painting.jpg"):
        write_image(tmp_path / name, Picture(rng.random((30, 40, 3), np.float32)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_as_written_one_after_the_other(folder, monkeypatch, capsys):
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 5
    for command in commands:
        program, verb, *options = shlex.split(command)
        assert program == "pnst"
        one = ["--workers", "1"] if verb in ("tile-run", "compare") else []  # Ray is tested elsewhere
        small = SMALLER.get(verb, SMALL)
        monkeypatch.setattr("sys.argv", ["pnst", verb, *options, *small, *one])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0, capsys.readouterr().err
    assert {"coffee-swirls.png", "out.png", "large.tif", "mine.toml", "again.png"} <= {
        path.name for path in folder.iterdir()
    }


def test_the_python_example_runs(folder):
    (example,) = blocks("python")
    code = example.replace("size=512", "size=48, steps=1, scales=1").replace("workers=2", "workers=1")
    assert code != example
    exec(compile(code, "README.md", "exec"), {})
    assert (folder / "out.png").exists()


def test_what_it_points_to_is_there():
    for path in re.findall(r"\]\(([^)]+)\)", README) + re.findall(r"`((?:examples|benchmarks)/[^`]+)`", README):
        assert (ROOT / path).exists(), path


def test_make_targets_it_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_options_it_names_exist():
    names = {"--" + name.replace("_", "-") for name in cli.tile_run_command.__annotations__}
    assert set(re.findall(r"`(--[a-z-]+)", README)) <= names
