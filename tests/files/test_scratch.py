"""Arrays of large pictures lie in files without a name: the same values, less memory, and nothing left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image

from parallel_nst.files import scratch
from parallel_nst.files.images import OUTPUT_SUFFIXES, Picture, read_image, resize, write_image
from parallel_nst.files.scratch import contiguous, has_room, in_file, let_go, room, strips
from parallel_nst.files.size import Size

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no way to take room on the disk here")


@pytest.fixture
def everything_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "LARGE", 1)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.usefixtures("everything_large")
def test_an_array_in_a_file_keeps_its_values_when_it_is_let_go() -> None:
    values, array = noise(300, 20, 3), room((300, 20, 3), np.float32)
    array[:] = values
    assert in_file(array) and in_file(array[5:].transpose(2, 0, 1)) and array.flags.writeable
    let_go(array[7:])
    assert np.array_equal(array, values)
    turned = contiguous(array.swapaxes(0, 1))
    assert in_file(turned) and np.array_equal(turned, values.swapaxes(0, 1))
    assert contiguous(array) is array


def test_small_arrays_are_in_memory() -> None:
    array = room((4, 5), np.uint8)
    assert not in_file(array) and array.shape == (4, 5) and array.dtype == np.uint8
    let_go(array)
    assert has_room(scratch.LARGE, 1) and not has_room(scratch.LARGE - 1, 1)


def test_what_is_let_go_leaves_the_memory_of_the_process() -> None:
    process, size = psutil.Process(), scratch.LARGE
    before = process.memory_info().rss
    array = room((size,), np.uint8)
    array[:] = 7
    assert process.memory_info().rss > before + 0.8 * size
    let_go(array)
    assert process.memory_info().rss < before + 0.2 * size
    assert array[-1] == 7


@pytest.mark.usefixtures("everything_large")
def test_the_files_have_no_names_and_go_with_the_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> int:
        links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
        return sum(link.startswith(str(tmp_path)) for link in links)

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    arrays = [room((1000,), np.uint8) for _ in range(20)]
    assert not list(tmp_path.iterdir()) and opened() == 20
    del arrays
    assert opened() == 0


@pytest.mark.usefixtures("everything_large")
def test_where_the_disk_is_full_they_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    array = room((10, 10), np.float32)
    assert not in_file(array) and array.shape == (10, 10)


@pytest.mark.usefixtures("everything_large")
def test_where_no_file_can_be_made_they_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    assert not in_file(room((10, 10), np.float32)) and not has_room(100, 1)


@pytest.mark.usefixtures("everything_large")
def test_where_files_are_memory_they_are_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert in_file(room((10, 10), np.float32)) and has_room(100, 1)
    mount = SimpleNamespace(mountpoint=str(tmp_path.parent), fstype="tmpfs")
    monkeypatch.setattr(scratch.psutil, "disk_partitions", lambda all: [mount])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert not in_file(room((10, 10), np.float32)) and not has_room(100, 1)


@pytest.mark.usefixtures("everything_large")
def test_the_output_is_left_some_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "free", lambda folder: 799)
    assert in_file(room((399,), np.uint8)) and not in_file(room((400,), np.uint8))
    assert has_room(199, 3) and not has_room(200, 3)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """Of a copy-on-write one the changes would be lost."""
    np.save(tmp_path / "a.npy", np.zeros((40, 30, 3), np.float32))
    pixels = np.load(tmp_path / "a.npy", mmap_mode="c")
    pixels[:] = 0.5
    assert not in_file(pixels)
    let_go(pixels)
    write_image(tmp_path / "a.png", Picture(pixels))
    assert (pixels == 0.5).all() and read_image(tmp_path / "a.png").pixels.min() > 0.49


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_pictures_are_written_where_no_scratch_file_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr(scratch, "LARGE", 1)
    write_image(tmp_path / f"a{suffix}", Picture(noise(300, 20, 3)))
    assert read_image(tmp_path / f"a{suffix}").size == (300, 20)


@pytest.mark.parametrize("length", [0, 1, scratch.STRIP, scratch.STRIP + 1, 1000])
def test_strips_are_a_partition(length: int) -> None:
    assert [row for rows in strips(length) for row in range(length)[rows]] == list(range(length))
    assert all(rows.stop <= length for rows in strips(length))


# ---- pictures


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_files_are_the_same_to_the_byte_wherever_the_arrays_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, alpha: bool, depth: int
) -> None:
    picture = Picture(noise(300, 40, 3), noise(300, 40) if alpha else None, depth=depth)
    write_image(tmp_path / f"memory{suffix}", picture)
    there = read_image(tmp_path / f"memory{suffix}")
    monkeypatch.setattr(scratch, "LARGE", 1)
    write_image(tmp_path / f"file{suffix}", picture)
    here = read_image(tmp_path / f"memory{suffix}")
    assert (tmp_path / f"file{suffix}").read_bytes() == (tmp_path / f"memory{suffix}").read_bytes()
    assert in_file(here.pixels) and not in_file(there.pixels)
    assert np.array_equal(here.pixels, there.pixels)
    assert (here.alpha is None) == (there.alpha is None)
    assert here.alpha is None or np.array_equal(here.alpha, there.alpha)


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 1), (40, 30, 4), (600, 33, 3)])
@pytest.mark.parametrize("size", [(5, 8), (100, 2), (2, 300), (90, 70), (7, 9)])
def test_resizing_is_the_same_wherever_the_arrays_lie(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    expected = resize(noise(*shape), Size(*size))
    monkeypatch.setattr(scratch, "LARGE", 1)
    found = resize(noise(*shape), Size(*size))
    assert in_file(found) and np.array_equal(found, expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_is_read_strip_by_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    image = Image.fromarray((noise(300, 21, 3) * 255).astype(np.uint8)).convert("RGB" if mode == "LA" else mode)
    image = image.convert(mode)
    image.save(tmp_path / "a.tif")
    expected = read_image(tmp_path / "a.tif").pixels
    monkeypatch.setattr(scratch, "STRIP", 7)
    assert np.array_equal(read_image(tmp_path / "a.tif").pixels, expected)
    wanted = np.asarray(image.convert("RGB"), np.float32) / 255
    assert np.array_equal(expected, wanted)
