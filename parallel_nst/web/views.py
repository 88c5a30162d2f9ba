"""What the API answers with."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from parallel_nst.recipe import Recipe
from parallel_nst.web.board import Board, Live
from parallel_nst.web.catalogue import Catalogue
from parallel_nst.web.store import JobStore, Kind, QueuedJob, State


class ErrorView(BaseModel):
    """What is wrong, in one line, and what to do."""

    error: str


class ModelView(BaseModel):
    """A generator."""

    name: str
    about: str
    takes_style: bool = Field(description="whether it wants a style picture")


class ModelsView(BaseModel):
    """What there is to paint with."""

    models: list[ModelView]
    paintings: list[str] = Field(description="style pictures that are here, by name")
    steps: int = Field(description="of a painting, unless others are asked for")
    max_size: int = Field(description="longest side in px that is made")
    max_bytes: int = Field(description="of a request")


class JobView(BaseModel):
    """A job."""

    id: str
    kind: Kind
    state: State
    name: str = Field(description="of the content picture, as its sender called it")
    place: int | None = Field(description="in the queue, from 1; null for a job that does not wait")
    settings: dict[str, Any]
    created: float = Field(description="seconds since 1970")
    started: float | None
    ended: float | None
    message: str
    width: int | None = Field(description="of the result, px")
    height: int | None
    preview: bool = Field(description="whether there is a preview")
    progress: Live | None


class JobsView(BaseModel):
    """Those that run, those that wait in their order, then the others, newest first."""

    jobs: list[JobView]


class MoveRequest(BaseModel):
    """Where a waiting job is to stand."""

    place: int = Field(ge=1, le=1_000_000, description="from 1")


class SessionRequest(BaseModel):
    """The server's token."""

    token: str = Field(max_length=1000)


class SettingsView(BaseModel):
    """What a picture was made with, in the form in which a job is asked for."""

    settings: dict[str, Any]


def models_view(catalogue: Catalogue, paintings: tuple[str, ...], max_size: int, max_bytes: int) -> ModelsView:
    models = [ModelView(name=m.name, about=m.about, takes_style=m.takes_style) for m in catalogue.models.values()]
    return ModelsView(
        models=models, paintings=list(paintings), steps=Recipe().steps, max_size=max_size, max_bytes=max_bytes
    )


def job_views(jobs: list[QueuedJob], store: JobStore, board: Board) -> list[JobView]:
    """Jobs as they are now."""
    places = store.waiting()
    return [job_view(job, places.get(job.id), store, board) for job in jobs]


def job_view(job: QueuedJob, place: int | None, store: JobStore, board: Board) -> JobView:
    names = "id kind state name created started ended message width height".split()
    return JobView(
        **{name: getattr(job, name) for name in names},
        settings=dict(job.settings),
        place=place,
        preview=store.files(job.id).preview.exists(),
        progress=board.live(job.id) if job.state == "running" else None,
    )
