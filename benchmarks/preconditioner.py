"""How many steps does the preconditioner save?

The same pictures are painted with it and without, by L-BFGS and by Adam: at one scale from the content, and over all
scales with what the optimiser has learnt carried from one to the next. Losses are those of the objective; at the end
they are those of the picture as it is written, clamped to the range of pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import page
import scene as scenes
import torch
from scene import Scene
from speed import carried as resized

from parallel_nst.files.images import Picture, fit, read_image, resize
from parallel_nst.files.size import Size
from parallel_nst.networks.weights.states import State
from parallel_nst.painting.gatys.minimise import Iteration, Minimum, finish, minimise
from parallel_nst.painting.gatys.optimizers.choice import make_optimizer
from parallel_nst.painting.gatys.preconditioner import Filter, broadened, unchanged
from parallel_nst.painting.planning.scales import enlarged, framed, framed_size
from parallel_nst.recipe import Recipe, scale_sizes, scale_steps
from parallel_nst.workers.opening import usable_cores

WAYS: Mapping[str, Filter] = {"without": unchanged, "with": broadened}
SHOWN = (10, 20, 40)  # steps after which the loss is shown


def scene_of(content: Picture, style: Picture, side: int, recipe: Recipe, state: State) -> Scene:
    """At this longest side."""
    return scenes.scene(content, style, framed_size(fit(content.size, side)), recipe, state)


def started(pixels: np.ndarray, scene: Scene, state: Any = None) -> Iteration:
    """state: an optimiser's, carried over from another scale."""
    image = torch.from_numpy(pixels)[None]
    return Iteration.start(image, make_optimizer(scene.recipe).init(image) if state is None else state)


def painted(scene: Scene, start: Iteration, steps: int, way: str) -> tuple[list[float], Minimum, Any]:
    """The losses of the images that are evaluated, what comes of it and the optimiser's state."""
    objective, losses, iteration = scene.whole(), [], start
    for iteration in minimise(objective, start, make_optimizer(scene.recipe, through=WAYS[way]), steps):
        losses.append(iteration.loss)
    return losses, finish(objective, iteration), iteration.state


def from_content(scene: Scene, way: str, steps: int) -> tuple[list[float], float]:
    """One scale: the losses on the way, and that of the picture in the end."""
    losses, best, _ = painted(scene, started(scene.content.whole, scene), steps, way)
    return losses, best.loss


def over_scales(pictures: tuple[Picture, Picture], recipe: Recipe, state: State, way: str) -> float:
    """The loss of the picture at the finest of all scales."""
    sides = scale_sizes(recipe.size, recipe.scales)
    steps = scale_steps(recipe.steps, recipe.step_growth, len(sides))
    size = fit(pictures[0].size, sides[0])
    pixels, carried = framed(resize(pictures[0].pixels, size), size).whole, None
    for side, count in zip(sides, steps, strict=True):
        scene, before = scene_of(*pictures, side, recipe, state), Size(*pixels.shape[-2:])
        pixels, after = enlarged(pixels, fit(pictures[0].size, side)), scene.content.size
        if carried is not None:
            carried = resized(carried, before, after)
        _, best, carried = painted(scene, started(pixels, scene, carried), count, way)
        pixels = best.image[0].numpy()
    return best.loss


def reached(losses: list[float], loss: float) -> str:
    """After how many steps the loss is this or less."""
    return next((str(step) for step, value in enumerate(losses) if value <= loss), "-")


def one_scale_rows(name: str, scene: Scene, steps: int) -> list[list[object]]:
    """A row for each optimiser and way."""
    rows: list[list[object]] = []
    for optimizer in ("lbfgs", "adam"):
        recipe = replace(scene.recipe, optimizer=optimizer)
        chosen = replace(scene, resolved=replace(scene.resolved, recipe=recipe))
        ends = {way: from_content(chosen, way, steps) for way in WAYS}
        goal = ends["without"][0][-1]
        for way, (losses, end) in ends.items():
            shown = [f"{losses[step]:.4f}" for step in SHOWN if step < steps]
            rows.append([name, optimizer, way, *shown, f"{end:.4f}", reached(losses, goal)])
            print(*rows[-1], flush=True)
    return rows


def scale_rows(
    name: str, pictures: tuple[Picture, Picture], recipe: Recipe, state: State, counts: list[int]
) -> list[list[object]]:
    """A row for each number of steps at the finest scale."""
    rows: list[list[object]] = []
    for steps in counts:
        ends = [over_scales(pictures, replace(recipe, steps=steps), state, way) for way in WAYS]
        rows.append([name, steps, *(f"{end:.4f}" for end in ends)])
        print(*rows[-1], flush=True)
    return rows


def options_of() -> argparse.Namespace:
    parser = scenes.parser(__doc__)
    parser.add_argument("--weights", type=Path, help="of VGG19; without it they are random, as those of ResNet50 are")
    parser.add_argument("--pair", type=Path, nargs=2, action="append", default=[], help="more: a content and a style")
    parser.add_argument("--backbones", nargs="+", default=["embedded", "vgg19", "resnet50"])
    parser.add_argument("--side", type=int, default=256, help="longest side in px")
    parser.add_argument("--steps", type=int, default=60, help="at one scale")
    parser.add_argument("--finest", type=int, nargs="+", default=[10, 12, 14, 20], help="steps at the finest scale")
    options = parser.parse_args()
    if options.quick:
        options.side, options.steps, options.finest = 64, 12, [2]
    return options


def main() -> None:
    options = options_of()
    torch.set_num_threads(usable_cores())
    pairs = [(options.content, options.style), *map(tuple, options.pair)]
    one_scale, all_scales = [], []
    for backbone in options.backbones:
        state = scenes.weights(backbone, options.weights if backbone == "vgg19" else None)
        recipe = Recipe(backbone=backbone, size=options.side)
        for files in pairs if backbone != "resnet50" else pairs[:1]:
            pictures = read_image(files[0]), read_image(files[1])
            name = f"{backbone}, {files[0].stem}, {files[1].stem}"
            one_scale += one_scale_rows(name, scene_of(*pictures, options.side, recipe, state), options.steps)
            if backbone == "embedded":
                all_scales += scale_rows(name, pictures, recipe, state, options.finest)
    shown = [f"after {step}" for step in SHOWN if step < options.steps]
    parts = [
        f"Pictures of {options.side} px. VGG19 has "
        f"{'the weights of ' + options.weights.name if options.weights else 'random weights (He et al. 2015)'}, "
        f"ResNet50 random ones. `written`: the loss of the picture as it is written, after {options.steps} steps. "
        f"`as good`: the steps after which the loss is what it is after {options.steps - 1} without.",
        "One scale, from the content:",
        page.table(["", "optimiser", "preconditioner", *shown, "written", "as good"], one_scale),
        "All scales, L-BFGS, each carrying on with the curvature of the one before; the loss of the picture written:",
        page.table(["", "steps at the finest", *WAYS], all_scales),
    ]
    print(page.write(__file__, "Steps that the preconditioner saves", parts, quick=options.quick))


if __name__ == "__main__":
    main()
