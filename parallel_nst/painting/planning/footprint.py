"""What processes take: a worker with its tiles, and the one that holds the picture. In bytes."""

from __future__ import annotations

from parallel_nst.files.scratch import has_room
from parallel_nst.files.size import Size
from parallel_nst.painting.planning.cuts import Cut
from parallel_nst.painting.planning.profile import Profile
from parallel_nst.recipe import Recipe

PIXEL = 12  # bytes: three channels of float32

# Measured on x86-64 Linux with PyTorch 2.13 (oneDNN), one thread, freed memory kept (`workers.freed_memory`): greatest
# resident size over three exact steps, embedded backbone, VGG19 and SqueezeNet, float32 and bfloat16, tiles of 256 to
# 1024 px, none to four graphs kept, beside what `planning.profile` counts; since then held against pictures of 4.5 to
# 100 megapixels, in one to 30 tiles a worker.
PROCESS = 420e6  # PyTorch, Ray, OpenCV and the rest loaded (340 MB) and what the first convolutions leave behind
WEIGHT_COPIES = 2  # of the float32 weights: as they came, and in channels_last
GRAPH_FACTOR = 0.8  # kept graphs: not all of what they keep is there at once
WORK_FACTOR = 2.1  # the tile being computed: the workspaces of the convolutions, and holes
TILE_COPIES = 4  # of its pixels: received, as a tensor, on their way back, and those of the next tile
RAY = 620e6  # a local Ray's own processes, without those that `workers.ray.cluster` leaves out
SENT = 2  # float32 copies of independent tiles on their way: Ray's object store keeps their pages
PICTURES = 6  # float32 copies that a process holds of what it paints: see `image_copies`
HELD = 4.5  # of the program that hands exact tiles out, with their copies in Ray's object store
IN_FILES = 2.5  # the same of a large picture, where content and result are in files
FILES = 4  # of them: content, result, what is written, and the picture of the scale before
DRIVER = 500e6  # the same of the process that holds the picture, with its files' codecs


def exact_bytes(profile: Profile, cut: Cut, kept: int, recipe: Recipe) -> int:
    """Memory of a worker at its worst moment, its share of the optimiser among it, with so many graphs kept. Where all
    are, the last one's tile is the one being computed."""
    others = min(kept, len(cut.reads) - 1) * graph_bytes(profile, cut)
    halo = cut.largest_read - cut.largest_core
    work = profile.fixed + cut.largest_core * profile.peak + halo * profile.halo.peak
    tiles = cut.largest_read * (len(cut.reads) * profile.content + TILE_COPIES * PIXEL)
    return int(held_bytes(profile, cut, recipe) + GRAPH_FACTOR * others + WORK_FACTOR * work + tiles)


def held_bytes(profile: Profile, cut: Cut, recipe: Recipe) -> float:
    """Memory of a worker before it computes anything: its network, and its share of the optimiser."""
    return process_bytes(profile) + cut.owned * image_copies(recipe) * PIXEL


def graph_bytes(profile: Profile, cut: Cut) -> float:
    """What the largest tile's graph keeps, its pixels among it."""
    halo = cut.largest_read - cut.largest_core
    return cut.largest_core * profile.graph + halo * profile.halo.graph + cut.largest_read * PIXEL


def process_bytes(profile: Profile) -> float:
    """Memory of a worker that has its network and no tile."""
    return PROCESS + WEIGHT_COPIES * 4 * profile.parameters


def independent_bytes(profile: Profile, read: int, recipe: Recipe) -> int:
    """Memory of a worker that optimises a tile of so many px by itself."""
    tile = read * (profile.content + (TILE_COPIES + image_copies(recipe)) * PIXEL)
    return int(process_bytes(profile) + WORK_FACTOR * (profile.fixed + read * profile.peak) + tile)


def image_copies(recipe: Recipe) -> int:
    """Float32 copies of an image that its optimisation holds at once: image, gradient, best, content and what a step
    makes; the mean, where one is taken; for lbfgs also a move in half precision and what it is filtered with, together
    two copies, and a pair of half-precision vectors, together one copy, for each step it remembers."""
    return PICTURES + (recipe.average > 0) + (2 + recipe.history if recipe.optimizer == "lbfgs" else 0)


def optimiser_bytes(size: Size, recipe: Recipe) -> int:
    """What the optimisation of a whole picture of this size holds, in all processes; of independent tiles, which come
    one after the other, nothing is sure."""
    return image_copies(recipe) * PIXEL * size.area if recipe.tiling.mode == "exact" else 0


def driver_bytes(size: Size, recipe: Recipe) -> int:
    """Memory of the process that reads and writes a picture of this size; who optimises it has its own."""
    copies: float = PICTURES
    if recipe.tiling.mode == "exact":
        copies = IN_FILES if has_room(PIXEL * size.area, FILES) else HELD
    return int(DRIVER + copies * PIXEL * size.area)


def worker_share(memory: int, size: Size, recipe: Recipe, workers: int, *, ray: bool = False) -> int:
    """What each of a machine's workers may take of `memory`: an equal part of what the driver leaves, and a local Ray
    with its object store where they are to be counted."""
    store = 0 if recipe.tiling.mode == "exact" else SENT * PIXEL * size.area
    left = memory - driver_bytes(size, recipe) - (int(RAY) + store if ray else 0)
    return max(0, left) // workers
