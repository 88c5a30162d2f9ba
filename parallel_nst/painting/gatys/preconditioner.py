"""Broad forms found as fast as fine detail: a filter that the gradient and the moves of an image go through.

The gradient of style losses is strong in fine detail and weak in broad forms, so that many steps pass before a sky has
its colours. With image = T z, where T lets broad forms through more strongly than detail, the same optimiser works on
z: it is given T' times the gradient, and the image moves by T times what z moves (Nocedal and Wright, Numerical
Optimization, section 5.1, where T is the inverse of C). The optimum stays where it is; the way there is shorter.

T is a weighted sum of the image and of blurs of it, each twice as broad as the one before and computed on a picture
half as large (Burt and Adelson, The Laplacian pyramid as a compact image code, 1983). Halving is the adjoint of
doubling, but for a factor; so T is its own adjoint, and positive definite. It is local: a pixel of T z depends on
those of z within REACH px, so a picture in pieces is filtered as in one, where each is seen with
as much around it, from a place on the GRID on.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

# A symmetric filter of image-shaped tensors. It may take the memory of its argument for the result.
Filter = Callable[[Tensor], Tensor]

SHARP = 0.5  # weight of the image itself
BLURS = (0.15, 0.2, 0.3)  # and of its blurs, on pictures a half, a quarter, ... as long
GRID = 2 ** len(BLURS)  # px: the broadest blur is computed on a picture so many times as short
REACH = 3 * (GRID - 1)  # px
TAPS = (0.125, 0.375, 0.375, 0.125)  # of a halving; the adjoint of linear interpolation, over 2


def unchanged(values: Tensor) -> Tensor:
    """The filter that does nothing."""
    return values


def broadened(values: Tensor) -> Tensor:
    """T of an image (1, 3, H, W) of any size, in its memory; half as much again is taken on the way. Its strength is
    such that white noise keeps its root mean square.

    At the upper and left edge of a picture, and where a length is even, the blurs see the outermost pixel repeated; at
    the others beside a row of zeros.
    """
    for channel in values.view(-1, 1, 1, *values.shape[-2:]):
        broaden(channel)
    return values


def broaden(values: Tensor) -> None:
    """T of (1, 1, H, W), in place."""
    blurs = blurred(values, BLURS)
    values.mul_(SHARP * STRENGTH).add_(blurs, alpha=STRENGTH)


def blurred(values: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Weighted sum of the blurs of (1, 1, H, W), the narrowest first."""
    small = halved(values) if values.device.type == "cpu" else halved_by_convolution(values)
    broad = blurred(small, weights[1:]).add_(small, alpha=weights[0]) if weights[1:] else small.mul_(weights[0])
    return doubled(broad, values.shape[-2:])


def halved(values: Tensor) -> Tensor:
    """(1, 1, H, W) -> (1, 1, ceil(H / 2), ceil(W / 2)): the adjoint of `doubled`, divided by 4. On a processor: OpenCV
    smooths all of it in a tenth of the time that PyTorch takes for what is kept."""
    height, width = values.shape[-2:]
    even = pad(values, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else values
    taps = np.array(TAPS)
    smooth = cv2.sepFilter2D(even[0, 0].numpy(), -1, taps, taps, anchor=(1, 1), borderType=cv2.BORDER_REPLICATE)
    return torch.from_numpy(np.ascontiguousarray(smooth[::2, ::2]))[None, None]


def halved_by_convolution(values: Tensor) -> Tensor:
    """The same, on any device."""
    taps = torch.tensor(TAPS, dtype=values.dtype).to(values.device)
    rows = conv2d(bordered(values), taps.view(1, 1, 1, 4), stride=(1, 2))
    return conv2d(bordered(rows.mT).mT, taps.view(1, 1, 4, 1), stride=(2, 1))


def bordered(values: Tensor) -> Tensor:
    """(1, 1, H, W) with what the blurs see to the left and to the right of it: an even number of columns."""
    if values.shape[-1] % 2:
        return pad(pad(values, (1, 0, 0, 0), mode="replicate"), (0, 2))
    return pad(values, (1, 1, 0, 0), mode="replicate")


def doubled(values: Tensor, size: torch.Size) -> Tensor:
    """(1, 1, h, w) -> (1, 1, H, W) with h = ceil(H / 2) and w = ceil(W / 2), by linear interpolation."""
    return interpolate(values, scale_factor=2, mode="bilinear")[..., : size[0], : size[1]]


def strength() -> float:
    """What T is multiplied by so that white noise keeps its root mean square, far from any edge."""
    point = torch.zeros(1, 1, 4 * GRID, 4 * GRID, dtype=torch.float64)
    point[..., 2 * GRID, 2 * GRID] = 1
    return 1 / float((blurred(point, BLURS) + SHARP * point).norm())


STRENGTH = strength()
