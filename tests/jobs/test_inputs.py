"""What goes into a batch and where it comes out: each picture once, no two in one place, no input in danger."""

import errno
import io
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from parallel_nst.files.images import OUTPUT_SUFFIXES
from parallel_nst.jobs.batch.inputs import INPUT_SUFFIXES, Source, find_inputs, natural_key, plan_outputs

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


def touch(folder, *names):
    """Empty files; folders are made."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def relatives(source, **options):
    return [found.relative.as_posix() for found in find_inputs(str(source), **options)]


def refused(call, *names):
    """The one line that says why."""
    with pytest.raises(ValueError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and ": " in line
    for name in names:
        assert str(name) in line
    return line


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


# --- order


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


# --- one file, patterns


@pytest.mark.parametrize("name", ["a.jpg", "scan", "photo.heic", "a[1].jpg"])
def test_a_file_is_taken_whatever_its_suffix(tmp_path, name):
    touch(tmp_path, name)
    assert find_inputs(str(tmp_path / name)) == [Source(tmp_path / name, Path(name))]


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
    assert find_inputs("-", wrap("p/a.jpg\n")) == [Source(Path("p/a.jpg"), Path("a.jpg"))]


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


# --- outputs


def sources(*names):
    return [Source(Path("in") / name, Path(name)) for name in names]


def planned(name, format=None, suffix=""):
    (target,) = plan_outputs(sources(name), Path("out"), format, suffix)
    assert target.output == Path("out") / target.name and target.source == sources(name)[0]
    return target.name


@pytest.mark.parametrize(
    ("name", "format", "suffix", "expected"),
    [
        ("a/b.jpg", None, "", "a/b.jpg"),
        ("IMG.JPEG", None, "", "IMG.JPEG"),
        ("a.gif", None, "", "a.png"),
        ("a.GIF", "webp", "", "a.webp"),
        ("a.heic", None, "", "a.heic.png"),
        ("frame.0001", None, "-w", "frame.0001-w.png"),
        ("scan", "tif", "", "scan.tif"),
        ("b.jpg", ".PNG", "-wave", "b-wave.png"),
        ("x.y.tiff", None, ".v2", "x.y.v2.tiff"),
        (".hidden.bmp", None, "", ".hidden.bmp"),
        ("b.jpeg", "jpg", "", "b.jpg"),
    ],
)
def test_names_of_outputs(name, format, suffix, expected):
    assert planned(name, format, suffix) == expected


@pytest.mark.parametrize("format", [name[1:] for name in OUTPUT_SUFFIXES])
def test_every_format_that_can_be_written_can_be_asked_for(format):
    assert planned("a.jpg", format) == f"a.{format}"


def test_what_cannot_be_planned_is_told(tmp_path):
    out = tmp_path / "out"
    assert "gif" in refused(lambda: plan_outputs(sources("a.jpg"), out, "gif"), "png jpg jpeg tif")
    refused(lambda: plan_outputs(sources("a.jpg"), out, suffix="../b"), "../b")
    both = sources("a.jpg", "a.png")
    refused(lambda: plan_outputs(both, out, "tiff"), Path("in/a.jpg"), Path("in/a.png"), "a.tiff", "--format")
    refused(lambda: plan_outputs(sources("a.gif", "a.png"), out), "a.gif", "a.png")
    out.write_bytes(b"")
    refused(lambda: plan_outputs(sources("a.jpg"), out), out, "not a folder")


def test_an_input_is_never_an_output(tmp_path):
    touch(tmp_path, "a.jpg", "b/a.jpg")
    found = find_inputs(str(tmp_path))
    refused(lambda: plan_outputs(found, tmp_path), "a.jpg", "--suffix")
    refused(lambda: plan_outputs(found, tmp_path / "b" / ".."), "a.jpg", "--suffix")
    assert len(plan_outputs(found, tmp_path, suffix="-w")) == 2
    assert len(plan_outputs(found, tmp_path, format="png")) == 2


@posix
def test_not_through_links_either(tmp_path):
    inside, out = touch(tmp_path / "in", "a.jpg"), tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").symlink_to(inside / "a.jpg")
    refused(lambda: plan_outputs(find_inputs(str(inside)), out), out / "a.jpg")
    (tmp_path / "alias").symlink_to(inside)
    refused(lambda: plan_outputs(find_inputs(str(inside)), tmp_path / "alias"), "a.jpg")


def test_what_an_earlier_batch_wrote_beside_its_inputs_is_left_out(tmp_path):
    touch(tmp_path, "a.jpg", "s/b.jpg", "a-w.jpg", "s/b-w.jpg")
    found, asked = find_inputs(str(tmp_path)), []

    def made(name):
        asked.append(name)
        return name.endswith("-w.jpg")

    assert [t.name for t in plan_outputs(found, tmp_path, suffix="-w", made=made)] == ["a-w.jpg", "s/b-w.jpg"]
    assert sorted(asked) == ["a-w.jpg", "a.jpg", "s/b-w.jpg", "s/b.jpg"]
    asked.clear()
    assert len(plan_outputs(found, tmp_path / "out", made=made)) == 4 and asked == []
    refused(lambda: plan_outputs(found, tmp_path, suffix="-w"), "a-w.jpg")


def test_very_many_are_planned_with_one_look_at_each(tmp_path, monkeypatch):
    count, looks = 20_000, []
    touch(tmp_path, "out/f0.png")
    many = [Source(tmp_path / f"in/f{n}.jpg", Path(f"f{n}.jpg")) for n in range(count)]
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looks.append(path) or real(path, **options))
    targets = plan_outputs(many, tmp_path / "out", "png")
    assert [target.name for target in targets[:3]] == ["f0.png", "f1.png", "f2.png"]
    assert len({target.output for target in targets}) == count
    assert len(looks) <= 2 * count + 10


def test_pytorch_is_not_loaded():
    source = "import sys, parallel_nst.jobs.batch.manifest; print('torch' in sys.modules, 'ray' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"]
