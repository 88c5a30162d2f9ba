"""Jobs, looked at and followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response, StreamingResponse

from parallel_nst.web.archives import zipped
from parallel_nst.web.events import HISTORY, check_listeners, follow
from parallel_nst.web.routes.service import ERRORS, PICTURES, JobsHere
from parallel_nst.web.service import Service
from parallel_nst.web.store import QueuedJob
from parallel_nst.web.views import JobsView, JobView, job_view, job_views

Role = Literal["result", "content", "style", "preview"]
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
ARCHIVE: dict[int | str, dict[str, Any]] = {200: {"content": {"application/zip": {}}}}
FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}

router = APIRouter(prefix="/v1", tags=["jobs"], responses=ERRORS)


@router.get("/jobs")
def listed(service: JobsHere) -> JobsView:
    """All jobs."""
    return JobsView(jobs=job_views(service.store.all(HISTORY), service.store, service.board))


@router.get("/jobs/{job}")
def shown(job: str, service: JobsHere) -> JobView:
    """One job."""
    return view_of(service, job)


@router.get("/events", response_class=StreamingResponse, responses=EVENTS)
async def all_events(service: JobsHere) -> StreamingResponse:
    """All jobs as they change, as server-sent events."""
    return stream(service, None)


@router.get("/jobs/{job}/events", response_class=StreamingResponse, responses=EVENTS)
async def events(job: str, service: JobsHere) -> StreamingResponse:
    """A job as it changes, as server-sent events, until it has ended."""
    found(service, job)
    return stream(service, job)


@router.get("/jobs/{job}/image", response_class=FileResponse, responses=PICTURES)
def image(job: str, service: JobsHere, role: Role = "result", download: bool = False) -> Response:
    """A picture of a job: its result, in full; what it was given; or the latest preview."""
    own = found(service, job)
    path = getattr(service.store.files(own.id), role)
    if not path.exists():
        raise HTTPException(404, f"this job has no {role} yet")
    if role == "preview":  # read whole, for another may take its place at any moment
        return Response(path.read_bytes(), media_type="image/jpeg", headers={"cache-control": "no-store"})
    name = download_name(own) if download else None
    return FileResponse(path, media_type="image/png", filename=name, headers=FOR_EVER)


@router.get("/results.zip", response_class=StreamingResponse, responses=ARCHIVE)
def results(service: JobsHere) -> StreamingResponse:
    """All results in one file, in full."""
    done = [job for job in service.store.all() if job.state == "done"]
    files = [(download_name(job), service.store.files(job.id).result) for job in done]
    headers = {"content-disposition": 'attachment; filename="parallel_nst.zip"', "cache-control": "no-store"}
    return StreamingResponse(zipped(files), media_type="application/zip", headers=headers)


def download_name(job: QueuedJob) -> str:
    """Of its result, as a file of the caller's."""
    return f"{Path(job.name).stem}-{job.id[:6]}.png"


def found(service: Service, job: str) -> QueuedJob:
    """HTTPException for an id that there is not."""
    try:
        return service.store[job]
    except KeyError:
        raise HTTPException(404, "there is no such job") from None


def view_of(service: Service, job: str) -> JobView:
    """A job as it is now."""
    return job_view(found(service, job), service.store.waiting().get(job), service.store, service.board)


def stream(service: Service, job: str | None) -> StreamingResponse:
    """Server-sent events of a job, or of all."""
    check_listeners(service)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(follow(service, job), media_type="text/event-stream", headers=headers)
