"""A pool of Ray actors: the same `Worker` in other processes, on this machine or on a cluster.

The pool owns retries and replacements itself (`max_restarts=0`), so that the reason of a death is known and a task is
never run more often than it says. Tasks depend on nothing but themselves, which makes running one again safe.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread
from typing import Any, NoReturn

from parallel_nst.gatys import Progress
from parallel_nst.workers import OnProgress, Task, Worker, WorkerSpec, run_here

# Ray reads its settings when it is imported. Workers would otherwise run at niceness 15, and the notices of deaths that
# this pool handles itself would appear on standard output.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_enable_output_error_log_if_still_retry", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import (
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

MAX_TRIES = 3  # of one task, over workers that died
START_SECONDS = 120.0  # within which the first worker must be there
WAIT_SECONDS = 0.2  # of one call of Ray, in which Ctrl-C is not heard
PROGRESS_SECONDS = 0.2  # least time between two messages of a worker
OBJECT_STORE = 512 << 20  # bytes; a run has a few tiles in flight, not a third of the memory
TOKEN = secrets.token_hex(32)  # of local Rays; one for the process, because Ray reads it only once
LOST = (RayActorError, ActorUnavailableError, OutOfMemoryError)


@dataclass(frozen=True)
class Finished:
    """The last message of a task."""

    result: Any


class RayWorker:
    """`Worker` as an actor."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._worker = Worker(spec)

    def ready(self) -> int:
        """Process id, once the constructor has run."""
        return os.getpid()

    def run(self, task: Task) -> Generator[Progress | Finished, None, None]:
        """Stream the task's progress, not too often, then its result."""
        events = self._worker.run(task)
        sent = 0.0
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                yield Finished(end.value)
                return
            if event.step == event.steps or time.monotonic() - sent > PROGRESS_SECONDS:
                sent = time.monotonic()
                yield event


@dataclass(frozen=True)
class Lost:
    """The worker of a task died, at the task's `tries`-th try."""

    tries: int


@dataclass(frozen=True)
class Attempt:
    """A task in the hands of an actor."""

    index: int
    tries: int
    actor: Any


class RayCluster:
    """A connection to Ray: one of our own, started in the background and stopped with us, or one that is there.

    address: None starts a local Ray; `auto` or `host:port` joins. Nothing is ever joined without an address. Ray puts
    a local cluster behind a token; ours is in the environment, so that no file is left in the home folder (where it
    would change how a later `ray start` behaves).
    """

    def __init__(self, address: str | None, cores: int) -> None:
        self.local = address is None
        if address is not None:
            check_address(address)
        self._up: Future[None] = Future()
        self._leave = Event()
        begin = partial(start_local, cores) if address is None else partial(connect, address)
        # Not a pool's thread, for which Python would wait at its end.
        self._thread = Thread(target=self._live, args=(begin,), daemon=True)
        CLUSTERS.append(self)
        self._thread.start()

    def _live(self, begin: Callable[[], None]) -> None:
        """From beginning to end in one thread: Ray's processes die with the thread that started them."""
        for other in CLUSTERS[: CLUSTERS.index(self)]:
            if other._leave.is_set():  # it was closed before it was up
                other._thread.join()
        environment = {key: os.environ.get(key) for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        try:
            begin()
        except BaseException as error:
            self._up.set_exception(error)
        else:
            self._up.set_result(None)
        self._leave.wait()
        ray.shutdown()
        for key, value in environment.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        CLUSTERS.remove(self)

    @property
    def starting(self) -> bool:
        """Whether Ray is neither up nor known to have failed."""
        return not self._up.done()

    def wait(self) -> None:
        """Until Ray is up; ValueError when it could not start or be joined."""
        self._up.result()

    def slots(self, resource: str) -> list[int]:
        """Whole units of CPU or GPU on each living node."""
        self.wait()
        return [int(n["Resources"].get(resource, 0)) for n in ray.nodes() if n["Alive"]]

    def close(self) -> None:
        """Leave the cluster; a local Ray ends. One that is still starting does so as soon as it is up, in the
        background; a program that ends before calls `end_program`."""
        self._leave.set()
        if not self.starting:
            self._thread.join()


CLUSTERS: list[RayCluster] = []  # of this process, until they are left


def end_program(code: int) -> NoReturn:
    """End this process and all that it started, at once: a Ray that is still starting can be ended in no other way
    without waiting for it."""
    import psutil  # type: ignore[import-untyped]  # Ray brings it along: there once Ray has been imported

    for file in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            file.flush()
    for process in reversed(psutil.Process().children(recursive=True)):  # children before their parents
        with suppress(psutil.Error):
            process.kill()
    os._exit(code)


def start_local(cores: int) -> None:
    """A Ray on this machine that ends with this program; ValueError, in one line, when it cannot start."""
    os.environ.setdefault("RAY_AUTH_TOKEN", TOKEN)
    try:
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE,
            namespace="pnst",
        )
    except Exception as error:  # of many kinds: Ray lets those of its parts through
        raise ValueError(f"Ray could not start here: {first_line(error)}; --workers 1 needs no Ray") from None


class RayPool:
    """Actors of one cluster. Only actors that are up are given tasks; one that dies is replaced and its task goes to
    another.

    waited: seconds in which no task could run because no worker was up yet.
    """

    def __init__(self, cluster: RayCluster, spec: WorkerSpec, workers: int, here: WorkerSpec | None = None) -> None:
        """workers: how many actors. here: of a worker in this process that takes single tasks, None to send them to
        an actor too. On one machine a single task is done sooner by all cores here than by one actor's."""
        self.waited = 0.0
        self._cluster = cluster
        self.spec = spec
        self._workers = workers
        self._here = Worker(here) if here else None
        self._cores = here.threads if here else 0
        self._make: Callable[[], Any] | None = None
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}  # reference to `ready` -> actor
        self._running: dict[Any, Attempt] = {}  # stream of messages -> attempt
        self._failures = 0

    def map(self, tasks: Sequence[Task], on_progress: OnProgress | None = None) -> Iterator[tuple[int, Any]]:
        """As `Pool.map`. RuntimeError for a task whose worker died MAX_TRIES times, or when no worker can start; an
        error inside a task is raised as it is."""
        if len(tasks) == 1 and self._here:
            self._here.set_threads(self._threads_here())
            yield 0, run_here(self._here, 0, tasks[0], on_progress)
            return
        self._hire()
        waiting = deque((index, 1) for index in range(len(tasks)))
        try:
            while waiting or self._running:
                while waiting and self._idle:
                    index, tries = waiting.popleft()
                    actor = self._idle.pop()
                    self._running[actor.run.remote(tasks[index])] = Attempt(index, tries, actor)
                for reference in self._wait():
                    if reference in self._starting:
                        self._arrived(reference)
                        continue
                    index = self._running[reference].index
                    match self._receive(reference):
                        case Finished(result):
                            yield index, result
                        case Lost(tries):
                            waiting.append((index, tries + 1))
                        case Progress() as progress if on_progress:
                            on_progress(index, progress)
        finally:
            self._dismiss()

    def _threads_here(self) -> int:
        """All cores, or all but one while Ray and the workers are starting: threads wait for each other at every
        layer, and would wait for Ray's processes too. Workers are called as soon as Ray is up, so that they are there
        when the first tiles are."""
        if not self._cluster.starting and self._make is None:
            self._hire()
        up, missing = (
            ray.wait([*self._starting], num_returns=len(self._starting), timeout=0) if self._starting else ([], [])
        )
        for reference in up:
            self._arrived(reference)
        return max(1, self._cores - bool(missing or self._cluster.starting))

    def _hire(self) -> None:
        """Start as many actors as are missing."""
        if self._make is None:
            began = time.monotonic()
            self._cluster.wait()
            self.waited += time.monotonic() - began
            reference = ray.put(self.spec)
            gpus = 1 if self.spec.device == "cuda" else 0
            cpus = 0 if gpus else self.spec.threads
            actor = ray.remote(RayWorker).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
            self._make = lambda: actor.remote(reference)
        for _ in range(self._workers - len(self._idle) - len(self._starting)):
            self._spawn()

    def _dismiss(self) -> None:
        """Kill the actors whose tasks nobody waits for any more: after an error, or when the caller stops reading."""
        for attempt in self._running.values():
            ray.kill(attempt.actor)
        self._running.clear()

    def _spawn(self) -> None:
        assert self._make is not None
        actor = self._make()
        self._actors.append(actor)
        self._starting[actor.ready.remote()] = actor

    def _wait(self) -> list[Any]:
        """References with something to read; RuntimeError when no worker comes up."""
        began = time.monotonic()
        while True:
            ready, _ = ray.wait([*self._running, *self._starting], timeout=WAIT_SECONDS, fetch_local=False)
            if ready or self._running:
                break
            if time.monotonic() - began > START_SECONDS:
                raise RuntimeError(
                    f"no worker could start within {START_SECONDS:.0f} s; free are {ray.available_resources()}, "
                    f"a worker needs {self.spec.threads} CPU or a GPU; wait for other jobs or give fewer workers"
                )
        if not self._running:
            self.waited += time.monotonic() - began
        return list(ready)

    def _arrived(self, reference: Any) -> None:
        """An actor is up, or could not be built."""
        actor = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            self._failures += 1
            if self._failures >= MAX_TRIES:
                raise RuntimeError(f"workers cannot start: {last_line(error)}") from None
            self._spawn()
        else:
            self._idle.append(actor)

    def _receive(self, stream: Any) -> Progress | Finished | Lost | None:
        """The next message of a running task; None at its end. A lost actor is replaced at once."""
        attempt = self._running[stream]
        try:
            return ray.get(next(stream))  # type: ignore[no-any-return]
        except StopIteration:
            del self._running[stream]
            self._idle.append(attempt.actor)
            return None
        except RayTaskError as error:
            del self._running[stream]
            self._idle.append(attempt.actor)
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except LOST as error:
            del self._running[stream]
            ray.kill(attempt.actor)
            if attempt.tries == MAX_TRIES:
                hint = "; give more tiles or fewer workers" if isinstance(error, OutOfMemoryError) else ""
                raise RuntimeError(
                    f"tile {attempt.index + 1} lost its worker {MAX_TRIES} times: {first_line(error)}{hint}"
                ) from None
            self._spawn()
            return Lost(attempt.tries)

    def close(self) -> None:
        """Kill this pool's actors and leave the cluster."""
        if ray.is_initialized() and not self._cluster.local:
            for actor in self._actors:
                ray.kill(actor)
        self._running.clear()  # a generator of `map` that ends later finds nothing to kill
        self._cluster.close()


def check_address(address: str) -> None:
    """ValueError when nothing listens at host:port, before Ray spends half a minute on finding out."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        raise ValueError(f"address is {address!r}; give auto or host:port of a Ray head, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"no Ray answers at {address} ({error}); start one with 'ray start --head' or leave --address out"
        ) from None


def connect(address: str) -> None:
    """Join a cluster; ValueError, in one line, when that fails."""
    try:
        ray.init(address=address, namespace="pnst", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ValueError(
            f"cannot join Ray at {address}: {first_line(error)}; is it a Ray head of version {ray.__version__}, "
            "with the same RAY_AUTH_MODE and token?"
        ) from None


def first_line(error: Exception) -> str:
    """The first line of a message, or the error's kind."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def last_line(error: Exception) -> str:
    """The last line of a message: of a traceback, the error itself."""
    text = str(error).strip()
    return text.splitlines()[-1] if text else type(error).__name__
