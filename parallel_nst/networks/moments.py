"""Mean and variance of activations over a whole picture, from its pieces: what instance normalisation needs.

Shape letters: N pictures, C channels, H and W positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
class Sums:
    """Number of positions, sum and sum of squares (N, C) in float64: sums of pieces add up to those of the picture."""

    count: int
    total: Tensor
    squares: Tensor

    @staticmethod
    def of(x: Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> Sums:
        """Of the given positions of activations (N, C, H, W)."""
        moments = moments_of(x[..., rows, columns])
        mean, count = moments.mean.double(), moments.count
        return Sums(count, mean * count, (moments.variance.double() + mean.square()) * count)

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def moments(self) -> Moments:
        mean = self.total / self.count
        return Moments(self.count, mean, (self.squares / self.count - mean.square()).clamp_min(0))


def moments_of(x: Tensor) -> Moments:
    """Of activations (N, C, H, W), in one piece; half precision is raised to float32. Differentiable.

    In two passes: on a processor these two means take a quarter of the time of `torch.var_mean`.
    """
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    mean = wide.mean((2, 3))
    return Moments(x.shape[2] * x.shape[3], mean, (wide - mean[..., None, None]).square().mean((2, 3)))


def rescaled(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """gain x + shift, each (N, C), in the precision of `x` (N, C, H, W)."""
    return torch.addcmul(shift.to(x.dtype)[..., None, None], x, gain.to(x.dtype)[..., None, None])


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
