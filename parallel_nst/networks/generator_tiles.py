"""A generator over a picture in tiles, equal to the untiled result to rounding.

    stylised = generate_in_tiles(generator, picture)

Exact statistics of instance normalisation come from all tiles (`exact_statistics`), cheap ones from the picture reduced
(`thumbnail_statistics`, as in URST, Chen et al. 2021, arXiv 2103.11784). With workers, a driver adds up what they
return of `piece_sums`, one pass for each normalisation, and then has them call `Generator.generate` with the moments;
or they keep a `Run` for each tile, and one pass is enough.

Tiles lie in the plane of the *extended* picture (`Generator.extend`); all around `core` is context.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from parallel_nst.networks.generators import Generator, Run, Style
from parallel_nst.networks.moments import Moments, Sums, moments_of
from parallel_nst.tiles import Tile, plan_tiles


def plan_pieces(generator: Generator, height: int, width: int, side: int) -> list[Tile]:
    """Tiles of about `side` px, without overlap, for a picture of this size."""
    size = generator.extended_size(height, width)
    grid = (-(-size[0] // side), -(-size[1] // side))
    return plan_tiles(*size, grid, halo=generator.reach, align=generator.stride)


def cut(extended: Tensor, tile: Tile) -> Tensor:
    """The piece of an extended picture that a tile reads, as a view."""
    return extended[..., tile.read.top : tile.read.bottom, tile.read.left : tile.read.right]


def core_sums(run: Run, tile: Tile, size: tuple[int, int]) -> Sums:
    """Sums of what a piece's run waits with, over the tile's core. size: of the extended picture, px."""
    assert run.waiting is not None
    stride = tile.read.height // run.waiting.shape[-2]
    return Sums.of(run.waiting, *tile.positions(stride, *size))


def piece_sums(
    generator: Generator,
    piece: Tensor,
    tile: Tile,
    size: tuple[int, int],
    statistics: Sequence[Moments],
    style: Style | None = None,
) -> Sums | None:
    """Sums over a tile's core at the first normalisation after those whose `statistics` are known; None when there
    is none left. One worker's part of one pass of `exact_statistics`. size: of the extended picture, px."""
    run = generator.start(piece, style)
    for moments in statistics:
        run.advance(moments)
    return None if run.waiting is None else core_sums(run, tile, size)


def exact_statistics(
    generator: Generator, extended: Tensor, tiles: Sequence[Tile], style: Style | None = None, *, hold: bool = True
) -> list[Moments]:
    """The moments of every normalisation over the whole extended picture (N, 3, H, W), measured in tiles.

    A layer's input depends on the statistics of those before it. With `hold` all tiles stop at each normalisation
    and go on together: one pass, the waiting activations of all tiles in memory. Without, there is a pass for each
    normalisation and the memory of one tile. Fewer tiles than cover the picture give an estimate from those.
    """
    size = (extended.shape[-2], extended.shape[-1])
    statistics: list[Moments] = []
    runs = [generator.start(cut(extended, tile), style) for tile in tiles] if hold else []
    while True:
        if hold:
            parts = [
                core_sums(run, tile, size) for run, tile in zip(runs, tiles, strict=True) if run.waiting is not None
            ]
        else:
            found = (piece_sums(generator, cut(extended, tile), tile, size, statistics, style) for tile in tiles)
            parts = [sums for sums in found if sums is not None]
        if not parts:
            return statistics
        statistics.append(sum(parts[1:], parts[0]).moments())
        for run in runs:
            run.advance(statistics[-1])


def thumbnail_statistics(
    generator: Generator, picture: Tensor, side: int = 512, style: Style | None = None
) -> list[Moments]:
    """The moments of every normalisation for the picture (N, 3, H, W) reduced to a longer side of `side` px: cheap,
    and not those of the picture itself, whose finest detail a reduction loses (`worst_gap` says by how much)."""
    height, width = picture.shape[-2:]
    if (shrink := side / max(height, width)) < 1:
        small = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        picture = F.interpolate(picture, size=small, mode="bilinear", antialias=True)
    run, statistics = generator.start(generator.extend(picture), style), []
    while run.waiting is not None:
        statistics.append(moments_of(run.waiting))
        run.advance(statistics[-1])
    return statistics


def generate_in_tiles(
    generator: Generator,
    picture: Tensor,
    side: int = 1024,
    statistics: Sequence[Moments] | None = None,
    style: Style | None = None,
) -> Tensor:
    """The stylised picture (N, 3, H, W) in [0, 1], generated in tiles of about `side` px and the memory of one of them:
    equal to the untiled one with the exact statistics, which are measured where none are given."""
    height, width = picture.shape[-2:]
    extended, tiles = generator.extend(picture), plan_pieces(generator, height, width, side)
    if statistics is None:
        statistics = exact_statistics(generator, extended, tiles, style, hold=False)
    output = torch.empty_like(extended)
    for tile in tiles:
        piece, inner = generator.generate(cut(extended, tile), statistics, style), tile.core.within(tile.read)
        core = piece[..., inner.top : inner.bottom, inner.left : inner.right]
        output[..., tile.core.top : tile.core.bottom, tile.core.left : tile.core.right] = core
    return generator.crop(output, height, width).clamp(0, 1)
