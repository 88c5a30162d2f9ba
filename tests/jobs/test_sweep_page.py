"""The page of a sweep, in a browser without a window: what stays in view, and what people do with it."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from parallel_nst.jobs.requests.sweep import SweepJob
from parallel_nst.jobs.sweep.axes import cells_of, parse_axis
from parallel_nst.jobs.sweep.page import ShownCell, page
from parallel_nst.recipe import Recipe

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium"),
]
FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking".split()
AXES = ("seed=1,2", "steps=1,2,3,4,5,6,7", "content-weight=0.01,0.03,0.05,0.1,0.2,0.3,0.5,1")
VIEW = {"width": 1000, "height": 700}


def shown(cell, name):
    """A cell of a colour of its own; the last one has failed."""
    text = f"cell {cell.number}"
    if name == "112":
        return ShownCell(cell.texts, f"{text}: a reason", "", None)
    colour = np.float32([cell.number / 120, 1 - cell.number / 120, 0.5])
    pixels = np.broadcast_to(colour, (90, 120, 3)).copy()
    pixels[30:60, 40:80] = 1 - colour
    return ShownCell(cell.texts, text, f"{name}.png", pixels)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page of three axes, larger than the window both ways."""
    axes = [parse_axis(text) for text in AXES]
    cells = cells_of(axes, Recipe(), Path("style.png"))
    job = SweepJob(content=Path("photo.jpg"), style=Path("style.png"), axis=AXES, thumbnail=240)
    path = tmp_path_factory.mktemp("sweep") / "sweep.html"
    path.write_text(page(job, axes, [shown(cell, str(cell.number)) for cell in cells]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS, headless=True)
        yield opened
        opened.close()


@pytest.fixture
def sweep(browser, file):
    """The page, which may ask for nothing but itself and may log no error."""
    opened = browser.new_page(viewport=VIEW)
    faults, asked = [], []
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(file.as_uri())
    yield opened
    assert faults == [] and all(url == file.as_uri() or url.startswith("data:") for url in asked)
    opened.close()


def frame(sweep, number):
    """The picture of a cell."""
    return sweep.locator("td", has=sweep.get_by_text(f"cell {number}", exact=True)).locator(".frame")


def source(sweep, number):
    return frame(sweep, number).locator("img").get_attribute("src")


def in_view(locator):
    """Whether all of it is in the window."""
    box = locator.bounding_box()
    right, bottom = box["x"] + box["width"], box["y"] + box["height"]
    return box["x"] >= 0 and box["y"] >= 0 and right <= VIEW["width"] and bottom <= VIEW["height"]


def transforms(sweep):
    """How each picture is enlarged."""
    look = "image => { const style = getComputedStyle(image); return style.transform + style.transformOrigin; }"
    return set(sweep.evaluate(f"[...document.querySelectorAll('.frame img')].map({look})"))


def test_headings_and_choices_stay_in_view(sweep):
    sweep.evaluate("scrollTo(700, 900)")
    corner = sweep.locator("thead th").first
    assert corner.text_content() == "steps \\ content-weight" and in_view(corner)
    assert in_view(sweep.locator("header")) and in_view(sweep.locator("header select").last)
    columns = [one for one in sweep.locator("thead th").all()[1:] if in_view(one)]
    rows = [one for one in sweep.locator("tbody th").all() if in_view(one)]
    assert len(columns) >= 2 and len(rows) >= 2
    head, first = corner.bounding_box(), columns[0].bounding_box()
    assert abs(head["y"] - first["y"]) < 1  # one line, under the choices
    assert head["y"] >= sweep.locator("header").bounding_box()["height"] - 1
    assert all(abs(one.bounding_box()["x"] - rows[0].bounding_box()["x"]) < 1 for one in rows)


def test_any_two_axes_are_rows_and_columns(sweep):
    choices = sweep.locator("header select")
    assert choices.count() == 3
    choices.nth(2).select_option(label="2")  # the seed
    assert frame(sweep, 57).count() == 1 and frame(sweep, 1).count() == 0
    choices.nth(0).select_option(label="steps")  # were the rows: the two change places
    assert sweep.locator("thead th").first.text_content() == "content-weight \\ steps"
    assert sweep.locator("thead th").count() == 8 and sweep.locator("tbody tr").count() == 8
    sweep.locator("header select").nth(1).select_option(label="seed")
    assert [one.text_content() for one in sweep.locator("tbody th").all()] == ["1", "2"]


def test_a_cell_that_failed_says_why(sweep):
    sweep.locator("header select").nth(2).select_option(label="2")
    assert sweep.get_by_text("cell 112: a reason").count() == 1


def test_all_cells_are_zoomed_as_one(sweep):
    whole = transforms(sweep)
    frame(sweep, 2).hover(position={"x": 60, "y": 30})
    sweep.keyboard.down("Control")
    sweep.mouse.wheel(0, -100)
    sweep.keyboard.up("Control")
    (first,) = transforms(sweep)
    assert first.startswith("matrix(1.2,") and {first} != whole
    sweep.locator("#in").click()
    (second,) = transforms(sweep)
    assert second.startswith("matrix(1.8,")
    sweep.keyboard.press("Escape")
    assert transforms(sweep) == whole


def test_what_is_under_the_pointer_stays_there(sweep):
    """The white middle's corner, after zooming there and elsewhere."""
    place = "(() => { const box = document.querySelector('.frame img').getBoundingClientRect();"
    place += "const out = document.querySelector('.frame').getBoundingClientRect();"
    for x, y in ((60, 30), (200, 150)):
        at = f"return [({x} - box.left + out.left) / box.width, ({y} - box.top + out.top) / box.height]; }})()"
        before = sweep.evaluate(place + at)
        frame(sweep, 1).hover(position={"x": x, "y": y})
        sweep.keyboard.down("Control")
        sweep.mouse.wheel(0, -100)
        sweep.keyboard.up("Control")
        assert sweep.evaluate(place + at) == pytest.approx(before, abs=0.01)


def test_the_wheel_alone_scrolls(sweep):
    frame(sweep, 2).hover()
    sweep.mouse.wheel(0, 300)
    sweep.wait_for_function("scrollY > 100")
    assert next(iter(transforms(sweep))).startswith("matrix(1,")


def test_a_pinned_cell_flickers_against_the_one_under_the_pointer(sweep):
    own, pinned = source(sweep, 3), source(sweep, 2)
    frame(sweep, 2).click()
    assert "pinned" in frame(sweep, 2).get_attribute("class")
    assert sweep.locator("#pin").text_content().startswith("Pinned: cell 2.")
    frame(sweep, 3).hover()
    seen = []
    for _ in range(3):
        sweep.keyboard.press("Space")
        seen.append(source(sweep, 3))
    assert seen == [pinned, own, pinned]
    sweep.mouse.move(5, 5)
    assert source(sweep, 3) == own
    frame(sweep, 2).click()
    assert sweep.locator(".pinned").count() == 0


def test_it_works_with_the_keyboard_alone(sweep):
    own, pinned = source(sweep, 2), source(sweep, 1)
    frame(sweep, 1).focus()
    sweep.keyboard.press("Enter")
    assert "pinned" in frame(sweep, 1).get_attribute("class")
    sweep.keyboard.press("Tab")
    sweep.keyboard.press("Space")
    assert source(sweep, 2) == pinned != own
    sweep.keyboard.press("Tab")
    assert source(sweep, 2) == own
