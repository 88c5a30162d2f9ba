"""The page, in a browser without a window: what people do with it, by pointer and by keyboard alone."""

import base64
import os
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from parallel_nst.recipe import Recipe
from tests.served import picture_bytes

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium"),
]
FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking".split()
PATIENCE = 60_000  # ms
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server of its own process, as people start it."""
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "parallel_nst", "serve", "--port", "0", "--folder", str(folder / "jobs")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment) as process:
        line = process.stderr.readline()
        found = next(word for word in line.split() if word.startswith("http"))
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{found}healthz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield found
        process.terminate()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS, headless=True)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """The page, which may ask nobody but its server and may log no error."""
    context = browser.new_context(accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    faults, asked = [], []
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    until(opened, "document.getElementById('server').textContent === 'ready'")
    yield opened
    assert all(url.startswith((address, "blob:")) for url in asked)
    assert [fault for fault in faults if "422" not in fault] == []
    context.close()


def until(page, condition):
    """Wait for a condition in JavaScript. Playwright's own way evaluates text in the page, which the page forbids."""
    for _ in range(PATIENCE // 50):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not in time: {condition}")


def choose(page, *names, size="256", steps=3, look="painting:swirls", content=None):
    """Fill in the form."""
    files = [{"name": name, "mimeType": "image/png", "buffer": content or picture_bytes(96, 72)} for name in names]
    page.set_input_files("#content", files)
    page.check(f'#looks input[value="{look}"]', force=True)
    page.select_option("#size", size)
    if look.startswith("painting"):
        page.fill("#steps", str(steps))


def card(page, name, place="results"):
    return page.locator(f"#{place} .job", has=page.locator(".name", has_text=name)).first


def test_a_picture_goes_in_and_a_painting_comes_out(page):
    choose(page, "cat.png", steps=6)
    page.click("#paint")
    card(page, "cat.png", "queue").locator("progress").wait_for(state="visible")
    done = card(page, "cat.png")
    done.get_by_text("256 x 192 px").wait_for()
    with page.expect_download() as download:
        done.locator(".download").click()
    assert download.value.suggested_filename.startswith("cat-")
    done.locator(".look").click()
    until(page, "document.getElementById('after').naturalWidth === 256")
    page.click("#zoom-in")
    transforms = page.evaluate("['before', 'after'].map((id) => document.getElementById(id).style.transform)")
    assert transforms[0] == transforms[1] and "scale(1.5)" in transforms[0]
    page.click("#close")


def test_a_generator_paints_at_once_and_history_survives_a_reload(page):
    choose(page, "dog.png", look="model:swirls")
    page.click("#paint")
    card(page, "dog.png").get_by_text("256 x 192 px").wait_for()
    page.reload()
    card(page, "dog.png").get_by_text("256 x 192 px").wait_for()


def test_a_queue_can_be_reordered_and_cancelled(page):
    choose(page, "long.png", "second.png", "third.png", steps=900)
    page.click("#paint")
    card(page, "third.png", "queue").wait_for()
    card(page, "long.png", "queue").locator("progress").wait_for(state="visible")
    card(page, "third.png", "queue").locator(".up").click()
    until(page, "[...document.querySelectorAll('#queue .name')][1]?.textContent.startsWith('third.png')")
    until(page, "document.querySelector('#queue .thumb').src.includes('role=preview')")
    for name in ("second.png", "third.png", "long.png"):
        card(page, name, "queue").locator(".cancel").click()
        card(page, name).get_by_text("cancelled").wait_for()
    page.locator("#nothing").wait_for(state="visible")


def test_an_error_is_told_and_the_picture_stays_chosen(page):
    choose(page, "fake.png", content=b"<svg/>")
    page.click("#paint")
    page.locator("#told").get_by_text("not a picture").wait_for()
    assert page.locator("#chosen li").count() == 1


def test_settings_come_back_from_a_result(page):
    choose(page, "again.png", steps=2)
    page.evaluate("document.getElementById('strength').value = 80")
    page.click("#paint")
    done = card(page, "again.png")
    done.get_by_text("256 x 192 px").wait_for()
    page.fill("#steps", "99")
    page.evaluate("document.getElementById('strength').value = 10")
    done.locator(".again").click()
    until(page, "document.getElementById('steps').value === '2'")
    assert page.input_value("#strength") == "80"
    page.locator("#chosen li").wait_for()
    with page.expect_download() as download:
        done.locator(".download").click()
    page.fill("#steps", "99")
    page.set_input_files("#from", download.value.path())
    until(page, "document.getElementById('steps').value === '2'")


def dropped(page, place, *names, kind="drop"):
    """Let go of files over a place of the page, or paste them there."""
    data = base64.b64encode(picture_bytes(96, 72)).decode()
    page.locator(place).evaluate(
        """(place, [names, data, kind]) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const held = new DataTransfer();
          for (const name of names) held.items.add(new File([bytes], name, { type: "image/png" }));
          const [Kind, key] = kind === "paste" ? [ClipboardEvent, "clipboardData"] : [DragEvent, "dataTransfer"];
          place.dispatchEvent(new Kind(kind, { [key]: held, bubbles: true, cancelable: true }));
        }""",
        [list(names), data, kind],
    )


def test_pictures_can_be_dropped_and_pasted(page):
    dropped(page, "#drop", "one.png", "two.png")
    until(page, "document.querySelectorAll('#chosen li').length === 2")
    dropped(page, "body", "three.png", kind="paste")
    until(page, "document.querySelectorAll('#chosen li').length === 3")
    assert page.text_content("#paint") == "Paint 3"
    page.get_by_label("leave out two.png").click()
    assert [image.get_attribute("alt") for image in page.locator("#chosen img").all()] == ["one.png", "three.png"]


def test_a_style_can_be_dropped_on_the_looks(page):
    dropped(page, "#looks", "brush.png")
    until(page, "document.querySelector('#looks input:checked').value === 'own'")
    page.set_input_files("#content", [{"name": "own.png", "mimeType": "image/png", "buffer": picture_bytes(96, 72)}])
    page.select_option("#size", "256")
    page.fill("#steps", "1")
    page.click("#paint")
    done = card(page, "own.png · brush.png")
    done.get_by_text("256 x 192 px").wait_for()


def test_steps_are_those_that_the_program_takes_by_itself(page):
    assert page.input_value("#steps") == str(Recipe().steps)


def test_all_results_are_downloaded_as_one_file(page):
    choose(page, "first.png", "last.png", look="model:swirls")
    page.click("#paint")
    for name in ("first.png", "last.png"):
        card(page, name).get_by_text("256 x 192 px").wait_for()
    with page.expect_download() as download:
        page.click("#all")
    with zipfile.ZipFile(download.value.path()) as archive:
        names = archive.namelist()
    assert all(any(name.startswith(stem) for name in names) for stem in ("first-", "last-"))


def test_the_queue_can_be_reordered_by_keyboard(page):
    """The button that was pressed keeps the focus, so that it can be pressed again."""
    choose(page, "front.png", "x.png", "y.png", "z.png", steps=900)
    page.click("#paint")
    card(page, "z.png", "queue").wait_for()
    card(page, "front.png", "queue").locator("progress").wait_for(state="visible")
    card(page, "z.png", "queue").locator(".up").focus()
    for place in (2, 1):
        page.keyboard.press("Enter")
        until(page, f"document.querySelectorAll('#queue .name')[{place}]?.textContent.startsWith('z.png')")
        until(page, "document.activeElement.closest('.job')?.textContent.includes('z.png')")
    for name in ("x.png", "y.png", "z.png", "front.png"):
        card(page, name, "queue").locator(".cancel").click()
    page.locator("#nothing").wait_for(state="visible")


def test_two_fingers_zoom_both_pictures(page):
    choose(page, "fingers.png", look="model:swirls")
    page.click("#paint")
    done = card(page, "fingers.png")
    done.get_by_text("256 x 192 px").wait_for()
    done.locator(".look").click()
    page.evaluate(
        """() => {
          const stage = document.getElementById("stage");
          stage.setPointerCapture = () => {};
          const touch = (type, pointerId, clientX) =>
            stage.dispatchEvent(new PointerEvent(type, { pointerId, clientX, clientY: 200, bubbles: true }));
          touch("pointerdown", 1, 200);
          touch("pointerdown", 2, 300);
          touch("pointermove", 2, 400);
          touch("pointerup", 1, 200);
          touch("pointerup", 2, 400);
        }"""
    )
    transforms = page.evaluate("['before', 'after'].map((id) => document.getElementById(id).style.transform)")
    assert transforms[0] == transforms[1] and "scale(2)" in transforms[0]


def test_the_keyboard_alone_is_enough(page):
    """From the top of the page to a job, its comparison and its end."""
    page.set_input_files("#content", [{"name": "keys.png", "mimeType": "image/png", "buffer": picture_bytes(96, 72)}])

    def tab_to(test):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement?.matches({test!r}) ?? false"):
                return
        raise AssertionError(f"the keyboard does not reach {test}")

    tab_to("#looks input")
    for _ in range(page.locator("#looks input").count()):  # past the models, which have no steps
        page.keyboard.press("ArrowRight")
        if page.input_value("#looks input:checked").startswith("painting:"):
            break
    tab_to("#size")
    page.keyboard.press("ArrowUp")
    tab_to("#steps")
    page.keyboard.press("Control+a")
    page.keyboard.type("2")
    tab_to("#paint")
    page.keyboard.press("Enter")
    card(page, "keys.png").get_by_text("256 x 192 px").wait_for()
    tab_to("#results .look")
    page.keyboard.press("Enter")
    until(page, "document.activeElement.id === 'split'")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#split") == "51"
    page.keyboard.press("Escape")
    until(page, "!document.getElementById('compare').open")


def test_a_phone_shows_it_without_scrolling_sideways(browser, address):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    until(page, "document.getElementById('server').textContent === 'ready'")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.evaluate(
        "[...document.querySelectorAll('.button, button')].filter((e) => e.offsetParent && e.offsetHeight < 40).length"
    )
    assert small == 0
    context.close()
