"""Masks: where each of several styles is to be. Arrays (H, W) in [0, 1], of any size, of the content's shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parallel_nst.errors import BadInput
from parallel_nst.files.images import Picture
from parallel_nst.painting.color import LUMA

TOLERANCE = 0.01  # of the ratio of width and height


def mask_of(picture: Picture) -> NDArray[np.float32]:
    """A picture's lightness as a mask: white is wholly in, black wholly out."""
    mask: NDArray[np.float32] = (picture.pixels @ LUMA).clip(0, 1)
    return mask


def check_mask(name: str, mask: NDArray[np.float32], content: tuple[int, int]) -> None:
    """BadInput, in one line, for a mask of another shape than the content of `content` = (width, height) px, for one
    that is black all over and for what is no mask."""
    if mask.ndim != 2 or not (mask.min() >= 0 and mask.max() <= 1):
        raise BadInput(f"{name} has values outside 0 to 1 or is no plane; give rows of numbers from 0 to 1")
    height, width = mask.shape
    if not alike((width, height), content):
        raise BadInput(
            f"{name} has {width}x{height} px, and the content {content[0]}x{content[1]}; give a mask of the same ratio "
            "of width and height, of any size"
        )
    if not mask.any():
        raise BadInput(f"{name} is black all over, so that its style would be nowhere; paint white where it is to be")


def alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) have the same ratio: within TOLERANCE, or what rounding to whole px gives."""
    (width, height), ratio = one, other[0] / other[1]
    return (
        abs(width / height / ratio - 1) <= TOLERANCE
        or width == max(1, round(height * ratio))
        or height == max(1, round(width / ratio))
    )
