"""One function on several ranks through Ray Train: a `torch.distributed` group of Ray's workers, begun again from the
last checkpoint when one of them dies.

Ray Train starts the workers, connects them and replaces them. What it is not used for: checkpoints, which the function
keeps in a folder that all ranks share, and reports, which would make the ranks wait for each other and for a
controller; ranks send messages to an actor instead, which this program empties.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, NoReturn, Protocol

# Ray Train reads these when it is asked to train. By default it looks at the workers every two seconds, so that it
# learns of a death or of the end that much later. Ranks keep the folder they were started in. Nobody reads the records,
# or heeds notices that a machine will be taken away: when it is, that is a death like any other.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING", "0")

import ray
import ray.train
import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from parallel_nst.errors import ClusterUnavailable, OutOfMemory, PnstError, WorkerLost
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.freed_memory import keep_memory
from parallel_nst.workers.ranks.group import check_group, place_in_group
from parallel_nst.workers.ranks.place import CPU, Place
from parallel_nst.workers.ranks.stations import station_here
from parallel_nst.workers.ray.cluster import RayCluster, end_program, first_line, last_line
from parallel_nst.workers.ray.interface import choose_interface
from parallel_nst.workers.ray.messages import Began, Line, Mailbox, Message, News, RankFailed, RankFinished, Teller
from parallel_nst.workers.worker import lacks_memory, out_of_memory

MAX_DEATHS = 3  # of workers, after which a training is given up
START_SECONDS = 120.0  # within which the ranks must have begun
LOOK_SECONDS = 0.1  # between two looks into the mailbox
GROUP_SECONDS = 300  # after which a rank that hears nothing of the others takes them for dead
STORAGE = ".ray-train"  # in the folder of a run, while it runs


class Work(Protocol):
    """What every rank does. Its result is rank 0's, and can be pickled like the work itself."""

    def __call__(self, place: Place, on_status: Callable[[Any], None], notify: Callable[[str], None]) -> Any: ...


def run_on_ranks(
    work: Work,
    cluster: RayCluster,
    crew: Crew,
    folder: Path,
    on_status: Callable[[Any], None],
    notify: Callable[[str], None],
) -> Any:
    """Do the work on all ranks; returns rank 0's result.

    The work is begun again, on all ranks, when a worker dies, and must go on from what it has left behind itself.
    folder: where Ray Train may keep a file while it runs; on a cluster one that all its machines share. on_status,
    notify: take what the ranks tell, in another thread. The cluster is the caller's to close, also after an error or
    Ctrl-C, which then ends whatever still runs. To be called in the main thread; in another one, an error of the work
    ends it only after all its tries.

    Raises what the work raised, unless that was a RuntimeError of no kind of ours, which the death of a peer looks
    like: such a rank is tried again. WorkerLost when workers have died more than MAX_DEATHS times; ClusterUnavailable
    when they could not start.
    """
    cluster.wait()
    cluster.at_death = partial(end_training, notify)
    storage = folder.resolve() / STORAGE
    shutil.rmtree(storage, ignore_errors=True)  # of a run that was killed; Ray Train would go on from it
    mailbox = ray.remote(Mailbox).options(num_cpus=0).remote()
    trainer = trainer_of(ray.put(work), mailbox, crew, storage)
    listener = Listener(mailbox, trainer, on_status, notify)
    fault: Exception | None = None
    try:
        trainer.fit()
    except Exception as error:  # of many kinds; it is nothing but a word beside what the ranks have told
        fault = error
    finally:
        listener.close()
        shutil.rmtree(storage, ignore_errors=True)
    if listener.error is not None:
        raise listener.error
    if listener.finished is None:
        raise WorkerLost(f"training ended: {reason_of(fault)}; --resume goes on from the last checkpoint")
    return listener.finished.result


def end_training(notify: Callable[[str], None], fault: str) -> NoReturn:
    """Say that Ray has died, and end the program, as Ray itself would do a while later: it waits inside of Ray Train,
    which knows no end of Ray."""
    notify(f"{fault}; --resume goes on from the last checkpoint")
    end_program(1)


class Listener:
    """Passes on what the ranks tell, in a thread of its own, and ends the run when there is no use in going on.

    finished: the end that rank 0 has told. error: why the run was ended.
    """

    def __init__(
        self, mailbox: Any, trainer: Trainer, on_status: Callable[[Any], None], notify: Callable[[str], None]
    ) -> None:
        self.finished: RankFinished | None = None
        self.error: Exception | None = None
        self._mailbox, self._trainer, self._on_status, self._notify = mailbox, trainer, on_status, notify
        self._began, self._begun = time.monotonic(), 0
        self._stop = Event()
        self._thread = Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read what is left, and end."""
        self._stop.set()
        self._thread.join()

    def _listen(self) -> None:
        stopping = False
        while not stopping and self.error is None:
            stopping = self._stop.wait(LOOK_SECONDS)  # before looking, so that nothing is left at the end
            try:
                for message in ray.get(self._mailbox.take.remote()):
                    self._hear(message)
                self._check_start()
            except Exception as error:
                self.error = error
                self._trainer.end()

    def _hear(self, message: Message) -> None:
        match message:
            case News(status):
                self._on_status(status)
            case Line(text):
                self._notify(text)
            case Began():
                self._begun += 1
                if self._begun > 1:
                    self._notify("a worker was lost; all go on from the last checkpoint")
            case RankFinished():
                self.finished = message
            case RankFailed(error):
                raise error

    def _check_start(self) -> None:
        """ClusterUnavailable when the ranks should have begun."""
        if not self._begun and time.monotonic() - self._began > START_SECONDS:
            raise ClusterUnavailable(
                f"no workers could start within {START_SECONDS:.0f} s; free are {ray.available_resources()}; "
                "wait for other jobs or give fewer workers"
            )


def reason_of(error: Exception | None) -> str:
    """Why Ray Train ended, in one line: what a worker died of, before what became of the others."""
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    cause: Any = min(failures, key=lambda failure: isinstance(failure, RuntimeError), default=error)
    for wrapped in ("controller_failure", "failure"):
        cause = getattr(cause, wrapped, cause)
    if cause is None:
        return "no result came back"
    return first_line(cause) if isinstance(cause, RayError) else f"{type(cause).__name__}: {last_line(cause)}"


def trainer_of(work: Any, mailbox: Any, crew: Crew, storage: Path) -> Trainer:
    """Ray Train's trainer for work that lies in the object store."""
    gpu = crew.device == "cuda"
    return Trainer(
        run_rank,
        train_loop_config={"work": work, "mailbox": mailbox, "crew": crew},
        torch_config=GroupConfig(backend="nccl" if gpu else "gloo", timeout_s=GROUP_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=crew.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": 0, "GPU": 1} if gpu else {"CPU": crew.threads},
        ),
        run_config=RunConfig(
            name="run", storage_path=str(storage), failure_config=FailureConfig(max_failures=MAX_DEATHS)
        ),
    )


def run_rank(config: dict[str, Any]) -> None:
    """What a worker runs, in the group that Ray Train has connected."""
    crew: Crew = config["crew"]
    torch.set_num_threads(crew.threads)  # whatever OMP_NUM_THREADS is: `ray up` makes it 1 for all
    keep_memory()
    place = place_in_group(get_device() if crew.device == "cuda" else CPU)
    teller = Teller(partial(send, config["mailbox"]))
    if place.rank == 0:
        teller.tell(Began())
    try:
        check_group(station_here(ray.util.get_node_ip_address(), place.device))
        work: Work = ray.get(config["work"])
        result = work(place, teller.status, teller.line)
    except Exception as error:
        if (final := final_error(error, crew.device)) is not None:
            teller.tell(RankFailed(final))
        raise
    if place.rank == 0:
        teller.tell(RankFinished(result))


def final_error(error: Exception, device: str) -> Exception | None:
    """What to end a training with after a rank's error; None for one that the death of a peer may have caused."""
    if lacks_memory(error):
        return OutOfMemory(f"{out_of_memory(device)}; give a smaller --batch or --size, or more workers")
    return error if isinstance(error, PnstError) or not isinstance(error, RuntimeError) else None


def send(mailbox: Any, message: Any) -> None:
    """Put a message there; progress may get lost with a worker that dies, nothing else does."""
    reference = mailbox.put.remote(message)
    if not isinstance(message, News):
        ray.get(reference)


class Trainer(TorchTrainer):
    """Ray Train's, which can be ended and leaves Ctrl-C alone.

    It goes without `PlacementGroupCleaner`, an actor that outlives the run to give back its places if the controller is
    killed: they are given back when this program leaves Ray, and the cleaner, which asks the dashboard whether the
    controller lives, stays for ever where there is no dashboard.
    """

    _controller: Any = None

    def end(self) -> None:
        """Kill the controller, with whom the workers die; `fit` then raises. Nothing before there is one."""
        if self._controller is not None:
            ray.kill(self._controller)

    def _register_sigint_handler(self, controller: Any) -> None:
        """Called in the main thread with the controller. Ray Train's own would let the program run on after Ctrl-C."""
        self._controller = controller

    def _create_default_callbacks(self) -> list[Any]:
        found: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # known only to version 2
        return [callback for callback in found if type(callback).__name__ != "PlacementGroupCleanerCallback"]


class Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # a class that Ray gives no name to
    """Ray Train's, for machines with several networks, and without its slow farewell."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Connect the workers."""
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Nothing: the workers end next, and one that waits for a peer cannot be asked to leave the group; Ray Train
        would ask it for up to half a minute."""


@dataclass
class GroupConfig(TorchConfig):
    """`TorchConfig` with that backend."""

    @property
    def backend_cls(self) -> type[Backend]:
        return Backend
