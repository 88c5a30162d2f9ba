"""Whether the Ray that this program is connected to lives.

Ray ends a program whose Ray has died: at once when it next touches the object store, after a while in any case, and
with a line of its own C++. So its processes are watched, and this program leaves it as soon as one has died. Nobody may
be in the midst of calling Ray then: every call is made in a `with in_use()`.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, RLock
from typing import Any

import psutil  # type: ignore[import-untyped]

from parallel_nst.workers.pool import HandedLost

LOOK_SECONDS = 0.1  # between two looks at whether the program leaves Ray
HEAD_SECONDS = 12.0  # without an answer, after which the head of a cluster counts as gone
HEAD_PAUSE = 2.0  # between two questions to it, and until each is answered
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # of HTTP/2, with an empty list of settings
NAMES = {  # of processes without which Ray ends, by the beginning of their title
    "raylet": "raylet",
    "gcs_server": "GCS",
    "ray::DashboardAgent": "dashboard agent",
    "ray::RuntimeEnvAgent": "runtime environment agent",
}


class RayEnded(HandedLost):
    """Ray has died, and with it all workers and all that it held. The message says what died first."""


@dataclass
class Connection:
    """The one that this process has. number: how many it has had. fault: what has died; None while it lives."""

    number: int = 0
    fault: str | None = None
    lock: Any = field(default_factory=RLock)


CONNECTION = Connection()


@contextmanager
def in_use() -> Iterator[None]:
    """While Ray is called. RayEnded, sooner than a call would end this program, when it has died."""
    check_alive()
    with CONNECTION.lock:
        check_alive()
        yield


def check_alive() -> None:
    """RayEnded when Ray has died."""
    if CONNECTION.fault is not None:
        raise RayEnded(CONNECTION.fault)


def connected() -> None:
    """There is a new connection."""
    CONNECTION.number += 1
    CONNECTION.fault = None


@dataclass(frozen=True)
class Watched:
    """A process of Ray, and what it is called."""

    process: psutil.Process
    name: str

    @property
    def dead(self) -> bool:
        try:
            return bool(self.process.status() == psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return True


def named(processes: Sequence[psutil.Process]) -> list[Watched]:
    """Those of some processes without which Ray ends."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            title = os.path.basename((process.cmdline() or [""])[0])
            found += [Watched(process, name) for start, name in NAMES.items() if title.startswith(start)]
    return found


def watch(processes: Sequence[Watched], leaves: Callable[[], bool], head: str | None = None) -> str | None:
    """Wait until one of Ray's processes has died or its head answers no more: which; None once the program leaves it.
    head: host:port, where it is another program's."""
    asked = answered = time.monotonic()
    with alarm(processes) as rung:
        while not leaves():
            if rung(LOOK_SECONDS) and (dead := next((one for one in processes if one.dead), None)):
                return f"Ray's {dead.name} has died"
            if head is not None and time.monotonic() - asked > HEAD_PAUSE:
                alive = answers(head)
                asked = time.monotonic()
                answered = asked if alive else answered
                if asked - answered > HEAD_SECONDS:
                    return f"the head of the cluster at {head} has not answered for {HEAD_SECONDS:.0f} s"
    return None


@contextmanager
def alarm(processes: Sequence[Watched]) -> Iterator[Callable[[float], bool]]:
    """A function that waits so many seconds for the end of any of these processes, and whether it may have come. Where
    the system tells of an end, it is heard of at once."""
    if not hasattr(os, "pidfd_open"):
        yield lambda seconds: not Event().wait(seconds)
        return
    poll = select.poll()
    files = []
    for one in processes:
        with suppress(OSError):  # it has ended already
            files.append(os.pidfd_open(one.process.pid))
            poll.register(files[-1], select.POLLIN)
    try:
        yield lambda seconds: bool(poll.poll(1000 * seconds)) or len(files) < len(processes)
    finally:
        for file in files:
            os.close(file)


def answers(address: str) -> bool:
    """Whether a program that lives listens at host:port. The system accepts connections for one that is stopped, too;
    so it is greeted in the language of Ray's services, and whatever it does then, be it to hang up, is a sign of
    life."""
    host, _, port = address.rpartition(":")
    try:
        with closing(socket.create_connection((host, int(port)), timeout=HEAD_PAUSE)) as connection:
            connection.sendall(GREETING)
            connection.recv(1)
    except ConnectionResetError:
        return True
    except OSError:
        return False
    return True
