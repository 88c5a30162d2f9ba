"""What do exact tiles cost over the same numerics in one piece, and does the forecast know?

Steps of both in turn, in blocks. The arithmetic is counted, product by product, and held against what `pnst plan`
would print.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path

import page
import scene as scenes
from scene import Grid, Scene

from parallel_nst.files.size import Size
from parallel_nst.painting.planning.forecast import ScaleForecast, scale_forecast
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.recipe import Recipe
from parallel_nst.workers.opening import open_pool, usable_cores
from parallel_nst.workers.pool import Pool, SerialPool

GRIDS: tuple[Grid, ...] = ((1, 2), (2, 2), (3, 3))
WHOLE = "one piece"
POOLS = (PROCESSES, THREADS) = ("processes of Ray", "threads of this process")


@dataclass
class Run:
    """An optimisation that is begun again with every block. blocks: the median seconds of a step of each."""

    scene: Scene
    pool: Pool
    grid: Grid
    kept: int
    blocks: list[float] = field(default_factory=list)

    def block(self, steps: int) -> None:
        """So many steps."""
        self.blocks.append(statistics.median(self.scene.step_seconds(self.pool, self.grid, steps, self.kept)))


def predicted(scene: Scene, grid: Grid, kept: int, workers: int) -> ScaleForecast:
    """What `pnst plan` says of a step."""
    reader, layers = scene.reader, scene.resolved.layers
    costs = profile(reader.backbone, layers.style, layers.content, reader.dtype)
    budget = Budget(workers, 1 << 40, costs)
    return scale_forecast(scene.plan(grid, kept), scene.resolved, budget, 1e12)


def counted(scene: Scene, grid: Grid, kept: bool) -> int:
    """FLOP of a gradient in tiles, all in this process."""
    tiles = grid[0] * grid[1]
    objective = scene.tiled(grid, tiles if kept else 0)
    objective.value(scene.image())  # the content's features, once a scale
    return scenes.counted_flops(lambda: objective.value_and_gradient(scene.image()))


def main() -> None:
    parser = scenes.parser(__doc__)
    parser.add_argument("--backbone", default="embedded", help="vgg19 has random weights unless --weights are given")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of a block")
    options = parser.parse_args()
    size, blocks, steps = Size(768, 1024), options.blocks, options.steps
    if options.quick:
        size, blocks, steps = Size(256, 288), 1, 2
    state = scenes.weights(options.backbone, options.weights)
    scene = scenes.scene(*scenes.pictures(options), size, Recipe(backbone=options.backbone), state)
    pools = {name: open_pool(scene.recipe, workers=2, weights=state, in_process=name == THREADS) for name in POOLS}
    crew = pools[THREADS].crew
    cuts = [(name, grid, kept) for name in POOLS for grid in GRIDS for kept in (True, False)]
    runs = {WHOLE: Run(scene, SerialPool(scene.spec(usable_cores())), (1, 1), 1)}
    for name, grid, kept in cuts:
        runs[f"{name} {grid} {kept}"] = Run(scene, pools[name], grid, grid[0] * grid[1] if kept else 0)
    try:
        for _ in range(blocks + 1):
            for name, run in runs.items():
                run.block(steps)
                print(name, f"{run.blocks[-1]:.3f} s", flush=True)
    finally:
        for pool in pools.values():
            pool.close()
    taken = {name: run.blocks[1:] for name, run in runs.items()}
    whole, own = scene.whole(), taken[WHOLE]
    flops = scenes.counted_flops(lambda: whole.value_and_gradient(scene.image()))
    rows = [[WHOLE, "", "", page.spread(own, 3), "", f"{flops / 1e9:.1f}", "", "", ""]]
    off = []
    for name, grid, kept in cuts:
        measured, seconds = counted(scene, grid, kept), taken[f"{name} {grid} {kept}"]
        forecast = predicted(scene, grid, grid[0] * grid[1] if kept else 0, crew.workers)
        off.append(forecast.overhead / (measured / flops) - 1)
        rows.append(
            [
                f"{grid[0]}x{grid[1]}",
                name,
                "all" if kept else "none",
                page.spread(seconds, 3),
                page.spread(scenes.ratios(seconds, own), 2),
                f"{measured / 1e9:.1f}",
                f"{measured / flops:.3f}",
                f"{forecast.overhead:.3f}",
                f"{off[-1]:+.1%}",
            ]
        )
    parts = [
        f"{options.backbone} in {scene.dtype}, {size} px of {options.content.stem}; {crew.workers} "
        f"workers x {crew.threads} threads against one process x {usable_cores()} threads, same objective and "
        f"optimiser. A step: gradient and L-BFGS update. {blocks} blocks of {steps} steps of each in turn, after one "
        "to warm up; median of the blocks' medians (least to greatest). Arithmetic: products of a gradient, counted; "
        "forecast: the overhead that `pnst plan` prints. Graphs kept: whether workers keep the first half's "
        "graphs for the second.",
        f"The forecast is off by {max(off, key=abs):+.1%} at most.",
        page.table(
            [
                "tiles",
                "workers",
                "graphs kept",
                "s a step",
                "times one piece",
                "GFLOP",
                "overhead",
                "forecast",
                "forecast off by",
            ],
            rows,
        ),
    ]
    print(page.write(__file__, "What exact tiles cost", parts, quick=options.quick))


if __name__ == "__main__":
    main()
