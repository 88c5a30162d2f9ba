"""How a route comes to the service that it is for, and what its errors look like in the description of the API."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from parallel_nst.web.service import PictureService, Service
from parallel_nst.web.views import ErrorView

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorView} for status in (400, 401, 403, 404, 408, 409, 413, 422, 429)
}
PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"content": {form: {} for form in ("image/png", "image/jpeg", "image/webp")}}
}


def service_of(request: Request) -> Any:
    """What `web.api` has built the application over."""
    return request.app.state.service


JobsHere = Annotated[Service, Depends(service_of)]
PicturesHere = Annotated[PictureService, Depends(service_of)]
