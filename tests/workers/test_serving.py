"""What a front under Ray Serve hears of its workers: their results, and their faults in one line each."""

import asyncio
import warnings
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from parallel_nst.errors import BadInput, Busy, WorkerLost

pytest.importorskip("watchfiles", reason="the extra `serve` is not installed")


@pytest.fixture(scope="module")
def serving():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of pydantic
        from parallel_nst.workers.ray import serving

    return serving


class Handle:
    """Of workers that answer with what they are asked, or fail."""

    def __init__(self, fails=None):
        self.fails = fails

    async def remote(self, item):
        await asyncio.sleep(0)
        if self.fails:
            raise self.fails
        return item


@pytest.fixture
def workers(serving, monkeypatch):
    def made(fails=None, most=3):
        monkeypatch.setattr(serving.serve, "get_replica_context", lambda: SimpleNamespace(app_name="app"))
        monkeypatch.setattr(serving.serve, "get_deployment_handle", lambda name, app_name: Handle(fails))
        return serving.Workers(most)

    return made


def task_error(cause):
    return RayTaskError("paint", "Traceback (most recent call last): ...", cause).as_instanceof_cause()


def test_a_result_comes_as_it_is(workers):
    assert asyncio.run(workers().ask("picture")) == "picture"


def test_more_than_may_wait_are_put_off_and_none_is_counted_for_ever(workers):
    made = workers(most=3)

    async def ask():
        return await asyncio.gather(*(made.ask(number) for number in range(5)), return_exceptions=True)

    told = asyncio.run(ask())
    assert told[:3] == [0, 1, 2] and all(isinstance(one, Busy) and one.seconds > 0 for one in told[3:])
    assert made.waiting == 0


@pytest.mark.parametrize(
    ("fails", "kind", "told"),
    [
        (task_error(BadInput("no such model")), BadInput, "^no such model$"),
        (task_error(ZeroDivisionError("by zero")), WorkerLost, "ZeroDivisionError: by zero"),
        (ActorDiedError(), WorkerLost, "ask again"),
    ],
)
def test_a_fault_is_one_line(workers, fails, kind, told):
    made = workers(fails)
    with pytest.raises(kind, match=told) as error:
        asyncio.run(made.ask("picture"))
    assert "\n" not in str(error.value) and made.waiting == 0


def test_workers_without_room_are_worth_another_try(serving, workers):
    full = serving.BackPressureError(num_queued_requests=9, max_queued_requests=9)
    with pytest.raises(Busy):
        asyncio.run(workers(full).ask("picture"))
