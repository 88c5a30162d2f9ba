"""How Ray says that a worker is lost, and what is said of it."""

from __future__ import annotations

from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
)

from parallel_nst.errors import OutOfMemory, WorkerLost
from parallel_nst.workers.ray.cluster import first_line
from parallel_nst.workers.worker import out_of_memory

LOST = (RayActorError, ActorUnavailableError, OutOfMemoryError, NodeDiedError, ObjectLostError)


def reason_of(error: Exception, device: str) -> WorkerLost | OutOfMemory:
    """What a worker died of, in one line."""
    if isinstance(error, OutOfMemoryError):
        return OutOfMemory(f"a worker was stopped by Ray: {out_of_memory(device)}")
    return WorkerLost(f"a worker was lost ({first_line(error).rstrip('.')})")
