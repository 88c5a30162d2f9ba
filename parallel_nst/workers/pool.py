"""Pools: what hands tasks to workers; here the pool of one, in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, TypeVar

from parallel_nst.workers.crew import Crew
from parallel_nst.workers.ranks.communicator import Alone, Communicator
from parallel_nst.workers.worker import FreeMemory, Progress, Task, Worker, WorkerSpec

P = TypeVar("P", bound="Pool")
OnProgress = Callable[[int, Progress], None]  # (index of the task, what it did)


class Shared(Protocol):
    """A value that several tasks carry and that reaches a machine once, when a task there asks for it."""

    def get(self) -> Any: ...


@dataclass(frozen=True)
class Made:
    """What is shared in place of a value that is made whenever it is sent or asked for, so that nobody here holds it
    until then."""

    make: Callable[[], Any]


def made(value: Any) -> Any:
    """What a shared value is, or what comes of making it."""
    return value.make() if isinstance(value, Made) else value


@dataclass(frozen=True)
class Here:
    """A shared value that never leaves this process."""

    value: Any

    def get(self) -> Any:
        return made(self.value)


@dataclass(frozen=True)
class Pinned:
    """A task that wants the worker which has met all earlier tasks of the same pin, for what they have left there."""

    pin: int
    task: Task


@dataclass(frozen=True)
class Handed:
    """What a rank hands out on its way, for whoever needs it later, here or in another process.

    label: what it is. value: in the work's hands the thing itself, in those of the pool's caller a `Shared` of it.
    lasting: the rank will not change it any more.
    """

    label: Any
    value: Any
    lasting: bool = False


class RankWork(Protocol):
    """What one rank does, together with others: a record that can be pickled, as a task is."""

    def run(self, worker: Worker, ranks: Communicator) -> Generator[Any, None, Any]:
        """Yields what there is to be told, `Handed` among it, and returns the result."""
        ...


Events = Generator[tuple[int, Any], None, list[Any]]  # (rank, what it told), one after the other; then the results


class RanksLost(Exception):
    """A rank has died or hung, so that all had to stop; what they have handed out remains. The workers are replaced."""


class HandedLost(RanksLost):
    """What ranks had handed out is lost too, with the machine that held it."""


@dataclass(frozen=True)
class Failed:
    """The result of a task that took its worker with it as often as it was tried, and how the last one ended."""

    reason: str


class Works(Sequence[RankWork]):
    """Works of so many ranks, each made when it is asked for: where they go to other processes, one after the other is
    in memory here."""

    def __init__(self, ranks: int, make: Callable[[int], RankWork]) -> None:
        self._ranks, self._make = range(ranks), make

    def __len__(self) -> int:
        return len(self._ranks)

    def __getitem__(self, rank: Any) -> Any:
        return self._make(self._ranks[rank])


class Pool(Protocol):
    """Workers that take tasks; a context manager that closes itself.

    spec: what each is made of. crew: who they are. waited: seconds in which no task could run because no worker was up
    yet. moved: bytes of arrays that went to and came from other processes so far. mortal: whether workers may die while
    this program lives.
    """

    spec: WorkerSpec
    crew: Crew
    waited: float
    moved: int
    mortal: bool

    @property
    def size(self) -> int:
        """How many workers there are, or will be."""
        return self.crew.workers

    @property
    def threads_alone(self) -> float:
        """Threads of who does a single work or task, in those of a worker."""
        return 1.0

    def __enter__(self: P) -> P:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def map(
        self, tasks: Sequence[Task], on_progress: OnProgress | None = None, *, keep_going: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """Run every task on any worker; (index, result) as they finish, in whatever order that is.

        keep_going: a task whose workers die again and again has a `Failed` as its result; else it is an error.
        """
        ...

    def map_pinned(self, tasks: Sequence[Pinned], on_progress: OnProgress | None = None) -> Iterator[tuple[int, Any]]:
        """As `map`, but each task on the worker of its pin (pin modulo the size), in the order given for each worker.

        A worker that died is replaced, and what its tasks had left there is lost: a task must say so in its result, or
        be able to do without.
        """
        ...

    def muster(self, ranks: int) -> int:
        """How many workers, up to this many, can work together now; waits for those that are about to be there."""
        ...

    def together(self, works: Sequence[RankWork]) -> Events:
        """Do all works at once, each as a rank on a worker of its own; yields what they tell, returns their results.

        RanksLost when a worker is lost on the way; an error inside a work is raised as it is.
        """
        ...

    def share(self, value: Any) -> Shared:
        """A handle to `value`, or to what is `Made`, for tasks to carry in its stead."""
        ...

    def close(self) -> None:
        """Let the workers go. Nothing is left running."""
        ...


class SerialPool(Pool):
    """One worker, in this process: the same tasks, one after the other."""

    def __init__(self, spec: WorkerSpec, worker: Worker | None = None, reason: str | None = None) -> None:
        """worker: one that is there, so that what it has built serves here too. reason: why there is but one."""
        self.spec = spec
        self.crew = Crew(1, spec.threads if spec.device == "cpu" else 1, reason, device=spec.device)
        self.waited = 0.0
        self.moved = 0
        self.mortal = False
        self._worker = worker or Worker(spec)

    def map(
        self, tasks: Sequence[Task], on_progress: OnProgress | None = None, *, keep_going: bool = False
    ) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            yield index, run_here(self._worker, index, task, on_progress)

    def map_pinned(self, tasks: Sequence[Pinned], on_progress: OnProgress | None = None) -> Iterator[tuple[int, Any]]:
        return self.map([pinned.task for pinned in tasks], on_progress)

    def muster(self, ranks: int) -> int:
        return 1

    def together(self, works: Sequence[RankWork]) -> Events:
        events = rank_here(self._worker, works[0], Alone(), self.share)
        del works
        return [(yield from events)]

    def share(self, value: Any) -> Shared:
        return Here(value)

    def close(self) -> None:
        pass


def rank_here(
    worker: Worker, work: RankWork, ranks: Communicator, share: Callable[[Any], Shared]
) -> Generator[tuple[int, Any], None, Any]:
    """Do a rank's work in this process: what it tells, with its rank, and its result. share: makes handles of what it
    hands out."""
    worker.set_threads(worker.spec.threads)
    with worker.memory_errors():
        events = work.run(worker, ranks)
        del work  # what it begins with may be as large as all else
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value
            if isinstance(event, Handed):
                event = replace(event, value=share(event.value if event.lasting else deepcopy(event.value)))
            yield ranks.rank, event


def run_here(worker: Worker, index: int, task: Task, on_progress: OnProgress | None) -> Any:
    """Run a task to its end, passing its progress on."""
    events = worker.run(task)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        if on_progress:
            on_progress(index, event)


def only(results: Iterator[tuple[int, Any]]) -> Any:
    """The result of a map over a single task."""
    ((_, result),) = results
    return result


def worker_memory(pool: Pool) -> int | None:
    """Bytes that each worker of a pool may take: its share of what the fullest of their GPUs has left, or what a
    cluster gives; None where they compute in this machine's memory."""
    if pool.crew.device != "cuda":
        return pool.crew.memory
    asked = [Pinned(number, FreeMemory()) for number in range(pool.size)]
    return min(int(free) for _, free in pool.map_pinned(asked)) // pool.crew.per_gpu
