"""Paint the bundled style pictures: pure invention from a seed, in bristled brush strokes or mosaic stones.

A scene gives every point a direction, a tone and a set of pigments; strokes and stones follow the directions,
and the height of the paint is lit from one side. Lengths are in picture widths unless they are said to be in
pixels; so a small trial shows what the large picture will be. Images are (height, width, channel), 0 to 255.

    python examples/paint_styles.py --output parallel_nst/styles --size 1024 --seed 11
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Random = np.random.Generator

RATIO = 0.8  # height of a picture in widths
OVERSAMPLING = 2  # the canvas is finer than the picture, which keeps single bristles smooth
SUBPIXEL_BITS = 4
STONE_HEIGHTS = (130, 220)
STEP = 0.004  # of a walk along the flow


class Pigments:
    """Colours of a region, from hexadecimal triples: a `ramp` from dark to light, and contrary `accents`.

    `brush` (0.3 to 1) scales the width of the strokes.
    """

    def __init__(self, ramp: str, accents: str, brush: float = 1) -> None:
        self.brush = brush
        self.ramp = np.array([list(bytes.fromhex(colour)) for colour in ramp.split()], float)
        self.accents = np.array([list(bytes.fromhex(colour)) for colour in accents.split()], float)

    def at(self, tone: Array | float) -> Array:
        """Return the pigment of the ramp that is nearest to `tone`, 0 to 1."""
        nearest: Array = np.round(np.clip(tone, 0, 1) * (len(self.ramp) - 1)).astype(int)
        return np.asarray(self.ramp[nearest])


class Layer(NamedTuple):
    """Strokes of a brush: `length`, `spacing` in brush widths, `jitter` of the tone, share of `accents`."""

    width: float
    length: float
    spacing: float
    jitter: float
    accents: float


@dataclass(frozen=True)
class Scene:
    """Maps of (height, width): `flow` in radians, `tone` 0 to 1, `region` indexes `pigments`.

    A row of `layers` is one of `Layer`; a scene without them is laid in stones.
    """

    flow: Array
    tone: Array
    region: Array
    pigments: tuple[Pigments, ...]
    layers: str = ""

    def mix(self, rng: Random, at: tuple[int, int], layer: Layer) -> Array:
        """Return the colour of a brush of `layer` for the place `at` (row, column)."""
        pigments = self.pigments[self.region[at]]
        pure = pigments.at(self.tone[at] + rng.normal(0, layer.jitter))
        if rng.random() < layer.accents:
            pure = rng.choice(pigments.accents)
        return np.asarray(pure * rng.normal(1, 0.06) + rng.normal(0, 5, 3))


def axes(width: int) -> tuple[Array, Array]:
    """Return the x and the y of every pixel of a picture `width` pixels wide."""
    y, x = np.mgrid[0 : round(width * RATIO), 0:width] / width
    return x, y


def noise(rng: Random, like: Array, cells: int, octaves: int = 3) -> Array:
    """Return smooth noise shaped as `like`, `cells` bumps across, of mean 0 and deviation 1."""
    total = np.zeros(like.shape)
    for octave in range(octaves):
        across = cells * 2**octave
        grid = rng.standard_normal((round(across * RATIO) + 3, across + 3))
        total += cv2.resize(grid, like.shape[::-1], interpolation=cv2.INTER_CUBIC) * 0.5**octave
    return np.asarray((total - total.mean()) / total.std())


def along(potential: Array) -> Array:
    """Return the angle, in radians, of the level lines of `potential`."""
    down, right = np.gradient(potential)
    return np.asarray(np.arctan2(-right, down))


def rows(text: str) -> list[list[float]]:
    """Read rows of numbers, parted by semicolons."""
    return [[float(number) for number in row.split()] for row in text.split(";")]


def spiral(x: Array, y: Array, drift: Array, text: str) -> Array:
    """Return the flow along the level lines of `drift`, in which whirls turn.

    A whirl of `text` is its x, y, radius, spin (against a drift of 1) and pitch (radians).
    """
    potential, turn = drift.copy(), np.zeros(drift.shape)
    for left, top, radius, spin, pitch in rows(text):
        near = np.exp(-((x - left) ** 2 + (y - top) ** 2) / radius**2)
        potential += spin * radius * near
        turn += pitch * np.minimum(1, 1.6 * near)
    return along(potential) + turn


def twist(x: Array, y: Array, text: str) -> tuple[Array, Array]:
    """Return `x` and `y` wound up around whirls: their x, y, radius and spin (radians in the middle)."""
    for left, top, radius, spin in rows(text):
        offset = (x - left) + 1j * (y - top)
        offset = offset * np.exp(1j * spin * np.exp(-(np.abs(offset) ** 2) / radius**2))
        x, y = left + offset.real, top + offset.imag
    return x, y


def inside(x: Array, y: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the rows and columns of the pixels at (`x`, `y`), in pixels, kept within `shape`."""
    return np.clip(y, 0, shape[0] - 1).astype(int), np.clip(x, 0, shape[1] - 1).astype(int)


def walk(flow: Array, x: Array, y: Array, step: Array | float) -> tuple[Array, Array]:
    """Move the points (`x`, `y`), in pixels, by `step` pixels along `flow`."""
    angle = flow[inside(x, y, flow.shape)]
    return x + step * np.cos(angle), y + step * np.sin(angle)


def streaks(rng: Random, flow: Array) -> Array:
    """Return tones of mean 0.5 that are drawn out along `flow`."""
    values = noise(rng, flow, 26)
    total = values.copy()
    for step in (-STEP * flow.shape[1], STEP * flow.shape[1]):
        y, x = np.mgrid[0 : flow.shape[0], 0 : flow.shape[1]].astype(float)
        for _ in range(30):
            x, y = walk(flow, x, y, step)
            total += values[inside(x, y, flow.shape)]
    return np.asarray(0.5 + 0.22 * (total - total.mean()) / total.std() + 0.11 * noise(rng, flow, 4))


def trace(scene: Scene, rng: Random, layer: Layer) -> list[Array]:
    """Return the paths (points, xy) of the strokes of a layer in pixels; they end where their region does."""
    height, width = scene.flow.shape
    gap = layer.width * layer.spacing * width
    grid = np.mgrid[0 : round(height / gap) + 1, 0 : round(width / gap) + 1].reshape(2, -1).T
    seeds = rng.permutation((grid + rng.uniform(-0.6, 0.6, grid.shape)) * gap)
    y, x = np.clip(seeds.T, 0, [[height - 1], [width - 1]])
    home = scene.region[inside(x, y, scene.flow.shape)]
    points = round(layer.width * layer.length * 1.5 / STEP)
    counts = (points * rng.uniform(0.35, 1, len(x))).astype(int)
    step = rng.choice([-STEP, STEP], len(x)) * width
    paths = [np.stack([x, y], axis=1)]
    for index in range(1, points):
        x, y = walk(scene.flow, x, y, step)
        left = scene.region[inside(x, y, scene.flow.shape)] != home
        counts[left] = np.minimum(counts[left], index)
        paths.append(np.stack([x, y], axis=1))
    return [path[:count] for path, count in zip(np.stack(paths, axis=1), counts, strict=True) if count > 3]


def draw_stroke(canvas: Array, rng: Random, path: Array, width: float, paint: tuple[Array, Array]) -> None:
    """Draw a stroke of `width` pixels along `path` (points, xy; pixels): bristles between two colours.

    The fourth channel of `canvas` takes the height of the paint.
    """
    ahead = np.gradient(path, axis=0)
    normal = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / (np.hypot(*ahead.T)[:, None] + 1e-9)
    progress = np.linspace(0, 1, len(path))
    taper = np.minimum(1, 0.55 + 3 * progress) * np.minimum(1, 0.35 + 2.2 * (1 - progress))
    bristles = max(4, round(420 * width / canvas.shape[1]))
    thickness = max(1, round(1.7 * width / bristles))
    load = cv2.GaussianBlur(rng.normal(0, 1, (bristles, 1)), (1, 3), 0.8).ravel()
    for bristle in rng.permutation(bristles):
        offset = 2 * bristle / (bristles - 1) - 1
        dry = (rng.uniform(0, 0.16, 2) + 0.12 * offset**2) * len(path)
        first, last = int(dry[0]), len(path) - int(dry[1])
        line = (path + normal * (taper * offset * width / 2)[:, None])[first : max(first + 2, last)]
        share = np.clip(0.25 + 0.6 * load[bristle], 0, 0.85)
        colour = paint[0] * (1 - share) + paint[1] * share + 14 * load[bristle]
        height = 115 + 60 * abs(offset) ** 3 + 60 * load[bristle]
        value = np.clip([*colour, height], 0, 255).tolist()
        dots = np.round(line * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.polylines(canvas, [dots], False, value, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_layer(canvas: Array, scene: Scene, rng: Random, layer: Layer) -> None:
    """Draw all strokes of `layer`; a brush takes up some of the paint it is set on."""
    for path in trace(scene, rng, layer):
        at = int(path[0, 1]), int(path[0, 0])
        pigments = scene.pigments[scene.region[at]]
        width = layer.width * pigments.brush * rng.uniform(0.7, 1.25) * canvas.shape[1]
        under = canvas[at[0] * OVERSAMPLING, at[1] * OVERSAMPLING, :3]
        second = pigments.at(scene.tone[at] + rng.normal(0, 0.22))
        paint = (0.88 * scene.mix(rng, at, layer) + 0.12 * under, second)
        draw_stroke(canvas, rng, path * OVERSAMPLING, width, paint)


def lay_stone(canvas: Array, scene: Scene, rng: Random, x: float, y: float, size: float) -> bool:
    """Lay a stone of `size` at (`x`, `y`), in pixels of `scene`; return False if there is no room."""
    height, width = scene.flow.shape
    if not (0 <= x < width and 0 <= y < height):
        return False
    at = int(y), int(x)
    angle = scene.flow[at] + rng.normal(0, 0.03)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * size / 2
    probes = np.mgrid[-1:1:9j, -1:1:9j].reshape(2, -1).T @ turn + np.array([x, y])
    row, column = inside(probes[:, 0], probes[:, 1], scene.flow.shape)
    taken = canvas[row * OVERSAMPLING, column * OVERSAMPLING, 3] > STONE_HEIGHTS[0] / 2
    if (scene.region[row, column] != scene.region[at]).any() or np.count_nonzero(taken) > 2:
        return False
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * rng.uniform(0.76, 0.96, 2)
    outline = ((corners + rng.uniform(-0.1, 0.1, (4, 2))) @ turn + np.array([x, y])) * OVERSAMPLING
    colour = scene.mix(rng, at, Layer(size, 1, 1, 0.1, 0.03))
    value = np.clip([*colour, rng.uniform(*STONE_HEIGHTS)], 0, 255).tolist()
    cv2.fillConvexPoly(canvas, np.round(outline * 2**SUBPIXEL_BITS).astype(np.int32), value, cv2.LINE_AA, SUBPIXEL_BITS)
    return True


def lay_stones(canvas: Array, scene: Scene, rng: Random) -> None:
    """Fill the dark `canvas` with stones that grow in rows along the flow, then with smaller ones."""
    width = scene.flow.shape[1]
    canvas[:] = (24, 26, 38, 30)
    for size, gap in ((0.017, 0.03), (0.012, 0.006), (0.008, 0.004), (0.0055, 0.003)):
        grid = np.mgrid[0:RATIO:gap, 0:1:gap].reshape(2, -1).T
        todo = list((rng.permutation(grid) + rng.uniform(-gap / 2, gap / 2, grid.shape)) * width)
        while todo:
            y, x = todo.pop()
            if lay_stone(canvas, scene, rng, x, y, size * width):
                angles = scene.flow[int(y), int(x)] + np.array([1, 3, 2, 0]) * np.pi / 2
                beside = np.stack([np.sin(angles), np.cos(angles)], axis=1) * size * width * 1.03
                todo += list(beside + np.array([y, x]))


def light(canvas: Array) -> Array:
    """Return the colours of `canvas` with its relief lit from the upper left."""
    width = canvas.shape[1]
    relief = cv2.GaussianBlur(canvas[..., 3] / 255, (0, 0), width / 1900)
    down, right = np.gradient(relief * width / 2048)
    slope = -(0.75 * down + 0.65 * right)[..., None]
    gloss = 120 * np.clip(slope - 0.06, 0, 0.3)
    return np.asarray(canvas[..., :3] * np.clip(1 + 3.4 * slope, 0.5, 1.5) + gloss)


def paint(scene: Scene, rng: Random) -> Array:
    """Return the picture of `scene`, RGB: strokes over a dark underpainting, or stones."""
    ground = np.full((*scene.tone.shape, 4), 60, np.uint8)
    for region, pigments in enumerate(scene.pigments):
        here = scene.region == region
        ground[here, :3] = pigments.at(scene.tone[here]) * 0.7
    canvas = ground.repeat(OVERSAMPLING, axis=0).repeat(OVERSAMPLING, axis=1)
    if scene.layers:
        for row in rows(scene.layers):
            draw_layer(canvas, scene, rng, Layer(*row))
    else:
        lay_stones(canvas, scene, rng)
    lit = cv2.resize(light(canvas), scene.tone.shape[::-1], interpolation=cv2.INTER_AREA)
    return np.clip(lit, 0, 255).astype(np.uint8)


def add_discs(scene: Scene, text: str, petals: float) -> None:
    """Add discs of rings to the maps of `scene`, in its last region.

    A disc of `text` is its x, y, radius and number of lobes, which `petals` (0 to 0.3) makes deep.
    """
    x, y = axes(scene.tone.shape[1])
    for left, top, radius, lobes, *_ in rows(text):
        turn = np.arctan2(y - top, x - left)
        away = np.hypot(x - left, y - top) / radius * (1 + petals * np.sin(lobes * turn + 40 * left))
        scene.tone[:] += 0.45 * np.exp(-((away / 1.5) ** 2))
        here = away < 1
        scene.tone[here] = (1.05 - away + 0.14 * np.cos(away * 16))[here]
        scene.flow[here] = turn[here] + np.pi / 2
        scene.region[here] = len(scene.pigments) - 1


def add_hill(scene: Scene, rng: Random, ridge: Array, region: int) -> None:
    """Add a furrowed hill below the height `ridge` to the maps of `scene`."""
    x, y = axes(scene.tone.shape[1])
    depth = y - ridge - 0.004 * noise(rng, x, 8)[:1]
    furrows = depth * (1 + 0.9 * np.sin(5 * x + 2 * region)) + 0.006 * noise(rng, x, 5)
    tone = 0.5 + 0.3 * np.sin(furrows * 95) + 0.14 * noise(rng, x, 7)
    tone -= 0.8 * np.exp(-((depth / 0.007) ** 2))
    here = depth > 0
    scene.flow[here], scene.tone[here], scene.region[here] = along(furrows)[here], tone[here], region


def swirls(width: int, rng: Random) -> Scene:
    """Return a night sky in whirls over rolling fields, `width` pixels wide."""
    discs = ".2 .2 .125 5 0; .47 .075 .05 5 0; .94 .12 .06 5 0; .84 .45 .085 5 0"
    discs += "; .06 .46 .048 5 0; .35 .5 .04 5 0; .79 .055 .035 5 0"
    winds = "; .62 .27 .16 3.2 .35; .4 .33 .06 2.6 .3; .19 .4 .07 -2.5 -.3; .6 .52 .05 -2.5 -.3"
    x, y = axes(width)
    flow = spiral(x, y, y - 0.25 * x + 0.05 * np.sin(7 * x + 1) + 0.018 * noise(rng, x, 4, 2), discs + winds)
    pigments = (
        Pigments("0b1440 14246b 1d3fa0 2f66c4 5b95d8 9cc6e6 dfe9dc", "e2b13c 0f6d73 d9743a"),
        Pigments("0a1438 132a5c 1b4a80 2e7396 63a3a8", "c98a2b 3f2a6b", 0.75),
        Pigments("0c2233 14483f 3b7448 8f9b3c e0b53a f6da78", "c9542a 1d3fa0", 0.75),
        Pigments("070b24 0e1f4a 12444f 2b7a5c 9fae55 edc65a", "d99a2f a8402a", 0.75),
        Pigments("2f66c4 5b95d8 b9d3b0 d9a02c e8891f f2b72e f8d860 fdf2b4", "d9531e f8f4dc", 0.6),
    )
    layers = ".034 6 .7 .1 0; .021 7 .75 .13 .02; .013 8 1.15 .18 .035; .006 11 3.2 .28 .06"
    scene = Scene(flow, 1.15 * streaks(rng, flow) - 0.17, np.zeros(x.shape, int), pigments, layers)
    add_discs(scene, discs, 0.05)
    add_hill(scene, rng, 0.6 - 0.1 * x + 0.025 * np.sin(9 * x + 2), 1)
    add_hill(scene, rng, 0.58 + 0.1 * x + 0.02 * np.sin(6 * x), 2)
    add_hill(scene, rng, 0.8 - 0.16 * x**2, 3)
    return scene


def bands(width: int, rng: Random, curls: str, edges: str, order: str) -> tuple[Array, Array, Array]:
    """Return flow, tone and region of wavy bands wound up by `curls`.

    `order` has a digit for each band, its region; `edges` part the bands.
    """
    x, y = axes(width)
    right, down = twist(x, y, curls)
    level = down + 0.22 * right + 0.05 * np.sin(6 * right) + 0.014 * np.sin(13 * right + 2)
    level = cv2.GaussianBlur(level + 0.012 * noise(rng, x, 5, 2), (0, 0), width / 300)
    band = np.digitize(level, rows(edges)[0])
    flow = along(level)
    return flow, streaks(rng, flow), np.array(list(order), int)[band]


def embers(width: int, rng: Random) -> Scene:
    """Return an evening of fire and water in broad curling bands, `width` pixels wide."""
    curls = ".3 .5 .2 5.5; .74 .33 .17 -5; .9 .66 .12 4.5; .52 .72 .1 -4; .08 .24 .1 4; .47 .16 .09 -4"
    edges = ".1 .16 .2 .31 .345 .4 .5 .56 .6 .71 .75 .8 .9"
    pigments = (
        Pigments("3d0c1c 7d1420 b9261b e2451c f07a26 f7b052", "1f6f74 f6dfa0"),
        Pigments("06222e 0b3a48 0f5a63 21807f 5fa99a b9d2b0", "d8431d e8a33a"),
        Pigments("8a3d12 c26a17 dc8f22 ecb445 f6d685 fbeec4", "c9331c 2a8a86"),
        Pigments("1a0b1e 2c1230 431a3a 6b2440 93343f", "e2451c 1f6f74"),
    )
    layers = ".04 7 .6 .1 0; .025 8 .75 .14 .02; .015 11 1.15 .17 .025; .006 18 4 .3 .05"
    return Scene(*bands(width, rng, curls, edges, "02301203213101"), pigments, layers)


def garden(width: int, rng: Random) -> Scene:
    """Return blossoms among winding leaves, `width` pixels wide, to be laid in stones."""
    curls = ".55 .38 .2 -5; .16 .6 .15 4.5; .9 .2 .13 4.5; .83 .68 .14 -4.5; .3 .14 .12 -4"
    edges = ".06 .12 .16 .27 .305 .4 .46 .5 .61 .64 .75 .79 .9"
    blossoms = ".27 .31 .13 7; .7 .21 .09 6; .74 .56 .145 8; .43 .66 .07 5; .06 .12 .06 5; .95 .42 .05 5"
    pigments = (
        Pigments("062a33 0a4a4f 0f6f66 2f9a80 7cc4a0", "e9c46a e8664a"),
        Pigments("0d1b4c 16337f 2256b0 4a8fd0 9cc9e4", "f0d58a 1d8a80"),
        Pigments("b98a34 d9ab4a ecca72 f5e2a8 fbf3d8", "e8664a 2f9a80"),
        Pigments("23403a 3f6b35 6d9440 a5b94f d8d67a", "f0d58a 16337f"),
        Pigments("4a1235 8c1f45 c93a3f e8664a f29c6b f8d9a0 fff3d6 f2b62c c9761a", "fff3d6"),
    )
    scene = Scene(*bands(width, rng, curls, edges, "10212312021301"), pigments)
    add_discs(scene, blossoms + "; .07 .72 .08 5; .5 .06 .05 5", 0.14)
    return scene


def main() -> None:
    """Paint every scene and write it as a JPEG file."""
    parser = argparse.ArgumentParser(description="Paint the bundled style pictures.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--size", type=int, default=1024, help="width in pixels")
    parser.add_argument("--seed", type=int, default=11, help="another seed paints other strokes")
    parser.add_argument("--quality", type=int, default=88, help="of the JPEG files, 1 to 100")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for scene in (embers, garden, swirls):
        rng = np.random.default_rng(options.seed)
        picture = paint(scene(options.size, rng), rng)
        coding = [cv2.IMWRITE_JPEG_QUALITY, options.quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        target = options.output / f"{scene.__name__}.jpg"
        if not cv2.imwrite(str(target), picture[..., ::-1], coding):
            raise SystemExit(f"cannot write {target}")


if __name__ == "__main__":
    main()
