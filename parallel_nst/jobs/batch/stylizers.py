"""What a batch does to a picture: a generator, or Gatys' optimisation. A stylizer is a record that reaches each worker
once; there it is made ready and then serves for all pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from parallel_nst.errors import BadInput
from parallel_nst.files.images import Picture, fit, resize
from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.networks.generators.base import Edges, Generator
from parallel_nst.networks.generators.published import build_generator
from parallel_nst.networks.weights.states import State
from parallel_nst.painting.generators.runs import Statistics, prepare, stylise
from parallel_nst.painting.planning.footprint import worker_share
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import final_size, settled
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.sources import SourcePictures
from parallel_nst.painting.stylize import carried
from parallel_nst.painting.stylize import paint as paint_picture
from parallel_nst.recipe import Recipe
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.worker import Worker

PICTURE = 24  # bytes a px: three channels in float32, given and made
SHARE_OF_GPU = 0.8  # of its free memory that a pass may take


@dataclass(frozen=True, eq=False)
class Painted:
    """A picture and what is to be said about it."""

    picture: Picture
    notes: tuple[str, ...] = ()


PaintPictures = Callable[[Sequence[Picture]], list[Painted]]  # of pictures of one size


class Stylizer(Protocol):
    """dtype: of the networks. at_once: pictures that a worker is given at a time; together: px of pictures of one size
    that are painted in one pass, at most."""

    @property
    def dtype(self) -> str: ...

    @property
    def at_once(self) -> int: ...

    @property
    def together(self) -> int: ...

    def ready(self, worker: Worker) -> PaintPictures:
        """What paints on this worker. It keeps what it has built, so it is asked for once."""
        ...


@dataclass(frozen=True, eq=False)
class GeneratorStylizer:
    """A generator, as what it is built from; style: what it knows of a style picture, for those that want one.

    dtype: float32 or bfloat16. memory: bytes that a picture's pass may take; larger pictures are cut into tiles.
    statistics: of normalisation in tiles. size: px to which the longer side is brought before; 0: as it is.
    edges: of pictures, see `Generator.edges`.
    """

    architecture: str
    hyperparameters: Mapping[str, Any]
    state: State
    style: Mapping[str, Tensor] | None
    dtype: str
    memory: int
    statistics: Statistics
    size: int
    together: int
    at_once: int = 8
    edges: Edges = "published"

    def ready(self, worker: Worker) -> PaintPictures:
        generator = build_generator(self.architecture, self.hyperparameters)
        generator.load_state_dict(dict(self.state), strict=False)  # counts of batches may be missing
        generator.edges = self.edges
        generator = prepare(generator, worker.device, self.dtype)
        style = None if self.style is None else {name: value.to(worker.device) for name, value in self.style.items()}
        memory = self.memory
        if worker.device.type == "cuda":
            memory = int(SHARE_OF_GPU * torch.cuda.mem_get_info(worker.device)[0])

        def paint(pictures: Sequence[Picture]) -> list[Painted]:
            with torch.inference_mode():
                return self.paint(generator, style, worker.device, memory, pictures)

        return paint

    def paint(
        self,
        generator: Generator,
        style: Mapping[str, Tensor] | None,
        device: torch.device,
        memory: int,
        pictures: Sequence[Picture],
    ) -> list[Painted]:
        """All pictures in one pass."""
        check_room(pictures[0].size, self.size, memory // len(pictures))
        pixels = [scaled(picture.pixels, self.size) for picture in pictures]
        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(device)
        del pixels
        if device.type == "cpu":  # where these pictures have taken a part of it
            memory -= PICTURE * batch.shape[-2] * batch.shape[-1] * len(pictures)
        made = stylise(generator, batch, style, memory=memory, statistics=self.statistics)
        notes = () if made.gap is None else (f"statistics of a thumbnail, off by up to {made.gap:.2f} deviations",)
        outputs = made.output.permute(0, 2, 3, 1).float().cpu().numpy()
        return [Painted(carried(picture, output), notes) for picture, output in zip(pictures, outputs, strict=True)]


@dataclass(frozen=True, eq=False)
class GatysStylizer:
    """Gatys' optimisation, each picture in one piece or, where that does not fit `memory` bytes, in exact tiles one
    after the other."""

    recipe: Recipe
    style: Picture
    dtype: str
    memory: int
    at_once: int = 1
    together: int = 1

    def ready(self, worker: Worker) -> PaintPictures:
        backbone = build_backbone(self.recipe.backbone, worker.spec.weights[self.recipe.backbone], self.recipe.pooling)
        pool = SerialPool(worker.spec, worker)
        resolved = resolve(self.recipe, backbone)
        layers = resolved.layers
        costs = profile(backbone, layers.style, layers.content, getattr(torch, worker.spec.dtype))

        def paint(picture: Picture) -> Painted:
            share = worker_share(self.memory, final_size(picture.size, self.recipe), self.recipe, 1)
            budget = Budget(1, share, costs)
            made = paint_picture(
                SourcePictures(picture, [self.style]), settled(picture.size, resolved, budget), pool, budget
            )
            return Painted(made.picture, (f"loss {made.loss:.4f}",))

        return lambda pictures: [paint(picture) for picture in pictures]


def check_room(size: Size, longest: int, memory: int) -> None:
    """BadInput for a picture that will not be held in `memory` bytes once its longer side is `longest` px."""
    needed = fit(size, longest) if longest else size
    if PICTURE * needed.area > memory:
        raise BadInput(f"size {needed} px is more than the memory of a worker holds; give a smaller --size")


def scaled(pixels: np.ndarray, longest: int) -> np.ndarray:
    """(H, W, 3) with its longer side brought to `longest` px; 0: as it is."""
    size = Size(*pixels.shape[:2])
    return pixels if longest in (0, max(size)) else resize(pixels, fit(size, longest))
