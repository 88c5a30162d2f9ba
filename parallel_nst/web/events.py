"""Server-sent events: each tells the latest of the jobs that have changed, however many changes there were between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import HTTPException
from starlette.concurrency import run_in_threadpool

from parallel_nst.web.service import Service
from parallel_nst.web.store import ENDED
from parallel_nst.web.views import JobsView, JobView, job_view, job_views

PAUSE = 0.2  # seconds between two events, at least
SILENCE = 15.0  # seconds after which a comment shows whether the caller is still there
MOST_LISTENERS = 100
HISTORY = 500  # jobs of a list, besides those in the queue


async def follow(service: Service, job: str | None) -> AsyncIterator[str]:
    """The events of one job until it has ended, or of all jobs: first as they are, then what has changed."""
    with service.board.listening() as changed:
        version, _ = service.board.since(0)
        first = await run_in_threadpool(views, service, None if job is None else [job])
        yield event(first, [])
        while not service.board.closed and not (job and over(first)):
            changed.clear()
            version, ids = service.board.since(version)
            ids = [one for one in ids if job in (None, one)]
            if ids:
                first = await run_in_threadpool(views, service, ids)
                yield event(first, sorted(set(ids) - {view.id for view in first}))
                await asyncio.sleep(PAUSE)
                continue
            try:
                await asyncio.wait_for(changed.wait(), SILENCE)
            except asyncio.TimeoutError:
                yield ": still here\n\n"


def views(service: Service, ids: list[str] | None) -> list[JobView]:
    """Of jobs that are still there; None: of all."""
    store, board = service.store, service.board
    if ids is None:
        return job_views(store.all(HISTORY), store, board)
    places, made = store.waiting(), []
    for one in ids:
        try:
            made.append(job_view(store[one], places.get(one), store, board))
        except KeyError:
            continue
    return made


def over(shown: list[JobView]) -> bool:
    """Whether the one job that was shown has ended, or is no more."""
    return not shown or shown[0].state in ENDED


def event(shown: list[JobView], removed: list[str]) -> str:
    """Jobs that have changed and ids of those that are no more."""
    gone = f"event: removed\ndata: {','.join(removed)}\n\n" if removed else ""
    return f"data: {JobsView(jobs=shown).model_dump_json()}\n\n{gone}"


def check_listeners(service: Service) -> None:
    """HTTPException where too many follow already."""
    if service.board.listeners >= MOST_LISTENERS:
        raise HTTPException(429, "too many follow events already; ask for the jobs instead", {"retry-after": "15"})
