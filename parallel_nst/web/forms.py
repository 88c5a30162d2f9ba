"""The forms that callers fill in, and what they come to. Without postponed annotations, which FastAPI cannot read in
classes."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastapi import File, Form, UploadFile

from parallel_nst.errors import BadInput
from parallel_nst.files.images import Picture, write_image
from parallel_nst.web.instant import InstantRequest
from parallel_nst.web.requests import ModelRequest, PaintingRequest, check_size, model_text
from parallel_nst.web.service import PictureService, Service
from parallel_nst.web.store import Kind, QueuedJob, shown_name
from parallel_nst.web.uploads import Intake, Upload, intake

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
STYLE_SIDE = 512  # px of a style picture for a generator

Format = Literal["png", "jpeg", "webp"]
PicturePart = Annotated[UploadFile, File(description="painted by this program")]
ContentPart = Annotated[UploadFile, File(description="picture to paint")]
LongerSide = Annotated[int, Form(ge=0, le=100_000, description="longer side in px; 0: the content's own")]
StrengthForm = Form(ge=0, le=1, allow_inf_nan=False, description="of the style, 0 to 1")
Name = Annotated[str | None, Form(max_length=200)]


@dataclass(frozen=True)
class JobForm:
    """A new job. strength: None: as usual for what it asks for."""

    content: ContentPart
    style: Annotated[UploadFile | None, File(description="picture to paint it like")] = None
    painting: Annotated[Name, Form(description="in place of a style picture, one that is here")] = None
    model: Annotated[Name, Form(description="a generator; left out, the picture is optimised")] = None
    size: LongerSide = 1024
    strength: Annotated[float | None, StrengthForm] = None
    recipe: Annotated[str, Form(max_length=10_000, description="JSON object of more settings")] = ""

    @property
    def styled(self) -> bool:
        return self.style is not None or bool(self.painting)


@dataclass(frozen=True)
class StylizeForm:
    """A picture at once."""

    content: ContentPart
    model: Annotated[str, Form(max_length=200, description="a generator")]
    style: Annotated[UploadFile | None, File(description="for a generator that takes one")] = None
    size: LongerSide = 0
    strength: Annotated[float, StrengthForm] = 1.0
    format: Annotated[Format, Form(description="of the answer")] = "jpeg"


def added(service: Service, form: JobForm) -> QueuedJob:
    """A new job of a form. BadInput for what cannot be painted; then nothing of it stays."""
    check_look(service, form)
    with intake(service.incoming, service.decoders) as place:
        content, size = place.stored(Upload("content", form.content.file))
        pictures = {"content": content}
        if form.styled:
            pictures["style"] = style_of(form, place)
        settings = asked_of(form).settings(size, service.settings.max_size)
        kind: Kind = "model" if form.model else "painting"
        return service.store.add(kind, shown_name(form.content.filename), settings, pictures)


def check_look(service: Service, form: JobForm) -> None:
    """BadInput for a job that says not how it is to look, or says it twice."""
    if form.style is not None and form.painting:
        raise BadInput("style and painting are both given; give one of them")
    if form.model:
        check_style(service.catalogue[form.model].takes_style, form.model, form.styled)
    elif not form.styled:
        raise BadInput("no style is given; give a style picture, the name of a painting, or a model")


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


def instant_request(service: PictureService, form: StylizeForm) -> InstantRequest:
    """A form with its pictures read. BadInput for what cannot be painted."""
    most = service.settings.max_size
    check_size(form.size, most)
    check_style(service.catalogue[form.model].takes_style, form.model, form.style is not None)
    with intake(service.incoming, service.decoders) as place:
        picture = place.picture(Upload("content", form.content.file), form.size)
        check_size(max(picture.size), most)
        style = place.picture(Upload("style", form.style.file), STYLE_SIDE) if form.style else None
        return InstantRequest(form.model, picture, style, form.strength)


def settings_text(form: StylizeForm, picture: Picture, most: int) -> str:
    """What a picture at once says of how it was made."""
    asked = ModelRequest(form.model, form.size or max(picture.size), form.strength, "")
    return model_text(asked.settings(picture.size, most))


def encoded(picture: Picture, format: Format, settings: str) -> bytes:
    """A picture as the bytes of a file."""
    with tempfile.TemporaryDirectory(prefix="pnst-") as folder:
        path = Path(folder) / f"picture{SUFFIXES[format]}"
        write_image(path, picture, settings=settings)
        return path.read_bytes()
