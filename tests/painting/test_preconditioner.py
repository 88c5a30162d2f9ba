"""The filter that gradients and moves go through: symmetric, positive, local, and worth its while."""

import itertools

import pytest
import torch

from parallel_nst.painting.gatys.half_precision import rms
from parallel_nst.painting.gatys.optimizers.adam import adam
from parallel_nst.painting.gatys.optimizers.lbfgs import lbfgs
from parallel_nst.painting.gatys.preconditioner import (
    GRID,
    REACH,
    SHARP,
    STRENGTH,
    broadened,
    doubled,
    halved,
    halved_by_convolution,
)
from parallel_nst.painting.tiles.geometry import Rect, grow

SIZES = [(48, 64), (37, 51), (17, 33), (5, 2), (1, 1), (1, 40)]


def noise(size, seed=0, dtype=torch.float64):
    return torch.randn(1, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def filtered(values):
    return broadened(values.clone())


@pytest.mark.parametrize("size", SIZES)
def test_it_is_its_own_adjoint_and_positive(size):
    a, b = noise(size, 1), noise(size, 2)
    assert float((filtered(a) * b).sum()) == pytest.approx(float((a * filtered(b)).sum()), rel=1e-9, abs=1e-9)
    assert (filtered(a) * a).sum() >= SHARP * STRENGTH * a.square().sum() * (1 - 1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_linear_and_treats_channels_alike(size):
    a, b = noise(size, 1), noise(size, 2)
    torch.testing.assert_close(filtered(2 * a - 3 * b), 2 * filtered(a) - 3 * filtered(b))
    torch.testing.assert_close(filtered(a[:, [2, 0, 1]]), filtered(a)[:, [2, 0, 1]])


@pytest.mark.parametrize("size", SIZES)
def test_both_ways_of_halving_are_the_adjoint_of_doubling(size):
    values = noise(size)[:, :1]
    small = halved(values)
    torch.testing.assert_close(halved_by_convolution(values), small)
    other = noise(small.shape[-2:], 3)[:, :1]
    assert 4 * float((small * other).sum()) == pytest.approx(float((values * doubled(other, size)).sum()))


def test_a_pixel_reaches_as_far_as_is_declared_and_no_further():
    furthest = 0
    for phase in range(GRID):
        place = 4 * GRID + phase
        point = torch.zeros(1, 3, 1, 9 * GRID, dtype=torch.float64)
        point[..., place] = 1
        reached = filtered(point)[0, 0, 0].nonzero()
        furthest = max(furthest, place - int(reached.min()), int(reached.max()) - place)
    assert furthest == REACH


@pytest.mark.parametrize("size", [(150, 170), (133, 61), (40, 40)])
def test_a_picture_in_pieces_is_filtered_as_in_one(size):
    picture = noise(size)
    whole = filtered(picture)
    rows, columns = ((0, *range(8, length, 56), length) for length in size)
    for (top, bottom), (left, right) in itertools.product(itertools.pairwise(rows), itertools.pairwise(columns)):
        core = Rect(top, left, bottom, right)
        seen = grow(core, REACH, GRID, *size)
        assert seen.top % GRID == seen.left % GRID == 0
        part = filtered(picture[..., seen.top : seen.bottom, seen.left : seen.right])
        inner = core.within(seen)
        torch.testing.assert_close(
            part[..., inner.top : inner.bottom, inner.left : inner.right],
            whole[..., top:bottom, left:right],
            rtol=1e-12,
            atol=1e-12,
        )


def test_broad_forms_pass_and_white_noise_keeps_its_strength():
    assert rms(filtered(noise((256, 256)))) == pytest.approx(1, rel=0.1)
    broad = torch.ones(1, 3, 256, 256, dtype=torch.float64)
    board = broad.clone()
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = -1
    middle = (..., slice(96, 160), slice(96, 160))
    assert rms(filtered(broad)[middle].contiguous()) > 2 * rms(filtered(board)[middle].contiguous())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_works_in_the_memory_given(dtype):
    values = noise((37, 51), dtype=dtype)
    address = values.data_ptr()
    result = broadened(values)
    assert result.data_ptr() == address and result.dtype == dtype and result.shape == values.shape


AIM = filtered(noise((48, 64))) * 0.2 + 0.5


def rough(x):
    """Like a style loss, steep in fine detail and flat in broad forms."""
    away = x - AIM
    down, right = away.diff(dim=-2), away.diff(dim=-1)
    loss = (0.01 * away.square().sum() + down.square().sum() + right.square().sum()) / 2
    gradient = 0.01 * away
    gradient[..., 1:, :] += down
    gradient[..., :-1, :] -= down
    gradient[..., 1:] += right
    gradient[..., :-1] -= right
    return float(loss), gradient


def steps_to(optimizer, share):
    """Steps until the loss is this share of the first."""
    image = torch.full_like(AIM, 0.5)
    state, first = optimizer.init(image), rough(image)[0]
    for step in itertools.count():
        loss, gradient = rough(image)
        if loss <= share * first:
            return step
        image, state = optimizer.step(state, image, loss, gradient)


def test_it_saves_steps():
    plain, through = (steps_to(optimizer, 1e-4) for optimizer in (lbfgs(5), lbfgs(5, through=broadened)))
    assert through < 0.6 * plain


def test_adam_arrives_through_it():
    assert steps_to(adam(0.02, through=broadened), 1e-2) < 200
