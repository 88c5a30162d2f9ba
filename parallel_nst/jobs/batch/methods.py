"""What a batch paints with: a generator, perhaps with a style picture, or Gatys' optimisation with one. Everything
that can be wrong with it is found out here, before a worker starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from parallel_nst.errors import BadInput
from parallel_nst.files.digests import file_digest, short_digest
from parallel_nst.files.images import Picture, read_image
from parallel_nst.jobs.batch.stylizers import GatysStylizer, GeneratorStylizer, Stylizer, scaled
from parallel_nst.jobs.requests.batch import GeneratorOptions
from parallel_nst.networks.backbones.loading import build_backbone, load_weights
from parallel_nst.networks.generators.base import Generator
from parallel_nst.networks.generators.files import open_generator
from parallel_nst.networks.generators.registry import default_model
from parallel_nst.networks.weights.states import State
from parallel_nst.painting.generators.runs import chosen_dtype
from parallel_nst.painting.planning.footprint import PROCESS
from parallel_nst.painting.resolved import resolve
from parallel_nst.recipe import Recipe
from parallel_nst.workers.worker import WorkerSpec

TOGETHER = {"cpu": 1 << 18, "cuda": 1 << 23}  # px of pictures of one size that go through a generator in one pass


class Method(Protocol):
    """name: for the report. digest: of all that outputs depend on. weights: of backbones that workers need."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def weights(self) -> Mapping[str, State]: ...

    def stylizer(self, spec: WorkerSpec, memory: int) -> Stylizer:
        """For workers of this kind, each with so many bytes for its pictures."""
        ...


@dataclass(frozen=True, eq=False)
class GeneratorMethod:
    """See `Method`."""

    name: str
    digest: str
    generator: Generator
    style: Mapping[str, Tensor] | None
    options: GeneratorOptions
    weights: Mapping[str, State] = field(default_factory=dict)

    def stylizer(self, spec: WorkerSpec, memory: int) -> GeneratorStylizer:
        dtype = spec.dtype
        if self.options.dtype == "auto":
            self.generator.edges = self.options.edges
            dtype = chosen_dtype(self.generator, dtype == "bfloat16", self.style)
        return GeneratorStylizer(
            self.generator.architecture,
            self.generator.hyperparameters,
            self.generator.state_dict(),
            self.style,
            dtype,
            memory - int(PROCESS),
            self.options.statistics,
            self.options.size,
            TOGETHER[spec.device],
            edges=self.options.edges,
        )


@dataclass(frozen=True, eq=False)
class GatysMethod:
    """See `Method`."""

    name: str
    digest: str
    recipe: Recipe
    style: Picture
    weights: Mapping[str, State]

    def stylizer(self, spec: WorkerSpec, memory: int) -> GatysStylizer:
        return GatysStylizer(self.recipe, self.style, spec.dtype, memory)


def generator_method(
    name: str | None, style: Path | None, options: GeneratorOptions, max_pixels: int | None = None
) -> GeneratorMethod:
    """A generator by name or file (None: the bundled one), with a style picture if it takes one. BadInput, in one
    line, for what does not go together."""
    chosen = name or default_model()
    if chosen is None:
        raise BadInput("no model is given; give --model NAME_OR_FILE, or --style PICTURE to paint each by optimisation")
    generator, _, weights = open_generator(chosen)
    encoded = None
    if generator.takes_style != (style is not None):
        wanted = (
            "wants a style picture; give --style PICTURE"
            if style is None
            else (
                "has a style of its own; leave out --style, or leave out --model to paint each picture by optimisation"
            )
        )
        raise BadInput(f"{chosen} {wanted}")
    parts = [f"{weights} {asdict(options)}".encode()]
    if style is not None:
        pixels = scaled(read_image(style, max_pixels=max_pixels).pixels, options.style_size)
        parts.append(pixels.tobytes())
        with torch.inference_mode():
            picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            encoded = generator.encode_style(picture, options.strength)
    return GeneratorMethod(Path(chosen).stem, short_digest(parts), generator, encoded, options)


def gatys_method(
    recipe: Recipe, style: Path, weights: Path | None = None, max_pixels: int | None = None
) -> GatysMethod:
    """Gatys' optimisation in the manner of a picture. BadInput, in one line, for a style or weights that cannot be
    read and layers that there are not."""
    state = load_weights(recipe.backbone, weights)
    resolve(recipe, build_backbone(recipe.backbone, state, recipe.pooling))
    weighed = (name.encode() + state[name].contiguous().numpy().tobytes() for name in sorted(state))
    digest = short_digest(
        chain([replace(recipe, device="auto").digest().encode(), file_digest(style).encode()], weighed)
    )
    picture = read_image(style, max_pixels=max_pixels)
    return GatysMethod(style.stem, digest, recipe, picture, {recipe.backbone: state})
