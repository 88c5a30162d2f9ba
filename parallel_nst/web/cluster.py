"""The generators as an application of Ray Serve, for a cluster as for one machine: the addresses of `pnst serve` that
answer with pictures at once, over as many generators as the load asks for.

    PNST_TOKEN=... serve run parallel_nst.web.cluster:app models=/shared/generators
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from fastapi import FastAPI
from starlette.types import ASGIApp

from parallel_nst.errors import BadInput
from parallel_nst.files.images import Picture
from parallel_nst.recipe.knobs import knob
from parallel_nst.recipe.records import from_table
from parallel_nst.web.api import create_pictures_app
from parallel_nst.web.catalogue import Catalogue
from parallel_nst.web.decoders import Decoders
from parallel_nst.web.instant import InstantRequest, InstantStylizer
from parallel_nst.web.metrics import Metrics, PainterGauges
from parallel_nst.web.service import MOST_INSTANT, PictureService, catalogue_of
from parallel_nst.web.settings import LEAST_TOKEN, PictureSettings

if TYPE_CHECKING:  # Ray is loaded only where it is used
    from parallel_nst.workers.ray.serving import Application, Workers


@dataclass(frozen=True, kw_only=True)
class ClusterSettings(PictureSettings):
    """What the application is asked to be. Where it listens is Ray Serve's affair, so it always wants a token."""

    least: int = knob(1, "generators that are always there", "Workers", least=1)
    most: int = knob(4, "generators at most; their number follows the load", "Workers", least=1)
    cores: float = knob(1, "cores of each", "Workers", above=0)
    gpus: float = knob(0, "GPUs of each, or a part of one", "Workers", least=0)
    fronts: int = knob(1, "processes that answer HTTP, read and write pictures", "Workers", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.token) < LEAST_TOKEN:
            raise BadInput(
                f"others can reach a cluster; set PNST_TOKEN on every node, to at least {LEAST_TOKEN} characters"
            )
        if self.least > self.most:
            raise BadInput(f"least is {self.least} and most is {self.most}; give a most of at least {self.least}")


def app(arguments: dict[str, Any]) -> Application:
    """What `serve run` and a RayService are given by name. arguments: settings by name, as texts or values."""
    from parallel_nst.workers.ray.serving import Scaling, application

    settings = settings_of(arguments, os.environ)
    scaling = Scaling(
        settings.least, settings.most, settings.cores, settings.gpus, settings.fronts, waiting=MOST_INSTANT
    )
    return application(partial(front_of, settings), partial(stylizer_of, settings), scaling)


def settings_of(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> ClusterSettings:
    """Settings from what is given, and the token from the environment. BadInput for what cannot be."""
    if "token" in arguments:
        raise BadInput("token is an argument, which Ray writes into its logs; set PNST_TOKEN on every node instead")
    kinds = get_type_hints(ClusterSettings)
    given = {name: value_of(value, kinds.get(name)) for name, value in arguments.items()}
    given["token"] = environment.get("PNST_TOKEN", "")
    made: ClusterSettings = from_table(ClusterSettings, given, "")
    return made


def value_of(value: Any, kind: Any) -> Any:
    """What comes as a text, as from a command line, as the kind of its field; as it is where it is no such thing."""
    if not isinstance(value, str) or kind is str:
        return value
    with suppress(ValueError):
        return kind(value) if kind in (int, float) else Path(value)
    return value


def stylizer_of(settings: ClusterSettings) -> InstantStylizer:
    """The generators of one process: several models, pictures of one size together."""
    return InstantStylizer(Catalogue(settings.models), MOST_INSTANT, threads=max(1, int(settings.cores)))


class RemotePainter:
    """The generators of other processes."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    @property
    def waiting(self) -> int:
        return self._workers.waiting

    async def paint(self, request: InstantRequest) -> Picture:
        picture: Picture = await self._workers.ask(request)
        return picture


def front_of(settings: ClusterSettings, workers: Workers) -> ASGIApp:
    """What answers HTTP; its parts are closed with it."""
    parts = ExitStack()
    incoming = parts.enter_context(tempfile.TemporaryDirectory(prefix="pnst-incoming-"))
    decoders = Decoders(settings.max_pixels)
    parts.callback(decoders.close)
    painter = RemotePainter(workers)
    service = PictureService(
        settings=settings,
        incoming=Path(incoming),
        decoders=decoders,
        catalogue=catalogue_of(settings, logging.getLogger(__name__).warning),
        painter=painter,
        metrics=Metrics(PainterGauges(painter)),
        ready=workers.there,
    )
    return create_pictures_app(service, partial(closing, parts))


@asynccontextmanager
async def closing(parts: ExitStack, app: FastAPI) -> AsyncIterator[None]:
    """Close the parts when the application ends."""
    with parts:
        yield
