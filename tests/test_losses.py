"""Losses: additive Gram sums and loss values with known answers."""

import pytest
import torch

from parallel_nst.losses import content_loss, gram_mean, gram_sums, style_loss, total_variation


def features(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def test_gram_sums_of_pieces_add_up_to_the_whole():
    whole = features(1, 5, 12, 9)
    pieces = gram_sums(whole[..., :7, :]) + gram_sums(whole[..., 7:, :])
    torch.testing.assert_close(pieces, gram_sums(whole), rtol=1e-12, atol=1e-12)


def test_gram_is_the_outer_product_by_definition():
    f = features(1, 2, 3, 4)
    expected = torch.einsum("chw,dhw->cd", f[0], f[0])
    torch.testing.assert_close(gram_sums(f), expected)
    torch.testing.assert_close(gram_mean(f), expected / 12)


def test_gram_sums_of_half_precision_keep_their_digits():
    ones = torch.ones(1, 1, 300, 300, dtype=torch.bfloat16)
    assert gram_sums(ones).dtype == torch.float32
    assert gram_sums(ones).item() == 90_000  # bfloat16 itself stops counting at 256


def test_style_loss_is_zero_at_the_target_and_one_for_nothing():
    gram = gram_mean(features(1, 4, 8, 8))
    norm = float(gram.square().sum())
    assert style_loss(gram, gram, norm) == 0
    assert float(style_loss(torch.zeros_like(gram), gram, norm)) == pytest.approx(1)


def test_content_loss_is_a_mean_square():
    assert float(content_loss(torch.full((1, 2, 3, 3), 3.0), torch.ones(1, 2, 3, 3))) == pytest.approx(4)


def test_total_variation_of_a_step_and_of_a_single_pixel():
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1
    assert float(total_variation(step)) == pytest.approx(4 / 16)
    assert float(total_variation(torch.ones(1, 3, 1, 1))) == 0


@pytest.mark.parametrize("loss", [total_variation, lambda image: gram_mean(image).square().sum()])
def test_gradients(loss):
    assert torch.autograd.gradcheck(loss, features(1, 3, 4, 5).requires_grad_())
