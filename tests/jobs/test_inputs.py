"""What goes into a batch: each picture once, in the order that people expect."""

import errno
import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from odd_texts import refused, touch

from parallel_nst.files.images import INPUT_SUFFIXES
from parallel_nst.jobs.batch.inputs import InputFile, find_inputs
from parallel_nst.jobs.batch.outputs import plan_outputs

ODD_NAMES = [
    "with space.jpg",
    "line\nbreak.jpg",
    unicodedata.normalize("NFC", "\u00e9t\u00e9.jpg"),
    unicodedata.normalize("NFD", "\u00e9t\u00e9.jpg"),
    "\u98a8\u666f.jpg",
    "-dash.jpg",
    "#hash.jpg",
    "[a]*.jpg",
    os.fsdecode(b"not-utf8-\xff.jpg"),
]
posix = pytest.mark.skipif(os.name != "posix", reason="names and links as POSIX has them")


def relatives(source, **options):
    return [found.relative.as_posix() for found in find_inputs(str(source), **options)]


# --- folders


def test_a_folder_keeps_its_tree_and_leaves_out_what_is_hidden_or_no_picture(tmp_path):
    touch(tmp_path, "b.JPG", "a/x.png", "a/deep/y.Tif", ".hidden.jpg", ".git/z.jpg", "notes.txt", "a/clip.mp4", "noext")
    assert relatives(tmp_path) == ["a/deep/y.Tif", "a/x.png", "b.JPG"]
    assert all(found.path == tmp_path / found.relative for found in find_inputs(str(tmp_path)))


@pytest.mark.parametrize("suffix", INPUT_SUFFIXES)
def test_all_suffixes_that_can_be_read_are_taken(tmp_path, suffix):
    touch(tmp_path, "a" + suffix, "b" + suffix.upper())
    assert len(relatives(tmp_path)) == 2


@posix
def test_odd_names_come_through(tmp_path):
    try:
        touch(tmp_path, *ODD_NAMES)
    except OSError:
        pytest.skip("this file system has no such names")
    assert sorted(relatives(tmp_path)) == sorted(ODD_NAMES)
    targets = plan_outputs(find_inputs(str(tmp_path)), tmp_path / "out")
    assert sorted(target.name for target in targets) == sorted(ODD_NAMES)
    listed = io.TextIOWrapper(io.BytesIO(b"\0".join(os.fsencode(tmp_path / name) for name in ODD_NAMES)))
    assert relatives("-", stdin=listed) == ODD_NAMES


@posix
def test_links_are_followed_but_not_in_circles(tmp_path):
    inside, outside = touch(tmp_path / "in", "z/a.jpg"), touch(tmp_path / "elsewhere", "b.jpg", "c/d.jpg")
    (inside / "z" / "up").symlink_to(inside)
    (inside / "z" / "self").symlink_to("self")
    (inside / "z" / "self.jpg").symlink_to("self.jpg")
    (inside / "broken.jpg").symlink_to("nowhere.jpg")
    (inside / "early").symlink_to(inside / "z")  # would be first by name, but a real folder goes before
    (inside / "link").symlink_to(outside)
    (inside / "link2").symlink_to(outside)
    (outside / "back").symlink_to(inside)
    assert relatives(inside) == ["link/b.jpg", "link/c/d.jpg", "z/a.jpg"]
    assert relatives(f"{inside}/**/*.jpg") == ["link/b.jpg", "link/c/d.jpg", "z/a.jpg"]


@posix
def test_of_a_file_and_a_link_to_it_the_file_is_taken(tmp_path):
    touch(tmp_path, "m.jpg")
    (tmp_path / "a.jpg").symlink_to("m.jpg")
    (tmp_path / "z.jpg").symlink_to(tmp_path / "a.jpg")
    assert relatives(tmp_path) == ["m.jpg"]


@posix
def test_hard_links_are_files_of_their_own(tmp_path):
    touch(tmp_path, "a.jpg")
    os.link(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert relatives(tmp_path) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("pattern", ["", "/**/*.jpg", "/*/*.jpg"])
def test_out_within_in_is_not_taken(tmp_path, pattern):
    touch(tmp_path, "sub/a.jpg", "out/sub/a.jpg", "out/b.jpg")
    assert relatives(f"{tmp_path}{pattern}", out=tmp_path / "out") == ["sub/a.jpg"]
    assert relatives(tmp_path / "out", out=tmp_path / "out") == ["b.jpg", "sub/a.jpg"]
    assert relatives(tmp_path, out=tmp_path / "not-there-yet")


@posix
def test_a_link_to_out_is_not_taken_either(tmp_path):
    inside = touch(tmp_path / "in", "a.jpg")
    touch(tmp_path / "out", "a.jpg")
    (inside / "results").symlink_to(tmp_path / "out")
    assert relatives(inside, out=tmp_path / "out") == ["a.jpg"]


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    closed, scandir = touch(tmp_path, "a.jpg", "closed/b.jpg") / "closed", os.scandir

    def refuse(folder):
        if folder == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    refused(lambda: find_inputs(str(tmp_path)), closed, "Permission denied")


# --- one file, patterns


@pytest.mark.parametrize("name", ["a.jpg", "scan", "photo.heic", "a[1].jpg"])
def test_a_file_is_taken_whatever_its_suffix(tmp_path, name):
    touch(tmp_path, name)
    assert find_inputs(str(tmp_path / name)) == [InputFile(tmp_path / name, Path(name))]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg"]),
        ("**/*.jpg", ["a.jpg", "s/b.jpg", "s/t/c.jpg"]),
        ("**/**/*.jpg", ["a.jpg", "s/b.jpg", "s/t/c.jpg"]),
        ("s/**/*.jpg", ["b.jpg", "t/c.jpg"]),
        ("s/*", ["b.jpg", "notes.txt"]),
        ("*/t/[cd].jpg", ["s/t/c.jpg"]),
        ("**", ["a.jpg", "s/b.jpg", "s/notes.txt", "s/t/c.jpg"]),
        (".h*.jpg", [".hidden.jpg"]),
        ("s/../?.jpg", ["a.jpg"]),
    ],
)
def test_a_pattern_takes_what_it_finds_below_its_fixed_part(tmp_path, monkeypatch, pattern, expected):
    touch(tmp_path, "a.jpg", "s/b.jpg", "s/notes.txt", "s/t/c.jpg", ".hidden.jpg", ".h/d.jpg")
    assert relatives(f"{tmp_path}/{pattern}") == expected
    monkeypatch.chdir(tmp_path)
    assert relatives(pattern) == expected


# --- lists


@pytest.mark.parametrize("name", ["list.txt", "LIST.LST"])
def test_a_list_keeps_its_order_and_the_tree_below_the_common_folder(tmp_path, name):
    touch(tmp_path, "p/x/2.jpg", "p/x/1.jpg", "p/y/1.jpg")
    lines = ["# pictures", "", "  ", "p/x/2.jpg", "p/y/1.jpg", str(tmp_path / "p/x/1.jpg"), "p/y/../x/2.jpg"]
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert relatives(tmp_path / name) == ["x/2.jpg", "y/1.jpg", "x/1.jpg"]
    assert find_inputs(str(tmp_path / name))[0].path == tmp_path / "p/x/2.jpg"


@pytest.mark.parametrize("wrap", [io.StringIO, lambda text: io.TextIOWrapper(io.BytesIO(text.encode()))])
def test_a_list_on_stdin_is_relative_to_the_current_folder(tmp_path, monkeypatch, wrap):
    touch(tmp_path, "p/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert find_inputs("-", wrap("p/a.jpg\n")) == [InputFile(Path("p/a.jpg"), Path("a.jpg"))]


def test_a_missing_file_of_a_list_is_left_to_fail_by_itself(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "list.txt").write_text("a.jpg\ngone.jpg\n")
    assert relatives(tmp_path / "list.txt") == ["a.jpg", "gone.jpg"]


def test_what_cannot_be_found_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "notes/readme.md", "empty.txt", "gone.txt", "wide.txt")
    (tmp_path / "gone.txt").write_text("nowhere.jpg\n")
    (tmp_path / "wide.txt").write_text("a.jpg\n", encoding="utf-16")
    monkeypatch.chdir(tmp_path)
    assert "no pictures" in refused(lambda: find_inputs("notes"), "notes", ".jpg .jpeg")
    assert "no such file" in refused(lambda: find_inputs("nowhere"), "nowhere")
    assert "no such file" in refused(lambda: find_inputs("nul\0byte"))
    assert "no file fits" in refused(lambda: find_inputs("notes/*.jpg"), "notes/*.jpg")
    refused(lambda: find_inputs("nowhere/*.jpg"), "nowhere/*.jpg")
    assert "wildcard" in refused(lambda: find_inputs("*/../*.jpg"), "*/../*.jpg")
    assert "empty list" in refused(lambda: find_inputs("empty.txt"), "empty.txt")
    refused(lambda: find_inputs("gone.txt"), "gone.txt", "nowhere.jpg")
    assert "UTF-8" in refused(lambda: find_inputs("wide.txt"), "wide.txt")
    refused(lambda: find_inputs("-", io.StringIO("\n")), "standard input")
    refused(lambda: find_inputs("-"))


def test_pytorch_is_not_loaded():
    source = "import sys, parallel_nst.jobs.batch.manifest; print('torch' in sys.modules, 'ray' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"]
