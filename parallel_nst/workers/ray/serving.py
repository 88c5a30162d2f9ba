"""An application of Ray Serve: a front that answers HTTP, and workers behind it, as many as the load asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application as Application  # for those who may not know Ray
from ray.serve._private.common import ReplicaState
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.types import ASGIApp

from parallel_nst.errors import Busy, PnstError, WorkerLost, message_of

FRONT, WORKERS = "front", "generators"  # names of the deployments, as Ray's dashboard and logs show them
AT_ONCE = 16  # that a worker is given at a time, so that it finds some that go together
IN_VIEW = 4  # that each worker has on average when there are enough of them
MOST_REQUESTS = 128  # that a front reads, paints or answers at a time
RETRY = 2  # seconds until a full cluster is worth another try


class TakesItems(Protocol):
    """Does things in the order in which it is asked, or several together."""

    def submit(self, item: Any) -> Future[Any]: ...


@dataclass(frozen=True)
class Scaling:
    """least, most: workers; their number follows the load. cores, gpus: of each. fronts: processes that answer HTTP.
    waiting: that may wait for a worker, at each front."""

    least: int
    most: int
    cores: float
    gpus: float
    fronts: int
    waiting: int


class Replica:
    """A worker in a process of its own, made there."""

    def __init__(self, make: Callable[[], TakesItems]) -> None:
        self._worker = make()

    async def __call__(self, item: Any) -> Any:
        """Given up when the caller goes."""
        return await asyncio.wrap_future(self._worker.submit(item))


class Workers:
    """All workers, from the side of a front."""

    def __init__(self, most: int) -> None:
        """most: that may wait."""
        self._app = serve.get_replica_context().app_name
        self._handle = serve.get_deployment_handle(WORKERS, app_name=self._app)
        self._most = most
        self.waiting = 0

    async def ask(self, item: Any) -> Any:
        """Its result, from any worker. Busy where too many wait; WorkerLost where one died with it; what the worker
        raises for a reason of its own."""
        if self.waiting >= self._most:
            raise Busy(f"{self._most} wait already; ask again in some seconds", RETRY)
        self.waiting += 1
        try:
            return await self._handle.remote(item)
        except RayTaskError as error:
            raise reason_of(error) from None
        except BackPressureError:
            raise Busy("all workers have enough to do; ask again in some seconds", RETRY) from None
        except (RayError, RayServeException) as error:
            raise WorkerLost(f"a worker was lost ({type(error).__name__}); ask again") from None
        finally:
            self.waiting -= 1

    def there(self) -> bool:
        """Whether any worker is up."""
        known = serve.status().applications[self._app].deployments
        return WORKERS in known and known[WORKERS].replica_states.get(ReplicaState.RUNNING, 0) > 0


def reason_of(error: RayTaskError) -> Exception:
    """What a worker has raised, without Ray's account of where."""
    cause = error.cause
    if isinstance(cause, PnstError):
        return cause
    return WorkerLost(f"a worker failed ({type(cause).__name__}: {message_of(cause)}); ask again")


def application(
    make_front: Callable[[Workers], ASGIApp], make_worker: Callable[[], TakesItems], scaling: Scaling
) -> Application:
    """Both are made in the processes where they work; what makes them travels there."""

    def front() -> ASGIApp:
        return make_front(Workers(scaling.waiting))

    behind = serve.deployment(
        name=WORKERS,
        ray_actor_options={"num_cpus": scaling.cores, "num_gpus": scaling.gpus},
        max_ongoing_requests=AT_ONCE,
        autoscaling_config={
            "min_replicas": scaling.least,
            "max_replicas": scaling.most,
            "target_ongoing_requests": IN_VIEW,
        },
    )(Replica)
    before = serve.deployment(
        name=FRONT,
        num_replicas=scaling.fronts,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=MOST_REQUESTS,
    )(serve.ingress(front)())
    return before.bind(behind.bind(make_worker))
