"""Ranks of Ray Train: their place, what they tell, what becomes of a run when one fails or dies, and what is left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle
import torch

from parallel_nst.errors import Diverged, OutOfMemory, WorkerLost
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.ranks.place import Place
from parallel_nst.workers.ray import messages as mail
from parallel_nst.workers.ray.cluster import RayCluster
from parallel_nst.workers.ray.messages import Began, Line, Mailbox, Message, News, RankFinished, Teller

try:
    from ray.train import ControllerError, WorkerGroupError

    from parallel_nst.workers.ray import ranks as ray_train
    from parallel_nst.workers.ray.ranks import STORAGE, final_error, reason_of, run_on_ranks
except ImportError:  # the extra `training` is not installed
    ray_train = None

# Ray neither waits for the processes that it kills nor closes its log files.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray Data's, about itself
]
needs_ray_train = pytest.mark.skipif(ray_train is None, reason="Ray Train is not installed")

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

Notify = Callable[[str], None]
OnStatus = Callable[[Any], None]


# Messages


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """Where a teller's messages go; it takes for ever until progress may be told again."""
    monkeypatch.setattr(mail, "STATUS_SECONDS", float("inf"))
    return []


def test_progress_is_told_now_and_then_and_before_anything_else(told: list[Message]) -> None:
    teller = Teller(told.append)
    for step in range(1, 4):
        teller.status(step)
    assert told == []
    teller.line("a line")
    assert told == [News(3), Line("a line")]
    teller.tell(RankFinished(5))
    assert told[2:] == [RankFinished(5)]


def test_progress_is_told_at_once_when_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "STATUS_SECONDS", -1.0)
    told: list[Message] = []
    teller = Teller(told.append)
    for step in range(1, 4):
        teller.status(step)
    assert told == [News(1), News(2), News(3)]


def test_a_mailbox_keeps_order_and_only_the_newest_progress() -> None:
    box = Mailbox()
    for message in (Began(), News(1), News(2), Line("x"), News(3)):
        box.put(message)
    assert box.take() == [Began(), News(2), Line("x"), News(3)]
    assert box.take() == []


# Ranks


@dataclass(frozen=True)
class Meet:
    """Rank 0 tells how far it is, all say who they are; rank 0 returns what they have in common."""

    steps: int = 3

    def __call__(self, place: Place, on_status: OnStatus, notify: Notify) -> dict[str, Any]:
        for step in range(self.steps if place.rank == 0 else 0):
            on_status(step)
        notify(f"rank {place.rank} of {place.ranks}")
        module = place.wrap(torch.nn.Linear(2, 1, bias=False))
        module(torch.full((1, 2), float(place.rank))).sum().backward()
        gradient = next(module.parameters()).grad
        assert gradient is not None
        return {
            "mean": place.meet(place.rank),
            "gradient": gradient.flatten().tolist(),
            "threads": torch.get_num_threads(),
            "nice": os.nice(0),
            "folder": os.getcwd(),
        }


@dataclass(frozen=True)
class Fail:
    """Rank 1 raises while rank 0 waits for it."""

    error: Exception

    def __call__(self, place: Place, on_status: OnStatus, notify: Notify) -> None:
        if place.rank == 1:
            raise self.error
        place.meet()


@dataclass(frozen=True)
class Die:
    """Rank 1 kills its process, each time until it has done so `times`; then all count how often they began."""

    folder: Path
    times: int

    def __call__(self, place: Place, on_status: OnStatus, notify: Notify) -> int:
        place.meet()
        deaths = len(list(self.folder.glob("death-*")))
        place.meet()  # all have counted
        if deaths < self.times and place.rank == 1:
            (self.folder / f"death-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        place.meet()
        return deaths


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def cluster(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """A local Ray of two cores; the home folder is an empty one."""
    monkeypatch.setenv("HOME", str(home))
    cluster = RayCluster(None, 2)
    yield cluster
    cluster.close()


@needs_ray_train
@pytest.mark.slow
def test_ranks_know_their_place_and_leave_nothing_behind(cluster: RayCluster, home: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    lines: list[str] = []
    result = run_on_ranks(Meet(), cluster, Crew(2, 1), tmp_path, seen.append, lines.append)
    assert result["mean"] == 0.5
    assert result["gradient"] == [0.5, 0.5]
    assert (result["threads"], result["nice"]) == (1, os.nice(0))
    assert result["folder"] == os.getcwd()
    assert sorted(lines) == ["rank 0 of 2", "rank 1 of 2"]
    assert seen == sorted(seen)
    assert seen[-1] == 2
    assert list(tmp_path.iterdir()) == []
    assert list(home.iterdir()) == []


@needs_ray_train
@pytest.mark.slow
def test_an_error_of_the_work_arrives_as_itself_and_is_not_tried_again(cluster: RayCluster, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(ValueError, match=r"^a checkpoint of something else$"):
        run_on_ranks(
            Fail(ValueError("a checkpoint of something else")),
            cluster,
            Crew(2, 1),
            tmp_path,
            lines.append,
            lines.append,
        )
    assert lines == []
    assert not (tmp_path / STORAGE).exists()


@needs_ray_train
@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(cluster: RayCluster, tmp_path: Path) -> None:
    lines: list[str] = []
    result = run_on_ranks(Die(tmp_path, 2), cluster, Crew(2, 1), tmp_path, lambda status: None, lines.append)
    assert result == 2
    assert lines == ["a worker was lost; all go on from the last checkpoint"] * 2


@needs_ray_train
@pytest.mark.slow
def test_workers_that_die_too_often_end_the_run_in_one_line(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_train, "MAX_DEATHS", 1)
    with pytest.raises(WorkerLost, match=r"^training ended: .*died.*--resume") as caught:
        run_on_ranks(Die(tmp_path, 9), cluster, Crew(2, 1), tmp_path, lambda status: None, lambda line: None)
    assert "\n" not in str(caught.value)
    assert len(list(tmp_path.glob("death-*"))) == 2


@needs_ray_train
@pytest.mark.slow
def test_an_error_while_listening_ends_the_run(cluster: RayCluster, tmp_path: Path) -> None:
    def fail(line: str) -> None:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        run_on_ranks(Meet(), cluster, Crew(2, 1), tmp_path, lambda status: None, fail)


@needs_ray_train
def test_the_reason_is_what_a_worker_died_of() -> None:
    failures = {0: RuntimeError("Connection closed by peer"), 1: MemoryError("too much\nby far")}
    assert reason_of(WorkerGroupError("", failures)) == "MemoryError: by far"
    assert reason_of(ControllerError(ValueError("no room"))) == "ValueError: no room"
    assert reason_of(None) == "no result came back"


@needs_ray_train
def test_errors_that_another_try_would_repeat_end_a_training() -> None:
    """Those of no kind of ours may be what the death of a peer looks like."""
    for error in (ValueError("bad"), Diverged("the loss is NaN")):
        assert final_error(error, "cpu") is error
    assert final_error(RuntimeError("Connection closed by peer"), "cpu") is None
    memory = final_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n..."), "cuda")
    assert isinstance(memory, OutOfMemory) and "GPU" in str(memory) and "\n" not in str(memory)
