"""Ray itself dies under a run, or the run is told to end: one line, nothing left behind, and it goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from clusters import DEADLINE, GONE, WITH_TILES, Place, pictures, pixels, result, two_nodes, until

pytestmark = pytest.mark.slow

LONG = ("--size", "64", "--scales", "1", "--steps", "60", "--tiles", "2x2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_folder: Path) -> np.ndarray:
    """The picture of a run that nothing happens to."""
    place = Place(tmp_path_factory.mktemp("undisturbed"), ray_folder)
    pictures(place.folder)
    result(place.stylise(*LONG, "--workers", "2"))
    return pixels(place.folder / "painted.png")


def painted(place: Place) -> np.ndarray:
    return pixels(place.folder / "painted.png")


def ended(run: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """The exit code of a run, and the lines on its stderr but those of its progress."""
    out, err = run.communicate(timeout=DEADLINE)
    assert out == ""
    print(err)
    return run.returncode, [line for line in err.splitlines() if line.startswith(("pnst: ", "Traceback"))]


def parts_of_ray(place: Place, name: str) -> list[psutil.Process]:
    """Of a local Ray. Its agents have lost the mark in their environment, and are known by their parent."""
    children = [child for raylet in place.called("raylet") for child in raylet.children()]
    return place.called(name) + [child for child in children if child.cmdline()[:1] == [name]]


@pytest.mark.parametrize(
    ("victim", "names"),
    [
        ("raylet", "raylet"),
        ("gcs_server", "GCS"),
    ],
)
def test_a_local_ray_that_dies_is_started_again_and_the_picture_is_the_same(
    place: Place, undisturbed: np.ndarray, victim: str, names: str
) -> None:
    run = place.stylise(*LONG, "--workers", "2")
    until(lambda: place.called(WITH_TILES), "a worker with a tile")
    until(lambda: parts_of_ray(place, victim), victim)[0].send_signal(signal.SIGKILL)
    out, err = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0 and out, err
    assert re.search(f"Ray's ({names}) has died; it is started again, and the run goes on", " ".join(err.split())), err
    assert "Traceback" not in err and "core_worker" not in err
    np.testing.assert_array_equal(painted(place), undisturbed)
    until(lambda: not place.processes(), "all processes have left", GONE)


def test_a_local_ray_that_goes_with_an_agent_costs_no_work(place: Place, undisturbed: np.ndarray) -> None:
    """The raylet takes leave of the GCS when one of its agents has died. If the GCS passes that on before it is killed,
    and what this program keeps in Ray's store is looked for before Ray is left, Ray ends the program."""
    options = (*LONG, "--workers", "2", "--checkpoint-every", "10")
    run = place.stylise(*options)
    until((place.folder / "painted.png.snapshot").exists, "a checkpoint")
    until(lambda: parts_of_ray(place, "ray::DashboardAgent"), "an agent")[0].send_signal(signal.SIGKILL)
    out, err = run.communicate(timeout=DEADLINE)
    assert "Traceback" not in err
    if run.returncode == 0:
        assert re.search("Ray's (dashboard agent|raylet) has died; it is started again", " ".join(err.split())), err
    else:
        assert (run.returncode, out) == (1, ""), err
        result(place.stylise(*options, "--resume"))
    np.testing.assert_array_equal(painted(place), undisturbed)
    until(lambda: not place.processes(), "all processes have left", GONE)


def test_tiles_each_for_itself_go_on_when_a_local_ray_dies(place: Place) -> None:
    run = place.stylise(*LONG, "--workers", "2", "--mode", "independent")
    until(lambda: place.called("ray::RayWorker.run"), "a worker with a tile")
    place.called("raylet")[0].send_signal(signal.SIGKILL)
    result(run)
    again = place.stylise(*LONG, "--workers", "2", "--mode", "independent", output="again.png")
    result(again)
    np.testing.assert_array_equal(painted(place), pixels(place.folder / "again.png"))


def test_a_run_whose_head_dies_says_so_and_goes_on_elsewhere(place: Place, undisturbed: np.ndarray) -> None:
    """Before Ray itself ends the program, after a whole minute, with lines of its own."""
    options = (*LONG, "--checkpoint-every", "10")
    with two_nodes(Place(place.folder, place.ray_folder)) as nodes:
        run = place.stylise(*options, "--address", nodes.address)
        until((place.folder / "painted.png.snapshot").exists, "a checkpoint")
        head = psutil.Process(nodes.daemons[0].pid)
        (gcs,) = (process for process in head.children(recursive=True) if process.name() == "gcs_server")
        for process in (head, gcs):  # the first would end the node on which the run may be
            process.send_signal(signal.SIGKILL)
        code, lines = ended(run)
    assert code == 1
    assert lines[-1].startswith(("pnst: the head of the cluster", "pnst: Ray's ")) and "--resume goes on" in lines[-1]
    assert not [line for line in lines if line.startswith("Traceback")]
    result(place.stylise(*options, "--workers", "2", "--resume"))
    # Up to rounding, which sixty steps amplify: on a cluster other threads have measured the style.
    assert np.abs(painted(place).astype(float) - undisturbed).mean() < 4


def test_a_run_whose_head_is_stopped_says_so(place: Place) -> None:
    """As on a machine that is out of memory: connections are still accepted for it."""
    with two_nodes(Place(place.folder, place.ray_folder)) as nodes:
        run = place.stylise(*LONG, "--steps", "100000", "--address", nodes.address)
        until(lambda: run.poll() is not None or nodes.at_work(place), "workers on the cluster")
        head = psutil.Process(nodes.daemons[0].pid)
        (gcs,) = (process for process in head.children(recursive=True) if process.name() == "gcs_server")
        gcs.send_signal(signal.SIGSTOP)
        code, lines = ended(run)
    assert code == 1
    assert re.fullmatch(r"pnst: the head of the cluster at .* has not answered for .*; --resume goes on .*", lines[-1])
    assert not [line for line in lines if line.startswith("Traceback")]


def test_a_run_that_is_told_to_end_keeps_its_checkpoint_and_goes_on(place: Place, undisturbed: np.ndarray) -> None:
    """By SIGTERM, and by a terminal that closes."""
    options = (*LONG, "--workers", "2", "--checkpoint-every", "10")
    snapshot = place.folder / "painted.png.snapshot"
    for number, more in ((signal.SIGTERM, ()), (signal.SIGHUP, ("--resume",))):
        before = snapshot.stat().st_mtime if snapshot.exists() else 0.0
        run = place.stylise(*options, *more)
        until(lambda before=before: snapshot.exists() and snapshot.stat().st_mtime > before, "a checkpoint")
        os.killpg(run.pid, number)
        code, lines = ended(run)
        assert (code, lines[-1:]) == (128 + number, ["pnst: stopped"])
        until(lambda: not place.processes(), "all processes have left", GONE)
        assert not list(place.ray_folder.glob("pnst-*"))
    result(place.stylise(*options, "--resume"))
    np.testing.assert_array_equal(painted(place), undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_workers_stay_on_a_cluster_when_a_run_is_stopped(place: Place, number: int) -> None:
    with two_nodes(Place(place.folder, place.ray_folder)) as nodes:
        run = place.stylise(*LONG, "--steps", "100000", "--address", nodes.address)
        until(lambda: nodes.at_work(place), "workers on the cluster")
        time.sleep(1)
        os.kill(run.pid, number)
        code = run.wait(timeout=DEADLINE)
        assert code == (-number if number == signal.SIGKILL else 128 + number)
        until(lambda: not nodes.at_work(place), "workers have left the cluster", GONE)
        assert all(daemon.poll() is None for daemon in nodes.daemons)
