"""How Ray says that a worker is lost, and what is said of it."""

from __future__ import annotations

from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)

from parallel_nst.errors import OutOfMemory, WorkerLost
from parallel_nst.workers.ray.cluster import first_line
from parallel_nst.workers.worker import out_of_memory

LOST = (RayActorError, ActorUnavailableError, OutOfMemoryError, NodeDiedError, ObjectLostError)


class WorkerTraceback(Exception):
    """Where in a worker an error was raised: the cause of that error, so that it is shown once, with it."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def cause_of(error: RayTaskError) -> Exception:
    """The error that a worker's code has raised."""
    return error.cause if isinstance(error.cause, Exception) else error


def reason_of(error: Exception, device: str) -> WorkerLost | OutOfMemory:
    """What a worker died of, in one line."""
    if isinstance(error, OutOfMemoryError):
        return OutOfMemory(f"a worker was stopped by Ray: {out_of_memory(device)}")
    return WorkerLost(f"a worker was lost ({first_line(error).rstrip('.')})")
