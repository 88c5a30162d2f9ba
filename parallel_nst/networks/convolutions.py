"""Convolutions of generators: each in the precision of its weights, and quick where there are few output channels.

Shape letters: N pictures, C channels, H and W positions, O output channels, K the side of a kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 4  # output channels: a processor's vectors hold 8 or 16, and with so few of them most places stay empty
STRIP = 1 << 20  # numbers in a strip of rows, in or out: raised to float32 they stay in the processor's cache


class Conv2d(nn.Conv2d):
    """A convolution in the precision of its weights, whatever that of its input.

    gives: precision of its output where it is another one than that of the weights.

    While no gradient is recorded a change of precision goes strip by strip, so that there is no second copy of the
    activations in the higher one.
    """

    gives: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, O, H', W') from (N, C, H, W)."""
        inside, outside = self.weight.dtype, self.gives or self.weight.dtype
        few = self.out_channels <= FEW and self.kernel_size[0] > 1 and self.groups == 1
        if x.is_cuda or torch.is_grad_enabled() or self.stride != (1, 1) or (x.dtype == inside == outside and not few):
            return super().forward(x.to(inside)).to(outside)
        return self._in_strips(x, outside, few)

    def _in_strips(self, x: Tensor, dtype: torch.dtype, few: bool) -> Tensor:
        """The same, for a stride of 1, a strip of output rows at a time."""
        count, channels, height, width = x.shape
        kernel, (above, beside) = self.kernel_size[0], map(int, self.padding)
        rows, columns = (n + 2 * by - kernel + 1 for n, by in ((height, above), (width, beside)))
        last = self.weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        shape = (count, self.out_channels, rows, columns)
        y = torch.empty(shape, dtype=dtype, device=x.device, memory_format=layout)
        weight = by_rows(self.weight) if few else self.weight
        step = max(32, STRIP // (count * max(channels, len(weight)) * width))
        for top in range(0, rows, step):
            strip = rows_of(x, top - above, min(rows, top + step) - above + kernel - 1).to(self.weight.dtype)
            part = F.conv2d(strip, weight, None if few else self.bias, padding=(0, beside), groups=self.groups)
            if few:
                part = diagonal_sums(part, kernel)
                part = part if self.bias is None else part + self.bias[:, None, None]
            y[:, :, top : top + step] = part
        return y


class SamePad2d(nn.Module):
    """Zeros for a convolution to give ceil(side / stride) outputs, TensorFlow's "same": how many come before the
    picture depends on its size.

    least_before, most_before: over all sizes.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.step = kernel, stride
        before = [self._total(length) // 2 for length in range(1, stride + 1)]
        self.least_before, self.most_before = min(before), max(before)

    def _total(self, length: int) -> int:
        """Zeros before and after a side together."""
        return max(0, self.kernel - (length % self.step or self.step))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H', W') from (N, C, H, W)."""
        height, width = (self._total(length) for length in x.shape[-2:])
        return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


def rows_of(x: Tensor, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` of (N, C, H, W), zeros where there are none."""
    height = x.shape[2]
    above, below = max(0, -start), max(0, stop - height)
    inside = x[:, :, max(0, start) : stop]
    return F.pad(inside, (0, 0, above, below)) if above or below else inside


def by_rows(weight: Tensor) -> Tensor:
    """Weights (O, C, K, K) as K O output channels (K O, C, 1, K), one for each row of the kernel: as many products, but
    K times the channels to fill a vector with."""
    outputs, inputs, kernel, across = weight.shape
    flat = weight.permute(2, 0, 1, 3).reshape(kernel * outputs, inputs, 1, across)
    return flat.contiguous(memory_format=torch.channels_last)


def diagonal_sums(x: Tensor, kernel: int) -> Tensor:
    """(N, O, H - K + 1, W) from what `by_rows` gives, (N, K O, H, W): channel o of output row h is the sum over k of
    channel k O + o of row h + k."""
    count, channels, height, width = x.shape
    outputs = channels // kernel
    batch, channel, row, column = x.stride()
    shape = (count, outputs, height - kernel + 1, width, kernel)
    return x.as_strided(shape, (batch, channel, row, column, row + outputs * channel), x.storage_offset()).sum(-1)
