"""Sweeps: every combination is painted once, whatever fails or stops, and shown where any two axes can be compared."""

import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from tiny_networks import LAYERS, tiny_state

from parallel_nst.errors import BadInput
from parallel_nst.files.images import read_image, read_settings
from parallel_nst.jobs.requests.sweep import SweepJob
from parallel_nst.jobs.sheets import LABEL, Labelled, sheets
from parallel_nst.jobs.sweep import job as module
from parallel_nst.jobs.sweep.axes import cells_of, parse_axis
from parallel_nst.jobs.sweep.chart import is_wide, lines_of, positions_of, ratio_chart
from parallel_nst.jobs.sweep.job import CHART, RESULTS, SHEET, sweep
from parallel_nst.recipe import Recipe
from parallel_nst.workers import opening

RECIPE = Recipe(size=24, steps=1, scales=1, dtype="float32", layers=LAYERS)


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "usable_cores", lambda: 1)
    monkeypatch.setattr(module, "seconds_of_cells", lambda asked, cells: [1.5] * len(cells))
    (tmp_path / "styles").mkdir()
    for seed, name in enumerate(("content", "styles/one", "styles/two")):
        values = np.random.default_rng(seed).integers(0, 256, (20, 26, 3), np.uint8)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    save_file(tiny_state(), tmp_path / "tiny.safetensors")
    return SweepJob(
        content=tmp_path / "content.png",
        style=tmp_path / "styles" / "one.png",
        recipe=RECIPE,
        axis=("content-weight=0.01,0.3", "style-loss=gram,w2"),
        output=tmp_path / "out",
        weights=tmp_path / "tiny.safetensors",
        thumbnail=32,
    )


def run(job):
    told = []
    return sweep(job, told.append), told


def rows_of(job):
    with (job.output / RESULTS).open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_combination_is_a_file_with_its_settings(job):
    job = replace(job, recipe=replace(RECIPE, steps=2))  # the first step is at the content, where its loss is 0
    report, told = run(job)
    assert (report.cells, report.painted, report.failed) == (4, 4, 0)
    assert told[0] == "4 cells, 0 already there; about 6 s for the others, if all cores of this machine are free"
    rows = rows_of(job)
    assert [(row["content-weight"], row["style-loss"]) for row in rows] == [
        ("0.01", "gram"),
        ("0.01", "w2"),
        ("0.3", "gram"),
        ("0.3", "w2"),
    ]
    assert [row["file"][:-13] for row in rows] == ["0.01-gram", "0.01-w2", "0.3-gram", "0.3-w2"]
    for row in rows:
        recipe = Recipe.from_toml(read_settings(job.output / row["file"]))
        assert (str(recipe.content_weight), recipe.style_loss) == (row["content-weight"], row["style-loss"])
        parts = [float(row[f"loss_{name}"]) for name in ("style", "content", "variation")]
        assert float(row["loss"]) > 0 and sum(parts) > 0 and float(row["seconds"]) > 0
    assert [Path(name).name for name in report.files] == [RESULTS, CHART, SHEET, "sweep.html"]
    assert read_image(job.output / CHART).size.width > 400


def test_what_is_there_is_not_painted_again(job, monkeypatch):
    run(job)
    before = rows_of(job)
    (job.output / before[1]["file"]).unlink()
    report, told = run(job)
    assert (report.painted, report.skipped) == (1, 3) and told[0].startswith("4 cells, 3 already there")
    assert [row["file"] for row in rows_of(job)] == [row["file"] for row in before]
    monkeypatch.setattr(module, "open_workers", None)  # nobody is asked to work
    assert run(job)[0].painted == 0
    more = replace(job, axis=("content-weight=0.01,0.3", "style-loss=gram"))
    assert run(more)[0].skipped == 2


def test_another_style_or_weight_is_another_cell(job):
    first = run(job)[0].rows[0]["file"]
    other = replace(job, style=job.style.with_name("two.png"))
    assert run(other)[0].painted == 4 and rows_of(other)[0]["file"] != first


def test_a_cell_that_fails_does_not_stop_the_rest(job, tmp_path, monkeypatch):
    monkeypatch.setenv("PNST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *more, **kinds: (_ for _ in ()).throw(OSError("no network")))
    broken = replace(job, axis=("backbone=embedded,squeezenet", "style-layers=relu1_1;relu9_9"))
    report, _ = run(broken)
    assert (report.painted, report.failed) == (1, 3)
    errors = [row["error"] for row in rows_of(broken)]
    assert errors[0] == "" and "relu9_9" in errors[1] and "cannot be downloaded" in errors[2]
    assert (broken.output / SHEET).is_file()
    again, _ = run(broken)
    assert (again.skipped, again.failed) == (1, 3)  # what failed is tried again


def test_styles_of_a_folder_are_an_axis(job):
    report, _ = run(replace(job, axis=(f"style=@{job.style.parent}", "size=24")))
    assert [row["style"] for row in report.rows] == ["one.png", "two.png"]


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (("content-weight",), "give NAME=VALUE,VALUE with one of style, size,"),
        (("hue=1,2",), "axis is 'hue=1,2'"),
        (("device=cpu,cuda",), "axis is 'device=cpu,cuda'"),
        (("steps=",), "no values"),
        (("steps=1,1",), "a value twice"),
        (("steps=few",), "axis steps has 'few'"),
        (("steps=0",), "steps is 0"),
        (("steps=1", "steps=2"), "give each once"),
        (("style=@nowhere",), "no pictures"),
        (tuple(f"{name}=" + ",".join(map(str, range(1, 30))) for name in ("steps", "seed", "history")), "more than"),
    ],
)
def test_axes_that_cannot_be(job, axes, words):
    with pytest.raises(BadInput, match=re.escape(words)):
        cells_of([parse_axis(text) for text in axes], RECIPE, job.style)


def test_a_sweep_of_nothing_is_refused(job):
    with pytest.raises(BadInput, match="--axis NAME=VALUE"):
        replace(job, axis=())


def test_layers_are_apart_by_semicolons():
    axis = parse_axis("style-layers=relu1_1,relu2_1=0.5;relu3_1")
    assert axis.values == ({"relu1_1": 1.0, "relu2_1": 0.5}, {"relu3_1": 1.0})


def test_nested_settings_can_be_varied(job):
    cells = cells_of([parse_axis("tiles=4,9"), parse_axis("mode=exact,independent")], RECIPE, job.style)
    assert [(cell.recipe.tiling.tiles, cell.recipe.tiling.mode) for cell in cells] == [
        ("4", "exact"),
        ("4", "independent"),
        ("9", "exact"),
        ("9", "independent"),
    ]


def test_the_page_holds_all_cells_and_nothing_outside_itself(job):
    run(job)
    text = (job.output / "sweep.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [axis["name"] for axis in data["axes"]] == ["content-weight", "style-loss"]
    assert len(data["cells"]) == 4 and all(one["data"].startswith("data:image/jpeg;base64,") for one in data["cells"])
    assert not re.search(r'(src|href)="?(http|//)', text) and "position: sticky" in text


# The chart


def row(weight, loss, content=0.2, style=0.1):
    return {"content-weight": weight, "style-loss": loss, "loss_content": content, "loss_style": style}


def test_ratios_are_of_the_cells_that_have_both_losses():
    axes = [parse_axis("style-loss=gram,w2"), parse_axis("content-weight=0.1,0.2")]
    rows = [row("0.1", "gram"), row("0.2", "gram", "0.4", "0.1"), row("0.1", "w2", 0.0), row("0.2", "w2", "", "")]
    assert lines_of(axes, rows) == {"gram": {"0.1": 2.0, "0.2": 4.0}}
    assert ratio_chart(axes, rows[2:]) is None
    assert ratio_chart(axes, rows)[:4] == b"\x89PNG"


def test_a_chart_of_many_lines_names_the_first():
    weights = ",".join(str(number / 100) for number in range(1, 30))
    axes = [parse_axis(f"content-weight={weights}"), parse_axis("style-loss=gram,w2")]
    rows = [row(weight, loss) for weight in axes[0].texts for loss in axes[1].texts]
    assert ratio_chart(axes, rows)[:4] == b"\x89PNG"


def test_numbers_stand_where_they_are_and_names_one_after_the_other():
    assert positions_of(parse_axis("content-weight=0.1,3")) == {"0.1": 0.1, "3": 3.0}
    assert positions_of(parse_axis("style-loss=w2,gram")) == {"w2": 0.0, "gram": 1.0}
    assert is_wide([0.01, 1.0]) and not is_wide([0.1, 1.0]) and not is_wide([0.0, 100.0])


def test_without_matplotlib_a_line_says_so(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report, told = run(replace(job, axis=("steps=2",)))
    assert not (job.output / CHART).exists() and CHART not in str(report.files)
    assert "matplotlib is not installed" in told[-1]


def test_names_cannot_break_out_of_the_page(job):
    style = job.style.with_name("a<!--<script>.png")
    job.style.rename(style)
    run(replace(job, style=style, axis=(f"style={style}",)))
    text = (job.output / "sweep.html").read_text()
    assert "<!--<script>" not in text


def test_sheets_are_split_where_they_would_be_too_large():
    cells = [Labelled(f"cell {n}", np.full((8, 8, 3), 0.5, np.float32)) for n in range(7)]
    (one,) = sheets(cells, 3, 16)
    assert one.shape[0] > 3 * 16 and one.shape[1] > 3 * 16 and one.min() < 0.2  # text is dark
    several = sheets(cells, 3, 16, largest=(16 + LABEL + 20) * 90)
    assert len(several) == 3 and all(made.shape[1] == one.shape[1] for made in several)
    assert sheets([Labelled("missing: a reason that is much too long for its cell", None)], 3, 16)[0].shape[2] == 3


def test_pictures_are_those_of_a_run_alone(job):
    report, _ = run(replace(job, axis=("steps=2",)))
    assert read_image(job.output / report.rows[0]["file"]).size == (18, 24)
