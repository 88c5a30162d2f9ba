"""Masks: where each of several styles is to be. Arrays (H, W) in [0, 1], of any size, of the content's shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parallel_nst.errors import BadInput
from parallel_nst.files.images import Picture
from parallel_nst.files.size import Size
from parallel_nst.painting.color import LUMA

TOLERANCE = 0.01  # of the ratio of width and height


def mask_of(picture: Picture) -> NDArray[np.float32]:
    """A picture's lightness as a mask: white is wholly in, black wholly out."""
    mask: NDArray[np.float32] = (picture.pixels @ LUMA).clip(0, 1)
    return mask


def check_mask(name: str, mask: NDArray[np.float32], content: Size) -> None:
    """BadInput, in one line, for a mask of another shape than the content, for one that is black all over and for what
    is no mask."""
    if mask.ndim != 2 or not (mask.min() >= 0 and mask.max() <= 1):
        raise BadInput(f"{name} has values outside 0 to 1 or is no plane; give rows of numbers from 0 to 1")
    size = Size(*mask.shape)
    if not alike(size, content):
        raise BadInput(
            f"{name} has {size} px, and the content {content}; give a mask of the same ratio of width and height, of "
            "any size"
        )
    if not mask.any():
        raise BadInput(f"{name} is black all over, so that its style would be nowhere; paint white where it is to be")


def alike(one: Size, other: Size) -> bool:
    """Whether two sizes have the same ratio: within TOLERANCE, or what rounding to whole px gives."""
    ratio = other.width / other.height
    return (
        abs(one.width / one.height / ratio - 1) <= TOLERANCE
        or one.width == max(1, round(one.height * ratio))
        or one.height == max(1, round(one.width / ratio))
    )
