"""What does each way of tiling do to the picture, and what does it cost?

Independent tiles with plain targets, with targets of their own, synchronised now and then, and exact tiles, all against
the same recipe in one piece; on a busy picture and on one that is mostly blank, where tiles differ most.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import page
import scene as scenes
import torch
from scene import Scene
from sharpness import overlap_sharpness

from parallel_nst.files.bundled import bundled_content, bundled_style
from parallel_nst.files.images import Picture, fit, read_image, resize, write_image
from parallel_nst.files.size import Size
from parallel_nst.painting.gatys.losses import gram_part
from parallel_nst.painting.gatys.style import measure_style
from parallel_nst.painting.planning.scales import FRAME, framed_size
from parallel_nst.painting.stylize import stylize, whole_loss
from parallel_nst.painting.tiles.geometry import Rect, Tile, gather, grid_of, plan_tiles, whole_tile
from parallel_nst.painting.tiles.seams import step_ratio
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.workers.opening import open_pool
from parallel_nst.workers.pool import Pool

MODES = {
    "independent, plain targets": TilingSpec(mode="independent", targets="plain"),
    "independent, own targets": TilingSpec(mode="independent"),
    "synchronised every 5": TilingSpec(mode="independent", sync_every=5),
    "synchronised every 2": TilingSpec(mode="independent", sync_every=2),
    "synchronised every 1": TilingSpec(mode="independent", sync_every=1),
    "exact": TilingSpec(mode="exact"),
}
WHOLE = "one piece"
HEADER = ("", "loss", "step", "sharpness", "tile spread", "difference", "s", "MB moved")
THUMB = 320  # px, longest side of a picture on the contact sheet


@dataclass(frozen=True)
class Result:
    picture: Picture
    seconds: float
    moved: int


def blank(size: Size) -> Picture:
    """A small dark figure on a plain light ground."""
    height, width = size
    pixels = np.full((height, width, 3), (0.93, 0.91, 0.86), np.float32)
    head, body = (width // 3, int(height * 0.56)), (width // 3, int(height * 0.72))
    for centre, axes in ((head, (height // 28,) * 2), (body, (height // 18, height // 9))):
        cv2.ellipse(pixels, centre, axes, 0, 0, 360, (0.12, 0.1, 0.15), -1, cv2.LINE_AA)
    return Picture(pixels)


def painted(content: Picture, style: Picture, recipe: Recipe, pool: Pool) -> Result:
    """One picture."""
    before, began = pool.moved, time.perf_counter()
    picture = stylize(content, style, recipe, pool).picture
    return Result(picture, time.perf_counter() - began, pool.moved - before)


def seams(picture: Picture, tiles: list[Tile], overlap: int) -> np.ndarray:
    """Step ratio and sharpness at the borders."""
    image = picture.pixels.transpose(2, 0, 1)
    return np.array([step_ratio(image, tiles), overlap_sharpness(image, tiles, overlap)])


def drift(picture: Picture, tiles: Iterable[Tile], scene: Scene) -> float:
    """Standard deviation over tiles of |G_t - G_style| / |G_style|, the mean over layers."""
    reader = replace(scene.reader, dtype=torch.float32)
    distances, names = [], scene.resolved.layers.style
    image = torch.from_numpy(picture.pixels.transpose(2, 0, 1).copy())[None]
    for tile in tiles:
        core, size = gather(image, tile.core), (tile.core.height, tile.core.width)
        grams = measure_style(reader, core, whole_tile(*size)).targets.grams
        pairs = [(gram_part(grams[name]), gram_part(scene.style.grams[name])) for name in names]
        distances.append([float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs])
    return float(np.std(distances, axis=0).mean())


def sheet(path: Path, columns: dict[str, dict[str, Picture]]) -> None:
    """All pictures, small and named, one column a picture and number of tiles."""
    parts = []
    for title, pictures in columns.items():
        column = []
        for name, picture in pictures.items():
            thumb = resize(picture.pixels, fit(picture.size, THUMB))
            label = np.full((36, thumb.shape[1], 3), 255, np.uint8)
            for line, text in enumerate((title, name)):
                cv2.putText(label, text, (4, 14 + 16 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
            column += [label.astype(np.float32) / 255, thumb]
        parts.append(np.concatenate(column))
    height = max(len(part) for part in parts)
    padded = [np.pad(part, ((0, height - len(part)), (0, 4), (0, 0)), constant_values=1) for part in parts]
    write_image(path, Picture(np.concatenate(padded, 1)))


def compared(
    name: str, content: Picture, style: Picture, count: str, whole: Result, recipe: Recipe, pool: Pool
) -> tuple[list[list[object]], dict[str, Picture]]:
    """Rows of the table for one picture and number of tiles, and the pictures."""
    height, width = whole.picture.size
    size = framed_size(whole.picture.size)
    scene = scenes.scene(content, style, size, replace(recipe, dtype="float32"), pool.spec.weights[recipe.backbone])
    grid = grid_of(TilingSpec(tiles=count), *size)
    tiles = [tile.moved(-FRAME) for tile in plan_tiles(*size, grid, align=scene.layer.stride)]
    inside = [inner(tile, width, height) for tile in tiles]
    results = {WHOLE: whole}
    for mode, tiling in MODES.items():
        tiled = replace(recipe, tiling=replace(tiling, tiles=count))
        results[mode] = painted(content, style, tiled, pool)
        print(name, count, mode, f"{results[mode].seconds:.1f} s", flush=True)
    own = seams(whole.picture, tiles, recipe.tiling.overlap)
    rows = []
    for mode, result in results.items():
        step, sharpness = seams(result.picture, tiles, recipe.tiling.overlap) / own
        rows.append(
            [
                mode,
                f"{whole_loss(content, style, result.picture, recipe, pool):.4f}",
                f"{step:.3f}",
                f"{sharpness:.3f}",
                f"{drift(result.picture, inside, scene):.3f}",
                f"{np.abs(result.picture.pixels - whole.picture.pixels).mean() * 255:.1f}",
                f"{result.seconds:.1f}",
                f"{result.moved / 1e6:.0f}",
            ]
        )
    return rows, {mode: result.picture for mode, result in results.items()}


def inner(tile: Tile, width: int, height: int) -> Tile:
    """The tile with its core cut to the picture, which its frame lies outside of."""
    core = tile.core
    core = Rect(max(0, core.top), max(0, core.left), min(height, core.bottom), min(width, core.right))
    return replace(tile, core=core)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contents", type=Path, nargs="+", help="instead of the bundled photograph and a drawn figure")
    parser.add_argument("--style", type=Path, default=bundled_style())
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--keep", type=Path, help="folder for the pictures and a sheet of them all, to look at")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that the program works")
    options = parser.parse_args()
    recipe, counts = Recipe(size=options.size), ("4", "9")
    if options.quick:
        recipe, counts = Recipe(size=224, steps=3, scales=2), ("4",)
    if options.contents:
        contents = {path.stem: read_image(path) for path in options.contents}
    else:
        contents = {bundled_content().stem: read_image(bundled_content()), "figure": blank(Size(600, 900))}
    style, tables, columns = read_image(options.style), [], {}
    one_piece = replace(recipe, tiling=TilingSpec(mode="exact", whole=recipe.size))
    with open_pool(recipe, workers=2) as pool:
        warm = replace(recipe, size=160, steps=1, scales=1, tiling=TilingSpec(mode="exact", tiles="2"))
        painted(next(iter(contents.values())), style, warm, pool)  # workers start
        for name, content in contents.items():
            whole = painted(content, style, one_piece, pool)
            print(name, WHOLE, f"{whole.seconds:.1f} s", flush=True)
            for count in counts:
                rows, pictures = compared(name, content, style, count, whole, recipe, pool)
                tables += [f"{name}, {count} tiles:", page.table(HEADER, rows)]
                columns[f"{name}, {count} tiles"] = pictures
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        for title, pictures in columns.items():
            for mode, picture in pictures.items():
                write_image(options.keep / f"{title}-{mode}.png".replace(", ", "-").replace(" ", "_"), picture)
        sheet(options.keep / "sheet.png", columns)
    parts = [
        f"Painted like {options.style.stem}, {recipe.size} px, pnst's recipe; scales up to {recipe.tiling.whole} px in "
        f"one piece, the others in tiles on {pool.size} workers x {pool.crew.threads} threads. Everything is held "
        "against the same recipe in one piece at all scales. One run each.",
        "Loss: of the assembled picture under the objective of the whole picture. Step and sharpness: at the borders "
        "(as in seams.md), over those of the picture in one piece at the same places. Tile spread: standard deviation "
        "over tiles of the distance of a tile's Gram matrices from the style's, relative to the style's, mean over "
        "layers; that of one piece is what the content asks for, and a smaller one means that tiles were made alike. "
        "Difference: mean absolute, to the picture in one piece, in 1/255. Moved: arrays to and from the workers.",
        *tables,
    ]
    print(page.write(__file__, "Ways of tiling", parts, quick=options.quick))


if __name__ == "__main__":
    main()
