"""What becomes of the tasks of a worker that was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallel_nst.errors import OutOfMemory, WorkerLost
from parallel_nst.workers.pool import Failed
from parallel_nst.workers.ray.actors import Job
from parallel_nst.workers.worker import SMALLER

MAX_TRIES = 3  # of one task, over workers that died; of starting a worker in one place


@dataclass(frozen=True)
class Lost:
    """A worker died, and why; these were with it, each with the number of its next try."""

    jobs: list[Job]
    reason: WorkerLost | OutOfMemory


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """As they were given, each once."""
    return sorted({job.index: job for job in jobs}.values(), key=lambda job: job.index)


def whats_next(job: Job, keep_going: bool) -> str:
    """What becomes of the job that a lost worker was at."""
    if job.tries <= MAX_TRIES:
        return f"its task is done again on a new one (try {job.tries} of {MAX_TRIES})"
    return f"its task is given up after {MAX_TRIES} tries" + (", the others go on" if keep_going else "")


def given_up(job: Job, reason: WorkerLost | OutOfMemory, keep_going: bool) -> Failed:
    """The result of a job that was tried often enough; an error of the reason's kind unless the others are to go on."""
    if not keep_going:
        raise type(reason)(f"tile {job.index + 1} lost its worker {MAX_TRIES} times: {reason}; {SMALLER}")
    return Failed(str(reason))
