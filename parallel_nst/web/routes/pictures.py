"""What there is to paint with, pictures at once, and settings out of pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from parallel_nst.errors import BadInput
from parallel_nst.files.bundled import STYLES
from parallel_nst.files.images import Picture
from parallel_nst.web.forms import PicturePart, StylizeForm, encoded, instant_request, settings_text
from parallel_nst.web.requests import stored_settings
from parallel_nst.web.routes.service import ERRORS, PICTURES, PicturesHere
from parallel_nst.web.uploads import Upload, intake, painting
from parallel_nst.web.views import ModelsView, SettingsView, models_view

GONE_EVERY = 0.5  # seconds between two looks whether a caller is still there

router = APIRouter(prefix="/v1", responses=ERRORS)


@router.get("/models")
def models(service: PicturesHere) -> ModelsView:
    """The generators and paintings that are here."""
    return models_view(service.catalogue, STYLES, service.settings.max_size, service.settings.max_bytes)


@router.get("/paintings/{name}", response_class=FileResponse, responses=PICTURES)
def gallery(name: str) -> FileResponse:
    """A painting that is here."""
    try:
        return FileResponse(painting(name), media_type="image/jpeg", headers={"cache-control": "max-age=86400"})
    except BadInput as error:
        raise HTTPException(404, str(error)) from None


@router.post("/settings")
def settings_of(picture: PicturePart, service: PicturesHere) -> SettingsView:
    """The settings that a picture carries."""
    with intake(service.incoming, service.decoders) as place:
        found: dict[str, Any] = stored_settings(place.settings(Upload("picture", picture.file)))
    return SettingsView(settings=found)


@router.post("/stylize", response_class=Response, responses=PICTURES)
async def stylize(request: Request, form: Annotated[StylizeForm, Depends()], service: PicturesHere) -> Response:
    """Paint a picture with a generator, and answer with it."""
    asked = await run_in_threadpool(instant_request, service, form)
    picture = await unless_gone(request, service.painter.paint(asked))
    text = settings_text(form, picture, service.settings.max_size)
    data = await run_in_threadpool(encoded, picture, form.format, text)
    return Response(data, media_type=f"image/{form.format}")


async def unless_gone(request: Request, picture: Awaitable[Picture]) -> Picture:
    """What is being painted; given up when the caller goes."""
    waiting = asyncio.ensure_future(picture)
    while not (await asyncio.wait([waiting], timeout=GONE_EVERY))[0]:
        if await request.is_disconnected():
            waiting.cancel()
            raise HTTPException(499, "the caller has gone")
    return waiting.result()
