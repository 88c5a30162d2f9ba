"""Mean and variance of activations over a whole picture, from its pieces: what instance normalisation needs.

Shape letters: N pictures, C channels, H and W positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

IN_CACHE = 1 << 18  # numbers in a block; half and twice as many take longer
ON_A_CARD = 1 << 26


@dataclass(frozen=True)
class Moments:
    """Mean and variance (N, C) over `count` positions; the variance is the mean squared deviation, not corrected."""

    count: int
    mean: Tensor
    variance: Tensor

    def unbiased(self) -> Tensor:
        """The variance with Bessel's correction (N, C)."""
        return self.variance * (self.count / max(1, self.count - 1))


@dataclass(frozen=True)
class MomentSums:
    """Number of positions, sum and sum of squares (N, C) in float64: sums of pieces add up to those of the picture."""

    count: int
    total: Tensor
    squares: Tensor

    @staticmethod
    def of(x: Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> MomentSums:
        """Of the given positions of activations (N, C, H, W)."""
        moments = moments_of(x[..., rows, columns])
        mean, count = moments.mean.double(), moments.count
        return MomentSums(count, mean * count, (moments.variance.double() + mean.square()) * count)

    def __add__(self, other: MomentSums) -> MomentSums:
        return MomentSums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def moments(self) -> Moments:
        mean = self.total / self.count
        return Moments(self.count, mean, (self.squares / self.count - mean.square()).clamp_min(0))


def moments_of(x: Tensor) -> Moments:
    """Of activations (N, C, H, W), in one piece; half precision is raised to float32. Differentiable.

    In two passes, block by block, and the blocks' moments put together (Chan, Golub and LeVeque 1979): a block is
    still in the processor's cache in the second pass, and there is no copy of all activations. This takes a tenth of
    the time of `torch.var_mean`.
    """
    count, parts, space = x.shape[2] * x.shape[3], blocks(x), scratch(x)
    means, variances = (torch.stack(values) for values in zip(*(centred(part, space) for part in parts), strict=True))
    shares = means.new_tensor([part.shape[2] * part.shape[3] / count for part in parts])[:, None, None]
    mean = (shares * means).sum(0)
    return Moments(count, mean, (shares * (variances + (means - mean).square())).sum(0))


def centred(x: Tensor, space: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and mean squared deviation (N, C) of a block."""
    wide = raised(x, space)
    mean = wide.mean((2, 3))
    if space is None:
        return mean, (wide - mean[..., None, None]).square().mean((2, 3))
    off = torch.sub(wide, mean[..., None, None], out=space[:, :, : x.shape[2]])
    return mean, off.square_().mean((2, 3))


def raised(x: Tensor, space: Tensor | None) -> Tensor:
    """In float32, if it was in half precision: in the scratch space, if there is one."""
    if x.dtype in (torch.float32, torch.float64):
        return x
    return x.float() if space is None else space[:, :, : x.shape[2]].copy_(x)


def blocks(x: Tensor) -> Sequence[Tensor]:
    """Activations (N, C, H, W) in views of some rows each. Large ones for a graphics card, which works off its numbers
    side by side."""
    size = ON_A_CARD if x.is_cuda else IN_CACHE
    return torch.split(x, max(1, size // max(1, x.shape[0] * x.shape[1] * x.shape[3])), 2)


def scratch(x: Tensor) -> Tensor | None:
    """Room for a block of `x` in full precision, to be used for one after the other: fresh memory for each would cost
    more time than the arithmetic. None while a gradient is recorded, which may need what is written there."""
    if torch.is_grad_enabled():
        return None
    like = blocks(x)[0]
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    return torch.empty(like.shape, dtype=dtype, device=x.device, memory_format=layout)


def rescaled(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """gain x + shift, each (N, C), in the precision of `x` (N, C, H, W).

    While no gradient is recorded the result takes the place of `x`, which is not needed any more: one copy of the
    activations less, and less time. Half precision is then rounded once, at the end.
    """
    gain, shift, space = gain[..., None, None], shift[..., None, None], scratch(x)
    if space is None:
        return torch.addcmul(shift.to(x.dtype), x, gain.to(x.dtype))
    for block in blocks(x):
        wide = raised(block, space)
        torch.addcmul(shift.to(wide.dtype), wide, gain.to(wide.dtype), out=wide)
        if wide is not block:
            block.copy_(wide)
    return x


class Norm(nn.Module):
    """Instance normalisation (Ulyanov et al. 2016, arXiv 1607.08022) by moments that are handed in, under the key
    names of `nn.InstanceNorm2d`."""

    def __init__(self, channels: int, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor, moments: Moments) -> Tensor:
        """Normalised activations (N, C, H, W)."""
        gain = (moments.variance + self.eps).rsqrt()
        if self.weight is None or self.bias is None:
            return rescaled(x, gain, -moments.mean * gain)
        gain = gain * self.weight
        return rescaled(x, gain, self.bias - moments.mean * gain)


def worst_gap(moments: list[Moments], others: list[Moments]) -> float:
    """How far two lists of statistics are apart: over all layers, the greatest root mean square over channels of the
    difference of means in standard deviations, or of the logarithm of the ratio of standard deviations."""
    gaps = [0.0]
    for one, other in zip(moments, others, strict=True):
        variance, theirs = (m.variance.double() + 1e-5 for m in (one, other))
        shift = (one.mean - other.mean).double() / variance.sqrt()
        gaps += [float(shift.square().mean().sqrt()), float((variance / theirs).log().div(2).square().mean().sqrt())]
    return max(gaps)
