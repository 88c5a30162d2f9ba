"""The worker as a Ray actor, and a place in the pool that one actor after another may fill."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from parallel_nst.workers.pool import Handed, RankWork
from parallel_nst.workers.ranks.meeting import reached_store
from parallel_nst.workers.ranks.processes import ProcessCommunicator
from parallel_nst.workers.ranks.stations import Station, station_here
from parallel_nst.workers.ray.interface import choose_interface
from parallel_nst.workers.ray.lifeline import CONNECTION
from parallel_nst.workers.worker import Progress, Task, Worker, WorkerSpec

SIGNS = "signs"  # the concurrency group that answers while a task runs
GROUP_SECONDS = 1800.0  # after which a rank takes another one that says nothing for lost; a hung one is found sooner
PROGRESS_SECONDS = 0.2  # least time between two messages of a worker
LOOK_SECONDS = 0.5  # between two looks for a sign of life
SIGN_SECONDS = 3.0  # between two signs of life that an actor is asked for
HUNG_SECONDS = 30.0  # without a sign of life, after which an actor counts as dead
REPLACE_SECONDS = 30.0  # after which the tasks of a place wait no longer for an actor to come up in it


@dataclass(frozen=True)
class TaskFinished:
    """The last message of a task."""

    result: Any


@dataclass(frozen=True)
class Announced:
    """What the next message is, or the last one was."""

    label: Any


class RayWorker:
    """`Worker` as an actor."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._worker = Worker(spec)
        self._station = station_here(ray.util.get_node_ip_address(), self._worker.device)
        self._store: TCPStore | None = None
        self._work: RankWork | None = None

    def ready(self) -> Station:
        """Where it is and what it runs, once the constructor has run."""
        return self._station

    @ray.method(concurrency_group=SIGNS)
    def sign_of_life(self) -> None:
        """Answers even while something runs."""

    def open_store(self) -> tuple[str, int]:
        """A place where the ranks of a new group can meet: host and port."""
        choose_interface()
        self._store = TCPStore(ray.util.get_node_ip_address(), 0, is_master=True, wait_for_workers=False)
        return self._store.host, self._store.port

    def receive(self, work: RankWork) -> None:
        """Take in what `work_as_rank` is to do. By a task of its own, as Ray keeps the arguments of one in its object
        store until it ends."""
        self._work = work

    def work_as_rank(
        self, received: None, rank: int, size: int, meeting: tuple[str, int]
    ) -> Generator[Any, None, None]:
        """Do a rank's work and stream what it tells, then its result. What it hands out is a message of its own between
        two that announce it, so that it can be kept without being read. received: what `receive` has returned, so that
        its failure is told here."""
        work, self._work = self._work, None
        assert work is not None
        choose_interface()
        self._worker.set_threads(self._worker.spec.threads)
        store = reached_store(meeting, self._station)
        ranks = ProcessCommunicator(store, rank, size, self._station, self._worker.device, GROUP_SECONDS)
        try:
            with self._worker.memory_errors():
                events = work.run(self._worker, ranks)
                del work
                result = yield from messages_of(events, first=rank == 0)
            yield TaskFinished(result)
        finally:
            ranks.close()

    def run(self, task: Task) -> Generator[Progress | TaskFinished, None, None]:
        """Stream the task's progress, not too often, then its result."""
        self._worker.set_threads(self._worker.spec.threads)  # of the thread that this runs in
        events = self._worker.run(task)
        sent = 0.0
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                yield TaskFinished(end.value)
                return
            if event.step == event.steps or time.monotonic() - sent > PROGRESS_SECONDS:
                sent = time.monotonic()
                yield event


def messages_of(events: Generator[Any, None, Any], *, first: bool) -> Generator[Any, None, Any]:
    """What a rank tells as messages; its result. first: whether it is the first rank, whose progress is that of all."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        if isinstance(event, Handed):
            yield Announced(event.label)
            yield event.value
            yield Announced(event.label)
        elif first or not isinstance(event, Progress):
            yield event


@dataclass(frozen=True)
class Job:
    """A task of one call: its place in the results, its pin (None: any worker does), and which try this is."""

    index: int
    task: Task
    pin: int | None = None
    tries: int = 1


@dataclass(eq=False)
class Pulse:
    """Asks an actor now and then for a sign of life. asked: when it was asked last; sign: its answer, None once it has
    come."""

    asked: float = field(default_factory=time.monotonic)
    sign: Any = None
    looked: float = 0.0  # when it was last looked for

    def stopped(self, actor: Any) -> bool:
        """Whether it has had time enough to answer and has not."""
        now = time.monotonic()
        if now - self.looked < LOOK_SECONDS:
            return False
        self.looked = now
        if self.sign is not None and ray.wait([self.sign], timeout=0)[0]:
            self.sign = None  # perhaps an error, which its messages will tell, too
        if self.sign is None and now - self.asked > SIGN_SECONDS:
            self.sign, self.asked = actor.sign_of_life.remote(), now
        return self.sign is not None and now - self.asked > HUNG_SECONDS


def hung() -> str:
    """What is said of an actor that has stopped."""
    return f"a worker gave no sign of life for {HUNG_SECONDS:.0f} s"


@dataclass(eq=False)
class Slot:
    """A place for one worker.

    actor: who fills it, None at first and when it was dismissed. starting: reference that is ready once the actor is
    up; None: it is. station: of an actor that is up. since: when it was called. pulse: of it. failures: constructors
    that failed, one after the other. jobs: what the actor was given and has not finished, by stream of messages, in the
    order in which it runs them.
    """

    actor: Any = None
    starting: Any = None
    station: Station | None = None
    pulse: Pulse = field(default_factory=Pulse)
    since: float = 0.0
    failures: int = 0
    jobs: dict[Any, Job] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        """Whether the actor takes tasks."""
        return self.actor is not None and self.starting is None

    @property
    def given_up(self) -> bool:
        """Whether tasks should go elsewhere: no actor is there, nor will one be soon."""
        return not self.up and (self.actor is None or time.monotonic() - self.since > REPLACE_SECONDS)

    def fill(self, actor: Any) -> None:
        """Call an actor, which comes up some time later."""
        self.actor = actor
        self.starting = actor.ready.remote()
        self.since = time.monotonic()
        self.pulse = Pulse()

    def send(self, job: Job) -> None:
        """Give the actor one more job."""
        self.jobs[self.actor.run.remote(job.task)] = job

    def dismiss(self) -> list[Job]:
        """Kill the actor, if there is one; what it has not finished, the job that it was at first."""
        if self.actor is not None and CONNECTION.fault is None:
            ray.kill(self.actor)
        unfinished = list(self.jobs.values())
        self.jobs.clear()
        self.actor = self.starting = None
        return unfinished


def hand_out(slots: Sequence[Slot], jobs: Sequence[Job], depth: int, homes: int) -> tuple[list[Job], list[Job]]:
    """Send jobs, in their order, to the actors that may have them and have fewer than `depth`; those that were sent,
    and those left. homes: how many slots, the first, have the pinned ones."""
    sent: list[Job] = []
    left: list[Job] = []
    for number, job in enumerate(jobs):
        room = [slot for slot in slots if slot.up and len(slot.jobs) < depth]
        if not room:
            return sent, [*left, *jobs[number:]]
        slot = room[0] if job.pin is None else home(slots[:homes], job.pin)
        if slot in room:
            slot.send(job)
        (sent if slot in room else left).append(job)
    return sent, left


def home(slots: Sequence[Slot], pin: int) -> Slot:
    """The slot of a pin; of one that is given up, pins are spread over those that are up."""
    slot = slots[pin % len(slots)]
    up = [other for other in slots if other.up] if slot.given_up else []
    return up[pin // len(slots) % len(up)] if up else slot


def in_one_place(jobs: Sequence[Job]) -> bool:
    """Whether they are for one worker: a single job, or all of one pin."""
    pins = {job.pin for job in jobs}
    return len(jobs) == 1 or (len(pins) == 1 and None not in pins)
