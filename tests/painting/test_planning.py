"""Cuts that fit: held against the tiles themselves, and against what a process takes."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest

from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.base import Layer
from parallel_nst.painting.planning.cuts import cut_in, sensible_grids
from parallel_nst.painting.planning.footprint import PIXEL, driver_bytes, exact_bytes, image_copies, optimiser_bytes
from parallel_nst.painting.planning.memory import group_memory, machine_memory, parse_memory
from parallel_nst.painting.planning.profile import Profile, Rates
from parallel_nst.painting.planning.tilings import Budget, exact_tiling, independent_tiling
from parallel_nst.painting.tiles.geometry import plan_tiles
from parallel_nst.painting.tiles.ownership import deal
from parallel_nst.recipe import Recipe, TilingSpec

GIB = 1 << 30
LAYER = Layer(stride=16, margin=64, channels=256)
NO_HALO = Layer(stride=16, margin=0, channels=256)
COSTS = Profile(
    flops=110e3,
    graph=950,
    peak=1040,
    forward_peak=515,
    halo=Rates(flops=100e3, graph=515, peak=930, forward_peak=390),
    content=32,
    parameters=2_300_000,
    fixed=1.4e6,
)
CASES = [
    (height, width, workers, int(memory * GIB))
    for (height, width), workers, memory in itertools.product(
        [(1, 1), (100, 90), (1000, 1500), (40, 5000), (2500, 2000)], [1, 2, 7, 64], [1.75, 2.5, 40]
    )
]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 * GIB),
        ("4G", 4 * GIB),
        ("4096MiB", 4 * GIB),
        ("2.5GB", 2_500_000_000),
        ("0.5g", GIB // 2),
        (" 800 mb ", 800_000_000),
        ("1TiB", 1024 * GIB),
    ],
)
def test_memory_is_read_with_its_unit(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "lots", "4", "0GiB", "-4GiB", "1kB", "9999999TiB", "4GiBs", "nanGiB", "1e3GB", "٤GiB", "G", "9" * 400]
)
def test_memory_that_cannot_be_meant_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match="such as 4GiB") as caught:
        parse_memory(text)
    assert "\n" not in str(caught.value)


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def root(tmp_path):
    """A file system on which a process is in /job/task of both versions of control groups."""
    write(tmp_path / "proc/self", cgroup="5:cpu:/job\n4:memory:/job/task\n0::/job/task")
    return tmp_path


def test_limits_of_all_groups_around_a_process_count(root):
    groups = root / "sys/fs/cgroup"
    write(groups / "job", memory__max=10 * GIB, memory__current=4 * GIB, memory__stat=f"inactive_file {GIB}")
    write(groups / "job/task", memory__max="max", memory__current=GIB, memory__stat="inactive_file 0")
    write(
        groups / "memory/job/task",
        memory__limit_in_bytes=3 * GIB,
        memory__usage_in_bytes=2 * GIB,
        memory__stat=f"inactive_file 0\ntotal_inactive_file {GIB // 2}",
    )
    assert sorted(group_memory(root)) == [int(0.95 * 3 * GIB) - 3 * GIB // 2, int(0.95 * 10 * GIB) - 3 * GIB]


def test_in_a_container_the_top_group_is_its_own(root):
    write(root / "sys/fs/cgroup", memory__max=2 * GIB, memory__current=3 * GIB, memory__stat="inactive_file 0")
    assert list(group_memory(root)) == [0]


def test_without_groups_nothing_limits(tmp_path):
    assert list(group_memory(tmp_path)) == []


def test_this_machine_has_some_memory():
    assert 0 < machine_memory() < 0.96 * psutil.virtual_memory().total  # a guard would end a worker that took the rest


def figures(tiles, workers, kept):
    """px, px computed again, and the slowest worker's passes, tile by tile."""
    loads = np.zeros(workers, int)
    again = 0
    ownership = deal(tiles, [1.0] * workers)
    for rank in range(ownership.ranks):
        for position, tile in enumerate(ownership.of(rank)):
            computed_twice = position >= kept
            again += tile.read.area * computed_twice
            loads[rank] += tile.read.area * (3 if computed_twice else 2)
    return sum(tile.read.area for tile in tiles), again, loads.max()


@pytest.mark.parametrize(("height", "width", "workers", "memory"), CASES)
def test_an_exact_cut_fits_and_is_what_its_tiles_are(height, width, workers, memory):
    tiling = exact_tiling(Size(height, width), Budget(workers, memory, COSTS), Recipe(), LAYER)
    tiles = plan_tiles(height, width, tiling.grid, halo=LAYER.margin, align=LAYER.stride)
    assert tiling.bytes <= memory
    assert tiling.tiles == len(tiles)
    assert tiling.per_worker == max(deal(tiles, [1.0] * workers).counts)
    assert 0 <= tiling.kept <= tiling.per_worker
    assert (tiling.px, tiling.again, tiling.slowest) == figures(tiles, workers, tiling.kept)
    assert tiling.overhead == pytest.approx((2 * tiling.px + tiling.again) / (2 * height * width))


@pytest.mark.parametrize(("height", "width"), [(100, 90), (1000, 1500), (2500, 2000)])
@pytest.mark.parametrize("workers", [1, 4, 13])
def test_more_memory_is_never_slower_and_enough_of_it_keeps_every_graph(height, width, workers):
    tilings = [
        exact_tiling(Size(height, width), Budget(workers, int(gib * GIB), COSTS), Recipe(), LAYER)
        for gib in (1.75, 2.5, 4, 8, 100)
    ]
    slowest = [tiling.slowest for tiling in tilings]
    assert slowest == sorted(slowest, reverse=True)
    assert tilings[-1].again == 0
    assert tilings[-1].kept == tilings[-1].per_worker


def test_one_worker_with_memory_takes_the_picture_in_one_piece():
    assert exact_tiling(Size(1000, 1500), Budget(1, 40 * GIB, COSTS), Recipe(), LAYER).grid == (1, 1)


def test_tiles_share_out_evenly_where_the_picture_allows():
    tiling = exact_tiling(Size(16384, 16384), Budget(64, 16 * GIB, COSTS), Recipe(), LAYER)
    assert (tiling.grid, tiling.per_worker) == ((8, 8), 1)


def test_the_search_is_over_few_cuts():
    for workers in (1, 64, 1000):
        assert len(sensible_grids(16384, 16384, workers)) < 4000


@pytest.mark.parametrize("grid", [(1, 1), (3, 5)])
def test_a_given_grid_is_kept(grid):
    assert exact_tiling(Size(1000, 1500), Budget(4, 8 * GIB, COSTS), Recipe(), LAYER, grid).grid == grid
    assert independent_tiling(Size(1000, 1500), Budget(4, 8 * GIB, COSTS), Recipe(), NO_HALO, grid).grid == grid


@pytest.mark.parametrize("name", ["height", "width", "workers"])
def test_nothing_cannot_be_cut(name):
    sizes = {"height": 10, "width": 10, "workers": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        exact_tiling(Size(sizes["height"], sizes["width"]), Budget(sizes["workers"], GIB, COSTS), Recipe(), LAYER)


def test_a_picture_that_does_not_fit_is_told_what_would():
    have = GIB
    with pytest.raises(ValueError, match="however they are cut") as caught:
        exact_tiling(Size(16384, 8192), Budget(2, have, COSTS), Recipe(), LAYER)
    message = str(caught.value)
    assert "\n" not in message
    need = re.search(r"need ([\d.,]+) (MiB|GiB)", message)
    size = re.search(r"size of about (\d+)x(\d+) px", message)
    enough = (float(need[1].replace(",", "")) + (1 if need[2] == "MiB" else 0.1)) * (GIB >> (10 * (need[2] == "MiB")))
    exact_tiling(Size(16384, 8192), Budget(2, int(enough), COSTS), Recipe(), LAYER)
    width, height = int(size[1]), int(size[2])
    assert width / height == pytest.approx(0.5, rel=0.01)
    exact_tiling(Size(int(height * 0.95), int(width * 0.95)), Budget(2, have, COSTS), Recipe(), LAYER)
    with pytest.raises(ValueError):
        exact_tiling(Size(int(height * 1.1), int(width * 1.1)), Budget(2, have, COSTS), Recipe(), LAYER)


def test_where_not_one_tile_fits_no_size_is_promised():
    with pytest.raises(ValueError, match=r"give more memory$"):
        exact_tiling(Size(1000, 1000), Budget(4, GIB // 4, COSTS), Recipe(), LAYER)


def test_tiles_that_were_asked_for_and_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"in 1x2 tiles on 2 workers need .* give more tiles"):
        exact_tiling(Size(4096, 4096), Budget(2, GIB, COSTS), Recipe(), LAYER, (1, 2))
    with pytest.raises(ValueError, match=r"in 1x2 tiles on 2 workers need .* give more tiles"):
        independent_tiling(Size(4096, 4096), Budget(2, GIB, COSTS), Recipe(), NO_HALO, (1, 2))


@pytest.mark.parametrize(("height", "width", "workers", "memory"), CASES)
def test_an_independent_cut_fits_and_occupies_every_worker(height, width, workers, memory):
    recipe = Recipe(tiling=TilingSpec(mode="independent", overlap=48))
    tiling = independent_tiling(Size(height, width), Budget(workers, memory, COSTS), recipe, NO_HALO)
    tiles = plan_tiles(height, width, tiling.grid, overlap=48, align=16)
    room = (height // 128) * (width // 128) >= 2 * workers
    assert tiling.bytes <= memory
    assert tiling.tiles == len(tiles)
    assert tiling.tiles >= (workers if room else 1)
    assert (tiling.px, tiling.again, tiling.slowest) == figures(tiles, workers, tiling.per_worker)


def test_an_optimiser_that_remembers_more_leaves_room_for_less():
    fewest = [
        independent_tiling(Size(4096, 4096), Budget(2, 2 * GIB, COSTS), recipe, NO_HALO).tiles
        for recipe in (Recipe(optimizer="adam"), Recipe(history=10), Recipe(history=100))
    ]
    assert fewest == sorted(fewest) and fewest[0] < fewest[-1]


def test_the_optimiser_is_shared_out_among_the_workers():
    recipe = Recipe(history=20)
    assert image_copies(recipe) == 28
    assert optimiser_bytes(Size(1000, 1000), recipe) == 28 * PIXEL * 1_000_000
    assert optimiser_bytes(Size(1000, 1000), replace(recipe, tiling=TilingSpec(mode="independent"))) == 0
    assert driver_bytes(Size(2000, 1000), recipe) - driver_bytes(Size(1000, 1000), recipe) < optimiser_bytes(
        Size(1000, 1000), recipe
    )
    cut = cut_in(np.full(8, 900), np.full(8, 500), 4)
    assert cut.owned == 1000
    short, long = (exact_bytes(COSTS, cut, 2, Recipe(history=history)) for history in (5, 20))
    assert long - short == 15 * PIXEL * 1000


def test_an_optimiser_that_remembers_more_leaves_less_room_for_graphs():
    kept = [
        exact_tiling(Size(4096, 4096), Budget(2, 12 * GIB, COSTS), Recipe(history=history), LAYER, (4, 4)).kept
        for history in (5, 10, 20)
    ]
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1]


WORKER = """
import sys
import numpy as np
import parallel_nst.workers.ray.pool, parallel_nst.files.images
from parallel_nst.networks.backbones.loading import build_backbone, load_weights
from parallel_nst.painting.exact.mode import Exact
from parallel_nst.painting.mode import Due
from parallel_nst.painting.planning.scales import FRAME, Framed, Scale
from parallel_nst.painting.resolved import resolve
from parallel_nst.painting.style_targets import measured_style
from parallel_nst.painting.tiles.geometry import plan_tiles
from parallel_nst.recipe import Recipe
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.worker import WorkerSpec

height, width, rows, columns, kept = map(int, sys.argv[1:])
weights = load_weights("embedded")
pool = SerialPool(WorkerSpec("cpu", "float32", 1, {"embedded": weights}))
resolved = resolve(Recipe(history=3), build_backbone("embedded", weights))
content = Framed(np.random.default_rng(0).random((height - 2 * FRAME, width - 2 * FRAME, 3), np.float32))
style = measured_style(Framed(np.random.default_rng(1).random((96, 96, 3), np.float32)), resolved, pool)
tiles = plan_tiles(height, width, (rows, columns), halo=resolved.deepest.margin, align=resolved.deepest.stride)
mode = Exact(Scale(content, style, 5, tiles, kept), resolved, pool)
for state in mode.states(mode.start(content.whole), lambda index, progress: None, Due()):
    pass
with open("/proc/self/status") as status:
    print(next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("memory", [GIB, 2 * GIB])
def test_a_worker_takes_about_what_was_predicted(memory):
    import torch

    from parallel_nst.networks.backbones.base import deepest
    from parallel_nst.networks.backbones.loading import build_backbone, load_weights
    from parallel_nst.networks.backbones.registry import backbone_entry
    from parallel_nst.painting.planning.profile import profile

    backbone = build_backbone("embedded", load_weights("embedded"))
    layers = backbone_entry("embedded").layers
    layer = deepest(backbone, {**layers.style, **layers.content})
    costs = profile(backbone, layers.style, layers.content, torch.float32)
    tiling = exact_tiling(Size(1024, 1024), Budget(1, memory, costs), Recipe(history=3), layer)
    arguments = (1024, 1024, *tiling.grid, tiling.kept)
    run = subprocess.run([sys.executable, "-c", WORKER, *map(str, arguments)], check=True, capture_output=True)
    assert 0.6 < int(run.stdout) / tiling.bytes < 1.15
