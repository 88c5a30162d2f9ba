"""Where a worker's memory does not suffice for the tiles that were planned: finer ones, and the same picture."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import LAYERS, tiny_backbone, tiny_resolved, tiny_state

from parallel_nst.errors import OutOfMemory
from parallel_nst.files.size import Size
from parallel_nst.painting.exact import mode as exact
from parallel_nst.painting.exact import objective
from parallel_nst.painting.exact.mode import Exact
from parallel_nst.painting.mode import Due
from parallel_nst.painting.planning import cuts
from parallel_nst.painting.planning.finer import cut_of, finer, grid_in, nothing_fits
from parallel_nst.painting.planning.footprint import exact_bytes, held_bytes
from parallel_nst.painting.planning.profile import profile
from parallel_nst.painting.planning.scales import FRAME, Framed, Scale
from parallel_nst.painting.planning.tilings import Budget
from parallel_nst.painting.style_targets import measured_style
from parallel_nst.painting.tiles.geometry import plan_tiles
from parallel_nst.recipe import Recipe
from parallel_nst.workers.crew import Crew
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.threads import ThreadPool
from parallel_nst.workers.worker import WorkerSpec

SPEC = WorkerSpec("cpu", "float64", 1, {"embedded": tiny_state()})
RESOLVED = tiny_resolved(Recipe())
PROFILE = profile(tiny_backbone(), LAYERS.style, LAYERS.content, torch.float64)
HEIGHT, WIDTH, STEPS = 90, 130, 6


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(cuts, "SMALLEST_CORE", 16)
    monkeypatch.setattr(exact, "KEEP_EVERY", 2)


def budget(ranks=1):
    return Budget(ranks, 1 << 40, PROFILE)


def scale(grid=(1, 1), kept=1):
    rng = np.random.default_rng(0)
    content, style = (Framed(rng.random((HEIGHT, WIDTH, 3))) for _ in range(2))
    tiles = plan_tiles(*content.size, grid, halo=RESOLVED.deepest.margin, align=RESOLVED.deepest.stride)
    return Scale(content, measured_style(style, RESOLVED, SerialPool(SPEC)), STEPS, tiles, kept)


def pool_of(ranks, *, mortal, device="cpu"):
    pool = SerialPool(SPEC) if ranks == 1 else ThreadPool(SPEC, Crew(ranks, 1), 1)
    pool.mortal, pool.crew = mortal, replace(pool.crew, device=device)
    return pool


def painted(pool, scale, budget=None):
    """The result, and the steps that were reported."""
    steps, mode = [], Exact(scale, RESOLVED, pool, budget)
    try:
        start = mode.start(scale.content.whole)
        (*_, end) = mode.states(start, lambda _, progress: steps.append(progress.step), Due())
        return mode.result(end), steps
    finally:
        pool.close()


@pytest.fixture(scope="module")
def expected():
    return painted(SerialPool(SPEC), scale())[0]


@pytest.fixture
def narrow(monkeypatch):
    """From so many evaluations of tiles on, a worker's memory suffices for tiles of so many px."""
    measure = objective.measure_sums

    def narrowing(most, after=0):
        calls = []

        def measure_little(reader, image, *others):
            calls.append(image.shape[2] * image.shape[3])
            if len(calls) > after and calls[-1] > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n...")
            return measure(reader, image, *others)

        monkeypatch.setattr(objective, "measure_sums", measure_little)

    return narrowing


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(("most", "after"), [(8000, 0), (5500, 0), (8000, 4)])
def test_finer_tiles_paint_the_picture_of_one_piece(expected, narrow, ranks, most, after):
    narrow(most, after)
    result, steps = painted(pool_of(ranks, mortal=True), scale((1, ranks)), budget(ranks))
    np.testing.assert_allclose(result.pixels, expected.pixels, rtol=0, atol=1e-11)
    assert result.loss == pytest.approx(expected.loss, rel=1e-11)
    assert steps == list(range(1, STEPS + 1))
    assert result.notes


def test_what_happened_is_said_in_a_line(narrow):
    narrow(8000, 4)
    result, _ = painted(pool_of(1, mortal=True), scale(), budget())
    (*_, note) = result.notes
    assert note.startswith("the memory of a worker's machine does not suffice; it went on from step 4 in ")
    assert note.endswith(" tiles") and "\n" not in note


def test_where_all_suffices_nothing_is_said(expected):
    assert not painted(pool_of(1, mortal=True), scale(), budget())[0].notes
    assert not expected.notes


def test_a_gpu_of_this_process_begins_the_scale_again_with_finer_tiles(expected, narrow):
    narrow(8000)
    result, _ = painted(pool_of(1, mortal=False, device="cuda"), scale(), budget())
    np.testing.assert_allclose(result.pixels, expected.pixels, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("pool", "planned", "after"),
    [
        ({"mortal": False}, budget(), 0),  # the first image was in this process's memory
        ({"mortal": False, "device": "cuda"}, budget(), 3),  # nothing is kept on the way
        ({"mortal": True}, None, 0),  # nobody knows what the tiles take
    ],
)
def test_with_nothing_to_go_on_from_it_is_an_error(narrow, pool, planned, after):
    narrow(8000, after)
    with pytest.raises(OutOfMemory, match=r"does not suffice; give more tiles, fewer workers"):
        painted(pool_of(1, **pool), scale(), planned)


@pytest.mark.parametrize("ranks", [1, 2])
def test_where_no_tiles_are_small_enough_a_line_says_what_would_fit(narrow, ranks):
    narrow(0)
    with pytest.raises(OutOfMemory) as error:
        painted(pool_of(ranks, mortal=True), scale((1, ranks)), budget(ranks))
    assert str(error.value).startswith("the memory of a worker does not suffice for 150x110 px, nor in ")
    assert "; give more workers, or a " in str(error.value) and "\n" not in str(error.value)


def graphs():
    """Tensors that are alive and can be differentiated."""
    return {id(one) for one in gc.get_objects() if type(one) is torch.Tensor and one.grad_fn is not None}


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_error_keeps_nothing_of_what_was_computed(narrow, ranks):
    """Or whoever keeps it for a while has no room for another try."""
    narrow(4000, 5)
    gc.collect()
    before = graphs()
    with pytest.raises(OutOfMemory) as error:
        painted(pool_of(ranks, mortal=False), scale((2, 2), kept=4), budget(ranks))
    assert error.value.__cause__ is not None
    assert graphs() <= before


@pytest.mark.parametrize(("side", "says"), [(90, "give more workers, or a smaller size"), (9000, "a size of about ")])
def test_what_would_fit_is_said_as_far_as_it_is_known(monkeypatch, side, says):
    monkeypatch.setattr(cuts, "SMALLEST_CORE", 128)
    size = Size(side + 2 * FRAME, side + 2 * FRAME)
    content = Framed(np.broadcast_to(np.zeros(1), (side, side, 3)))
    tiles = plan_tiles(*size, (2, 2), halo=RESOLVED.deepest.margin, align=RESOLVED.deepest.stride)
    line = str(nothing_fits(Scale(content, None, STEPS, tiles), RESOLVED, budget()))
    assert line.startswith(f"the memory of a worker does not suffice for {size} px, nor in 4 tiles; ") and says in line
    if side == 9000:
        fits = int(line.split()[-2].split("x")[0])
        assert side / 4 < fits < side


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("grid", "kept"), [((1, 1), 1), ((1, 3), 3), ((3, 3), 0)])
def test_finer_tiles_take_clearly_less(workers, grid, kept):
    before, after = scale(grid, kept), finer(scale(grid, kept), RESOLVED, budget(workers))
    needs = []
    for one in (before, after):
        cut = cut_of(one, RESOLVED, workers)
        needs.append(exact_bytes(PROFILE, cut, one.kept, RESOLVED.recipe) - held_bytes(PROFILE, cut, RESOLVED.recipe))
    assert needs[1] <= 0.9 * needs[0]
    assert sum(tile.core.area for tile in after.tiles) == 110 * 150
    assert grid_in(after.tiles) != grid or after.kept < before.kept
