"""For those who watch over the server."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

from parallel_nst.web.routes.service import PicturesHere
from parallel_nst.web.views import ErrorView

TEXT: dict[str, Any] = {"content": {"text/plain": {}}}

router = APIRouter()


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """Whether the server answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": ErrorView}})
def readyz(service: PicturesHere) -> dict[str, str]:
    """Whether it takes work and does it."""
    if not service.ready():
        raise HTTPException(503, "nobody works here at present; if that lasts, start the server again")
    return {"status": "ready"}


@router.get("/metrics", response_class=Response, responses={200: TEXT})
def metrics(service: PicturesHere) -> Response:
    """For Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
