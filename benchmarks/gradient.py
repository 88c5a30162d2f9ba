"""How long does the exact gradient of a large picture take, in tiles, in one piece, and by the published blocks?

The published way (Galerne, Raad, Lezama, Morel: Scaling Painting Style Transfer, arXiv 2212.13459), as understood here:
blocks of 512 px with 256 px of context on every side, float32, two passes over all blocks. The first adds up Gram sums;
the second computes each block again and keeps of its gradient what falls on the block itself.
"""

from __future__ import annotations

from pathlib import Path

import page
import scene as scenes
import torch
from scene import Scene
from torch import Tensor

from parallel_nst.files.size import Size
from parallel_nst.painting.gatys.objective import cotangents
from parallel_nst.painting.gatys.sums import FeatureSums, measure_sums, pull_back
from parallel_nst.painting.tiles.geometry import Tile, gather, plan_tiles, scatter_add
from parallel_nst.recipe import Recipe
from parallel_nst.workers.opening import usable_cores

BLOCK, MARGIN = 512, 256
SIZE = Size(1024, 1536)


class Blocks:
    """The gradient of a scene by blocks."""

    def __init__(self, scene: Scene, block: int, margin: int) -> None:
        height, width = scene.content.size
        grid = -(-height // block), -(-width // block)
        self._scene, self._image = scene, scene.image()
        self._tiles = plan_tiles(height, width, grid, halo=margin, align=scene.layer.stride)
        self._content = [self._features(tile) for tile in self._tiles]

    def _features(self, tile: Tile) -> dict[str, Tensor]:
        part = gather(self._image, tile.read)
        return self._scene.reader.read_content(part)

    def _sums(self, tile: Tile, part: Tensor) -> FeatureSums:
        return measure_sums(self._scene.reader, part, self._content[tile.index], tile)

    def gradient(self, image: Tensor) -> Tensor:
        scene, total = self._scene, None
        with torch.no_grad():
            for tile in self._tiles:
                sums = self._sums(tile, gather(image, tile.read))
                total = sums if total is None else total + sums
        _, by = cotangents(total, scene.style, scene.resolved)
        gradient = torch.zeros_like(image)
        for tile in self._tiles:
            part = gather(image, tile.read).clone().requires_grad_()
            pulled = pull_back(self._sums(tile, part), part, by)
            scatter_add(gradient, tile.core, gather(pulled, tile.core.within(tile.read)))
        return gradient


def main() -> None:
    parser = scenes.parser(__doc__)
    parser.add_argument("--weights", type=Path, help="of VGG19; without it they are random")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    size, block, margin, repeats = SIZE, BLOCK, MARGIN, options.repeats
    if options.quick:
        size, block, margin, repeats = Size(192, 256), 128, 64, 1
    pictures, state = scenes.pictures(options), scenes.weights("vgg19", options.weights)
    native, full = (
        scenes.scene(*pictures, size, Recipe(backbone="vgg19", dtype=dtype), state) for dtype in ("auto", "float32")
    )
    image, cores = native.image(0.05), usable_cores()
    tiled, whole, plain = native.tiled((1, 2)), native.whole(), full.whole()
    blocks = Blocks(full, block, margin)
    wide = f"1 process x {cores} threads"
    ways = {
        f"2 exact tiles, {native.dtype}": (
            wide,
            lambda: tiled.value_and_gradient(image)[1],
        ),
        f"one piece, {native.dtype}": (wide, lambda: whole.value_and_gradient(image)[1]),
        "one piece, float32": (wide, lambda: plain.value_and_gradient(image)[1]),
        f"blocks of {block} px with {margin} px around, float32": (wide, lambda: blocks.gradient(image)),
    }
    timed = {name: scenes.with_threads(cores, run) for name, (_, run) in ways.items()}
    seconds = scenes.in_turn(timed, repeats)
    gradients = {name: run() for name, (_, run) in ways.items()}
    megapixels = size.area / 1e6
    first, exact = next(iter(seconds.values())), gradients["one piece, float32"]
    flops = scenes.counted_flops(lambda: plain.value_and_gradient(image))
    rows = [
        [
            name,
            ways[name][0],
            page.spread([value / megapixels for value in taken], 2),
            page.spread(scenes.ratios(taken, first), 2),
            f"{float((gradients[name] - exact).norm() / exact.norm()):.1e}",
        ]
        for name, taken in seconds.items()
    ]
    parts = [
        f"VGG19 ({options.weights.name if options.weights else 'random weights, He et al. 2015'}), "
        f"{' '.join(native.resolved.layers.style)} and {' '.join(native.resolved.layers.content)}, "
        f"{size} px of "
        f"{options.content.stem} with a little noise, {flops / megapixels / 1e12:.2f} TFLOP a megapixel in one piece. "
        f"{repeats} gradients of each in turn after one to warm up; median (least to greatest). Workers keep their "
        "graphs between the two halves of a gradient. Error: of the gradient, against one piece in float32, relative, "
        "L2; with bfloat16 it is that of bfloat16. The blocks run on this package's own kernels, losses and memory "
        "formats, so that only the way of cutting differs.",
        page.table(["", "on", "s a megapixel", "times the first", "error"], rows),
    ]
    print(page.write(__file__, "The gradient of a large picture", parts, quick=options.quick))


if __name__ == "__main__":
    main()
