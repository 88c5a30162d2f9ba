"""How many steps a second do 1 and 2 workers make, does a small model know why, and what does it expect of 256?

The model adds up, for one step: the arithmetic of the worker that has most, at its measured speed; the bytes that a
worker sends, at their measured rate; latencies of messages and gatherings; and the optimiser's time for the px that a
worker owns. Nothing is taken to overlap. What two workers could gain at most on this machine is measured too: each
paints half of the picture, and they never meet.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import page
import scene as scenes
import torch
from scene import Scene

from parallel_nst.files.size import Size
from parallel_nst.painting.gatys.optimizers.choice import make_optimizer
from parallel_nst.painting.planning.forecast import SPEED_SIDE, measured_speed, moved, tile_flops
from parallel_nst.painting.planning.memory import parse_memory
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import ScalePlan, unframed_size
from parallel_nst.painting.planning.tilings import Budget, Tiling, exact_tiling
from parallel_nst.painting.tiles.geometry import plan_tiles
from parallel_nst.painting.tiles.ownership import deal
from parallel_nst.recipe import Recipe
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.opening import usable_cores
from parallel_nst.workers.pool import Events, Pool, RankWork
from parallel_nst.workers.ranks.communicator import Alone, Communicator
from parallel_nst.workers.ray.cluster import RayCluster
from parallel_nst.workers.ray.pool import RayPool
from parallel_nst.workers.worker import Worker

LARGE, SMALL = 3 << 20, 3  # numbers that ranks send each other to measure a rate and a latency
TALKS, REPEATS = 20, 5
NETWORK = 10e9 / 8  # bytes a second of each worker, for workers on other machines
APART = 0  # in place of a number of workers: two that never meet
CREWS = tuple(2**i for i in range(9))
GPU_MEMORY, GPU_SPEED, GPU_PIXEL = 64 << 30, 2e13, 1e-9  # bytes, FLOP a second, seconds; assumed
GATHERINGS = 8  # of a step: losses, sums, inner products and what else all ranks must know


@dataclass(frozen=True)
class Talk:
    """A rank's work: seconds in which all send so many numbers to the next rank, and in which all hear a few of all."""

    numbers: int

    def run(self, worker: Worker, ranks: Communicator) -> Generator[Any, None, tuple[float, float]]:
        following, before = (ranks.rank + 1) % ranks.size, (ranks.rank - 1) % ranks.size
        values, few = torch.zeros(self.numbers), torch.zeros(SMALL)
        sent, heard = [], []
        for _ in range(TALKS):
            began = time.perf_counter()
            ranks.exchange({following: values}, {before: torch.empty_like(values)})
            between = time.perf_counter()
            ranks.gather(few)
            sent.append(between - began)
            heard.append(time.perf_counter() - between)
        return statistics.median(sent), statistics.median(heard)
        yield


@dataclass(frozen=True)
class Apart:
    """Each rank does the same work by itself; the first tells of it."""

    work: RankWork

    def run(self, worker: Worker, ranks: Communicator) -> Generator[Any, None, Any]:
        events = self.work.run(worker, Alone())
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value
            if ranks.rank == 0:
                yield event


class Twins(Pool):
    """As a pool of one worker, while another one does the same beside it."""

    def __init__(self, pool: Pool) -> None:
        """pool: of two workers."""
        self._pool, self.spec, self.crew, self.mortal, self.share = pool, pool.spec, pool.crew, False, pool.share

    def muster(self, ranks: int) -> int:
        return self._pool.muster(2) - 1

    def together(self, works: Sequence[RankWork]) -> Events:
        results = yield from self._pool.together([Apart(works[0]), Apart(works[0])])
        return results[:1]


@dataclass(frozen=True)
class Costs:
    """speed: FLOP a second of a worker, with as many at work as there are. rate: bytes a second that a worker sends.
    Seconds: `message` of an exchange of next to nothing, `gather` of a gathering of two ranks, and of the optimiser for
    each px."""

    speed: float
    rate: float
    message: float
    gather: float
    pixel: float

    def seconds(self, scene: Scene, plan: ScalePlan, budget: Budget) -> float:
        """Of one step of a picture cut like this."""
        ownership = deal(plan.tiles, [1.0] * budget.workers)
        flops = np.add.reduceat(tile_flops(plan, budget), ownership.first[:-1])
        px = max(sum(tile.core.area for tile in ownership.of(rank)) for rank in range(ownership.ranks))
        return float(flops.max()) / self.speed + px * self.pixel + self.talking(scene, plan, ownership.ranks)

    def talking(self, scene: Scene, plan: ScalePlan, ranks: int) -> float:
        """What of it goes to messages. A gathering takes as many rounds as it takes to double one rank to all."""
        if ranks == 1:
            return 0.0
        sent = moved(plan, scene.resolved, ranks) / ranks / self.rate
        return sent + 3 * self.message + GATHERINGS * math.ceil(math.log2(ranks)) * self.gather


def charged(scene: Scene) -> float:
    """Median seconds of an optimiser's step with its history full, on a quadratic form, in one thread."""
    torch.set_num_threads(1)
    image, optimizer, seconds = scene.image(), make_optimizer(scene.recipe), []
    curvature, state = torch.rand(image.shape) + 0.1, optimizer.init(image)
    for number in range(scene.recipe.history + REPEATS):
        gradient, began = curvature * (image - 0.5), time.perf_counter()
        image, state = optimizer.step(state, image, 1 / (number + 1), gradient)
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(usable_cores())
    return statistics.median(seconds[-REPEATS:])


def talked(pool: Pool, numbers: int) -> tuple[float, float]:
    """Seconds of an exchange of so many numbers between two workers, and of a gathering."""
    pool.muster(2)
    events = pool.together([Talk(numbers), Talk(numbers)])
    while True:
        try:
            next(events)
        except StopIteration as end:
            return tuple(end.value[0])


def measured_costs(scene: Scene, pool: Pool) -> Costs:
    """On this machine, one after the other, of a worker that has it to itself. pool: of two workers."""
    talked(pool, LARGE)  # to warm up
    (message, gather), (loaded, _) = talked(pool, SMALL), talked(pool, LARGE)
    return Costs(
        speed=measured_speed(scene.reader, 1),
        rate=4 * LARGE / max(loaded - message, 1e-9),
        message=message,
        gather=gather,
        pixel=charged(scene) / scene.scale((1, 1)).tiles[0].core.area,
    )


def tiled(scene: Scene, size: Size, budget: Budget) -> Tiling:
    """How a framed picture is cut for these workers. ValueError when it does not fit their memory."""
    return exact_tiling(size, budget, scene.recipe, scene.layer)


def planned(scene: Scene, size: Size, budget: Budget) -> ScalePlan:
    """The same as a plan."""
    layer, tiling = scene.layer, tiled(scene, size, budget)
    tiles = plan_tiles(*size, tiling.grid, halo=layer.margin, align=layer.stride)
    return ScalePlan(unframed_size(size), unframed_size(size), 1, tiles, True, tiling.kept)


def expected(every: Sequence[Costs], scene: Scene, side: int, budget: Budget) -> str:
    """Seconds of a step of a square picture, at each of these costs, and its tiles."""
    try:
        plan = planned(scene, Size(side, side), budget)
    except ValueError:
        return "does not fit"
    return " / ".join(f"{costs.seconds(scene, plan, budget):.3g}" for costs in every) + f" ({len(plan.tiles)})"


def share_of_messages(costs: Costs, scene: Scene, side: int, budget: Budget) -> float:
    """What of a step of a square picture goes to them: all that could be gained by doing something else meanwhile."""
    plan = planned(scene, Size(side, side), budget)
    return costs.talking(scene, plan, budget.workers) / costs.seconds(scene, plan, budget)


def predictions(every: Sequence[Costs], scene: Scene, sides: Sequence[int], budgets: Sequence[Budget]) -> str:
    """A table of them, a row for each number of workers."""
    rows = [[budget.workers, *(expected(every, scene, side, budget) for side in sides)] for budget in budgets]
    return page.table(["workers", *(f"{side}x{side} px" for side in sides)], rows)


def main() -> None:
    parser = scenes.parser(__doc__)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of a block")
    parser.add_argument("--memory", default="4GiB", help="of a worker")
    options = parser.parse_args()
    near, far, crews, blocks = 1024, (2048, 8192, 16384), CREWS, options.blocks
    if options.quick:
        near, far, crews, blocks = 256, (1024,), (1, 4, 256), 1
    sizes = Size(near // 2, near), Size(near, near), Size(near, 2 * near), Size(2 * near, 2 * near)
    pictures, state, memory = scenes.pictures(options), scenes.weights("embedded"), parse_memory(options.memory)
    all_scenes = {size: scenes.scene(*pictures, size, Recipe(), state) for size in sizes}
    first = all_scenes[sizes[1]]
    layers = first.resolved.layers
    costs_of_px = profile(first.reader.backbone, layers.style, layers.content, first.reader.dtype)
    budgets = [Budget(workers, memory, costs_of_px) for workers in crews]
    cluster = RayCluster(None, 3)
    pools = {workers: RayPool(cluster, first.spec(1), Crew(workers, 1)) for workers in (1, 2)}
    torch.set_num_threads(usable_cores())
    rows: list[list[object]] = []
    seconds: dict[tuple[Size, int], list[float]] = defaultdict(list)
    try:
        alone = measured_costs(first, pools[2])
        costs = {1: alone, 2: replace(alone, speed=measured_speed(first.reader, 1, beside=2))}
        print(costs, flush=True)
        for half, size in pairwise(sizes):
            scene = all_scenes[size]
            plans = {workers: planned(scene, size, Budget(workers, memory, costs_of_px)) for workers in pools}
            for block in range(blocks + 1):
                for workers, pool in (*pools.items(), (APART, Twins(pools[2]))):
                    on, crew = (scene, workers) if workers != APART else (all_scenes[half], 1)
                    cut = tiled(on, on.content.size, Budget(crew, memory, costs_of_px))
                    taken = statistics.median(on.step_seconds(pool, cut.grid, options.steps, cut.kept))
                    print(size, workers, f"{taken:.3f} s a step", flush=True)
                    if block:
                        seconds[size, workers].append(taken)
            for workers in pools:
                taken = seconds[size, workers]
                model = costs[workers].seconds(scene, plans[workers], Budget(workers, memory, costs_of_px))
                rows.append(
                    [
                        size,
                        workers,
                        len(plans[workers].tiles),
                        page.spread([1 / value for value in taken], 3),
                        f"{1 / model:.3f}",
                        f"{model / statistics.median(taken) - 1:+.0%}",
                        page.spread(scenes.ratios(seconds[size, 1], taken), 2),
                        page.spread(scenes.ratios(seconds[size, 1], seconds[size, APART]), 2) if workers == 2 else "",
                    ]
                )
    finally:
        for pool in pools.values():
            pool.close()
    values, weak = asdict(costs[2]), scenes.ratios(seconds[sizes[1], 1], seconds[sizes[2], 2])
    pair = Budget(2, memory, costs_of_px)
    network = replace(costs[2], rate=min(costs[2].rate, NETWORK))
    gpu = replace(costs[2], speed=GPU_SPEED, rate=10 * NETWORK, pixel=GPU_PIXEL)
    gpus = [replace(budget, memory=GPU_MEMORY) for budget in budgets]
    parts = [
        f"Embedded in {first.dtype}, pictures of {options.content.stem} with their frame, exact tiles as they "
        f"are planned for {options.memory} a worker, one thread each, on one machine; {blocks} blocks of "
        f"{options.steps} steps of each crew in turn after one to warm up, lbfgs with its history full. Median (least "
        "to greatest).",
        page.table(
            ["px", "workers", "tiles", "steps a second", "model", "model's s off by", "speed-up", "apart"], rows
        ),
        "Apart: what this machine gives to two workers that share nothing but its memory. Each paints half of the "
        "picture as a picture of its own, without a halo or a message, and the times of the whole by one worker are "
        "held against theirs.",
        f"Weak scaling: a step of {sizes[1]} px with one worker takes {page.spread(weak, 2)} times as long as one of "
        f"{sizes[2]} px with two.",
        f"What the model was told, measured by itself: a worker {costs[1].speed / 1e9:.0f} GFLOP/s on a tile of "
        f"{SPEED_SIDE} px with the machine to itself, {values['speed'] / 1e9:.0f} with another beside it; "
        f"{values['rate'] / 1e9:.2f} GB/s from worker to worker; {values['message'] * 1e3:.2f} ms a message, "
        f"{values['gather'] * 1e3:.2f} ms a gathering of two, of which a step has {GATHERINGS}; of the optimiser "
        f"{values['pixel'] * 1e9:.0f} ns for each px that a worker owns.",
        "Not measured but expected, by the same model: seconds a step with workers at this machine's rate / with each "
        "worker at a network of 10 Gbit/s, and the number of tiles.",
        predictions([costs[2], network], first, far, budgets),
        f"Of a step of {far[-1]}x{far[-1]} px on {budgets[-1].workers} workers "
        f"{share_of_messages(network, first, far[-1], budgets[-1]):.1%} are messages at 10 Gbit/s, and of one of "
        f"{near}x{near} px on two of this machine {share_of_messages(costs[2], first, near, pair):.1%}: no more could "
        "be gained by computing meanwhile.",
        f"The same for a GPU each of {GPU_MEMORY >> 30} GiB, assumed to make {GPU_SPEED / 1e12:.0f} TFLOP/s on these "
        f"convolutions and {GPU_PIXEL * 1e9:g} ns of the optimiser for each px, at this machine's rate and latencies / "
        "in 100 Gbit/s with these latencies. None of it was measured on a GPU.",
        predictions([replace(gpu, rate=costs[2].rate), gpu], first, far, gpus),
    ]
    print(page.write(__file__, "Scaling of exact tiles", parts, quick=options.quick))


if __name__ == "__main__":
    main()
