"""Jobs, made, moved and cancelled."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException
from starlette.concurrency import run_in_threadpool

from parallel_nst.errors import Busy
from parallel_nst.web.forms import JobForm, added
from parallel_nst.web.routes.jobs_reading import found, view_of
from parallel_nst.web.routes.service import ERRORS, JobsHere
from parallel_nst.web.views import JobView, MoveRequest, job_view

RETRY = 15  # seconds until a full queue is worth another try

router = APIRouter(prefix="/v1", tags=["jobs"], responses=ERRORS)


@router.post("/jobs", status_code=202)
async def add(form: Annotated[JobForm, Depends()], service: JobsHere) -> JobView:
    """Put a job into the queue."""
    if service.store.count("queued") >= service.settings.queue:
        raise Busy(f"{service.settings.queue} jobs wait already; try again later", RETRY)
    job = await run_in_threadpool(added, service, form)
    service.runner.look()
    service.board.touch(job.id)
    return view_of(service, job.id)


@router.patch("/jobs/{job}")
def move(job: str, asked: MoveRequest, service: JobsHere) -> JobView:
    """Move a waiting job to another place of the queue."""
    found(service, job)
    if not service.store.move(job, asked.place):
        raise HTTPException(409, "this job does not wait")
    for waiting in service.store.waiting():
        service.board.touch(waiting)
    return view_of(service, job)


@router.delete("/jobs/{job}")
def cancel(job: str, service: JobsHere) -> JobView:
    """Cancel a job that waits or runs, and free the workers; remove one that has ended, with its pictures."""
    before = found(service, job)
    if service.runner.cancel(job):
        return view_of(service, job)
    removed = job_view(before, None, service.store, service.board)
    service.store.remove(job)
    service.board.touch(job)
    return removed
