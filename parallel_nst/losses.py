"""Losses of style transfer, as pure functions of feature maps.

Shape letters: N images, C channels, H and W positions of a layer. All sums are taken in float32 or wider, whatever the
precision of the features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gram_sums(features: Tensor) -> Tensor:
    """Sum over positions of the outer product of the channels, (C, C), for features (1, C, H, W).

    The unnormalised Gram matrix of Gatys et al. 2016, eq. 3. Sums of disjoint pieces of a picture add up to the sums
    of the whole; divide by the number of positions for the mean that the style loss compares. Half-precision features
    are multiplied in float32, so that the sum over a large picture keeps its digits.
    """
    positions = wide(features).permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    sums: Tensor = _OuterSums.apply(positions)  # type: ignore[no-untyped-call]
    return sums


class _OuterSums(torch.autograd.Function):
    """X^T X for X (positions, C), with its gradient X (D + D^T) in one product; autograd's own takes two and adds
    them, which on a large layer costs as much as a convolution."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor) -> Tensor:
        ctx.save_for_backward(positions)
        return positions.T @ positions

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (positions,) = ctx.saved_tensors
        product: Tensor = positions @ (gradient + gradient.T)
        return product


def gram_mean(features: Tensor) -> Tensor:
    """Mean outer product per position, (C, C)."""
    return gram_sums(features) / (features.shape[-2] * features.shape[-1])


def style_loss(gram: Tensor, target: Tensor, norm: float) -> Tensor:
    """|G - target|^2 / norm: with norm = |G_style|^2, 0 is the style itself and 1 what a black picture misses.

    Gatys et al. 2016, eq. 4, with the constant replaced by one that travels between layers, pictures and networks.
    """
    return (gram - target).square().sum() / norm


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of features (1, C, H, W) (Gatys et al. 2016, eq. 1, as a mean)."""
    return (wide(features) - wide(target)).square().mean()


def total_variation(image: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels of an image (1, 3, H, W), both directions (Johnson et al. 2016,
    section 3.2, squared as in Mahendran and Vedaldi 2015 with beta 2). Zero for a single pixel."""
    across = (image[..., :, 1:] - image[..., :, :-1]).square().sum()
    down = (image[..., 1:, :] - image[..., :-1, :]).square().sum()
    return (across + down) / image.numel()


def wide(features: Tensor) -> Tensor:
    """In float32, or in float64 if they are."""
    return features if features.dtype == torch.float64 else features.float()
