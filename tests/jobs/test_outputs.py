"""Where a batch comes out: no two pictures in one place, no input in danger."""

import os
from pathlib import Path

import pytest
from odd_texts import refused, touch

from parallel_nst.files.images import OUTPUT_SUFFIXES
from parallel_nst.jobs.batch.inputs import InputFile, find_inputs
from parallel_nst.jobs.batch.outputs import plan_outputs

posix = pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")


def sources(*names):
    return [InputFile(Path("in") / name, Path(name)) for name in names]


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
    many = [InputFile(tmp_path / f"in/f{n}.jpg", Path(f"f{n}.jpg")) for n in range(count)]
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looks.append(path) or real(path, **options))
    targets = plan_outputs(many, tmp_path / "out", "png")
    assert [target.name for target in targets[:3]] == ["f0.png", "f1.png", "f2.png"]
    assert len({target.output for target in targets}) == count
    assert len(looks) <= 2 * count + 10
