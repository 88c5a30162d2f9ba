"""How many steps a second do 1 and 2 workers make, does a small model know why, and what does it expect of 256?

The model adds up, for one step: the arithmetic of the worker that has most, at its measured speed; the bytes that go
through the driver, at their measured rate; a latency for every task; and what the driver does alone, for every step,
tile and px. Nothing is taken to overlap.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import page
import scene as scenes
import torch
from parallel_nst.painting.exact.hub import TiledObjective
from scene import Scene

from parallel_nst.painting.gatys.minimise import Iteration, minimise
from parallel_nst.painting.gatys.objective import cotangents
from parallel_nst.painting.gatys.optimizers import make_optimizer, resize_state
from parallel_nst.painting.planning.forecast import measured_speed, moved, seconds_of, tile_flops
from parallel_nst.painting.planning.memory import parse_memory
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import FRAME, ScalePlan
from parallel_nst.painting.planning.tilings import Budget, exact_tiling
from parallel_nst.painting.tiles.geometry import plan_tiles, scatter_add
from parallel_nst.recipe import Recipe
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.opening import usable_cores
from parallel_nst.workers.pool import Pinned
from parallel_nst.workers.ray.cluster import RayCluster
from parallel_nst.workers.ray.pool import RayPool
from parallel_nst.workers.worker import Progress, Worker

LARGE, SMALL = 3 << 20, 3  # numbers in the arrays that are sent to and fro to measure a rate and a latency
TASKS, REPEATS = 20, 5
NETWORK = 10e9 / 8  # bytes a second, for workers on other machines
CREWS = tuple(2**i for i in range(9))


@dataclass(frozen=True)
class Echo:
    """A task that sends its array back."""

    pixels: np.ndarray

    def run(self, worker: Worker) -> Generator[Progress, None, np.ndarray]:
        return self.pixels
        yield


@dataclass(frozen=True)
class Costs:
    """speed: FLOP a second of a worker. rate: bytes a second through the driver. The others are seconds: of a task of
    nothing when many are sent, and of the driver for each step, tile, px that tiles read and px of the picture."""

    speed: float
    rate: float
    task: float
    step: float
    tile: float
    read: float
    pixel: float

    def seconds(self, scene: Scene, plan: ScalePlan, budget: Budget) -> float:
        """Of one step of a picture cut like this."""
        flops, tiles, workers = tile_flops(plan, budget), plan.tiles, budget.workers
        slowest = max(flops[worker::workers].sum() for worker in range(workers))
        sent = moved(plan, scene.resolved, workers) / self.rate
        px, read = sum(tile.core.area for tile in tiles), sum(tile.read.area for tile in tiles)
        alone = self.step + len(tiles) * (self.tile + 2 * self.task) + read * self.read + px * self.pixel
        return float(slowest / self.speed + sent + alone)


def median(run: Callable[[], object]) -> float:
    """Seconds."""
    return statistics.median(seconds_of(run) for _ in range(REPEATS))


def echoed(pool: RayPool, numbers: int) -> float:
    """Seconds of one of many tasks that send so many numbers to one worker and back."""
    tasks = [Pinned(0, Echo(np.zeros(numbers, np.float32))) for _ in range(TASKS)]
    return median(lambda: list(pool.map_pinned(tasks))) / TASKS


def charged(scene: Scene) -> tuple[Any, float]:
    """An optimiser's state with its history full, from steps on a quadratic form, and the median seconds of a step."""
    image, optimizer, seconds = scene.image(), make_optimizer(scene.recipe), []
    curvature, state = torch.rand(image.shape) + 0.1, optimizer.init(image)
    for number in range(scene.recipe.history + REPEATS):
        gradient, began = curvature * (image - 0.5), time.perf_counter()
        image, state = optimizer.step(state, image, 1 / (number + 1), gradient)
        seconds.append(time.perf_counter() - began)
    carried = resize_state(state, lambda values: values, 1.0)  # as from another scale: the pairs alone
    return carried, statistics.median(seconds[-REPEATS:])


def measured_costs(scene: Scene, pool: RayPool) -> Costs:
    """On this machine, one after the other."""
    echoed(pool, LARGE)  # to warm up
    task, loaded = echoed(pool, SMALL), echoed(pool, LARGE)
    image = scene.image()
    sums = scene.whole().sums(image).to("cpu", torch.float64)
    image, tile = image[0].numpy(), scene.scale((1, 1)).tiles[0]
    total, pixels = np.zeros_like(image), tile.core.area
    return Costs(
        speed=measured_speed(scene.reader, 1),
        rate=2 * 4 * LARGE / max(loaded - task, 1e-9),
        task=task,
        step=median(lambda: cotangents(sums, scene.style, scene.resolved)),
        tile=median(lambda: sums + sums.to("cpu", torch.float32).to("cpu", torch.float64)),
        read=median(lambda: scatter_add(total, tile.read, image)) / pixels,
        pixel=charged(scene)[1] / pixels,
    )


def planned(scene: Scene, side: int, budget: Budget) -> ScalePlan:
    """How a square picture is cut for these workers. ValueError when it does not fit their memory."""
    layer, size = scene.layer, (side - 2 * FRAME, side - 2 * FRAME)
    tiling = exact_tiling((side, side), budget, layer)
    tiles = plan_tiles(side, side, tiling.grid, halo=layer.margin, align=layer.stride)
    return ScalePlan(size, size, 1, tiles, True, tiling.kept)


class Run:
    """An optimisation on a pool that goes on block after block."""

    def __init__(self, scene: Scene, pool: RayPool, plan: ScalePlan) -> None:
        self._optimizer = make_optimizer(scene.recipe)
        self._objective = TiledObjective(
            replace(scene.scale((1, 1), plan.kept), tiles=plan.tiles), scene.resolved, pool
        )
        self._iteration = Iteration.start(scene.image(), charged(scene)[0])

    def block(self, steps: int) -> float:
        """So many steps; seconds of one."""
        began = time.perf_counter()
        for iteration in minimise(self._objective, self._iteration, self._optimizer, self._iteration.step + steps):
            self._iteration = iteration
        return (time.perf_counter() - began) / steps


def expected(costs: Costs, scene: Scene, side: int, budget: Budget) -> str:
    """Seconds of a step, over this machine's memory and over a network; and tiles."""
    try:
        plan = planned(scene, side, budget)
    except ValueError:
        return "does not fit"
    over = replace(costs, rate=min(costs.rate, NETWORK))
    near, far = (one.seconds(scene, plan, budget) for one in (costs, over))
    return f"{near:.3g} / {far:.3g} ({len(plan.tiles)})"


def main() -> None:
    parser = scenes.parser(__doc__)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of a block")
    parser.add_argument("--memory", default="4GiB", help="of a worker")
    options = parser.parse_args()
    sides, far, crews, blocks = (1024, 2048), (2048, 8192, 16384), CREWS, options.blocks
    if options.quick:
        sides, far, crews, blocks = (256,), (1024,), (1, 4, 256), 1
    pictures, state, memory = scenes.pictures(options), scenes.weights("embedded"), parse_memory(options.memory)
    all_scenes = {side: scenes.scene(*pictures, (side, side), Recipe(), state) for side in sides}
    first = next(iter(all_scenes.values()))
    layers = first.resolved.layers
    costs_of_px = profile(first.reader.backbone, layers.style, layers.content, first.reader.dtype)
    budgets = {workers: Budget(workers, memory, costs_of_px) for workers in crews}
    cluster = RayCluster(None, 3)
    pools = {workers: RayPool(cluster, first.spec(1), Crew(workers, 1)) for workers in (1, 2)}
    torch.set_num_threads(usable_cores())
    rows: list[list[object]] = []
    try:
        costs = measured_costs(first, pools[1])
        print(costs, flush=True)
        for side, scene in all_scenes.items():
            seconds: dict[int, list[float]] = defaultdict(list)
            plans = {workers: planned(scene, side, Budget(workers, memory, costs_of_px)) for workers in pools}
            runs = {workers: Run(scene, pool, plans[workers]) for workers, pool in pools.items()}
            for block in range(blocks + 1):
                for workers, run in runs.items():
                    taken = run.block(options.steps)
                    print(side, workers, f"{taken:.3f} s a step", flush=True)
                    if block:
                        seconds[workers].append(taken)
            for workers, taken in seconds.items():
                model = costs.seconds(scene, plans[workers], Budget(workers, memory, costs_of_px))
                rows.append(
                    [
                        side,
                        workers,
                        len(plans[workers].tiles),
                        page.spread([1 / value for value in taken], 3),
                        f"{1 / model:.3f}",
                        f"{model / statistics.median(taken) - 1:+.0%}",
                        page.spread(scenes.ratios(seconds[1], taken), 2),
                    ]
                )
    finally:
        for pool in pools.values():
            pool.close()
    values = asdict(costs)
    parts = [
        f"Embedded in {first.dtype}, square pictures of {options.content.stem} with their frame, exact tiles as they "
        f"are planned for {options.memory} a worker, one thread each, on one machine; {blocks} blocks of "
        f"{options.steps} steps of each crew in turn after one to warm up, lbfgs with its history full. Median (least "
        "to greatest).",
        page.table(["px", "workers", "tiles", "steps a second", "model", "model's s off by", "speed-up"], rows),
        f"What the model was told, measured by itself: a worker {values['speed'] / 1e9:.0f} GFLOP/s on a tile of 256 "
        f"px with the machine to itself; {values['rate'] / 1e9:.2f} GB/s to a worker and back; "
        f"{values['task'] * 1e3:.2f} ms a task; of the driver {values['step'] * 1e3:.2f} ms a step, "
        f"{values['tile'] * 1e3:.2f} ms a tile, {values['read'] * 1e9:.1f} ns for "
        f"each px that tiles read and {values['pixel'] * 1e9:.0f} ns for each px of the picture.",
        "Not measured but expected, by the same model: seconds a step with workers at this machine's rate / with all "
        "bytes through one network link of 10 Gbit/s at the driver, and the number of tiles.",
        page.table(
            ["workers", *(f"{side}x{side} px" for side in far)],
            [[crew, *(expected(costs, first, side, budgets[crew]) for side in far)] for crew in crews],
        ),
    ]
    print(page.write(__file__, "Scaling of exact tiles", parts, quick=options.quick))


if __name__ == "__main__":
    main()
