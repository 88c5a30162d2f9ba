"""How a picture is cut for the workers and the memory there are, and what a run will need, before it is run.

Sizes are px, height before width, with whatever frame is painted around the picture. Memory is in bytes.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]

from parallel_nst.networks.backbones.base import Layer
from parallel_nst.painting.planning.profile import Profile
from parallel_nst.painting.tiles.geometry import plan_tiles
from parallel_nst.recipe import Recipe

Grid = tuple[int, int]  # rows and columns

MEMORY_BOUNDS = (1 << 20, 1 << 50)  # 1 MiB to 1 PiB: what lies outside is a slip of the unit
GROUP_FILES = {  # controllers of a control group -> its files of limit and use
    "": ("memory.max", "memory.current"),  # version 2
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
PIXEL = 12  # bytes: three channels of float32
SMALLEST_CORE = 128  # px along a side; below it a tile is mostly halo
LONGEST_SIDES = 4.0  # ratio of a tile's sides above which its halo costs more than any balance between workers gains
HALVINGS = 7  # of a size that does not fit: to a hundredth of it
EVERY_ROUND = 16  # up to so many tiles a worker each number is tried, above it steps of an eighth

# Measured on x86-64 Linux with PyTorch 2.13 (oneDNN), one thread, freed memory kept (`workers.keep_memory`): greatest
# resident size over three exact steps, embedded backbone, VGG19 and SqueezeNet, float32 and bfloat16, tiles of 256 to
# 1024 px, none to four graphs kept, beside what `networks.profile` counts. The two factors were raised by 1.3 since,
# when a picture of 18 megapixels took that much more of its workers than was forecast.
PROCESS = 420e6  # PyTorch, Ray, OpenCV and the rest loaded (340 MB) and what the first convolutions leave behind
WEIGHT_COPIES = 2  # of the float32 weights: as they came, and in channels_last
GRAPH_FACTOR = 1.5  # kept graphs: the holes between their tensors
WORK_FACTOR = 2.1  # the tile being computed: the workspaces of the convolutions, and holes
TILE_COPIES = 4  # of its pixels: received, as a tensor, on their way back, and those of the next tile
RAY = 750e6  # a local Ray's own processes
PICTURES = 6  # float32 copies that a process holds of what it paints: see `image_copies`
DRIVER = 500e6  # the same of the process that holds the picture, with its files' codecs


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut.

    grid: for `plan_tiles`. tiles: how many there are; per_worker: how many a worker has at most. kept: graphs that a
    worker keeps from the first pass to the second, those of its first tiles. bytes: predicted for a worker at its worst
    moment. px: of all tiles with their halo or overlap, each of which is computed forward and backward; again: px of
    the tiles that are computed forward once more because their graph is not kept (of independent tiles: none).
    slowest: passes x px of the worker that has most to do.
    overhead: arithmetic over that of the picture in one piece, 1 where nothing is lost.
    """

    grid: Grid
    tiles: int
    per_worker: int
    kept: int
    bytes: int
    px: int
    again: int
    slowest: int
    overhead: float


@dataclass(frozen=True)
class Cut:
    """What the tiles of each worker read, (per_worker, workers) px with 0 where there is none: tile i is for worker i
    modulo workers. largest_core, largest_read: px of the largest tile."""

    reads: np.ndarray
    largest_core: int
    largest_read: int


def machine_memory() -> int:
    """Bytes that this process and its children can still take without swapping: what the system calls available, or
    less where a control group (a container) allows less."""
    return min(int(psutil.virtual_memory().available), *group_memory(Path("/")))


def group_memory(root: Path) -> Iterator[int]:
    """Bytes left in each control group around this process, version 1 and 2. root: of the file system.

    Pages of files that have not been used lately are given back on demand and count as free. In a container the
    group's own path is often not to be seen; then one of the folders above it is the container's.
    """
    table = root / "proc/self/cgroup"
    for line in table.read_text(encoding="utf-8").splitlines() if table.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers in GROUP_FILES:
            top = root / "sys/fs/cgroup" / controllers
            folders = [top, *(top / part for part in accumulate(Path(path).parts[1:], os.path.join))]
            for folder in folders:
                yield from bytes_left(folder, *GROUP_FILES[controllers])


def bytes_left(folder: Path, limit: str, used: str) -> Iterator[int]:
    """What one control group still allows; nothing where it sets no limit."""
    try:
        allowed, taken = (folder / limit).read_text().strip(), int((folder / used).read_text())
        pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if allowed.isdigit():
        idle = int(pages.get("total_inactive_file", pages.get("inactive_file", 0)))
        yield max(0, int(allowed) - max(0, taken - idle))


def parse_memory(text: str) -> int:
    """'4GiB', '4G' -> 4 x 2^30 bytes; '2.5GB' -> 2.5 x 10^9. ValueError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(|b|ib)\s*", text, re.IGNORECASE | re.ASCII)
    if match:
        number, letter, kind = match.groups()
        size = float(number) * (1000 if kind.lower() == "b" else 1024) ** ("kmgt".index(letter.lower()) + 1)
        if MEMORY_BOUNDS[0] <= size <= MEMORY_BOUNDS[1]:
            return int(size)
    raise ValueError(f"memory is {text!r}; give a size with its unit, such as 4GiB, 2.5GB or 800MiB")


def memory_text(size: float) -> str:
    """'640 MiB', '12.4 GiB'."""
    return f"{size / (1 << 20):,.0f} MiB" if size < 10 << 30 else f"{size / (1 << 30):,.1f} GiB"


def exact_tiling(
    height: int,
    width: int,
    workers: int,
    memory_per_worker: int,
    profile: Profile,
    layer: Layer,
    grid: Grid | None = None,
) -> Tiling:
    """The cut for exact tiling on which the slowest worker has least to do and every worker stays within its memory.

    layer: what the halo must cover (`backbones.deepest`). grid: take this cut; only the number of graphs to keep is
    left to choose. ValueError, in one line, where nothing fits.
    """
    cuts = possible_cuts(height, width, workers, grid, halo=layer.margin, align=layer.stride)
    needs = {one: exact_bytes(profile, cut, 0) for one, cut in cuts.items()}
    if (need := min(needs.values())) > memory_per_worker:
        largest = None if grid else largest_picture(height, width, workers, memory_per_worker, profile, layer)
        more = f", more workers, or a size of about {largest[0]}x{largest[1]} px" if largest else ""
        raise ValueError(too_little(height, width, workers, memory_per_worker, need, grid) + more)
    tilings = []
    for one in (one for one, size in needs.items() if size <= memory_per_worker):
        kept = most_kept(cuts[one], memory_per_worker, profile)
        tilings.append(tiling_of(height * width, one, cuts[one], kept, exact_bytes(profile, cuts[one], kept)))
    return min(tilings, key=lambda tiling: (tiling.slowest, tiling.tiles))


def too_little(height: int, width: int, workers: int, have: int, need: int, grid: Grid | None) -> str:
    """Why nothing fits, in one line, and what would."""
    tiles = f"in {grid[0]}x{grid[1]} tiles" if grid else "however they are cut"
    crew = f"{workers} worker{'s' * (workers != 1)}"
    return (
        f"{width}x{height} px {tiles} on {crew} need {memory_text(need)} of memory a worker, and there are "
        f"{memory_text(have)}; give {'more tiles, ' if grid else ''}more memory"
    )


def largest_picture(
    height: int, width: int, workers: int, memory: int, profile: Profile, layer: Layer
) -> tuple[int, int] | None:
    """Width and height, in the same ratio, of about the largest picture that fits, found by halving; None where hardly
    any does. What grows with the picture is the content features that a worker holds of all its tiles."""
    fits, fails = 0.0, 1.0
    for _ in range(HALVINGS):
        ratio = (fits + fails) / 2
        rows, columns = max(1, int(height * ratio)), max(1, int(width * ratio))
        cuts = possible_cuts(rows, columns, workers, None, halo=layer.margin, align=layer.stride)
        if min(exact_bytes(profile, cut, 0) for cut in cuts.values()) <= memory:
            fits = ratio
        else:
            fails = ratio
    return (int(width * fits), int(height * fits)) if fits else None


def most_kept(cut: Cut, memory: int, profile: Profile) -> int:
    """The most graphs with which a worker stays within its memory, if it does with none."""
    if exact_bytes(profile, cut, len(cut.reads)) <= memory:
        return len(cut.reads)
    spare = memory - exact_bytes(profile, cut, 0)
    return min(len(cut.reads) - 1, int(spare / (GRAPH_FACTOR * graph_bytes(profile, cut))))


def exact_bytes(profile: Profile, cut: Cut, kept: int) -> int:
    """Memory of a worker at its worst moment, with so many graphs kept. Where all are, the last one's tile is the one
    being computed."""
    others = min(kept, len(cut.reads) - 1) * graph_bytes(profile, cut)
    halo = cut.largest_read - cut.largest_core
    work = profile.fixed + cut.largest_core * profile.peak + halo * profile.halo.peak
    tiles = cut.largest_read * (len(cut.reads) * profile.content + TILE_COPIES * PIXEL)
    return int(process_bytes(profile) + GRAPH_FACTOR * others + WORK_FACTOR * work + tiles)


def graph_bytes(profile: Profile, cut: Cut) -> float:
    """What the largest tile's graph keeps, its pixels among it."""
    halo = cut.largest_read - cut.largest_core
    return cut.largest_core * profile.graph + halo * profile.halo.graph + cut.largest_read * PIXEL


def process_bytes(profile: Profile) -> float:
    """Memory of a worker that has its network and no tile."""
    return PROCESS + WEIGHT_COPIES * 4 * profile.parameters


def independent_tiling(
    height: int,
    width: int,
    workers: int,
    memory_per_worker: int,
    profile: Profile,
    recipe: Recipe,
    align: int,
    grid: Grid | None = None,
    halo: int = 0,
) -> Tiling:
    """The cut for independent tiles on which the slowest worker has least to do, at least a tile for each worker where
    the picture has room for them. A worker holds one tile at a time, with its optimiser.

    recipe: of overlap and optimiser. align: the deepest stride. halo: px of context around what a tile contributes.
    grid: take this cut. ValueError, in one line, where nothing fits.
    """
    cuts = possible_cuts(height, width, workers, grid, overlap=recipe.tiling.overlap, halo=halo, align=align)
    cuts = {one: cut for one, cut in cuts.items() if np.count_nonzero(cut.reads) >= workers} or cuts
    needs = {one: independent_bytes(profile, cut.largest_read, recipe) for one, cut in cuts.items()}
    if (need := min(needs.values())) > memory_per_worker:
        raise ValueError(too_little(height, width, workers, memory_per_worker, need, grid))
    tilings = [
        tiling_of(height * width, one, cuts[one], len(cuts[one].reads), size)
        for one, size in needs.items()
        if size <= memory_per_worker
    ]
    return min(tilings, key=lambda tiling: (tiling.slowest, tiling.tiles))


def independent_bytes(profile: Profile, read: int, recipe: Recipe) -> int:
    """Memory of a worker that optimises a tile of so many px by itself."""
    tile = read * (profile.content + (TILE_COPIES + image_copies(recipe)) * PIXEL)
    return int(process_bytes(profile) + WORK_FACTOR * (profile.fixed + read * profile.peak) + tile)


def image_copies(recipe: Recipe) -> int:
    """Float32 copies of an image that its optimisation holds at once: image, gradient, best, content and what a step
    makes; for lbfgs also a pair of half-precision vectors, together one copy, for each step it remembers."""
    return PICTURES + (recipe.history if recipe.optimizer == "lbfgs" else 0)


def driver_bytes(height: int, width: int, recipe: Recipe) -> int:
    """Memory of the process that holds a whole picture of this size and, where its tiles are one objective, optimises
    it."""
    copies = image_copies(recipe) if recipe.tiling.mode == "exact" else PICTURES
    return int(DRIVER + copies * PIXEL * height * width)


def worker_share(memory: int, height: int, width: int, recipe: Recipe, workers: int, *, ray: bool = False) -> int:
    """What each of a machine's workers may take of `memory`: an equal part of what the driver leaves, and a local Ray's
    own processes where they are to be counted."""
    left = memory - driver_bytes(height, width, recipe) - (int(RAY) if ray else 0)
    return max(0, left) // workers


def possible_cuts(
    height: int, width: int, workers: int, grid: Grid | None, *, overlap: int = 0, halo: int = 0, align: int
) -> dict[Grid, Cut]:
    """The cuts worth a look, by grid, or the one asked for. ValueError for a picture or a crew of nothing."""
    for name, value in (("height", height), ("width", width), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    grids = [grid] if grid else sorted(sensible_grids(height, width, workers))
    return {one: cut_of(height, width, one, workers, overlap, halo, align) for one in grids}


def sensible_grids(height: int, width: int, workers: int) -> set[Grid]:
    """Grids of near-square tiles, at most k for each worker for k = 1, 2, ..., until tiles are SMALLEST_CORE px."""
    most_rows, most_columns = (max(1, length // SMALLEST_CORE) for length in (height, width))
    most = most_rows * most_columns
    grids = set()
    for tiles in {min(workers * k, most) for k in rounds(-(-most // workers))}:
        middle = math.sqrt(tiles * height / width)
        first, last = math.ceil(middle / math.sqrt(LONGEST_SIDES)), math.floor(middle * math.sqrt(LONGEST_SIDES)) + 1
        for rows in range(max(1, min(first, most_rows)), min(last, most_rows) + 1):
            grids.add((rows, min(max(1, tiles // rows), most_columns)))
    return grids


def rounds(most: int) -> Iterator[int]:
    """1, 2, 3, ... up to `most` or just above, in steps of an eighth from EVERY_ROUND on."""
    k = 1
    while k < most:
        yield k
        k += k // 8 if k >= EVERY_ROUND else 1
    yield k


def cut_of(height: int, width: int, grid: Grid, workers: int, overlap: int, halo: int, align: int) -> Cut:
    """The tiles of a grid. Rows and columns are cut each for themselves, so that a side's tiles are all there is to
    lay out."""
    (core_rows, read_rows), (core_columns, read_columns) = (
        lengths(length, count, overlap, halo, align) for length, count in zip((height, width), grid, strict=True)
    )
    reads = np.outer(read_rows, read_columns).reshape(-1)
    largest_core, largest_read = max(core_rows) * max(core_columns), max(read_rows) * max(read_columns)
    return Cut(shared_out(reads, workers), largest_core, largest_read)


@functools.lru_cache(maxsize=4096)
def lengths(length: int, count: int, overlap: int, halo: int, align: int) -> tuple[list[int], list[int]]:
    """Along one side, how long the tiles' cores are and what they read."""
    tiles = plan_tiles(length, 1, (count, 1), overlap=overlap, halo=halo, align=align)
    return [tile.core.height for tile in tiles], [tile.read.height for tile in tiles]


def shared_out(reads: np.ndarray, workers: int) -> np.ndarray:
    """(tiles,) -> (tiles of a worker, workers), filled up with 0."""
    shared = np.zeros((-(-len(reads) // workers), workers), np.int64)
    shared.reshape(-1)[: len(reads)] = reads
    return shared


def tiling_of(picture: int, grid: Grid, cut: Cut, kept: int, size: int) -> Tiling:
    """The record of a cut of a picture of so many px. All tiles are computed forward and backward, those past the first
    `kept` of each worker forward again."""
    px, again = int(cut.reads.sum()), int(cut.reads[kept:].sum())
    return Tiling(
        grid=grid,
        tiles=int(np.count_nonzero(cut.reads)),
        per_worker=len(cut.reads),
        kept=kept,
        bytes=size,
        px=px,
        again=again,
        slowest=int((2 * cut.reads.sum(0) + cut.reads[kept:].sum(0)).max()),
        overhead=(2 * px + again) / (2 * picture),
    )
