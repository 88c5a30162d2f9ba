"""`pnst plan`: what it says, and one line for every mistake."""

from __future__ import annotations

import json
import re

import pytest
import typer

from parallel_nst.cli.plan import plan_command
from parallel_nst.cli.texts import amount, duration
from parallel_nst.jobs import plan as planning
from parallel_nst.jobs.requests.plan import parse_picture_size

GIB = 1 << 30
QUICK = ("--speed", "100", "--memory", "2GiB")


@pytest.fixture
def plan(capsys):
    """Call the command; what it prints."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command("plan")(plan_command)

    def call(*arguments):
        app(list(map(str, arguments)), standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_a_plan_as_json_says_everything(plan):
    found = json.loads(plan("--size", "1500x1000", "--workers", 3, *QUICK, "--optimizer", "adam", "--json"))
    assert (found["width"], found["height"], found["workers"]) == (1500, 1000, 3)
    assert (found["memory"], found["speed"], found["optimizer"]) == (2 * GIB, 100e9, "adam")
    assert (found["scales"][-1]["width"], found["scales"][-1]["height"]) == (1500, 1000)
    assert found["scales"][-1]["tiles"] >= 3
    assert 0 < found["worker_bytes"] <= 2 * GIB
    assert found["halo"] > 0
    assert found["notes"] == []
    assert found["seconds"] > found["flops"] / 3 / 100e9


def test_a_plan_is_a_table_with_a_row_for_each_scale(plan):
    text = plan("--size", 800, "--workers", 2, *QUICK, "--mode", "independent", "--tiles", "2x2", "--steps", 7)
    assert text.startswith("800x800 px on 2 workers, independent tiles, embedded in ")
    rows = [line.split() for line in text.splitlines() if re.match(r" +\d+x\d+ ", line)]
    assert [row[0] for row in rows] == ["141x141", "200x200", "283x283", "400x400", "566x566", "800x800"]
    assert rows[-1][1:4] == ["7", "4", "2"]
    assert "halo    0 px" in text


def test_memory_is_shared_by_the_workers_of_this_machine(plan, monkeypatch):
    monkeypatch.setattr(planning, "machine_memory", lambda: 9 * GIB)
    monkeypatch.setattr("parallel_nst.workers.opening.usable_cores", lambda: 4)
    here, beyond = (
        json.loads(plan("--size", 600, "--workers", workers, "--speed", 100, "--json")) for workers in (2, 8)
    )
    assert 3.5 * GIB < here["memory"] < 4 * GIB  # beside the driver's and Ray's own
    assert beyond["memory"] == 9 * GIB // 4
    assert "as if they were on machines like this one, 4 on each" in beyond["notes"][0]


def test_without_a_speed_it_is_measured(plan, monkeypatch):
    monkeypatch.setattr(planning, "measured_speed", lambda *_: 123e9)
    found = json.loads(plan("--size", 128, "--memory", "2GiB", "--json"))
    assert found["speed"] == 123e9
    assert "measured here" in found["notes"][0]


def test_a_recipe_gives_what_is_not_given(plan, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('optimizer = "adam"\nsteps = 3\n[tiling]\nmode = "independent"\n', encoding="utf-8")
    found = json.loads(plan("--size", 128, *QUICK, "--recipe", path, "--steps", 5, "--json"))
    assert (found["optimizer"], found["mode"], found["scales"][-1]["steps"]) == ("adam", "independent", 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "0"], "size is '0'; give width x height in px"),
        (["--size", "abc"], "size is 'abc'"),
        (["--size", "10x20x30"], "size is '10x20x30'"),
        (["--size", "-5"], "size is '-5'"),
        (["--size", "99999999999"], "size is '99999999999'"),
        (["--size", "512", "--workers", "0"], "workers is 0; give a whole number from 1 to 100000"),
        (["--size", "512", "--workers", "2.5"], "workers is '2.5'"),
        (["--size", "512", "--speed", "nan"], "speed is nan; give a number from 0.001"),
        (["--size", "512", "--speed", "-1"], "speed is -1"),
        (["--size", "512", "--mode", "both"], "mode is 'both'; allowed: independent, exact"),
        (["--size", "512", "--optimizer", "sgd"], "optimizer is 'sgd'; allowed: lbfgs, adam"),
        (["--size", "512", "--tiles", "0x2"], "tiles is '0x2'"),
        (["--size", "512", "--steps", "x"], "steps is 'x'; give a whole number of at least 1"),
        (["--size", "512", "--overlap", "8"], "--overlap has no effect with --mode exact; give --mode independent"),
        (["--size", "512", "--history", "8", "--optimizer", "adam"], "--history has no effect with --optimizer adam"),
    ],
)
def test_a_mistake_is_a_usage_error_in_one_line(plan, options, message):
    with pytest.raises(typer.BadParameter) as caught:
        plan(*options)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "512", "--memory", "lots"], "memory is 'lots'; give a size with its unit"),
        (["--size", "512", *QUICK, "--backbone", "vgg20"], "unknown backbone 'vgg20'; known: embedded"),
        (["--size", "5000", "--speed", "100", "--memory", "450MiB"], "give more memory"),
        (["--size", "5000", *QUICK, "--tiles", "1"], "1x1 tiles"),
        (["--size", "1000000x1000"], "give --memory to plan for another one, or a smaller --size"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(plan, monkeypatch, options, message):
    monkeypatch.setattr(planning, "machine_memory", lambda: 9 * GIB)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        plan(*options)
    assert "\n" not in str(caught.value)


def test_sizes_are_width_by_height_or_square():
    assert parse_picture_size("640x480") == (480, 640)
    assert parse_picture_size("640X480") == (480, 640)
    assert parse_picture_size("512") == (512, 512)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.034, "0.034 s"),
        (12.3, "12 s"),
        (59.9, "60 s"),
        (90, "1 min 30 s"),
        (3600, "1 h 0 min"),
        (7261, "2 h 1 min"),
        (3599.9, "60 min 0 s"),
        (200_000, "2 d 8 h"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (5.67e13, "56.7 TB"), (1e21, "1e+03 EB")]
)
def test_amounts_have_three_digits_and_a_prefix(value, text):
    assert amount(value, "B") == text
