"""The HTTP API and the page, as ASGI applications."""

from __future__ import annotations

from importlib.metadata import version as version_of

from fastapi import FastAPI
from starlette.types import ASGIApp, Lifespan

from parallel_nst.web.faults import add_errors
from parallel_nst.web.guards import Guards
from parallel_nst.web.metrics import Measured
from parallel_nst.web.routes import health, jobs_changing, jobs_reading, pages, pictures, session
from parallel_nst.web.service import PictureService, Service


def create_app(service: Service) -> ASGIApp:
    """All of it: the page, jobs, pictures at once."""
    app = described(service, "Neural style transfer: generators at once, Gatys' optimisation as jobs.")
    for routes in (pages, session, jobs_changing, jobs_reading):
        app.include_router(routes.router)
    return guarded(app, service)


def create_pictures_app(service: PictureService, lifespan: Lifespan[FastAPI]) -> ASGIApp:
    """Pictures at once alone. lifespan: what lasts as long as the application."""
    return guarded(described(service, "Neural style transfer: pictures through generators.", lifespan), service)


def described(service: PictureService, about: str, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """An application with what every one has."""
    app = FastAPI(
        title="parallel_nst",
        version=version_of("parallel-nst"),
        description=about,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(health.router)
    app.include_router(pictures.router)
    add_errors(app)
    return app


def guarded(app: FastAPI, service: PictureService) -> ASGIApp:
    """With all around it that every request meets first."""
    return Guards(Measured(app, service.metrics), service.settings)
