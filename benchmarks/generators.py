"""How fast are the generators, in which layout and precision, and what does it cost to run them in tiles?

    python benchmarks/generators.py --checkpoints FOLDER

FOLDER: with public checkpoints, of fast-style-transfer (.npz) and, in a folder microast, of MicroAST; without it, or
for what is not there, only networks with random weights are measured. On one core in about six minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from page import spread, table, write
from scene import in_turn, parser, ratios
from torch import Tensor

from parallel_nst.files.images import read_image
from parallel_nst.networks.generators.base import Generator, Style
from parallel_nst.networks.generators.cyclegan import DnCNN, ResNetGenerator
from parallel_nst.networks.generators.files import read_generator
from parallel_nst.networks.generators.transformer import TransformerNet, VGGDecoder
from parallel_nst.networks.moments import worst_gap
from parallel_nst.painting.generators.runs import prepare
from parallel_nst.painting.generators.tiles import (
    exact_statistics,
    generate_held,
    generate_tiles,
    generate_watched,
    plan_pieces,
    thumbnail_statistics,
)

PUBLIC = ("la_muse.npz", "rain_princess.npz", "udnie.npz", "wave.npz", "microast")
UNTRAINED: dict[str, Callable[[], Generator]] = {
    "CycleGAN ResNet-6": lambda: ResNetGenerator(blocks=6),
    "CycleGAN ResNet-9": ResNetGenerator,
    "DnCNN": DnCNN,
    "AONet": lambda: TransformerNet("aonet"),
    "VGG decoder": VGGDecoder,
}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
DTYPES = ("float32", "bfloat16")


def models(folder: Path | None) -> dict[str, Generator]:
    """Generators by name, the public ones first."""
    found = {name: folder / name for name in PUBLIC if folder is not None and (folder / name).exists()}
    torch.manual_seed(0)
    return {name: read_generator(path)[0] for name, path in found.items()} | {
        name: build().eval().requires_grad_(False) for name, build in UNTRAINED.items()
    }


def cropped(path: Path, side: int) -> Tensor:
    """A picture (1, 3, side, side), enlarged so that it has as many px."""
    pixels = torch.from_numpy(read_image(path).pixels).permute(2, 0, 1)[None].float()
    scale = side / min(pixels.shape[-2:])
    return torch.nn.functional.interpolate(pixels, scale_factor=scale, mode="bicubic")[..., :side, :side].clamp(0, 1)


def levels(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Mean and greatest absolute difference, in grey levels."""
    off = (one - other).abs() * 255
    return float(off.mean()), float(off.max())


def speed_row(name: str, generator: Generator, content: Tensor, style: Style | None, repeats: int) -> list[object]:
    """Seconds for a megapixel in each layout and precision, and what bfloat16 changes."""
    made = {}
    for dtype in DTYPES:
        for layout, form in LAYOUTS.items():
            made[f"{name}, {dtype}, {layout}"] = prepare(generator, dtype=dtype).to(memory_format=form)
    outputs = [model(content, style) for model in made.values()]
    runs = {key: (lambda model=model: model(content, style)) for key, model in made.items()}
    seconds = list(in_turn(runs, repeats).values())
    area = content.shape[-2] * content.shape[-1] / 1e6
    per_megapixel = [spread([s / area for s in taken], 2) for taken in seconds]
    quicker = [spread(ratios(seconds[a], seconds[b]), 2) for a, b in ((0, 1), (2, 3), (1, 3))]
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    off = levels(outputs[3], outputs[0])[0]
    return [name, f"{parameters / 1e6:.2f}", generator.reach, *per_megapixel, *quicker, f"{off:.3f}"]


def tile_rows(
    name: str, generator: Generator, content: Tensor, style: Style | None, repeats: int
) -> list[list[object]]:
    """Each way of tiling against the picture in one piece, in float32."""
    ready, side = prepare(generator), content.shape[-1] // 2
    tiles = plan_pieces(ready, *content.shape[-2:], side)
    reduced = thumbnail_statistics(ready, content, side, style)
    ways: dict[str, Callable[[], Tensor]] = {
        "whole": lambda: ready(content, style),
        "exact, held": lambda: generate_held(ready, content, tiles, style),
        "exact, pass by pass": lambda: generate_tiles(
            ready, content, tiles, exact_statistics(ready, content, tiles, style), style
        ),
        "thumbnail": lambda: generate_watched(
            ready, content, tiles, thumbnail_statistics(ready, content, side, style), style
        )[0],
    }
    gap = worst_gap(generate_watched(ready, content, tiles, reduced, style)[1], reduced)
    outputs: dict[str, Tensor] = {}
    runs = {f"{name}, {way}": (lambda way=way: outputs.update({way: ways[way]()})) for way in ways}
    seconds = in_turn(runs, repeats)
    rows: list[list[object]] = []
    for way in list(ways)[1:]:
        mean, most = levels(outputs[way], outputs["whole"])
        taken = ratios(seconds[f"{name}, {way}"], seconds[f"{name}, whole"])
        rows.append([name, way, len(tiles), f"{mean:.4f}", f"{most:.3f}", spread(taken, 2)])
        rows[-1].append(f"{gap:.3f}" if way == "thumbnail" else "")
    return rows


@torch.no_grad()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("--checkpoints", type=Path, help="folder of public checkpoints")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    side, wide, repeats = (32, 96, 1) if chosen.quick else (320, 384, 2)
    small, large = cropped(chosen.content, side), cropped(chosen.content, wide)
    speeds, tilings = [], []
    measured = list(models(chosen.checkpoints).items())
    for name, generator in measured[::4] if chosen.quick else measured:
        style = generator.encode_style(cropped(chosen.style, wide)) if generator.takes_style else None
        speeds.append(speed_row(name, generator, small, style, repeats))
        if name not in ("rain_princess.npz", "udnie.npz", "wave.npz", "CycleGAN ResNet-9"):  # as others, only longer
            tilings += tile_rows(name, generator, large, style, 1)
    forms = [f"{dtype}, {layout}, s/MP" for dtype in DTYPES for layout in LAYOUTS]
    gains = ["channels last quicker, float32", "channels last quicker, bfloat16", "bfloat16 quicker"]
    header = ["generator", "million parameters", "reach, px", *forms, *gains, "bfloat16 off by, levels"]
    differences = ["generator", "way", "tiles", "off by, levels", "at most", "time to whole", "gap"]
    exact = [float(row[4]) for row in tilings if str(row[1]).startswith("exact")]
    path = write(
        __file__,
        "Generators",
        [
            str(__doc__).split("\n\n", maxsplit=1)[0],
            f"One thread. Speed: a picture of {side} x {side} px, {repeats} runs of each, in turn. Differences are in "
            "grey levels, 1/255, from float32 in NCHW in the first table, from the picture in one piece in the second.",
            table(header, speeds),
            f"Tiles: a picture of {wide} x {wide} px in float32, tiles of {wide // 2} px, a thumbnail of as many. In "
            f"exact tiles the greatest difference has a median of {median(exact):.4f} grey levels.",
            table(differences, tilings),
        ],
        quick=chosen.quick,
    )
    print(path)


if __name__ == "__main__":
    main()
