"""Ray's processes are watched: what has died is known at once, and nobody calls a Ray that is dead."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from ray.exceptions import ObjectLostError

from parallel_nst.workers.pool import HandedLost, Here, Made
from parallel_nst.workers.ray import interface, lifeline, shared_values
from parallel_nst.workers.ray.lifeline import CONNECTION, RayEnded, Watched, answers, connected, in_use, named, watch
from parallel_nst.workers.ray.reasons import WorkerTraceback
from parallel_nst.workers.ray.shared_values import RayShared, Received, payload


@pytest.fixture
def program() -> Iterator[psutil.Process]:
    """One that would run for long."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield psutil.Process(started.pid)
    started.kill()
    started.wait()


@pytest.fixture(params=["told", "looking"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems that tell of a process's end, and such as have to be asked."""
    if request.param == "looking":
        monkeypatch.delattr(os, "pidfd_open", raising=False)


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(CONNECTION, "number", 3)
    monkeypatch.setattr(CONNECTION, "fault", None)
    return CONNECTION


@pytest.mark.usefixtures("system")
def test_a_process_that_dies_is_named(program: psutil.Process) -> None:
    found: list[str | None] = []
    watcher = Thread(target=lambda: found.append(watch([Watched(program, "raylet")], lambda: False)))
    watcher.start()
    watcher.join(0.2)
    assert watcher.is_alive()
    program.send_signal(signal.SIGKILL)
    watcher.join(60)
    assert found == ["Ray's raylet has died"]


@pytest.mark.usefixtures("system")
def test_one_that_has_died_before_it_was_watched_is_named(program: psutil.Process) -> None:
    program.kill()
    os.waitpid(program.pid, 0)
    assert watch([Watched(program, "GCS")], lambda: False) == "Ray's GCS has died"


@pytest.mark.usefixtures("system")
def test_watching_ends_when_the_program_leaves(program: psutil.Process) -> None:
    leaves = iter([False, False, True])
    assert watch([Watched(program, "raylet")], lambda: next(leaves)) is None


@pytest.mark.parametrize("stopped", [False, True])
def test_a_head_that_no_longer_listens_is_named(monkeypatch: pytest.MonkeyPatch, stopped: bool) -> None:
    """Nor does one answer that is stopped, though the system accepts connections for it."""
    monkeypatch.setattr(lifeline, "HEAD_PAUSE", 0.05)
    monkeypatch.setattr(lifeline, "HEAD_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if not stopped:
            server.close()
        assert not answers(address)
        said = watch([], lambda: False, address)
    assert said is not None and said.startswith(f"the head of the cluster at {address} has not answered")


@pytest.mark.parametrize("reply", [b"\0", b""])
def test_a_head_lives_if_it_replies_or_hangs_up(reply: bytes) -> None:
    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        heard.append(connection.recv(100))
        connection.sendall(reply)
        connection.close()

    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=serve, args=(server,))
        thread.start()
        assert answers(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert heard[0].startswith(b"PRI * HTTP/2.0")


def test_only_what_ray_cannot_do_without_is_watched(program: psutil.Process) -> None:
    def titled(title: str) -> Any:
        return SimpleNamespace(cmdline=lambda: [title])

    found = named(
        [titled("/x/raylet"), titled("/x/gcs_server"), titled("ray::IDLE"), titled("ray::DashboardAgent"), program]
    )
    assert [one.name for one in found] == ["raylet", "GCS", "dashboard agent"]


def test_nobody_calls_a_ray_that_is_dead(connection: Any) -> None:
    with in_use():
        pass
    connection.fault = "Ray's raylet has died"
    with pytest.raises(RayEnded, match=r"^Ray's raylet has died$"), in_use():
        pytest.fail("called")
    connected()
    assert (connection.number, connection.fault) == (4, None)
    with in_use():
        pass


class Store:
    """In place of Ray: keeps what is put."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def put(self, value: Any) -> int:
        self.values.append(value)
        return len(self.values) - 1

    def get(self, reference: int) -> Any:
        return self.values[reference]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(shared_values, "ray", store)
    return store


def test_a_shared_value_is_put_again_where_ray_was_started_again(connection: Any, store: Store) -> None:
    moved: list[int] = []
    shared = RayShared(np.zeros(3), moved.append)
    assert pickle.loads(pickle.dumps(shared)).reference == 0
    assert pickle.loads(pickle.dumps(shared)).reference == 0
    connection.number += 1
    assert pickle.loads(pickle.dumps(shared)).reference == 1
    assert moved == [24, 24]


def test_what_is_made_when_it_is_sent_is_kept_by_nobody_and_made_again(connection: Any, store: Store) -> None:
    made: list[np.ndarray] = []
    moved: list[int] = []

    def make() -> np.ndarray:
        made.append(np.full(3, len(made)))
        return made[-1]

    shared = RayShared(Made(make), moved.append)
    assert not made and payload(shared) == 0
    for number, expected in ((1, 0), (1, 0), (2, 1)):
        connection.number = number
        assert pickle.loads(pickle.dumps(shared)).reference == expected
    assert [list(store.values[reference]) for reference in range(2)] == [[0] * 3, [1] * 3] and moved == [24, 24]
    assert list(shared.get()) == [2] * 3 == list(Here(Made(lambda: [2] * 3)).get())


def test_one_too_large_to_be_kept_here_is_lost_with_ray(
    connection: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_values, "KEPT", 23)
    shared = RayShared(np.ones(3), lambda moved: None)
    pickle.dumps(shared)
    assert shared.get().sum() == 3
    connection.number += 1
    for use in (shared.get, lambda: pickle.dumps(shared)):
        with pytest.raises(HandedLost, match="lost with the Ray that held it"):
            use()


def test_what_workers_have_handed_out_is_lost_with_ray_and_not_asked_for(connection: Any, store: Store) -> None:
    received = Received(store.put("it"), connection.number)
    assert received.get() == "it" and pickle.loads(pickle.dumps(received)) == Received(0)
    connection.number += 1
    for use in (received.get, lambda: pickle.dumps(received)):
        with pytest.raises(HandedLost, match="lost with the Ray that held it"):
            use()


def test_what_is_lost_with_a_machine_is_a_loss_and_no_error_of_rays(
    connection: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(reference: int) -> None:
        raise ObjectLostError("ff", None, "")

    monkeypatch.setattr(store, "get", lose)
    with pytest.raises(HandedLost, match=r"^what workers had handed out is lost \([^\n]*$"):
        Received(0, connection.number).get()


def test_gloo_takes_the_network_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the machine's name, which may be 127.0.0.1; what somebody has chosen stays."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is as before in the end
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    networks = {"lo": "127.0.0.1", "eth7": "10.1.2.3"}
    monkeypatch.setattr(
        interface.psutil, "net_if_addrs", lambda: {n: [SimpleNamespace(address=a)] for n, a in networks.items()}
    )
    monkeypatch.setattr(interface.ray.util, "get_node_ip_address", lambda: "10.1.2.3")
    interface.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    interface.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"


def test_a_traceback_is_shown_as_it_is() -> None:
    assert str(WorkerTraceback("Traceback:\n  here")) == "\nTraceback:\n  here"
