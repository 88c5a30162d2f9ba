"""A generator over a picture in tiles, equal to the untiled result to rounding.

    tiles = plan_pieces(generator, height, width, 1024)
    stylised = generate_tiles(generator, picture, tiles, exact_statistics(generator, picture, tiles))

Exact statistics of instance normalisation come from all tiles (`exact_statistics`), cheap ones from the picture reduced
(`thumbnail_statistics`, as in URST, Chen et al. 2021, arXiv 2103.11784). With workers, a driver adds up what they
return of `piece_sums`, one pass for each normalisation, and then has them call `Generator.generate` with the moments;
or they keep a `Pass` for each tile, and one pass is enough.

Tiles lie in the plane of the *extended* picture (`Generator.extend`); all around `core` is context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from parallel_nst.networks.generators.base import Generator, Pass, Style, mirrored
from parallel_nst.networks.moments import Moments, MomentSums, moments_of
from parallel_nst.painting.tiles.geometry import Rect, Tile, plan_tiles

THUMBNAIL = 512  # px of the longer side


def plan_pieces(generator: Generator, height: int, width: int, side: int) -> list[Tile]:
    """Tiles of about `side` px, without overlap, for a picture of this size."""
    size = generator.extended_size(height, width)
    grid = (-(-size[0] // side), -(-size[1] // side))
    tiles = plan_tiles(*size, grid, halo=generator.reach, align=generator.stride)
    return [replace(tile, read=as_long(tile.read, size, generator.stride)) for tile in tiles]


def as_long(read: Rect, size: tuple[int, int], stride: int) -> Rect:
    """What a tile reads, its sides as much over multiples of `stride` as those of the picture, because what a network
    pads with depends on that. size: of the extended picture, px."""
    height, width = size
    bottom = read.bottom + (height % stride if read.bottom < height else 0)
    right = read.right + (width % stride if read.right < width else 0)
    return Rect(read.top, read.left, bottom, right)


def piece_of(generator: Generator, picture: Tensor, tile: Tile) -> Tensor:
    """The piece of the extended picture that a tile reads, of a picture (N, 3, H, W) that is not extended: a view where
    the tile lies within it."""
    starts, stops = (tile.read.top, tile.read.left), (tile.read.bottom, tile.read.right)
    for axis, start, stop in zip((-2, -1), starts, stops, strict=True):
        length, first, last = picture.shape[axis], start - generator.frame, stop - generator.frame
        if first >= 0 and last <= length:
            picture = picture.narrow(axis, first, last - first)
        else:
            picture = picture.index_select(axis, mirrored(length, -first, last - first).to(picture.device))
    return picture


def put(output: Tensor, piece: Tensor, tile: Tile, frame: int) -> None:
    """Write a stylised piece's core to where it belongs in a picture (N, 3, H, W), and clamp it to [0, 1]. frame: px by
    which the extended picture starts before the picture."""
    core, places, parts = tile.core, [], []
    spans = ((core.top, core.bottom, tile.read.top), (core.left, core.right, tile.read.left))
    for length, (start, stop, read) in zip(output.shape[-2:], spans, strict=True):
        first = min(length, max(0, start - frame))
        last = max(first, min(length, stop - frame))
        places.append(slice(first, last))
        parts.append(slice(first + frame - read, last + frame - read))
    output[..., places[0], places[1]].copy_(piece[..., parts[0], parts[1]]).clamp_(0, 1)


def core_sums(going: Pass, tile: Tile) -> MomentSums:
    """Sums of what a piece's pass waits with, over the tile's core."""
    assert going.waiting is not None
    return MomentSums.of(going.waiting, *tile.positions(going.stride))


def piece_sums(
    generator: Generator,
    piece: Tensor,
    tile: Tile,
    statistics: Sequence[Moments],
    style: Style | None = None,
) -> MomentSums | None:
    """Sums over a tile's core at the first normalisation after those whose `statistics` are known; None when there
    is none left. One worker's part of one pass of `exact_statistics`."""
    going = generator.start(piece, style)
    for moments in statistics:
        going.advance(moments)
    return None if going.waiting is None else core_sums(going, tile)


def exact_statistics(
    generator: Generator, picture: Tensor, tiles: Sequence[Tile], style: Style | None = None
) -> list[Moments]:
    """The moments of every normalisation over the whole extended picture of `picture` (N, 3, H, W), measured in tiles.

    A layer's input depends on the statistics of those before it, so there is a pass for each normalisation, in the
    memory of one tile. Fewer tiles than cover the picture give an estimate from those.
    """
    statistics: list[Moments] = []
    while True:
        found = (piece_sums(generator, piece_of(generator, picture, t), t, statistics, style) for t in tiles)
        parts = [sums for sums in found if sums is not None]
        if not parts:
            return statistics
        statistics.append(sum(parts[1:], parts[0]).moments())


def finish_together(passes: Sequence[Pass], tiles: Sequence[Tile]) -> list[Moments]:
    """Let the passes of all tiles go on together, from normalisation to normalisation, each by the moments over all of
    them, until they are at their ends: the statistics that `exact_statistics` measures, in one pass. The waiting
    activations of all tiles are in memory."""
    statistics: list[Moments] = []
    while any(going.waiting is not None for going in passes):
        parts = [core_sums(going, tile) for going, tile in zip(passes, tiles, strict=True)]
        statistics.append(sum(parts[1:], parts[0]).moments())
        for going in passes:
            going.advance(statistics[-1])
    return statistics


def generate_held(generator: Generator, picture: Tensor, tiles: Sequence[Tile], style: Style | None = None) -> Tensor:
    """The stylised picture (N, 3, H, W) in [0, 1] with exact statistics in one pass, all tiles held."""
    passes = [generator.start(piece_of(generator, picture, tile), style) for tile in tiles]
    finish_together(passes, tiles)
    output = picture.new_empty(picture.shape)
    for tile in reversed(tiles):
        put(output, passes.pop().result, tile, generator.frame)
    return output


def generate_tiles(
    generator: Generator,
    picture: Tensor,
    tiles: Sequence[Tile],
    statistics: Sequence[Moments],
    style: Style | None = None,
) -> Tensor:
    """The stylised picture (N, 3, H, W) in [0, 1], generated tile by tile by these statistics."""
    output = picture.new_empty(picture.shape)
    for tile in tiles:
        piece = generator.generate(piece_of(generator, picture, tile), statistics, style)
        put(output, piece, tile, generator.frame)
    return output


def generate_watched(
    generator: Generator,
    picture: Tensor,
    tiles: Sequence[Tile],
    statistics: Sequence[Moments],
    style: Style | None = None,
) -> tuple[Tensor, list[Moments]]:
    """The stylised picture (N, 3, H, W) in [0, 1], generated tile by tile by these statistics, and the moments that the
    tiles together really had at each normalisation on the way: those of the first one are exact, the others what they
    are after normalising by the statistics that were given."""
    output = picture.new_empty(picture.shape)
    met: list[MomentSums] = []
    for tile in tiles:
        going, sums = generator.start(piece_of(generator, picture, tile), style), []
        for moments in statistics:
            sums.append(core_sums(going, tile))
            going.advance(moments)
        put(output, going.result, tile, generator.frame)
        met = [a + b for a, b in zip(met, sums, strict=True)] if met else sums
    return output, [sums.moments() for sums in met]


def thumbnail_statistics(
    generator: Generator, picture: Tensor, side: int = THUMBNAIL, style: Style | None = None
) -> list[Moments]:
    """The moments of every normalisation for the picture (N, 3, H, W) reduced to a longer side of `side` px: cheap,
    and not those of the picture itself, whose finest detail a reduction loses (`worst_gap` says by how much)."""
    height, width = picture.shape[-2:]
    if (shrink := side / max(height, width)) < 1:
        small = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        picture = F.interpolate(picture, size=small, mode="bilinear", antialias=True)
    going, statistics = generator.start(generator.extend(picture), style), []
    while going.waiting is not None:
        statistics.append(moments_of(going.waiting))
        going.advance(statistics[-1])
    return statistics
