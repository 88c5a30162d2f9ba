"""Generators at once: one thread that has the models ready, and paints pictures of one size together."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from parallel_nst.errors import Busy
from parallel_nst.files.images import Picture
from parallel_nst.jobs.batch.methods import TOGETHER
from parallel_nst.jobs.batch.stylizers import SHARE_OF_GPU
from parallel_nst.networks.generators.base import Generator, Style
from parallel_nst.painting.generators.runs import chosen_dtype, prepare, stylise
from parallel_nst.painting.planning.memory import machine_memory
from parallel_nst.painting.stylize import carried
from parallel_nst.web.catalogue import Catalogue
from parallel_nst.workers.opening import local_device, native_bfloat16, usable_cores

READY = 4  # models that are kept
SHARE_OF_MEMORY = 0.5  # of what is free


@dataclass(frozen=True, eq=False)
class InstantRequest:
    """model: a name of the catalogue. style: for a model that takes one. strength: of such a style, 0 to 1."""

    model: str
    content: Picture
    style: Picture | None = None
    strength: float = 1.0

    def goes_with(self, other: InstantRequest) -> bool:
        """Whether both can go through the network in one pass."""
        bare = self.style is None and other.style is None
        return bare and self.model == other.model and self.content.size == other.content.size


class Painter(Protocol):
    """Who paints pictures at once, wherever that is."""

    @property
    def waiting(self) -> int:
        """How many wait."""

    def paint(self, request: InstantRequest) -> Coroutine[Any, Any, Picture]:
        """The picture; given up when whoever waits for it is cancelled. Busy where too many wait."""


Waiting = tuple[InstantRequest, "Future[Picture]"]


class InstantStylizer:
    """Paints in the order in which it is asked. Threads may share it."""

    def __init__(self, catalogue: Catalogue, most: int, threads: int | None = None, device: str = "auto") -> None:
        """most: requests that may wait. threads: None: one for each core."""
        self._catalogue, self._most = catalogue, most
        self._threads = threads or usable_cores()
        self._device = torch.device(local_device(device))
        self._ready: OrderedDict[str, Generator] = OrderedDict()
        self._waiting: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="pnst-instant", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, request: InstantRequest, *, patient: bool = False) -> Future[Picture]:
        """The picture to come; whoever no longer wants it cancels it. Busy where too many wait, unless the caller is
        patient."""
        future: Future[Picture] = Future()
        with self._changed:
            if not patient and len(self._waiting) >= self._most:
                raise Busy(f"{self._most} pictures wait already; ask again in a second", 1)
            self._waiting.append((request, future))
            self._changed.notify()
        return future

    async def paint(self, request: InstantRequest) -> Picture:
        """As `Painter.paint`."""
        return await asyncio.wrap_future(self.submit(request))

    def close(self) -> None:
        """Paint what is being painted, and no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for _, future in self._waiting:
            future.cancel()

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                taken = self._together()
            self._answer([(request, future) for request, future in taken if future.set_running_or_notify_cancel()])

    def _together(self) -> list[Waiting]:
        """The first that waits, and others that can go with it."""
        first = self._waiting.popleft()
        height, width = first[0].content.size
        room = max(1, TOGETHER[self._device.type] // (width * height)) - 1
        others = [one for one in self._waiting if not one[1].cancelled() and one[0].goes_with(first[0])][:room]
        for one in others:
            self._waiting.remove(one)
        return [first, *others]

    def _answer(self, taken: list[Waiting]) -> None:
        if not taken:
            return
        try:
            pictures = self._paint([request for request, _ in taken])
        except Exception as error:
            for _, future in taken:
                future.set_exception(error)
            return
        for (_, future), picture in zip(taken, pictures, strict=True):
            future.set_result(picture)

    @torch.inference_mode()
    def _paint(self, requests: list[InstantRequest]) -> list[Picture]:
        first = requests[0]
        generator = self._model(first.model)
        style = self._encoded(generator, first)
        contents = [request.content for request in requests]
        batch = batch_of(contents).to(self._device)
        made = stylise(generator, batch, style, memory=self._memory()).output
        images = np.ascontiguousarray(made.permute(0, 2, 3, 1).float().cpu().numpy())
        return [carried(content, image) for content, image in zip(contents, images, strict=True)]

    def _encoded(self, generator: Generator, request: InstantRequest) -> Style | None:
        """What a generator has to know of the style picture; BadInput where it takes none."""
        if request.style is None:
            return None
        return generator.encode_style(batch_of([request.style]).to(self._device), request.strength)

    def _memory(self) -> int:
        if self._device.type == "cuda":
            return int(SHARE_OF_GPU * torch.cuda.mem_get_info(self._device)[0])
        return int(SHARE_OF_MEMORY * machine_memory())

    def _model(self, name: str) -> Generator:
        """Made ready, or still so from last time."""
        if name not in self._ready:
            while len(self._ready) >= READY:
                self._ready.popitem(last=False)
            generator = self._catalogue.open(name)
            native = native_bfloat16(self._device.type) and not generator.takes_style
            self._ready[name] = prepare(generator, self._device, chosen_dtype(generator, native))
        self._ready.move_to_end(name)
        return self._ready[name]


def batch_of(pictures: list[Picture]) -> Tensor:
    """(N, 3, H, W) of pictures of one size."""
    return torch.from_numpy(np.stack([picture.pixels for picture in pictures])).permute(0, 3, 1, 2)
