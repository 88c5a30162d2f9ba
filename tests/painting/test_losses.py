"""Losses: sums that add up over pieces, in full and in half precision, and values with known answers."""

import itertools

import pytest
import torch

from parallel_nst.painting.gatys.losses import (
    BLOCK,
    FEW,
    SPREAD,
    content_sums,
    covariance,
    excess_sums,
    factor_of,
    gram_loss,
    gram_part,
    gram_sums,
    mean_part,
    moment_sums,
    outer_sums,
    variation_sums,
    wasserstein_loss,
)
from parallel_nst.painting.tiles.geometry import Rect


def features(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_gram_sums_of_pieces_add_up_to_the_whole():
    whole = features(1, 5, 12, 9)
    pieces = gram_sums(whole[..., :7, :]) + gram_sums(whole[..., 7:, :])
    torch.testing.assert_close(pieces, gram_sums(whole), rtol=1e-12, atol=1e-12)


def test_gram_is_the_outer_product_by_definition():
    f = features(1, 2, 3, 4)
    expected = torch.einsum("chw,dhw->cd", f[0], f[0])
    torch.testing.assert_close(gram_sums(f), expected)
    torch.testing.assert_close(gram_sums(f) / 12, expected / 12)


@pytest.mark.parametrize("height", [30, 300])
def test_gram_sums_of_half_precision_keep_their_digits(height):
    ones = torch.ones(1, 1, height, 300, dtype=torch.bfloat16)
    assert gram_sums(ones).dtype == torch.float32
    assert gram_sums(ones).item() == height * 300  # bfloat16 itself stops counting at 256


@pytest.mark.parametrize("positions", [1, FEW - 1, FEW, FEW + BLOCK - 1, 2 * FEW + 1])
def test_half_precision_products_are_near_those_of_float64(positions):
    """Of the same rounded features, which are positive as after a ReLU."""
    half = features(positions, 6, dtype=torch.float32).relu().add(0.1).bfloat16()
    exact = half.double().T @ half.double()
    error = (outer_sums(half).double() - exact).norm() / exact.norm()
    assert error < 3e-4


def test_the_gradient_of_half_precision_sums_goes_the_way_of_float64():
    """Rounding to 8 bits scatters a gradient, but the descent that it promises is the exact one's."""
    half = features(FEW + 5, 48, dtype=torch.float32).relu().bfloat16()
    weight = features(48, 48, seed=1)
    found, exact = (
        torch.autograd.grad((gram_sums(leaf).double() * weight).sum(), leaf)[0].double()
        for leaf in (v.T.reshape(1, 48, -1, 1).clone().requires_grad_() for v in (half, half.double()))
    )
    assert (found - exact).norm() / exact.norm() < 4e-3
    assert float((found * exact).sum() / exact.square().sum()) == pytest.approx(1, abs=3e-4)


def test_style_loss_is_zero_at_the_target_and_one_for_nothing():
    gram = gram_sums(features(1, 4, 8, 8)) / 64
    norm = float(gram.square().sum())
    assert gram_loss(gram, gram, norm) == 0
    assert float(gram_loss(torch.zeros_like(gram), gram, norm)) == pytest.approx(1)


def moments_of(seed, gain=1.0, shift=0.0):
    """Mean moments of some features of three channels."""
    return moment_sums(gain * features(1, 3, 8, 9, seed=seed) + shift) / 72


def test_moments_are_those_of_the_features():
    f = features(1, 3, 8, 9) + 1
    moments = moment_sums(f)
    torch.testing.assert_close(gram_part(moments), gram_sums(f), rtol=0, atol=0)
    assert float(moments[-1, -1]) == 72
    torch.testing.assert_close(mean_part(moments / 72), f.mean((0, 2, 3)))
    torch.testing.assert_close(covariance(moments / 72), torch.cov(f[0].flatten(1), correction=0))


def test_moment_sums_of_pieces_add_up_to_the_whole():
    whole, everywhere = features(1, 5, 12, 9), slice(None)
    pieces = sum(moment_sums(whole, (rows, everywhere)) for rows in (slice(0, 7), slice(7, None)))
    torch.testing.assert_close(pieces, moment_sums(whole), rtol=1e-12, atol=1e-12)


def test_wasserstein_distance_is_zero_at_the_target_only():
    target = moments_of(0)
    assert float(wasserstein_loss(target, target, 1.0)) == pytest.approx(0, abs=1e-12)
    for other in (moments_of(0, shift=0.1), moments_of(0, gain=1.1), moments_of(1)):
        assert float(wasserstein_loss(other, target, 1.0)) > 1e-3


def test_wasserstein_distance_of_gaussians_along_the_axes_is_known():
    """Means 0 and (3, 4), standard deviations (1, 2) and (2, 5): (9 + 16 + 1 + 9) / 2 channels."""
    one = torch.diag(torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64))
    other = torch.tensor([[4.0 + 9, 12, 3], [12, 25 + 16, 4], [3, 4, 1]], dtype=torch.float64)
    assert float(wasserstein_loss(one, other, 1.0)) == pytest.approx(35 / 2, rel=1e-3)
    assert float(wasserstein_loss(other, one, 1.0)) == pytest.approx(35 / 2, rel=1e-3)


def test_wasserstein_distance_tells_mean_and_spread_apart_where_a_gram_matrix_does_not():
    flat, varied = (torch.tensor([[4.0, mean], [mean, 1]], dtype=torch.float64) for mean in (2.0, 0.0))
    assert float(gram_loss(gram_part(flat), gram_part(varied), 1.0)) == 0
    assert float(wasserstein_loss(flat, varied, 4.0)) == pytest.approx(4 + 4, rel=0.05)


def test_nothing_at_all_is_one_from_the_style():
    target = moments_of(0, shift=2.0)
    power = float(gram_part(target).diagonal().mean())
    nothing = torch.zeros_like(target)
    assert float(wasserstein_loss(nothing, target, power)) == pytest.approx(power, rel=0.02)


def test_a_network_with_larger_features_has_the_same_loss_in_their_units():
    """Also where a channel is silent, whose slope would otherwise depend on the network's units and outgrow all others:
    weights for pixels of 0 to 255 have features hundreds of times as large."""
    silent = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    losses, gradients = [], []
    for scale in (1.0, 300.0):
        leaf = (scale * silent * features(1, 3, 8, 9)).requires_grad_()
        target = moment_sums(scale * features(1, 3, 8, 9, seed=1)) / 72
        losses.append(wasserstein_loss(moment_sums(leaf) / 72, target, scale**2) / scale**2)
        gradients.append(torch.autograd.grad(losses[-1], leaf)[0] * scale)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_a_channel_that_is_silent_in_both_has_a_finite_gradient():
    silent = features(1, 3, 8, 9) * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    leaf = silent.requires_grad_()
    (gradient,) = torch.autograd.grad(wasserstein_loss(moment_sums(leaf) / 72, moments_of(1), 1.0), leaf)
    assert torch.isfinite(gradient).all() and gradient.abs().max() < 1 / SPREAD


@pytest.mark.parametrize("wrong", [torch.inf, torch.nan])
def test_features_that_are_not_finite_have_no_distance(wrong):
    """And raise nothing: the optimiser steps back."""
    leaf = torch.full((1, 3, 8, 9), wrong, requires_grad=True)
    loss = wasserstein_loss(moment_sums(leaf) / 72, moments_of(1), 1.0)
    assert loss.isnan()
    assert torch.autograd.grad(loss, leaf)[0].isnan().all()


def test_a_target_that_is_no_covariance_is_brought_to_the_nearest():
    """As a tile's own target may be."""
    matrix = torch.diag(torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))
    factor = factor_of(matrix, 1e-3)
    expected = torch.diag(torch.tensor([2.0, 1e-3, 0.5], dtype=torch.float64))
    torch.testing.assert_close(factor @ factor.T, expected)
    proper = matrix.abs()
    torch.testing.assert_close(factor_of(proper, 1e-3) @ factor_of(proper, 1e-3).T, proper)


def test_content_is_a_mean_square_over_channels_summed_over_positions():
    assert float(content_sums(torch.full((1, 2, 3, 3), 3.0), torch.ones(1, 2, 3, 3))) == pytest.approx(4 * 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_content_sums_of_pieces_add_up_in_full_precision(dtype):
    here, there = features(1, 4, 20, 30).to(dtype), features(1, 4, 20, 30, seed=1).to(dtype)
    parts = [content_sums(here[..., rows, :], there[..., rows, :]) for rows in (slice(0, 7), slice(7, None))]
    whole = content_sums(here, there)
    assert whole.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-6, atol=0)


def test_variation_of_a_step_and_of_a_single_pixel():
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1
    assert float(variation_sums(step, Rect(0, 0, 4, 4))) == 4
    assert float(variation_sums(torch.ones(1, 3, 1, 1), Rect(0, 0, 1, 1))) == 0


@pytest.mark.parametrize("rows", [(0, 9), (0, 4, 9), (0, 1, 8, 9)])
@pytest.mark.parametrize("columns", [(0, 7), (0, 3, 7), (0, 1, 2, 7)])
def test_variation_of_a_partition_adds_up_to_the_whole(rows, columns):
    """Whether a core is seen in the whole picture or in a cut-out that goes one pixel beyond it."""
    image = features(1, 3, 9, 7)
    whole = image.diff(dim=-1).square().sum() + image.diff(dim=-2).square().sum()
    cores = [
        Rect(t, left, b, right) for t, b in itertools.pairwise(rows) for left, right in itertools.pairwise(columns)
    ]
    torch.testing.assert_close(sum(variation_sums(image, core) for core in cores), whole, rtol=1e-12, atol=0)
    cut = sum(
        variation_sums(image[..., c.top : c.bottom + 1, c.left : c.right + 1], Rect(0, 0, c.height, c.width))
        for c in cores
    )
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=0)


def test_excess_is_what_lies_beyond_the_range_of_pixels():
    image = torch.tensor([[-0.5, 0.0, 0.4], [1.0, 1.25, 3.0]], dtype=torch.float64).expand(1, 3, 2, 3)
    assert float(excess_sums(image, Rect(0, 0, 2, 3))) == 3 * (0.25 + 0.0625 + 4)
    assert float(excess_sums(image, Rect(1, 0, 2, 2))) == 3 * 0.0625
    assert float(excess_sums(image.clamp(0, 1), Rect(0, 0, 2, 3))) == 0


@pytest.mark.parametrize(
    "loss",
    [
        lambda image: excess_sums(image, Rect(1, 0, 3, 5)),
        lambda image: variation_sums(image, Rect(1, 0, 3, 5)),
        lambda image: (gram_sums(image) / image[0, 0].numel()).square().sum(),
        lambda image: (gram_sums(image) * features(3, 3, seed=2)).sum(),
        lambda image: (moment_sums(image) * features(4, 4, seed=2)).sum(),
        lambda image: wasserstein_loss(moment_sums(image) / 20, moments_of(3), 1.0),
        lambda image: content_sums(image, features(1, 3, 4, 5, seed=1)),
    ],
)
def test_gradients(loss):
    assert torch.autograd.gradcheck(loss, features(1, 3, 4, 5).requires_grad_())
