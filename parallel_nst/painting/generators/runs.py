"""Generators at work: brought to a device and a precision, and run over pictures of any size in a given memory.

    generator = prepare(generator, "cpu", "bfloat16")
    made = stylise(generator, pictures, memory=2 << 30)

Pictures that do not fit go through in tiles (`generator_tiles`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import util
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from parallel_nst.errors import BadInput
from parallel_nst.files.images import read_image
from parallel_nst.networks.convolutions import Conv2d
from parallel_nst.networks.generators.base import LEAST_POSITIONS, Generator, Style, leaves
from parallel_nst.networks.moments import moments_of, worst_gap
from parallel_nst.painting.generators.tiles import (
    THUMBNAIL,
    exact_statistics,
    generate_held,
    generate_tiles,
    generate_watched,
    plan_pieces,
    thumbnail_statistics,
)
from parallel_nst.painting.planning.profile import LiveBytes
from parallel_nst.painting.tiles.geometry import Tile

Statistics = Literal["exact", "thumbnail"]
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
DTYPES = ("float32", "bfloat16")
ENOUGH = 1 / 255  # mean absolute difference that bfloat16 may make: a grey level
PROBE = 256  # px of the picture that it is measured on
SIDES = (250, 378)  # px of the pictures on which memory is counted; they have to be extended, as most have
WORKSPACE = 1.1  # what the kernels of convolutions take besides the tensors
SPARE = 32 << 20  # bytes that the allocator keeps in pieces of its own
MORE_THAN_ANY = 1 << 14  # bytes a px that a pass may take: what fits so needs no counting, which takes a second
OUTPUT = 12  # bytes a px of the stylised picture: three channels in float32
MIB = 1 << 20
SHRINK = 0.9  # from one side of tiles that is tried to the next


def prepare(generator: Generator, device: torch.device | str = "cpu", dtype: str = "float32") -> Generator:
    """A copy for use alone: on this device, frozen, in evaluation mode and in the layout that is fastest (channels
    last, for every architecture and in both precisions), batch normalisations merged into the convolutions before them.

    dtype: float32 or bfloat16. With bfloat16 the first and the last convolution keep their float32, since eight bits
    are fewer than a picture has, and so does all that is computed of statistics; the rest is in bfloat16. It takes and
    gives pictures in float32 all the same. A style is encoded in float32. BadInput for another dtype.
    """
    if dtype not in DTYPES:
        raise BadInput(f"dtype {dtype} is not one that generators run in; give {' or '.join(DTYPES)}")
    ready = copy.deepcopy(generator).float().eval().requires_grad_(False)
    merge_batch_norms(ready)
    for layer in ready.modules():
        if isinstance(layer, Conv2d):
            layer.gives = None
    if dtype == "bfloat16":
        first, *between, _ = (layer for layer in leaves(ready.layers()) if isinstance(layer, CONVOLUTIONS))
        assert isinstance(first, Conv2d)
        first.gives = torch.bfloat16
        for conv in between:
            conv.bfloat16()
    return ready.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def merge_batch_norms(generator: Generator) -> None:
    """Put each batch normalisation that follows on a convolution into the convolution's weights, and nothing in its
    place: equal to rounding in evaluation mode, and one pass less over the activations."""
    homes = {child: (parent, name) for parent in generator.modules() for name, child in parent.named_children()}
    for conv, norm in list(pairwise(leaves(generator.layers()))):
        if isinstance(conv, CONVOLUTIONS) and isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
                isinstance(conv, nn.ConvTranspose2d),
            )
            parent, name = homes[norm]
            setattr(parent, name, nn.Identity())
    generator.requires_grad_(False)


def chosen_dtype(generator: Generator, native: bool, style: Style | None = None) -> str:
    """bfloat16 where the device multiplies it natively (`pools.native_bfloat16`) and this generator's picture is within
    a grey level of the float32 one, in the mean over a small photograph, with a sky in it and without; else float32.
    style: for a generator that takes one."""
    if not native:
        return "float32"
    pictures = torch.cat([photograph(), under_sky(photograph())])
    with torch.no_grad():
        exact, rough = (prepare(generator, dtype=dtype)(pictures, style) for dtype in DTYPES)
    return "bfloat16" if float((exact - rough).abs().mean((1, 2, 3)).max()) <= ENOUGH else "float32"


def photograph() -> Tensor:
    """The middle of a photograph (1, 3, PROBE, PROBE) from scikit-image's wheel, found without importing it."""
    spec = util.find_spec("skimage")
    assert spec is not None and spec.origin is not None
    pixels = torch.from_numpy(read_image(Path(spec.origin).parent / "data" / "coffee.png").pixels)
    top, left = ((length - PROBE) // 2 for length in pixels.shape[:2])
    return pixels[top : top + PROBE, left : left + PROBE].permute(2, 0, 1)[None].float()


def under_sky(picture: Tensor) -> Tensor:
    """The lower half of a picture (1, 3, H, W) below a clear sky: smooth areas, where instance normalisation enlarges
    what little there is, show best what a generator makes of rounding."""
    half = picture.shape[-2] // 2
    sky = torch.linspace(0.65, 0.95, half).view(1, 1, half, 1) * picture.new_tensor([0.9, 0.95, 1.0]).view(1, 3, 1, 1)
    return torch.cat([sky.expand(1, 3, half, picture.shape[-1]), picture[..., half:, :]], -2)


@dataclass(frozen=True)
class Costs:
    """What a generator's pass takes, in bytes for each px of an extended picture.

    peak: alive at the worst moment, the input's copies and the output among it, the picture and the weights not.
    held: what a piece that waits keeps where it keeps most. fixed: bytes that do not grow with the picture.
    stops: normalisations that wait for moments.
    """

    peak: float
    held: float
    fixed: float
    stops: int


_known: WeakKeyDictionary[Generator, dict[str | None, Costs]] = WeakKeyDictionary()


def costs_of(generator: Generator, dtype: str | None = None) -> Costs:
    """Counted, tensor by tensor, on pictures of two sizes, which hold no numbers where the generator is not on a
    graphics card; kept for as long as the generator is. dtype: as `prepare` takes it; None: as the generator is."""
    known = _known.setdefault(generator, {})
    if dtype not in known:
        device = next(generator.parameters()).device
        place = device if device.type == "cuda" else "meta"  # a card works in larger blocks
        probe = copy.deepcopy(generator).to(place) if dtype is None else prepare(generator, place, dtype)
        (small, held, stops), (large, more, _) = (counted(probe, side) for side in SIDES)
        area, larger = (prod(probe.extended_size(side, side)) for side in SIDES)
        peak = (large - small) / (larger - area)
        fixed = max(0.0, small - peak * area)
        known[dtype] = Costs(WORKSPACE * peak, (more - held) / (larger - area), WORKSPACE * fixed + SPARE, stops)
    return known[dtype]


def counted(generator: Generator, side: int) -> tuple[int, int, int]:
    """Bytes at the worst moment of a pass over a square picture, most bytes at a stop, and the number of stops."""
    picture = torch.empty(1, 3, side, side, device=next(generator.parameters()).device)
    at_stops = [0]
    with torch.no_grad():
        style = generator.encode_style(picture) if generator.takes_style else None
        with LiveBytes() as live:
            going = generator.start(generator.extend(picture), style)
            while going.waiting is not None:
                at_stops.append(live.now)
                going.advance(moments_of(going.waiting))
            generator.crop(going.result, side, side).clamp(0, 1)
    return live.most, max(at_stops), len(at_stops) - 1


def peak_bytes(generator: Generator, height: int, width: int, dtype: str | None = None, batch: int = 1) -> int:
    """Memory that a pass over a picture of this size in one piece takes at its worst moment, the stylised picture among
    it, the picture itself and the weights not. dtype: as `prepare` takes it; None: as the generator is. batch: pictures
    that go through together."""
    costs = costs_of(generator, dtype)
    return round(costs.fixed + costs.peak * batch * prod(generator.extended_size(height, width)))


@dataclass(frozen=True)
class GeneratorTiling:
    """How a picture goes through a generator.

    memory: bytes that this takes. work: px that go through the network in full, for each of the picture's own.
    hold: all tiles wait at each normalisation, so that one pass is enough.
    """

    tiles: Sequence[Tile]
    memory: int
    work: float
    hold: bool = False


def tilings(
    generator: Generator, height: int, width: int, batch: int, statistics: Statistics
) -> Iterator[GeneratorTiling]:
    """All ways that come into question, from large tiles to small ones: down to those that have as much context on each
    side as they have px of their own."""
    costs, size = costs_of(generator), generator.extended_size(height, width)
    exact = statistics == "exact" and costs.stops > 0
    side, least = float(max(size)), max(generator.reach, LEAST_POSITIONS * generator.stride)
    while True:
        side = max(least, side * SHRINK)
        tiles = plan_pieces(generator, height, width, max(1, int(side) // generator.stride) * generator.stride)
        areas = [tile.read.height * tile.read.width for tile in tiles]
        memory, work = costs.fixed + batch * costs.peak * max(areas), sum(areas) / prod(size)
        if exact:
            yield GeneratorTiling(tiles, round(memory + batch * costs.held * sum(areas)), work, hold=True)
        passes = 1 + costs.stops / 2 if exact else 1  # each pass but the last ends at a normalisation
        yield GeneratorTiling(tiles, round(memory + batch * OUTPUT * height * width), work * passes)
        if side <= least:
            return


def chosen_tiling(
    generator: Generator, height: int, width: int, memory: int, batch: int = 1, statistics: Statistics = "exact"
) -> GeneratorTiling:
    """The way with the least work that fits `memory` bytes; BadInput, in one line, where none does."""
    fitting: GeneratorTiling | None = None
    least = None
    for tiling in tilings(generator, height, width, batch, statistics):
        least = min(least or tiling.memory, tiling.memory)
        if tiling.memory <= memory and (fitting is None or tiling.work < fitting.work):
            fitting = tiling
    if fitting is None:
        assert least is not None
        pictures = f"{batch} pictures of {width} x {height} px" if batch > 1 else f"a picture of {width} x {height} px"
        needed, given = -(-least // MIB), memory // MIB
        raise BadInput(f"{pictures} needs {needed} MiB of memory in its smallest tiles, not {given} MiB")
    return fitting


@dataclass(frozen=True)
class Made:
    """output: stylised pictures (N, 3, H, W) in [0, 1]. tiles: pieces they went through the generator in; 1: whole.
    gap: how far the statistics of the thumbnail were from those of the tiles (`worst_gap`); None where exact."""

    output: Tensor
    tiles: int
    gap: float | None = None


@torch.no_grad()
def stylise(
    generator: Generator,
    pictures: Tensor,
    style: Style | None = None,
    *,
    memory: int,
    statistics: Statistics = "exact",
) -> Made:
    """Stylise pictures (N, 3, H, W) in [0, 1] with a generator from `prepare`, in `memory` bytes: whole if that fits,
    else in tiles.

    exact: of the statistics of the whole pictures, equal to the untiled result to rounding; in one pass where all
    tiles' activations fit, else in a pass for each normalisation. thumbnail: of those of the pictures reduced, in one
    pass. BadInput where not even the smallest sensible tiles fit.
    """
    batch, _, height, width = pictures.shape
    small = batch * prod(generator.extended_size(height, width)) * MORE_THAN_ANY <= memory
    if small or peak_bytes(generator, height, width, batch=batch) <= memory:
        return Made(generator(pictures, style), 1)
    tiling = chosen_tiling(generator, height, width, memory, batch, statistics)
    tiles = tiling.tiles
    if statistics == "thumbnail" and costs_of(generator).stops:
        side = min(THUMBNAIL, thumbnail_that_fits(generator, memory // batch))
        reduced = thumbnail_statistics(generator, pictures, side, style)
        output, met = generate_watched(generator, pictures, tiles, reduced, style)
        return Made(output, len(tiles), worst_gap(met, reduced))
    if tiling.hold:
        return Made(generate_held(generator, pictures, tiles, style), len(tiles))
    measured = exact_statistics(generator, pictures, tiles, style)
    return Made(generate_tiles(generator, pictures, tiles, measured, style), len(tiles))


def thumbnail_that_fits(generator: Generator, memory: int) -> int:
    """The longest side, px, of a square picture that goes through in one piece in so many bytes."""
    costs = costs_of(generator)
    return max(generator.stride, int(max(0.0, (memory - costs.fixed) / costs.peak) ** 0.5) - 2 * generator.frame)
