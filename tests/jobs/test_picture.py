"""One picture from file to file: previews, snapshots, going on, memory, and what is written down."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from tiny_networks import LAYERS, tiny_state

from parallel_nst.files.images import read_image, read_settings
from parallel_nst.jobs import picture
from parallel_nst.jobs.picture import identity_of, stylize_file, untiled, write_preview
from parallel_nst.jobs.requests.picture import PictureJob
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers import opening as pools

RECIPE = Recipe(
    size=48, steps=3, scales=2, dtype="float32", layers=LAYERS, tiling=TilingSpec(tiles="4", whole=40, overlap=8)
)
ALONE = replace(RECIPE, tiling=replace(RECIPE.tiling, mode="independent"))
SYNCHRONISED = replace(ALONE, tiling=replace(ALONE.tiling, sync_every=1))
RECIPES = [RECIPE, ALONE, SYNCHRONISED]
NAMES = ["exact", "alone", "synchronised"]
LATE = {"exact": 6, "independent": 9}  # reports: four of the coarse scale, then one for each step, or each of a tile


class Stopped(Exception):
    pass


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A small picture to paint in this process, in a folder of its own."""
    monkeypatch.setattr(pools, "usable_cores", lambda: 1)
    for seed, name in enumerate(("content", "style")):
        values = np.random.default_rng(seed).integers(0, 256, (40, 52, 3), np.uint8)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    save_file(tiny_state(), tmp_path / "tiny.safetensors")
    (tmp_path / "out").mkdir()
    content, style, weights = (tmp_path / name for name in ("content.png", "style.png", "tiny.safetensors"))
    return PictureJob(content, (style,), tmp_path / "out" / "a.png", RECIPE, weights=weights, workers=1)


def run(job, stop_after=None):
    """Its report and what the user is told; stopped in the middle of a step after so many, where asked."""
    told, seen = [], []

    def on_status(status):
        if len(seen) == stop_after:
            raise Stopped
        seen.append(status)

    return stylize_file(job, told.append, on_status), told


def files(job):
    return sorted(path.name for path in job.output.parent.iterdir())


def refused(job):
    """The line that says why; nothing is left behind."""
    before = files(job)
    with pytest.raises(ValueError) as caught:
        run(job)
    assert "\n" not in str(caught.value) and files(job) == before
    return str(caught.value)


def test_several_styles_and_a_beginning_are_read_and_named(job, tmp_path):
    for name in ("other", "start"):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
    recipe = replace(RECIPE, style_weights=(0.7, 0.3), init=str(tmp_path / "start.png"))
    both = replace(job, style=(*job.style, tmp_path / "other.png"), recipe=recipe)
    run(both)
    assert Recipe.from_toml(read_settings(job.output)).style_weights == (0.7, 0.3)
    assert replace(both, output=None).output.name == "content-style-other.png"
    assert identity_of(both, recipe) != identity_of(replace(both, style=both.style[:1]), recipe)
    line = refused(replace(both, style=job.style))
    assert line == "style_weights has 2 numbers for 1 style pictures; give one for each"
    line = refused_file(replace(both, recipe=replace(recipe, init="nowhere.png")))
    assert "nowhere.png" in line


def masked(job, tmp_path):
    """The job with two styles, one on either side."""
    mask = np.zeros((20, 26), np.uint8)
    mask[:, :13] = 255
    for name, values in (("left", mask), ("right", 255 - mask)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "other.png")
    masks = (tmp_path / "left.png", tmp_path / "right.png")
    return replace(job, style=(*job.style, tmp_path / "other.png"), mask=masks)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_styles_are_painted_where_their_masks_are_white(job, tmp_path, recipe):
    both = masked(replace(job, recipe=recipe), tmp_path)
    run(both)
    first = read_image(job.output).pixels
    run(replace(both, mask=both.mask[::-1]))
    assert np.abs(read_image(job.output).pixels - first).max() > 0.05
    assert identity_of(both, recipe) != identity_of(replace(both, mask=both.mask[::-1]), recipe)
    assert identity_of(both, recipe) != identity_of(replace(both, mask=()), recipe)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_a_masked_run_that_was_stopped_goes_on_to_the_same_picture(job, tmp_path, recipe):
    whole = masked(replace(job, recipe=recipe, checkpoint_every=1), tmp_path)
    run(whole)
    expected = read_image(whole.output).pixels
    with pytest.raises(Stopped):
        run(whole, LATE[recipe.tiling.mode])
    line = refused(replace(whole, mask=whole.mask[::-1], resume=True))
    assert "another picture or other settings" in line
    run(replace(whole, resume=True))
    assert np.array_equal(read_image(whole.output).pixels, expected)


def test_masks_that_cannot_be_used_are_refused_in_one_line(job, tmp_path):
    both = masked(job, tmp_path)
    for name, values in (("square", np.full((20, 20), 255, np.uint8)), ("black", np.zeros((20, 26), np.uint8))):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("no picture")

    def line_of(*names):
        return refused(replace(both, mask=tuple(tmp_path / name for name in names)))

    line = line_of("left.png", "square.png")
    assert "square.png has 20x20 px, and the content 52x40; give a mask of the same ratio" in line
    assert "black.png is black all over" in line_of("left.png", "black.png")
    assert line_of("left.png") == "masks are 1 for 2 style pictures; give one mask for each style, or none"
    assert line_of(*["left.png"] * 3) == "masks are 3 for 2 style pictures; give one mask for each style, or none"
    assert "text.png" in line_of("left.png", "text.png")
    assert "nowhere.png" in refused_file(replace(both, mask=(both.mask[0], tmp_path / "nowhere.png")))
    with pytest.raises(ValueError, match=r"left\.png"):
        run(replace(both, output=both.mask[0]))


def refused_file(job):
    """The line that says which file is not there."""
    with pytest.raises(OSError) as caught:
        run(job)
    return str(caught.value)


# The way


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_losses_of_every_step_are_written_with_a_plot(job, recipe):
    log = job.output.with_name("losses.csv")
    recipe = replace(recipe, tv_weight=0.5)
    run(replace(job, recipe=recipe, log=log))
    with log.open() as file:
        rows = list(csv.DictReader(file))
    whole = recipe.tiling.mode == "exact"
    assert [row["step"] for row in rows[:4]] == ["1", "2", "3", "4"] and {row["scale"] for row in rows} == {"1", "2"}
    assert len(rows) == 4 + (3 if whole else 12)
    assert {row["tile"] for row in rows[4:]} == ({""} if whole else {"0", "1", "2", "3"})
    for row in rows:
        parts = [float(row[name]) for name in ("style", "content", "variation", "range")]
        assert sum(parts) == pytest.approx(float(row["total"]), rel=1e-5) and min(parts[0], parts[2]) > 0
    assert read_image(log.with_suffix(".png")).size[0] > 400


def test_a_run_that_fails_leaves_its_losses(job):
    log = job.output.with_name("losses.csv")
    with pytest.raises(Stopped):
        run(replace(job, log=log), stop_after=2)
    assert len(log.read_text().splitlines()) >= 3


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_frames_of_the_way_are_in_a_strip(job, recipe):
    run(replace(job, recipe=recipe, frames_every=2))
    assert files(job) == ["a.frames.png", "a.png"]
    assert read_image(job.strip).size.width > 2 * 256


def test_a_log_that_cannot_be_written_is_one_line(job, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.csv"):
        replace(job, log=tmp_path / "losses.txt")
    assert "its folder is not there" in refused(replace(job, log=tmp_path / "nowhere" / "losses.csv"))


# The file


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_the_report_says_what_is_in_the_file(job, recipe):
    report, told = run(replace(job, recipe=recipe))
    image = read_image(job.output)
    assert image.size == (report.height, report.width) == (37, 48) and told == []
    assert (report.mode, report.tiles) == ("exact" if recipe is RECIPE else "independent", 4)
    assert (report.workers, report.threads, report.output) == (1, 1, str(job.output))
    assert report.loss > 0 and report.seconds > 0
    assert report.step_ratio is None if recipe is RECIPE else report.step_ratio > 0  # exact tiles have no border
    assert min(report.startup, report.compute, report.blend, report.write, report.shutdown) >= 0
    assert files(job) == ["a.png"]


def test_without_borders_there_is_no_step_ratio(job):
    report, _ = run(replace(job, recipe=untiled(replace(RECIPE, tiling=TilingSpec(mode="independent", tiles="9")))))
    assert (report.step_ratio, report.tiles, report.mode) == (None, 1, "exact")


def test_settings_in_the_file_paint_it_again(job):
    run(job)
    first = job.output.read_bytes()
    run(replace(job, recipe=Recipe.from_toml(read_settings(job.output))))
    assert job.output.read_bytes() == first


def test_the_grid_of_independent_tiles_is_written_down_and_that_of_exact_ones_is_not(job):
    """Another machine would choose another grid: exact tiles paint the same picture by it, independent ones do not."""
    for mode in ("independent", "exact"):
        tiling = TilingSpec(mode=mode, tiles="auto", whole=30, overlap=8)
        run(replace(job, recipe=replace(RECIPE, tiling=tiling)))
        found = Recipe.from_toml(read_settings(job.output)).tiling
        assert (found.tiles == "auto") == (mode == "exact")
        assert replace(found, tiles="auto") == tiling


def test_a_failure_leaves_nothing(job):
    with pytest.raises(Stopped):
        run(job, stop_after=2)
    assert files(job) == []


# Previews


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_a_preview_lies_beside_the_output(job, recipe):
    watched = replace(job, recipe=recipe, preview_every=1)
    with pytest.raises(Stopped):
        run(watched, stop_after=LATE[recipe.tiling.mode])
    assert files(job) == ["a.preview.jpg"]
    image = read_image(watched.preview)
    assert image.size in ((26, 34), (37, 48))
    silent, _ = run(replace(job, recipe=recipe))
    loud, _ = run(watched)
    assert silent.loss == loud.loss


@pytest.mark.parametrize("size", [(700, 300), (30, 900), (20, 10)])
def test_a_preview_is_small_and_keeps_its_shape(tmp_path, size):
    width, height = size
    write_preview(tmp_path / "p.jpg", np.full((height, width, 3), 0.5, np.float32))
    image = read_image(tmp_path / "p.jpg")
    assert max(image.size) == min(picture.PREVIEW, max(size))
    assert image.size.width / image.size.height == pytest.approx(width / height, rel=0.05)


def test_a_preview_never_overwrites_an_input(job):
    content = job.preview
    content.write_bytes(b"")
    Image.open(job.content).save(content)
    before = content.read_bytes()
    assert "preview" in refused(replace(job, content=content, preview_every=1))
    assert content.read_bytes() == before


# Snapshots


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
@pytest.mark.parametrize("late", [False, True])
def test_a_run_that_was_stopped_writes_the_same_file(job, recipe, late):
    job = replace(job, recipe=recipe, checkpoint_every=1)
    run(job)
    expected = job.output.read_bytes()
    job.output.unlink()
    with pytest.raises(Stopped):
        run(job, stop_after=LATE[recipe.tiling.mode] if late else 2)
    assert files(job) == ["a.png.snapshot"]
    _, told = run(replace(job, resume=True))
    assert [f"going on at scale {2 if late else 1} " in line for line in told] == [True]
    assert job.output.read_bytes() == expected
    assert files(job) == ["a.png"]


def test_a_snapshot_goes_when_the_picture_is_there(job):
    run(replace(job, checkpoint_every=1))
    assert files(job) == ["a.png"]


def test_to_go_on_without_a_snapshot_is_to_begin(job):
    run(job)
    expected = job.output.read_bytes()
    _, told = run(replace(job, resume=True))
    assert told == [f"{job.snapshot} is not there; starting from the beginning"]
    assert job.output.read_bytes() == expected


def stopped(job):
    with pytest.raises(Stopped):
        run(replace(job, checkpoint_every=1), stop_after=3)
    assert files(job) == ["a.png.snapshot"]


@pytest.mark.parametrize("change", ["content", "style", "weights", "recipe"])
def test_a_snapshot_of_another_run_is_refused(job, change):
    stopped(job)
    if change == "recipe":
        other = replace(job, recipe=replace(RECIPE, content_weight=0.5))
    elif change == "weights":
        save_file(tiny_state(5), job.weights)
        other = job
    else:
        Image.new("RGB", (50, 40), "red").save({"content": job.content, "style": job.style[0]}[change])
        other = job
    assert "another picture or other settings" in refused(replace(other, resume=True))


def test_the_same_pictures_under_other_names_go_on(job):
    stopped(job)
    moved = job.content.rename(job.content.with_name("moved.png"))
    _, told = run(replace(job, content=moved, resume=True))
    assert "going on" in told[0]


def test_what_is_no_snapshot_is_refused(job):
    job.snapshot.write_bytes(b"nothing")
    assert str(job.snapshot) in refused(replace(job, resume=True))


# Memory


@pytest.mark.parametrize("text", ["", "4", "lots", "-1GiB", "4 parsecs", "1KiB"])
def test_a_memory_that_is_none_is_one_line(job, text):
    assert "such as 4GiB" in refused(replace(job, memory=text))


def test_a_memory_that_does_not_hold_the_picture_is_one_line(job):
    line = refused(replace(job, memory="800MiB", recipe=replace(RECIPE, size=12000)))
    assert "12000" in line and "--memory allows" in line and "smaller" in line
    line = refused(replace(job, memory="800MiB", recipe=replace(RECIPE, style_size=12000)))
    assert "style_size is 12000" in line


@pytest.mark.parametrize("memory", ["100MiB", "520MiB"])
def test_a_memory_that_holds_no_picture_at_all_asks_for_more(job, memory):
    """No smaller size would help."""
    assert "more memory" in refused(replace(job, memory=memory))


def test_enough_memory_is_enough(job):
    report, _ = run(replace(job, memory="4GiB"))
    assert report.tiles == 4


def test_one_objective_is_made_of_any_recipe():
    assert untiled(SYNCHRONISED).tiling == replace(SYNCHRONISED.tiling, mode="exact", tiles="auto")
