"""Can a seam be seen? Two figures at the tile borders, held against the untiled picture's own at the same lines.

A horizon is not a seam: only what tiling adds counts, so both figures are ratios to those of the same picture, in the
same recipe, in one piece. Pictures come from --contents and --styles (files), else the bundled ones.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import page
from sharpness import overlap_sharpness

from parallel_nst.files.bundled import bundled_content, bundled_style
from parallel_nst.files.images import Picture, read_image, write_image
from parallel_nst.jobs.picture import untiled
from parallel_nst.networks.backbones.loading import build_backbone, load_weights
from parallel_nst.painting.planning.scales import plan_scales
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.sources import SourcePictures
from parallel_nst.painting.stylize import budget_for, stylize
from parallel_nst.painting.tiles.geometry import Tile
from parallel_nst.painting.tiles.seams import step_ratio
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.opening import open_pool
from parallel_nst.workers.worker import WorkerSpec


def figures(pixels: np.ndarray, tiles: list[Tile], overlap: int) -> tuple[float, float]:
    """Step ratio and sharpness of the overlap of an image (H, W, 3)."""
    image = pixels.transpose(2, 0, 1)
    return step_ratio(image, tiles), overlap_sharpness(image, tiles, overlap)


def stylised(content: Picture, style: Picture, recipe: Recipe) -> Picture:
    """One picture by the pool that pnst would open."""
    with open_pool(recipe) as pool:
        return stylize(content, style, recipe, pool).picture


def finest_tiles(content: Picture, style: Picture, recipe: Recipe) -> list[Tile]:
    """The tiles of the finest scale; their number is the recipe's, so that no pool changes them."""
    weights = load_weights(recipe.backbone)
    backbone = build_backbone(recipe.backbone, weights)
    resolved = resolve(recipe, backbone)
    spec = WorkerSpec("cpu", "float32", 1, {recipe.backbone: weights})
    budget = budget_for(SourcePictures(content, [style]), resolved, backbone, spec, 1)
    return plan_scales(content.size, style.size, resolved, budget)[-1].picture_tiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contents", type=Path, nargs="*", default=[bundled_content()])
    parser.add_argument("--styles", type=Path, nargs="*", default=[bundled_style()])
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--overlap", type=int, default=TilingSpec().overlap)
    parser.add_argument("--keep", type=Path, help="folder for the pictures, to look at")
    arguments = parser.parse_args()
    recipe = Recipe(size=arguments.size, tiling=TilingSpec("independent", tiles="4", overlap=arguments.overlap))
    rows, steps, sharpnesses = [], [], []
    for content_path, style_path in itertools.product(arguments.contents, arguments.styles):
        content, style = read_image(content_path), read_image(style_path)
        tiles = finest_tiles(content, style, recipe)
        results = {name: stylised(content, style, r) for name, r in (("tiled", recipe), ("untiled", untiled(recipe)))}
        (step, sharpness), (own_step, own_sharpness) = (
            figures(picture.pixels, tiles, arguments.overlap) for picture in results.values()
        )
        steps.append(step / own_step)
        sharpnesses.append(sharpness / own_sharpness)
        name = f"{content_path.stem} in {style_path.stem}"
        numbers = (step, own_step, steps[-1], sharpness, own_sharpness, sharpnesses[-1])
        rows.append([name, *(f"{number:.3f}" for number in numbers)])
        print(*rows[-1])
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for kind, picture in results.items():
                path = arguments.keep / f"{content_path.stem}-{style_path.stem}-{kind}.png"
                write_image(path, replace(picture, alpha=None))
    parts = [
        f"{len(rows)} pictures of {arguments.size} px in 4 independent tiles with {arguments.overlap} px of overlap. "
        "Step ratio: mean absolute step across a tile border over the mean 4 to 16 px to either side. Sharpness: "
        "mean absolute gradient inside the overlap over that of equal bands beside it. A ratio of 1: tiling changed "
        "nothing.",
        f"Tiled over untiled, over all pictures: step ratio {page.spread(steps, 3)}, sharpness "
        f"{page.spread(sharpnesses, 3)}.",
        page.table(
            ["", "step, tiled", "step, untiled", "ratio", "sharpness, tiled", "sharpness, untiled", "ratio"], rows
        ),
    ]
    print(page.write(__file__, "Seams", parts))


if __name__ == "__main__":
    main()
