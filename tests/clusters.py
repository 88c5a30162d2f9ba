"""`pnst` as a program among real Ray processes, for tests.

Every process of a test carries a mark of its own in its environment, by which it is found again.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

PNST = (sys.executable, "-m", "parallel_nst")
RAY = (sys.executable, "-m", "ray.scripts.scripts")
MARK = "PNST_TEST_MARK"
MACHINES = "import sys; from ray._raylet import GcsClient; print(len(GcsClient(sys.argv[1]).get_all_node_info()))"
DEADLINE = 240.0  # seconds until which anything must have happened, on a busy machine too
WITH_TILES = "ray::RayWorker.work_as_rank"  # title of a worker's process that paints its share of a picture
GONE = 120.0  # seconds within which the last Ray process must have left


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """The first true value of `condition`; fails when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.03)
    return pytest.fail(f"not within {seconds:.0f} s: {what}")


@dataclass(frozen=True)
class Place:
    """A folder with two small pictures, and the environment of every process of one test."""

    folder: Path
    ray_folder: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        own = {"HOME": str(self.folder), "RAY_TMPDIR": str(self.ray_folder), "RAY_AUTH_MODE": "disabled"}
        return {**kept, **own, MARK: self.mark}

    def start(self, *command: str, output: int, **more: str) -> subprocess.Popen[str]:
        """A process in a session of its own, in the folder."""
        run = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | more,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
        self.runs.append(run)
        return run

    def stylise(self, *options: str, output: str = "painted.png", **more: str) -> subprocess.Popen[str]:
        """`pnst tile-run` of the two pictures."""
        names = "--content", "content.png", "--style", "style.png", "--output", output
        return self.start(*PNST, "tile-run", *names, "--json", *options, output=subprocess.PIPE, **more)

    def end(self) -> None:
        """Kill whatever is left."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # it was about to end
                process.kill()
        for run in self.runs:
            run.communicate()

    def processes(self) -> list[psutil.Process]:
        """All that this test has started and that are still there."""
        return [process for process in psutil.process_iter() if self.owns(process)]

    def owns(self, process: psutil.Process) -> bool:
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False

    def called(self, text: str) -> list[psutil.Process]:
        """Processes of this test with `text` at the beginning of their title or in their program's name."""
        found = []
        for process in self.processes():
            try:
                title = (process.cmdline() or [""])[0]
            except psutil.Error:
                continue
            if title.startswith(text) or Path(title).name == text:
                found.append(process)
        return found


def pictures(folder: Path) -> None:
    random = np.random.default_rng(0)
    for name, size in (("content.png", (48, 64)), ("style.png", (56, 48))):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)


def result(run: subprocess.Popen[str]) -> dict[str, Any]:
    """The report of a run that ended well."""
    out, err = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@dataclass(frozen=True)
class Nodes:
    """Ray daemons, of one CPU each unless `options` of `ray start` say otherwise, and their head first."""

    place: Place
    address: str
    options: tuple[str, ...]
    daemons: list[subprocess.Popen[str]] = field(default_factory=list)

    def at_work(self, place: Place) -> set[int]:
        """Which daemons (by process id) have workers for this test's runs."""
        ours = {daemon.pid for daemon in self.daemons}
        busy = set()
        for process in psutil.process_iter():
            try:
                if (process.cmdline() or [""])[0].startswith("ray::RayWorker"):
                    busy |= ours & {parent.pid for parent in process.parents()}
            except psutil.Error:
                continue
        return busy

    def join(self) -> None:
        """One more, until it is known to the head."""
        self._start(f"--address={self.address}")
        count = len(self.daemons)
        until(lambda: len(self.place.called("raylet")) == count, f"{count} raylets")
        until(lambda: joined(self.place, self.address) == count, "all have joined")

    def _start(self, *where: str) -> None:
        common = "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000"
        self.daemons.append(start_daemon(self.place, *where, *common, "--disable-usage-stats", *self.options))


@contextmanager
def one_node(place: Place, *options: str) -> Iterator[Nodes]:
    """A head, until it is no longer wanted."""
    port = free_port()
    nodes = Nodes(place, f"127.0.0.1:{port}", options)
    try:
        nodes._start("--head", f"--port={port}", "--include-dashboard=false")
        until(lambda: answers(port), "the head answers")
        until(lambda: joined(place, nodes.address) == 1, "the head knows itself")
        yield nodes
    finally:
        place.end()  # never `ray stop`: it ends every Ray of the machine


@contextmanager
def two_nodes(place: Place, *options: str) -> Iterator[Nodes]:
    """A head and another, until they are no longer wanted."""
    with one_node(place, *options) as nodes:
        nodes.join()
        yield nodes


def joined(place: Place, address: str) -> int:
    """How many machines the cluster has; asked without joining it, which takes longer."""
    asked = place.start(sys.executable, "-c", MACHINES, address, output=subprocess.PIPE)
    out, _ = asked.communicate(timeout=DEADLINE)
    return int(out or 0)


def start_daemon(place: Place, *options: str) -> subprocess.Popen[str]:
    """`ray start`; what it says goes nowhere, lest a full pipe stop it."""
    return place.start(*RAY, "start", *options, output=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


QUICK = ("--size", "64", "--scales", "1", "--steps", "60", "--tiles", "2x2")
