"""A connection to Ray: starting one on this machine or joining one that is there, and leaving nothing behind."""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, NoReturn

import psutil  # type: ignore[import-untyped]
import ray
from ray.exceptions import RayError

from parallel_nst.errors import BadInput, ClusterUnavailable
from parallel_nst.workers import freed_memory
from parallel_nst.workers.ray.lifeline import CONNECTION, NAMES, Watched, connected, named, watch
from parallel_nst.workers.ray.session_folders import SessionFolder, kill_users, remove_left_behind

START_TRIES = 2  # Ray gives up when its node is not up within 30 s, as on a machine that is busy
OBJECT_STORE = 512 << 20  # bytes; a run has a few tiles in flight, not a third of the memory
LEAST_OBJECT_STORE = 80 << 20  # bytes; Ray refuses less than 75 MiB
AT_ONCE = 1.0  # seconds that a run waits to hear of machines
ALIVE = 0  # of Ray's states of a machine
TOKEN = secrets.token_hex(32)  # of local Rays; one for the process, because Ray reads it only once
ENDS_WITH_PROGRAM = sys.platform.startswith("linux")  # what Ray starts gets a SIGKILL by the system
AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


class RayCluster:
    """A connection to Ray: one of our own, started in the background and stopped with us, or one that is there.

    address: None starts a local Ray; `auto` or `host:port` joins. Nothing is ever joined without an address. Ray puts
    a local cluster behind a token; ours is in the environment, so that no file is left in the home folder (where it
    would change how a later `ray start` behaves).
    """

    def __init__(self, address: str | None, cores: int, store: int = OBJECT_STORE) -> None:
        """cores, store: of a local Ray, how many workers' threads it holds and bytes of its object store, where tasks,
        results and shared values lie; what does not fit is moved to the disk. A Ray that is there has its own."""
        self.local = address is None
        if address is not None:
            check_address(address)
        self._up: Future[None] = Future()
        self._leave = Event()
        self._processes: list[Watched] = []
        self.at_death: Callable[[str], None] | None = None  # is told what has died, where nobody calls `in_use`
        self._folder: SessionFolder | None = None
        self._size = cores, store
        self._ending = False
        self._begin = partial(self._start, cores, store) if address is None else partial(connect, address)
        self._environment: dict[str, str | None] = {}
        # Not a pool's thread, for which Python would wait at its end.
        self._thread = Thread(target=self._live, daemon=True)
        CLUSTERS.append(self)
        self._thread.start()

    def _live(self) -> None:
        """From beginning to end."""
        for other in CLUSTERS[: CLUSTERS.index(self)]:
            if other._leave.is_set():  # it was closed before it was up
                other._join()
        self._environment = {key: os.environ.get(key) for key in (*AUTH, *freed_memory.ENVIRONMENT)}
        self._try(START_TRIES)

    def _start(self, cores: int, store: int) -> None:
        """A Ray on this machine, in a folder of its own."""
        remove_left_behind()
        self._folder = SessionFolder()
        try:
            start_local(cores, store, self._folder.path)
        except BaseException:
            self._folder.remove()
            raise

    def _try(self, tries: int) -> None:
        """Begin, and if that works live on, all in one thread: Ray's processes die with the thread that started them.
        So a start that failed leaves nothing to the next, which is made in another thread."""
        try:
            with own_handlers(), own_sessions():
                self._begin()
        except Exception as error:
            if self.local and tries > 1 and not self._leave.is_set():
                self._thread = Thread(target=self._try, args=(tries - 1,), daemon=True)
                self._thread.start()
                return
            self._up.set_exception(error)
        else:
            connected()
            self._up.set_result(None)
            self._watch()
        self._leave.wait()
        self._end()

    def _watch(self) -> None:
        """Until the program leaves Ray or Ray dies. Then leave it, before it ends the program: one of our own is killed
        at once, for a part that lives would tell this program what to do."""
        self._processes = own_processes() if self.local else processes_beside()
        fault = watch(self._processes, self._leave.is_set, None if self.local else head_address())
        if fault is None or self._ending:
            return
        self.kill()
        CONNECTION.fault = fault
        if self.at_death is not None:
            self.at_death(fault)
        with CONNECTION.lock:
            ray.shutdown()
        if self._folder is not None:
            kill_users(self._folder.path)

    def kill(self) -> None:
        """Kill what a Ray of our own cannot live without; the rest follows."""
        for one in self._processes if self.local else ():
            with suppress(psutil.Error):
                one.process.kill()

    def end_with_program(self) -> None:
        """This program is about to end, and `end_program` will leave nothing of a Ray of our own: do not wait for it to
        end in good order. It lives until then, for this program would die with it and not say why."""
        self._ending = self.local

    def abandon(self) -> None:
        """Another program's Ray is dead: do not wait until it is left, during which it may end this program."""
        self._ending = True

    @property
    def dead(self) -> bool:
        """Whether it has died and not been left in good order."""
        return self._ending

    def again(self) -> RayCluster:
        """Another Ray of our own, in place of this one, which has died."""
        self.close()
        return RayCluster(None, *self._size)

    def _end(self) -> None:
        ray.shutdown()
        self.remove_folder()
        for key, value in self._environment.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        CLUSTERS.remove(self)

    def _join(self) -> None:
        """Wait until all has ended; a start that failed may have passed on to another thread."""
        while self._thread.is_alive():
            self._thread.join()

    def remove_folder(self) -> None:
        """Remove what a Ray of our own has left in its folder, once it has ended."""
        if self._folder is not None:
            self._folder.remove()

    @property
    def starting(self) -> bool:
        """Whether Ray is neither up nor known to have failed."""
        return not self._up.done()

    def wait(self) -> None:
        """Until Ray is up; ClusterUnavailable when it could not start or be joined."""
        self._up.result()

    def machines(self) -> list[Mapping[str, float]]:
        """What each living node has of CPU, GPU and memory (bytes)."""
        self.wait()
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def machines_at_once(self) -> list[Mapping[str, float]]:
        """As `machines`, while a run is under way: none where the head does not say so at once."""
        worker: Any = ray._private.worker.global_worker
        try:
            nodes = worker.gcs_client.get_all_node_info(timeout=AT_ONCE)
        except RayError:
            return []
        return [dict(node.resources_total) for node in nodes.values() if node.state == ALIVE]

    def close(self) -> None:
        """Leave the cluster; a local Ray ends. One that is still starting does so as soon as it is up, in the
        background; a program that ends before calls `end_program`."""
        if self._ending:
            return
        self._leave.set()
        if not self.starting:
            self._join()


@contextmanager
def own_handlers() -> Iterator[None]:
    """Give this program back what it does at SIGTERM: Ray would have it print the stack of its C++ code."""
    before = ctypes.pythonapi.PyOS_getsig(signal.SIGTERM)
    try:
        yield
    finally:
        ctypes.pythonapi.PyOS_setsig(signal.SIGTERM, ctypes.c_void_p(before))


@contextmanager
def own_sessions() -> Iterator[None]:
    """Start Ray's processes in sessions of their own, where the system ends them with this program. A terminal that
    closes and a request to end go to all of a session or a group; Ray, which is left out of it for Ctrl-C only, would
    be gone before this program has heard of it, and end it (`_Exit(1)` once its socket closes). Ray has no setting."""
    services: Any = ray._private.services
    if not ENDS_WITH_PROGRAM:  # else Ray ends them by their group
        yield
        return
    with replaced(services, "ConsolePopen", lambda before: partial(before, start_new_session=True)):
        yield


@contextmanager
def without_idlers() -> Iterator[None]:
    """Start a Ray of our own without what would have nothing to do: the autoscaler, who follows the logs for a driver
    that does not want them, and the server of the dashboard. They are three Python programs, which take as much
    processor time as all the rest while the first tiles are painted. Ray has settings for none of them."""
    node: Any = ray._private.node.Node
    with ExitStack() as stack:
        for start in ("start_monitor", "start_log_monitor", "start_api_server"):
            stack.enter_context(replaced(node, start, lambda before: lambda *given, **options: None))
        yield


@contextmanager
def replaced(owner: Any, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """With another thing in place of a part of Ray, where Ray has it. change: makes it of the one before."""
    before = getattr(owner, name, None)
    if before is None:
        yield
        return
    setattr(owner, name, change(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


CLUSTERS: list[RayCluster] = []  # of this process, until they are left


def end_program(code: int) -> NoReturn:
    """End this process and all that it started, at once: a Ray that is still starting can be ended in no other way
    without waiting for it. Its raylet, with which it would end this process and by another code, goes last and writes
    no more until then; where the system can it ends it with this process."""
    for file in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            file.flush()
    processes = psutil.Process().children(recursive=True)
    raylets = [one.process for one in named(processes) if one.name == NAMES["raylet"]]
    for process in raylets:
        with suppress(psutil.Error):
            process.suspend()
    for process in reversed(processes):  # children before their parents
        with suppress(psutil.Error):
            if process not in raylets:
                process.kill()
    for cluster in CLUSTERS:
        cluster.remove_folder()
    for process in raylets if not ENDS_WITH_PROGRAM else ():
        with suppress(psutil.Error):
            process.kill()
    os._exit(code)


def start_local(cores: int, store: int, folder: Path) -> None:
    """A Ray on this machine that ends with this program; ClusterUnavailable, in one line, when it cannot start. folder:
    for its sockets and logs."""
    os.environ.setdefault("RAY_AUTH_TOKEN", TOKEN)
    for name, value in freed_memory.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    silence_notices()
    try:
        with without_idlers():
            ray.init(
                address="local",
                _temp_dir=str(folder),
                num_cpus=cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=max(store, LEAST_OBJECT_STORE),
                namespace="pnst",
            )
    except Exception as error:  # of many kinds: Ray lets those of its parts through
        raise ClusterUnavailable(f"Ray could not start here: {first_line(error)}; --workers 1 needs no Ray") from None


def silence_notices() -> None:
    """Keep Ray's notices of deaths and lost machines, paragraphs of advice, off the program's standard output: the pool
    says in a line of its own what became of a worker. Ray has no setting for it."""
    if hasattr(ray._private.worker, "listen_error_messages"):
        ray._private.worker.listen_error_messages = lambda worker, threads_stopped: None


ctypes.pythonapi.PyOS_getsig.restype = ctypes.c_void_p  # a function's address
ctypes.pythonapi.PyOS_setsig.restype = ctypes.c_void_p


def own_processes() -> list[Watched]:
    """Those that a Ray of our own cannot live without."""
    return named(psutil.Process().children(recursive=True))


def processes_beside() -> list[Watched]:
    """Those of another program's Ray on this machine, through which this one is connected to the cluster."""
    node: Any = ray._private.worker.global_worker.node
    place = node.raylet_socket_name
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "raylet" and any(place in part for part in process.cmdline()):
                return named([process, *process.children()])
    return []


def head_address() -> str:
    """Where the head of the cluster listens."""
    return str(ray.get_runtime_context().gcs_address)


def check_address(address: str) -> None:
    """BadInput for what is no address; ClusterUnavailable when nothing listens there, before Ray spends half a minute
    on finding out."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        raise BadInput(f"address is {address!r}; give auto or host:port of a Ray head, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ClusterUnavailable(
            f"no Ray answers at {address} ({error}); start one with 'ray start --head' or leave --address out"
        ) from None


def connect(address: str) -> None:
    """Join a cluster; ClusterUnavailable, in one line, when that fails."""
    silence_notices()
    try:
        ray.init(address=address, namespace="pnst", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ClusterUnavailable(
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
