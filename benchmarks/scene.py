"""What several benchmarks are run on: a picture of a given size, what it aims at, and the pools that compute it.

Sizes are those with the frame that is painted around a picture, so that they are what the networks see.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from parallel_nst.files.bundled import bundled_content, bundled_style
from parallel_nst.files.images import Picture, fit, read_image
from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.base import Layer
from parallel_nst.networks.backbones.loading import build_backbone, load_weights
from parallel_nst.networks.backbones.resnet import ResNet
from parallel_nst.networks.backbones.squeezenet import SqueezeNet
from parallel_nst.networks.backbones.vgg import VGG, VGG16_WIDTHS, VGG19_WIDTHS
from parallel_nst.networks.weights.states import State
from parallel_nst.painting.exact.mode import Exact
from parallel_nst.painting.exact.objective import Measure, RankObjective
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.objective import LocalObjective
from parallel_nst.painting.gatys.style import StyleTargets
from parallel_nst.painting.mode import Due
from parallel_nst.painting.planning.forecast import seconds_of
from parallel_nst.painting.planning.scales import Framed, Scale, ScalePlan, framed, unframed_size
from parallel_nst.painting.resolved import ResolvedRecipe, resolve
from parallel_nst.painting.style_targets import measured_style
from parallel_nst.painting.tiles.geometry import gather, plan_tiles, whole_tile
from parallel_nst.painting.tiles.ownership import deal
from parallel_nst.recipe import Recipe
from parallel_nst.workers.opening import resolved_dtype
from parallel_nst.workers.pool import Pool, SerialPool
from parallel_nst.workers.ranks.communicator import Alone
from parallel_nst.workers.worker import WorkerSpec

SHAPES: Mapping[str, Callable[[], nn.Module]] = {
    "vgg16": lambda: VGG(VGG16_WIDTHS),
    "vgg19": lambda: VGG(VGG19_WIDTHS),
    "resnet50": ResNet,
    "squeezenet": SqueezeNet,
}
Grid = tuple[int, int]


def parser(question: str | None) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    options = argparse.ArgumentParser(description=question)
    options.add_argument("--content", type=Path, default=bundled_content())
    options.add_argument("--style", type=Path, default=bundled_style())
    options.add_argument("--quick", action="store_true", help="tiny, to see that the program works")
    return options


def weights(name: str, path: Path | None = None) -> State:
    """From the file or, where there is none, those of the embedded backbone, and for every other shape random ones that
    keep the variance of the features from layer to layer (He et al. 2015)."""
    if name not in SHAPES or path is not None:
        return load_weights(name, path)
    torch.manual_seed(0)
    network = SHAPES[name]()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.state_dict()


@dataclass(frozen=True)
class Scene:
    """A picture to be painted at one size. dtype: of the networks, as a worker is told."""

    resolved: ResolvedRecipe
    reader: FeatureReader
    state: State
    dtype: str
    content: Framed
    style: StyleTargets

    @property
    def recipe(self) -> Recipe:
        """Its own, with layers that may be left to the backbone."""
        return self.resolved.recipe

    def spec(self, threads: int) -> WorkerSpec:
        """Of a worker for this picture."""
        return WorkerSpec("cpu", self.dtype, threads, {self.recipe.backbone: self.state})

    @property
    def layer(self) -> Layer:
        """What the halo must cover."""
        return self.resolved.deepest

    def scale(self, grid: Grid, kept: int = 1) -> Scale:
        """Cut into these rows and columns."""
        tiles = plan_tiles(*self.content.size, grid, halo=self.layer.margin, align=self.layer.stride)
        return Scale(self.content, self.style, self.recipe.steps, tiles, kept)

    def plan(self, grid: Grid, kept: int = 1) -> ScalePlan:
        """The same before it is run, for a forecast."""
        size = unframed_size(self.content.size)
        return ScalePlan(size, size, 1, list(self.scale(grid).tiles), True, kept)

    def tiled(self, grid: Grid, kept: int = 1) -> InTiles:
        """The objective in tiles, in this process."""
        return InTiles(self, grid, kept)

    def step_seconds(self, pool: Pool, grid: Grid, steps: int, kept: int = 1) -> list[float]:
        """Seconds of so many steps in tiles on a pool, after one to warm up."""
        times: list[float] = []
        mode = Exact(replace(self.scale(grid, kept), steps=steps + 1), self.resolved, pool)
        start = mode.start(self.image()[0].numpy())
        for _ in mode.states(start, lambda index, progress: times.append(time.perf_counter()), Due()):
            pass
        return [later - earlier for earlier, later in pairwise(times)]

    def whole(self) -> LocalObjective:
        """The objective in one piece, in this process."""
        content = self.reader.read_content(self.image())
        return LocalObjective(self.reader, self.resolved, self.style, content, whole_tile(*self.content.size))

    def image(self, noise: float = 0.0) -> Tensor:
        """The content (1, 3, H, W), with noise of this standard deviation."""
        image = torch.from_numpy(self.content.whole)[None]
        image = image.double() if self.dtype == "float64" else image
        return image + noise * torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=image.dtype)


class InTiles:
    """The loss of an image (1, 3, H, W) and its gradient, found tile by tile in this process."""

    def __init__(self, scene: Scene, grid: Grid, kept: int) -> None:
        tiles = scene.scale(grid).tiles
        self._ownership = deal(tiles, [1.0])
        self._shard = self._ownership.shard(0)
        content = {
            tile.index: scene.reader.read_content(torch.tensor(scene.content.read(tile.read))[None].to(scene.image()))
            for tile in tiles
        }
        measure = Measure(scene.reader, scene.resolved, scene.style, content)
        self._objective = RankObjective(self._ownership, Alone(), measure, kept)

    def value(self, image: Tensor) -> float:
        return self._objective.value(self._flat(image))

    def value_and_gradient(self, image: Tensor) -> tuple[float, Tensor]:
        loss, flat = self._objective.value_and_gradient(self._flat(image))
        gradient = torch.empty_like(image)
        for index, core in self._shard.cores.items():
            gather(gradient[0], core).copy_(self._shard.core(flat, index))
        return loss, gradient

    def _flat(self, image: Tensor) -> Tensor:
        flat = image.new_zeros(self._shard.elements)
        for index, core in self._shard.cores.items():
            self._shard.core(flat, index).copy_(gather(image[0], core))
        return flat


def scene(content: Picture, style: Picture, size: Size, recipe: Recipe, state: State) -> Scene:
    """`content` scaled to this size, and a style image of the same longest side."""
    inner = unframed_size(size)
    dtype = resolved_dtype(recipe.dtype, "cpu")
    backbone = build_backbone(recipe.backbone, state)
    backbone = (backbone.double() if dtype == "float64" else backbone).to(memory_format=torch.channels_last)
    resolved = resolve(replace(recipe, size=max(inner)), backbone)
    reader = FeatureReader(backbone, resolved.layers, getattr(torch, dtype))
    bare = Scene(resolved, reader, state, dtype, framed(content.pixels, inner), None)
    pool = SerialPool(bare.spec(torch.get_num_threads()))
    painting = framed(style.pixels, fit(style.size, max(inner)))
    return replace(bare, style=measured_style(painting, resolved, pool))


def pictures(options: argparse.Namespace) -> tuple[Picture, Picture]:
    """Content and style, read."""
    return read_image(options.content), read_image(options.style)


class Flops(TorchDispatchMode):
    """Counts the FLOP of products and convolutions while it is active, in backward passes too, where
    `torch.utils.flop_counter.FlopCounterMode` cannot follow `torch.autograd.grad` by a module's own input."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def counted_flops(run: Callable[[], object]) -> int:
    """FLOP of a call."""
    with Flops() as flops:
        run()
    return flops.total


def with_threads(threads: int, run: Callable[[], object]) -> Callable[[], None]:
    """The same call, in so many threads of this process."""

    def call() -> None:
        torch.set_num_threads(threads)
        run()

    return call


def in_turn(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, all in turn, so that a machine that slows down does so for all of them. Each has run once
    before."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            taken = seconds_of(run)
            if repeat:
                seconds[name].append(taken)
                print(f"{name}: {taken:.3g} s", flush=True)
    return dict(seconds)


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Pairwise, of figures taken one after the other."""
    return [a / b for a, b in zip(above, below, strict=True)]
