"""How much sooner is a picture as good as the tutorials' way makes it, and how fast is a gradient for this processor?

The tutorials' way: float32, NCHW, autograd over the whole picture, torch.optim.LBFGS as it comes. Its loss after so
many evaluations is the target; this package has to reach it, judged by the same float32 objective, at the same size
from the same start.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import page
import scene as scenes
import torch
from scene import Scene
from torch import Tensor

from parallel_nst.files.images import Picture, fit
from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.painting.exact.parts import Resampling
from parallel_nst.painting.gatys.losses import gram_part
from parallel_nst.painting.gatys.minimise import Iteration, Objective, minimise
from parallel_nst.painting.gatys.optimizers.choice import make_optimizer
from parallel_nst.painting.gatys.optimizers.states import State, pack, resize_state
from parallel_nst.painting.planning.scales import enlarged, framed_size, unframed_size
from parallel_nst.painting.tiles.geometry import Rect
from parallel_nst.recipe import Recipe, scale_sizes, scale_steps
from parallel_nst.workers.opening import usable_cores

TUTORIAL = "tutorials' way"
HISTORY = 20  # pairs, for a run of a hundred steps; torch.optim.LBFGS keeps 100
LOUD = 1e6  # times the loss: the style weight of the tutorials, without which torch.optim.LBFGS stops at its tolerances
MATRIX = 4096
Trace = list[tuple[float, Tensor]]  # seconds, and the best image evaluated by then
Seconds = dict[str, list[float]]


class Tutorial:
    """The objective of a scene as the tutorials write it; also the judge of all pictures."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._style = scene, scene.style
        self._backbone = build_backbone(scene.recipe.backbone, scene.state)
        with torch.no_grad():
            features = self._features(scene.image())
        self._content = {name: features[name] for name in scene.resolved.layers.content}

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        x, features = (image - self._backbone.mean) / self._backbone.std, {}
        wanted = {**self._scene.resolved.layers.style, **self._scene.resolved.layers.content}
        for block in self._backbone.blocks:
            if len(features) == len(wanted):
                break
            x = block.module(x)
            if block.name in wanted:
                features[block.name] = x
        return features

    def loss(self, image: Tensor) -> Tensor:
        features, layers, recipe, total = self._features(image), self._scene.resolved.layers, self._scene.recipe, 0.0
        for name, weight in layers.style.items():
            flat = features[name].flatten(2)[0]
            wrong = (flat @ flat.T / flat.shape[1] - gram_part(self._style.grams[name]).float()).square().sum()
            total += recipe.style_weight * weight / sum(layers.style.values()) * wrong / self._style.norms[name]
        for name, weight in layers.content.items():
            wrong = (features[name] - self._content[name]).square().mean() / self._style.powers[name]
            total += recipe.content_weight * weight / sum(layers.content.values()) * wrong
        return total

    def run(self, start: Tensor, evaluations: int) -> tuple[float, float]:
        """Seconds, and the lowest loss seen."""
        image, seen = start.clone().requires_grad_(), []
        optimizer = torch.optim.LBFGS([image])

        def closure() -> Tensor:
            if len(seen) == evaluations:
                raise StopIteration
            optimizer.zero_grad()
            loss = self.loss(image)
            (LOUD * loss).backward()
            seen.append(float(loss.detach()))
            return LOUD * loss.detach()

        began = time.perf_counter()
        try:
            while len(seen) < evaluations:
                optimizer.step(closure)
        except StopIteration:
            pass
        return time.perf_counter() - began, min(seen)


def single(scene: Scene, objective: Objective, start: Iteration | None = None) -> Iterator[Iteration]:
    """Steps without end at one size."""
    optimizer = make_optimizer(scene.recipe)
    first = start or Iteration.start(scene.image(), optimizer.init(scene.image()))
    return minimise(objective, first, optimizer, 10**6)


def coarse_first(coarse: list[Scene], scene: Scene, objective: Objective) -> Iterator[Iteration]:
    """The same after the steps that the default recipe takes at each coarser scale."""
    steps = scale_steps(scene.recipe.steps, scene.recipe.step_growth, len(coarse) + 1)
    optimizer, image = make_optimizer(scene.recipe), coarse[0].image()
    start = Iteration.start(image, optimizer.init(image))
    for one, count, larger in zip(coarse, steps, [*coarse[1:], scene], strict=False):
        *_, last = minimise(one.whole(), start, optimizer, count)
        image = torch.from_numpy(enlarged(last.image[0].numpy(), unframed_size(larger.content.size)))[None]
        start = Iteration.start(image, carried(last.state, one.content.size, larger.content.size))
    return single(scene, objective, start)


def carried(state: State, old: Size, new: Size) -> State:
    """What an optimiser has learnt over a framed picture of the old size, for the new one."""
    packed, resampling = pack(state), Resampling.of_framed(old, new)
    ratio = resampling.old.area / resampling.new.area
    return resize_state(packed, lambda name: resampling.of(packed[name][0].numpy(), Rect(0, 0, *new))[None], ratio)


def traced(make: Callable[[], Iterable[Iteration]], goal: float, most: int) -> Trace:
    """Until a step whose own loss is well below the goal, or so many."""
    began, trace = time.perf_counter(), []
    for iteration in make():
        trace.append((time.perf_counter() - began, iteration.best.image))
        if iteration.loss < 0.98 * goal or len(trace) == most:
            return trace
    return trace


@torch.no_grad()
def reached(judge: Tutorial, trace: Trace, goal: float) -> tuple[float, int]:
    """Seconds and steps until the judge sees the goal; infinite if it does not. Losses of the best image only fall."""
    low, high = 0, len(trace)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if float(judge.loss(trace[middle][1])) <= goal else (middle + 1, high)
    return (trace[low][0], low + 1) if low < len(trace) else (float("inf"), len(trace))


def race(scene: Scene, coarse: list[Scene], options: argparse.Namespace) -> tuple[float, Seconds, dict[str, int]]:
    """The target, seconds of every way, and its steps."""
    judge, objective = Tutorial(scene), scene.whole()
    ways: dict[str, Callable[[], Iterable[Iteration]]] = {
        "one scale": lambda: single(scene, objective),
        "coarse scales first": lambda: coarse_first(coarse, scene, objective),
    }
    seconds, steps = defaultdict(list), {TUTORIAL: options.evaluations}
    objective.value_and_gradient(scene.image())  # kernels are chosen
    for _ in range(options.repeats):
        torch.set_num_threads(usable_cores())
        taken, goal = judge.run(scene.image(), options.evaluations)
        seconds[TUTORIAL].append(taken)
        print(f"{TUTORIAL}: {taken:.1f} s, loss {goal:.5f}", flush=True)
        for name, way in ways.items():
            taken, steps[name] = reached(judge, traced(way, goal, 2 * options.evaluations), goal)
            seconds[name].append(taken)
            print(f"{name}: {taken:.1f} s, {steps[name]} steps", flush=True)
    return goal, seconds, steps


def rates(pictures: Iterable[Scene], side: int, repeats: int) -> list[list[object]]:
    """GFLOP/s of gradients and of a matrix product of this side, in the scenes' precision, by threads."""
    rows = []
    for one, threads in itertools.product(pictures, sorted({1, usable_cores()})):
        objective, image = one.whole(), one.image(0.1)
        matrix = torch.randn(side, side).to(getattr(torch, one.dtype))
        flops = scenes.counted_flops(lambda: objective.value_and_gradient(image))  # noqa: B023
        gradient = scenes.with_threads(threads, lambda: objective.value_and_gradient(image))  # noqa: B023
        product = scenes.with_threads(threads, lambda: matrix @ matrix)  # noqa: B023
        taken = scenes.in_turn({"gradient": gradient, "product": product}, repeats)
        speed = [flops / value / 1e9 for value in taken["gradient"]]
        bound = [2 * side**3 / value / 1e9 for value in taken["product"]]
        share = page.spread(scenes.ratios(speed, bound), 2)
        rows.append([one.recipe.backbone, threads, page.spread(speed, 0), page.spread(bound, 0), share])
    return rows


def scene_at(side: int, backbone: str, options: argparse.Namespace, pictures: tuple[Picture, Picture]) -> Scene:
    """Of a picture with this longest side."""
    recipe = Recipe(size=side, backbone=backbone, history=HISTORY, style_loss="gram")
    state = scenes.weights(backbone, options.weights)
    return scenes.scene(*pictures, framed_size(fit(pictures[0].size, side)), recipe, state)


def main() -> None:
    parser = scenes.parser(__doc__)
    parser.add_argument("--weights", type=Path, help="of VGG19; without it they are random")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options, side = parser.parse_args(), MATRIX
    if options.quick:
        options.size, options.evaluations, options.repeats, side = 182, 10, 1, 512
    pictures = scenes.pictures(options)
    *coarse, scene = (scene_at(size, "vgg19", options, pictures) for size in scale_sizes(options.size, 0))
    options.weights, vgg19 = None, options.weights
    speeds = rates((scene, scene_at(options.size, "embedded", options, pictures)), side, 2 * options.repeats)
    goal, seconds, steps = race(scene, coarse, options)
    slow = seconds[TUTORIAL]
    height, width = scene.content.size
    parts = [
        f"{options.content.stem} painted like {options.style.stem} with VGG19 "
        f"({vgg19.name if vgg19 else 'random weights, He et al. 2015'}; {' '.join(scene.resolved.layers.style)}, "
        f"content {' '.join(scene.resolved.layers.content)}) at {width}x{height} px, frame included, from the content. "
        f"{TUTORIAL}: one "
        f"piece, float32, NCHW, torch.optim.LBFGS with its defaults, {usable_cores()} threads; the lowest loss of its "
        f"{options.evaluations} evaluations is the target. The others: this package's L-BFGS, history {HISTORY}, "
        f"{scene.dtype}, channels_last; time until the tutorials' float32 objective is at the target or below. "
        "Nobody's image is clamped. Networks, workers and the content's features at this size are ready when a clock "
        f"starts; coarse scales are within the time. {options.repeats} runs of each in turn, median (least to "
        "greatest).",
        f"Target: loss {goal:.5f}.",
        page.table(
            ["", "s to the target", "steps at this size", f"times as fast as {TUTORIAL}"],
            [
                [name, page.spread(taken), steps[name], page.spread(scenes.ratios(slow, taken), 2)]
                for name, taken in seconds.items()
            ],
        ),
        f"Arithmetic of one gradient (convolutions and Gram products, forward and backward, {scene.dtype}) against a "
        f"product of two {side}x{side} matrices in the same precision and threads, GFLOP/s.",
        page.table(["backbone", "threads", "gradient", "matrix product", "share"], speeds),
    ]
    print(page.write(__file__, "Speed against the tutorials' way", parts, quick=options.quick))


if __name__ == "__main__":
    main()
