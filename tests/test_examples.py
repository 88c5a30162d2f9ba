"""The examples run as their first lines say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parallel_nst.files.bundled import STYLES, bundled_style
from parallel_nst.files.images import Picture, read_image, write_image

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(program, *arguments):
    call = [sys.executable, "-W", "error", str(EXAMPLES / program), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.slow
def test_the_paintings_are_painted_by_the_program_and_alike_each_time(tmp_path):
    for folder in ("first", "second"):
        run("paint_styles.py", "--output", tmp_path / folder, "--size", 96)
    for name in STYLES:
        first, second = (read_image(tmp_path / folder / f"{name}.jpg").pixels for folder in ("first", "second"))
        assert np.array_equal(first, second)
        assert first.std(axis=(0, 1)).min() > 0.1


@pytest.mark.parametrize("name", STYLES)
def test_bundled_paintings_are_there_and_small(name):
    bundled = read_image(bundled_style(name)).pixels
    assert bundled.shape[1] == 1024
    assert bundled_style(name).stat().st_size < 450_000


@pytest.mark.slow
def test_quickstart(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("photo.png", "painting.png"):
        write_image(tmp_path / name, Picture(rng.random((90, 120, 3), np.float32)))
    said = run("quickstart.py", tmp_path / "photo.png", tmp_path / "painting.png", tmp_path / "out.png")
    assert "border step ratio" in said
    assert read_image(tmp_path / "out.png").size == (384, 512)
