"""A pool of threads: workers of this process, one a core or a GPU.

PyTorch lets go of Python's lock while it computes, so that tiles run side by side. Threads start at once and nothing is
copied on its way to them, but they live and die together: there is no worker to be replaced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Event
from typing import Any

from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import Events, Here, OnProgress, Pinned, Pool, RankWork, Shared, rank_here, run_here
from parallel_nst.workers.ranks.communicator import Alone
from parallel_nst.workers.ranks.threads import ThreadCommunicator, ThreadGroup
from parallel_nst.workers.worker import Progress, Task, Worker, WorkerSpec

GROUP_SECONDS = 1800.0  # after which a rank takes another one that says nothing for lost
Queue = deque[tuple[int, Task]]  # tasks with their index


@dataclass(frozen=True)
class Done:
    """The end of a task: its result, or what went wrong."""

    result: Any = None
    error: BaseException | None = None


class Stopped(BaseException):
    """Nobody waits for this task any more."""


class ThreadPool(Pool):
    """As `Pool`, in threads."""

    def __init__(self, spec: WorkerSpec, crew: Crew, cores: int) -> None:
        """spec: of one worker; with the device `cuda` each takes a GPU of its own, or several share one as the crew
        says. cores: threads of a single task, which is done sooner by all of them."""
        workers = crew.workers
        self.spec = spec
        self.crew = crew
        self.waited = 0.0
        self.moved = 0
        self.mortal = False
        self._cores = cores
        self._here = Worker(replace(spec, threads=cores))
        self._executors = [ThreadPoolExecutor(1, f"pnst-{number}") for number in range(workers)]
        gpus = [f"cuda:{number // crew.per_gpu}" for number in range(workers)]
        specs = [replace(spec, device=gpu) if spec.device == "cuda" else spec for gpu in gpus]
        # Made in its own thread, because the number of threads that PyTorch uses is a thread's own.
        futures = [executor.submit(Worker, own) for executor, own in zip(self._executors, specs, strict=True)]
        self._workers = [future.result() for future in futures]
        self._stop = Event()

    @property
    def threads_alone(self) -> float:
        return self._cores / self.crew.threads if self.crew.device == "cpu" else 1.0

    def map(
        self, tasks: Sequence[Task], on_progress: OnProgress | None = None, *, keep_going: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """As `Pool.map`; an error in a task is raised as it is."""
        shared = deque(enumerate(tasks))
        return self._run([shared] * self.size, len(tasks), len(tasks) == 1, on_progress)

    def map_pinned(self, tasks: Sequence[Pinned], on_progress: OnProgress | None = None) -> Iterator[tuple[int, Any]]:
        """As `Pool.map_pinned`. Tasks that all have the same pin take all cores, each in its turn."""
        queues: list[Queue] = [deque() for _ in range(self.size)]
        for index, pinned in enumerate(tasks):
            queues[pinned.pin % self.size].append((index, pinned.task))
        return self._run(queues, len(tasks), len({pinned.pin for pinned in tasks}) == 1, on_progress)

    def _run(
        self, queues: Sequence[Queue], count: int, alone: bool, on_progress: OnProgress | None
    ) -> Iterator[tuple[int, Any]]:
        """Results of `count` tasks, of which each worker takes those of its queue."""
        if alone:
            self._here.set_threads(self._cores)
            for index, task in next(queue for queue in queues if queue):
                yield index, run_here(self._here, index, task, on_progress)
            return
        messages: SimpleQueue[tuple[int, Progress | Done]] = SimpleQueue()
        stop = self._stop = Event()
        for executor, worker, queue in zip(self._executors, self._workers, queues, strict=True):
            executor.submit(work, worker, queue, messages, stop)
        try:
            while count:
                index, message = messages.get()
                if isinstance(message, Progress):
                    if on_progress:
                        on_progress(index, message)
                    continue
                if message.error is not None:
                    raise message.error
                count -= 1
                yield index, message.result
        finally:
            stop.set()

    def muster(self, ranks: int) -> int:
        return min(ranks, self.size)

    def together(self, works: Sequence[RankWork]) -> Events:
        """As `Pool.together`; a single work takes all cores."""
        if len(works) == 1:
            events = rank_here(self._here, works[0], Alone(), self.share)
            del works
            return [(yield from events)]
        messages: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        stop = self._stop = Event()
        group = ThreadGroup(len(works), GROUP_SECONDS)
        for ranks, work in zip(group.communicators, works, strict=True):
            worker = self._workers[ranks.rank]
            self._executors[ranks.rank].submit(work_as_rank, worker, work, ranks, messages, stop)
        results: dict[int, Any] = {}
        try:
            while len(results) < len(works):
                rank, message = messages.get()
                if not isinstance(message, Done):
                    yield rank, message
                elif message.error is not None:
                    raise message.error
                else:
                    results[rank] = message.result
        finally:
            stop.set()
            group.abort()
        return [results[rank] for rank in range(len(works))]

    def share(self, value: Any) -> Shared:
        return Here(value)

    def close(self) -> None:
        """End the threads, each after the step it is at."""
        self._stop.set()
        for executor in self._executors:
            executor.shutdown(wait=True, cancel_futures=True)


def work_as_rank(
    worker: Worker, work: RankWork, ranks: ThreadCommunicator, messages: SimpleQueue[tuple[int, Any]], stop: Event
) -> None:
    """In a worker's thread: do a rank's work, telling of all that it tells and of its end."""
    events = rank_here(worker, work, ranks, Here)
    try:
        while not stop.is_set():
            messages.put(next(events))
    except StopIteration as end:
        messages.put((ranks.rank, Done(end.value)))
    except BaseException as error:
        messages.put((ranks.rank, Done(error=error)))


def work(worker: Worker, queue: Queue, messages: SimpleQueue[tuple[int, Progress | Done]], stop: Event) -> None:
    """In a worker's thread: run tasks of the queue, telling of their progress and their end, until there are none."""
    while not stop.is_set():
        try:
            index, task = queue.popleft()
        except IndexError:
            return

        def tell(index: int, progress: Progress) -> None:
            if stop.is_set():
                raise Stopped
            messages.put((index, progress))

        try:
            messages.put((index, Done(run_here(worker, index, task, tell))))
        except Stopped:
            return
        except BaseException as error:
            messages.put((index, Done(error=error)))
            return
