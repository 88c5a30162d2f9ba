"""A pool of Ray actors: the same `Worker` in other processes, on this machine or on a cluster.

The pool owns retries and replacements itself (`max_restarts=0`), so that the reason of a death is known and a task is
never run more often than it says. Tasks depend on nothing but themselves and what they can do without, which makes
running one again safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from parallel_nst.errors import ClusterUnavailable, OutOfMemory, WorkerLost
from parallel_nst.workers.crew import Crew, counted
from parallel_nst.workers.freed_memory import LARGE, give_back
from parallel_nst.workers.pool import (
    Events,
    OnProgress,
    Pinned,
    Pool,
    RanksLost,
    RankWork,
    Shared,
    rank_here,
    run_here,
)
from parallel_nst.workers.ranks.communicator import Alone
from parallel_nst.workers.ray.actors import Job, Slot, TaskFinished, hand_out, hung, in_one_place
from parallel_nst.workers.ray.cluster import RayCluster, last_line
from parallel_nst.workers.ray.lifeline import CONNECTION, RayEnded, in_use
from parallel_nst.workers.ray.placement import LOOK_SECONDS, Growth, actor_maker, need_of
from parallel_nst.workers.ray.rank_run import WAIT_SECONDS, RankRun
from parallel_nst.workers.ray.reasons import LOST, WorkerTraceback, cause_of, reason_of
from parallel_nst.workers.ray.retries import MAX_TRIES, Lost, given_up, in_order, whats_next
from parallel_nst.workers.ray.shared_values import RayShared, payload
from parallel_nst.workers.worker import Progress, Task, Worker, WorkerSpec

IN_FLIGHT = 2  # pinned tasks of a worker: the pixels of the next travel while it computes
RESUME = "--resume goes on from the last checkpoint, if one was written"
START_SECONDS = 120.0  # within which the first worker must be there


Heard = tuple[Job, Progress | TaskFinished | Lost]


class RayPool(Pool):
    """Actors of one cluster, each in a slot of its own. Only actors that are up are given tasks; one that dies is
    replaced, and its tasks are run again. Where machines join the cluster there are more slots: for tasks of any worker
    at once, for ranks and pinned tasks when they begin anew.

    waited: seconds in which no task could run because no worker was up yet. moved: bytes of arrays in the tasks sent
    and the results received, shared values once.
    """

    def __init__(
        self,
        cluster: RayCluster,
        spec: WorkerSpec,
        crew: Crew,
        here: WorkerSpec | None = None,
        notify: Callable[[str], None] = lambda line: None,
        most: int = 0,
    ) -> None:
        """here: of a worker in this process that takes single tasks, None to send them to an actor too. On one machine
        a single task is done sooner by all cores here than by one actor's. notify: takes a line for each worker that
        was lost, and for machines that have joined. most: workers, however many machines join; if not more than the
        crew's, it stays as it is."""
        self.spec = spec
        self.crew = crew
        self.waited = 0.0
        self.moved = 0
        self.mortal = True
        self._cluster, self._notify = cluster, notify
        self._here = Worker(here) if here else None
        self._cores = here.threads if here else 0
        self._out = False  # whether actors hold what pinned tasks have left since the last `map`
        self._make: Callable[[], Any] | None = None
        self._deaths = 0  # of Ray itself
        self._slots = [Slot() for _ in range(crew.workers)]
        self._growth = Growth(most)
        self._homes = crew.workers  # slots that pins are spread over

    @property
    def threads_alone(self) -> float:
        return self._cores / self.crew.threads if self._here else 1.0

    def map(
        self, tasks: Sequence[Task], on_progress: OnProgress | None = None, *, keep_going: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """As `Pool.map`. WorkerLost or OutOfMemory for a task whose worker died MAX_TRIES times; WorkerLost or
        ClusterUnavailable when no worker can start; an error inside a task is raised as it is."""
        self._out = False
        return self._run([Job(index, task) for index, task in enumerate(tasks)], 1, on_progress, keep_going)

    def map_pinned(self, tasks: Sequence[Pinned], on_progress: OnProgress | None = None) -> Iterator[tuple[int, Any]]:
        """As `Pool.map_pinned`; errors as in `map`. Tasks that all have the same pin run in this process, if a worker
        is here and the actors have not met pinned tasks since the last `map`. Tasks of a slot whose actor died and was
        not replaced in time go to the others, each pin to the same one, until there is an actor again."""
        if not self._out:
            self._homes = len(self._slots)
        jobs = [Job(index, pinned.task, pinned.pin) for index, pinned in enumerate(tasks)]
        return self._run(jobs, IN_FLIGHT, on_progress)

    def muster(self, ranks: int) -> int:
        """As `Pool.muster`; RuntimeError when no worker comes up."""
        if min(ranks, self.size) == 1 and self._here:
            return 1
        began, before = time.monotonic(), self.waited
        self._ready()
        try:
            self._grow()
        except RayEnded as ended:
            self._revive(ended)
        ranks = min(ranks, self.size)
        while (up := sum(slot.up for slot in self._slots)) < ranks and self._may_grow(up):
            try:
                with in_use():
                    self._wait_for_workers()
            except RayEnded as ended:
                self._revive(ended)
                self._ready()
        self.waited = before + time.monotonic() - began  # once, although Ray's start has been counted
        return min(up, ranks)

    def _may_grow(self, up: int) -> bool:
        """Whether more workers than are up may come up soon; ClusterUnavailable when none is and none has come."""
        late = all(slot.up or slot.given_up for slot in self._slots)
        if up:
            return not late and any(slot.starting for slot in self._slots)
        self._check_start()
        return True

    def _wait_for_workers(self) -> None:
        starting = [slot.starting for slot in self._slots if slot.starting]
        for reference in ray.wait(starting, timeout=WAIT_SECONDS)[0] if starting else ():
            self._arrived(reference)

    def together(self, works: Sequence[RankWork]) -> Events:
        """As `Pool.together`; a single work is done in this process, if a worker is here."""
        if len(works) == 1 and self._here:
            events = rank_here(self._here, works[0], Alone(), self.share)
            while True:
                self._hire_early()
                try:
                    yield next(events)
                except StopIteration as end:
                    return [end.value]
        slots, before = [slot for slot in self._slots if slot.up][: len(works)], self.moved
        try:
            with in_use():
                run = RankRun(slots, works, self.spec.device)
            self.moved += run.moved
            del works
            if self.moved - before >= LARGE:  # copies on their way; nobody here needs their memory while works are done
                give_back()
            with closing(run.events()) as events:
                return (yield from self._growing(events))
        except RayEnded:
            raise  # said when it is started again
        except RanksLost as lost:
            self._notify(f"{lost}; all go on from what they have kept last")
            raise

    def _growing(self, events: Events) -> Events:
        """The same, while workers start on machines that join, so that they are there for the next ranks."""
        while True:
            try:
                yield next(events)
            except StopIteration as end:
                results: list[Any] = end.value
                return results
            self._grow(LOOK_SECONDS)

    def _grow(self, after: float = 0.0) -> None:
        """Call workers on machines that have joined, if the last look was so many seconds ago."""
        if more := self._growth.more(self.crew, self._cluster, after):
            self._slots += [Slot() for _ in range(more)]
            self.crew = replace(self.crew, workers=len(self._slots))
            self._notify(f"the cluster has grown: {counted(more, 'worker')} more, {self.size} now")
            self._hire()

    def share(self, value: Any) -> Shared:
        """As `Pool.share`; the value stays here until the first task that carries it is sent."""
        return RayShared(value, self._count)

    def _count(self, moved: int) -> None:
        self.moved += moved

    def _run(
        self, jobs: list[Job], depth: int, on_progress: OnProgress | None, keep_going: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """Results of all jobs, of which at most `depth` are with each actor at a time."""
        if self._here and not self._out and in_one_place(jobs):
            self._hire_early()
            for job in jobs:
                self._here.set_threads(self._cores)
                yield job.index, run_here(self._here, job.index, job.task, on_progress)
            return
        self._out = any(job.pin is not None for job in jobs)
        self._ready()
        try:
            while jobs or self._streams():
                jobs, heard = self._turn(jobs, depth)
                if heard is None:
                    continue
                job, message = heard
                match message:
                    case TaskFinished(result):
                        yield job.index, result
                    case Progress() if on_progress:
                        on_progress(job.index, message)
                    case Lost(again, reason):
                        self._notify(f"{reason}; {whats_next(again[0], keep_going)}")
                        for done in [job for job in again if job.tries > MAX_TRIES]:
                            yield done.index, given_up(done, reason, keep_going)
                        again = [job for job in again if job.tries <= MAX_TRIES]
                        jobs = in_order([*again, *jobs])
        finally:
            self._dismiss()

    def _turn(self, jobs: list[Job], depth: int) -> tuple[list[Job], Heard | None]:
        """Hand out what there is room for, and listen; the jobs that are left, and what was heard."""
        try:
            self._grow(LOOK_SECONDS)
            with in_use():
                sent, jobs = hand_out(self._slots, jobs, depth, self._homes)
                self.moved += sum(payload(job.task) for job in sent)
                return jobs, self._listen()
        except RayEnded as ended:
            jobs = in_order([*jobs, *self._revive(ended)])
            self._ready()
            return jobs, None

    def _listen(self) -> Heard | None:
        """The next message of any job, if there is one yet. An actor that gives no sign of life is lost."""
        stopped = next((slot for slot in self._slots if slot.jobs and slot.pulse.stopped(slot.actor)), None)
        if stopped is not None:
            return next(iter(stopped.jobs.values())), self._lose(stopped, WorkerLost(hung()))
        stream = self._wait()
        return None if stream is None else self._receive(stream)

    def _ready(self) -> None:
        """As `_hire`, on another Ray where a Ray of our own has died."""
        while True:
            try:
                return self._hire()
            except RayEnded as ended:
                self._revive(ended)

    def _revive(self, ended: RayEnded) -> list[Job]:
        """Start a Ray of our own again; the jobs that were with its workers. ClusterUnavailable when it was another
        program's, or has died too often."""
        self._deaths += 1
        if not self._cluster.local or self._deaths > MAX_TRIES:
            self._cluster.abandon()
            raise ClusterUnavailable(f"{ended}; {RESUME}") from None
        self._notify(f"{ended}; it is started again, and the run goes on")
        jobs = [job for slot in self._slots for job in slot.dismiss()]
        self._make = None
        self._cluster = self._cluster.again()
        return jobs

    def _hire_early(self) -> None:
        """Call the actors, if Ray is up, before there is anything for them to do, so that they are there when there
        is."""
        if not self._cluster.starting and CONNECTION.fault is None:
            self._hire()

    def _hire(self) -> None:
        """Call an actor for every slot without one, and note which are up."""
        if self._make is None:
            began = time.monotonic()
            self._cluster.wait()
            self.waited += time.monotonic() - began
        with in_use():
            self._make = self._make or actor_maker(self.spec, self.crew.per_gpu)
            for slot in self._slots:
                if slot.actor is None and slot.failures < MAX_TRIES:
                    slot.fill(self._make())
            starting = [slot.starting for slot in self._slots if slot.starting]
            if starting:
                for reference in ray.wait(starting, num_returns=len(starting), timeout=0)[0]:
                    self._arrived(reference)

    def _dismiss(self) -> None:
        """Kill the actors whose tasks nobody waits for any more: after an error, or when the caller stops reading."""
        for slot in self._slots:
            if slot.jobs:
                slot.dismiss()

    def _streams(self) -> list[Any]:
        """Of messages, of the job that each actor is at: it runs its jobs one after the other."""
        return [next(iter(slot.jobs)) for slot in self._slots if slot.jobs]

    def _wait(self) -> Any | None:
        """A stream with something to read, None when there is none yet; ClusterUnavailable when no worker comes up."""
        began = time.monotonic()
        streams = self._streams()
        starting = [slot.starting for slot in self._slots if slot.starting]
        ready, _ = ray.wait([*streams, *starting], timeout=WAIT_SECONDS, fetch_local=False)
        if not streams:
            self.waited += time.monotonic() - began
        if ready and ready[0] in starting:
            self._arrived(ready[0])
        elif ready:
            return ready[0]
        elif not any(slot.up for slot in self._slots):
            self._check_start()
        return None

    def _check_start(self) -> None:
        """ClusterUnavailable when the last actor that was called should have been up."""
        if time.monotonic() - max(slot.since for slot in self._slots) > START_SECONDS:
            raise ClusterUnavailable(
                f"no worker could start within {START_SECONDS:.0f} s; free are {ray.available_resources()}, "
                f"a worker needs {need_of(self.spec, self.crew)}; wait for other jobs or give fewer workers"
            )

    def _arrived(self, reference: Any) -> None:
        """An actor is up, or could not be built: WorkerLost when there is none and that has happened often."""
        slot = next(slot for slot in self._slots if slot.starting == reference)
        slot.starting = None
        try:
            slot.station = ray.get(reference)
        except RayError as error:
            slot.dismiss()
            slot.failures += 1
            self._check_failures(last_line(error))
            if slot.failures < MAX_TRIES and self._make:
                slot.fill(self._make())
        else:
            slot.failures = 0

    def _check_failures(self, reason: str) -> None:
        if any(slot.up for slot in self._slots) or sum(slot.failures for slot in self._slots) < MAX_TRIES:
            return
        for slot in self._slots:
            slot.failures = 0  # another call may try again
        raise WorkerLost(f"workers cannot start: {reason}; is this package's same version there, and memory enough?")

    def _receive(self, stream: Any) -> Heard:
        """The next message of a job. A lost actor is replaced at once."""
        slot = next(slot for slot in self._slots if stream in slot.jobs)
        job = slot.jobs[stream]
        try:
            message: Progress | TaskFinished = ray.get(next(stream))
        except RayTaskError as error:
            del slot.jobs[stream]
            raise cause_of(error) from WorkerTraceback(str(error))
        except LOST as error:
            return job, self._lose(slot, reason_of(error, self.spec.device))
        if isinstance(message, TaskFinished):
            del slot.jobs[stream]
            self.moved += payload(message.result)
        return job, message

    def _lose(self, slot: Slot, reason: WorkerLost | OutOfMemory) -> Lost:
        """Replace the actor. The job that it was at, its oldest, has had one more try."""
        first, *others = slot.dismiss()
        assert self._make is not None
        slot.fill(self._make())
        return Lost([replace(first, tries=first.tries + 1), *others], reason)

    def close(self) -> None:
        """Kill this pool's actors and leave the cluster."""
        for slot in self._slots:
            if ray.is_initialized() and not self._cluster.local:
                slot.dismiss()
            slot.jobs.clear()  # a generator of `map` that ends later finds nothing to kill
        self._cluster.close()
