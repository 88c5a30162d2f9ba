"""What a run will need, from its plan alone: arithmetic, memory, traffic and, given a speed, time.

Counted are the steps and, as one more in the time of each scale, the features of its content and the loss of what it
ends with. Start-up, the way of the data through a network, and files come on top.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.networks.backbones.loading import build_backbone, load_weights
from parallel_nst.networks.backbones.registry import backbone_entry
from parallel_nst.networks.backbones.resnet import ResNet
from parallel_nst.networks.backbones.squeezenet import SqueezeNet
from parallel_nst.networks.backbones.vgg import VGG, VGG16_WIDTHS, VGG19_WIDTHS
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.preconditioner import GRID, REACH
from parallel_nst.painting.gatys.sums import FeatureSums, measure_sums, pull_back
from parallel_nst.painting.planning.cuts import cut_in
from parallel_nst.painting.planning.footprint import PIXEL, PROCESS, driver_bytes, exact_bytes, independent_bytes
from parallel_nst.painting.planning.profile import Profile, forward_flops, gram_flops
from parallel_nst.painting.planning.scales import ScalePlan, framed_size
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.resolved import ResolvedRecipe
from parallel_nst.painting.tiles.geometry import whole_tile
from parallel_nst.painting.tiles.ownership import Ownership, crossings, deal
from parallel_nst.recipe import Pooling, Recipe
from parallel_nst.workers.freed_memory import keep_memory

SPEED_SIDE = 512  # px of the tile that a speed is measured on: its features are too large for a processor's cache
SPEED_RUNS = 3
UNTRAINED: dict[str, Callable[[], Backbone]] = {
    "vgg16": lambda: VGG(VGG16_WIDTHS),
    "vgg19": lambda: VGG(VGG19_WIDTHS),
    "vgg19-caffe": lambda: VGG(VGG19_WIDTHS),
    "resnet50": lambda: ResNet().fold(),
    "squeezenet": SqueezeNet,
}
# Seconds of an optimiser's step for each px, the filter of gradient and move among them, and for each pair that lbfgs
# remembers: memory traffic, measured on 2048x1024 px in one thread of a server processor of 2023, which keeps freed
# memory: adam 46 ns, lbfgs 62, 92 and 119 with 1, 5 and 10 pairs.
STEP_SECONDS = 5.5e-8
PAIR_SECONDS = 7e-9


@dataclass(frozen=True)
class ScaleForecast:
    """One scale. width, height: px without the frame; tiles, per_worker, kept: see `planning.Tiling`.

    Of one step: flops on all workers; overhead: flops over those of the picture in one piece; moved: bytes of arrays
    between processes; seconds: of the slowest worker and of the optimiser.
    """

    width: int
    height: int
    steps: int
    tiles: int
    per_worker: int
    kept: int
    flops: float
    overhead: float
    moved: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """All scales, coarse to fine. halo: px around a tile's core, 0 for independent tiles. Bytes at the worst moment;
    in a pool of one worker both are one process."""

    scales: tuple[ScaleForecast, ...]
    halo: int
    worker_bytes: int
    driver_bytes: int

    @property
    def steps(self) -> int:
        return sum(scale.steps for scale in self.scales)

    @property
    def flops(self) -> float:
        return sum(scale.steps * scale.flops for scale in self.scales)

    @property
    def seconds(self) -> float:
        return sum((scale.steps + 1) * scale.seconds for scale in self.scales)


def forecast(plans: Sequence[ScalePlan], resolved: ResolvedRecipe, budget: Budget, speed: float) -> Forecast:
    """What these scales need. budget: what they were cut for. speed: FLOP/s of one worker, as of the driver."""
    recipe = resolved.recipe
    alone = [plan for plan in plans if len(plan.tiles) == 1]
    tiled = [plan for plan in plans if len(plan.tiles) > 1]
    whole = max((tile_bytes(plan, recipe, budget) for plan in alone), default=0)
    return Forecast(
        scales=tuple(scale_forecast(plan, resolved, budget, speed) for plan in plans),
        halo=resolved.deepest.margin if recipe.tiling.mode == "exact" else 0,
        worker_bytes=max((tile_bytes(plan, recipe, budget) for plan in tiled), default=0),
        driver_bytes=driver_bytes(framed_size(plans[-1].size), recipe) + max(0, int(whole - PROCESS)),
    )


def scale_forecast(plan: ScalePlan, resolved: ResolvedRecipe, budget: Budget, speed: float) -> ScaleForecast:
    """One scale; in one piece it is the driver's work."""
    flops, ownership = tile_flops(plan, budget), deal(plan.tiles, [1.0] * budget.workers)
    loads = np.add.reduceat(flops, ownership.first[:-1])
    core = sum(tile.core.area for tile in plan.tiles)
    largest = max(tile.read.area for tile in plan.tiles)
    return ScaleForecast(
        width=plan.size.width,
        height=plan.size.height,
        steps=plan.steps,
        tiles=len(plan.tiles),
        per_worker=max(ownership.counts),
        kept=plan.kept if plan.exact else 0,
        flops=float(flops.sum()),
        overhead=float(flops.sum()) / (2 * core * budget.profile.flops),
        moved=moved(plan, resolved, budget.workers),
        seconds=float(loads.max()) / (speed * (budget.speed_alone if len(plan.tiles) == 1 else 1))
        + optimiser_seconds(resolved.recipe)
        * (core / ownership.ranks if plan.exact else max(ownership.counts) * largest),
    )


def tile_flops(plan: ScalePlan, budget: Budget) -> np.ndarray:
    """Arithmetic of a step for each tile: forward and backward, and forward again where its graph is not kept."""
    profile: Profile = budget.profile
    cores, reads = (np.array([getattr(tile, name).area for tile in plan.tiles]) for name in ("core", "read"))
    if not plan.exact:
        return np.asarray(2 * reads * profile.flops)
    counts = deal(plan.tiles, [1.0] * budget.workers).counts
    passes = np.where(np.concatenate([np.arange(count) for count in counts]) < plan.kept, 2, 3)
    return np.asarray(passes * (cores * profile.flops + (reads - cores) * profile.halo.flops))


def tile_bytes(plan: ScalePlan, recipe: Recipe, budget: Budget) -> int:
    """Memory of a worker for its tiles of a scale."""
    cores, reads = (np.array([getattr(tile, name).area for tile in plan.tiles]) for name in ("core", "read"))
    if not plan.exact:
        return independent_bytes(budget.profile, int(reads.max()), recipe)
    return exact_bytes(budget.profile, cut_in(reads, cores, budget.workers), plan.kept, recipe)


def moved(plan: ScalePlan, resolved: ResolvedRecipe, workers: int) -> int:
    """Bytes of arrays that go between processes in a step.

    Exact, from worker to worker: the pixels of halos and the gradients by them, and what the filter of gradients and of
    moves sees; of the sums of each tile what another worker adds up, and the sums of these, in float64, to all.
    Independent, between the driver and its workers: content, pixels and targets down, the result up, once a round; a
    step's share of that.
    """
    if len(plan.tiles) == 1:
        return 0
    reads = np.array([tile.read.area for tile in plan.tiles])
    grams, every = sum((count + 1) ** 2 for count in resolved.channels.values()), resolved.recipe.tiling.sync_every
    if plan.exact:
        ownership = deal(plan.tiles, [1.0] * workers)
        others = 1 - 1 / ownership.ranks
        pixels = lent(ownership) + lent(ownership.reaching(REACH, GRID))
        return int(2 * PIXEL * pixels + grams * (4 * len(reads) + 8 * ownership.ranks) * others)
    rounds = -(-plan.steps // every) if every else 1
    return int(rounds * (3 * PIXEL * reads.sum() + 8 * grams * len(reads)) / plan.steps)


def lent(ownership: Ownership) -> int:
    """Px of other workers' cores that tiles read."""
    return sum(
        crossing.rect.area
        for rank in range(ownership.ranks)
        for crossing in crossings(ownership.of(rank), ownership.tiles)
        if ownership.owner(crossing.core) != rank
    )


def optimiser_seconds(recipe: Recipe) -> float:
    """Of one step, for each px."""
    return STEP_SECONDS + (PAIR_SECONDS * recipe.history if recipe.optimizer == "lbfgs" else 0)


def untrained(name: str, pooling: Pooling = "auto") -> Backbone:
    """A backbone of this shape, for what does not depend on its weights; none are downloaded. ValueError for an
    unknown name."""
    backbone_entry(name)
    backbone = UNTRAINED[name]() if name in UNTRAINED else build_backbone(name, load_weights(name))
    backbone.pool_by(pooling)
    return backbone.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def measured_speed(reader: FeatureReader, threads: int, device: str = "cpu", beside: int = 1) -> float:
    """FLOP/s of forward and backward on one tile with so many threads, the median of three after one to warm up; on
    cuda of the GPU, to which the reader's backbone is moved. beside: workers that compute at once, of which the slowest
    counts: cores share memory, and often more than that. This process keeps freed memory from then on, as workers do.
    """
    keep_memory()
    with ThreadPoolExecutor(beside) as workers:
        return min(workers.map(lambda _: speed_alone(reader, threads, device), range(beside)))


def speed_alone(reader: FeatureReader, threads: int, device: str) -> float:
    """The same in this thread, whatever others do."""
    size = SPEED_SIDE, SPEED_SIDE
    reader.backbone.to(device)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    content = reader.read_content(image)

    def forward() -> FeatureSums:
        return measure_sums(reader, image, content, whole_tile(*size))

    def step() -> None:
        sums = forward()
        pull_back(sums, image, sums.holding([torch.ones_like(value) for value in sums.tensors]))
        if device == "cuda":
            torch.cuda.synchronize()

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        flops = 2 * reading_flops(reader, *size)  # backward by the image alone takes as many
        image.requires_grad_()
        step()
        return flops / statistics.median(seconds_of(step) for _ in range(SPEED_RUNS))
    finally:
        torch.set_num_threads(before)


def reading_flops(reader: FeatureReader, height: int, width: int) -> int:
    """FLOP of a forward pass over an image of this size, and of its Gram products."""
    style, content = reader.layers.style, reader.layers.content
    forward = forward_flops(reader.backbone, {*style, *content}, height, width)
    return forward + gram_flops(reader.backbone, style, height, width)


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
