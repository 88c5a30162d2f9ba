"""`pnst tile-run` among real Ray processes: nodes that it joins, workers that die, runs that are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clusters
import numpy as np
import psutil
import pytest
from clusters import DEADLINE, GONE, QUICK, WITH_TILES, Nodes, Place, pixels, result, two_nodes, until

from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import Pinned
from parallel_nst.workers.worker import Progress, Worker, WorkerSpec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, ray_folder: Path) -> Iterator[Nodes]:
    with two_nodes(Place(tmp_path_factory.mktemp("nodes"), ray_folder)) as nodes:
        yield nodes


@pytest.mark.parametrize("way", ["option", "environment", "auto"])
def test_the_nodes_of_a_cluster_are_joined(place: Place, nodes: Nodes, way: str) -> None:
    given = {"option": ("--address", nodes.address), "environment": (), "auto": ("--address", "auto")}[way]
    more = {"RAY_ADDRESS": nodes.address} if way == "environment" else {}
    run = place.stylise(*QUICK, *given, **more)
    seen: set[int] = set()
    while run.poll() is None:
        seen |= nodes.at_work(place)
        time.sleep(0.05)
    report = result(run)
    assert (report["workers"], report["threads"]) == (2, 1)
    assert seen == {daemon.pid for daemon in nodes.daemons}
    assert pixels(place.folder / "painted.png").shape == (48, 64, 3)
    assert not place.called("raylet")
    assert all(daemon.poll() is None for daemon in nodes.daemons)
    until(lambda: not nodes.at_work(place), "workers have left the cluster", GONE)


def test_a_cluster_is_not_joined_unasked(place: Place, nodes: Nodes) -> None:
    run = place.stylise(*QUICK, "--workers", "2")
    seen, own = set(), False
    while run.poll() is None:
        seen |= nodes.at_work(place)
        own = own or bool(place.called("gcs_server"))
        time.sleep(0.05)
    result(run)
    assert own
    assert seen == set()


@pytest.mark.parametrize(("mode", "method"), [("exact", "work_as_rank"), ("independent", "run")])
def test_a_killed_worker_does_not_change_the_picture(place: Place, mode: str, method: str) -> None:
    options = ("--mode", mode, "--size", "64", "--scales", "1", "--steps", "100", "--tiles", "4", "--workers", "2")
    result(place.stylise(*options, output="undisturbed.png"))
    run = place.stylise(*options)
    victim = until(lambda: place.called(f"ray::RayWorker.{method}"), "a worker with a tile")[0]
    victim.send_signal(signal.SIGKILL)
    result(run)
    np.testing.assert_array_equal(pixels(place.folder / "painted.png"), pixels(place.folder / "undisturbed.png"))
    until(lambda: not place.processes(), "all processes have left", GONE)


def left_in(place: Place) -> list[Path]:
    """Folders of local Rays."""
    return list(place.ray_folder.glob("pnst-*"))


def test_what_a_killed_run_has_left_is_removed_by_the_next_which_leaves_nothing(place: Place) -> None:
    """Ray's agents outlive a driver that was killed; its folder would stay for good."""
    run = place.stylise("--size", "90", "--scales", "1", "--steps", "1000", "--tiles", "2x2", "--workers", "2")
    until(lambda: place.called(WITH_TILES), "a worker with a tile")
    run.kill()
    run.communicate(timeout=DEADLINE)
    (folder,) = (path for path in left_in(place) if path.is_dir())
    result(place.stylise(*QUICK, "--workers", "2"))
    assert not folder.exists()
    assert left_in(place) == []
    until(lambda: not place.processes(), "all processes have left", GONE)


@dataclass(frozen=True)
class Visit:
    """Takes its time; the process id, and how many of its pin have been in that process before."""

    pin: int

    def run(self, worker: Worker) -> Generator[Progress, None, tuple[int, int]]:
        left = worker.left_by("visits")
        left[self.pin] = left.get(self.pin, -1) + 1
        time.sleep(0.5)
        return os.getpid(), left[self.pin]
        yield


def visit(address: str) -> None:
    """Two calls of sixteen tasks of four pins, each result a line as soon as it is there."""
    from parallel_nst.workers.ray.cluster import RayCluster
    from parallel_nst.workers.ray.pool import RayPool

    with RayPool(RayCluster(address, 0), WorkerSpec("cpu", "float32", 1, {}), Crew(2, 1)) as pool:
        for call in range(2):
            for index, found in pool.map_pinned([Pinned(n % 4, Visit(n % 4)) for n in range(16)]):
                print(json.dumps([call, index, *found]), flush=True)


def test_pinned_tasks_go_on_when_a_node_is_lost(place: Place) -> None:
    """On the node that is left, and in the next call they find there what they left."""
    with two_nodes(place) as nodes:
        here = str(Path(clusters.__file__).parent)
        run = place.start(sys.executable, __file__, nodes.address, output=subprocess.PIPE, PYTHONPATH=here)
        assert run.stdout is not None
        first = json.loads(run.stdout.readline())
        until(lambda: len(nodes.at_work(place)) == 2, "both nodes have a worker")
        node = psutil.Process(nodes.daemons[1].pid)
        for process in [node, *node.children(recursive=True)]:
            process.kill()
        out, err = run.communicate(timeout=DEADLINE)
        assert run.returncode == 0, err
    results = [first, *map(json.loads, out.splitlines())]  # nothing of Ray's in between
    assert sorted((call, index) for call, index, _, _ in results) == [(c, n) for c in range(2) for n in range(16)]
    assert len({process for call, _, process, _ in results if call == 1}) == 1
    visits = {pin: [n for call, index, _, n in results if call == 1 and index % 4 == pin] for pin in range(4)}
    assert all(found == list(range(found[0], found[0] + 4)) for found in visits.values())
    assert min(found[0] for found in visits.values()) > 0


def long_up(place: Place) -> bool:
    """A raylet is there that has had the time to start."""
    return any(time.time() - process.create_time() > 6 for process in place.called("raylet"))


MOMENTS: dict[str, Callable[[Place, float], Any]] = {
    "starting": lambda place, age: age > 0.7,
    "Ray starting": lambda place, age: place.called("gcs_server"),
    "coarse scales": lambda place, age: long_up(place),
    "tiles": lambda place, age: place.called(WITH_TILES),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_leaves_nothing_behind(place: Place, moment: str) -> None:
    before = set(place.folder.iterdir())
    growth = "0" if moment == "tiles" else "1000"
    options = ("--size", "90", "--scales", "2", "--step-growth", growth, "--steps", "100", "--tiles", "2x2")
    run = place.stylise(*options, "--workers", "2")
    began = time.monotonic()
    until(lambda: MOMENTS[moment](place, time.monotonic() - began), moment)
    assert run.poll() is None
    os.killpg(run.pid, signal.SIGINT)
    stopped = time.monotonic()
    out, err = run.communicate(timeout=DEADLINE)
    seconds = time.monotonic() - stopped
    until(lambda: not place.processes(), "all processes have left", GONE)
    print(f"Ctrl-C ({moment}): {seconds:.1f} s, {time.monotonic() - stopped:.1f} s until the last process has left")
    assert (run.returncode, out, err.splitlines()[-1:]) == (130, "", ["pnst: stopped"])
    assert "Traceback" not in err
    assert set(place.folder.iterdir()) == before


if __name__ == "__main__":
    visit(sys.argv[1])
