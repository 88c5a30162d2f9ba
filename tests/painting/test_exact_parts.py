"""What an exact step on ranks is made of: ownership, halos and their adjoint, vectors that change hands, previews."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from ranks import on_ranks
from torch.nn.functional import interpolate

from parallel_nst.files.size import Size
from parallel_nst.painting.exact.filtered import Broadened
from parallel_nst.painting.exact.halo import Halo
from parallel_nst.painting.exact.parts import InParts, Part, Resampling, assembled, vector, whole
from parallel_nst.painting.exact.preview import LONGEST, Reduction
from parallel_nst.painting.exact.spread import RankSpread
from parallel_nst.painting.gatys.half_precision import UNDIVIDED, Vector, extended, peak, rms
from parallel_nst.painting.gatys.preconditioner import broadened
from parallel_nst.painting.planning.scales import FRAME, Framed, InOnePiece, unframed
from parallel_nst.painting.tiles.geometry import Rect, gather, plan_tiles
from parallel_nst.painting.tiles.ownership import ALIGNMENT, Ownership, Shard, crossings, deal, dealt
from parallel_nst.workers.pool import Here

SIZES = [(33, 33), (40, 71), (90, 64)]


def tiles_of(size, grid=(3, 3), halo=12, align=4):
    return plan_tiles(*size, grid, halo=halo, align=align)


def picture(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, *size, generator=generator, dtype=torch.float64)


def shard_of(image, shard):
    """A rank's pixels of a picture."""
    flat = image.new_zeros(shard.elements)
    for index, core in shard.cores.items():
        shard.core(flat, index).copy_(gather(image, core))
    return flat


# Who owns what


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_pixel_has_one_owner_and_tiles_of_a_rank_are_neighbours(size, ranks):
    tiles = tiles_of(size)
    ownership = deal(tiles, [1.0] * ranks)
    assert ownership.ranks == min(ranks, len(tiles)) and ownership.size == size
    assert [tile.index for rank in range(ownership.ranks) for tile in ownership.of(rank)] == list(range(len(tiles)))
    assert all(ownership.owner(tile.index) == rank for rank in range(ownership.ranks) for tile in ownership.of(rank))
    assert min(ownership.counts) >= 1
    owned = np.zeros(size, int)
    for rank in range(ownership.ranks):
        for core in ownership.shard(rank).cores.values():
            gather(owned, core)[:] += 1
    assert (owned == 1).all()


def loads(ownership):
    return [sum(tile.read.area for tile in ownership.of(rank)) for rank in range(ownership.ranks)]


def test_tiles_are_dealt_so_that_the_slowest_is_ready_as_early_as_can_be():
    tiles = tiles_of((64, 64), (4, 4), halo=0, align=1)
    assert deal(tiles, [1.0] * 4).counts == [4, 4, 4, 4]
    assert deal(tiles, [1.0] * 3).counts == [6, 6, 4] or max(deal(tiles, [1.0] * 3).counts) == 6
    assert deal(tiles, [3.0, 1.0]).counts == [12, 4]
    assert deal(tiles, [1.0, 3.0]).counts == [4, 12]
    uneven = tiles_of((200, 31), (5, 3), halo=20, align=4)
    best = min(
        max(loads(Ownership(tuple(uneven), (0, first, second, len(uneven)))))
        for first in range(1, len(uneven) - 1)
        for second in range(first + 1, len(uneven))
    )
    assert max(loads(deal(uneven, [1.0] * 3))) == best


@pytest.mark.parametrize("seed", range(40))
def test_no_way_of_dealing_is_better(seed):
    rng = np.random.default_rng(seed)
    count, ranks = int(rng.integers(3, 9)), 3
    loads_, speeds = rng.integers(1, 60, count).tolist(), rng.uniform(1, 5, ranks).tolist()

    def time(first):
        return max(sum(loads_[a:b]) / speed for (a, b), speed in zip(pairwise(first), speeds, strict=True))

    best = min(time((0, one, two, count)) for one in range(1, count - 1) for two in range(one + 1, count))
    first = dealt(loads_, speeds)
    assert len(first) == ranks + 1 and all(a < b for a, b in pairwise(first))
    assert time(first) == pytest.approx(best, rel=1e-9)


def test_cores_begin_as_in_memory_of_their_own():
    shard = Shard({5: Rect(0, 0, 3, 5), 7: Rect(3, 0, 4, 1)})
    assert all(part.start % ALIGNMENT == 0 for part in shard.slices.values())
    assert [part.stop - part.start for part in shard.slices.values()] == [45, 3]


# Halos


def fetched(size, ranks, image):
    """What each tile reads, put together by its rank."""
    tiles = tiles_of(size)
    ownership = deal(tiles, [1.0] * ranks)

    def on_rank(communicator):
        halo = Halo(ownership, communicator)
        flat = shard_of(image, halo.shard)
        received = halo.fetch(flat)
        return {tile.index: halo.read(flat, received, tile.index) for tile in ownership.of(communicator.rank)}

    parts = on_ranks(ownership.ranks, on_rank)
    return tiles, {index: pixels for part in parts for index, pixels in part.items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ranks", [1, 2, 5, 9])
def test_a_tile_gets_the_pixels_that_it_reads(size, ranks):
    image = picture(size)
    tiles, found = fetched(size, ranks, image)
    for tile in tiles:
        assert torch.equal(found[tile.index][0], gather(image, tile.read))


def given_back(size, ranks, pieces):
    """The picture that the tiles' gradients add up to."""
    ownership = deal(tiles_of(size), [1.0] * ranks)

    def on_rank(communicator):
        halo = Halo(ownership, communicator)
        gradient = halo.gradient(torch.zeros(halo.shard.elements, dtype=torch.float64))
        for tile in ownership.of(communicator.rank):
            gradient.add(tile.index, pieces[tile.index])
        flat = gradient.result()
        return {core: halo.shard.core(flat, index) for index, core in halo.shard.cores.items()}

    total = torch.full((3, *size), torch.nan, dtype=torch.float64)
    for part in on_ranks(ownership.ranks, on_rank):
        for core, values in part.items():
            gather(total, core).copy_(values)
    return total


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ranks", [1, 2, 5, 9])
def test_giving_back_is_the_adjoint_of_getting(size, ranks):
    """<A x, y> = <x, A' y>."""
    image = picture(size)
    tiles, read = fetched(size, ranks, image)
    pieces = {tile.index: picture((tile.read.height, tile.read.width), 1 + tile.index)[None] for tile in tiles}
    forward = sum(float((read[index] * piece).sum()) for index, piece in pieces.items())
    backward = float((image * given_back(size, ranks, pieces)).sum())
    assert backward == pytest.approx(forward, rel=1e-12)


@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_gradients_are_added_in_the_order_of_tiles_whoever_has_them(ranks):
    size = (40, 71)
    pieces = {
        tile.index: picture((tile.read.height, tile.read.width), tile.index)[None] * 10.0**tile.index
        for tile in tiles_of(size)
    }
    assert torch.equal(given_back(size, ranks, pieces), given_back(size, 1, pieces))


def test_a_picture_in_one_piece_is_not_copied():
    tiles = tiles_of((33, 40), (1, 1))

    def on_rank(communicator):
        halo = Halo(deal(tiles, [1.0]), communicator)
        flat = shard_of(picture((33, 40)), halo.shard)
        return halo.read(flat, halo.fetch(flat), 0).data_ptr() == flat.data_ptr()

    assert on_ranks(1, on_rank) == [True]


def test_a_wider_reach_reads_so_much_of_the_same_cores():
    ownership = deal(tiles_of((40, 71)), [1.0] * 2)
    wider = ownership.reaching(5)
    assert [tile.core for tile in wider.tiles] == [tile.core for tile in ownership.tiles]
    middle = wider.tiles[4]
    assert middle.read == Rect(middle.core.top - 5, middle.core.left - 5, middle.core.bottom + 5, middle.core.right + 5)
    assert {crossing.core for crossing in crossings([middle], wider.tiles)} == set(range(9))


# Vectors that lie on many ranks


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_products_and_norms_are_those_of_the_whole_vector(ranks):
    size, images = (40, 71), [picture((40, 71), seed) for seed in range(3)]
    ownership = deal(tiles_of(size), [1.0] * ranks)
    known = torch.zeros(0, 0, dtype=torch.float64)
    flat = torch.stack([image.reshape(-1) for image in images])

    def on_rank(communicator):
        spread, shard = RankSpread(ownership, communicator), ownership.shard(communicator.rank)
        basis = [Vector(shard_of(image, shard)) for image in images]
        first = basis[0].values
        return extended(known, basis, spread), peak(first, spread), rms(first, spread), spread.elements(len(first))

    results = on_ranks(ranks, on_rank)
    for products, largest, size_of, elements in results:
        torch.testing.assert_close(products, flat @ flat.T, rtol=1e-12, atol=1e-12)
        assert torch.equal(products, results[0][0])
        assert largest == float(images[0].abs().max()) and elements == flat.shape[1]
        assert size_of == pytest.approx(float(flat[0].square().mean().sqrt()), rel=1e-12)


@pytest.mark.parametrize("size", [*SIZES, (133, 90)])
@pytest.mark.parametrize("grid", [(1, 1), (3, 3), (2, 5)])
def test_a_picture_on_ranks_is_filtered_as_in_one_piece(size, grid):
    image = picture(size)
    expected, found = broadened(image.clone()[None])[0], []
    for ranks in (1, 2, 4):
        ownership = deal(tiles_of(size, grid), [1.0] * ranks)

        def on_rank(communicator, ownership=ownership):
            shard = ownership.shard(communicator.rank)
            flat = Broadened(ownership, communicator)(shard_of(image, shard))
            return {index: shard.core(flat, index) for index in shard.cores}

        whole = torch.full_like(image, torch.nan)
        for cores in on_ranks(ownership.ranks, on_rank):
            for index, values in cores.items():
                gather(whole, ownership.tiles[index].core)[:] = values
        found.append(whole)
    torch.testing.assert_close(found[0], expected, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(whole, found[0]) for whole in found)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_on_one_rank_is_known_to_all(bad):
    ownership = deal(tiles_of((40, 71)), [1.0] * 3)

    def on_rank(communicator):
        flat = torch.ones(ownership.shard(communicator.rank).elements)
        flat[5] = bad if communicator.rank == 1 else 1
        return peak(flat, RankSpread(ownership, communicator))

    assert not np.isfinite(on_ranks(3, on_rank)).any()


def test_an_undivided_vector_has_one_piece():
    assert UNDIVIDED.pieces(7) == [slice(0, 7)] and UNDIVIDED.elements(7) == 7


# Vectors that change hands


def parts_of(image, ownership):
    return [
        Part(shard, Here({"this": shard_of(image, shard).numpy()}))
        for shard in (ownership.shard(rank) for rank in range(ownership.ranks))
    ]


@pytest.mark.parametrize(("ranks", "grid"), [(1, (1, 1)), (3, (3, 3)), (2, (1, 4))])
def test_a_vector_goes_from_any_shards_to_any_others(ranks, grid):
    size, image = (40, 71), picture((40, 71))
    parts = parts_of(image, deal(tiles_of(size), [1.0] * 4))
    np.testing.assert_array_equal(whole(parts, "this", size), image.numpy())
    ownership = deal(tiles_of(size, grid), [1.0] * ranks)
    for rank in range(ownership.ranks):
        shard = ownership.shard(rank)
        assert torch.equal(vector([part.open() for part in parts], "this", shard), shard_of(image, shard))
    rect = Rect(3, 5, 39, 70)
    np.testing.assert_array_equal(assembled([part.open() for part in parts], "this", rect), gather(image.numpy(), rect))


def framed(size):
    return Size(*(length + 2 * FRAME for length in size))


@pytest.mark.parametrize(("old", "new"), [((20, 10), (33, 15)), ((1, 1), (2, 3)), ((7, 40), (7, 41)), ((9, 9), (9, 9))])
def test_resampling_is_bilinear_with_a_mirrored_frame_and_knows_no_borders(old, new):
    values = picture(framed(old)).numpy()
    resampling = Resampling.of_framed(framed(old), framed(new))
    everything = Rect(0, 0, *framed(new))
    found = resampling.of(gather(values, resampling.source(everything)), everything)
    inner = torch.from_numpy(values[None, :, FRAME:-FRAME, FRAME:-FRAME])
    expected = interpolate(inner, new, mode="bilinear")[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found.numpy(), Framed(expected).whole, rtol=0, atol=1e-12)
    for tile in tiles_of(framed(new)):
        part = resampling.of(gather(values, resampling.source(tile.core)), tile.core)
        assert torch.equal(part, gather(found, tile.core))


@pytest.mark.parametrize(("old", "new"), [((20, 10), (33, 15)), ((1, 1), (2, 3)), ((7, 40), (7, 41)), ((9, 9), (9, 9))])
def test_cubic_resampling_is_that_of_opencv_and_knows_no_borders(old, new):
    values = picture(framed(old)).float().numpy()
    resampling = replace(Resampling.of_framed(framed(old), framed(new)), cubic=True)
    everything = Rect(0, 0, *framed(new))
    found = resampling.of(gather(values, resampling.source(everything)), everything)
    inner = values[:, FRAME:-FRAME, FRAME:-FRAME].transpose(1, 2, 0)
    expected = cv2.resize(np.ascontiguousarray(inner), new[::-1], interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(found.numpy(), Framed(expected).whole, rtol=0, atol=2e-6)
    for tile in tiles_of(framed(new)):
        part = resampling.of(gather(values, resampling.source(tile.core)), tile.core)
        assert torch.equal(part, gather(found, tile.core))


@pytest.mark.parametrize("size", [(40, 71), (1, 1), (30, 20)])
def test_an_image_in_parts_is_put_together_with_and_without_its_frame(size):
    image = picture(framed(size)).numpy()
    ownership = deal(tiles_of(framed(size), (3, 2)), [1.0] * 2)
    parts = [
        Part(ownership.shard(rank), Here({"image": shard_of(torch.from_numpy(image), ownership.shard(rank)).numpy()}))
        for rank in range(ownership.ranks)
    ]
    made = InParts(parts, framed(size))
    rect = Rect(3, 5, 17, 20)
    np.testing.assert_array_equal(made.whole, image)
    np.testing.assert_array_equal(made.read(rect), InOnePiece(image).read(rect))
    np.testing.assert_array_equal(made.picture(), unframed(image))


# Previews


@pytest.mark.parametrize("size", [(40, 71), (1, 1), (LONGEST + 1, 30), (2 * LONGEST + 3, 700)])
def test_a_preview_is_the_mean_over_squares_whoever_has_the_pixels(size):
    image = picture(framed(size)).float() + 0.5
    reduction = Reduction.of_framed(framed(size))
    parts = [reduction.part(gather(image, tile.core), tile.core) for tile in tiles_of(framed(size), (3, 2))]
    found = reduction.picture(part for part in parts if part)
    inner = image[:, FRAME:-FRAME, FRAME:-FRAME].clamp(0, 1).numpy()
    side = reduction.side
    assert max(found.shape[:2]) <= LONGEST and found.dtype == np.float32
    assert found.shape == (-(-size[0] // side), -(-size[1] // side), 3)
    np.testing.assert_allclose(found[0, 0], inner[:, :side, :side].mean((1, 2)), rtol=1e-5)
    last = [slice((count - 1) * side, None) for count in found.shape[:2]]
    np.testing.assert_allclose(found[-1, -1], inner[:, last[0], last[1]].mean((1, 2)), rtol=1e-5)


def test_a_core_that_is_all_frame_adds_nothing_to_a_preview():
    reduction = Reduction.of_framed(Size(60, 60))
    assert reduction.part(torch.zeros(3, FRAME, 60), Rect(0, 0, FRAME, 60)) is None


def test_ranks_that_own_nothing_in_common_send_nothing():
    tiles = [replace(tile, read=tile.core) for tile in tiles_of((40, 71))]
    assert all(crossing.reader == crossing.core for crossing in crossings(tiles, tiles))
