"""The HTTP API and the page, as one ASGI application over a `Service`."""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as HTTPError
from starlette.types import ASGIApp

from parallel_nst.errors import BadInput, PnstError, message_of
from parallel_nst.files.bundled import STYLES
from parallel_nst.files.images import Picture, write_image
from parallel_nst.web.events import HISTORY, check_listeners, follow
from parallel_nst.web.guards import COOKIE, Guards, same_text, session_of
from parallel_nst.web.instant import Busy, InstantRequest
from parallel_nst.web.metrics import Measured
from parallel_nst.web.requests import ModelRequest, PaintingRequest, check_size, model_text, stored_settings
from parallel_nst.web.service import Service
from parallel_nst.web.store import Job, shown_name
from parallel_nst.web.uploads import Intake, Upload, intake, painting
from parallel_nst.web.views import (
    ErrorView,
    JobsView,
    JobView,
    ModelsView,
    MoveRequest,
    SessionRequest,
    SettingsView,
    job_view,
    job_views,
    models_view,
)

PAGE = Path(__file__).parent / "page"
RETRY = 15  # seconds until a full queue is worth another try
GONE_EVERY = 0.5  # seconds between two looks whether a caller is still there
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
STYLE_SIDE = 512  # px of a style picture for a generator

Format = Literal["png", "jpeg", "webp"]
Role = Literal["result", "content", "style", "preview"]
Size = Annotated[int, Form(ge=0, le=100_000, description="longer side in px; 0: the content's own")]
StrengthForm = Form(ge=0, le=1, allow_inf_nan=False, description="of the style, 0 to 1")
Name = Annotated[str | None, Form(max_length=200)]
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorView} for status in (400, 401, 403, 404, 408, 409, 413, 422, 429)
}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def create_app(service: Service) -> ASGIApp:
    """The application, with all that every request meets first around it."""
    app = FastAPI(
        title="parallel_nst",
        version=version_of("parallel-nst"),
        description="Neural style transfer: generators at once, Gatys' optimisation as jobs.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(pages_router(service))
    app.include_router(health_router(service))
    app.include_router(jobs_router(service), prefix="/v1", responses=ERRORS)
    app.include_router(pictures_router(service), prefix="/v1", responses=ERRORS)
    add_errors(app)
    return Guards(Measured(app, service.metrics), service.settings)


def add_errors(app: FastAPI) -> None:
    """Everything that goes wrong is one line under `error`."""

    def answer(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": message}, status, headers)

    def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPError)
        return answer(error.status_code, str(error.detail), dict(error.headers or {}))

    def busy(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Busy)
        return answer(429, str(error), {"retry-after": str(error.seconds)})

    def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        return answer(422, f"{place or 'request'}: {first['msg']}"[:300])

    def refused(request: Request, error: Exception) -> JSONResponse:
        return answer(422 if isinstance(error, BadInput) else 500, message_of(error))

    app.add_exception_handler(HTTPError, http)
    app.add_exception_handler(Busy, busy)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(PnstError, refused)


def pages_router(service: Service) -> APIRouter:
    """The page, its files, and the exchange of the token for a cookie."""
    router = APIRouter()
    files = {path.name: path for path in PAGE.iterdir() if path.is_file()}

    @router.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(files["index.html"], headers={"cache-control": "no-cache"})

    @router.get("/page/{name}", include_in_schema=False)
    def page_file(name: str) -> FileResponse:
        if name not in files:
            raise HTTPException(404, "there is no such file")
        return FileResponse(files[name], headers={"cache-control": "no-cache"})

    @router.post("/v1/session", status_code=204, responses=ERRORS)
    def session(asked: SessionRequest, request: Request) -> Response:
        """Exchange the server's token for a cookie, as the page does."""
        token = service.settings.token
        if token and not same_text(asked.token, token):
            raise HTTPException(401, "this is not the server's token")
        answer = Response(status_code=204)
        secure = request.headers.get("origin", "").startswith("https:")
        answer.set_cookie(COOKIE, session_of(token), httponly=True, samesite="strict", secure=secure)
        return answer

    return router


def health_router(service: Service) -> APIRouter:
    """For those who watch over the server."""
    router = APIRouter()

    @router.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {"model": ErrorView}})
    def readyz() -> dict[str, str]:
        """Whether it takes jobs and works them."""
        if not service.runner.alive:
            raise HTTPException(503, "the queue is not being worked; start the server again")
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def jobs_router(service: Service) -> APIRouter:
    """Jobs: made, looked at, followed, moved, cancelled."""
    router = APIRouter(tags=["jobs"])
    store, board = service.store, service.board

    def found(job: str) -> Job:
        try:
            return store[job]
        except KeyError:
            raise HTTPException(404, "there is no such job") from None

    def view(job: str) -> JobView:
        return job_view(found(job), store.waiting().get(job), store, board)

    @router.post("/jobs", status_code=202)
    async def add(
        content: Annotated[UploadFile, File(description="picture to paint")],
        style: Annotated[UploadFile | None, File(description="picture to paint it like")] = None,
        painting: Annotated[Name, Form(description="in place of a style picture, one that is here")] = None,
        model: Annotated[Name, Form(description="a generator; left out, the picture is optimised")] = None,
        size: Size = 1024,
        strength: Annotated[float | None, StrengthForm] = None,
        recipe: Annotated[str, Form(max_length=10_000, description="JSON object of more settings")] = "",
    ) -> JobView:
        """Put a job into the queue."""
        if store.count("queued") >= service.settings.queue:
            raise Busy(f"{service.settings.queue} jobs wait already; try again later", RETRY)
        asked = JobForm(content, style, painting, model or None, size, strength, recipe)
        job = await run_in_threadpool(added, service, asked)
        service.runner.look()
        board.touch(job.id)
        return view(job.id)

    @router.get("/jobs")
    def listed() -> JobsView:
        """All jobs."""
        return JobsView(jobs=job_views(store.all(HISTORY), store, board))

    @router.get("/events", response_class=StreamingResponse, responses=EVENTS)
    async def all_events() -> StreamingResponse:
        """All jobs as they change, as server-sent events."""
        return stream(service, None)

    @router.get("/jobs/{job}")
    def shown(job: str) -> JobView:
        """One job."""
        return view(job)

    @router.get("/jobs/{job}/events", response_class=StreamingResponse, responses=EVENTS)
    async def events(job: str) -> StreamingResponse:
        """A job as it changes, as server-sent events, until it has ended."""
        found(job)
        return stream(service, job)

    @router.get("/jobs/{job}/image", response_class=FileResponse, responses={200: {"content": {"image/png": {}}}})
    def image(job: str, role: Role = "result", download: bool = False) -> Response:
        """A picture of a job: its result, in full; what it was given; or the latest preview."""
        path = getattr(store.files(found(job).id), role)
        if not path.exists():
            raise HTTPException(404, f"this job has no {role} yet")
        if role == "preview":  # read whole, for another may take its place at any moment
            return Response(path.read_bytes(), media_type="image/jpeg", headers={"cache-control": "no-store"})
        name = f"{Path(found(job).name).stem}-{job[:6]}.png" if download else None
        headers = {"cache-control": "private, max-age=31536000, immutable"}
        return FileResponse(path, media_type="image/png", filename=name, headers=headers)

    @router.patch("/jobs/{job}")
    def move(job: str, asked: MoveRequest) -> JobView:
        """Move a waiting job to another place of the queue."""
        found(job)
        if not store.move(job, asked.place):
            raise HTTPException(409, "this job does not wait")
        for waiting in store.waiting():
            board.touch(waiting)
        return view(job)

    @router.delete("/jobs/{job}")
    def cancel(job: str) -> JobView:
        """Cancel a job that waits or runs, and free the workers; remove one that has ended, with its pictures."""
        before = found(job)
        if service.runner.cancel(job):
            return view(job)
        shown = job_view(before, None, store, board)
        store.remove(job)
        board.touch(job)
        return shown

    return router


def pictures_router(service: Service) -> APIRouter:
    """Models, gallery, pictures at once, and settings out of pictures."""
    router = APIRouter()
    settings = service.settings

    @router.get("/models")
    def models() -> ModelsView:
        """The generators and paintings that are here."""
        return models_view(service.catalogue, STYLES, settings.max_size, settings.max_bytes)

    @router.get("/paintings/{name}", response_class=FileResponse, responses={200: {"content": {"image/jpeg": {}}}})
    def gallery(name: str) -> FileResponse:
        """A painting that is here."""
        try:
            return FileResponse(painting(name), media_type="image/jpeg", headers={"cache-control": "max-age=86400"})
        except BadInput as error:
            raise HTTPException(404, str(error)) from None

    @router.post("/settings")
    async def settings_of(picture: Annotated[UploadFile, File(description="painted by this program")]) -> SettingsView:
        """The settings that a picture carries."""

        def read() -> dict[str, Any]:
            with intake(service.store.incoming, service.decoders) as place:
                return stored_settings(place.settings(Upload("picture", picture.file)))

        return SettingsView(settings=await run_in_threadpool(read))

    @router.post("/stylize", response_class=Response, responses={200: {"content": {form: {} for form in SUFFIXES}}})
    async def stylize(
        request: Request,
        content: Annotated[UploadFile, File(description="picture to paint")],
        model: Annotated[str, Form(max_length=200, description="a generator")],
        style: Annotated[UploadFile | None, File(description="for a generator that takes one")] = None,
        size: Size = 0,
        strength: Annotated[float, StrengthForm] = 1.0,
        format: Annotated[Format, Form(description="of the answer")] = "jpeg",
    ) -> Response:
        """Paint a picture with a generator, and answer with it."""
        check_size(size, settings.max_size)
        known = service.catalogue[model]
        check_style(known.takes_style, model, style is not None)

        def read() -> InstantRequest:
            with intake(service.store.incoming, service.decoders) as place:
                picture = place.picture(Upload("content", content.file), size)
                check_size(max(picture.size), settings.max_size)
                given = place.picture(Upload("style", style.file), STYLE_SIDE) if style else None
                return InstantRequest(model, picture, given, strength)

        future = service.instant.submit(await run_in_threadpool(read))
        picture = await unless_gone(request, future)
        asked = ModelRequest(model, size or max(picture.size), strength, "").settings(picture.size, settings.max_size)
        media = f"image/{format}"
        data = await run_in_threadpool(encoded, picture, SUFFIXES[media], model_text(asked))
        return Response(data, media_type=media)

    return router


@dataclass(frozen=True)
class JobForm:
    """The form of a new job. strength: None: as usual for what it asks for."""

    content: UploadFile
    style: UploadFile | None
    painting: str | None
    model: str | None
    size: int
    strength: float | None
    recipe: str


def added(service: Service, form: JobForm) -> Job:
    """A new job of a form. BadInput for what cannot be painted; then nothing of it stays."""
    if form.style is not None and form.painting:
        raise BadInput("style and painting are both given; give one of them")
    styled = form.style is not None or bool(form.painting)
    if form.model:
        check_style(service.catalogue[form.model].takes_style, form.model, styled)
    elif not styled:
        raise BadInput("no style is given; give a style picture, the name of a painting, or a model")
    with intake(service.store.incoming, service.decoders) as place:
        content, size = place.stored(Upload("content", form.content.file))
        pictures = {"content": content}
        if styled:
            pictures["style"] = style_of(form, place)
        asked = asked_of(form)
        settings = asked.settings(size, service.settings.max_size)
        kind: Literal["model", "painting"] = "model" if form.model else "painting"
        return service.store.add(kind, shown_name(form.content.filename), settings, pictures)


def style_of(form: JobForm, place: Intake) -> Path:
    """The style picture of a form, as a file to be moved."""
    if form.style is not None:
        return place.stored(Upload("style", form.style.file))[0]
    assert form.painting
    return place.painting(form.painting)


def asked_of(form: JobForm) -> ModelRequest | PaintingRequest:
    """What a form asks for."""
    name = form.painting or (shown_name(form.style.filename) if form.style is not None else "")
    if form.model:
        if form.recipe:
            raise BadInput(f"recipe has no effect with model {form.model}; leave one of them out")
        return ModelRequest(form.model, form.size, 1.0 if form.strength is None else form.strength, name)
    return PaintingRequest(form.size, 0.5 if form.strength is None else form.strength, name, form.recipe)


def check_style(takes: bool, model: str, given: bool) -> None:
    """BadInput where a model lacks a style picture, or cannot use the one that is given."""
    if takes != given:
        wants = "wants a style picture; give one" if takes else "has a style of its own; leave the style picture out"
        raise BadInput(f"{model} {wants}")


def stream(service: Service, job: str | None) -> StreamingResponse:
    """Server-sent events of a job, or of all."""
    check_listeners(service)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(follow(service, job), media_type="text/event-stream", headers=headers)


async def unless_gone(request: Request, future: Future[Picture]) -> Picture:
    """What is being painted; given up when the caller goes."""
    waiting = asyncio.ensure_future(asyncio.wrap_future(future))
    while not (await asyncio.wait([waiting], timeout=GONE_EVERY))[0]:
        if await request.is_disconnected():
            future.cancel()
            raise HTTPException(499, "the caller has gone")
    return waiting.result()


def encoded(picture: Picture, suffix: str, settings: str) -> bytes:
    """A picture as the bytes of a file."""
    with tempfile.TemporaryDirectory(prefix="pnst-") as folder:
        path = Path(folder) / f"picture{suffix}"
        write_image(path, picture, settings=settings)
        return path.read_bytes()
