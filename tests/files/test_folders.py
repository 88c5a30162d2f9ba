"""Folders: what is found in them, and in which order."""

import os
import random
from pathlib import Path

import pytest

from parallel_nst.files.folders import file_id, folders_below, natural_key, picture_files
from parallel_nst.files.images import INPUT_SUFFIXES

posix = pytest.mark.skipif(os.name != "posix", reason="links and pipes as POSIX has them")


def names(folder, **options):
    return sorted(path.relative_to(folder).as_posix() for path in picture_files(folder, **options))


@pytest.mark.parametrize("suffix", INPUT_SUFFIXES)
def test_every_suffix_that_is_read_is_found(tmp_path, suffix):
    (tmp_path / "deep").mkdir()
    wanted = [f"a{suffix}", f"b{suffix.upper()}", f"deep/c{suffix}"]
    for name in (*wanted, "notes.txt", f".hidden{suffix}", "bare"):
        (tmp_path / name).touch()
    (tmp_path / f"folder{suffix}").mkdir()
    assert names(tmp_path) == sorted(wanted)


def test_jpegs_of_all_names_are_jpegs():
    assert {".jpg", ".jpeg", ".jpe", ".jfif"} < set(INPUT_SUFFIXES)


@posix
def test_links_are_followed_once_and_what_is_no_file_is_left_to_the_caller(tmp_path):
    top, other = tmp_path / "top", tmp_path / "other"
    for folder in (top, other):
        folder.mkdir()
        (folder / "a.png").touch()
    (top / "round").symlink_to(top)
    (top / "one").symlink_to(other)
    (top / "two").symlink_to(other)
    (top / "lost.png").symlink_to("nowhere")
    (top / "self.png").symlink_to("self.png")
    os.mkfifo(top / "pipe.png")
    assert names(top) == ["a.png", "lost.png", "one/a.png", "pipe.png", "self.png"]
    assert names(top, without=file_id(other)) == ["a.png", "lost.png", "pipe.png", "self.png"]
    assert [*folders_below(other, without=file_id(other))] == [other]


def test_a_folder_that_cannot_be_listed_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"none: cannot be listed .*make it readable"):
        [*picture_files(tmp_path / "none")]


def test_numbers_are_compared_as_numbers_part_by_part():
    names = [
        "a1/z.png",
        "a2/b.png",
        "a10/a.png",
        "frame.png",
        "Frame1.png",
        "frame2.png",
        "frame2b.png",
        "frame010.png",
        "frame11.png",
        "v1.2.png",
        "v1.10.png",
        "x" + "9" * 5000,
    ]
    for seed in range(20):
        mixed = random.Random(seed).sample(names, len(names))
        assert sorted(mixed, key=lambda name: natural_key(Path(name))) == names


def test_order_is_total_and_the_same_however_it_begins():
    rng = random.Random(0)
    names = {"".join(rng.choices("aA0123.-/ \u00df", k=rng.randint(1, 9))).strip("/. ") or "x" for _ in range(300)}
    paths = sorted({Path(name) for name in names}, key=str)
    ordered = sorted(paths, key=natural_key)
    assert sorted(rng.sample(paths, len(paths)), key=natural_key) == ordered
    assert len({natural_key(path) for path in paths}) == len(paths)


@pytest.mark.parametrize("digits", [1, 2, 3, 6])
def test_counted_frames_stay_in_order_with_and_without_leading_zeros(digits):
    names = [f"f{number:0{digits}}.jpg" for number in range(1, 300)]
    assert sorted(sorted(names), key=lambda name: natural_key(Path(name))) == names
