"""Losses of style transfer, as pure functions of feature maps.

Shape letters: N images, C channels, H and W positions of a layer. All sums are taken in float32 or wider, whatever the
precision of the features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parallel_nst.painting.tiles.geometry import Rect

Core = tuple[slice, slice]  # rows and columns of a layer's positions
ALL: Core = (slice(0, None), slice(0, None))
BLOCK = 128  # positions whose outer products are summed in the multiplier's own float32 before they are rounded
FEW = 32 * BLOCK  # positions below which rounding each block would be felt, and float32 costs little


def gram_sums(features: Tensor, core: Core = ALL) -> Tensor:
    """Sum over the positions of `core` of the outer product of the channels, (C, C), for features (1, C, H, W), in
    float32 or wider.

    The unnormalised Gram matrix of Gatys et al. 2016, eq. 3. Sums of disjoint pieces of a picture add up to the sums
    of the whole; divide by the number of positions for the mean that the style loss compares.
    """
    sums: Tensor = _OuterSums.apply(features, core)  # type: ignore[no-untyped-call]
    return sums


class _OuterSums(torch.autograd.Function):
    """X^T X for X (positions, C), with its gradient X (D + D^T) in one product; autograd's own takes two and adds
    them, which on a large layer costs as much as a convolution. Positions are cut out here, as in `_Cut`, so that no
    copy of them is kept."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, core: Core) -> Tensor:
        ctx.save_for_backward(features)
        ctx.core = core
        return outer_sums(positions(features[(..., *core)]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        part = features[(..., *ctx.core)]
        product = positions(part) @ (gradient + gradient.T).to(features.dtype)
        height, width = part.shape[-2:]
        return pasted(product.view(1, height, width, features.shape[1]).permute(0, 3, 1, 2), features, ctx.core), None


def cut(features: Tensor, core: Core) -> Tensor:
    """The positions of `core` of features (1, C, H, W). Slicing does the same, but its gradient is laid out with
    channels first, and adding that to a gradient with channels last takes longer than the convolutions."""
    part: Tensor = features if core == ALL else _Cut.apply(features, core)  # type: ignore[no-untyped-call]
    return part


class _Cut(torch.autograd.Function):
    """Slicing, and its adjoint in the layout of what was sliced."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, core: Core) -> Tensor:
        ctx.save_for_backward(features)
        ctx.core = core
        return features[(..., *core)]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        return pasted(gradient, features, ctx.core), None


def pasted(part: Tensor, features: Tensor, core: Core) -> Tensor:
    """`part` at `core`, zeros around it, in the shape and layout of `features`."""
    if part.shape == features.shape:
        return part
    whole = torch.zeros_like(features)
    whole[(..., *core)] = part
    return whole


def positions(features: Tensor) -> Tensor:
    """(1, C, H, W) -> (H W, C)."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def outer_sums(rows: Tensor) -> Tensor:
    """X^T X in float32 or wider for X (rows, C).

    A half-precision product is rounded to half precision only once a block, and the blocks are added in float32: four
    times as fast as float32 products where the hardware has bfloat16, and within 2e-4 of them.
    """
    count, channels = rows.shape
    if rows.dtype in (torch.float32, torch.float64) or count < FEW:
        exact = wide(rows)
        return exact.T @ exact
    whole = count // BLOCK * BLOCK
    blocks = rows[:whole].view(-1, BLOCK, channels)
    rest = wide(rows[whole:])
    return torch.bmm(blocks.transpose(1, 2), blocks).sum(0, dtype=torch.float32) + rest.T @ rest


def style_loss(gram: Tensor, target: Tensor, norm: float) -> Tensor:
    """|G - target|^2 / norm: with norm = |G_style|^2, 0 is the style itself and 1 what a black picture misses.

    Gatys et al. 2016, eq. 4, with the constant replaced by one that travels between layers, pictures and networks.
    """
    return (gram - target).square().sum() / norm


def content_sums(features: Tensor, target: Tensor) -> Tensor:
    """Sum over positions of the squared difference of features (1, C, H, W), as a mean over channels (Gatys et al.
    2016, eq. 1). Sums of disjoint pieces add up to that of the whole."""
    return (wide(features) - wide(target)).square().sum() / features.shape[1]


def variation_sums(image: Tensor, core: Rect) -> Tensor:
    """Sum over the pixels of `core` and over channels of the squared differences to the right and the lower neighbour,
    where `image` (1, 3, H, W) has one (Johnson et al. 2016, section 3.2, squared as in Mahendran and Vedaldi 2015 with
    beta 2). Sums of disjoint cores add up to that of the whole when each image goes one pixel beyond its core."""
    rows, columns = slice(core.top, core.bottom), slice(core.left, core.right)
    right = image[..., rows, core.left : core.right + 1].diff(dim=-1).square().sum()
    below = image[..., core.top : core.bottom + 1, columns].diff(dim=-2).square().sum()
    return right + below


def wide(features: Tensor) -> Tensor:
    """In float32, or in float64 if they are."""
    return features if features.dtype == torch.float64 else features.float()
