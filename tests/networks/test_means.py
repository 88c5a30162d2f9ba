"""Average pooling with a gradient of its own: PyTorch's, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from parallel_nst.networks.backbones.base import pooled
from parallel_nst.networks.backbones.means import MeanPool2d


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("size", [(6, 8), (7, 8), (6, 9), (7, 9), (2, 3), (3, 2)])
def test_value_and_gradient_are_those_of_pytorch(dtype: torch.dtype, ceil: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, *size).to(dtype).contiguous(memory_format=torch.channels_last)
    found, gradients = [], []
    for pool in (nn.AvgPool2d(2, ceil_mode=ceil), MeanPool2d(2, ceil_mode=ceil)):
        picture = x.clone(memory_format=torch.preserve_format).requires_grad_()
        found.append(pool(picture))
        direction = torch.linspace(-1, 2, found[0].numel()).view(found[0].shape).to(dtype)
        gradients += torch.autograd.grad(found[-1], picture, direction)
    assert torch.equal(*found)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("ceil", [False, True])
def test_its_gradient_has_a_gradient(ceil: bool) -> None:
    """Which distillation takes of losses on gradients."""
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    pool = MeanPool2d(2, ceil_mode=ceil)
    assert torch.autograd.gradcheck(pool, x)
    assert torch.autograd.gradgradcheck(lambda values: pool(values).pow(3), x)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_layout_of_the_gradient_is_that_of_the_picture(layout: torch.memory_format) -> None:
    x = torch.randn(1, 4, 6, 8).contiguous(memory_format=layout).requires_grad_()
    (gradient,) = torch.autograd.grad(MeanPool2d(2)(x).square().sum(), x)
    assert gradient.is_contiguous(memory_format=layout)


def test_other_windows_are_pooled_as_they_were() -> None:
    pool = pooled(nn.MaxPool2d(3, 2, 1), "avg")
    x = torch.rand(1, 2, 9, 9, dtype=torch.float64)
    assert isinstance(pool, MeanPool2d)
    assert torch.equal(pool(x), nn.AvgPool2d(3, 2, 1)(x))
