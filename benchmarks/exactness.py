"""Is a picture in exact tiles the picture in one piece?

In double precision, where nothing but rounding can differ: gradient and the picture after three L-BFGS steps, in tiles
against one piece, over backbones, cuts, odd sizes and workers. Then whole runs in the default precision: the loss.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import page
import scene as scenes
import torch
from scene import Grid, Scene
from torch import Tensor

from parallel_nst.files.images import Picture
from parallel_nst.files.size import Size
from parallel_nst.painting.exact.mode import Exact
from parallel_nst.painting.gatys.minimise import Iteration, Objective, finish, minimise
from parallel_nst.painting.gatys.optimizers.choice import make_optimizer
from parallel_nst.painting.mode import Due
from parallel_nst.painting.planning.scales import FRAME
from parallel_nst.painting.stylize import stylize
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.opening import open_pool, usable_cores
from parallel_nst.workers.pool import Pool, SerialPool

STEPS = 3
NOISE = 0.1  # so that no two neighbours are equal, where max pooling would leave the choice to rounding


@dataclass(frozen=True)
class Case:
    """size: with the frame; grids: cuts to try."""

    backbone: str
    size: Size
    grids: tuple[Grid, ...]


CASES = (
    Case("embedded", Size(192, 256), ((1, 2), (2, 2), (3, 3), (4, 5))),
    Case("embedded", Size(173, 229), ((2, 1), (2, 3), (5, 4))),
    Case("vgg16", Size(165, 211), ((1, 2), (2, 3))),
    Case("vgg19", Size(157, 241), ((2, 1), (2, 3))),
    Case("squeezenet", Size(189, 253), ((2, 2), (3, 3))),
    Case("resnet50", Size(187, 417), ((1, 2), (1, 3))),
)
QUICK = (Case("embedded", Size(101, 133), ((1, 2),)), Case("squeezenet", Size(87, 101), ((2, 1),)))


def painted(scene: Scene, objective: Objective) -> Tensor:
    """What comes of a few steps from the noisy content."""
    image, optimizer = scene.image(NOISE), make_optimizer(scene.recipe)
    *_, last = minimise(objective, Iteration.start(image, optimizer.init(image)), optimizer, STEPS)
    return finish(objective, last).image


def painted_on(scene: Scene, pool: Pool, grid: Grid) -> Tensor:
    """The same in tiles on a pool."""
    mode = Exact(replace(scene.scale(grid), steps=STEPS), scene.resolved, pool)
    *_, last = mode.states(mode.start(scene.image(NOISE)[0].numpy()), lambda index, progress: None, Due())
    return torch.from_numpy(mode.result(last).pixels)[None]


def compared(case: Case, content: Picture, style: Picture) -> list[list[object]]:
    """Rows of the table, one for every cut and number of workers, each with its errors as its last three."""
    recipe = Recipe(backbone=case.backbone, dtype="float64")
    scene = scenes.scene(content, style, case.size, recipe, scenes.weights(case.backbone))
    whole, noisy = scene.whole(), scene.image(NOISE)
    (_, own_gradient), own_image = whole.value_and_gradient(noisy), painted(scene, whole)
    rows = []
    with open_pool(recipe, workers=2, weights=scene.state) as ray:
        for grid, pool in itertools.product(case.grids, (SerialPool(scene.spec(usable_cores())), ray)):
            if pool is ray and ray.size == 1:
                continue
            (_, gradient), image = scene.tiled(grid).value_and_gradient(noisy), painted_on(scene, pool, grid)
            wrong = gradient - own_gradient
            errors = wrong.norm() / own_gradient.norm(), wrong.abs().max() / own_gradient.abs().max()
            size, cut = str(case.size), f"{grid[0]}x{grid[1]}"
            moved = (image - own_image).abs().max()
            rows.append([case.backbone, size, cut, pool.size, *map(float, errors), float(moved)])
            print(*rows[-1], flush=True)
    return rows


def losses(content: Picture, style: Picture, size: int) -> tuple[float, dict[str, float]]:
    """Of whole runs with the default recipe: in one piece, and by cut with every scale in tiles on two workers."""
    recipe = Recipe(size=size, tiling=TilingSpec(mode="exact", whole=size))
    with open_pool(recipe, workers=2) as pool:
        own = stylize(content, style, recipe, pool).loss
        tilings = {cut: TilingSpec(mode="exact", tiles=cut, whole=0) for cut in ("1x2", "2x2", "3x3")}
        return own, {c: stylize(content, style, replace(recipe, tiling=t), pool).loss for c, t in tilings.items()}


def main() -> None:
    options = scenes.parser(__doc__).parse_args()
    content, style = scenes.pictures(options)
    rows = [row for case in (QUICK if options.quick else CASES) for row in compared(case, content, style)]
    size = 192 if options.quick else 512
    whole, tiled = losses(content, style, size)
    parts = [
        f"Double precision; {options.content.stem} with a little noise, painted like {options.style.stem}. Embedded "
        "has its own weights, the other backbones random ones (He et al. 2015). Gradient: the difference between "
        "tiles and one piece over the gradient in one piece, of the norms and of the greatest elements. Image: the "
        f"greatest difference after {STEPS} L-BFGS steps, pixels being 0 to 1. Sizes include the frame of {FRAME} px.",
        f"Greatest of all: gradient {max(row[-3] for row in rows):.1e} (norm), {max(row[-2] for row in rows):.1e} "
        f"(element); image {max(row[-1] for row in rows):.1e}.",
        page.table(
            ["backbone", "px", "rows x columns", "workers", "gradient, norm", "gradient, element", "image"],
            [[*row[:-3], *(f"{error:.1e}" for error in row[-3:])] for row in rows],
        ),
        f"Default precision and recipe at {size} px, every scale in exact tiles on two workers. Rounding differs, and "
        f"L-BFGS enlarges small differences; the loss should not care. In one piece {whole:.5f}.",
        page.table(
            ["rows x columns", "final loss", "over that in one piece"],
            [[cut, f"{loss:.5f}", f"{loss / whole:.4f}"] for cut, loss in tiled.items()],
        ),
    ]
    print(page.write(__file__, "Exact tiles against one piece", parts, quick=options.quick))


if __name__ == "__main__":
    main()
