"""Losses of style transfer, as pure functions of feature maps.

Shape letters: N images, C channels, H and W positions of a layer. All sums are taken in float32 or wider, whatever the
precision of the features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from parallel_nst.painting.tiles.geometry import Rect

Core = tuple[slice, slice]  # rows and columns of a layer's positions
ALL: Core = (slice(0, None), slice(0, None))
BLOCK = 128  # positions whose outer products are summed in the multiplier's own float32 before they are rounded
SPREAD = 1e-4  # variance added to every channel, in units of the style's mean square: roots of 0 have no slope
FEW = 32 * BLOCK  # positions below which rounding each block would be felt, and float32 costs little
PIECE = 256 * BLOCK  # positions that are weighted by a mask at a time: no copy of a whole layer is made


def gram_sums(features: Tensor, core: Core = ALL) -> Tensor:
    """Sum over the positions of `core` of the outer product of the channels, (C, C), for features (1, C, H, W), in
    float32 or wider.

    The unnormalised Gram matrix of Gatys et al. 2016, eq. 3. Sums of disjoint pieces of a picture add up to the sums
    of the whole; divide by the number of positions for the mean that the style loss compares.
    """
    return gram_part(moment_sums(features, core))


def moment_sums(features: Tensor, core: Core = ALL) -> Tensor:
    """Sum over the positions of `core` of the outer product of (channels, 1), (C + 1, C + 1): the sum of outer products
    of `gram_sums`, the sum of features as last row and last column, the number of positions in the corner.

    First and second moments in one matrix: whatever is additive in Gram sums (pieces, means, targets) is so in these.
    """
    sums: Tensor = _MomentSums.apply(features, core)  # type: ignore[no-untyped-call]
    return sums


def masked_moment_sums(features: Tensor, masks: Tensor, core: Core = ALL) -> Tensor:
    """As `moment_sums`, each position weighted by a mask, for masks (K, H, W) of at least 0 -> (K, C + 1, C + 1).

    The outer sums of (sqrt(m) channels, sqrt(m)): the mask's mass stands in the corner, in place of the number of
    positions. Those of a mask of ones are `moment_sums`, up to rounding.
    """
    sums: Tensor = _MaskedMomentSums.apply(features, masks, core)  # type: ignore[no-untyped-call]
    return sums


def gram_part(moments: Tensor) -> Tensor:
    """The Gram matrix (..., C, C) in moments (..., C + 1, C + 1)."""
    return moments[..., :-1, :-1]


def mean_part(moments: Tensor) -> Tensor:
    """The features' mean (C,) in mean moments (C + 1, C + 1)."""
    return moments[:-1, -1]


def covariance(moments: Tensor) -> Tensor:
    """The features' covariance (C, C), of mean moments (C + 1, C + 1)."""
    mean = mean_part(moments)
    return gram_part(moments) - torch.outer(mean, mean)


class _MomentSums(torch.autograd.Function):
    """X^T X for X (positions, C + 1) with ones in its last column, and its gradient X (D + D^T) in one product;
    autograd's own takes two and adds them, which on a large layer costs as much as a convolution. Positions are cut
    out here, as in `_Cut`, so that no copy of them is kept; the ones are never written."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, core: Core) -> Tensor:
        ctx.save_for_backward(features)
        ctx.core = core
        rows = positions(features[(..., *core)])
        outer = outer_sums(rows)
        total = rows.sum(0, dtype=outer.dtype)[:, None]
        return torch.cat([torch.cat([outer, total], 1), torch.cat([total.T, total.new_full((1, 1), len(rows))], 1)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        part = features[(..., *ctx.core)]
        twice = (gradient + gradient.T).to(features.dtype)
        product = torch.addmm(twice[-1, :-1], positions(part), twice[:-1, :-1])
        height, width = part.shape[-2:]
        return pasted(product.view(1, height, width, features.shape[1]).permute(0, 3, 1, 2), features, ctx.core), None


class _MaskedMomentSums(torch.autograd.Function):
    """As `_MomentSums`: the gradient is m X (D + D^T), added up over the masks. The masks get none.

    Beside half precision the roots of the masks are rounded before anything is made of them, so that masses and moments
    are of one mask.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, masks: Tensor, core: Core) -> Tensor:
        ctx.save_for_backward(features, masks)
        ctx.core = core
        rows, roots = positions(features[(..., *core)]), roots_of(features, masks, core)
        return torch.stack([weighted_moments(rows, root) for root in roots])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        features, masks = ctx.saved_tensors
        part = features[(..., *ctx.core)]
        rows, roots = positions(part), roots_of(features, masks, ctx.core)
        twice = (gradient + gradient.transpose(1, 2)).to(features.dtype)
        product = torch.zeros_like(rows)
        for here, row, root in zip(
            torch.split(product, PIECE), torch.split(rows, PIECE), torch.split(roots, PIECE, 1), strict=True
        ):
            for by, weight in zip(twice, root.square(), strict=True):
                here.add_(torch.addmm(by[-1, :-1], row, by[:-1, :-1]).mul_(weight[:, None]))
        height, width = part.shape[-2:]
        whole = product.view(1, height, width, features.shape[1]).permute(0, 3, 1, 2)
        return pasted(whole, features, ctx.core), None, None


def roots_of(features: Tensor, masks: Tensor, core: Core) -> Tensor:
    """The square roots (K, positions) of masks (K, H, W) in `core`, in the precision of the features."""
    return masks[(..., *core)].sqrt().to(features.dtype).flatten(1)


def weighted_moments(rows: Tensor, roots: Tensor) -> Tensor:
    """Moment sums (C + 1, C + 1) of rows (positions, C) that are weighted by the squares of `roots` (positions)."""
    total = None
    for row, root in zip(torch.split(rows, PIECE), torch.split(roots, PIECE), strict=True):
        part, column = row * root[:, None], wide(root)[:, None]
        sums, mass = wide(part).T @ column, column.T @ column
        moments = torch.cat([torch.cat([outer_sums(part), sums], 1), torch.cat([sums.T, mass], 1)])
        total = moments if total is None else total + moments
    assert total is not None
    return total


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


def gram_loss(gram: Tensor, target: Tensor, norm: float) -> Tensor:
    """|G - target|^2 / norm: with norm = |G_style|^2, 0 is the style itself and 1 what a black picture misses.

    Gatys et al. 2016, eq. 4, with the constant replaced by one that travels between layers, pictures and networks.
    """
    return (gram - target).square().sum() / norm


def wasserstein_loss(moments: Tensor, target: Tensor, power: float) -> Tensor:
    """Squared 2-Wasserstein distance of two Gaussians with these mean moments (C + 1, C + 1), as a mean over channels.
    power: mean square of the style's features; over that, 0 is the style itself and 1 what a black picture misses.

    |m - m_s|^2 + tr(S) + tr(S_s) - 2 tr((L^T S L)^1/2) with S_s = L L^T (Olkin and Pukelsheim 1982, eq. 2; any factor
    will do), as in the style transfer of Crowson. Mean and covariance are told apart, which a Gram matrix mixes.
    """
    moments, target = moments.double(), target.double()  # small eigenvalues drown in float32
    spread = SPREAD * power
    floor = spread * torch.eye(len(target) - 1, dtype=target.dtype, device=target.device)
    ours, theirs = covariance(moments) + floor, covariance(target) + floor
    factor = factor_of(theirs, spread)
    means = (mean_part(moments) - mean_part(target)).square().sum()
    overlap: Tensor = _Overlap.apply(ours, factor, spread**2)  # type: ignore[no-untyped-call]
    return (means + ours.trace() + factor.square().sum() - 2 * overlap) / len(ours)


def factor_of(matrix: Tensor, least: float) -> Tensor:
    """L with L L^T the symmetric `matrix`, or what it is with no eigenvalue below `least`: the target of a tile of its
    own need not be a covariance. NaN of a matrix that is not finite."""
    if not is_finite(matrix):
        return torch.full_like(matrix, torch.nan)
    factor: Tensor
    factor, fault = torch.linalg.cholesky_ex(matrix)
    if fault:
        values, vectors = torch.linalg.eigh(matrix)
        factor = vectors * values.clamp_min(least).sqrt()
    return factor


def is_finite(matrix: Tensor) -> bool:
    """Whether all of it is: no sum of numbers makes up for one that is not, and it is found much faster."""
    return math.isfinite(float(matrix.sum()))


class _Overlap(torch.autograd.Function):
    """tr(M^1/2) with M = L^T S L, for a symmetric S (C, C) without negative eigenvalues and L = `factor`.

    The slope by S is L M^-1/2 L^T / 2, which needs no derivative of eigenvectors and so does not mind equal
    eigenvalues. Those below `least` count as `least`, in value and slope alike. Where M is not finite both are NaN, for
    the optimiser to step back.
    """

    @staticmethod
    def forward(ctx: Any, covariance: Tensor, factor: Tensor, least: float) -> Tensor:
        matrix = factor.T @ covariance @ factor
        if not is_finite(matrix):
            matrix = torch.full_like(matrix, torch.nan)
            ctx.save_for_backward(matrix, matrix, matrix[0])
            return matrix[0, 0].clone()
        values, vectors = torch.linalg.eigh(matrix)
        roots = values.clamp_min(least).sqrt()
        ctx.save_for_backward(factor, vectors, roots)
        total: Tensor = roots.sum()
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        factor, vectors, roots = ctx.saved_tensors
        turned = factor @ vectors
        return gradient * ((turned / (2 * roots)) @ turned.T), None, None


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


def excess_sums(image: Tensor, core: Rect) -> Tensor:
    """Sum over the pixels of `core` and over channels of the squared distances of `image` (1, 3, H, W) from [0, 1].
    Sums of disjoint cores add up to that of the whole."""
    part = image[..., core.top : core.bottom, core.left : core.right]
    return (part - part.clamp(0, 1)).square().sum()


def wide(features: Tensor) -> Tensor:
    """In float32, or in float64 if they are."""
    return features if features.dtype == torch.float64 else features.float()
